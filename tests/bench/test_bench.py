"""`radio bench`: what it measures, what it recommends, what it says of what cannot be measured."""

from __future__ import annotations

import json

import pytest

from radio.bench import Row, recommend
from radio.bench.worker import measure
from radio.cli import main


def _row(runtime: str, dtype: str, latency: float, size: int = 224) -> Row:
    return Row(runtime, dtype, "cpu", 2, size, size, 1, latency, latency, latency, 1 / latency, 1, 0.0, 1e9)


def test_it_recommends_the_fastest_and_says_what_it_costs():
    rows = [
        _row("pytorch", "float32", 0.2),
        _row("openvino", "float32", 0.16),
        _row("openvino", "bfloat16", 0.1),
        _row("pytorch", "float32", 0.5, 512),
        _row("openvino", "float32", 0.6, 512),
    ]
    assert recommend(rows) == [
        "224x224, 1 image: openvino in bfloat16, 2.0 times as fast as PyTorch in float32; in float32 openvino",
        "512x512, 1 image: pytorch in float32",
    ]


def test_a_job_has_a_row_for_every_size_and_batch(reference):
    job = {
        "model": str(reference / "v2_5" / "checkpoint.pth.tar"),
        "runtime": "pytorch",
        "dtype": "bfloat16",
        "device": "cpu",
        "sizes": [(64, 64), (70, 90)],
        "batches": [1, 2],
        "threads": None,
        "seconds": 0.0,
        "vitdet_window_size": 2,
    }
    rows = [Row(**row) for row in measure(job)]
    assert [(row.height, row.width, row.batch) for row in rows] == [
        (64, 64, 1),
        (64, 64, 2),
        (64, 96, 1),
        (64, 96, 2),
    ]
    for row in rows:
        assert row.fastest <= row.latency <= row.slowest
        assert row.images_per_second == pytest.approx(row.batch / row.latency)
        assert row.matmul_rate > 1e8 and row.memory >= 0


@pytest.mark.slow
def test_the_command_goes_on_after_what_cannot_be_measured(reference, capsys):
    path = str(reference / "v2_5" / "checkpoint.pth.tar")
    main(
        [
            "bench",
            path,
            "--size",
            "64",
            "--runtime",
            "onnxruntime,pytorch",
            "--dtype",
            "bf16",
            "--seconds",
            "0",
            "--json",
        ]
    )
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [(row["runtime"], row["dtype"]) for row in found["rows"]] == [("pytorch", "bfloat16")]
    assert [failure["runtime"] for failure in found["not_measured"]] == ["onnxruntime"]
    assert "computes in float32, not in bfloat16" in printed.err
    assert found["recommendation"] == ["64x64, 1 image: pytorch in bfloat16"]


def test_an_unknown_runtime_is_an_error(capsys):
    assert main(["bench", "radio_v2.5-b", "--runtimes", "tensorrt"]) == 1
    assert "unknown runtime 'tensorrt'; allowed: pytorch, openvino, onnxruntime" in capsys.readouterr().err
