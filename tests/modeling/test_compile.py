"""torch.compile: no graph breaks, no recompilation per size, same numbers."""

from __future__ import annotations

import pytest
import torch
from conftest import needs_new_compiler
from torch._dynamo.testing import CompileCounterWithBackend

from radio import RADIOModel, load_model


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _load(reference, name: str, **options) -> RADIOModel:
    return load_model(reference / name / "checkpoint.pth.tar", device="cpu", **options)


def _image(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def _assert_same(compiled, eager) -> None:
    if isinstance(eager, dict):
        assert compiled.keys() == eager.keys()
        for name in eager:
            _assert_same(compiled[name], eager[name])
        return
    for actual, expected in zip(compiled, eager, strict=True):
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.slow
def test_inductor_gives_the_same_numbers(reference):
    model = _load(reference, "upsample", adaptors=["sam"])
    compiled = torch.compile(model, fullgraph=True)
    x = _image(1, 64, 96)
    with torch.inference_mode():
        _assert_same(compiled(x), model(x))


@pytest.mark.slow
def test_inductor_compiles_once_for_all_sizes(reference):
    model = _load(reference, "upsample")
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.inference_mode():
        compiled(_image(2, 64, 96))
        with torch._dynamo.config.patch(error_on_recompile=True):
            for batch, height, width in [(3, 96, 64), (2, 256, 256)]:
                x = _image(batch, height, width)
                _assert_same(compiled(x), model(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("upsample", {"adaptors": ["clip", "sam"]}, id="adaptors", marks=needs_new_compiler),
        pytest.param("no_cpe_patch14", {}, id="plain"),
        pytest.param("dinov2_giant", {}, id="dinov2", marks=pytest.mark.slow),
        pytest.param(
            "layer_scale_norm",
            {"vitdet_window_size": 2, "vitdet_num_windowed": 2},
            id="windows",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_one_graph_for_all_sizes(reference, name, options):
    """Batch, height and width change, in both orientations, and PyTorch compiles once."""
    model = _load(reference, name, **options)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    p = model.patch_size
    with torch.inference_mode():
        for batch, h, w in [(2, 4, 6), (3, 6, 4), (2, 8, 8), (4, 4, 18), (2, 16, 16)]:
            x = _image(batch, h * p, w * p)
            _assert_same(compiled(x), model(x))
    assert counter.frame_count == 1


def test_marked_dimensions_are_never_specialized(reference):
    model = _load(reference, "no_cpe_patch14")
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.inference_mode():
        for batch, height, width in [(2, 56, 84), (3, 84, 56), (2, 140, 140)]:
            x = _image(batch, height, width)
            for dimension in (0, 2, 3):
                torch._dynamo.mark_dynamic(x, dimension)
            _assert_same(compiled(x), model(x))
    assert counter.frame_count == 1


def test_intermediates_compile(reference):
    model = _load(reference, "normalizers")
    compiled = torch.compile(model.forward_intermediates, fullgraph=True, backend="eager")
    x = _image(2, 64, 96)
    arguments = {"indices": [1, -1], "aggregation": "dense", "intermediates_only": True}
    with torch.inference_mode():
        for actual, expected in zip(
            compiled(x, **arguments), model.forward_intermediates(x, **arguments), strict=True
        ):
            assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("windows", [{}, {"vitdet_window_size": 2, "vitdet_num_windowed": 2}])
def test_packed_images_are_one_graph(reference, windows):
    model = _load(reference, "layer_scale_norm", **windows)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    step = model.min_resolution_step
    images = [_image(1, h * step, w * step)[0] for h, w in [(2, 3), (3, 2), (2, 2)]]
    with torch.inference_mode():
        for actual, expected in zip(compiled(images), model(images), strict=True):
            _assert_same(actual, expected)
    assert counter.frame_count == 1


def test_unsupported_sizes_are_still_refused(reference):
    model = _load(reference, "upsample")
    compiled = torch.compile(model, dynamic=True, backend="eager")
    with torch.inference_mode():
        compiled(_image(2, 64, 96))
        with pytest.raises(ValueError, match="nearest supported resolution is 64 x 96"):
            compiled(_image(2, 64, 100))
