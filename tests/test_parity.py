"""Same file in, same numbers out: every reference case, against the outputs of the public hub code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from radio import load_model
from radio.modeling.kernels import adaptive_linear, attention
from radio.modeling.outputs import RadioOutput

REFERENCE = Path(__file__).parent / "reference"
FOLDERS = sorted(path.name for path in REFERENCE.iterdir() if path.is_dir())


def _cases(folder: str) -> list[dict]:
    if folder == "hf_repo":
        adaptors = ["clip", "siglip", "dino_v2", "sam"]
        return [
            {"name": "adaptors", "adaptors": adaptors},
            {"name": "adaptors_ac", "adaptors": adaptors, "align": True},
        ]
    return json.loads((REFERENCE / folder / "cases.json").read_text())


def _flatten(value, prefix: str) -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    if isinstance(value, RadioOutput):
        items = value._asdict().items()
    elif isinstance(value, dict):
        items = value.items()
    else:
        items = enumerate(value)
    return {name: t for key, part in items for name, t in _flatten(part, f"{prefix}.{key}").items()}


CASES = [
    pytest.param(folder, case, id=f"{folder}-{case['name']}") for folder in FOLDERS for case in _cases(folder)
]


@pytest.fixture(params=[False, True], ids=["", "all_kernels"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own kernels; or those of `modeling.kernels`, at every size and on every processor."""
    monkeypatch.setattr(attention, "has_slow_bfloat16_attention", lambda: request.param)
    monkeypatch.setattr(adaptive_linear, "has_slow_float32_products", lambda: request.param)
    monkeypatch.setattr(attention, "_BY_HEAD_FROM", 0)
    monkeypatch.setattr(adaptive_linear, "_CONVOLVE_FROM", 0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("folder", "case"), CASES)
def test_outputs_equal_the_public_code(folder: str, case: dict) -> None:
    path = REFERENCE / folder
    schedule = {f"vitdet_{name}": value for name, value in case.get("res", {}).items()}
    model = load_model(
        path if (path / "config.json").exists() else path / "checkpoint.pth.tar",
        adaptors=case.get("adaptors"),
        device="cpu",
        vitdet_window_size=case.get("vitdet"),
        pos_embed_align_corners=case.get("align", False),
        eradio_window_size=case.get("window"),
        neck_name=case.get("neck"),
        **schedule,
    )
    tensors = load_file(path / "cases.safetensors")
    x = tensors[f"{case['name']}.input"]
    untouched = x.clone()
    with torch.inference_mode():
        if "inter" in case:
            output = model.forward_intermediates(x, **case["inter"])
        else:
            output = model(x, feature_fmt=case.get("fmt", "NLC"), num_tokens=case.get("num_tokens"))
    actual = _flatten(output, f"{case['name']}.output")
    expected = {name: t for name, t in tensors.items() if name.startswith(f"{case['name']}.output.")}
    assert actual.keys() == expected.keys()
    tolerance = 2e-2 if folder == "bf16" else 2e-5
    for name, reference in expected.items():
        value = actual[name].float()
        assert value.shape == reference.shape, name
        assert (value - reference.float()).abs().max() <= tolerance * reference.float().abs().max(), name
    assert torch.equal(x, untouched)
