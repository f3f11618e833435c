"""The forward pass against transformers, timm, OpenVINO and ONNX Runtime, on the same random weights.

    python benchmarks/forward.py                          # a ViT-B, one image of 224 and of 512 px, minutes
    python benchmarks/forward.py --models ViT-B ViT-L --sides 224 512 768 1024 --images 1 4 --rounds 5   # hours
    python benchmarks/forward.py --threads 1 2 --busy 0 4 # one and two threads, alone and beside 4 processes
    python benchmarks/forward.py --quick                  # a tiny model and a tiny image, seconds

Before anything is timed, the outputs are compared. Needs ``pip install '.[benchmarks,openvino,onnxruntime]'``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from peers import (
    CLS_TOKENS,
    PATCH,
    REGISTERS,
    RUNTIMES,
    SIZES,
    Forward,
    check_equal,
    forward_of,
    graphs_of_this_run,
    random_model,
)
from timing import (
    CLOCKS,
    Clock,
    Matmuls,
    Spread,
    block_matmuls,
    forget_peak,
    forward_flops,
    in_fresh_process,
    interleaved,
    print_header,
    print_row,
    print_table,
    ratios,
    resident_bytes,
    spread,
)
from torch import Tensor

PEERS = ("transformers", "timm")
VARIANTS = {
    "float32": ("radio", *PEERS, *RUNTIMES),
    "bfloat16": (
        "radio",
        *(f"{peer} autocast" for peer in PEERS),
        *(f"{peer} bfloat16" for peer in PEERS),
        "openvino",
    ),
}
"""What is compared, per dtype. Ours always has its weights in that dtype."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
SQUARE = 4096


def build(variant: str, size_name: str, dtype: str) -> Forward:
    """The forward pass of one variant."""
    subject, _, way = variant.partition(" ")
    model = random_model(SIZES[size_name])
    return _forward(subject, way, model, dtype)


def _forward(subject: str, way: str, model: Any, dtype: str) -> Forward:
    if way != "autocast":
        return forward_of(subject, model.to(getattr(torch, dtype)))
    forward = forward_of(subject, model)

    def under_autocast(x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return forward(x)

    return under_autocast


def build_all(size_name: str, dtype: str) -> dict[str, Forward]:
    """All variants of a dtype. Those with weights of the same dtype share them."""
    stored = random_model(SIZES[size_name])
    converted = random_model(SIZES[size_name]).to(getattr(torch, dtype)) if dtype != "float32" else stored
    forwards = {}
    for variant in VARIANTS[dtype]:
        subject, _, way = variant.partition(" ")
        forwards[variant] = _forward(subject, way, stored if way == "autocast" else converted, dtype)
    return forwards


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but compute, as on a machine that others use too."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def compare(
    size_name: str, dtype: str, sides: list[int], images: list[int], rounds: int, square: int, clock: Clock
) -> None:
    """Time the variants of one model and print a row per image size and number of images."""
    forwards = build_all(size_name, dtype)
    apart = check_equal(forwards, torch.rand(1, 3, 4 * PATCH, 6 * PATCH), TOLERANCE[dtype])
    peers = [variant for variant in forwards if variant != "radio" and variant not in RUNTIMES]
    runtimes = [variant for variant in forwards if variant in RUNTIMES]
    columns = ["px", "images", *(f"{variant}, ms" for variant in forwards)]
    columns += ["radio / faster peer", *(["radio / faster native peer"] if dtype != "float32" else [])]
    columns += [f"radio / {variant}" for variant in runtimes]
    columns += ["GFLOP/s", "of the rate of its own linear layers", f"of the rate at {square}³"]
    print_table(f"{size_name}, {dtype}", columns)
    for side in sides:
        for number in images:
            x = torch.rand(number, 3, side, side)
            calls: dict[str, Callable[[], object]] = {
                variant: (lambda forward=forward, x=x: forward(x)) for variant, forward in forwards.items()
            }
            size = SIZES[size_name]
            patches, prefix = (side // PATCH) ** 2, CLS_TOKENS + REGISTERS
            own = block_matmuls(number * (patches + prefix), size.width, getattr(torch, dtype))
            large = Matmuls([(square, square, square)], getattr(torch, dtype))
            seconds = interleaved(calls | {"own": own, "large": large}, rounds, clock)
            flops = forward_flops(number, patches, prefix, size.width, size.depth, 3 * PATCH * PATCH)
            print_row(
                [
                    str(side),
                    str(number),
                    *(f"{1000 * spread(seconds[variant]).median:.0f}" for variant in forwards),
                    *_against(seconds, peers),
                    *(str(ratios(seconds["radio"], seconds[variant])) for variant in runtimes),
                    f"{flops / spread(seconds['radio']).median / 1e9:.0f}",
                    _percent(_rate(seconds, flops, "own", own.flops)),
                    _percent(_rate(seconds, flops, "large", large.flops)),
                ]
            )
    distances = ", ".join(f"{variant} {apart[variant]:.1e}" for variant in [*peers, *runtimes])
    print(f"\nLargest difference from radio's outputs, relative to the largest value: {distances}")


def _against(seconds: dict[str, list[float]], peers: list[str]) -> list[str]:
    """Ours over the faster peer: of float32 or autocast, then of the peers whose weights are bfloat16."""
    native = [peer for peer in peers if peer.endswith("bfloat16")]
    others = [peer for peer in peers if peer not in native]
    cells = []
    for group in (others, native):
        if group:
            faster = min(group, key=lambda peer: spread(seconds[peer]).median)
            cells.append(str(ratios(seconds["radio"], seconds[faster])))
    return cells


def _rate(seconds: dict[str, list[float]], flops: int, name: str, matmul_flops: int) -> Spread:
    """Our rate over the rate of matrix products measured in the same round."""
    reference = seconds[name]
    return spread(
        [
            flops / ours / (matmul_flops / theirs)
            for ours, theirs in zip(seconds["radio"], reference, strict=True)
        ]
    )


def _percent(fraction: Spread) -> str:
    return f"{100 * fraction.median:.0f} % ({100 * fraction.low:.0f}–{100 * fraction.high:.0f})"


def measure_peak(size_name: str, dtype: str, variant: str, side: int, images: int) -> dict[str, float]:
    """Peak memory of this process in bytes, less what it used before the model was built.

    Returns:
        ``weights``: with the model built. ``peak``: during a forward pass, weights included.
    """
    before = resident_bytes("VmRSS")
    forward = build(variant, size_name, dtype)
    x = torch.rand(images, 3, side, side)
    forget_peak()
    built = resident_bytes("VmRSS")
    with torch.inference_mode():
        forward(x)
    return {"weights": built - before, "peak": resident_bytes("VmHWM") - before}


def compare_memory(size_name: str, dtype: str, sides: list[int], images: list[int], threads: int) -> None:
    """Print the peak memory of every variant, each in a process of its own."""
    header = ["px", "images", *(f"{variant}, MB" for variant in VARIANTS[dtype])]
    print_table(f"{size_name}, {dtype}: peak memory of a forward pass (weights alone)", header)
    for side in sides:
        for number in images:
            cells = []
            for variant in VARIANTS[dtype]:
                what = ["--peak", variant, "--models", size_name, "--dtypes", dtype]
                what += ["--sides", str(side), "--images", str(number), "--threads", str(threads)]
                found = in_fresh_process("forward.py", *what)
                cells.append(f"{found['peak'] / 1e6:.0f} ({found['weights'] / 1e6:.0f})")
            print_row([str(side), str(number), *cells])


def compare_all(size_name: str, dtype: str, args: argparse.Namespace) -> None:
    """The tables of one model and dtype: times for every number of threads and of other processes, then memory."""
    if args.only in (None, "time"):
        square = 256 if args.quick else SQUARE
        for threads, others in product(args.threads, args.busy):
            torch.set_num_threads(threads)
            print_header()
            if others:
                print(f"beside {others} processes that compute")
            with torch.inference_mode(), busy(others):
                compare(size_name, dtype, args.sides, args.images, args.rounds, square, CLOCKS[args.clock])
    if args.only in (None, "memory"):
        sides = [args.sides[-1]] if args.quick else args.sides
        compare_memory(size_name, dtype, sides, args.images[:1], args.threads[0])


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model and a tiny image")
    parser.add_argument("--models", nargs="+", default=["ViT-B"], choices=list(SIZES))
    parser.add_argument("--sides", nargs="+", type=int, default=[224, 512])
    parser.add_argument("--images", nargs="+", type=int, default=[1])
    parser.add_argument("--dtypes", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", nargs="+", type=int, default=[len(os.sched_getaffinity(0))])
    parser.add_argument(
        "--busy", nargs="+", type=int, default=[0], help="other processes that compute meanwhile"
    )
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--only", choices=["time", "memory"])
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.models, args.sides, args.images, args.rounds = ["tiny"], [64], [1, 2], 2
    torch.set_num_threads(args.threads[0])

    if args.peak:
        found = measure_peak(args.models[0], args.dtypes[0], args.peak, args.sides[0], args.images[0])
        print(json.dumps(found))
        return
    with graphs_of_this_run():
        for size_name, dtype in product(args.models, args.dtypes):
            compare_all(size_name, dtype, args)


if __name__ == "__main__":
    main()
