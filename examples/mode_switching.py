"""How features change with the resolution: the "mode switching" experiment of RADIOv2.5 (arXiv 2412.07679, section 3).

    python examples/mode_switching.py --model radio_v2.5-l examples/images/*.jpg -o out/modes

writes ``modes.csv`` and ``modes.png``. Three measures, for every image:

- the mean squared error of an adaptor's features against its teacher's on the same image, at every resolution;
- the same against the model's own features at a reference resolution, on the coarser of the two grids;
- the variance of the features over the resolutions, as a share of their whole variance: 0 is equivariant to scale.

The teacher is DINOv2 through timm (``--teacher dinov2``; ``--teacher-weights`` for a local file), or features in a
safetensors file, one tensor (C, h, w) named as each image (``--teacher FILE``), or ``none``. From Python,
`radio.tasks.mode_switching.measure_mode_switching` takes any function as teacher.

Needs ``pip install '.[plot]'``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from torch import Tensor
from tqdm import tqdm

import radio
from radio.files import Outputs
from radio.tasks.mode_switching import Measurement, measure_mode_switching
from radio.tasks.teacher_features import DINOV2_GIANT, Teacher, TimmTeacher, saved_teacher

TITLES = {"teacher": "Error against the teacher", "reference": "Error against the model itself at {}"}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    outputs = Outputs([*args.images, args.model, args.teacher, args.teacher_weights])
    outputs.check(args.output.with_suffix(".csv"), args.output.with_suffix(".png"))
    model = radio.load_model(args.model, adaptors=[args.adaptor] if args.adaptor else [], device=args.device)
    teacher = make_teacher(args, model.device)
    images = {path.name: path for path in args.images}
    sizes = args.sizes.split(",")
    per_image = len(sizes) * (1 if teacher is None else 2) + 2
    measurements = list(
        tqdm(
            measure_mode_switching(model, images, sizes, args.reference, args.adaptor or None, teacher),
            total=len(images) * per_image,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )
    )
    write_csv(args.output.with_suffix(".csv"), measurements, outputs)
    plot(args.output.with_suffix(".png"), measurements, args.reference, outputs)
    print(f"wrote {args.output.with_suffix('.csv')} and {args.output.with_suffix('.png')}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--adaptor", default="dino_v2", help="'' for the backbone's own features")
    parser.add_argument("--sizes", default="256,336,432,512,640,768,896,1024", help="short sides")
    parser.add_argument("--reference", default="512", help="size that the model is compared with itself at")
    parser.add_argument("--teacher", default="dinov2", help="dinov2, FILE.safetensors, or none")
    parser.add_argument("--teacher-architecture", default=DINOV2_GIANT, help="timm's name")
    parser.add_argument("--teacher-weights", type=Path, help="a local file; by default timm downloads them")
    parser.add_argument("-o", "--output", type=Path, default=Path("mode_switching"))
    return parser.parse_args(argv)


def make_teacher(args: argparse.Namespace, device: object) -> Teacher | Mapping[str, Tensor] | None:
    if args.teacher == "none" or not args.adaptor:
        return None
    if args.teacher == "dinov2":
        try:
            return TimmTeacher(args.teacher_architecture, args.teacher_weights, device)
        except radio.DownloadError as error:
            raise SystemExit(
                f"{error} (--teacher-weights), or compare without a teacher (--teacher none)"
            ) from error
    return saved_teacher(args.teacher)


def write_csv(path: Path, measurements: Sequence[Measurement], outputs: Outputs) -> None:
    with outputs.write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Measurement._fields)
        writer.writerows(measurements)


def plot(path: Path, measurements: Sequence[Measurement], reference: str, outputs: Outputs) -> None:
    """Lines over the resolution for the errors, thin for images and thick for their mean; bars for the variance."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    measures = [name for name in TITLES if any(m.measure == name for m in measurements)]
    with pyplot.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(1, len(measures) + 1, figsize=(4.6 * (len(measures) + 1), 3.9))
        for axis, measure in zip(axes, measures, strict=False):
            draw_lines(axis, [m for m in measurements if m.measure == measure])
            axis.set_title(TITLES[measure].format(reference))
        draw_bars(axes[-1], [m for m in measurements if m.measure == "relative_variance"])
        figure.tight_layout(w_pad=2.5, rect=(0, 0.09, 1, 1))
        lines, labels = axes[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="lower left", ncols=len(lines), frameon=False)
        with outputs.write(path) as temporary:
            figure.savefig(temporary, dpi=130)
        pyplot.close(figure)


def draw_lines(axis: object, measurements: Sequence[Measurement]) -> None:
    images = list(dict.fromkeys(m.image for m in measurements))
    sides = [[min(m.height, m.width) for m in measurements if m.image == image] for image in images]
    values = [[m.value for m in measurements if m.image == image] for image in images]
    for i, image in enumerate(images):
        axis.plot(sides[i], values[i], linewidth=1, alpha=0.6, label=image if len(images) <= 6 else None)
    axis.plot(
        np.mean(sides, axis=0), np.mean(values, axis=0), "k-o", markersize=4, clip_on=False, label="mean"
    )
    axis.set_xlabel("short side (pixels)")
    axis.set_ylabel("mean squared error")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)


def draw_bars(axis: object, measurements: Sequence[Measurement]) -> None:
    from matplotlib.ticker import PercentFormatter

    shown = measurements[:12]
    axis.barh([m.image for m in shown], [m.value for m in shown], color="#4c78a8", height=0.6)
    axis.invert_yaxis()
    axis.set_xlim(0, max(1e-9, *(m.value for m in measurements)) * 1.15)
    for i, m in enumerate(shown):
        axis.text(m.value, i, f" {m.value:.1%}", va="center")
    mean = np.mean([m.value for m in measurements])
    axis.set_title(f"Variance over the sizes: {mean:.1%}")
    axis.set_xlabel("share of the features' variance")
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


if __name__ == "__main__":
    main()
