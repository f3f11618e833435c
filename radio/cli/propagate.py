"""``radio propagate``: a mask of a video's first frame on all frames."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from radio.cli.common import load_chosen_model, print_result, progress
from radio.cli.options import (
    add_adaptor,
    add_batch_size,
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
    from PIL import Image
    from torch import Tensor

    from radio.data.video import Frame
    from radio.model import RADIOModel

_EPILOG = """\
MASK is a picture of the first frame with one color for the background and one for each object, such as the annotations
of DAVIS; the smallest number, or the darkest color, is the background. Every patch takes the labels of the patches that
are most like it in the first frame and in the last few. Nothing is trained.

OUT.mp4 shows the objects over the frames; a folder gets a mask for each frame, 00000.png and so on, whose numbers are
the labels. Needs the 'video' extra.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a video file")
    parser.add_argument(
        "--mask", type=Path, required=True, metavar="MASK", help="the objects in the first frame"
    )
    add_output(parser, "a video such as out.mp4, or a folder for the masks")
    add_model(parser, optional=True)
    add_adaptor(parser, "compare in a teacher's space (dino_v2, ...), one for all frames")
    add_size(parser)
    parser.add_argument(
        "--context",
        type=positive_int,
        default=7,
        metavar="N",
        help="last frames that are looked at, besides the first (default: 7)",
    )
    parser.add_argument(
        "--radius",
        type=positive_int,
        default=12,
        metavar="N",
        help="how far things move between frames at most, in patches (default: 12)",
    )
    add_batch_size(parser, 4)
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Carry the mask through the video and write what comes out."""
    from radio.data.masks import read_object_mask
    from radio.data.video import describe_video, read_frames
    from radio.drawing.video import check_video_name, write_frames

    masks_only = not args.output.suffix or args.output.is_dir()
    outputs = Outputs([args.video, args.mask, args.model])
    if not masks_only:
        check_video_name(args.output)
        outputs.check(args.output)
    mask = read_object_mask(args.mask)
    video = describe_video(args.video)
    model = load_chosen_model(args)
    outputs.add_inputs(model.checkpoint_path)
    frames = progress(read_frames(args.video), video.frames, "frames")
    found = _labels(model, frames, mask, args)
    if masks_only:
        count = _write_masks(found, args.output, outputs)
    else:
        count = write_frames(args.output, _drawn(found), video, outputs)
    objects = int(mask.max())
    print_result(
        args,
        {"output": args.output, "frames": count, "objects": objects},
        [f"wrote {args.output}", f"frames: {count}, objects: {objects}"],
    )


def _labels(
    model: RADIOModel, frames: Iterator[Frame], mask: Tensor, args: argparse.Namespace
) -> Iterator[tuple[Frame, Tensor]]:
    """Each frame with the labels (H, W) of its pixels."""
    from radio.tasks.propagation import labels_at_size, propagate_labels
    from radio.tasks.spatial import spatial_features

    waiting: list[Frame] = []

    def pictures() -> Iterator[Image.Image]:
        for frame in frames:
            if not waiting and mask.shape != (frame.picture.height, frame.picture.width):
                raise ValueError(
                    f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels but the frames are "
                    f"{frame.picture.width} x {frame.picture.height} (width x height)"
                )
            waiting.append(frame)
            yield frame.picture

    features = spatial_features(model, pictures(), args.size, one_adaptor(args), args.batch_size)
    shares = propagate_labels((spatial.features for spatial in features), mask, args.context, args.radius)
    for share in shares:
        frame = waiting.pop(0)
        yield frame, labels_at_size(share, (frame.picture.height, frame.picture.width))


def _drawn(found: Iterator[tuple[Frame, Tensor]]) -> Iterator[Frame]:
    from radio.data.video import Frame
    from radio.drawing.objects import draw_objects

    for (picture, time), labels in found:
        even = picture.width // 2 * 2, picture.height // 2 * 2  # as H.264 wants them
        yield Frame(draw_objects(picture, labels).crop((0, 0, *even)), time)


def _write_masks(found: Iterator[tuple[Frame, Tensor]], folder: Path, outputs: Outputs) -> int:
    from PIL import Image

    from radio.drawing.pictures import save_picture
    from radio.drawing.segmentation import palette

    count = 0
    for _, labels in found:
        picture = Image.fromarray(labels.byte().numpy(), mode="P")
        colors = [(0, 0, 0), *palette(int(labels.max()))]
        picture.putpalette([channel for color in colors for channel in color])
        save_picture(picture, folder / f"{count:05d}.png", outputs)
        count += 1
    return count
