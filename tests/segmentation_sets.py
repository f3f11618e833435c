"""Small data sets for segmentation whose right answer is known: fields of plain colors, in the published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"red": (220, 30, 30), "green": (20, 180, 60), "blue": (20, 40, 200)}


def fields(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of 64 x 96 pixels and its labels: two or four fields of the three colors, each of 32 x 48 pixels."""
    labels = np.random.default_rng(number).integers(0, 3, (2, 2)).repeat(32, axis=0).repeat(48, axis=1)
    return np.array(list(COLORS.values()), np.uint8)[labels], labels.astype(np.uint8)


def plain_folder(root: Path, images: int = 3) -> Path:
    """``images`` and ``masks``; 255 in a corner of each mask."""
    for i in range(images):
        pixels, labels = fields(i)
        labels[:4, :4] = 255
        _write(root / "images" / f"{i}.png", pixels)
        _write(root / "masks" / f"{i}.png", labels)
    return root


def ade20k_folder(root: Path) -> Path:
    """As ADE20k: labels from 1, 0 for none, names in a table, a training part that must not be read."""
    for i in range(2):
        pixels, labels = fields(i)
        labels += 1
        labels[:8] = 0
        _write(root / "images" / "validation" / f"ADE_val_{i}.jpg", pixels)
        _write(root / "annotations" / "validation" / f"ADE_val_{i}.png", labels)
    _write(root / "images" / "training" / "ADE_train_0.jpg", pixels)
    _write(root / "annotations" / "training" / "ADE_train_0.png", labels)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    lines += [f"{i}\t0.1\t10\t1\t0\t{name}, {name} field" for i, name in enumerate(COLORS, 1)]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    return root


def voc_folder(root: Path) -> Path:
    """As PASCAL VOC: masks with a palette, 0 for the background, 255 along a line, and a list of the split."""
    for i in range(3):
        pixels, labels = fields(i)
        labels[31:33] = 255
        _write(root / "JPEGImages" / f"2007_{i}.jpg", pixels)
        mask = Image.fromarray(labels).convert("P")
        mask.putpalette([value for color in COLORS.values() for value in color] + [0] * 759)
        (root / "SegmentationClass").mkdir(exist_ok=True)
        mask.putdata(labels.flatten().tolist())
        mask.save(root / "SegmentationClass" / f"2007_{i}.png")
    _write(root / "JPEGImages" / "without_mask.jpg", pixels)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_0\n2007_2\n")
    return root


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(pixels).save(path, **options)
