"""``radio zeroshot``: which label fits an image best."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from radio.cli.common import add_model_arguments, find_images, positive, print_table, progress
from radio.cli.labels import add_label_arguments, load_with_text, read_labels

if TYPE_CHECKING:
    from radio.tasks.zero_shot import Ranked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them"
    )
    add_label_arguments(parser)
    add_model_arguments(parser, adaptors=False)
    parser.add_argument(
        "--size", help="512 (short side), 512x768, crop:224x224, … (default: what the model prefers)"
    )
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="labels to show (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Print the labels of every image, best first."""
    from radio.encoding import Encoding
    from radio.tasks.zero_shot import PHOTO_TEMPLATES, ZeroShotClassifier, get_adaptor

    labels = read_labels(args)
    paths = find_images(args.images)
    model, adaptor = load_with_text(args)
    classifier = ZeroShotClassifier.build(
        get_adaptor(model, adaptor), labels, args.template or PHOTO_TEMPLATES
    )
    size = args.size or f"short:{min(model.preferred_resolution)}"
    found: list[tuple[str, list[Ranked]]] = []
    for path in progress(paths, len(paths), "images"):
        encoding = model.encode(path, size=size)
        assert isinstance(encoding, Encoding)
        (ranked,) = classifier.rank(encoding.adaptors[adaptor].summary, args.top)
        found.append((str(path), ranked))
    if args.json:
        images = [
            {"image": image, "labels": [label._asdict() for label in ranked]} for image, ranked in found
        ]
        print(json.dumps({"adaptor": adaptor, "images": images}, indent=2))
        return
    for image, ranked in found:
        print(image)
        rows = [
            [f"{rank:4d}", one.label, f"{one.probability:7.1%}", f"{one.similarity:7.4f}"]
            for rank, one in enumerate(ranked, start=1)
        ]
        print_table(rows, header=["rank", "label", "  share", " cosine"])
        print()
