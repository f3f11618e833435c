"""Labels of pixels from a few enlarged maps at a time are those from all maps at once."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from radio.tasks import pixels
from radio.tasks.pixels import best_labels, enlarge
from radio.tasks.probing.fitting import segmentation_loss


@pytest.fixture(params=[1, 3, 100])
def few(request, monkeypatch):
    """So many maps of 20 x 31 pixels at once, of seven."""
    monkeypatch.setattr(pixels, "_NUMBERS_AT_ONCE", request.param * 20 * 31)


def test_the_best_label_and_its_share(few):
    maps = torch.randn(7, 5, 8, generator=torch.Generator().manual_seed(0))
    label, share = best_labels(maps, 20, 31, scale=3.0)
    full = enlarge(maps[None], 20, 31)[0]
    assert torch.equal(label, full.argmax(dim=0))
    assert_close(share, (3 * full).softmax(dim=0).amax(dim=0))
    assert best_labels(maps, 20, 31)[1] is None
    assert (best_labels(torch.zeros(7, 5, 8), 20, 31)[0] == 0).all(), "of equal ones, the first"


def test_the_loss_of_a_few_images_at_a_time_has_the_same_gradients(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, 3, 5, generator=generator)
    labels = torch.randint(0, 4, (5, 12, 20), generator=generator)
    labels[0, :3], labels[3] = 255, 255
    found = []
    for images in (9, 2, 0.1):
        monkeypatch.setattr(pixels, "_NUMBERS_AT_ONCE", int(images * 4 * 12 * 20))
        leaf = logits.clone().requires_grad_()
        loss = segmentation_loss(leaf, labels)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    assert_close(found[0], found[1])
    assert_close(found[0], found[2])
