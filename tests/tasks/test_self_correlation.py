"""Refinement by self-correlation, where the right answer can be computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from radio.tasks import self_correlation
from radio.tasks.self_correlation import SelfCorrelation


def test_noise_goes_and_regions_stay():
    """Two regions of orthogonal features: every patch becomes the mean of its own region."""
    region = torch.tensor([[0, 0, 1, 1]] * 3)
    features = torch.stack([region == 0, region == 1]).float() * 7
    values = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    refined = SelfCorrelation(threshold=0.3).refine(values, features)
    for number in (0, 1):
        mean = values[:, region == number].mean(dim=1, keepdim=True)
        assert_close(refined[:, region == number], mean.expand(-1, 6))


def test_weights_are_a_softmax_over_what_is_alike(monkeypatch):
    monkeypatch.setattr(self_correlation, "_ROWS", 7)
    generator = torch.Generator().manual_seed(0)
    features, values = torch.randn(3, 4, 5, generator=generator), torch.randn(2, 4, 5, generator=generator)
    centered = features.flatten(1) - features.flatten(1).mean(dim=1, keepdim=True)
    unit = torch.nn.functional.normalize(centered, dim=0)
    similarity = unit.T @ unit
    weights = torch.where(similarity >= 0.2, (similarity / 0.5).exp(), 0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    once = (values.flatten(1) @ weights.T).view_as(values)
    assert_close(SelfCorrelation(0.2, 0.5).refine(values, features), once)
    twice = (once.flatten(1) @ weights.T).view_as(values)
    assert_close(SelfCorrelation(0.2, 0.5, rounds=2).refine(values, features), twice)


def test_what_all_patches_have_in_common_makes_them_no_more_alike():
    generator = torch.Generator().manual_seed(0)
    features, values = torch.randn(8, 6, 6, generator=generator), torch.randn(2, 6, 6, generator=generator)
    shifted = features + 100 * torch.randn(8, 1, 1, generator=generator)
    refine = SelfCorrelation().refine
    assert_close(refine(values, shifted), refine(values, features), rtol=1e-3, atol=1e-3)


def test_limits():
    generator = torch.Generator().manual_seed(0)
    features, values = torch.randn(8, 6, 6, generator=generator), torch.randn(2, 6, 6, generator=generator)
    assert_close(SelfCorrelation(threshold=1.0).refine(values, features), values, rtol=1e-4, atol=1e-4)
    mean = SelfCorrelation(-1.0, 1e6).refine(values, features)
    assert_close(mean, values.mean(dim=(1, 2), keepdim=True).expand_as(values), rtol=1e-4, atol=1e-4)
    assert SelfCorrelation().refine(values, torch.zeros(8, 6, 6)).isfinite().all()


@pytest.mark.parametrize("numbers", [(2.0, 0.1, 1), (0.5, 0.0, 1), (0.5, 0.1, 0)])
def test_numbers_that_make_no_sense(numbers):
    with pytest.raises(ValueError, match=r"a threshold in \[-1, 1\]"):
        SelfCorrelation(*numbers)
