"""Spatial features of images as colors, at several sizes, on one sheet.

    python examples/visualize_features.py --model radio_v2.5-l examples/images/*.jpg -o out/features.png

One PCA is fitted over all images and sizes, so the same color means the same thing everywhere. The command
``radio pca`` does this and more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import radio
from radio.drawing.pictures import (
    Panel,
    feature_picture,
    fit_long_side,
    save_picture,
    sheet,
    to_pil_image,
)
from radio.files import Outputs
from radio.images import load_image
from radio.tasks.pca import PCAAccumulator
from radio.tasks.spatial import spatial_features


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    model = radio.load_model(
        args.model, adaptors=[args.adaptor] if args.adaptor else None, device=args.device
    )
    sizes = args.sizes.split(",")

    accumulator = PCAAccumulator()
    for size in sizes:
        for spatial in spatial_features(model, args.images, size, args.adaptor):
            accumulator.add(spatial.features)
    fit = accumulator.fit()

    rows = []
    for path in args.images:
        picture = to_pil_image(load_image(path))
        shown = fit_long_side(picture.size, args.side)
        row = [Panel(picture.resize(shown), path.name)]
        for size in sizes:
            for features, (height, width) in spatial_features(model, [path], size, args.adaptor):
                row.append(Panel(feature_picture(fit.to_rgb(features), shown), f"{width} x {height}"))
        rows.append(row)
    save_picture(sheet(rows), args.output, Outputs([*args.images, args.model]))
    print(f"wrote {args.output}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--adaptor", help="show a teacher's features: sam, dino_v2, …")
    parser.add_argument("--sizes", default="432,512,768,1024", help="short sides")
    parser.add_argument("--side", type=int, default=384, help="of a picture on the sheet, in pixels")
    parser.add_argument("-o", "--output", type=Path, default=Path("features.png"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
