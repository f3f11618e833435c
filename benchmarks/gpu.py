"""A GPU's images per second: eager and compiled, against the peers, and against its own matmul rate. Markdown tables.

    python benchmarks/gpu.py                                          # ViT-B, L and H in bfloat16; an NVIDIA GPU
    python benchmarks/gpu.py --models ViT-L --sides 512 --batches 32
    python benchmarks/gpu.py --tiny --device cpu                      # a tiny model on a CPU, to test the script

The yardstick is the rate at which this device multiplies large bfloat16 matrices, measured in the same run. "Of the
matmul rate" counts the floating-point operations of the model's matrix products only, so 100 % would leave no time for
anything else. ``reduce-overhead`` and ``max-autotune`` are torch.compile's modes; the first one uses CUDA graphs. A row
that does not fit into memory says so. Peak memory includes the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peers import CLS_TOKENS, PATCH, REGISTERS, SIZES, Forward, check_equal, forward_of, random_model
from timing import forward_flops, print_row, print_table

SUBJECTS = ("radio", "transformers", "timm")
MODES = {
    "eager": None,
    "compiled": "default",
    "reduce-overhead": "reduce-overhead",
    "max-autotune": "max-autotune",
}
TOLERANCE = 0.1


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


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["ViT-B", "ViT-L", "ViT-H"], choices=SIZES)
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 512, 1024], help="pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=MODES)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="a tiny model and tiny images")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no NVIDIA GPU here; --tiny --device cpu tests the script")
    side = 8192
    if args.tiny:
        args.models, args.sides, args.batches, args.repeats, side = ["tiny"], [64], [2], 1, 256
    rate = matmul_rate(device, side)
    print(f"{describe(device)}, bfloat16 matmul rate {rate / 1e12:.2f} TFLOP/s ({side} x {side})")
    for name in args.models:
        size = SIZES[name]
        model = random_model(size).to(device, torch.bfloat16)
        forwards = {subject: forward_of(subject, model) for subject in args.subjects}
        forwards.setdefault("radio", model)
        check_equal(forwards, torch.rand(1, 3, args.sides[0], args.sides[0], device=device), TOLERANCE)
        print_table(
            f"{name}, bfloat16",
            ["side", "batch", "subject", "mode", "images/s", "of the matmul rate", "peak memory, GB"],
        )
        for pixels in args.sides:
            patches = (pixels // PATCH) ** 2
            for batch in args.batches:
                flops = forward_flops(
                    batch, patches, CLS_TOKENS + REGISTERS, size.width, size.depth, 3 * PATCH * PATCH
                )
                x = torch.rand(batch, 3, pixels, pixels, device=device)
                for subject in args.subjects:
                    for mode in args.modes:
                        cells = [str(pixels), str(batch), subject, mode]
                        try:
                            seconds, peak = measure(forwards[subject], mode, x, args.repeats)
                        except torch.cuda.OutOfMemoryError:
                            print_row([*cells, "out of memory", "", ""])
                            continue
                        share = flops / seconds / rate
                        print_row([*cells, f"{batch / seconds:.1f}", f"{share:.0%}", f"{peak / 1e9:.1f}"])


if __name__ == "__main__":
    main()
