"""``radio segment``: labels in words for every pixel of an image."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from radio.cli.common import print_table, show
from radio.cli.labels import (
    DEFAULT_WITH_TEXT,
    add_label_arguments,
    load_with_text,
    read_labels,
    read_templates,
)
from radio.cli.options import add_execution, add_json, add_model, add_output
from radio.cli.segmenting import add_segment_arguments, segment_options
from radio.files import Outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    add_output(parser, "where the picture goes", metavar="PICTURE")
    add_label_arguments(parser)
    add_model(parser, optional=True, default_help=DEFAULT_WITH_TEXT)
    add_segment_arguments(parser, "get no label")
    parser.add_argument("--opacity", type=float, default=0.55, help="of the colors, 0 to 1 (default: 0.55)")
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Write the picture and print how much of the image each label has, largest first."""
    import torch

    from radio.drawing.pictures import check_picture_name, save_picture
    from radio.drawing.segmentation import SMALL_SHARE, draw_segmentation
    from radio.images import load_image
    from radio.tasks.segmentation import UNKNOWN, label_embeddings, segment_labels
    from radio.tasks.zero_shot import get_adaptor

    check_picture_name(args.output)
    outputs = Outputs([args.image, args.labels_file, args.model, args.text_weights])
    outputs.check(args.output)
    labels = read_labels(args)
    templates, options = read_templates(args), segment_options(args)
    pixels = load_image(args.image)
    model, adaptor = load_with_text(args)
    outputs.add_inputs(model.checkpoint_path)
    embeddings = label_embeddings(get_adaptor(model, adaptor), labels, templates)
    found = segment_labels(model, adaptor, pixels, embeddings, options)
    picture = draw_segmentation(pixels, found, labels, args.opacity)
    save_picture(picture, args.output, outputs)
    known = found[found != UNKNOWN]
    shares = torch.bincount(known, minlength=len(labels)) / found.numel()
    ranked = sorted(zip(labels, shares.tolist(), strict=True), key=lambda pair: -pair[1])
    if args.json:
        regions = [{"label": label, "share": share} for label, share in ranked]
        print(json.dumps({"adaptor": adaptor, "picture": str(args.output), "labels": regions}, indent=2))
        return
    print_table(
        [[label, f"{share:6.1%}"] for label, share in ranked if share >= SMALL_SHARE],
        header=["label", " share"],
    )
    small = [label for label, share in ranked if share < SMALL_SHARE]
    if small:
        show(f"under {SMALL_SHARE:.1%} each: {', '.join(small)}")
    print()
    show(f"written: {args.output}")
