"""The snippets of docs/export.md, docs/runtimes.md and docs/performance.md run."""

from __future__ import annotations

import re
import shutil
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


@pytest.mark.slow
def test_runtimes_page(tmp_path, monkeypatch, photos, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "photographs").mkdir()
    for i, photo in enumerate(photos):
        shutil.copy(photo, tmp_path / "photographs")
        if not i:
            shutil.copy(photo, tmp_path / "photo.jpg")
    names: dict = {}
    exec(_snippets("runtimes.md"), names)
    assert capsys.readouterr().out.startswith("openvino torch.Size([1, 192]) torch.Size([1, 40])")
    exact, fast = (names[name].encode("photo.jpg", size=64).features for name in ("model", "faster"))
    assert not torch.equal(exact, fast)
    assert torch.nn.functional.cosine_similarity(exact, fast, dim=-1).mean() > 0.98


def test_performance_page(reference):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    names: dict = {"torch": torch, "model": model, "load_model": load_model}
    exec(_snippets("performance.md"), names)
    assert is_quantized(names["model"])
    assert next(names["large"].parameters()).device.type == "meta"
    assert names["large"].encode(torch.rand(3, 64, 64)).grid == (4, 4)
