"""``radio match``: which patches of two photographs belong together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from radio.cli.common import load_chosen_model, print_result
from radio.cli.options import (
    add_adaptor,
    add_execution,
    add_json,
    add_model,
    add_output,
    add_size,
    one_adaptor,
    positive_int,
)
from radio.files import Outputs

if TYPE_CHECKING:
    from torch import Tensor

_EPILOG = """\
Two patches belong together if each is the one most similar to the other (best buddies). The picture shows those that
are most similar and lie apart.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("first", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument("second", type=Path, metavar="IMAGE", help="another image file")
    add_output(parser, "by default FIRST-SECOND-match.png in this folder", required=False, metavar="PICTURE")
    add_model(parser, optional=True)
    add_adaptor(parser, "compare in a teacher's space (sam, dino_v2, ...), one for both images")
    add_size(parser)
    parser.add_argument(
        "--count", type=positive_int, default=40, metavar="N", help="pairs in the picture (default: 40)"
    )
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="only patches of the foreground, by the first principal component of both images",
    )
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Write the picture."""
    from radio.drawing.matching import draw_matches
    from radio.drawing.pictures import check_picture_name, save_picture
    from radio.images import load_image
    from radio.tasks.matching import best_buddies, spread_out
    from radio.tasks.spatial import spatial_features

    output = args.output or Path(f"{args.first.stem}-{args.second.stem}-match.png")
    check_picture_name(output)
    outputs = Outputs([args.first, args.second, args.model])
    outputs.check(output)
    images = load_image(args.first), load_image(args.second)
    model = load_chosen_model(args)
    outputs.add_inputs(model.checkpoint_path)
    first, second = (
        spatial.features for spatial in spatial_features(model, images, args.size, one_adaptor(args), 1)
    )
    masks: tuple[Tensor | None, Tensor | None] = (None, None)
    if args.foreground:
        masks = _foreground(first, second)
    matches = best_buddies(first, second, *masks)
    grids = (first.shape[-2], first.shape[-1]), (second.shape[-2], second.shape[-1])
    shown = spread_out(matches, args.count, grids[0])
    picture = draw_matches((args.first.name, args.second.name), images, grids, (shown.first, shown.second))
    save_picture(picture, output, outputs)
    result = {
        "output": output,
        "grids": grids,
        "matches": [
            {"first": one, "second": other, "similarity": similarity}
            for one, other, similarity in zip(*(value.tolist() for value in matches), strict=True)
        ],
    }
    pairs = f"pairs of patches: {len(matches.similarity)}, in the picture: {len(shown.similarity)}"
    print_result(args, result, [f"wrote {output}", pairs])


def _foreground(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    from radio.tasks.foreground import foreground_mask
    from radio.tasks.pca import PCAAccumulator

    accumulator = PCAAccumulator()
    accumulator.add(first)
    accumulator.add(second)
    fit = accumulator.fit()
    return foreground_mask(fit, first), foreground_mask(fit, second)
