"""Every released version at its true size: random weights of the exact shapes, in the released layout, run once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from memory import PeakMemory, needs_proc
from released import ARCHITECTURES, OTHER_LAYOUTS, VERSIONS, make_checkpoint

from radio import RELEASES, RADIOModel, load_model
from radio.checkpoints import read_checkpoint
from radio.checkpoints.build import build_model
from radio.checkpoints.describe import ATTENTION_HEADS

ROWS = {release.version: release for release in RELEASES if release.family == "vit"}
QUICK = ("radio_v2.5-b", "radio_v2.5-l", "c-radio_v3-b", "c-radio_v4-so400m")
SUMMARY_TOKENS = {
    "radio_v2.1": 2,
    "radio_v2": 2,
    "radio_v1": 1,
    "radio_v2.5-g": 1,
    "c-radio_v4-so400m": 2,
    "c-radio_v4-h": 2,
}
GIB = 2**30


def _versions(names) -> list:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def _backbone_parameters(model: RADIOModel) -> int:
    return sum(parameter.numel() for parameter in model.model.parameters())


def _run(model: RADIOModel) -> torch.Tensor | dict:
    side = 16 * model.patch_size
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(x, feature_fmt="NCHW")


def test_every_supported_version_and_architecture_is_covered():
    assert set(VERSIONS) == set(ROWS)
    assert set(ARCHITECTURES) == set(ATTENTION_HEADS)
    used = {version.architecture for version in (*VERSIONS.values(), *OTHER_LAYOUTS.values())}
    assert used == set(ARCHITECTURES)
    others = {release.version for release in RELEASES if release.family != "vit"}
    assert others == {"e-radio_v2", "c-radio_v4-1d-h"}


@pytest.mark.parametrize("name", _versions(VERSIONS))
def test_version_at_full_size(name: str, tmp_path: Path) -> None:
    """The catalogue's row, the file's shapes and what comes out of the model say the same; memory beside the mapped
    weights is small, while loading and while running."""
    release, version = ROWS[name], VERSIONS[name]
    architecture = ARCHITECTURES[version.architecture]
    path = tmp_path / release.filename
    make_checkpoint(path, version, repeat_blocks=True, dtype=torch.bfloat16)
    with PeakMemory() as loading:
        checkpoint = read_checkpoint(path, release, mmap=True)
        model = build_model(
            RADIOModel, checkpoint, release.adaptors, torch.device("cpu"), torch.bfloat16, mmap=True
        )
    assert loading.peak < 0.05 * GIB

    assert _backbone_parameters(model) == release.parameters
    assert len(model.blocks) == architecture.depth
    assert model.blocks[0].attn.num_heads == architecture.heads
    assert model.blocks[-1].attn.head_dim == architecture.width // architecture.heads
    assert model.config.mlp_dim == architecture.hidden
    assert model.config.scaled_norm == version.scaled_ln
    assert model.patch_size == release.patch_size
    assert model.config.grid_size * model.patch_size == release.max_resolution
    assert model.num_cls_tokens == version.num_cls_tokens
    assert model.num_summary_tokens == version.num_cls_tokens + version.registers
    assert all(side % release.patch_size == 0 for side in release.preferred_resolution)
    assert list(model.adaptors) == list(release.adaptors)

    with PeakMemory() as running:
        outputs = _run(model)
    assert running.peak < 0.5 * GIB
    backbone = outputs["backbone"] if release.adaptors else outputs
    width = architecture.width
    assert backbone.summary.shape == (1, width * SUMMARY_TOKENS.get(name, 3)) == (1, model.summary_dim)
    assert backbone.features.shape == (1, width, 16, 16)
    assert backbone.summary.dtype == backbone.features.dtype == torch.bfloat16
    for output in outputs.values() if release.adaptors else (outputs,):
        assert output.summary.isfinite().all()
        assert output.features.isfinite().all()
        assert output.features.std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_LAYOUTS)
def test_other_architectures_at_full_size(name: str, tmp_path: Path) -> None:
    version = OTHER_LAYOUTS[name]
    architecture = ARCHITECTURES[version.architecture]
    make_checkpoint(tmp_path / "checkpoint.pth.tar", version, repeat_blocks=True)
    model = load_model(tmp_path / "checkpoint.pth.tar", device="cpu", dtype="bfloat16")
    output = _run(model)
    assert (model.patch_size, len(model.blocks), model.config.mlp_norm) == (
        architecture.patch,
        architecture.depth,
        architecture.mlp_norm,
    )
    assert output.features.shape == (1, architecture.width, 16, 16)
    assert output.summary.isfinite().all()
    assert output.features.isfinite().all()


@needs_proc
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("radio_v2.5-b", "auto"),
        ("radio_v2.5-b", "bfloat16"),
        pytest.param("c-radio_v2-g", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_memory_of_loading(name: str, dtype: str, tmp_path: Path) -> None:
    """A model has its weights in memory once, converted or not, and nothing else; mapped ones stay in the file."""
    version = VERSIONS[name]
    path = tmp_path / "checkpoint.pth.tar"
    make_checkpoint(path, version)
    with PeakMemory() as loading:
        model = load_model(path, device="cpu", dtype=dtype)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert (
        weights
        < 1.01 * path.stat().st_size * (4 if model.dtype == torch.float32 else 2) / version.dtype.itemsize
    )
    assert loading.peak < weights + 0.03 * GIB
    mapped = 0 if model.dtype == version.dtype else weights
    del model
    with PeakMemory() as mapping:
        model = load_model(path, device="cpu", dtype=dtype, mmap=True)
    assert mapping.peak < mapped + 0.03 * GIB

    with PeakMemory() as running:
        _run(model)
    path.unlink()
    assert running.peak < 0.5 * GIB


@needs_proc
def test_memory_of_saving_and_loading_a_repository(tmp_path: Path) -> None:
    """A model is written without a copy of more than its weights, and read again."""
    make_checkpoint(tmp_path / "checkpoint.pth.tar", VERSIONS["radio_v2.5-b"])
    model = load_model(tmp_path / "checkpoint.pth.tar", device="cpu", dtype="bfloat16")
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    with PeakMemory() as saving:
        model.save_pretrained(tmp_path / "saved")
    assert saving.peak < weights + 0.03 * GIB
    assert (tmp_path / "saved" / "model.safetensors").stat().st_size < 1.01 * weights
    with PeakMemory() as loading:
        load_model(tmp_path / "saved", device="cpu")
    assert loading.peak < weights + 0.03 * GIB
