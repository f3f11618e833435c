"""A GPU's images per second: eager and compiled, against the peers, and against its own matmul rate. Markdown tables.

    python benchmarks/gpu.py                                          # ViT-B, L and H in bfloat16; an NVIDIA GPU
    python benchmarks/gpu.py --models ViT-L --sides 512 --batches 32
    python benchmarks/gpu.py --minutes 9 | tee gpu.md                 # what fits into a short loan of a GPU
    python benchmarks/gpu.py --tiny --device cpu                      # a tiny model on a CPU, to test the script

The yardstick is the rate at which this device multiplies large bfloat16 matrices, measured in the same run. "Of the
matmul rate" counts the floating-point operations of the model's matrix products only, so 100 % would leave no time for
anything else. ``reduce-overhead`` and ``max-autotune`` are torch.compile's modes; the first one uses CUDA graphs.
Everything is compiled anew for every row, for its size alone: the full grid has 108 compiled rows and takes an hour or
more. Rows are printed as they come, 512 px with 32 images first. A row that does not fit into memory or fails says
why, and the others go on. Peak memory includes the weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import groupby, product
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from peers import CLS_TOKENS, PATCH, REGISTERS, SIZES, Forward, check_equal, forward_of, random_model
from timing import forward_flops, print_row, print_table

from radio.modeling.network import RADIONetwork

SUBJECTS = ("radio", "transformers", "timm")
MODES = {
    "eager": None,
    "compiled": "default",
    "reduce-overhead": "reduce-overhead",
    "max-autotune": "max-autotune",
}
TOLERANCE = 0.1
GOAL = (512, 32)
"""Side and batch of the size that matters most; it is measured first."""

Case = tuple[str, int, int]
"""Model, side in pixels, batch."""


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(call: Callable[[], object], device: torch.device, repeats: int, warm_up: int) -> float:
    """The median time of a call, after calls that are not counted."""
    for _ in range(warm_up):
        call()
    wait(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def matmul_rate(device: torch.device, side: int) -> float:
    """Floating-point operations per second of a large bfloat16 matrix product."""
    a, b = torch.randn(2, side, side, device=device).to(torch.bfloat16)
    return 2 * side**3 / median_seconds(lambda: F.linear(a, b), device, repeats=20, warm_up=5)


def describe(device: torch.device) -> str:
    """The device and the software."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"{time.strftime('%Y-%m-%d')}, {name}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}"


def forget(device: torch.device) -> None:
    """Drop compiled code and start a new memory peak."""
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def measure(forward: Forward, mode: str, x: torch.Tensor, repeats: int) -> tuple[float, float]:
    """Seconds of a batch, and peak memory in bytes (0 on a CPU)."""
    forget(x.device)
    compiled: Any = forward if MODES[mode] is None else torch.compile(forward, mode=MODES[mode])
    seconds = median_seconds(lambda: compiled(x), x.device, repeats, warm_up=3)
    peak = torch.cuda.max_memory_allocated(x.device) if x.device.type == "cuda" else 0
    return seconds, peak


def plan(models: list[str], sides: list[int], batches: list[int]) -> list[Case]:
    """Every model, side and batch, the goal's size of every model first."""
    cases = list(product(models, sides, batches))
    return sorted(cases, key=lambda case: case[1:] != GOAL)


def peers_that_agree(model: RADIONetwork, subjects: list[str], x: torch.Tensor) -> dict[str, Forward]:
    """The forward passes to measure; a peer that cannot be built or computes something else is left out and named."""
    forwards: dict[str, Forward] = {}
    for subject in subjects:
        try:
            forward = forward_of(subject, model)
            check_equal({"radio": model, subject: forward}, x, TOLERANCE)
        except Exception as error:
            print(f"{subject} is left out: {reason(error)}", file=sys.stderr, flush=True)
        else:
            forwards[subject] = forward
    return forwards


def reason(error: Exception) -> str:
    """What went wrong, short enough for a cell of a table."""
    if isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error):
        return "out of memory"
    first_line = str(error).strip().partition("\n")[0].replace("|", "/")
    return f"{type(error).__name__}: {first_line[:80]}"


def row_of(name: str, forward: Forward, mode: str, x: torch.Tensor, repeats: int, rate: float) -> list[str]:
    """Images per second, share of the matmul rate and peak memory, or why there are none."""
    try:
        seconds, peak = measure(forward, mode, x, repeats)
    except Exception as error:
        return [reason(error), "", ""]
    size, batch = SIZES[name], x.shape[0]
    patches = (x.shape[-1] // PATCH) ** 2
    flops = forward_flops(batch, patches, CLS_TOKENS + REGISTERS, size.width, size.depth, 3 * PATCH * PATCH)
    return [f"{batch / seconds:.1f}", f"{flops / seconds / rate:.0%}", f"{peak / 1e9:.1f}"]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["ViT-L", "ViT-B", "ViT-H"], choices=SIZES)
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 512, 1024], help="pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=MODES)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--minutes", type=float, help="start no row after this time")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and tiny images")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no NVIDIA GPU here; --tiny --device cpu tests the script")
    deadline = time.monotonic() + 60 * args.minutes if args.minutes is not None else float("inf")
    side = 8192
    if args.tiny:
        args.models, args.sides, args.batches, args.repeats, side = ["tiny"], [64], [2], 1, 256
    rate = matmul_rate(device, side)
    print_table(
        f"{describe(device)}, bfloat16 matmul rate {rate / 1e12:.2f} TFLOP/s ({side} x {side})",
        ["model", "side", "batch", "subject", "mode", "images/s", "of the matmul rate", "peak memory, GB"],
    )
    rows = [
        (name, list(cases))
        for name, cases in groupby(plan(args.models, args.sides, args.batches), itemgetter(0))
    ]
    skipped = 0
    for name, cases in rows:
        subjects_modes = list(product(args.subjects, args.modes))
        if time.monotonic() > deadline:
            skipped += len(cases) * len(subjects_modes)
            continue
        forwards: dict[str, Forward] = {}  # the last model's memory is free before the next one is built
        model = random_model(SIZES[name]).to(device, torch.bfloat16)
        forwards = peers_that_agree(model, args.subjects, torch.rand(1, 3, 64, 64, device=device))
        for (_, pixels, batch), (subject, mode) in product(cases, subjects_modes):
            if subject not in forwards:
                continue
            if time.monotonic() > deadline:
                skipped += 1
                continue
            x = torch.rand(batch, 3, pixels, pixels, device=device)
            cells = row_of(name, forwards[subject], mode, x, args.repeats, rate)
            print_row([name, str(pixels), str(batch), subject, mode, *cells])
    if skipped:
        print(f"\n{skipped} rows were not measured: {args.minutes:g} minutes were over")


if __name__ == "__main__":
    main()
