"""Read an image, whatever it is given as."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from radio.errors import ImageError
from radio.images.ranges import check_range

ImageInput = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor
"""One image: a path, a PIL image, a NumPy array (H, W[, channels]) or a tensor ([channels,] H, W)."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
"""How the names of image files end, for looking through folders."""

WHITE = (1.0, 1.0, 1.0)

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(image: ImageInput, background: Sequence[float] = WHITE) -> Tensor:
    """Read one image.

    Args:
        image: One of

            - a path to a file that Pillow reads (JPEG, PNG, WebP, TIFF, ...), or a PIL image: of any mode that
              Pillow converts to RGB, and 16-bit gray. The EXIF orientation is applied. Of several frames the
              current one is taken, the first for a path.
            - a NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
            - a tensor (H, W), (1, H, W), (3, H, W) or (4, H, W)

            Arrays and tensors are uint8 (0…255), uint16 (0…65535) or floating point in [0, 1]. One channel is gray,
            three are red, green, blue; a fourth is alpha (not premultiplied).
        background: Red, green, blue in [0, 1]: what shows through where an image is transparent. White by default.

    Returns:
        (3, H, W) float32 in [0, 1], on the device of a tensor and on the CPU for anything else. It may share
        memory with a tensor that was given; the given image is never changed.

    Raises:
        ImageError: The file is missing, truncated or not an image; the values are NaN, infinite or outside of
            [0, 1]; or the shape or dtype is not one of the above. The message says what to do.
        TypeError: It is none of these things.
    """
    if isinstance(image, Tensor):
        return _from_tensor(image, background)
    if isinstance(image, np.ndarray):
        return _from_array(image, background)
    if isinstance(image, Image.Image):
        return _from_pil(image, background, _describe_pil(image))
    if isinstance(image, str | os.PathLike):
        return _from_path(os.fspath(image), background)
    raise TypeError(f"an image is a path, a PIL image, a NumPy array or a tensor, got {type(image).__name__}")


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
    loaded = []
    for number, image in enumerate(images):  # type: ignore[arg-type]
        try:
            loaded.append(load_image(image, background))
        except ImageError as error:
            raise ImageError(f"image {number} of {len(images)}: {error}") from error  # type: ignore[arg-type]
    return loaded


def is_batch(images: Any) -> bool:
    """Whether this is several images: a list or tuple, or an array or tensor of four dimensions."""
    if isinstance(images, Tensor | np.ndarray):
        return images.ndim == 4
    return isinstance(images, list | tuple)


def _from_path(path: str, background: Sequence[float]) -> Tensor:
    if path.startswith(("http://", "https://")):
        raise ImageError(f"{path} is an address; download the image and give the path of the file")
    if not Path(path).exists():
        raise ImageError(f"there is no image file {path!r} (looked from {Path.cwd()})")
    if Path(path).is_dir():
        raise ImageError(f"{path} is a folder, not an image; give the files in it")
    try:
        with Image.open(path) as image:
            return _from_pil(image, background, path)
    except UnidentifiedImageError as error:
        size = Path(path).stat().st_size
        hint = "it is empty" if size == 0 else "it is damaged, or of a kind that Pillow does not read"
        raise ImageError(f"{path} is not an image: {hint}") from error
    except ImageError:
        raise
    except Exception as error:  # decoders of damaged files fail in many ways
        raise ImageError(f"{path} cannot be read as an image: {_reason(error)}") from error


def _from_pil(image: Image.Image, background: Sequence[float], source: str) -> Tensor:
    try:
        image.load()
        upright = _upright(image)
        wide = upright.mode == "F" or upright.mode.startswith("I")
        if not wide:
            if upright.mode == "La":  # Pillow knows only this way out of it
                upright = upright.convert("LA")
            upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    except Exception as error:  # decoders of damaged files fail in many ways
        raise ImageError(
            f"{source} cannot be decoded: {_reason(error)}; the file may be cut short or damaged"
        ) from error
    array = np.asarray(upright)
    if upright.mode.startswith("I"):
        array = _sixteen_bits(array, source)
    return _from_array(array, background, source)


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


def _from_array(array: NDArray[Any], background: Sequence[float], source: str = "the array") -> Tensor:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; it looks like (channels, H, W): transpose it, array.transpose(1, 2, 0), or pass it as a tensor"
        if array.ndim == 4:
            hint = "; it looks like a batch: give its images one by one, or as a list"
        raise ImageError(
            f"{source} has shape {array.shape}; expected (H, W) or (H, W, channels) with 1, 3 or 4 channels{hint}"
        )
    if array.dtype.kind == "f" or (array.dtype.kind == "u" and array.dtype.itemsize == 2):
        scale = 65535 if array.dtype.kind == "u" else 1
        pixels = torch.from_numpy(np.divide(array, scale, dtype=np.float32))
    elif array.dtype == np.uint8:
        pixels = torch.tensor(np.ascontiguousarray(array))
    else:
        raise _wrong_dtype(array.dtype, source)
    return _to_rgb(pixels if pixels.ndim == 2 else pixels.permute(2, 0, 1), background, source)


def _from_tensor(tensor: Tensor, background: Sequence[float]) -> Tensor:
    source = "the tensor"
    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4)):
        hint = ""
        if tensor.ndim == 3 and tensor.shape[2] in (1, 3, 4):
            hint = "; it looks like (H, W, channels): permute it, tensor.permute(2, 0, 1), or pass it as a NumPy array"
        if tensor.ndim == 4:
            hint = "; it looks like a batch: give its images one by one, or as a list"
        raise ImageError(
            f"{source} has shape {tuple(tensor.shape)}; "
            f"expected (H, W) or (channels, H, W) with 1, 3 or 4 channels{hint}"
        )
    if not (tensor.dtype in (torch.uint8, torch.uint16) or tensor.is_floating_point()):
        raise _wrong_dtype(tensor.dtype, source)
    return _to_rgb(tensor, background, source)


def _to_rgb(pixels: Tensor, background: Sequence[float], source: str) -> Tensor:
    """(H, W) or (channels, H, W) of an allowed dtype to (3, H, W) float32 in [0, 1]."""
    if pixels.numel() == 0:
        raise ImageError(f"{source} is empty: its shape is {tuple(pixels.shape)}")
    scale = {torch.uint8: 255, torch.uint16: 65535}.get(pixels.dtype)
    pixels = pixels.to(torch.float32)
    pixels = check_range(pixels, source) if scale is None else pixels / scale
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.shape[0] == 4:
        alpha, behind = pixels[3:], torch.tensor(list(background), device=pixels.device).view(3, 1, 1)
        pixels = pixels[:3] * alpha + behind * (1 - alpha)
    return pixels.expand(3, -1, -1).contiguous()


def _wrong_dtype(dtype: Any, source: str) -> ImageError:
    return ImageError(
        f"{source} is of type {dtype}; pixels must be uint8 (0…255), uint16 (0…65535) or floating point in [0, 1]"
    )


def _describe_pil(image: Image.Image) -> str:
    name = getattr(image, "filename", "")
    return os.fspath(name) if name else "the PIL image"


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
