"""accelerate's offloading: outputs are those of the model in memory, whatever part of it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import (
    cpu_offload,
    cpu_offload_with_hook,
    disk_offload,
    dispatch_model,
    infer_auto_device_map,
    load_checkpoint_and_dispatch,
)
from accelerate.hooks import remove_hook_from_submodules
from accelerate.utils.dataclasses import get_module_class_from_name
from safetensors.torch import save_file

from radio import RADIOModel, load_model
from radio.opening import open_checkpoint

CPU = torch.device("cpu")
Offload = Callable[[RADIOModel, Path], RADIOModel]


def _bytes(model: RADIOModel) -> int:
    return sum(value.nbytes for value in model.state_dict().values())


def _on_cpu(model: RADIOModel, folder: Path) -> RADIOModel:
    return cpu_offload(model, CPU, offload_buffers=True)


def _on_disk(model: RADIOModel, folder: Path) -> RADIOModel:
    return disk_offload(model, str(folder), CPU, offload_buffers=True)


def _half_on_disk(model: RADIOModel, folder: Path) -> RADIOModel:
    places = infer_auto_device_map(model, {"cpu": _bytes(model) // 2}, model._no_split_modules)
    assert set(places.values()) == {"cpu", "disk"}
    return dispatch_model(model, places, CPU, offload_dir=str(folder), offload_buffers=True)


def _from_a_file(model: RADIOModel, folder: Path) -> RADIOModel:
    """A model without weights takes them from a file, and what does not fit stays there."""
    file = str(folder / "weights.safetensors")
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, file, {"format": "pt"}
    )
    with torch.device("meta"):
        empty = RADIOModel(model.config, list(model.adaptors)).eval()
    return load_checkpoint_and_dispatch(
        empty,
        file,
        device_map="auto",
        max_memory={"cpu": _bytes(model) // 2},
        no_split_module_classes=model._no_split_modules,
        offload_folder=str(folder),
        offload_buffers=True,
    )


def _one_after_the_other(model: RADIOModel, folder: Path) -> RADIOModel:
    return cpu_offload_with_hook(model, CPU)[0]


METHODS: dict[str, Offload] = {
    "cpu": _on_cpu,
    "disk": _on_disk,
    "half": _half_on_disk,
    "file": _from_a_file,
    "chain": _one_after_the_other,
}


def _everything(model: RADIOModel) -> dict[str, Any]:
    """Outputs of all that people call on a model."""
    step, normalize = model.min_resolution_step, model.input_conditioner
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(2, 3, 3 * step, 4 * step, generator=generator)
    images = [batch[0], batch[1, :, : 2 * step, :step]]
    tokens = torch.ones(1, 6, model.embed_dim, dtype=model.dtype)
    (encoded,) = model.encode([batch[0]])
    return {
        "batch": model(batch, feature_fmt="NCHW"),
        "list": model(images),
        "encode": (encoded.backbone, dict(encoded.adaptors)),
        "layers": model.forward_intermediates(batch, indices=2, norm=True),
        "dense": model.forward_intermediates(batch, indices=[1, 2], aggregation="dense"),
        "timm": model.model.forward_intermediates(normalize(batch), 2),
        "dense heads": [adaptor.project_summary(tokens) for adaptor in model.adaptors.values()],
        "heads": [adaptor.head_mlp(tokens) for adaptor in model.adaptors.values()],
    }


@pytest.mark.parametrize(
    ("layout", "method"),
    [
        ("normalizers", "cpu"),
        ("no_cpe_patch14", "cpu"),
        ("dinov2_giant", "disk"),
        ("upsample", "half"),
        ("no_cpe_patch14", "half"),
        ("normalizers", "file"),
        ("dinov2_giant", "chain"),
    ],
)
def test_outputs_are_equal(reference: Path, tmp_path: Path, layout: str, method: str) -> None:
    path = reference / layout / "checkpoint.pth.tar"
    names = [adaptor.name for adaptor in open_checkpoint(path).config.adaptors]
    with torch.no_grad():
        expected = _everything(load_model(path, adaptors=names, device="cpu"))
        model = METHODS[method](load_model(path, adaptors=names, device="cpu"), tmp_path)
        assert (method == "chain") != any(p.device.type == "meta" for p in model.parameters())
        assert (model.device, model.dtype) == (CPU, torch.float32)
        torch.testing.assert_close(_everything(model), expected, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["cpu", "half"])
@pytest.mark.parametrize("layout", ["eradio", "radio1d"])
def test_other_families(reference: Path, tmp_path: Path, layout: str, method: str) -> None:
    path = reference / layout / "checkpoint.pth.tar"
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = load_model(path, device="cpu")(images)
        model = METHODS[method](load_model(path, device="cpu"), tmp_path)
        assert any(p.device.type == "meta" for p in model.parameters())
        for _ in range(2):
            torch.testing.assert_close(model(images), expected, rtol=0, atol=0)


def test_classes_that_stay_whole(reference: Path) -> None:
    """accelerate looks each of them up in the model, for FSDP as well."""
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors="clip", device="cpu")
    assert model._no_split_modules == ["Block", "MLPv2", "PatchGenerator"]
    for name in model._no_split_modules:
        assert get_module_class_from_name(model, name).__name__ == name


def test_text(reference: Path, text_towers: dict[str, Path]) -> None:
    model = load_model(
        reference / "v2_5" / "checkpoint.pth.tar",
        adaptors="clip",
        device="cpu",
        text_weights=text_towers["clip"],
    )
    before = model.adaptors["clip"].encode_text(["a cat"])  # type: ignore[attr-defined]
    cpu_offload(model, CPU)
    assert torch.equal(model.adaptors["clip"].encode_text(["a cat"]), before)  # type: ignore[attr-defined]


def test_weights_come_back_before_they_are_saved(reference: Path, tmp_path: Path) -> None:
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    stored = {name: value.clone() for name, value in model.state_dict().items()}
    disk_offload(model, str(tmp_path / "offloaded"), CPU)
    with pytest.raises(RuntimeError, match="remove_hook_from_submodules"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    remove_hook_from_submodules(model)
    model.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved", device="cpu").state_dict()
    assert all(torch.equal(again[name], value) for name, value in stored.items())
