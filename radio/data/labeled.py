"""Labeled images from folders and from the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from radio.images import IMAGE_SUFFIXES
from radio.optional import require


class ImageFolder(Sequence):
    """Images sorted into one subfolder per class, as ImageNet is: ``root/class/any/depth/image.jpg``.

    Attributes:
        classes: The subfolders' names, sorted; a label is a position in this list.
        paths: The images, sorted.
        labels: Their classes.
        others: Files that are not taken for images, and files in no class.

    Raises:
        ValueError: The folder does not exist, or has no images in subfolders.
    """

    def __init__(self, root: str | Path) -> None:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        self.classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
        files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).rglob("*"))
            if path.is_file()
        ]
        found = [(path, label) for path, label in files if path.suffix.lower() in IMAGE_SUFFIXES]
        self.others = [path for path in sorted(folder.iterdir()) if not path.is_dir()]
        self.others += [path for path, _ in files if path.suffix.lower() not in IMAGE_SUFFIXES]
        if not found:
            raise ValueError(f"{folder} has no images in subfolders; expected {folder}/CLASS/IMAGE.jpg")
        self.paths = [path for path, _ in found]
        self.labels = [label for _, label in found]

    def keep(self, paths: Iterable[Path]) -> None:
        """Leave out all images but these, in their order; the classes stay."""
        kept = set(paths)
        pairs = [pair for pair in zip(self.paths, self.labels, strict=True) if pair[0] in kept]
        self.paths = [path for path, _ in pairs]
        self.labels = [label for _, label in pairs]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        """The path of one image."""
        return self.paths[index]


class HubRows(Sequence):
    """Rows of a data set that the ``datasets`` library can load, of which each has an image.

    Args:
        name, split: As ``datasets.load_dataset`` takes them; the name may be a local folder.
        column: The column of what belongs to the images, beside ``image``.

    Raises:
        MissingExtraError: `datasets` is not installed.
        ValueError: The data set has no such columns.
    """

    def __init__(self, name: str, split: str, column: str) -> None:
        self.dataset = require("datasets", "datasets").load_dataset(name, split=split)
        if {"image", column} - set(self.dataset.column_names):
            raise ValueError(
                f"{name} has columns {', '.join(self.dataset.column_names)}; expected image and {column}"
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        """One image, as PIL decodes it."""
        return self.dataset[index]["image"]


class HubImages(HubRows):
    """Labeled images that the ``datasets`` library can load, with columns ``image`` and ``label``.

    Attributes:
        classes: The names of the labels.
        labels: The label of each image.

    Raises:
        MissingExtraError: `datasets` is not installed.
        ValueError: The data set has no such columns.
    """

    def __init__(self, name: str, split: str) -> None:
        super().__init__(name, split, "label")
        self.classes = tuple(self.dataset.features["label"].names)
        self.labels = list(self.dataset["label"])
