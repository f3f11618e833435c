"""Small labeled data sets that packages ship, laid out for `radio probe` (docs/probing.md). For measuring only.

    apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb stamps
    pip install scikit-image scikit-learn
    python examples/small_labeled_data.py stamps data

Makes, each with ``train`` and ``val``:

- ``data/stamps``: pictures of things in 17 classes, one folder per class (Debian's tuxpaint-stamps-default, GPL-2)
- ``data/digits``: handwritten digits of 8 x 8 pixels, one folder per digit (scikit-learn)
- ``data/scenes``: stamps on photographs, with masks (background, animals, food, plants, vehicles)
- ``data/depth``: parts of one photograph with their depth in millimeters (Middlebury 2014's motorcycle, in
  scikit-image): ``train`` from its left two thirds, ``val`` from the rest
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from radio.images import load_image

EVERY = 4  # one in so many is for validation
SIDE = 224
CLASSES = ("background", "animals", "food", "plants", "vehicles")
SCENES = {"train": 200, "val": 60}
FOCAL_LENGTH, BASELINE, OFFSET = (
    994.978,
    193.001,
    31.086,
)  # pixels, millimeters, pixels: scikit-image's documentation
PARTS = {"train": (0, 490, 48), "val": (490, 741, 12)}  # columns from, to, and how many parts


def find_stamps(root: Path, fewest: int = 8) -> dict[str, list[Path]]:
    """Photographed stamps by class: the folder they lie in, if it holds enough."""
    folders: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.png")):
        parts = path.relative_to(root).parts[:-1]
        if parts[0] == "symbols" or "cartoon" in parts or path.stem.endswith("_mirror"):
            continue
        folders.setdefault("-".join(parts[:2]), []).append(path)
    return {name: paths for name, paths in folders.items() if len(paths) >= fewest}


def copy_stamp(path: Path, folder: Path) -> None:
    """A stamp on white, without its transparency."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = load_image(path).mul(255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(folder / path.name)


def write_stamps(root: Path, out: Path) -> None:
    """One folder per class."""
    for name, paths in find_stamps(root).items():
        for number, path in enumerate(paths):
            copy_stamp(path, out / ("val" if number % EVERY == 0 else "train") / name)


def write_digits(out: Path, most: int = 800) -> None:
    """One folder per digit."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:most], digits.target, strict=False)):
        folder = out / ("val" if number % EVERY == 0 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(folder / f"{number:04d}.png")


def write_scenes(root: Path, photographs: Sequence[Image.Image], out: Path) -> None:
    """Two stamps of different classes on a part of a photograph, and the mask of both."""
    random = np.random.default_rng(0)
    stamps = {
        name: sorted(p for p in (root / name).rglob("*.png") if not p.stem.endswith("_mirror"))
        for name in CLASSES[1:]
    }
    for split, count in SCENES.items():
        for kind in ("images", "masks"):
            (out / split / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            photograph = photographs[random.integers(len(photographs))]
            scene = _part(photograph, random)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            for left, name in zip((0, SIDE // 2), random.choice(CLASSES[1:], 2, replace=False), strict=True):
                mine = [p for i, p in enumerate(stamps[name]) if (i % EVERY == 0) == (split == "val")]
                stamp = Image.open(mine[random.integers(len(mine))]).convert("RGBA")
                stamp.thumbnail((SIDE // 2, SIDE // 2))
                scale = SIDE // 2 / max(stamp.size)
                stamp = stamp.resize([max(1, round(side * scale)) for side in stamp.size])
                place = (left, int(random.integers(0, SIDE - stamp.height + 1)))
                scene.paste(stamp, place, stamp)
                covered = np.asarray(stamp)[..., 3] > 127
                part = mask[place[1] : place[1] + stamp.height, left : left + stamp.width]
                part[covered] = CLASSES.index(name)
            scene.save(out / split / "images" / f"{number:03d}.png")
            Image.fromarray(mask).save(out / split / "masks" / f"{number:03d}.png")
    (out / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def _part(photograph: Image.Image, random: np.random.Generator) -> Image.Image:
    left, top = (int(random.integers(0, side - SIDE + 1)) for side in photograph.size)
    return photograph.crop((left, top, left + SIDE, top + SIDE)).convert("RGB")


def photographs() -> list[Image.Image]:
    """Of scikit-image and scikit-learn, none of a thing that is a class here."""
    import skimage.data as images
    from sklearn.datasets import load_sample_image

    named = ("astronaut", "brick", "coffee", "grass", "gravel", "moon", "rocket")
    arrays = [getattr(images, name)() for name in named]
    return [Image.fromarray(array) for array in [*arrays, load_sample_image("china.jpg")]]


def write_depth(out: Path) -> None:
    """Parts of the left picture of a stereo pair, with depth from the true disparity."""
    import skimage.data as images

    picture, _, disparity = images.stereo_motorcycle()
    depth = FOCAL_LENGTH * BASELINE / (np.asarray(disparity) + OFFSET)
    depth = np.where(np.isfinite(disparity), depth, 0).round().astype(np.uint16)
    random = np.random.default_rng(0)
    for split, (first, last, count) in PARTS.items():
        for kind in ("images", "depths"):
            (out / split / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            left, top = int(random.integers(first, last - SIDE + 1)), int(random.integers(0, 500 - SIDE + 1))
            rows, columns = slice(top, top + SIDE), slice(left, left + SIDE)
            Image.fromarray(picture[rows, columns]).save(out / split / "images" / f"{number:02d}.png")
            Image.fromarray(depth[rows, columns]).save(out / split / "depths" / f"{number:02d}.png")


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stamps", type=Path, help="where the Debian package was unpacked")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    root = args.stamps / "usr" / "share" / "tuxpaint" / "stamps"
    write_stamps(root, args.out / "stamps")
    write_digits(args.out / "digits")
    write_scenes(root, photographs(), args.out / "scenes")
    write_depth(args.out / "depth")
    for name in ("stamps", "digits", "scenes", "depth"):
        counts = {split: len(list((args.out / name / split).rglob("*.png"))) for split in ("train", "val")}
        print(f"{name}: {counts['train']} files for training, {counts['val']} for validation")


if __name__ == "__main__":
    main()
