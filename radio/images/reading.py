"""Read an image, whatever it is given as."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor

from radio.errors import ImageError
from radio.images.arrays import from_array, from_tensor, plain_tensor, to_rgb
from radio.images.opening import (
    RASTER_FORMATS,
    check_pixels,
    decode,
    open_bytes,
    open_image,
    printable,
    reason,
)
from radio.images.ranges import warn_of_few_bits

ImageInput = (
    str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, Any] | Image.Image | NDArray[Any] | Tensor
)
"""One image: a path, the content of a file, an open file, a row of a `datasets` data set, a PIL image, a NumPy array
(H, W[, channels]) or a tensor ([channels,] H, W)."""

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".gif", ".bmp"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif"),
)
"""How the names of image files end, for looking through folders."""

WHITE = (1.0, 1.0, 1.0)

_PATH_NAMES = (
    *("image_path", "img_path", "image_file", "image_filename"),
    *("file_name", "filename", "file_path", "filepath", "file"),
)
"""Under which names rows keep the path of their image, besides "image" and "path"."""

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LONGEST_STREAM = 2**30
_STRIPE = 2**22  # pixels that are converted at a time


def load_image(image: ImageInput, background: Sequence[float] = WHITE) -> Tensor:
    """Read one image.

    Args:
        image: One of

            - a path to a regular file of one of `radio.images.RASTER_FORMATS` (JPEG, PNG, WebP, TIFF, ...), told by
              its first bytes and not by its name; the content of such a file as bytes, or the file, open for reading
              in binary mode; at most `radio.images.MAX_PIXELS` pixels. The EXIF orientation is applied, and the first
              frame is taken. A stream that cannot be rewound is read from where it is.
            - a PIL image: of any mode that Pillow converts to RGB, and 16-bit gray. The EXIF orientation is applied,
              and the current frame is taken.
            - a row of the `datasets` library or of webdataset: a dict with an ``"image"``, or with ``"bytes"`` or a
              ``"path"``, or with one image or the path of one under another name
            - a NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
            - a tensor (H, W), (1, H, W), (3, H, W) or (4, H, W)

            Arrays and tensors are uint8 (0…255), uint16 (0…65535) or floating point in [0, 1]. One channel is gray,
            three are red, green, blue; a fourth is alpha (not premultiplied).
        background: Red, green, blue in [0, 1]: what shows through where an image is transparent. White by default.

    Returns:
        (3, H, W) float32 in [0, 1], on the device of a tensor and on the CPU for anything else. It may share
        memory with a tensor that was given; the given image is never changed.

    Raises:
        ImageError: The file is missing, truncated, too large or not an image; the values are NaN, infinite or
            outside of [0, 1]; or the shape, dtype or kind of tensor is not one of the above. The message says what
            to do.
        TypeError: It is none of these things.
    """
    if isinstance(image, Tensor):
        plain = plain_tensor(image)
        if plain.ndim == 1 and plain.dtype == torch.uint8:  # as torchvision.io.read_file has it
            return load_image(plain.cpu().numpy(), background)
        return from_tensor(image, background)
    if isinstance(image, np.ndarray):
        if image.ndim == 1 and image.dtype == np.uint8:
            return load_image(image.tobytes(), background)
        return from_array(image, background)
    if isinstance(image, Image.Image):
        return _from_given_pil(image, background)
    if isinstance(image, str | os.PathLike):
        with open_image(image) as opened:
            return _from_pil(opened, background, image_name(image))
    if isinstance(image, bytes | bytearray | memoryview):
        with open_bytes(bytes(image), "the content") as opened:
            return _from_pil(opened, background, "the content")
    if isinstance(image, Mapping):
        return load_image(_of_row(image), background)
    if callable(getattr(image, "read", None)):
        return _from_open_file(image, background)
    raise TypeError(
        "an image is a path, bytes, an open file, a PIL image, a NumPy array or a tensor, and several are a list; "
        f"got {type(image).__name__}"
    )


def image_name(image: ImageInput) -> str:
    """What an image is called in messages: its path, if it has one, or what it is given as."""
    if isinstance(image, str | os.PathLike):
        return printable(os.fsdecode(image))
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "")
        return (
            printable(os.fsdecode(name))
            if name and isinstance(name, str | bytes | os.PathLike)
            else "the PIL image"
        )
    if isinstance(image, Mapping):
        return "the row's image"
    if hasattr(image, "read"):
        name = getattr(image, "name", None)
        return printable(name) if isinstance(name, str) else "the open file"
    return "the content" if isinstance(image, bytes | bytearray | memoryview) else "the image"


def load_images(
    images: ImageInput | Sequence[ImageInput], background: Sequence[float] = WHITE
) -> list[Tensor]:
    """Read one image or several, which may be of different kinds and sizes.

    Args:
        images: One image, a sequence of images, or a batch: a tensor (B, channels, H, W) or an array
            (B, H, W, channels).
        background: As in `load_image`.

    Returns:
        One tensor (3, H, W) as from `load_image` for each image.

    Raises:
        ImageError: As `load_image`; of several images it names the one.
        TypeError: Something is not an image.
    """
    if not is_batch(images):
        return [load_image(images, background)]  # type: ignore[arg-type]
    several = as_list(images)
    loaded = []
    for number, image in enumerate(several):
        try:
            loaded.append(load_image(image, background))
        except ImageError as error:
            raise ImageError(f"image {number} of {len(several)}: {error}") from error
    return loaded


def is_batch(images: Any) -> bool:
    """Whether this is several images: a list, a tuple or anything else to go through (an iterator, a data set of
    `datasets` or a column of it, a series of pandas), or an array or tensor of four dimensions.

    Raises:
        ImageError: A tensor of a kind that has no images, such as a sparse one.
    """
    if isinstance(images, Tensor):
        return plain_tensor(images).ndim == 4
    if isinstance(images, np.ndarray):
        return images.ndim == 4 or (images.ndim == 1 and images.dtype.kind in "OU")
    if isinstance(images, str | bytes | bytearray | memoryview | Mapping) or hasattr(images, "read"):
        return False  # an open file is one image
    return isinstance(images, Iterable) and getattr(images, "ndim", 1) == 1  # and no array of another library


def as_list(images: Any) -> list[Any]:
    """Several images, in any of the ways of `is_batch`, as a list.

    Raises:
        ImageError: A tensor of a kind that has no images, such as a sparse one.
    """
    return list(plain_tensor(images)) if isinstance(images, Tensor) else list(images)


def _from_given_pil(image: Image.Image, background: Sequence[float]) -> Tensor:
    source = image_name(image)
    if getattr(image, "tile", None):  # not decoded yet
        if image.format not in RASTER_FORMATS:
            raise ImageError(
                f"{source} is of format {image.format}, which is not read here; decode it first if you trust it, "
                "image.load()"
            )
        check_pixels(image, source)
    return _from_pil(image, background, source)


def _from_open_file(file: Any, background: Sequence[float]) -> Tensor:
    source = image_name(file)
    try:
        if not isinstance(file.read(0), bytes):
            raise ImageError(f"{source} is open as text; open it in binary mode, open(path, 'rb')")
        if _rewinds(file):
            file.seek(0)
        else:
            file = io.BytesIO(_read_stream(file, source))
    except ImageError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(f"{source} cannot be read as an image: {reason(error)}") from error
    with decode(file, source) as opened:
        return _from_pil(opened, background, source)


def _rewinds(file: Any) -> bool:
    """Whether it is a file, and no pipe and no answer of a server."""
    if not hasattr(file, "seek"):
        return False
    return not hasattr(file, "seekable") or file.seekable()  # temporary files have none before Python 3.11


def _read_stream(file: Any, source: str) -> bytes:
    content = bytearray()
    while part := file.read(_LONGEST_STREAM + 1 - len(content)):
        content += part
    if len(content) > _LONGEST_STREAM:
        raise ImageError(
            f"{source} gives more than {_LONGEST_STREAM} bytes, which no image has; save it first"
        )
    return bytes(content)


def _of_row(row: Mapping[str, Any]) -> Any:
    """The image of a row of the `datasets` library, decoded or not: under one of its names, or the only one."""
    for name in ("image", "bytes", "path"):
        if row.get(name) is not None:
            return _only(row[name], name)
    for kind in (_is_picture, _is_content, _is_pixels):
        pictures = [(name, value) for name, value in row.items() if kind(_first(value))]
        if len(pictures) == 1:
            name, value = pictures[0]
            return _only(value, name)
        if pictures:
            break
    else:
        named = next((row[name] for name in _PATH_NAMES if isinstance(row.get(name), str)), None)
        if named is not None:
            return named
    raise TypeError(
        f"a row with an image has 'image', 'bytes' or 'path'; got dict with {list(row)[:8]}; give the column's value, "
        "row['name']"
    )


def _first(value: Any) -> Any:
    """The first of a list, as which some data sets keep the images of a row."""
    return value[0] if isinstance(value, list | tuple) and value else value


def _only(value: Any, name: Any) -> Any:
    """The one image of a list.

    Raises:
        TypeError: It holds several, as a batch of rows does.
    """
    if isinstance(value, list | tuple) and len(value) != 1:
        raise TypeError(
            f"this dict has {len(value)} images under {name!r}; give the list itself, which is several images"
        )
    return _first(value)


def _is_picture(value: Any) -> bool:
    """Whether a value of a row can only be an image."""
    if isinstance(value, Mapping):
        return {"bytes", "path"} <= value.keys()
    return isinstance(value, Image.Image)


def _is_content(value: Any) -> bool:
    """Whether a value of a row can be the content of a file."""
    return isinstance(value, bytes | bytearray) and len(value) > 0


def _is_pixels(value: Any) -> bool:
    """Whether a value of a row can be the pixels of an image, and no box or embedding."""
    return isinstance(value, np.ndarray | Tensor) and value.ndim == 3


def _from_pil(image: Image.Image, background: Sequence[float], source: str) -> Tensor:
    try:
        of_sixteen_bits = _has_sixteen_bits(image)
        image.load()
        upright = _upright(image)
        if upright.mode == "F" or upright.mode.startswith("I"):
            array = np.asarray(upright)
        else:
            pixels = _eight_bits(upright, background, source)
            if of_sixteen_bits:
                highest = _largest_of_sixteen_bits(_brightest(upright), of_ppm=image.format == "PPM")
                warn_of_few_bits(highest, source, "16 bits per color")
            return pixels
    except ImageError:
        raise
    except Exception as error:  # decoders of damaged files fail in many ways
        raise ImageError(
            f"{source} cannot be decoded: {reason(error)}; the file may be cut short or damaged"
        ) from error
    if upright.mode.startswith("I"):
        array = _sixteen_bits(array, source)
    return from_array(array, background, source)


def _eight_bits(image: Image.Image, background: Sequence[float], source: str) -> Tensor:
    """Convert stripe by stripe, so that a large image is never in memory as bytes and as floats several times."""
    width, height = image.size
    mode = "RGBA" if image.has_transparency_data else "RGB"
    pixels = torch.empty(3, height, width)
    rows = max(_STRIPE // max(width, 1), 1)
    for top in range(0, height, rows):
        stripe = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        if stripe.mode == "La":  # Pillow knows only this way out of it
            stripe = stripe.convert("LA")
        values = torch.tensor(np.asarray(stripe if stripe.mode == mode else stripe.convert(mode)))
        pixels[:, top : top + rows] = to_rgb(values.permute(2, 0, 1), background, source)
    if pixels.numel() == 0:
        raise ImageError(f"{source} is empty: its size is {width} x {height}")
    return pixels


def _has_sixteen_bits(image: Image.Image) -> bool:
    """Whether a file that is not decoded yet has 16 bits per color, of which Pillow keeps 8."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "PPM":  # Pillow scales to the largest value that the file names
        return any(_names_largest(tile[3]) for tile in getattr(image, "tile", ()))
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _names_largest(arguments: Any) -> bool:
    """Whether a PPM file's decoder is told that its values go up to 65535."""
    return isinstance(arguments, tuple) and 65535 in arguments


def _largest_of_sixteen_bits(kept: int, of_ppm: bool) -> int:
    """The largest value of 16 bits, as far as the 8 that Pillow keeps show it: they are the upper ones, or the nearest
    of a PPM file, where data of few bits is taken to use them all."""
    if not kept:
        return 0
    if not of_ppm:
        return 256 * kept + 255
    lowest, highest = 257 * kept - 128, 257 * kept + 128
    return next((min(highest, 2**bits - 1) for bits in (10, 12, 14) if lowest < 2**bits), highest)


def _brightest(image: Image.Image) -> int:
    """The largest value of any color, up to 255."""
    return int(np.asarray(image.convert("RGB")).max(initial=0))


def _upright(image: Image.Image) -> Image.Image:
    method = _ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)


def _sixteen_bits(array: NDArray[Any], source: str) -> NDArray[Any]:
    """Pillow's integer modes ("I", "I;16", ...) hold 16-bit images."""
    lowest, highest = int(array.min(initial=0)), int(array.max(initial=0))
    if lowest < 0 or highest > 65535:
        raise ImageError(
            f"{source} has integers from {lowest} to {highest}; integer images must be 16-bit (0…65535). "
            "Scale it to [0, 1] yourself and pass it as a float array"
        )
    return array.astype(np.uint16)
