"""What the commands that give every pixel a label share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from radio.cli.options import add_size, positive_int

if TYPE_CHECKING:
    from radio.tasks.segmentation import SegmentOptions


def add_segment_arguments(parser: argparse.ArgumentParser, unknown: str) -> None:
    """Add ``--size``, ``--window``, ``--stride``, ``--least-share``, and ``--refine`` with its numbers.

    Args:
        parser: Of the command.
        unknown: What becomes of pixels whose best label is not sure enough.
    """
    add_size(parser, default_help="its own, the short side at least what the model prefers")
    parser.add_argument(
        "--window", type=positive_int, metavar="PIXELS", help="side of the crops that cover a large image"
    )
    parser.add_argument("--stride", type=positive_int, metavar="PIXELS", help="distance of neighboring crops")
    parser.add_argument(
        "--least-share",
        type=float,
        metavar="P",
        help=f"pixels whose best label has a smaller share (softmax over the labels) {unknown}",
    )
    refine = parser.add_argument_group("self-correlation")
    refine.add_argument(
        "--refine", action="store_true", help="average similarities over patches of the image that look alike"
    )
    refine.add_argument(
        "--refine-threshold",
        type=float,
        default=0.5,
        metavar="R",
        help="how much alike: correlation (default: 0.5)",
    )
    refine.add_argument(
        "--refine-temperature", type=float, default=0.05, metavar="T", help="of their weights (default: 0.05)"
    )
    refine.add_argument(
        "--refine-rounds", type=positive_int, default=1, metavar="N", help="how often (default: 1)"
    )


def segment_options(args: argparse.Namespace) -> SegmentOptions:
    """What was asked for.

    Raises:
        ValueError: A number that makes no sense.
    """
    from radio.tasks.segmentation import SegmentOptions
    from radio.tasks.self_correlation import SelfCorrelation

    refine = None
    if args.refine:
        refine = SelfCorrelation(args.refine_threshold, args.refine_temperature, args.refine_rounds)
    return SegmentOptions(args.size, args.window, args.stride, refine, args.least_share)
