"""Every snippet of docs/token_merging.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_snippets_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "token_merging.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    names: dict = {}
    exec(code.replace("radio_v2.5-l", "tests/reference/v2_5/checkpoint.pth.tar"), names)
    assert names["tokens"].features.shape == (1, 196, 64)
    assert names["first"].features.shape[1] == 128
    assert names["brightness"].shape == names["tokens"].sizes.shape
    assert names["fast"].features.shape[1] == 256
    assert names["compact"].features.shape[1] == 256 - 12 * 8
