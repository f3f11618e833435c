"""Crops of large images: maps are the means of what each crop gives, and probes use them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from radio import ImageError
from radio.data.dense import DepthFolder, MaskFolder
from radio.images import load_image
from radio.tasks.pixels import enlarge
from radio.tasks.probing import FitOptions, SlidingWindows, train_probe

QUICK = FitOptions(steps=40, batch_size=4, learning_rate=5e-3)


@pytest.fixture(scope="module")
def probe(tiny, boxes, features):
    data = MaskFolder(boxes / "images", boxes / "masks", ["ground", "box"])
    return train_probe("segmentation", tiny, data, features, size=64, fit=QUICK)


@pytest.fixture(scope="module")
def large(boxes, tmp_path_factory):
    """Four of the images (64 x 96) side by side and below each other: 128 x 192, and 120 x 190 of another one."""
    root = tmp_path_factory.mktemp("large")
    for kind, suffix in (("images", ".jpg"), ("masks", ".png"), ("depths", ".png")):
        (root / kind).mkdir()
        for name, first in (("0", 0), ("1", 4)):
            part = [np.array(Image.open(boxes / kind / f"{first + i}{suffix}")) for i in range(4)]
            whole = np.concatenate([np.concatenate(part[:2], axis=1), np.concatenate(part[2:], axis=1)])
            whole = whole if name == "0" else np.ascontiguousarray(whole[:120, :190])
            Image.fromarray(whole).save(root / kind / f"{name}.png")
    return root


def test_maps_are_the_means_of_crops(probe, tiny, large):
    pixels = load_image(large / "images" / "0.png")
    found = probe.predict(pixels, SlidingWindows(64, 48, "128x192"))
    total, count = torch.zeros(2, 8, 12), torch.zeros(8, 12)
    corners = [(top, left) for top in (0, 48, 64) for left in (0, 48, 96, 128)]
    for top, left in corners:
        crop = pixels[:, top : top + 64, left : left + 64]
        encoding = tiny.encode(crop, feature_fmt="NCHW")
        with torch.no_grad():
            maps = probe.head(encoding.features.float())[0]
        rows, columns = slice(top // 16, top // 16 + 4), slice(left // 16, left // 16 + 4)
        total[:, rows, columns] += maps
        count[rows, columns] += 1
    logits = enlarge((total / count)[None], 128, 192)[0]
    assert_close(found.probability, logits.softmax(dim=0), rtol=1e-4, atol=1e-4)
    assert (found.label == logits.argmax(dim=0)).float().mean() > 0.999


def test_a_window_as_large_as_the_image_is_the_whole_image(probe, boxes):
    image = boxes / "images" / "0.jpg"  # 64 x 96
    whole = probe.predict(image)
    assert_close(probe.predict(image, SlidingWindows(128, size=64)).probability, whole.probability)
    small = load_image(image)[:, :20, :30]
    assert probe.predict(small, SlidingWindows(64)).label.shape == (20, 30)


def test_probes_are_measured_in_windows(probe, tiny, large, features, tmp_path):
    data = MaskFolder(large / "images", large / "masks", ["ground", "box"])
    found = probe.evaluate(data, tmp_path / "nothing", windows=SlidingWindows(64))
    assert found["images"] == 2 and found["miou"] > 0.8
    assert not (tmp_path / "nothing").exists(), "features of crops are not kept"
    labels = [probe.labels(path, SlidingWindows(64)) for path in data.paths]
    truth = [data.target(i) for i in range(2)]
    right = sum(int(((a == b) & (b != 255)).sum()) for a, b in zip(labels, truth, strict=True))
    assert found["pixel_accuracy"] == pytest.approx(right / sum(int((b != 255).sum()) for b in truth))


def test_depths_in_windows(tiny, boxes, large, features):
    data = DepthFolder(boxes / "images", boxes / "depths")
    fit = FitOptions(steps=60, batch_size=4, learning_rate=5e-3)
    probe = train_probe("depth", tiny, data, features, size=64, fit=fit, width=16, bins=32)
    image = boxes / "images" / "0.jpg"
    assert_close(probe.predict(image, SlidingWindows(128, size=64)), probe.predict(image))
    whole = DepthFolder(large / "images", large / "depths")
    found = probe.evaluate(whole, features, windows=SlidingWindows(64))
    depths = [probe.predict(path, SlidingWindows(64)) for path in whole.paths]
    assert [tuple(depth.shape) for depth in depths] == [(128, 192), (120, 190)]
    known = [whole.target(i) > 0 for i in range(2)]
    error = torch.cat([(depths[i] - whole.target(i))[known[i]] for i in range(2)])
    assert found["images"] == 2 and found["rmse"] == pytest.approx(
        float(error.square().mean().sqrt()), rel=1e-4
    )
    boxed = whole.target(0) == 1
    assert depths[0][boxed].mean() < depths[0][~boxed].mean(), "depths lie where they belong"


def test_wrong_windows_and_unreadable_images(probe, large, features, tmp_path):
    image = large / "images" / "0.png"
    with pytest.raises(ValueError, match="window must be a multiple of 16"):
        probe.predict(image, SlidingWindows(50))
    with pytest.raises(
        ValueError, match="stride must be a multiple of 16 pixels, at most the window, got 80"
    ):
        probe.predict(image, SlidingWindows(64, 80))
    with pytest.raises(ValueError, match="so nothing is cropped"):
        SlidingWindows(64, size="crop:64x64")
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.png").write_bytes((large / kind / "0.png").read_bytes())
        (tmp_path / kind / "b.png").write_bytes((large / kind / "1.png").read_bytes())
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    data = MaskFolder(tmp_path / "images", tmp_path / "masks", ["ground", "box"])
    with pytest.raises(ImageError, match=r"a\.png"):
        probe.evaluate(data, features, windows=SlidingWindows(64))
    with pytest.warns(UserWarning, match="left out 1 image"):
        found = probe.evaluate(data, features, skip_unreadable=True, windows=SlidingWindows(64))
    assert found["images"] == 1
    (tmp_path / "images" / "b.png").write_bytes((large / "images" / "0.png").read_bytes())
    with pytest.raises(ImageError, match="its labels or depths are for 120 x 190"):
        probe.evaluate(data, features, skip_unreadable=True, windows=SlidingWindows(64))
