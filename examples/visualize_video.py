"""A video next to its spatial features as colors, which stay the same over time.

    python examples/visualize_video.py --model radio_v2.5-l clip.mp4 -o out/clip.mp4

The PCA is fitted on a sample of the frames in a first pass; the second pass holds only a few frames at a time, so a
video may be as long as it likes. Needs ``pip install '.[video]'``. The command ``radio pca`` does the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import radio
from radio.data.video import describe_video, read_frames, sample_frames
from radio.files import Outputs
from radio.tasks.feature_video import draw_video
from radio.tasks.pca import PCAAccumulator
from radio.tasks.spatial import spatial_features


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    outputs = Outputs([args.video, args.model])
    outputs.check(args.output)
    model = radio.load_model(args.model, device=args.device)
    video = describe_video(args.video)

    accumulator = PCAAccumulator()
    for spatial in spatial_features(model, sample_frames(args.video, args.fit_frames), args.size):
        accumulator.add(spatial.features)

    frames = tqdm(
        read_frames(args.video), total=video.frames, file=sys.stderr, disable=not sys.stderr.isatty()
    )
    written = draw_video(
        model,
        accumulator.fit(),
        frames,
        args.output,
        video,
        size=args.size,
        side_by_side=True,
        outputs=outputs,
    )
    print(f"wrote {written} frames to {args.output}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", help="short side of the frames in the model, in pixels")
    parser.add_argument("--fit-frames", type=int, default=32)
    parser.add_argument("-o", "--output", type=Path, default=Path("features.mp4"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
