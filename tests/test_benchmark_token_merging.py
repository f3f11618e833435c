"""The benchmark of token merging runs, and shows what the page says: merging loses less than pooling."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "token_merging.py"


@pytest.mark.slow
def test_quick_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--quick", "--threads", "1"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr().out
    assert "Merging inside the network" in output and "Time to merge" in output
    losses = output[output.index("### Variance lost") :].split("### Merging inside")[0]
    rows = [re.findall(r"([\d.]+) %", line) for line in losses.splitlines() if " % (stride" in line]
    assert len(rows) == 8
    for merged, _, pooled, resized in rows:
        assert float(merged) < 0.6 * min(float(pooled), float(resized))
