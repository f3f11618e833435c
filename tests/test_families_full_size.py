"""E-RADIO and RADIO1D at their true size: random weights of the released structure, loaded and run once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from memory import PeakMemory, needs_proc
from released_families import (
    ERADIO_PARAMETERS,
    RADIO1D_PARAMETERS,
    eradio_shapes,
    radio1d_shapes,
    write,
)

from radio import load_model
from radio.catalog import get_release

GIB = 2**30
BUFFERS = (".running_mean", ".running_var", ".relative_coords_table")


def _parameters(shapes: dict) -> int:
    return sum(torch.Size(shape).numel() for name, shape in shapes.items() if not name.endswith(BUFFERS))


def test_sizes_are_those_of_the_catalog():
    assert _parameters(eradio_shapes()) == ERADIO_PARAMETERS == get_release("e-radio_v2").parameters
    assert _parameters(radio1d_shapes()) == RADIO1D_PARAMETERS == get_release("c-radio_v4-1d-h").parameters
    encoder = {name: shape for name, shape in radio1d_shapes().items() if not name.startswith("decoder.")}
    assert _parameters(encoder) == 1_140_032_000


@needs_proc
@pytest.mark.slow
def test_eradio(tmp_path: Path) -> None:
    write(
        tmp_path / "eradio_v2.pth.tar", eradio_shapes(), "eradio", {"return_full_features": True}, share=True
    )
    with PeakMemory() as loading:
        model = load_model(tmp_path / "eradio_v2.pth.tar", device="cpu", dtype="bfloat16", mmap=True)
    assert loading.peak < 0.1 * GIB
    assert model.config.version == "e-radio_v2"
    assert sum(parameter.numel() for parameter in model.model.parameters()) == ERADIO_PARAMETERS
    with torch.inference_mode():
        square = model(torch.rand(1, 3, 512, 512))
        wide = model(torch.rand(1, 3, 224, 320), feature_fmt="NCHW")
    assert (square.summary.shape, square.features.shape) == ((1, 1536), (1, 1024, 1536))
    assert wide.features.shape == (1, 1536, 14, 20)
    assert square.features.isfinite().all()
    assert wide.features.isfinite().all()


@needs_proc
@pytest.mark.slow
def test_radio1d(tmp_path: Path) -> None:
    kwargs = {"cpe_max_size": 2048, "num_cls_tokens": 4, "num_registers": 6, "downscale_levels": [24]}
    write(tmp_path / "r.pth.tar", radio1d_shapes(), "radio1d_huge_patch16_224", kwargs, share=True)
    with PeakMemory() as loading:
        model = load_model(tmp_path / "r.pth.tar", device="cpu", dtype="bfloat16", mmap=True)
    assert loading.peak < 0.1 * GIB
    assert sum(parameter.numel() for parameter in model.model.parameters()) == RADIO1D_PARAMETERS
    with torch.inference_mode():
        square = model(torch.rand(1, 3, 512, 512))
        small = model(torch.rand(1, 3, 224, 224), num_tokens=256)
        few = model(torch.rand(1, 3, 224, 224), num_tokens=16)
    assert square["encoder"].features.shape == (1, 256, 2560)
    assert square["encoder"].summary.shape == (1, 2 * 2560)
    assert square["decoder"].features.shape == (1, 1024, 1280)
    assert small["encoder"].features.shape == (1, 49, 2560)
    assert few["encoder"].features.shape == (1, 16, 2560)
    for outputs in (square, small, few):
        assert all(output.features.isfinite().all() for output in outputs.values())
