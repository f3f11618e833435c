"""Images with a label or a depth for every pixel: pairs of files with one name, and rows of the `datasets` library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from radio.data.labeled import HubRows
from radio.errors import ImageError
from radio.files import open_regular
from radio.images import IMAGE_SUFFIXES
from radio.images.opening import open_image, printable
from radio.wording import counted

IGNORED = 255
"""The label of pixels that count neither in training nor in evaluation."""

MOST_NUMBERS = 1024
"""Labels without names. More are those of a depth map or of instances, and a head for each takes all memory."""

_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


class PairedFolder(Sequence):
    """Images of one folder and the files of another that have the same names, at any depth.

    Images without such a file are left out, so that a folder of all images serves for a part that is labeled.

    Attributes:
        paths: The images, sorted.
        targets: The file of each.

    Raises:
        ValueError: A folder does not exist, the two have no names in common, or a name stands for several files.
    """

    def __init__(self, images: str | Path, targets: str | Path, suffixes: Sequence[str]) -> None:
        there = _by_name(images, IMAGE_SUFFIXES)
        wanted = _by_name(targets, suffixes)
        names = sorted(there.keys() & wanted.keys())
        if not names:
            raise ValueError(
                f"no image of {images} has a file of the same name ({', '.join(suffixes)}) in {targets}"
            )
        self.paths = [there[name] for name in names]
        self.targets = [wanted[name] for name in names]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        """The path of one image."""
        return self.paths[index]


class MaskFolder(PairedFolder):
    """Images with a label for every pixel, as PNG files of one channel or with a palette.

    Attributes:
        classes: The names of the labels 0 to K - 1.

    Args:
        images, masks: The two folders.
        classes: Names of the labels; their numbers, up to the largest one found, if None.
        reduce_zero_label: 0 stands for no label and 1 is the first one, as in ADE20k's files.

    Raises:
        ValueError: As `PairedFolder`, or there are fewer than two classes, or more than `MOST_NUMBERS` without names.
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        classes: Sequence[str] | None = None,
        reduce_zero_label: bool = False,
    ) -> None:
        super().__init__(images, masks, (".png",))
        self.reduce_zero_label = reduce_zero_label
        self.classes = tuple(classes) if classes is not None else self._numbers()
        if len(self.classes) < 2:
            raise ValueError(f"need at least two classes, got {', '.join(self.classes) or 'none'}")

    def target(self, index: int) -> Tensor:
        """The labels of an image, (H, W) int64; `IGNORED` where there is none.

        Raises:
            ImageError: The file cannot be read, is no mask, or has a label that is no class.
        """
        path = self.targets[index]
        return _checked(self._labels(read_mask(path)), self.classes, printable(str(path)))

    def _labels(self, mask: Tensor) -> Tensor:
        return reduce_zero(mask) if self.reduce_zero_label else mask

    def _numbers(self) -> tuple[str, ...]:
        highest = -1
        for path in self.targets:
            labels = self._labels(read_mask(path))
            highest = max([highest, *labels[labels != IGNORED].unique().tolist()])
            if highest >= MOST_NUMBERS:
                raise ValueError(
                    f"{printable(str(path))} has the label {highest}, and at most {MOST_NUMBERS} labels are taken by "
                    "number: it may be a depth map, or count instances; if it does hold classes, give their names"
                )
        return tuple(map(str, range(highest + 1)))


class DepthFolder(PairedFolder):
    """Images with a depth for every pixel: PNG files of 16 bits, or ``.npy`` arrays (H, W) in meters.

    Args:
        images, depths: The two folders.
        scale: What the numbers of PNG files are divided by to give meters: 1000 for millimeters (NYU), 256 for KITTI.

    Raises:
        ValueError: As `PairedFolder`, or the scale is not positive.
    """

    def __init__(self, images: str | Path, depths: str | Path, scale: float = 1000.0) -> None:
        super().__init__(images, depths, (".png", ".npy"))
        _check_scale(scale)
        self.scale = scale

    def target(self, index: int) -> Tensor:
        """The depth of an image, (H, W) float32 in meters; 0 where it is not known.

        Raises:
            ImageError: The file cannot be read or holds no depths.
        """
        path = self.targets[index]
        if path.suffix.lower() == ".npy":
            return _known(_read_array(path))
        return _known(read_mask(path).numpy() / self.scale)


class HubMasks(HubRows):
    """Images with masks that the ``datasets`` library can load.

    Attributes:
        classes: The names of the labels.

    Args:
        name, split: As ``datasets.load_dataset`` takes them; the name may be a local folder.
        classes: The names of the labels.
        mask_column: The column of the masks.
        reduce_zero_label: As in `MaskFolder`.

    Raises:
        MissingExtraError: `datasets` is not installed.
        ValueError: The data set has no such columns.
    """

    def __init__(
        self,
        name: str,
        split: str,
        classes: Sequence[str],
        mask_column: str = "annotation",
        reduce_zero_label: bool = False,
    ) -> None:
        super().__init__(name, split, mask_column)
        self.classes = tuple(classes)
        self.mask_column = mask_column
        self.reduce_zero_label = reduce_zero_label

    def target(self, index: int) -> Tensor:
        """As `MaskFolder.target`."""
        mask = mask_labels(self.dataset[index][self.mask_column], f"mask {index}")
        return _checked(reduce_zero(mask) if self.reduce_zero_label else mask, self.classes, f"mask {index}")


class HubDepths(HubRows):
    """Images with depths that the ``datasets`` library can load, such as NYU Depth v2.

    Args:
        name, split: As ``datasets.load_dataset`` takes them; the name may be a local folder.
        depth_column: The column of the depths: pictures of one channel, or arrays (H, W). Those of floating-point
            numbers are in meters.
        scale: What whole numbers are divided by to give meters, as in `DepthFolder`.

    Raises:
        MissingExtraError: `datasets` is not installed.
        ValueError: The data set has no such columns, or the scale is not positive.
    """

    def __init__(self, name: str, split: str, depth_column: str = "depth_map", scale: float = 1000.0) -> None:
        _check_scale(scale)
        super().__init__(name, split, depth_column)
        self.depth_column = depth_column
        self.scale = scale

    def target(self, index: int) -> Tensor:
        """As `DepthFolder.target`."""
        try:
            depth = np.array(self.dataset[index][self.depth_column])
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"depth {index} of the data set cannot be read: {error}") from error
        if depth.ndim != 2 or depth.dtype.kind not in "fiu":
            raise ImageError(
                f"depth {index} of the data set has the shape {depth.shape}; expected one number for each pixel, (H, W)"
            )
        return _known(depth if depth.dtype.kind == "f" else depth / self.scale)


def _check_scale(scale: float) -> None:
    if not scale > 0:
        raise ValueError(f"the depth scale must be positive, got {scale}")


def read_mask(path: str | Path) -> Tensor:
    """The numbers of a picture of one channel or with a palette, (H, W) int64.

    Raises:
        ImageError: It cannot be read, or has colors.
    """
    with open_image(path) as image:
        return mask_labels(image, printable(str(path)))


def mask_labels(image: Image.Image, name: str) -> Tensor:
    """As `read_mask`, for an open picture."""
    if image.mode not in _ONE_CHANNEL:
        raise ImageError(
            f"{name} is a picture of mode {image.mode}, not a mask; masks have one channel, or a palette, with the "
            "number of the label (or the depth) at every pixel"
        )
    try:
        return torch.from_numpy(np.array(image).astype(np.int64))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{name} cannot be read as a mask: {error}") from error


def reduce_zero(mask: Tensor) -> Tensor:
    """Labels that count from 1 as labels from 0; 0 becomes `IGNORED`."""
    return torch.where((mask == 0) | (mask == IGNORED), IGNORED, mask - 1)


def _checked(labels: Tensor, classes: Sequence[str], name: str) -> Tensor:
    wrong = (labels != IGNORED) & (labels >= len(classes))
    if wrong.any():
        raise ImageError(
            f"{name} has the label {int(labels[wrong][0])}, but the data set has "
            f"{counted(len(classes), 'class', 'classes')}: labels are 0 to {len(classes) - 1}, and {IGNORED} for none"
        )
    return labels


def _read_array(path: Path) -> NDArray[Any]:
    name = printable(str(path))
    try:
        with open_regular(path) as file:
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(f"{name} cannot be read as an array: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ImageError(f"{name} must be one array (H, W) of numbers in meters")
    return array


def _known(depth: NDArray[Any]) -> Tensor:
    """Depths as float32, with 0 for what is no positive number."""
    values = torch.from_numpy(np.ascontiguousarray(depth, np.float32))
    return torch.where(values.isfinite() & (values > 0), values, 0.0)


def _by_name(folder: str | Path, suffixes: Sequence[str]) -> Mapping[str, Path]:
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in suffixes and path.is_file():
            name = path.relative_to(root).with_suffix("").as_posix()
            if name in found:
                raise ValueError(f"{found[name]} and {path} have the same name; give each image one file")
            found[name] = path
    return found
