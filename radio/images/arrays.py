"""Arrays and tensors of pixels to float tensors (3, H, W) in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radio.errors import ImageError
from radio.images.opening import reason
from radio.images.ranges import check_range, warn_of_few_bits


def from_array(array: NDArray[Any], background: Sequence[float], source: str = "the array") -> Tensor:
    """An array (H, W) or (H, W, channels); see `radio.images.load_image`."""
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
        if scale > 1:
            warn_of_few_bits(int(array.max(initial=0)), source)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
            pixels = torch.from_numpy(np.divide(array, scale, dtype=np.float32, casting="unsafe"))
    elif array.dtype == np.uint8:
        pixels = torch.tensor(np.ascontiguousarray(array))
    else:
        raise _wrong_dtype(array.dtype, source)
    return to_rgb(pixels if pixels.ndim == 2 else pixels.permute(2, 0, 1), background, source)


def from_tensor(tensor: Tensor, background: Sequence[float]) -> Tensor:
    """A tensor (H, W) or (channels, H, W); see `radio.images.load_image`."""
    source = "the tensor"
    tensor = plain_tensor(tensor, source)
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
    try:
        return to_rgb(tensor, background, source)
    except (RuntimeError, NotImplementedError) as error:  # a kind of tensor that has no such operations
        raise ImageError(f"{source} cannot be read as an image: {reason(error)}") from error


def plain_tensor(tensor: Tensor, source: str = "the tensor") -> Tensor:
    """The same numbers as an ordinary tensor, without what a subclass or an attribute may have added.

    Raises:
        ImageError: It is nested, sparse, quantized, or on the meta device.
    """
    try:
        unusable = _unusable(tensor)
        if unusable is None:
            return Tensor.as_subclass(tensor, Tensor)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:  # of a subclass
        raise ImageError(f"{source} cannot be read as an image: {reason(error)}") from error
    raise ImageError(f"{source} is {unusable}")


def _unusable(tensor: Tensor) -> str | None:
    if tensor.is_nested:
        return "nested; give its images as a list, tensor.unbind()"
    if tensor.layout is not torch.strided:
        return f"of layout {tensor.layout}; make it dense, tensor.to_dense()"
    if tensor.is_quantized:
        return "quantized; make it a float tensor, tensor.dequantize()"
    if tensor.is_meta:
        return "on the meta device, where it has no values"
    return None


def to_rgb(pixels: Tensor, background: Sequence[float], source: str) -> Tensor:
    """(H, W) or (channels, H, W) of an allowed dtype to (3, H, W) float32 in [0, 1]."""
    if pixels.numel() == 0:
        raise ImageError(f"{source} is empty: its shape is {tuple(pixels.shape)}")
    scale = {torch.uint8: 255, torch.uint16: 65535}.get(pixels.dtype)
    pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    if scale == 65535:
        warn_of_few_bits(int(pixels.max()), source)
    pixels = check_range(pixels, source) if scale is None else pixels.div_(scale)
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
