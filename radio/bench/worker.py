"""The process that measures one runtime and dtype: a `Job` as JSON on stdin, its rows as JSON on stdout."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from radio.loading import load_model
from radio.model import RADIOModel

_LEAST_CALLS = 3
_CALIBRATION = 4
"""Images of noise with which a graph becomes int8: enough for its time, which does not depend on them."""
_SQUARE = 2048


def measure(job: dict[str, Any]) -> list[dict[str, Any]]:
    """What `radio.bench.Row` has, of every size and batch of a job."""
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    before = _memory("VmRSS")
    start = time.perf_counter()
    int8 = job["dtype"] == "int8"
    model: RADIOModel[Any] = load_model(
        job["model"],
        device=job["device"],
        dtype="float32" if int8 else job["dtype"],
        runtime=job["runtime"],
        calibration=list(torch.rand(_CALIBRATION, 3, 224, 224)) if int8 else None,
        vitdet_window_size=job["vitdet_window_size"],
    )
    load = time.perf_counter() - start
    rows = []
    for size in job["sizes"] or [model.preferred_resolution]:
        height, width = model.get_nearest_supported_resolution(*size)
        for batch in job["batches"]:
            images = torch.rand(batch, 3, height, width, device=model.device)
            rate = _matmul_rate(model)
            _forget_peak(model.device)
            seconds = _time(lambda images=images: model(images), model.device, job["seconds"])  # type: ignore[misc]
            memory = _peak(model.device, before)
            latency = statistics.median(seconds)
            rows.append(
                {
                    "runtime": job["runtime"],
                    "dtype": job["dtype"],
                    "device": str(model.device),
                    "threads": torch.get_num_threads(),
                    "height": height,
                    "width": width,
                    "batch": batch,
                    "latency": latency,
                    "fastest": min(seconds),
                    "slowest": max(seconds),
                    "images_per_second": batch / latency,
                    "memory": memory,
                    "load": load,
                    "matmul_rate": max(rate, _matmul_rate(model)),
                }
            )
    return rows


@torch.inference_mode()
def _time(call: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    found: list[float] = []
    call()
    _wait(device)
    while len(found) < _LEAST_CALLS or sum(found) < seconds:
        start = time.perf_counter()
        call()
        _wait(device)
        found.append(time.perf_counter() - start)
    return found


@torch.inference_mode()
def _matmul_rate(model: RADIOModel[Any]) -> float:
    """Floating-point operations per second of a square matrix product in the model's dtype."""
    a = torch.rand(_SQUARE, _SQUARE, device=model.device).to(model.dtype)
    return 2 * _SQUARE**3 / min(_time(lambda: F.linear(a, a), model.device, 0.0))


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # only Linux can; elsewhere the peak is that of all sizes so far
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device, before: int) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return max(_memory("VmHWM") - before, 0)


def _memory(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process, in bytes; the peak where only that is to be had."""
    try:
        line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(field))
        return int(line.split()[1]) * 1024
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Measure the job on stdin."""
    try:
        result: dict[str, Any] = {"rows": measure(json.load(sys.stdin))}
    except Exception as error:  # whatever it is, the user wants to read it beside the rows of the others
        result = {"error": " ".join(str(error).split()) or type(error).__name__}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
