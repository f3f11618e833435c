"""Images as callers give them: checked, and divided into passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from radio.modeling.outputs import Resolution

_CPU_PASS_BYTES = 24 * 2**20


def check_images(
    x: Tensor, step: int, nearest: Callable[[int, int], Resolution], reason_of_step: str = ""
) -> None:
    """Refuse what is no batch of images (B, 3, H, W), floating point, with sides that are multiples of `step`.

    Args:
        x: What was given.
        step: Height and width are multiples of this.
        nearest: The size closest to a height and width that would be accepted.
        reason_of_step: What the step is made of, for the message.

    Raises:
        TypeError: It is no floating-point tensor.
        ValueError: Its shape is not supported; the message names the nearest one that is.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"expected a tensor, got {type(x).__name__}; model.encode(...) takes paths, PIL images and arrays"
        )
    if not x.is_floating_point():
        raise TypeError(
            f"expected floating-point values in [0, 1], got {x.dtype}; divide by 255, or use model.encode(...)"
        )
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(x.shape)}{_what_to_do(x)}")
    height, width = x.shape[-2:]
    if height % step or width % step or height < step or width < step:
        best = nearest(height, width)
        raise ValueError(
            f"height and width must be multiples of {step}{reason_of_step}, got {height} x {width}; the nearest "
            f"supported resolution is {best.height} x {best.width} (model.get_nearest_supported_resolution)"
        )


def _what_to_do(x: Tensor) -> str:
    """The step that is missing, to end a message with."""
    if x.ndim == 3 and x.shape[0] == 3:
        return "; one image needs a batch dimension: x[None]"
    if x.ndim == 4 and x.shape[3] == 3:
        return "; the channels come second: x.permute(0, 3, 1, 2)"
    if x.ndim == 5 and x.shape[2] == 3:
        return "; give the frames of clips (B, T, 3, H, W) as one batch: x.flatten(0, 1)"
    if x.ndim == 4 and x.shape[1] > 3 and x.shape[1] % 3 == 0:
        return (
            f"; frames packed along the channels, {x.shape[1] // 3} at a time, need weights of their own, which this "
            "model does not have for so many (config.video_temporal_patch_size); give each frame as an image: "
            "x.unflatten(1, (-1, 3)).flatten(0, 1)"
        )
    return ""


def batches_of_one(x: Sequence[Tensor]) -> list[Tensor]:
    """The images of a list, (3, H, W) or (1, 3, H, W), each as a batch (1, 3, H, W).

    Raises:
        TypeError: It is no list of tensors.
        ValueError: It is empty, or an entry holds several images.
    """
    if not isinstance(x, Sequence) or isinstance(x, str):
        raise TypeError(
            f"expected a tensor (B, 3, H, W) or a list of tensors, got {type(x).__name__}; "
            "model.encode(...) takes paths, PIL images and arrays"
        )
    if not x:
        raise ValueError("the list of images is empty")
    batches = []
    for image in x:
        if not isinstance(image, Tensor):
            raise TypeError(
                f"expected tensors, got {type(image).__name__}; "
                "model.encode(...) takes paths, PIL images and arrays"
            )
        if image.ndim == 4 and image.shape[0] != 1:
            raise ValueError(
                f"each image of a list must be (3, H, W) or (1, 3, H, W), got {tuple(image.shape)}"
            )
        batches.append(image.unsqueeze(0) if image.ndim == 3 else image)
    return batches


def check_channels(images: Sequence[Tensor]) -> None:
    """Refuse images and packed frames in one list.

    Raises:
        ValueError: They differ in their channels.
    """
    channels = sorted({image.shape[0] for image in images})
    if len(channels) > 1:
        raise ValueError(f"images and packed frames of videos do not run together, got {channels} channels")


def divide_into_passes(lengths: Sequence[int], token_bytes: int, device: torch.device) -> list[slice]:
    """Which consecutive images run together in one pass.

    On a GPU all of them. On a CPU as many as have activations of 24 MiB together, 4096 tokens of a ViT-B in bfloat16:
    longer rows gain nothing, because the matrix products are at full speed long before, and lose time because glibc
    asks the system anew for every block of memory of 32 MiB or more.

    Args:
        lengths: Number of tokens of each image.
        token_bytes: Bytes of one token in the widest activation, between the two layers of an MLP.
        device: Where the pass runs.
    """
    if device.type != "cpu":
        return [slice(0, len(lengths))]
    starts, tokens = [0], 0
    for i, length in enumerate(lengths):
        if tokens and (tokens + length) * token_bytes > _CPU_PASS_BYTES:
            starts.append(i)
            tokens = 0
        tokens += length
    return [slice(*pair) for pair in pairwise([*starts, len(lengths)])]


def check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among the allowed ones, with a message that lists them."""
    if value not in allowed:
        raise ValueError(f"unknown {what} {value!r}; allowed: {', '.join(allowed)}")


def check_num_tokens(num_tokens: int | None) -> None:
    """Refuse a number of condensed tokens that is none.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is negative.
    """
    if num_tokens is None:
        return
    if isinstance(num_tokens, bool) or not isinstance(num_tokens, int | torch.SymInt):
        raise TypeError(f"num_tokens must be a whole number or None, got {num_tokens!r}")
    if num_tokens < 0:
        raise ValueError(f"num_tokens must be at least 0, got {num_tokens}; None keeps all")
