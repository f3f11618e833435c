"""The foreground by the first component, whatever its sign."""

from __future__ import annotations

import pytest
import torch

from radio.tasks.foreground import foreground_mask, otsu_threshold
from radio.tasks.pca import PCAAccumulator


@pytest.mark.parametrize("sign", [1, -1])
def test_an_object_in_the_middle_is_the_foreground(sign):
    truth = torch.zeros(12, 12, dtype=torch.bool)
    truth[3:9, 4:10] = True
    direction = torch.nn.functional.normalize(
        torch.randn(8, generator=torch.Generator().manual_seed(0)), dim=0
    )
    noise = 0.2 * torch.randn(8, 12, 12, generator=torch.Generator().manual_seed(1))
    features = sign * direction[:, None, None] * (2.0 * truth - 1) + noise
    accumulator = PCAAccumulator()
    accumulator.add(features)
    fit = accumulator.fit()
    found = foreground_mask(fit, features)
    assert found.dtype == torch.bool and (found & truth).sum() / (found | truth).sum() > 0.85
    with pytest.raises(ValueError, match="one image"):
        foreground_mask(fit, features[None])


def test_the_threshold_parts_two_groups():
    values = torch.cat([torch.linspace(0, 1, 50), torch.linspace(9, 10, 20)])
    assert 1 <= otsu_threshold(values) <= 9
    assert otsu_threshold(torch.ones(3, 3)) == 1


def test_a_fit_of_some_patches_knows_nothing_of_the_others():
    features = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0))
    where = torch.zeros(8, 8, dtype=torch.bool)
    where[2:6, 2:6] = True
    one, other = PCAAccumulator(exclude_outliers=False), PCAAccumulator(exclude_outliers=False)
    one.add(features, where)
    other.add(features[:, 2:6, 2:6])
    torch.testing.assert_close(one.fit().components, other.fit().components)
    assert one.count == 16
    one.add(features, torch.zeros(8, 8, dtype=torch.bool))
    assert one.count == 16
    with pytest.raises(ValueError, match=r"the mask is \(3, 3\)"):
        one.add(features, torch.ones(3, 3, dtype=torch.bool))
