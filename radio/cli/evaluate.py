"""``radio evaluate``: measure a backbone, a student's or any other."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from radio.cli.common import find_images, positive, print_table

_FORM = "KIND:MODEL (timm:NAME, open_clip:NAME, sam:NAME, onnx:FILE), or a RADIO version, folder or file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("backbone", metavar="BACKBONE", help=_FORM)
    parser.add_argument("--adaptor", metavar="NAME", help="of a RADIO model: the space to measure")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another argument of that kind, e.g. summary=pooled for an ONNX output; may be repeated",
    )
    parser.add_argument("--labelled", type=Path, metavar="FOLDER", help="one subfolder of images per class")
    parser.add_argument(
        "--test", type=Path, metavar="FOLDER", help="such a folder to test; else leave one out"
    )
    parser.add_argument(
        "--size", type=positive, help="side of images in pixels (default: the backbone's own)"
    )
    parser.add_argument("--k", type=positive, default=20, help="neighbors that vote (default: 20)")
    parser.add_argument("--images", type=Path, nargs="+", metavar="IMAGE", help="to measure over resolutions")
    parser.add_argument("--sizes", default="128,224,336,512", help="resolutions (default: 128,224,336,512)")
    parser.add_argument(
        "--teacher", metavar="TEACHER", help="compare with it at every resolution; form as BACKBONE"
    )
    parser.add_argument("--teacher-option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Print k-NN, linear probe and RankMe of labelled images, and the measures over resolutions of others."""
    if args.labelled is None and args.images is None:
        raise ValueError("nothing to measure on; give --labelled FOLDER, --images IMAGE ..., or both")
    if args.teacher is not None and args.images is None:
        raise ValueError("--teacher compares features of --images; give some")
    from radio.training import evaluation

    backbone = _open(args.backbone, args.option, args.device, args.adaptor)
    results: dict[str, Any] = {"backbone": args.backbone}
    if args.labelled is not None:
        found = evaluation.summarize(backbone, args.labelled, args.size)
        results["images"] = len(found.labels)
        results["classes"] = len(found.classes)
        results["knn"] = evaluation.knn_accuracy(backbone, args.labelled, args.size, args.test, args.k)
        results["linear_probe"] = evaluation.linear_probe(backbone, args.labelled, args.test, args.size)
        results["rank_me"] = evaluation.rank_me(found.vectors)
    if args.images is not None:
        images = find_images(args.images)
        sizes = [positive(size) for size in args.sizes.split(",")]
        results["scale_equivariance"] = evaluation.scale_equivariance(backbone, images, sizes)
        if args.teacher is not None:
            teacher = _open(args.teacher, args.teacher_option, args.device, None)
            curve = evaluation.mode_switching(backbone, teacher, images, sizes)
            results["mode_switching"] = curve
            results["max_over_min"] = max(curve.values()) / min(curve.values())
    if args.json:
        print(json.dumps(results, indent=2))
        return
    rows = []
    for name, value in results.items():
        if isinstance(value, dict):
            rows += [[f"{name} at {size} px", f"{error:.4f}"] for size, error in value.items()]
        else:
            rows.append([name, f"{value:.4f}" if isinstance(value, float) else str(value)])
    print_table(rows)


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
