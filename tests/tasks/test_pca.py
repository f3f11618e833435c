"""PCA to colors: known directions, order and cut of the data, outliers, files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from radio import load_model
from radio.tasks.pca import PCAAccumulator, PCAFit, outlier_patches


def _fit(*maps, **options):
    accumulator = PCAAccumulator(**options)
    for features in maps:
        accumulator.add(features)
    return accumulator.fit()


@pytest.fixture
def features():
    """Feature maps of three sizes around (5, 5, …) that vary by 9, 4, 1 along known directions, and 0.01 elsewhere."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    scales = torch.tensor([9.0, 4.0, 1.0] + [0.01] * 9)
    maps = [
        5 + torch.einsum("ck,khw->chw", directions * scales, torch.randn(12, h, w, generator=generator))
        for h, w in ((30, 40), (20, 20), (50, 10))
    ]
    return directions.T[:3], maps


def test_finds_the_directions_that_the_data_were_made_of(features):
    directions, maps = features
    fit = _fit(*maps)
    cosines = (fit.components * directions).sum(dim=1).abs()
    assert (cosines > 0.999).all()
    torch.testing.assert_close(fit.components @ fit.components.T, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(fit.explained, torch.tensor([81, 16, 1]) / 98, atol=0.02, rtol=0)


def test_equals_the_eigenvectors_of_the_covariance_of_everything(features):
    _, maps = features
    everything = torch.cat([m.flatten(1) for m in maps], dim=1).double()
    values, vectors = torch.linalg.eigh(torch.cov(everything, correction=0))
    fit = _fit(*maps, exclude_outliers=False)
    torch.testing.assert_close(fit.mean, everything.mean(dim=1).float())
    torch.testing.assert_close(fit.components.abs(), vectors.flip(1).T[:3].abs().float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(fit.explained, (values.flip(0)[:3] / values.sum()).float())


def test_order_and_cuts_do_not_matter_and_signs_are_fixed(features):
    _, maps = features
    one, other = _fit(*maps), _fit(*maps[::-1])
    torch.testing.assert_close(one.components, other.components, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.low, other.low, atol=1e-4, rtol=0)
    batch = torch.stack([maps[0], maps[0] + 1])
    together, apart = _fit(batch), _fit(*batch)
    torch.testing.assert_close(together.components, apart.components)
    for fit in (one, other, _fit(*(-m for m in maps))):
        largest = fit.components.abs().argmax(dim=1)
        assert (fit.components.gather(1, largest[:, None]) > 0).all()


def test_mean_far_from_zero_costs_no_precision():
    generator = torch.Generator().manual_seed(1)
    small = (
        torch.randn(6, 20, 20, generator=generator) * torch.tensor([3, 2, 1, 0.1, 0.1, 0.1])[:, None, None]
    )
    torch.testing.assert_close(_fit(small + 1000).components, _fit(small).components, atol=1e-3, rtol=0)


def test_colors_fill_the_range_and_clamp(features):
    _, maps = features
    fit = _fit(*maps)
    rgb = torch.cat([fit.to_rgb(m).flatten(1) for m in maps], dim=1)
    assert rgb.min() == 0 and rgb.max() == 1
    clamped = ((rgb == 0) | (rgb == 1)).float().mean(dim=1)
    torch.testing.assert_close(clamped, torch.full((3,), 0.02), atol=0.005, rtol=0)
    assert fit.to_rgb(maps[0][None]).shape == (1, 3, 30, 40)
    assert fit.to_rgb(maps[0].bfloat16()).dtype == torch.float32


def test_the_same_feature_has_the_same_color_at_every_size(features):
    _, maps = features
    fit = _fit(*maps)
    large = maps[0].repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(fit.to_rgb(large)[:, ::2, ::2], fit.to_rgb(maps[0]), atol=1e-5, rtol=0)


def test_outliers_are_found_and_left_out(features):
    maps = [m + 25 for m in features[1]]
    spoiled = [m.clone() for m in maps]
    spoiled[0][:, 3, 4] = torch.tensor([900.0] + [0.0] * 11)
    spoiled[2][:, 49, 9] = torch.tensor([0.0] * 11 + [950.0])
    found = outlier_patches(spoiled[0])
    assert found.shape == (30, 40) and found.sum() == 1 and found[3, 4]
    accumulator = PCAAccumulator()
    for m in spoiled:
        accumulator.add(m)
    assert accumulator.outliers == 2 and accumulator.count == 30 * 40 + 20 * 20 + 50 * 10 - 2
    torch.testing.assert_close(accumulator.fit().components, _fit(*maps).components, atol=0.01, rtol=0)
    assert not torch.allclose(
        _fit(*spoiled, exclude_outliers=False).components, _fit(*maps).components, atol=0.1
    )


def test_ordinary_features_have_no_outliers():
    features = torch.randn(2, 64, 40, 40, generator=torch.Generator().manual_seed(2))
    assert not outlier_patches(features).any()
    assert not outlier_patches(torch.ones(8, 4, 4)).any()


def test_low_norms_are_no_outliers():
    features = torch.full((8, 10, 10), 5.0) + torch.randn(
        8, 10, 10, generator=torch.Generator().manual_seed(3)
    )
    features[:, 0, 0] = 0
    assert not outlier_patches(features).any()


def test_memory_is_bounded():
    accumulator = PCAAccumulator()
    for seed in range(3):
        accumulator.add(torch.randn(4, 80, 80, generator=torch.Generator().manual_seed(seed)))
    assert accumulator.count == 3 * 6400 and len(accumulator._sample) == 8192


def test_a_saved_fit_gives_the_same_colors(features, tmp_path):
    _, maps = features
    accumulator = PCAAccumulator()
    accumulator.add(maps[0])
    fit = accumulator.fit(source={"model": "radio_v2.5-l", "adaptor": "sam"})
    fit.save(tmp_path / "fit.safetensors")
    loaded = PCAFit.load(tmp_path / "fit.safetensors")
    assert torch.equal(loaded.to_rgb(maps[1]), fit.to_rgb(maps[1]))
    assert loaded.source == {"model": "radio_v2.5-l", "adaptor": "sam"}
    with pytest.raises(ValueError, match=r"12 channels, model radio_v2.5-l, adaptor sam.*\(8, 4, 4\)"):
        loaded.to_rgb(torch.zeros(8, 4, 4))


def test_other_files_are_no_fits(tmp_path):
    save_file({"mean": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a saved PCA fit"):
        PCAFit.load(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(ValueError, match="not a saved PCA fit"):
        PCAFit.load(tmp_path / "text.safetensors")
    names = {"mean": 5, "low": 3, "high": 3, "explained": 2}
    tensors = {name: torch.zeros(size) for name, size in names.items()} | {"components": torch.zeros(3, 5)}
    save_file(tensors, tmp_path / "bad.safetensors", metadata={"kind": "radio pca", "source": "{}"})
    with pytest.raises(ValueError, match="explained must hold finite numbers of shape"):
        PCAFit.load(tmp_path / "bad.safetensors")
    with pytest.raises(OSError):
        PCAFit.load(tmp_path / "missing.safetensors")


def test_what_cannot_be_fitted_is_refused():
    accumulator = PCAAccumulator()
    with pytest.raises(ValueError, match="at least 4 patches"):
        accumulator.fit()
    accumulator.add(torch.randn(6, 4, 4))
    with pytest.raises(ValueError, match="6 channels as before, got 7"):
        accumulator.add(torch.randn(7, 4, 4))
    with pytest.raises(ValueError, match="not finite"):
        accumulator.add(torch.full((6, 4, 4), float("nan")))
    with pytest.raises(ValueError, match=r"\(C, h, w\)"):
        accumulator.add(torch.randn(6, 4))
    with pytest.raises(ValueError, match="percentiles"):
        accumulator.fit(percentiles=(99, 1))


def test_constant_features_have_a_color():
    rgb = _fit(torch.ones(5, 4, 4)).to_rgb(torch.ones(5, 4, 4))
    assert rgb.isfinite().all()


def test_photographs_through_a_model(reference, photos):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    accumulator = PCAAccumulator()
    for size in ("long:128", "long:192"):
        for encoding in model.encode(photos, size=size, feature_fmt="NCHW"):
            accumulator.add(encoding.features)
    fit = accumulator.fit()
    small, large = (model.encode(photos[0], size=size, feature_fmt="NCHW").features for size in (128, 192))
    assert fit.to_rgb(small).shape == (1, 3, 8, 8) and fit.to_rgb(large).shape == (1, 3, 12, 12)
    assert fit.to_rgb(large).std() > 0.1
