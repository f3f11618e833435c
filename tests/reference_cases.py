"""The reference cases: which there are, the model of each, and how far an output is from the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from radio import load_model
from radio.modeling.outputs import RadioOutput

REFERENCE = Path(__file__).parent / "reference"
FOLDERS = sorted(path.name for path in REFERENCE.iterdir() if path.is_dir())


def cases_of(folder: str) -> list[dict[str, Any]]:
    """The cases of one checkpoint."""
    if folder == "hf_repo":
        adaptors = ["clip", "siglip", "dino_v2", "sam"]
        return [
            {"name": "adaptors", "adaptors": adaptors},
            {"name": "adaptors_ac", "adaptors": adaptors, "align": True},
        ]
    cases: list[dict[str, Any]] = json.loads((REFERENCE / folder / "cases.json").read_text())
    return cases


def load_case(folder: str, case: dict[str, Any], **options: Any) -> Any:
    """The model of a case; `options` go to `load_model`."""
    path = REFERENCE / folder
    schedule = {f"vitdet_{name}": value for name, value in case.get("res", {}).items()}
    return load_model(
        path if (path / "config.json").exists() else path / "checkpoint.pth.tar",
        adaptors=case.get("adaptors"),
        device="cpu",
        vitdet_window_size=case.get("vitdet"),
        pos_embed_align_corners=case.get("align", False),
        eradio_window_size=case.get("window"),
        neck_name=case.get("neck"),
        **schedule,
        **options,
    )


def case_input(folder: str, case: dict[str, Any]) -> torch.Tensor:
    """The images of a case."""
    return load_file(REFERENCE / folder / "cases.safetensors")[f"{case['name']}.input"]


def check_outputs(folder: str, case: dict[str, Any], output: Any, tolerance: float) -> None:
    """Make sure that an output is the true one, to a share of its largest value."""
    actual = _flatten(output, f"{case['name']}.output")
    tensors = load_file(REFERENCE / folder / "cases.safetensors")
    expected = {name: t for name, t in tensors.items() if name.startswith(f"{case['name']}.output.")}
    assert actual.keys() == expected.keys()
    for name, reference in expected.items():
        value = actual[name].float()
        assert value.shape == reference.shape, name
        assert (value - reference.float()).abs().max() <= tolerance * reference.float().abs().max(), name


def _flatten(value: Any, prefix: str) -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    if isinstance(value, RadioOutput):
        items: Any = value._asdict().items()
    elif isinstance(value, dict):
        items = value.items()
    else:
        items = enumerate(value)
    return {name: t for key, part in items for name, t in _flatten(part, f"{prefix}.{key}").items()}
