"""The snippets of docs/export.md and docs/performance.md run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from radio import load_model
from radio.quantization import is_quantized

ROOT = Path(__file__).parent.parent


def _snippets(page: str) -> str:
    text = (ROOT / "docs" / page).read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    code = code.replace('"cuda"', '"cpu"')
    return code.replace("radio_v2.5-l", str(ROOT / "tests/reference/v2_5/checkpoint.pth.tar"))


@pytest.mark.slow
def test_export_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(_snippets("export.md"), names)
    assert (tmp_path / "radio.onnx").exists()
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert names["features"].shape == (2, 24 * 40, 64)


def test_performance_page(reference):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    names: dict = {"torch": torch, "model": model, "load_model": load_model}
    exec(_snippets("performance.md"), names)
    assert is_quantized(names["model"])
    assert next(names["large"].parameters()).device.type == "meta"
    assert names["large"].encode(torch.rand(3, 64, 64)).grid == (4, 4)
