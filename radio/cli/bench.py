"""``radio bench``: how fast a model is here, in every runtime and dtype."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from radio.cli.common import format_bytes, print_result, show, table_lines
from radio.cli.options import add_json, dtype_name, positive_int
from radio.wording import counted

if TYPE_CHECKING:
    from radio.bench import Failure, Row

Item = TypeVar("Item")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``radio bench``."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="what load_model takes; by default random weights in the shape of C-RADIOv3-B, without a download",
    )
    parser.add_argument(
        "--sizes",
        type=_several(_size),
        metavar="SIZES",
        help="such as 224,512,768x1024 (height x width); each becomes the nearest that the model takes (default: the "
        "preferred one)",
    )
    parser.add_argument(
        "--runtimes",
        type=_several(str),
        default=["all"],
        metavar="NAMES",
        help="of pytorch, openvino, onnxruntime, with commas between them (default: all that are installed)",
    )
    parser.add_argument(
        "--dtypes",
        type=_several(_dtype),
        metavar="DTYPES",
        help="such as float32,bfloat16 (default: those of each runtime); int8: openvino and onnxruntime only",
    )
    parser.add_argument(
        "--batches",
        type=_several(positive_int),
        default=[1],
        metavar="NUMBERS",
        help="images per call, such as 1,8 (default: 1)",
    )
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="of the CPU (default: PyTorch's choice)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="where PyTorch runs; the other runtimes run on the CPU (default: auto)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="how long each combination is measured (default: 2)",
    )
    parser.add_argument(
        "--vitdet-window-size", type=positive_int, metavar="N", help="side of ViTDet windows, in patches"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, and print a table and a recommendation."""
    from radio.bench import bench, random_model, recommend, runtimes_here

    every = args.runtimes == ["all"]
    failures: list[Failure] = []

    def tell(result: Sequence[Row] | Failure) -> None:
        if isinstance(result, Sequence):
            for row in result:
                show(f"{row.runtime}, {row.dtype}: {row.images_per_second:.2f} images/s", sys.stderr)
        else:
            failures.append(result)
            show(f"{result.runtime}, {result.dtype}: not measured: {result.reason}", sys.stderr)

    with ExitStack() as stack:
        model = args.model if args.model else stack.enter_context(random_model())
        rows = bench(
            model,
            sizes=args.sizes,
            runtimes=None if every else args.runtimes,
            dtypes=args.dtypes,
            batches=args.batches,
            threads=args.threads,
            device=args.device,
            seconds=args.seconds,
            vitdet_window_size=args.vitdet_window_size,
            on_result=tell,
        )
    if not rows:
        raise ValueError("nothing could be measured; the reasons are above")
    missing = {name: reason for name, reason in runtimes_here().items() if reason and every}
    result: dict[str, Any] = {
        "model": args.model or "random weights in the shape of C-RADIOv3-B",
        "rows": [asdict(row) for row in rows],
        "not_measured": [asdict(failure) for failure in failures],
        "not_installed": missing,
        "recommendation": recommend(rows),
    }
    print_result(args, result, _lines(rows, missing, recommend(rows)))


def _lines(rows: Sequence[Row], missing: dict[str, str], advice: Sequence[str]) -> list[str]:
    cells = [
        (
            row.runtime,
            row.dtype,
            f"{row.height}x{row.width}",
            str(row.batch),
            f"{row.images_per_second:.2f}",
            f"{1000 * row.latency:.0f} ({1000 * row.fastest:.0f}-{1000 * row.slowest:.0f})",
            format_bytes(row.memory),
            f"{row.load:.1f}",
        )
        for row in rows
    ]
    lines = table_lines(
        cells,
        header=("runtime", "dtype", "size", "batch", "images/s", "latency, ms (range)", "memory", "load, s"),
    )
    rates = {(row.device, row.dtype): 0.0 for row in rows}
    for row in rows:
        rates[row.device, row.dtype] = max(rates[row.device, row.dtype], row.matmul_rate)
    lines += ["", f"{counted(rows[0].threads, 'thread')}; the rate of matrix products in PyTorch:"]
    lines += [f"  {device}, {dtype}: {rate / 1e9:.0f} GFLOP/s" for (device, dtype), rate in rates.items()]
    lines += [f"  {name}: {reason}" for name, reason in missing.items()]
    return [*lines, "the fastest:", *(f"  {sentence}" for sentence in advice)]


def _several(kind: Callable[[str], Item]) -> Callable[[str], list[Item]]:
    """Several arguments with commas between them."""

    def parse(text: str) -> list[Item]:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]

    return parse


def _dtype(text: str) -> str:
    return text if text == "int8" else dtype_name(text)


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.lower().replace("×", "x").partition("x")
    return positive_int(height), positive_int(width if cross else height)
