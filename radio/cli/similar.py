"""``radio similar``: which patches are like a given one, and what it attends to."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from radio.cli.common import add_model_arguments, keep_inputs, load, written_at_once

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from radio.drawing.pictures import Size
    from radio.model import RADIOModel

_EPILOG = """\
The picture shows the image with the chosen patch framed, and the cosine similarity of every patch with it. Further
images are compared with the same patch of the first one.

With --attention it shows instead how much the chosen patch attends to the others in one block: the mean over the
heads, then every head. Without --at, how much each class token does (the mean over the heads).
"""

_SIDE = 448
_HEAD_SIDE = 224
_HEADS_IN_A_ROW = 6
_MARK = (255, 255, 255)


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
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PICTURE", help="by default NAME-similar.png in this folder"
    )
    parser.add_argument(
        "--size", metavar="SIZE", help="size at which the images are run: 512 (short side), long:1024, …"
    )
    parser.add_argument("--attention", action="store_true", help="show attention, not similarity")
    parser.add_argument(
        "--block", type=int, metavar="N", help="of --attention; from 0, or from the end with -1 (default: -1)"
    )
    add_model_arguments(parser, adaptors=False)
    parser.add_argument("--adaptor", metavar="NAME", help="compare in a teacher's space (sam, dino_v2, …)")


def run(args: argparse.Namespace) -> None:
    """Write the picture."""
    _check(args)
    output = args.output or Path(f"{args.images[0].stem}-{'attention' if args.attention else 'similar'}.png")
    keep_inputs([output], [*args.images, args.model])
    model = load(args, adaptors=[args.adaptor] if args.adaptor else [])
    picture = _attention(model, args) if args.attention else _similarity(model, args)
    with written_at_once(output) as temporary:
        picture.save(temporary)
    print(f"wrote {output}")


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
    from PIL import Image

    from radio.drawing.pictures import Panel, color_scale, fitting, frame_patch, heat_map, photograph, sheet
    from radio.images import load_image
    from radio.tasks.similarity import patch_at, similarity_to_patch
    from radio.tasks.spatial import spatial_features

    images = [load_image(path) for path in args.images]
    found = [spatial.features for spatial in spatial_features(model, images, args.size, args.adaptor, 1)]
    grid = (found[0].shape[-2], found[0].shape[-1])
    patch = patch_at(args.at[0], args.at[1], (images[0].shape[-2], images[0].shape[-1]), grid)
    maps = [similarity_to_patch(features, found[0][:, *patch]) for features in found]
    low = min(float(similarity.min()) for similarity in maps)
    low = min(low, 0.99)
    rows: list[list[Panel]] = []
    for path, pixels, similarity in zip(args.images, images, maps, strict=True):
        picture = photograph(pixels)
        size = fitting(picture.size, _SIDE)
        shown = picture.resize(size, Image.Resampling.LANCZOS)
        heat = heat_map(similarity, size, low, 1)
        if not rows:
            frame_patch(shown, patch, grid, _MARK)
            frame_patch(heat, patch, grid, _MARK)
        cells = f"{similarity.shape[1]} x {similarity.shape[0]} patches"
        rows.append([Panel(shown, path.name), Panel(heat, cells)])
    return sheet(rows, color_scale(_SIDE, f"{low:.2f}", "1", "cosine similarity", 16))


def _attention(model: RADIOModel, args: argparse.Namespace) -> Image.Image:
    from PIL import Image

    from radio.drawing.pictures import Panel, color_scale, fitting, frame_patch, photograph, sheet
    from radio.images import load_image, resize_image
    from radio.tasks.similarity import attention_maps, patch_at

    pixels = load_image(args.images[0])
    resized = resize_image(
        pixels, args.size, model.min_resolution_step, model.patch_size, model.max_resolution
    )
    grid = (resized.shape[-2] // model.patch_size, resized.shape[-1] // model.patch_size)
    patch = patch_at(args.at[0], args.at[1], (pixels.shape[-2], pixels.shape[-1]), grid) if args.at else None
    maps = attention_maps(model, resized, -1 if args.block is None else args.block, patch)
    picture = photograph(pixels)
    size = fitting(picture.size, _HEAD_SIDE)
    shown = picture.resize(size, Image.Resampling.LANCZOS)
    panels = [Panel(shown, args.images[0].name)]
    if maps.patch is not None and patch is not None:
        frame_patch(shown, patch, grid, _MARK)
        panels.append(Panel(_own_range(maps.patch.mean(dim=0), size), "mean"))
        panels += [Panel(_own_range(head, size), f"head {i}") for i, head in enumerate(maps.patch)]
        title = f"attention of a patch, block {maps.block}"
    else:
        names = dict(zip(model.config.summary_idxs, model.config.summary_names, strict=False))
        for i, heads in enumerate(maps.prefix[: model.num_cls_tokens]):
            label = f"class token {i}" + (f", {names[i]}" if i in names else "")
            panels.append(Panel(_own_range(heads.mean(dim=0), size), label))
        title = f"attention of the class tokens, block {maps.block}"
    rows = [panels[i : i + _HEADS_IN_A_ROW] for i in range(0, len(panels), _HEADS_IN_A_ROW)]
    return sheet(rows, color_scale(_SIDE, "0", "its own maximum", "each map from", 14), title)


def _own_range(values: Tensor, size: Size) -> Image.Image:
    from radio.drawing.pictures import heat_map

    return heat_map(values, size, 0, max(float(values.max()), 1e-12))


def _point(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected X,Y in pixels, as 120,80, got {text!r}")
    return float(found[1]), float(found[2])
