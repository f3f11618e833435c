"""PHI-S and its alternatives against their definitions, on features whose statistics are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from radio.training import PHIStandardization, RunningStatistics, Standardization

KINDS = ("phi-s", "none", "scalar", "channel", "pca", "zca")


def _features(count: int, channels: int, rank: int | None = None, seed: int = 0) -> Tensor:
    """Correlated features, far from zero, whose channels differ a thousandfold in scale."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(count, rank or channels, generator=generator, dtype=torch.float64)
    mix = torch.randn(rank or channels, channels, generator=generator, dtype=torch.float64)
    scales = torch.logspace(-1.5, 1.5, channels, dtype=torch.float64)
    return source @ mix * scales + 10 * torch.randn(channels, generator=generator, dtype=torch.float64)


def _fitted(features: Tensor, kind: str = "phi-s") -> Standardization:
    standardization = Standardization(kind)  # type: ignore[arg-type]
    standardization.update(features)
    return standardization.fit()


@pytest.mark.parametrize("channels", [384, 768, 1024, 1152, 1280, 1408, 1536])
def test_properties_at_all_published_orders(channels: int) -> None:
    y = _features(2 * channels, channels, rank=64)
    phi = PHIStandardization()
    phi.update(y[:1000])
    phi.update(y[1000:])
    phi.fit()
    z = phi.standardize(y)
    assert torch.allclose(z.mean(0), torch.zeros(channels, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(z.var(0, correction=0), torch.ones(channels, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(phi.restore(z), y, rtol=1e-9, atol=1e-9)
    assert torch.allclose(
        (z[:50] - z[50:100]).norm(dim=1) * phi.scale, (y[:50] - y[50:100]).norm(dim=1), rtol=1e-6
    )
    assert math.isclose(phi.scale, y.var(0, correction=0).mean().sqrt().item(), rel_tol=1e-9)


@pytest.mark.parametrize("channels", [1, 3, 6, 92, 101])
@pytest.mark.filterwarnings("ignore:no Hadamard matrix")
def test_other_numbers_of_channels_keep_every_property(channels: int) -> None:
    y = _features(500, channels)
    phi = _fitted(y)
    z = phi.standardize(y)
    assert torch.allclose(z.var(0, correction=0), torch.ones(channels, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(phi.restore(z), y, rtol=1e-9, atol=1e-9)
    assert torch.allclose(
        (z[:50] - z[50:100]).norm(dim=1) * phi.scale, (y[:50] - y[50:100]).norm(dim=1), rtol=1e-6
    )


def test_a_number_of_channels_without_a_hadamard_matrix_is_told() -> None:
    phi = PHIStandardization(6)
    phi.update(_features(100, 6))
    with pytest.warns(UserWarning, match="order 6 .* Hartley"):
        phi.fit()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_folding_leaves_outputs_in_the_teachers_space(kind: str, bias: bool) -> None:
    standardization = _fitted(_features(400, 48), kind)
    linear = nn.Linear(16, 48, bias=bias).double()
    x = torch.randn(5, 7, 16, dtype=torch.float64)
    folded = standardization.fold_into(linear)
    assert type(folded) is nn.Linear and folded.bias is not None
    assert torch.allclose(folded(x), standardization.restore(linear(x)), atol=1e-9)
    assert folded.weight.requires_grad and folded.weight is not linear.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folding_keeps_the_dtype(dtype: torch.dtype) -> None:
    phi = _fitted(_features(400, 48))
    linear = nn.Linear(16, 48).to(dtype)
    folded = phi.fold_into(linear)
    assert folded.weight.dtype == folded.bias.dtype == dtype
    x = torch.randn(9, 16)
    error = folded.float()(x) - phi.restore(linear.float()(x))
    assert error.norm() / phi.restore(linear(x)).norm() < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_restore_is_the_inverse(kind: str) -> None:
    y = _features(400, 20)
    standardization = _fitted(y, kind)
    assert torch.allclose(standardization.restore(standardization.standardize(y)), y, rtol=1e-7, atol=1e-7)


def test_what_each_alternative_makes_equal() -> None:
    y = _features(3000, 20)
    identity, ones = torch.eye(20, dtype=torch.float64), torch.ones(20, dtype=torch.float64)
    covariance = {kind: torch.cov(_fitted(y, kind).standardize(y).T, correction=0) for kind in KINDS}
    assert torch.allclose(covariance["none"], torch.cov(y.T, correction=0))
    assert math.isclose(covariance["scalar"].trace().item(), 20, rel_tol=1e-9)
    assert torch.allclose(covariance["channel"].diagonal(), ones)
    assert torch.allclose(covariance["pca"], identity, atol=1e-6)
    assert torch.allclose(covariance["zca"], identity, atol=1e-6)
    assert torch.equal(_fitted(y, "none").standardize(y), y)


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_low_rank(kind: str) -> None:
    """Fewer vectors, or fewer directions, than channels: nothing blows up, and the way back is exact on them."""
    y = _features(40, 64, rank=5)
    standardization = _fitted(y, kind)
    z = standardization.standardize(y)
    assert z.isfinite().all() and z.abs().max() < 1e3
    assert torch.allclose(standardization.restore(z), y, atol=1e-5)
    if kind == "phi-s":
        assert torch.allclose(z.var(0, correction=0), torch.ones(64, dtype=torch.float64), atol=1e-6)


def test_a_channel_that_never_varies() -> None:
    y = _features(100, 8)
    y[:, 3] = 7
    for kind in KINDS:
        standardization = _fitted(y, kind)
        z = standardization.standardize(y)
        assert z.isfinite().all()
        assert torch.allclose(standardization.restore(z), y, atol=1e-6)


def test_masked_positions_count_for_nothing() -> None:
    maps = _features(2 * 30, 12).reshape(2, 30, 12)
    mask = torch.rand(2, 30, generator=torch.Generator().manual_seed(1)) < 0.6
    spoilt = torch.where(mask[..., None], maps, torch.nan)
    phi = PHIStandardization(12)
    phi.update(spoilt[:1], mask[:1])
    phi.update(spoilt[1:], mask[1:])
    phi.update(spoilt, torch.zeros_like(mask))
    assert phi.statistics.count == int(mask.sum())
    assert torch.allclose(phi.statistics.mean, maps[mask].mean(0))
    assert torch.allclose(phi.statistics.covariance, torch.cov(maps[mask].T, correction=0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features(dtype: torch.dtype) -> None:
    """Sums of a hundred thousand half-precision values far from zero are exact, and results keep the dtype."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.randn(100_000, 8, generator=generator) + 30).to(dtype)
    phi = PHIStandardization()
    for part in y.split(1000):
        phi.update(part)
    phi.fit()
    assert torch.allclose(
        phi.statistics.covariance, torch.cov(y.double().T, correction=0), rtol=1e-9, atol=1e-9
    )
    z = phi.standardize(y)
    assert z.dtype == dtype and phi.restore(z).dtype == dtype
    assert torch.allclose(z.float().var(0), torch.ones(8), atol=2e-2)
    assert torch.allclose(phi.restore(z).float(), y.float(), rtol=1e-2)


def test_batches_in_any_order_give_the_statistics_of_the_whole() -> None:
    y = (
        _features(1000, 10) * 1e-3 + 1e6
    )  # where a sum of squares in float32, or even float64, loses everything
    whole, left, right = RunningStatistics(), RunningStatistics(), RunningStatistics(10)
    whole.update(y)
    for part in y[:700].split(13):
        left.update(part)
    right.update(y[700:].reshape(3, 100, 10))
    right.merge(left)
    assert right.count == 1000
    assert torch.allclose(right.mean, y.mean(0), rtol=1e-14)
    assert torch.allclose(right.covariance, whole.covariance, rtol=1e-6)
    assert torch.allclose(whole.covariance, torch.cov(y.T, correction=0), rtol=1e-6)


def test_fitting_again_after_more_updates() -> None:
    y = _features(300, 8)
    phi = PHIStandardization()
    phi.update(y[:100])
    phi.fit()
    phi.update(y[100:])
    z = phi.fit().standardize(y)
    assert torch.allclose(z.var(0, correction=0), torch.ones(8, dtype=torch.float64), atol=1e-6)


def test_gradients_pass_through() -> None:
    phi = _fitted(_features(100, 8))
    y = torch.randn(3, 8, requires_grad=True)
    phi.standardize(y).square().sum().backward()
    assert y.grad is not None
    expected = 2 * phi.standardize(y.detach()).double() @ phi._forward
    assert torch.allclose(y.grad.double(), expected, rtol=1e-4, atol=1e-6)


def test_its_state_is_saved_with_a_run() -> None:
    y = _features(100, 8)
    phi, copy = _fitted(y), PHIStandardization()
    copy.load_state_dict(phi.state_dict())
    assert torch.equal(copy.standardize(y), phi.standardize(y))
    assert copy.statistics.count == 100 and copy.scale == phi.scale


def test_wrong_use_is_told() -> None:
    phi = PHIStandardization(8)
    with pytest.raises(RuntimeError, match="update.*fit"):
        phi.standardize(torch.zeros(2, 8))
    with pytest.raises(ValueError, match="too few"):
        phi.fit()
    with pytest.raises(ValueError, match="8 channels, got 7"):
        phi.update(torch.zeros(2, 7))
    with pytest.raises(ValueError, match="mask must be \\(2,\\)"):
        phi.update(torch.zeros(2, 8), torch.ones(2, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="NaN"):
        phi.update(torch.full((2, 8), torch.nan))
    with pytest.raises(ValueError, match="floating-point"):
        phi.update(torch.zeros(2, 8, dtype=torch.long))
    phi.update(torch.ones(5, 8))
    with pytest.raises(ValueError, match="do not vary"):
        phi.fit()
    phi.update(torch.randn(50, 8))
    phi.fit()
    with pytest.raises(ValueError, match="8 channels, got 7"):
        phi.standardize(torch.zeros(2, 7))
    with pytest.raises(ValueError, match="8 channels, got 9"):
        phi.fold_into(nn.Linear(4, 9))
    with pytest.raises(ValueError, match="unknown standardization 'whiten'; allowed: phi-s"):
        Standardization("whiten")  # type: ignore[arg-type]
