"""The benchmarks of packing, windows, quantization and the GPU run on a CPU with tiny sizes."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"


def _rows(*command: str) -> list[list[str]]:
    """The cells of every table row that a benchmark prints."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / command[0]), *command[1:]], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    lines = [
        line for line in done.stdout.splitlines() if line.startswith("| ") and not line.startswith("| ---")
    ]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
def test_packing():
    rows = _rows("packing.py", "--quick", "--threads", "1")
    differences = {row[0]: row[3] for row in rows[1:]}
    assert list(differences) == ["packed", "one by one", "padded to the largest", "transformers, packed"]
    assert float(differences["packed"]) < 0.05 and float(differences["transformers, packed"]) < 0.1


@pytest.mark.slow
def test_windows():
    rows = _rows("windows.py", "--quick", "--threads", "1")
    assert [row[:2] for row in rows[1:5]] == [
        ["global", "128"],
        ["global", "256"],
        ["windows of 4", "128"],
        ["windows of 4", "256"],
    ]
    assert [row[0] for row in rows[6:]] == ["global", "windows of 4, block is windowed"]


@pytest.mark.slow
def test_quantization():
    rows = _rows("quantization.py", "--quick", "--threads", "1")[1:]
    assert len(rows) == 6
    for row in rows:
        assert all(float(similarity) > 0.99 for similarity in row[4:])


@pytest.mark.slow
def test_freezing():
    rows = _rows("freezing.py", "--quick")[1:]
    assert [row[1] for row in rows] == ["eager", "Inductor, frozen", "OpenVINO"]
    assert all(float(row[5]) < 1e-4 for row in rows)


@pytest.mark.slow
def test_gpu_script_on_a_cpu():
    rows = _rows("gpu.py", "--tiny", "--device", "cpu", "--modes", "eager", "compiled")[1:]
    subjects = ("radio", "transformers", "timm")
    assert [row[3:5] for row in rows] == [[s, mode] for s in subjects for mode in ("eager", "compiled")]
    assert all(float(row[5]) > 0 for row in rows)


def test_gpu_script_starts_no_row_when_its_minutes_are_over():
    assert len(_rows("gpu.py", "--tiny", "--device", "cpu", "--minutes", "0")) == 1


def test_gpu_script_goes_on_after_a_failure_and_measures_the_goal_first(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    gpu = importlib.import_module("gpu")
    cases = gpu.plan(["ViT-L", "ViT-B"], [224, 512], [1, 32])
    assert cases[:2] == [("ViT-L", 512, 32), ("ViT-B", 512, 32)] and len(set(cases)) == 8

    def failing(x):
        raise RuntimeError("CUDA error: out of memory")

    x = torch.rand(1, 3, 64, 64)
    assert gpu.row_of("tiny", failing, "eager", x, 1, 1.0) == ["out of memory", "", ""]
    assert gpu.row_of("tiny", lambda x: x.nothing, "eager", x, 1, 1.0)[0].startswith("AttributeError: ")
