"""The benchmarks run, and compare models that compute the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def benchmark_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules beside the scripts, importable as they are for the scripts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(script: str, *arguments: str) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--quick", "--threads", "1", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(printed: str) -> list[dict[str, str]]:
    """The rows of the tables that were printed, by the names of their columns."""
    found: list[dict[str, str]] = []
    header: list[str] = []
    for line in printed.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif not cells[0].startswith("---"):
            found.append(dict(zip(header, cells, strict=True)))
    return found


def test_the_peers_compute_the_same_from_the_same_memory(benchmark_modules: None) -> None:
    from peers import SIZES, check_equal, forward_of, random_model, timm_peer, transformers_peer

    with torch.inference_mode():
        model = random_model(SIZES["tiny"])
        forwards = {subject: forward_of(subject, model) for subject in ("radio", "transformers", "timm")}
        for side in ((64, 96), (128, 128)):
            check_equal(forwards, torch.rand(2, 3, *side), 1e-4)
        weight = model.blocks[0].mlp.fc1.weight
        assert transformers_peer(model).encoder.layer[0].mlp.fc1.weight.data_ptr() == weight.data_ptr()
        assert timm_peer(model).blocks[0].mlp.fc1.weight.data_ptr() == weight.data_ptr()
        weight += 1
        check_equal(forwards, torch.rand(1, 3, 64, 64), 1e-4)


def test_a_peer_that_computes_something_else_is_not_timed(benchmark_modules: None) -> None:
    from peers import SIZES, check_equal, forward_of, random_model

    with torch.inference_mode():
        ours, other = random_model(SIZES["tiny"]), random_model(SIZES["tiny"])
        other.blocks[0].mlp.fc2.bias += 0.1
        forwards = {"radio": ours, "transformers": forward_of("transformers", other)}
        with pytest.raises(RuntimeError, match="transformers is .* away"):
            check_equal(forwards, torch.rand(1, 3, 64, 64), 1e-4)


def test_operations_are_counted_as_pytorch_counts_them(benchmark_modules: None) -> None:
    from peers import SIZES, random_model
    from timing import block_matmuls, forward_flops
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    size = SIZES["tiny"]
    model = random_model(size)
    # Attention as plain matrix products: not every release of PyTorch counts those of the CPU's fused kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.rand(2, 3, 64, 96))
    assert forward_flops(2, 24, 8, size.width, size.depth, 768) == counter.get_total_flops()
    own = block_matmuls(10, size.width, torch.float32)
    with FlopCounterMode(display=False) as counter:
        own()
    assert own.flops == counter.get_total_flops()


def test_peak_memory_is_that_of_what_ran(benchmark_modules: None) -> None:
    from timing import forget_peak, resident_bytes

    forget_peak()
    before = resident_bytes("VmRSS")
    torch.ones(25_000_000)
    peak = resident_bytes("VmHWM") - before
    assert 95e6 < peak < 130e6
    forget_peak()
    assert resident_bytes("VmHWM") - before < 30e6


@pytest.mark.slow
def test_forward() -> None:
    printed = run("forward.py", "--dtypes", "float32")
    timed, memory = rows(printed)[0], rows(printed)[-1]
    assert float(timed["radio, ms"]) >= 0 and "–" in timed["radio / faster peer"]
    assert "–" in timed["radio / openvino"] and "–" in timed["radio / onnxruntime"]
    assert float(memory["radio, MB"].split()[0]) > 0


@pytest.mark.slow
def test_load() -> None:
    printed = rows(run("load.py"))
    assert [row["layout"] for row in printed] == [".pth.tar", "Hub folder"]
    assert all(float(row["load_model, ms"]) > 0 for row in printed)


@pytest.mark.slow
def test_extraction_measures_waiting_memory_and_recall() -> None:
    script = [sys.executable, str(BENCHMARKS / "extraction.py"), "--quick"]
    only = [word for table in ("waiting", "memory", "recall") for word in ("--only", table)]
    done = subprocess.run(
        [*script, *only], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    printed = rows(done.stdout)
    [approximate] = [row for row in printed if row.get("search", "").startswith("approximate")]
    assert float(approximate["recall of the 10 nearest"]) > 0.95
    assert [row["images done"] for row in printed if "images done" in row][-1] == "400"


@pytest.mark.slow
def test_int8_of_runtimes() -> None:
    printed = rows(run("runtimes.py", "--runtimes", "onnxruntime"))
    assert [row[""] for row in printed] == ["PyTorch float32", "onnxruntime float32", "onnxruntime int8"]
    assert all(float(row["cos summary (least)"].split()[0]) > 0.99 for row in printed)
