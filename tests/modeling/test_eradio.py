"""E-RADIO: windows for each size, biases that follow the weights, and what it has no counterpart of."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter

from radio import load_model
from radio.modeling.eradio.attention import nearest
from radio.modeling.eradio.position_bias import PositionBias
from radio.modeling.eradio.windows import balanced_window, optimal_window
from radio.modeling.token_merging import InNetworkMerging, TokenMerging


@pytest.fixture(scope="module")
def path(reference: Path) -> Path:
    return reference / "eradio" / "checkpoint.pth.tar"


@pytest.fixture(scope="module")
def model(path: Path):
    return load_model(path, device="cpu")


def _image(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def _biases(model) -> list[PositionBias]:
    return [module for module in model.modules() if isinstance(module, PositionBias)]


def test_what_it_says_of_itself(model):
    assert (model.patch_size, model.min_resolution_step, model.preferred_resolution) == (16, 32, (512, 512))
    assert model.embed_dim == model.summary_dim == 48
    assert model.num_summary_tokens == model.num_cls_tokens == 0
    assert model.get_nearest_supported_resolution(240, 300) == (256, 288)
    assert list(model.split_summary(torch.zeros(2, 48))) == ["summary"]
    with pytest.raises(AttributeError):
        _ = model.blocks


def test_any_image_through_encode(model, photos):
    images = model.encode(photos[:2], size="long:160")
    for image in images:
        assert image.image_size[0] % 32 == image.image_size[1] % 32 == 0
        assert image.features.shape == (1, image.grid[0] * image.grid[1], 48)
        torch.testing.assert_close(image.summary, image.features.mean(dim=1))
    assert model.encode(photos[0], size=64, feature_fmt="NCHW").features.ndim == 4


def test_images_of_different_sizes_are_run_one_by_one(model):
    images = [_image(1, 64, 96)[0], _image(1, 96, 32)[0]]
    for image, output in zip(images, model(images), strict=True):
        assert torch.equal(output.features, model(image[None]).features)


def test_final_features_merge(model):
    merged = model(_image(2, 128, 128), merge=TokenMerging(keep=20))
    assert merged.features.shape == (2, 20, 48)


@pytest.mark.parametrize("size", [(240, 256), (256, 48), (0, 64), (16, 32)])
def test_other_sizes_are_refused(model, size):
    with pytest.raises(ValueError, match=f"multiples of 32, got {size[0]} x {size[1]}; the nearest"):
        model(torch.rand(1, 3, *size))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.forward_intermediates(x, 1), "no intermediate layers"),
        (lambda m, x: m(x, tome=InNetworkMerging(r=2)), "merge the final features with merge="),
        (lambda m, x: m(x, num_tokens=4), "RADIO1D"),
        (lambda m, x: m(x, feature_fmt="NHWC"), "unknown feature format 'NHWC'; allowed: NLC, NCHW"),
        (lambda m, x: m.cpe_video_mode(2), "no video mode"),
        (lambda m, x: m.set_drop_path(0.1), "no transformer blocks in a row"),
    ],
)
def test_what_it_does_not_have(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, _image(1, 64, 64))


def test_vitdet_windows_are_refused_whenever_they_are_asked_for(path):
    with pytest.raises(ValueError, match="vitdet_window_size is for ViTs, and 'eradio' is none"):
        load_model(path, vitdet_window_size=4)
    model = load_model(path, device="cpu")
    model.window_size = 4
    with pytest.raises(ValueError, match="eradio_window_size"):
        model(_image(1, 128, 128))


@pytest.mark.parametrize(
    ("window", "error", "message"),
    [
        (0, ValueError, "at least 1 position, or one of optimal, balanced, got 0"),
        (-3, ValueError, "got -3"),
        ("best", ValueError, "one of optimal, balanced, got 'best'"),
        (2.0, TypeError, "must be a whole number or the name of a rule, got 2.0"),
        (True, TypeError, "got True"),
    ],
)
def test_windows_that_make_no_sense(path, window, error, message):
    with pytest.raises(error, match=message):
        load_model(path, eradio_window_size=window)


def test_the_rules():
    sides = (224, 256, 320, 384, 512, 544, 608, 672, 736, 768, 800, 928, 992, 1024)
    assert [optimal_window(side, side) for side in sides] == [7, 8, 10, 12, 16, 1, 1, 7, 1, 12, 5, 1, 1, 16]
    assert [balanced_window(side, side) for side in sides] == [
        7,
        8,
        10,
        12,
        16,
        9,
        10,
        11,
        12,
        12,
        13,
        15,
        16,
        16,
    ]
    assert optimal_window(64, 2048) == 2
    for rows in range(7, 65):
        for columns in range(7, 65):
            side = balanced_window(32 * rows, 32 * columns)
            resized = -(-rows // side) * -(-columns // side) * side * side
            assert min(8, max(rows, columns)) <= side <= 16
            assert resized <= rows * columns * (1.13 if rows == columns else 1.58)


@pytest.mark.parametrize("rule", ["optimal", "balanced"])
def test_a_rule_chooses_for_each_size_and_leaves_nothing_behind(path, rule):
    """The same as loading the model with that side, in any order of calls."""
    by_rule = load_model(path, device="cpu", eradio_window_size=rule)
    choose = {"optimal": optimal_window, "balanced": balanced_window}[rule]
    with torch.inference_mode():
        for size in ((64, 64), (96, 160), (64, 64), (288, 320)):
            fixed = load_model(path, device="cpu", eradio_window_size=choose(*size))
            x = _image(1, *size)
            assert torch.equal(by_rule(x).features, fixed(x).features)


def test_biases_are_computed_once_per_side_in_float32(path):
    model = load_model(path, device="cpu", dtype="bfloat16", eradio_window_size="optimal")
    with torch.inference_mode():
        model(_image(1, 64, 64))
        first = [bias(2) for bias in _biases(model)]
        model(_image(1, 96, 96))
        model(_image(1, 64, 64))
        assert all(bias(2) is kept for bias, kept in zip(_biases(model), first, strict=True))
    assert all(kept.dtype == torch.float32 for kept in first)
    exact = load_model(path, device="cpu")
    for bias, kept in zip(_biases(exact), first, strict=True):
        assert (bias(2) - kept).abs().max() < 0.2


def test_biases_follow_their_weights(path):
    """Whatever changes the weights: an optimizer's step, a loaded state, another dtype."""
    x = _image(1, 64, 64)
    model = load_model(path, device="cpu")

    def fresh(state: dict) -> torch.Tensor:
        other = load_model(path, device="cpu", dtype=model.dtype)
        other.load_state_dict(state)
        with torch.no_grad():
            return other(x).features

    with torch.no_grad():
        model(x)
        for weight in (parameter for bias in _biases(model) for parameter in bias.parameters()):
            weight.add_(0.5)
        assert torch.equal(model(x).features, fresh(model.state_dict()))
        state = {name: value + 0.1 for name, value in model.state_dict().items()}
        model.load_state_dict(state)
        assert torch.equal(model(x).features, fresh(state))
        model.bfloat16().float()
        assert torch.equal(model(x).features, fresh(model.state_dict()))
        twin = copy.deepcopy(model)
        for weight in (parameter for bias in _biases(twin) for parameter in bias.parameters()):
            weight.zero_()
        assert torch.equal(twin(x).features, fresh(twin.state_dict()))


def test_stale_caches_in_the_file_change_nothing(path, model, tmp_path):
    content = torch.load(path, weights_only=False)
    for name, value in content["state_dict"].items():
        if name.endswith(("relative_bias", "relative_coords_table", "num_batches_tracked")):
            value.fill_(7)
    for name in [n for n in content["state_dict"] if "head." in n or n.endswith("relative_position_index")]:
        del content["state_dict"][name]
    torch.save(content, tmp_path / "file.pth.tar")
    x = _image(1, 64, 96)
    assert torch.equal(load_model(tmp_path / "file.pth.tar", device="cpu")(x).features, model(x).features)


def test_windows_are_saved_with_the_model(path, tmp_path):
    for window in (None, 3, "balanced"):
        model = load_model(path, adaptors=["clip"], device="cpu", eradio_window_size=window)
        model.save_pretrained(tmp_path)
        again = load_model(tmp_path, adaptors=["clip"], device="cpu")
        assert again.config.eradio == model.config.eradio
        with torch.inference_mode():
            first, second = model(_image(1, 96, 160)), again(_image(1, 96, 160))
        assert torch.equal(first["backbone"].features, second["backbone"].features)
        state = again.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 5e-2), ("float16", 1e-2), ("float64", 1e-5)])
def test_dtypes(path, model, dtype, tolerance):
    x = _image(2, 96, 64)
    output = load_model(path, device="cpu", dtype=dtype, eradio_window_size=3)(x)
    expected = load_model(path, device="cpu", eradio_window_size=3)(x)
    assert str(output.features.dtype) == f"torch.{dtype}"
    for actual, reference in zip(output, expected, strict=True):
        assert (actual.float() - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_weight(path, checkpointing):
    model = load_model(path, device="cpu").train().requires_grad_(True)
    model.set_grad_checkpointing(checkpointing)
    output = model(_image(2, 64, 96))
    (output.summary.square().sum() + output.features.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_one_graph(path):
    model = load_model(path, device="cpu", eradio_window_size=7)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    x = _image(1, 96, 160)
    with torch.inference_mode():
        actual, expected = compiled(x).features, model(x).features
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.slow
def test_one_graph_for_many_sizes(path):
    model = load_model(path, device="cpu")
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    with torch.inference_mode():
        for size in ((160, 288), (288, 192)):
            x = _image(2, *size)
            actual, expected = compiled(x).features, model(x).features
            assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert counter.frame_count <= 2


def test_traced_graphs_take_the_pixels_of_interpolate():
    for length in range(1, 129):
        for side in range(1, 33):
            whole = -(-length // side) * side
            for a, b in ((length, whole), (whole, length)):
                numbers = torch.arange(a, dtype=torch.float32)
                expected = F.interpolate(numbers[None, None, None], size=(1, b)).flatten().long()
                assert torch.equal(nearest(a, b, numbers.device), expected)
