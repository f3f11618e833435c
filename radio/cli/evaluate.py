"""``radio evaluate``: measure a backbone, a student's or any other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from radio.cli.common import find_images, find_labeled, print_result, table_lines, without_unreadable
from radio.cli.options import (
    add_adaptor,
    add_json,
    add_model,
    add_skip_unreadable,
    one_adaptor,
    positive_int,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Measure a RADIO model, or any other backbone: MODEL and TEACHER may also be KIND:NAME, with "
        "timm:NAME, open_clip:NAME, sam:FOLDER or onnx:FILE. What is measured on data sets of its own is a command of "
        "its own: 'radio evaluate segmentation' and 'radio evaluate stability'."
    )
    add_model(parser, also_positional=True)
    add_adaptor(parser, "measure in this teacher's space, of a RADIO model")
    _add_option(parser, "--option", "another argument of the kind of MODEL, e.g. summary=pooled for onnx")
    parser.add_argument("--labeled", type=Path, metavar="FOLDER", help="one subfolder of images per class")
    parser.add_argument(
        "--test", type=Path, metavar="FOLDER", help="such a folder to test on; by default, leave one out"
    )
    parser.add_argument(
        "--side", type=positive_int, metavar="PX", help="of the center squares (default: the model's own)"
    )
    parser.add_argument("--k", type=positive_int, default=20, help="neighbors that vote (default: 20)")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="images or folders, to measure over resolutions",
    )
    parser.add_argument(
        "--sides",
        type=_sides,
        default=[128, 224, 336, 512],
        metavar="PX,PX,...",
        help="the resolutions (default: 128,224,336,512)",
    )
    parser.add_argument("--teacher", metavar="TEACHER", help="compare with its features at every resolution")
    _add_option(parser, "--teacher-option", "another argument of the kind of TEACHER")
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu (default), cuda, ...")
    add_skip_unreadable(parser)
    add_json(parser)


def _add_option(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    parser.add_argument(
        name, action="append", default=[], metavar="NAME=VALUE", help=f"{help}; may be repeated"
    )


def _sides(text: str) -> list[int]:
    return [positive_int(part) for part in text.split(",")]


def run(args: argparse.Namespace) -> None:
    """Print k-NN, linear probe and RankMe of labeled images, and the measures over resolutions of others."""
    if args.labeled is None and args.images is None:
        raise ValueError("nothing to measure on; give --labeled FOLDER, --images IMAGE ..., or both")
    if args.teacher is not None and args.images is None:
        raise ValueError("--teacher compares features of --images; give some")
    from radio.training import evaluation

    labeled = None if args.labeled is None else find_labeled(args.labeled, args)
    to_test = None if labeled is None or args.test is None else find_labeled(args.test, args)
    images = [] if args.images is None else without_unreadable(find_images(args.images), args)
    backbone = _open(args.model, args.option, args.device, one_adaptor(args))
    results: dict[str, Any] = {"model": args.model}
    if labeled is not None:
        found = evaluation.summarize(backbone, labeled, args.side)
        test = None if to_test is None else evaluation.summarize(backbone, to_test, args.side)
        results |= {"images": len(found.labels), "classes": len(found.classes)}
        results["knn"] = evaluation.knn_accuracy(found, test, args.k)
        results["linear_probe"] = evaluation.linear_probe(found, test)
        results["rank_me"] = evaluation.rank_me(found.vectors)
    if args.images is not None:
        results["scale_equivariance"] = evaluation.scale_equivariance(backbone, images, args.sides)
        if args.teacher is not None:
            teacher = _open(args.teacher, args.teacher_option, args.device, None)
            curve = evaluation.mode_switching(backbone, teacher, images, args.sides)
            results["mode_switching"] = curve
            results["max_over_min"] = max(curve.values()) / max(min(curve.values()), 1e-12)
    print_result(args, results, table_lines(_rows(results)))


def _rows(results: dict[str, Any]) -> Sequence[Sequence[str]]:
    rows = []
    for name, value in results.items():
        if isinstance(value, dict):
            rows += [[f"{name} at {size} px", f"{error:.4f}"] for size, error in value.items()]
        else:
            rows.append([name, f"{value:.4f}" if isinstance(value, float) else str(value)])
    return rows


def _open(name: str, options: list[str], device: str, adaptor: str | None) -> Any:
    from radio.training.teachers import KINDS, build_teacher

    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"an option is NAME=VALUE, got {option!r}")
        numbers = value.split(",")
        if all(part.replace(".", "", 1).isdecimal() for part in numbers):
            parsed = [float(part) if "." in part else int(part) for part in numbers]
            given[key] = parsed if len(parsed) > 1 else parsed[0]
        else:
            given[key] = value
    kind, colon, model = name.partition(":")
    if not colon or kind not in KINDS:
        kind, model = "radio", name
        if adaptor is not None:
            given["adaptor"] = adaptor
    return build_teacher(kind, model, device=device, **given)
