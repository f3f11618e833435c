"""``radio export``: the model as an ONNX file or a torch.export program."""

from __future__ import annotations

import argparse
from pathlib import Path

from radio.cli.common import MODEL_HELP, file_size, keep_inputs, positive, print_table

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_DYNAMIC = ("batch", "height", "width")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``radio export``."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="the file to write: *.onnx, or *.pt2 for torch.export",
    )
    parser.add_argument(
        "--adaptors", type=_names, default=[], metavar="NAMES", help="teachers to include, e.g. clip,sam"
    )
    parser.add_argument(
        "--dynamic",
        type=_dimensions,
        default=[],
        metavar="DIMS",
        help="dimensions that may change: any of batch,height,width",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="fixed size in pixels, e.g. 512 or 384x768 (default: the preferred one)",
    )
    parser.add_argument("--batch", type=positive, default=1, help="fixed number of images (default: 1)")
    parser.add_argument(
        "--dtype",
        default="fp32",
        choices=("auto", *_DTYPES, *_DTYPES.values()),
        help="what the file computes in (default: fp32; auto: what the checkpoint says)",
    )
    parser.add_argument(
        "--feature-fmt", default="NLC", choices=("NLC", "NCHW"), help="layout of the features"
    )
    parser.add_argument(
        "--vitdet-window-size", type=positive, metavar="N", help="side of ViTDet windows, in patches"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the file with the model at sizes it was not traced at"
    )


def run(args: argparse.Namespace) -> None:
    """Export, and say what was written and how well it agrees."""
    keep_inputs([args.output], [args.model])
    from radio import load_model
    from radio.export import export_model, output_names

    model = load_model(
        args.model,
        adaptors=args.adaptors,
        device="cpu",
        dtype=_DTYPES.get(args.dtype, args.dtype),
        vitdet_window_size=args.vitdet_window_size,
    )
    checks = export_model(
        model,
        args.output,
        dynamic=args.dynamic,
        size=args.size,
        batch=args.batch,
        feature_fmt=args.feature_fmt,
        check=args.check,
    )
    print(f"{args.output}  {file_size(args.output.stat().st_size)}")
    print(f"outputs: {', '.join(output_names(model))}")
    if checks:
        rows = [
            ("x".join(map(str, check.shape)), name, f"{error:.1e}")
            for check in checks
            for name, error in check.errors.items()
        ]
        print_table(rows, header=("input", "output", "max error / max value"))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _dimensions(text: str) -> list[str]:
    names = _names(text)
    for name in names:
        if name not in _DYNAMIC:
            raise argparse.ArgumentTypeError(f"unknown dimension {name!r}; allowed: {', '.join(_DYNAMIC)}")
    return names


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    return positive(height), positive(width or height)
