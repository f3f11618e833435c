"""Data sets for segmentation as they are published: ADE20k's folders, PASCAL VOC's, and plain ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from radio.data.dense import MaskFolder

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train"),
    "tv monitor",
)
"""PASCAL VOC's classes by their number in its masks."""

BACKGROUND = "background"
"""The name of a class for what no other class names."""

_ADE_NAMES = "objectInfo150.txt"
_VOC_FOLDERS = ("JPEGImages", "SegmentationClass")
_MASKS = ("annotations", "masks", "labels")


class _Layout(NamedTuple):
    images: Path
    masks: Path
    names: tuple[str, ...] | None
    zero_is_none: bool
    listed: Path | None


def segmentation_folder(
    root: str | Path,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    reduce_zero_label: bool = False,
) -> MaskFolder:
    """A data set for segmentation, in one of three layouts, which its folders tell.

    - ADE20k (``ADEChallengeData2016``): ``images/validation``, ``annotations/validation`` and ``objectInfo150.txt``,
      which names the classes; 0 in a mask is no label. The split is ``"validation"`` by default.
    - PASCAL VOC (``VOC2012``): ``JPEGImages`` and ``SegmentationClass``; the split, ``"val"`` by default, is a list in
      ``ImageSets/Segmentation``; 0 in a mask is the background.
    - Any other: ``images`` and one of ``annotations``, ``masks`` and ``labels``, in each of them a folder of the split
      if one is named; masks are PNG files of the images' names; 255 is no label.

    Args:
        root: The folder with these folders.
        split: The part of the data set; see above.
        classes: Names of the labels from 0 on, which other layouts need. Several names of one class have commas between
            them.
        reduce_zero_label: For other layouts: 0 is no label and 1 is the first.

    Raises:
        ValueError: The folder has none of the layouts, the split is not there, or there are no names.
        OSError: A list cannot be read.
    """
    layout = _layout(Path(root).expanduser(), split)
    names = classes if classes is not None else layout.names
    if names is None:
        raise ValueError(
            f"{root} does not say what its classes are called; give their names, one for each label"
        )
    data = MaskFolder(layout.images, layout.masks, names, reduce_zero_label or layout.zero_is_none)
    if layout.listed is not None:
        wanted = set(layout.listed.read_text("utf-8").split())
        pairs = [pair for pair in zip(data.paths, data.targets, strict=True) if pair[0].stem in wanted]
        if not pairs:
            raise ValueError(f"no image of {layout.images} with a mask is in the list {layout.listed}")
        data.paths, data.targets = [list(column) for column in zip(*pairs, strict=True)]
    return data


def _layout(root: Path, split: str | None) -> _Layout:
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    images, masks = (root / name for name in _VOC_FOLDERS)
    if images.is_dir() and masks.is_dir():
        lists = root / "ImageSets" / "Segmentation"
        listed = lists / f"{split or 'val'}.txt"
        if not listed.is_file():
            raise ValueError(f"there is no {listed}; a split of PASCAL VOC is the name of a list in {lists}")
        return _Layout(images, masks, VOC_CLASSES, False, listed)
    images, found = root / "images", [root / name for name in _MASKS if (root / name).is_dir()]
    if not images.is_dir() or not found:
        raise ValueError(
            f"{root} has no layout that is known: expected images and one of {', '.join(_MASKS)} (as ADE20k's), or "
            f"{' and '.join(_VOC_FOLDERS)} (PASCAL VOC's)"
        )
    masks = found[0]
    is_ade = (root / _ADE_NAMES).is_file()
    part = split or ("validation" if is_ade else "")
    if part and not (images / part).is_dir():
        raise ValueError(f"there is no {images / part}; name another split")
    names = _ade_names(root / _ADE_NAMES) if is_ade else None
    return _Layout(images / part, masks / part, names, is_ade, None)


def _ade_names(path: Path) -> tuple[str, ...]:
    """The last column of a table with a heading: a class's names, with commas between them."""
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()[1:] if line.strip()]
    return tuple(row[-1].strip() for row in rows)
