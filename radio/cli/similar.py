"""``radio similar``: which patches are like a given one, and what it attends to."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from radio.cli.common import load_chosen_model, print_result, without_unreadable
from radio.cli.options import (
    add_adaptor,
    add_execution,
    add_json,
    add_model,
    add_output,
    add_size,
    add_skip_unreadable,
    add_smooth,
    one_adaptor,
)
from radio.files import Outputs

if TYPE_CHECKING:
    from PIL import Image

    from radio.model import RADIOModel

_EPILOG = """\
The picture shows the image with the chosen patch framed, and the cosine similarity of every patch with it. Further
images are compared with the same patch of the first one.

With --overlay the colors lie over the photograph, at its own size, and nothing else is drawn.

With --attention it shows instead how much the chosen patch attends to the others in one block: the mean over the
heads, then every head. Without --at, how much each class token does (the mean over the heads).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="an image file, and others to compare it with"
    )
    parser.add_argument(
        "--at", type=_point, metavar="X,Y", help="a pixel of the image; the patch that covers it is chosen"
    )
    add_output(parser, "by default NAME-similar.png in this folder", required=False, metavar="PICTURE")
    add_model(parser, optional=True)
    add_adaptor(parser, "compare in a teacher's space (sam, dino_v2, ...), one for all images")
    add_size(parser)
    parser.add_argument("--attention", action="store_true", help="show attention, not similarity")
    parser.add_argument(
        "--block", type=int, metavar="N", help="of --attention; from 0, or from the end with -1 (default: -1)"
    )
    parser.add_argument(
        "--overlay", action="store_true", help="lay the colors over the photograph, at its own size"
    )
    add_smooth(parser)
    add_skip_unreadable(parser)
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Write the picture."""
    from radio.drawing.pictures import check_picture_name, save_picture

    _check(args)
    output = args.output or Path(f"{args.images[0].stem}-{'attention' if args.attention else 'similar'}.png")
    check_picture_name(output)
    outputs = Outputs([*args.images, args.model])
    outputs.check(output)
    args.images = without_unreadable(args.images, args)
    model = load_chosen_model(args)
    outputs.add_inputs(model.checkpoint_path)
    picture = _attention(model, args) if args.attention else _similarity(model, args)
    save_picture(picture, output, outputs)
    print_result(args, {"output": output}, [f"wrote {output}"])


def _check(args: argparse.Namespace) -> None:
    if args.attention and (len(args.images) > 1 or args.adaptor):
        raise ValueError(
            "--attention is about one image in the backbone; leave other images and --adaptor out"
        )
    if not args.attention and args.block is not None:
        raise ValueError("--block belongs to --attention")
    if not args.attention and args.at is None:
        raise ValueError("say which patch: --at X,Y (a pixel of the first image)")


def _similarity(model: RADIOModel, args: argparse.Namespace) -> Image.Image:
    from radio.drawing.similarity import ComparedImage, MapStyle, draw_similarity
    from radio.images import load_image
    from radio.tasks.similarity import patch_at, similarity_to_patch
    from radio.tasks.spatial import spatial_features

    images = [load_image(path) for path in args.images]
    found = [spatial.features for spatial in spatial_features(model, images, args.size, one_adaptor(args), 1)]
    grid = (found[0].shape[-2], found[0].shape[-1])
    patch = patch_at(args.at[0], args.at[1], (images[0].shape[-2], images[0].shape[-1]), grid)
    maps = [similarity_to_patch(features, found[0][:, patch[0], patch[1]]) for features in found]
    compared = map(ComparedImage, (path.name for path in args.images), images, maps)
    return draw_similarity(list(compared), patch, MapStyle(args.smooth, args.overlay))


def _attention(model: RADIOModel, args: argparse.Namespace) -> Image.Image:
    from radio.drawing.similarity import MapStyle, draw_class_attention, draw_patch_attention
    from radio.images import load_image
    from radio.tasks.similarity import attention_maps, patch_at

    name, style = args.images[0].name, MapStyle(args.smooth, args.overlay)
    pixels = load_image(args.images[0])
    resized = model.resize(pixels, args.size)
    grid = (resized.shape[-2] // model.patch_size, resized.shape[-1] // model.patch_size)
    patch = patch_at(args.at[0], args.at[1], (pixels.shape[-2], pixels.shape[-1]), grid) if args.at else None
    maps = attention_maps(model, resized, -1 if args.block is None else args.block, patch)
    if maps.patch is not None and patch is not None:
        return draw_patch_attention(name, pixels, maps.patch, patch, maps.block, style)
    teachers = dict(zip(model.config.summary_idxs, model.config.summary_names, strict=False))
    return draw_class_attention(
        name, pixels, maps.prefix[: model.num_cls_tokens], teachers, maps.block, style
    )


def _point(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected X,Y in pixels, as 120,80, got {text!r}")
    return float(found[1]), float(found[2])
