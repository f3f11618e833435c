"""``radio pca``: spatial features of images or of a video as colors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

from radio.cli.common import (
    check_folder_name,
    find_images,
    load_chosen_model,
    print_result,
    progress,
    show,
    without_unreadable,
)
from radio.cli.options import (
    add_adaptor,
    add_batch_size,
    add_execution,
    add_json,
    add_model,
    add_output,
    add_size,
    add_skip_unreadable,
    add_smooth,
    one_adaptor,
    positive_int,
)
from radio.files import Outputs

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from radio.drawing.pictures import Panel
    from radio.model import RADIOModel
    from radio.tasks.pca import PCAFit

_EPILOG = """\
One PCA is fitted over all images and sizes, so that the same color means the same thing in all of them. Patches of
unusually high norm, a known artifact of large vision transformers, are left out of the fit.

For images, a folder gets NAME-SIZE.png for each image and size, and contact-sheet.png with all of them. With
--side-by-side it gets NAME.png instead: the picture next to its features at every size. An output such as x.png is that
one picture: the features of one image, or the contact sheet of several.

With --foreground, the first component parts each image into foreground and background (the side that touches the border
less is the foreground), and a second PCA, of the foreground alone, gives the colors; the background is dark and gray.

For a video, OUT.mp4 has the video's frame rate; the PCA is fitted on a sample of the frames. Needs the 'video' extra.
"""

_SHEET_ROWS = 12
_SHEET_SIDE = 384
_SIDE_BY_SIDE = 448


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IMAGE", help="image files, folders of them, or one video"
    )
    add_output(parser, "a folder, or one picture such as x.png; for a video a file", type=str)
    add_model(parser, optional=True)
    add_adaptor(parser, "show a teacher's features (sam, dino_v2, ...), one for all images")
    add_size(
        parser,
        default_help="the size nearest to the image's own that the model supports; several for images: 512,768",
    )
    parser.add_argument(
        "--side-by-side", action="store_true", help="put the picture next to its features, with labels"
    )
    parser.add_argument(
        "--show-outliers", action="store_true", help="frame the patches of unusually high norm"
    )
    add_smooth(parser)
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="color only what the first component takes for the foreground",
    )
    fits = parser.add_mutually_exclusive_group()
    fits.add_argument("--save-fit", type=Path, metavar="FILE", help="keep the PCA (.safetensors)")
    fits.add_argument("--fit", type=Path, metavar="FILE", help="use a PCA that was kept")
    parser.add_argument(
        "--fit-frames",
        type=positive_int,
        default=32,
        metavar="N",
        help="frames of a video to fit on (default: 32)",
    )
    add_batch_size(parser, 4)
    add_skip_unreadable(parser)
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Draw the features of what was given."""
    from radio.data.video import VIDEO_SUFFIXES

    named, args.output = args.output, Path(args.output)
    videos = [path for path in args.inputs if path.suffix.lower() in VIDEO_SUFFIXES]
    if args.foreground and (videos or args.fit or args.save_fit):
        raise ValueError("--foreground fits twice, over images; leave videos, --fit and --save-fit out")
    if videos and len(args.inputs) > 1:
        raise ValueError(f"give one video, or images, not both: {videos[0]} is a video")
    if videos:
        _run_video(videos[0], args)
    else:
        if not _is_picture(args.output):
            check_folder_name(named)
        _run_images(args)


def _run_images(args: argparse.Namespace) -> None:
    from radio.drawing.pictures import panel_rows, save_picture, sheet
    from radio.tasks.pca import PCAFit

    one = _is_picture(args.output)
    if args.output.exists() and not args.output.is_dir() and not one:
        raise ValueError(
            f"{args.output} is a file and no picture; images need a folder, or a name such as x.png"
        )
    inputs = find_images(args.inputs)
    paths = without_unreadable(inputs, args)
    if one and len(paths) > _SHEET_ROWS:
        raise ValueError(f"one picture shows at most {_SHEET_ROWS} images, got {len(paths)}; give a folder")
    names = _names(paths)
    pictures = [f"{name}.png" for name in names if args.side_by_side]
    sheet_names = map(_sheet_name, range(-(-len(paths) // _SHEET_ROWS)))
    outputs = Outputs([*inputs, args.fit, args.model])  # those that were skipped, too
    planned = [args.output] if one else [args.output / name for name in (*pictures, *sheet_names)]
    outputs.check(*planned, *_fit_file(args))
    fit = PCAFit.load(args.fit) if args.fit else None
    model = load_chosen_model(args)
    outputs.add_inputs(model.checkpoint_path)
    if fit is None:
        fit = _fit_images(model, paths, args, outputs)
    _check_fit(fit, model, args)
    first = fit if args.foreground else None
    if first is not None:
        fit = _fit_foreground(model, first, paths, args)
    rows: list[list[Panel]] = []
    sheets = 0
    for number, (path, name) in enumerate(
        progress(list(zip(paths, names, strict=True)), len(paths), "drawing"), start=1
    ):
        row = _draw_image(model, fit, first, path, name, args, outputs, one, one and len(paths) == 1)
        rows += panel_rows(row)
        if number % _SHEET_ROWS == 0 or number == len(paths):
            if not one or len(paths) > 1:
                place = args.output if one else args.output / _sheet_name(sheets)
                save_picture(sheet(rows), place, outputs)
            sheets += 1
            rows = []
    shares = ", ".join(f"{share:.0%}" for share in fit.explained.tolist())
    summary = f"images: {len(paths)}, sizes: {len(_sizes(args))}, variance in red, green, blue: {shares}"
    result = {"output": args.output, "images": len(paths), "explained": fit.explained.tolist()}
    print_result(args, result, [f"wrote {args.output}", summary])


def _fit_images(model: RADIOModel, paths: list[Path], args: argparse.Namespace, outputs: Outputs) -> PCAFit:
    from radio.tasks.pca import PCAAccumulator
    from radio.tasks.spatial import feature_space, spatial_features

    accumulator = PCAAccumulator()
    for size in _sizes(args):
        images = progress(paths, len(paths), f"fitting at {size}" if size else "fitting")
        for spatial in spatial_features(model, images, size, one_adaptor(args), args.batch_size):
            accumulator.add(spatial.features)
    fit = accumulator.fit(source=feature_space(model, one_adaptor(args)))
    if args.save_fit:
        fit.save(args.save_fit, outputs)
    return fit


def _fit_foreground(model: RADIOModel, first: PCAFit, paths: list[Path], args: argparse.Namespace) -> PCAFit:
    """A fit of the patches that the first one's first component takes for the foreground."""
    from radio.tasks.foreground import foreground_mask
    from radio.tasks.pca import PCAAccumulator
    from radio.tasks.spatial import spatial_features

    accumulator = PCAAccumulator()
    for size in _sizes(args):
        images = progress(paths, len(paths), "fitting the foreground")
        for spatial in spatial_features(model, images, size, one_adaptor(args), args.batch_size):
            accumulator.add(spatial.features, foreground_mask(first, spatial.features))
    return accumulator.fit()


def _draw_image(
    model: RADIOModel,
    fit: PCAFit,
    first: PCAFit | None,
    path: Path,
    name: str,
    args: argparse.Namespace,
    outputs: Outputs,
    one: bool,
    only: bool,
) -> list[Panel]:
    """Write an image's own pictures; returns its row of the contact sheet.

    Args:
        fit: Of the colors.
        first: Whose first component parts foreground and background, if only the foreground gets colors.
        one: The output is one picture, not a folder.
        only: And there is only this image to show in it.
    """
    from PIL import Image

    from radio.drawing.pictures import (
        Panel,
        cut_out,
        panel_rows,
        panel_size,
        save_picture,
        sheet,
        to_pil_image,
    )
    from radio.images import load_image
    from radio.tasks.foreground import foreground_mask
    from radio.tasks.pca import outlier_patches
    from radio.tasks.spatial import spatial_features

    pixels = load_image(path)
    picture = to_pil_image(pixels)
    photographs = [
        picture.resize(panel_size(picture.size, side), Image.Resampling.LANCZOS)
        for side in (_SIDE_BY_SIDE, _SHEET_SIDE)
    ]
    panels, row = ([Panel(photograph, path.name)] for photograph in photographs)
    for number, size in enumerate(_sizes(args)):
        [(features, run_at)] = spatial_features(model, [pixels], size, one_adaptor(args))
        rgb = fit.to_rgb(features)
        foreground = foreground_mask(first, features) if first else None
        outliers = outlier_patches(features) if args.show_outliers else None
        label = f"{run_at.width} x {run_at.height}"
        if outliers is not None:
            label += f", outliers: {int(outliers.sum())}"
        for shown, photograph in zip((panels, row), photographs, strict=True):
            if foreground is not None and number == 0:
                mask = cut_out(photograph, photograph, foreground, args.smooth)
                shown.append(Panel(mask, f"foreground: {float(foreground.float().mean()):.0%}"))
            shown.append(Panel(_colored(rgb, photograph, outliers, foreground, args.smooth), label))
        whole = only and not args.side_by_side and len(_sizes(args)) == 1
        if whole or (not args.side_by_side and not one):
            place = args.output if whole else args.output / f"{name}-{run_at.width}x{run_at.height}.png"
            save_picture(_colored(rgb, picture, outliers, foreground, args.smooth), place, outputs)
    if (only and (args.side_by_side or len(_sizes(args)) > 1)) or (args.side_by_side and not one):
        place = args.output if one else args.output / f"{name}.png"
        save_picture(sheet(panel_rows(panels)), place, outputs)
    return row


def _colored(
    rgb: Tensor, photograph: Image.Image, outliers: Tensor | None, foreground: Tensor | None, smooth: bool
) -> Image.Image:
    """Features as colors, of a photograph's size; over its background if that gets none."""
    from radio.drawing.pictures import cut_out, feature_picture

    colors = feature_picture(rgb, photograph.size, outliers, smooth)
    return colors if foreground is None else cut_out(colors, photograph, foreground, smooth)


def _run_video(path: Path, args: argparse.Namespace) -> None:
    from radio.data.video import describe_video, read_frames, sample_frames
    from radio.drawing.video import check_video_name
    from radio.tasks.feature_video import draw_video
    from radio.tasks.pca import PCAAccumulator, PCAFit
    from radio.tasks.spatial import feature_space, spatial_features

    if len(_sizes(args)) > 1:
        raise ValueError(f"a video has one size, got {args.size}")
    check_video_name(args.output)
    outputs = Outputs([path, args.fit, args.model])
    outputs.check(args.output, *_fit_file(args))
    size = _sizes(args)[0]
    video = describe_video(path)
    fit = PCAFit.load(args.fit) if args.fit else None
    model = load_chosen_model(args)
    outputs.add_inputs(model.checkpoint_path)
    if fit is None:
        accumulator = PCAAccumulator()
        count = min(args.fit_frames, video.frames)
        sample = progress(sample_frames(path, count), count, "fitting")
        for spatial in spatial_features(model, sample, size, one_adaptor(args), args.batch_size):
            accumulator.add(spatial.features)
        fit = accumulator.fit(source=feature_space(model, one_adaptor(args)))
        if args.save_fit:
            fit.save(args.save_fit, outputs)
    _check_fit(fit, model, args)
    frames = draw_video(
        model,
        fit,
        progress(read_frames(path), video.frames, "drawing"),
        args.output,
        video,
        size=size,
        adaptor_name=one_adaptor(args),
        side_by_side=args.side_by_side,
        show_outliers=args.show_outliers,
        smooth=args.smooth,
        batch_size=args.batch_size,
        outputs=outputs,
    )
    rate = float(video.frame_rate)
    result = {"output": args.output, "frames": frames, "frame_rate": rate}
    print_result(args, result, [f"wrote {args.output}", f"frames: {frames}, {rate:.4g} per second"])


def _is_picture(path: Path) -> bool:
    """Whether the output is named like a picture, and is no folder of that name."""
    from radio.drawing.pictures import WRITABLE_PICTURES

    return path.suffix.lower() in WRITABLE_PICTURES and not path.is_dir()


def _fit_file(args: argparse.Namespace) -> list[Path]:
    return [args.save_fit] if args.save_fit else []


def _sheet_name(number: int) -> str:
    return f"contact-sheet{f'-{number + 1}' if number else ''}.png"


def _check_fit(fit: PCAFit, model: RADIOModel, args: argparse.Namespace) -> None:
    from radio.tasks.spatial import feature_space

    reason = fit.mismatch(feature_space(model, one_adaptor(args)))
    if reason:
        show(f"radio pca: warning: {reason}", sys.stderr)


def _names(paths: list[Path]) -> list[str]:
    """A name for each image's files: its own, with a number where several images share it.

    Names that differ in case or in the way that letters are composed are one name to some file systems.
    """
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 1
        while (key := normalize("NFC", name).casefold()) in taken:
            number += 1
            name = f"{path.stem}_{number}"
        taken.add(key)
        names.append(name)
    return names


def _sizes(args: argparse.Namespace) -> list[str | None]:
    if args.size is None:
        return [None]
    sizes: list[str | None] = [size.strip() for size in args.size.split(",") if size.strip()]
    if not sizes:
        raise ValueError(f"expected sizes with commas between them, got {args.size!r}")
    return sizes
