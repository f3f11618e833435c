"""``radio zeroshot``: which label fits an image best."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from radio.cli.common import find_images, print_table, progress, show, without_unreadable
from radio.cli.labels import (
    DEFAULT_WITH_TEXT,
    add_label_arguments,
    load_with_text,
    read_labels,
    read_templates,
)
from radio.cli.options import (
    add_execution,
    add_json,
    add_model,
    add_size,
    add_skip_unreadable,
    positive_int,
)

if TYPE_CHECKING:
    from radio.tasks.zero_shot import Ranked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them"
    )
    add_label_arguments(parser)
    add_model(parser, optional=True, default_help=DEFAULT_WITH_TEXT)
    add_size(parser)
    parser.add_argument(
        "--top", type=positive_int, default=5, metavar="N", help="labels to show (default: 5)"
    )
    add_skip_unreadable(parser)
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Print the labels of every image, best first."""
    from radio.tasks.zero_shot import ZeroShotClassifier, get_adaptor

    labels, templates = read_labels(args), read_templates(args)
    paths = without_unreadable(find_images(args.images), args)
    model, adaptor = load_with_text(args)
    classifier = ZeroShotClassifier.build(get_adaptor(model, adaptor), labels, templates)
    found: list[tuple[str, list[Ranked]]] = []
    for path in progress(paths, len(paths), "images"):
        encoding = model.encode(path, size=args.size)
        (ranked,) = classifier.rank(encoding.adaptors[adaptor].summary, args.top)
        found.append((str(path), ranked))
    if args.json:
        images = [
            {"image": image, "labels": [label._asdict() for label in ranked]} for image, ranked in found
        ]
        print(json.dumps({"adaptor": adaptor, "images": images}, indent=2))
        return
    for image, ranked in found:
        show(image)
        rows = [
            [f"{rank:4d}", one.label, f"{one.probability:7.1%}", f"{one.similarity:7.4f}"]
            for rank, one in enumerate(ranked, start=1)
        ]
        print_table(rows, header=["rank", "label", "  share", " cosine"])
        print()
