"""``radio evaluate segmentation``: mean intersection over union of labels in words, on a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from radio.cli.common import load_chosen_model, print_result, progress, table_lines
from radio.cli.labels import add_text_arguments, choose_text_adaptor, read_templates
from radio.cli.options import add_execution, add_json, add_model, one_adaptor, positive_int
from radio.cli.segmenting import add_segment_arguments, segment_options

if TYPE_CHECKING:
    from radio.data.dense import MaskFolder

_EPILOG = """\
A data set is a folder as ADE20k's (images, annotations, objectInfo150.txt), PASCAL VOC's (JPEGImages,
SegmentationClass, ImageSets), or any with images and masks of the same names.

  radio evaluate segmentation -m c-radio_v3-b --dataset ADEChallengeData2016 --template-set openai
  radio evaluate segmentation -m c-radio_v3-b --dataset VOC2012 --background sky,wall,floor,tree --refine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add_model(parser)
    data = parser.add_argument_group("data set")
    data.add_argument("--dataset", type=Path, required=True, metavar="FOLDER", help="the data set's folder")
    data.add_argument(
        "--split", metavar="NAME", help="a part of it (default: validation for ADE20k, val for PASCAL VOC)"
    )
    data.add_argument(
        "--classes-file",
        type=Path,
        metavar="FILE",
        help="names of the classes, one per line in the order of their labels; commas separate several names of one "
        "(default: the data set's own)",
    )
    data.add_argument(
        "--reduce-zero-label",
        action="store_true",
        help="0 stands for no label and 1 is the first, as in ADE20k",
    )
    data.add_argument("--limit", type=positive_int, metavar="N", help="only the first N images")
    add_text_arguments(parser.add_argument_group("labels"))
    background = parser.add_argument_group("background")
    background.add_argument(
        "--background", metavar="A,B,…", help="names in place of those of the class 'background'"
    )
    add_segment_arguments(parser, "count as the class 'background'")
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Print mIoU, pixel accuracy and each class's IoU."""
    from radio.tasks.segmentation import label_embeddings
    from radio.tasks.segmentation_evaluation import evaluate_segmentation, names_of
    from radio.tasks.zero_shot import get_adaptor

    data = _data(args)
    words = [word.strip() for word in (args.background or "").split(",") if word.strip()]
    names = names_of(data.classes, words)
    options = segment_options(args)
    adaptor = one_adaptor(args) or choose_text_adaptor(args.model)
    model = load_chosen_model(args, adaptors=[adaptor], text_weights=args.text_weights)
    labels = label_embeddings(get_adaptor(model, adaptor), names, read_templates(args))
    found = evaluate_segmentation(model, adaptor, data, labels, options, progress)
    result = {"model": args.model, "adaptor": adaptor, "images": len(data), **found}
    rows = [
        [key, f"{value:.4f}" if isinstance(value, float) else str(value)] for key, value in result.items()
    ]
    print_result(args, result, table_lines(rows))


def _data(args: argparse.Namespace) -> MaskFolder:
    from radio.data.segmentation import segmentation_folder

    classes = None
    if args.classes_file is not None:
        lines = args.classes_file.read_text("utf-8").splitlines()
        classes = [line.strip() for line in lines if line.strip()]
    data = segmentation_folder(args.dataset, args.split, classes, args.reduce_zero_label)
    data.paths, data.targets = data.paths[: args.limit], data.targets[: args.limit]
    return data
