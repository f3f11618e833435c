"""Sizes that a model supports, and resizing to them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal, SupportsIndex

import torch.nn.functional as F
from torch import Tensor

from radio.errors import ImageError

Kind = Literal["short", "long", "patches", "exact", "crop", "preferred"]
SizeSpec = int | str | Sequence[int] | None
"""How large an image becomes; see `target_size`."""

_FORMS = (
    "512 or 'short:512' (short side), 'long:512' (long side), 'patches:1024' (at most so many patches), "
    "(512, 768) or '512x768' (height and width), 'crop:512x768' (height and width, center cut out), "
    "'preferred' (what the model works best at)"
)


@dataclass(frozen=True)
class _Size:
    kind: Kind
    values: tuple[int, ...]


def nearest_supported(height: float, width: float, step: int) -> tuple[int, int]:
    """The height and width nearest to these that are multiples of a step, at least one step each."""
    return _nearest(height, step), _nearest(width, step)


def target_size(
    height: int,
    width: int,
    size: SizeSpec = None,
    step: int = 1,
    patch_size: int | None = None,
    max_side: int | None = None,
    preferred: int | None = None,
) -> tuple[int, int]:
    """The size that an image gets.

    Args:
        height, width: Its size now, in pixels.
        size: What is wanted. The aspect ratio is kept as far as the step allows, except for a height and width.

            - ``None``: the supported size nearest to its own; smaller when a side is above ``max_side``
            - ``512`` or ``"short:512"``: the short side
            - ``"long:512"``: the long side
            - ``"patches:1024"``: at most so many patches; an image that has fewer keeps its size
            - ``(512, 768)`` or ``"512x768"``: exactly this height and width
            - ``"crop:512x768"``: exactly this height and width, for the center of the image (see `resize_image`)
            - ``"preferred"``: the short side that the model works best at; less where the long side would be above
              ``max_side``
        step: Height and width become multiples of this (a model's ``min_resolution_step``).
        patch_size: Side of a patch in pixels, for ``"patches:…"``; ``step`` if not given.
        max_side: The largest side that the model supports (its ``max_resolution``), in pixels.
        preferred: The short side that the model works best at, in pixels, for ``"preferred"``.

    Returns:
        Height and width in pixels.

    Raises:
        ImageError: This image's long side would be larger than ``max_side``.
        ValueError: The size has another form, a given height or width is not a multiple of the step or larger than
            ``max_side``, or the budget is too small for one step.
    """
    wanted = None if size is None else _parse(size)
    if wanted is None:
        largest = math.inf if max_side is None else max_side // step * step
        scale = min(1.0, largest / max(height, width))
        return nearest_supported(height * scale, width * scale, step)
    if wanted.kind == "preferred":
        if preferred is None:
            raise ValueError("the size 'preferred' is one of a model; use model.resize or model.encode")
        largest = math.inf if max_side is None else max_side // step * step
        scale = min(preferred / min(height, width), largest / max(height, width))
        return nearest_supported(height * scale, width * scale, step)
    if wanted.kind == "short":
        scale = wanted.values[0] / min(height, width)
        result = nearest_supported(height * scale, width * scale, step)
    elif wanted.kind == "long":
        scale = wanted.values[0] / max(height, width)
        result = nearest_supported(height * scale, width * scale, step)
    elif wanted.kind == "patches":
        result = _within_budget(height, width, wanted.values[0], step, patch_size or step, max_side)
    else:
        result = wanted.values[0], wanted.values[1]
        if result[0] % step or result[1] % step:
            near = nearest_supported(*result, step)
            raise ValueError(
                f"height and width must be multiples of {step} for this model, got {result[0]}x{result[1]}; "
                f"nearest: {near[0]}x{near[1]}"
            )
    if max_side is not None and max(result) > max_side:
        kind = ImageError if wanted.kind == "short" else ValueError  # other images may do at the same size
        raise kind(
            f"size {size!r} makes an image of {height}x{width} (height x width) {result[0]}x{result[1]}, "
            f"but this model supports sides up to {max_side}; use 'long:{max_side}' or less"
        )
    return result


def resize_image(
    image: Tensor,
    size: SizeSpec = None,
    step: int = 1,
    patch_size: int | None = None,
    max_side: int | None = None,
    preferred: int | None = None,
) -> Tensor:
    """Resize an image to a size that a model supports: bicubic, antialiased, clamped to [0, 1].

    Args:
        image: (3, H, W) or (B, 3, H, W) floating point in [0, 1].
        size, step, patch_size, max_side, preferred: As in `target_size`. With ``"crop:HxW"`` it is resized to just
            cover that height and width, and its center is cut out.

    Returns:
        The resized image with as many dimensions as were given, or the image itself when it has the right size.

    Raises:
        ValueError: As `target_size`.
    """
    height, width = image.shape[-2:]
    target = target_size(height, width, size, step, patch_size, max_side, preferred)
    if size is None or _parse(size).kind != "crop":
        return _interpolate(image, *target)
    scale = max(target[0] / height, target[1] / width)
    covering = max(round(height * scale), target[0]), max(round(width * scale), target[1])
    return center_crop(_interpolate(image, *covering), *target)


def center_crop(image: Tensor, height: int, width: int) -> Tensor:
    """Cut out the center.

    Args:
        image: (..., H, W).
        height, width: Size of the cut, at most that of the image.

    Returns:
        A view (..., height, width) into the image.

    Raises:
        ValueError: The cut is larger than the image.
    """
    rows, columns = image.shape[-2:]
    if height > rows or width > columns:
        raise ValueError(f"cannot cut {height}x{width} (height x width) out of an image of {rows}x{columns}")
    top, left = (rows - height) // 2, (columns - width) // 2
    return image[..., top : top + height, left : left + width]


def size_text(size: SizeSpec) -> str | None:
    """A size as text, the same for all ways to say it: 512, "512" and "short:512" are one."""
    if size is None:
        return None
    text = size if isinstance(size, str) else "x".join(map(str, [size] if isinstance(size, int) else size))
    text = text.strip().replace("×", "x")
    return f"short:{text}" if text.isdecimal() else text


def _interpolate(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[-2:] == (height, width):
        return image
    batch = image if image.ndim == 4 else image[None]
    resized = F.interpolate(batch, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1).view(*image.shape[:-2], height, width)


def _parse(size: SizeSpec) -> _Size:
    if isinstance(size, str):
        return _parse_text(size)
    values = tuple(size) if isinstance(size, Sequence) else (size,)
    numbers = tuple(index(v) for v in values if isinstance(v, SupportsIndex) and not isinstance(v, bool))
    if len(numbers) == len(values) in (1, 2) and min(numbers) > 0:
        return _Size("short" if len(numbers) == 1 else "exact", numbers)
    raise ValueError(f"unknown size {size!r}; allowed: {_FORMS}")


def _parse_text(text: str) -> _Size:
    if text.strip() == "preferred":
        return _Size("preferred", ())
    found = re.fullmatch(r"(?:(short|long|patches):)?([1-9]\d*)", text.strip())
    if found:
        kinds: dict[str | None, Kind] = {
            None: "short",
            "short": "short",
            "long": "long",
            "patches": "patches",
        }
        return _Size(kinds[found[1]], (int(found[2]),))
    found = re.fullmatch(r"(crop:)?([1-9]\d*)[x×]([1-9]\d*)", text.strip())
    if found:
        return _Size("crop" if found[1] else "exact", (int(found[2]), int(found[3])))
    raise ValueError(f"unknown size {text!r}; allowed: {_FORMS}")


def _within_budget(
    height: int, width: int, budget: int, step: int, patch_size: int, max_side: int | None
) -> tuple[int, int]:
    """The largest supported size, not above the image's own, that has at most ``budget`` patches."""
    smallest = (step // patch_size) ** 2
    if budget < smallest:
        raise ValueError(
            f"a budget of {budget} patches is too small: the smallest image of this model has {smallest}"
        )
    result = target_size(height, width, None, step, max_side=max_side)
    if _patches(result, patch_size) <= budget:
        return result
    scale = math.sqrt(budget * patch_size**2 / (height * width))
    result = nearest_supported(height * scale, width * scale, step)
    while _patches(result, patch_size) > budget:
        result = _one_step_less(result, height / width, step)
    return result


def _one_step_less(size: tuple[int, int], aspect: float, step: int) -> tuple[int, int]:
    """One step off the side whose loss keeps the aspect ratio (height / width) best."""
    choices = [(size[0] - step, size[1]), (size[0], size[1] - step)]
    possible = [choice for choice in choices if min(choice) >= step]
    return min(possible, key=lambda choice: abs(math.log(choice[0] / choice[1] / aspect)))


def _patches(size: tuple[int, int], patch_size: int) -> int:
    return (size[0] // patch_size) * (size[1] // patch_size)


def _nearest(side: float, step: int) -> int:
    return max(round(side / step), 1) * step
