"""Images for training: from folders, tar files or `datasets`, in an order that follows from the seed alone."""

from __future__ import annotations

import glob
import io
import random
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from radio.errors import ImageError
from radio.files import open_regular
from radio.images import IMAGE_SUFFIXES, load_image
from radio.images.opening import identify
from radio.optional import require
from radio.training.recipe import DataRecipe
from radio.training.schedules import chance

_MOST_BAD = 20
"""After so many bad images in a row the data is given up."""


class FolderImages:
    """The images of a folder and its subfolders, sorted by path."""

    def __init__(self, folder: str) -> None:
        root = Path(folder).expanduser()
        self.paths = sorted(
            path
            for path in root.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
        )
        if not self.paths:
            raise ValueError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        return self.paths[index].name, self.paths[index]


class TarImages:
    """The images of WebDataset's tar files, read where they lie: an index of offsets is made once."""

    def __init__(self, pattern: str) -> None:
        self.entries: list[tuple[str, str, int, int]] = []
        for file in sorted(glob.glob(pattern)):
            try:
                self.entries += _members(file)
            except (tarfile.TarError, OSError) as error:
                raise ValueError(
                    f"{file} cannot be read as a tar file: {error}; leave it out or mend it"
                ) from error
        if not self.entries:
            raise ValueError(f"no tar file that matches {pattern!r} has images")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        file, name, offset, size = self.entries[index]
        with open(file, "rb") as archive:
            archive.seek(offset)
            content = archive.read(size)
        return name, identify(io.BytesIO(content), f"{file}: {name}")


def _members(file: str) -> Iterator[tuple[str, str, int, int]]:
    """File, name, first byte and number of bytes of every image in a tar file."""
    with open_regular(file) as content, tarfile.open(fileobj=content, mode="r:") as archive:
        for member in archive:
            if member.size < 0:  # which would lead back to where the last one began
                raise tarfile.ReadError(f"{member.name!r} has a negative size")
            plain = member.isreg() and not member.issparse()
            if plain and member.name.lower().endswith(IMAGE_SUFFIXES):
                yield file, member.name, member.offset_data, member.size


class HubImages:
    """The column ``image`` of a data set that the ``datasets`` library loads."""

    def __init__(self, name: str, split: str) -> None:
        self.rows = require("datasets", "datasets").load_dataset(name, split=split)
        if "image" not in self.rows.column_names:
            raise ValueError(f"{name} has columns {', '.join(self.rows.column_names)}; expected image")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        return str(index), self.rows[index]["image"]


Images = FolderImages | TarImages | HubImages


def open_images(recipe: DataRecipe) -> Images:
    """The images that a recipe names.

    Raises:
        ValueError: There are none.
        MissingExtraError: `datasets` is needed and not installed.
    """
    if recipe.folder is not None:
        return FolderImages(recipe.folder)
    if recipe.webdataset is not None:
        return TarImages(recipe.webdataset)
    assert recipe.dataset is not None
    return HubImages(recipe.dataset, recipe.split)


class Batch(NamedTuple):
    """Images of one size.

    Attributes:
        pixels: (B, 3, side, side) float32 in [0, 1].
        names: Of the images.
        skipped: How many bad images were passed over.
    """

    pixels: Tensor
    names: list[str]
    skipped: int


class Draw(NamedTuple):
    """Number of a draw in the endless shuffled order, and the side of the square to make of it, in pixels."""

    number: int
    side: int


class Draws(Dataset):
    """Images by the number of their draw. The whole order, and every crop, follow from the seed."""

    def __init__(self, images: Images, recipe: DataRecipe, seed: int) -> None:
        self.images, self.recipe, self.seed = images, recipe, seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, str, int] | ImageError:
        """A square of an image, its name, and how many bad ones came before it; an error after too many of these.

        It is not raised here, since PyTorch would put the traceback of a worker process into its message.
        """
        last: Exception | None = None
        for attempt in range(_MOST_BAD):
            source = chance(self.seed, draw.number, attempt)
            index = self._shuffled(draw.number) if attempt == 0 else source.randrange(len(self.images))
            try:
                name, image = self.images[index]
                pixels = load_image(image)
            except Exception as error:  # decoders of damaged files fail in many ways
                last = error
                continue
            if self.recipe.augmentation == "crop":
                return random_crop(pixels, draw.side, self.recipe.crop_scale, source), name, attempt
            return center_square(pixels, draw.side), name, attempt
        return ImageError(f"{_MOST_BAD} images in a row cannot be read; the last one: {last}")

    def _shuffled(self, number: int) -> int:
        """The image at a place of the endless order: every epoch is a permutation of its own."""
        epoch, place = divmod(number, len(self.images))
        return _permutation(len(self.images), self.seed, epoch)[place]


class _Permutations:
    """The last permutation that was asked for."""

    def __init__(self) -> None:
        self.key: tuple[int, int, int] | None = None
        self.order: Sequence[int] = ()

    def __call__(self, count: int, seed: int, epoch: int) -> Sequence[int]:
        if self.key != (count, seed, epoch):
            generator = torch.Generator().manual_seed(random.Random(f"{seed}:{epoch}").getrandbits(63))
            self.order = torch.randperm(count, generator=generator).tolist()
            self.key = (count, seed, epoch)
        return self.order


_permutation = _Permutations()


def random_crop(pixels: Tensor, side: int, smallest: float, source: random.Random) -> Tensor:
    """A random part of an image (3, H, W), of aspect 3/4 to 4/3, as a square, flipped half of the time."""
    height, width = pixels.shape[1:]
    area = height * width * source.uniform(smallest, 1)
    aspect = 2 ** source.uniform(-0.415, 0.415)
    rows = min(height, max(1, round((area / aspect) ** 0.5)))
    columns = min(width, max(1, round((area * aspect) ** 0.5)))
    top, left = source.randint(0, height - rows), source.randint(0, width - columns)
    part = pixels[:, top : top + rows, left : left + columns]
    part = part.flip(2) if source.random() < 0.5 else part
    return resize(part[None], side)[0]


def center_square(pixels: Tensor, side: int) -> Tensor:
    """The center of an image (3, H, W), as large as it can be, at that side."""
    height, width = pixels.shape[1:]
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    return resize(pixels[None, :, top : top + shorter, left : left + shorter], side)[0]


def resize(pixels: Tensor, side: int) -> Tensor:
    """Images (B, 3, H, W) as squares of that side, bilinear and antialiased."""
    if pixels.shape[-2:] == (side, side):
        return pixels
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)


def batches(images: Images, recipe: DataRecipe, seed: int, plan: Sequence[Sequence[Draw]]) -> Iterator[Batch]:
    """Read planned batches ahead, in worker processes where the recipe says so.

    Raises:
        ImageError: Too many images in a row cannot be read.
    """
    loader: DataLoader = DataLoader(
        Draws(images, recipe, seed),
        batch_sampler=plan,  # type: ignore[arg-type]
        num_workers=recipe.workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, ImageError):
            raise batch
        yield batch


def _collate(samples: list[tuple[Tensor, str, int] | ImageError]) -> Batch | ImageError:
    good = [sample for sample in samples if not isinstance(sample, ImageError)]
    if len(good) < len(samples):
        return next(sample for sample in samples if isinstance(sample, ImageError))
    pixels, names, skipped = zip(*good, strict=True)
    return Batch(torch.stack(pixels), list(names), sum(skipped))
