"""``radio evaluate stability``: how stable features are over the frames of videos."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from radio.cli.common import find_images, load_chosen_model, print_result, progress, table_lines
from radio.cli.options import (
    add_adaptor,
    add_batch_size,
    add_execution,
    add_json,
    add_model,
    add_size,
    one_adaptor,
    positive_int,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = (
        "Each number is a mean cosine similarity: of features at one place in a frame and the next, the same where the "
        "picture stands still (what is missing to 1 is flicker), with the first frame (drift), and of summaries."
    )
    parser.add_argument(
        "videos",
        nargs="+",
        type=Path,
        metavar="VIDEO",
        help="video files, or folders of frames, sorted by name",
    )
    add_model(parser)
    add_adaptor(parser, "measure in a teacher's space, one for all videos")
    parser.add_argument(
        "--frames",
        type=positive_int,
        metavar="N",
        help="at even distances over each video (default: every frame)",
    )
    add_size(parser)
    add_batch_size(parser, 8)
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Print a line for each video."""
    from radio.tasks.stability import measure_stability

    adaptor = one_adaptor(args)
    missing = [path for path in args.videos if not path.exists()]
    if missing:
        raise FileNotFoundError(f"there is no video or folder {str(missing[0])!r}")
    model = load_chosen_model(args)
    found: list[dict[str, Any]] = []
    for path in progress(args.videos, len(args.videos), "videos"):
        stability = measure_stability(model, _frames(path, args.frames), args.size, adaptor, args.batch_size)
        found.append({"video": str(path), **stability._asdict()})
    rows = [
        [f"{value:.4f}" if isinstance(value, float) else str(value) for value in one.values()]
        for one in found
    ]
    result = {"model": args.model, "adaptor": adaptor, "videos": found}
    print_result(args, result, table_lines(rows, list(found[0])))


def _frames(path: Path, count: int | None) -> Iterator[Any]:
    from radio.data.video import read_frames, sample_frames

    if path.is_dir():
        images = find_images([path])
        step = 1.0 if count is None else max(len(images) / count, 1.0)
        return (images[int((i + 0.5) * step)] for i in range(min(count or len(images), len(images))))
    if count is not None:
        return sample_frames(path, count)
    return (frame.picture for frame in read_frames(path))
