"""``radio export``: the model as a file of ONNX, OpenVINO or torch.export."""

from __future__ import annotations

import argparse
import re

from radio.cli.common import format_bytes, load_chosen_model, print_result, table_lines
from radio.cli.options import (
    add_adaptor,
    add_execution,
    add_feature_fmt,
    add_json,
    add_model,
    add_output,
    add_size,
    positive_int,
)
from radio.files import Outputs

_DYNAMIC = ("batch", "height", "width")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``radio export``."""
    add_model(parser, also_positional=True)
    add_output(parser, "the file to write: *.onnx, *.xml for OpenVINO, or *.pt2 for torch.export")
    add_adaptor(parser, "also export a teacher's outputs (clip, sam, ...); may be repeated")
    add_size(parser, default_help="the preferred one; a fixed size: 512 is 512x512")
    add_feature_fmt(parser, "NLC")
    parser.add_argument(
        "--dynamic",
        type=_dimensions,
        default=[],
        metavar="DIMS",
        help="dimensions that may change: any of batch,height,width",
    )
    parser.add_argument("--batch", type=positive_int, default=1, help="fixed number of images (default: 1)")
    parser.add_argument(
        "--check", action="store_true", help="compare the file with the model at sizes it was not traced at"
    )
    add_json(parser)
    add_execution(parser, device="cpu", dtype="float32", runtime=False)


def run(args: argparse.Namespace) -> None:
    """Export, and say what was written and how well it agrees."""
    from radio.export import check_path, export_model, output_names

    outputs = Outputs([args.model])
    outputs.check(args.output)
    check_path(args.output)

    model = load_chosen_model(args)
    outputs.add_inputs(model.checkpoint_path)
    checks = export_model(
        model,
        args.output,
        dynamic=args.dynamic,
        size=_fixed_size(args.size),
        batch=args.batch,
        feature_fmt=args.feature_fmt,
        check=args.check,
        outputs=outputs,
    )
    written = args.output.stat().st_size
    lines = [f"{args.output}  {format_bytes(written)}", f"outputs: {', '.join(output_names(model))}"]
    if checks:
        rows = [
            ("x".join(map(str, check.shape)), name, f"{error:.1e}")
            for check in checks
            for name, error in check.errors.items()
        ]
        lines += table_lines(rows, header=("input", "output", "max error / max value"))
    result = {
        "output": args.output,
        "bytes": written,
        "outputs": output_names(model),
        "checks": [{"input": list(check.shape), "errors": check.errors} for check in checks],
    }
    print_result(args, result, lines)


def _dimensions(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in _DYNAMIC:
            raise argparse.ArgumentTypeError(f"unknown dimension {name!r}; allowed: {', '.join(_DYNAMIC)}")
    return names


def _fixed_size(text: str | None) -> tuple[int, int] | None:
    """Height and width: without an image there is no side to keep, so one number is a square."""
    if text is None:
        return None
    found = re.fullmatch(r"(?:short:)?([1-9]\d*)|([1-9]\d*)[x×X]([1-9]\d*)", text.strip())
    if not found:
        raise ValueError(f"an export has a fixed size, 512 or 384x768 (height x width), got {text!r}")
    return int(found[1] or found[2]), int(found[1] or found[3])
