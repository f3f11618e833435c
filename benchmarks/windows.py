"""ViTDet windows against global attention: time and peak memory per image size, and how they grow. Markdown tables.

    python benchmarks/windows.py                 # ViT-L in bfloat16, 512 to 2048 pixels; minutes on a CPU
    python benchmarks/windows.py --quick         # a tiny model and small images, seconds
    python benchmarks/windows.py --device cuda --dtype bfloat16

Every row runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence

import torch
from peers import PATCH, SIZES, random_model
from timing import CLOCKS, forget_peak, in_fresh_process, print_header, print_row, print_table, resident_bytes

GLOBAL = 0


def exponent(sides: Sequence[int], seconds: Sequence[float]) -> float:
    """The power of the number of pixels that the seconds grow with, fitted by least squares on logarithms."""
    xs = [math.log(side * side) for side in sides]
    ys = [math.log(value) for value in seconds]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - x_mean) ** 2 for x in xs)


@torch.inference_mode()
def measure(
    size: str, dtype: str, device_name: str, window: int, side: int, clock_name: str, threads: int
) -> dict:
    """Seconds and peak memory of a forward pass, and seconds of one block alone. The schedule is 4 global blocks."""
    if threads:
        torch.set_num_threads(threads)
    clock, device = CLOCKS[clock_name], torch.device(device_name)
    model = random_model(SIZES[size]).to(device, getattr(torch, dtype))
    if window:
        model.window_size = window
    tokens = (side // PATCH) ** 2
    shape = (tokens // window**2, window**2) if window else (1, tokens + model.num_summary_tokens)
    x = torch.rand(1, 3, side, side, device=device)
    warm = PATCH * 2 * (window or 8)
    model(x[:, :, :warm, :warm])
    in_block = torch.rand(*shape, model.embed_dim, device=device).to(model.dtype)
    model.blocks[0](in_block[:1])

    def seconds_of(call) -> float:  # type: ignore[no-untyped-def]
        if device.type == "cuda":
            call()
            torch.cuda.synchronize()
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    block = seconds_of(lambda: model.blocks[0](in_block))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        forget_peak()
        before = resident_bytes("VmRSS")
    forward = seconds_of(lambda: model(x))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident_bytes("VmHWM")
    return {"forward": forward, "block": block, "memory": peak - before}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-L", choices=SIZES)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 768, 1024, 1536, 2048])
    parser.add_argument(
        "--windows", type=int, nargs="+", default=[8, 16], help="sides of the windows, in patches"
    )
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 for its own choice")
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--quick", action="store_true", help="a tiny model and small images")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(**json.loads(args.one))))
        return
    if args.quick:
        args.model, args.sides, args.windows = "tiny", [128, 256], [4]
    if args.threads:
        torch.set_num_threads(args.threads)
    print_header()
    print_table(
        f"{args.model}, {args.dtype}, one image, {args.clock} clock",
        ["attention", "side", "forward, s", "of global", "one block, s", "peak memory above the weights, MB"],
    )
    rows: dict[int, list[dict]] = {}
    for window in (GLOBAL, *args.windows):
        for side in args.sides:
            request = {"size": args.model, "dtype": args.dtype, "device_name": args.device, "window": window}
            request |= {"side": side, "clock_name": args.clock, "threads": args.threads}
            # A process of its own has a peak of its own; with --quick nobody reads the memory.
            row = (
                measure(**request)
                if args.quick
                else in_fresh_process("windows.py", "--one", json.dumps(request))
            )
            rows.setdefault(window, []).append(row)
            whole = rows[GLOBAL][args.sides.index(side)]["forward"]
            name = f"windows of {window}" if window else "global"
            cells = [f"{row['forward']:.2f}", f"{row['forward'] / whole:.2f}", f"{row['block']:.3f}"]
            print_row([name, str(side), *cells, f"{row['memory'] / 1e6:.0f}"])
    print_table("Power of the number of pixels that it grows with", ["attention", "forward", "one block"])
    for window, measured in rows.items():
        name = f"windows of {window}, block is windowed" if window else "global"
        fitted = [exponent(args.sides, [row[what] for row in measured]) for what in ("forward", "block")]
        print_row([name, *(f"{value:.2f}" for value in fitted)])


if __name__ == "__main__":
    main()
