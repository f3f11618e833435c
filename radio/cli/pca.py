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
    one_adaptor,
    positive_int,
)
from radio.files import Outputs

if TYPE_CHECKING:
    from radio.drawing.pictures import Panel
    from radio.model import RADIOModel
    from radio.tasks.pca import PCAFit

_EPILOG = """\
One PCA is fitted over all images and sizes, so that the same color means the same thing in all of them. Patches of
unusually high norm, a known artifact of large vision transformers, are left out of the fit.

For images, a folder gets NAME-SIZE.png for each image and size, and contact-sheet.png with all of them. With
--side-by-side it gets NAME.png instead: the picture next to its features at every size. An output such as x.png is that
one picture: the features of one image, or the contact sheet of several.

For a video, OUT.mp4 has the video's frame rate; the PCA is fitted on a sample of the frames. Needs the 'video' extra.
"""

_SHEET_ROWS = 12
_SHEET_SIDE = 288
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
    if videos and len(args.inputs) > 1:
        raise ValueError(f"give one video, or images, not both: {videos[0]} is a video")
    if videos:
        _run_video(videos[0], args)
    else:
        if not _is_picture(args.output):
            check_folder_name(named)
        _run_images(args)


def _run_images(args: argparse.Namespace) -> None:
    from radio.drawing.pictures import save_picture, sheet
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
    rows: list[list[Panel]] = []
    sheets = 0
    for path, name in progress(list(zip(paths, names, strict=True)), len(paths), "drawing"):
        rows.append(_draw_image(model, fit, path, name, args, outputs, one, one and len(paths) == 1))
        if len(rows) == _SHEET_ROWS or path is paths[-1]:
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


def _draw_image(
    model: RADIOModel,
    fit: PCAFit,
    path: Path,
    name: str,
    args: argparse.Namespace,
    outputs: Outputs,
    one: bool,
    only: bool,
) -> list[Panel]:
    """Write an image's own pictures; returns its row of the contact sheet.

    Args:
        one: The output is one picture, not a folder.
        only: And there is only this image to show in it.
    """
    from PIL import Image

    from radio.drawing.pictures import (
        Panel,
        feature_picture,
        fit_long_side,
        save_picture,
        sheet,
        to_pil_image,
    )
    from radio.images import load_image
    from radio.tasks.pca import outlier_patches
    from radio.tasks.spatial import spatial_features

    pixels = load_image(path)
    picture = to_pil_image(pixels)
    side = fit_long_side(picture.size, _SIDE_BY_SIDE)
    panels = [Panel(picture.resize(side, Image.Resampling.LANCZOS), path.name)]
    small = fit_long_side(picture.size, _SHEET_SIDE)
    row = [Panel(picture.resize(small, Image.Resampling.LANCZOS), path.name)]
    for size in _sizes(args):
        [(features, run_at)] = spatial_features(model, [pixels], size, one_adaptor(args))
        rgb = fit.to_rgb(features)
        outliers = outlier_patches(features) if args.show_outliers else None
        label = f"{run_at.width} x {run_at.height}"
        if outliers is not None:
            label += f", outliers: {int(outliers.sum())}"
        panels.append(Panel(feature_picture(rgb, side, outliers), label))
        row.append(Panel(feature_picture(rgb, small, outliers), label))
        if not args.side_by_side and not one:
            place = args.output / f"{name}-{run_at.width}x{run_at.height}.png"
            save_picture(feature_picture(rgb, picture.size, outliers), place, outputs)
    if only and not args.side_by_side and len(_sizes(args)) == 1:
        save_picture(feature_picture(rgb, picture.size, outliers), args.output, outputs)
    elif only or (args.side_by_side and not one):
        save_picture(sheet([panels]), args.output if one else args.output / f"{name}.png", outputs)
    return row


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
