"""What every comparison needs: subjects that take turns, medians with their spread, matmul rates, peak memory."""

from __future__ import annotations

import ctypes
import datetime
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""The clock on the wall, or the CPU seconds of this process (all its threads) for a machine that others use too."""


@dataclass(frozen=True)
class Spread:
    """A median and the range it comes from."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """The median and the range of some values."""
    return Spread(statistics.median(values), min(values), max(values))


def interleaved(calls: dict[str, Callable[[], object]], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of every call in every round, after one round that is not counted.

    The calls take turns, in one order and then in the opposite one, so that what else the machine does hits all of
    them alike. Values of one round can be compared with each other.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        order = list(calls) if number % 2 else list(reversed(calls))
        for name in order:
            start = clock()
            calls[name]()
            taken = clock() - start
            if number:
                seconds[name].append(taken)
    return seconds


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours over theirs, round by round."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


class Matmuls:
    """A list of matrix multiplications and nothing else: what the machine can do at these sizes.

    Attributes:
        flops: Floating-point operations of one call, two per multiplication and addition.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype) -> None:
        """Shapes are (rows, inputs, outputs)."""
        self.flops = sum(2 * rows * inputs * outputs for rows, inputs, outputs in shapes)
        self._pairs = [
            (torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype))
            for rows, inputs, outputs in shapes
        ]

    def __call__(self) -> None:
        for x, weight in self._pairs:
            F.linear(x, weight)


def block_matmuls(tokens: int, width: int, dtype: torch.dtype) -> Matmuls:
    """The four linear layers of a block."""
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    return Matmuls([(tokens, inputs, outputs) for inputs, outputs in shapes], dtype)


def forward_flops(images: int, patches: int, prefix: int, width: int, depth: int, patch_inputs: int) -> int:
    """Floating-point operations of the matrix products of a ViT: patch projection, linear layers, attention."""
    tokens = patches + prefix
    block = 2 * tokens * 12 * width * width + 2 * 2 * tokens * tokens * width
    return images * (2 * patches * patch_inputs * width + depth * block)


def resident_bytes(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process. Linux."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Start a new peak: give freed memory back and set ``VmHWM`` to what is in use. Linux with glibc."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def in_fresh_process(script: str, *arguments: str) -> dict[str, float]:
    """Run a script of this folder in a process of its own; it prints one JSON object as its last line."""
    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def print_header() -> None:
    """Where and with what this runs."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    print(
        f"{datetime.date.today()}, {names[0] if names else platform.machine()} ({len(names)} cores, "
        f"{torch.get_num_threads()} threads), PyTorch {torch.__version__}"
    )


def print_table(title: str, header: Sequence[str]) -> None:
    """The head of a markdown table."""
    print(f"\n### {title}\n")
    print_row(header)
    print_row(["---"] * len(header))


def print_row(cells: Sequence[str]) -> None:
    """A row of a markdown table, at once."""
    print("| " + " | ".join(cells) + " |", flush=True)
