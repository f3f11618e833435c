"""Open an image file: regular files only, a named list of raster formats, and no more pixels than make sense."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from radio.errors import ImageError
from radio.files import open_regular

RASTER_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")
"""The formats that are read, under Pillow's names (MPO is a JPEG with several frames; PPM has PGM and PBM with it).
What a file is, its first bytes say, whatever its name. Formats that start a program (EPS) or are none of pixels are
not read."""

MAX_PIXELS = 2**27
"""The largest image that is read, in pixels: 134 million, more than any camera makes."""

_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_LONGEST_NAME = 300
_LONGEST_REASON = 300


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open a file as a PIL image, which is not decoded yet.

    Raises:
        ImageError: It is missing, not a regular file, not one of `RASTER_FORMATS`, or has more than `MAX_PIXELS`.
    """
    name = printable(os.fsdecode(path))
    if name.startswith(("http://", "https://")):
        raise ImageError(f"{name} is an address; download the image and give the path of the file")
    if name.startswith("data:"):
        raise ImageError(
            "a data URI is no path; give its content, model.encode(base64.b64decode(uri.partition(',')[2]))"
        )
    if os.path.isdir(path):
        raise ImageError(f"{name} is a folder, not an image; give the files in it")
    try:
        file = open_regular(path)
    except FileNotFoundError as error:
        raise ImageError(f"there is no image file '{name}' (looked from {Path.cwd()})") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"{name} cannot be read as an image: {printable(reason)}") from error
    with file, decode(file, name) as image:
        yield image


@contextmanager
def open_bytes(content: bytes, name: str) -> Iterator[Image.Image]:
    """As `open_image`, for the content of a file."""
    with decode(io.BytesIO(content), name) as image:
        yield image


@contextmanager
def decode(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """As `identify`; the image is closed when the block ends."""
    with identify(file, name) as image:
        yield image


def identify(file: IO[bytes], name: str) -> Image.Image:
    """An open file as a PIL image, which is not decoded yet.

    Args:
        file: At its start.
        name: What it is called in messages.

    Raises:
        ImageError: It is not one of `RASTER_FORMATS`, or has more than `MAX_PIXELS`.
    """
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError as error:
        file.seek(0)
        start = file.read(16)
        if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
            return _open_heic(file, name)
        if start[4:8] == b"ftyp" and start[8:12] == b"avif" and "AVIF" not in _formats():
            raise ImageError(
                f"{name} is an AVIF image, which this version of Pillow cannot read: pip install 'pillow>=11.3'; or "
                "save it as JPEG"
            ) from error
        raise ImageError(f"{name} is not an image: {_what_else(start)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is enormous: at most {MAX_PIXELS / 1e6:.0f} million pixels are read. Shrink it or cut it into "
            "tiles first"
        ) from error
    except Exception as error:  # decoders of damaged files fail in many ways
        raise ImageError(f"{name} cannot be read as an image: {reason(error)}") from error
    try:
        check_pixels(image, name)
    except ImageError:
        image.close()
        raise
    return image


def check_pixels(image: Any, name: str) -> None:
    """Refuse an image that is too large to be decoded.

    Raises:
        ImageError: It has more than `MAX_PIXELS`.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} is enormous: {width} x {height} pixels; at most {MAX_PIXELS / 1e6:.0f} million are read. Shrink "
            "it or cut it into tiles first"
        )


def printable(text: str) -> str:
    """A name or a reason as it may stand in a message: on one line, without control codes, not too long."""
    shown = "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[: 2 * _LONGEST_NAME]
    )
    if len(shown) <= _LONGEST_NAME and len(text) <= 2 * _LONGEST_NAME:
        return shown
    return f"{shown[: _LONGEST_NAME // 2]}…{shown[-_LONGEST_NAME // 2 :]}"


def reason(error: BaseException) -> str:
    """Why something failed: the first line of the error's message, or its kind."""
    lines = str(error).strip().splitlines()
    return printable(lines[0][:_LONGEST_REASON]) if lines else type(error).__name__


def _open_heic(file: IO[bytes], name: str) -> Image.Image:
    """A photograph of a telephone, through pillow-heif where that is installed."""
    try:
        pillow_heif = import_module("pillow_heif")
    except ImportError as error:
        raise ImageError(
            f"{name} is a HEIC image, which needs the package pillow-heif: pip install pillow-heif; or save it as JPEG"
        ) from error
    file.seek(0)
    try:
        heic = pillow_heif.open_heif(file, convert_hdr_to_8bit=True)
        check_pixels(heic, name)
        return heic.to_pillow()
    except ImageError:
        raise
    except Exception as error:  # decoders of damaged files fail in many ways
        raise ImageError(f"{name} cannot be read as an image: {reason(error)}") from error


@cache
def _formats() -> list[str]:
    """Those of `RASTER_FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in RASTER_FORMATS if name in Image.OPEN]


def _what_else(start: bytes) -> str:
    if not start:
        return "it is empty"
    if start[4:8] == b"ftyp" or start[:4] == b"\x1a\x45\xdf\xa3" or (start[:4] + start[8:12]) == b"RIFFAVI ":
        return (
            "it seems to be a video; take its frames, model.encode(radio.data.video.sample_frames(path, 16)), or use "
            "radio extract"
        )
    return f"it is damaged, or none of the formats that are read ({', '.join(_formats())})"
