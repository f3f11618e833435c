"""Mistakes that give plausible nonsense in silence: said once for each model, and never while a graph is traced."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from radio.modeling.outputs import Resolution

_FAR = 4
_DIVIDED_TWICE = 1.001 / 255
_ROUNDING = 0.02
_OVERSHOOT = 0.25
"""Resizing filters overshoot: a little, and without antialiasing more."""


class InputWarnings:
    """What was said already about one model."""

    def __init__(self) -> None:
        self._pixels_checked = False
        self._mode_checked = False
        self._size_said = False

    def check_pixels(self, x: Tensor) -> None:
        """Warn about pixels (B, 3, H, W) outside of [0, 1].

        Every batch on a CPU is looked at until one is wrong; on other devices only the first one, since looking waits
        for the device.
        """
        if self._pixels_checked or _is_traced(x) or not x.numel():
            return
        low, high = float(x.amin()), float(x.amax())
        self._pixels_checked = x.device.type != "cpu"
        if low >= -_ROUNDING and high <= 1 + _ROUNDING:
            if 0 < high <= _DIVIDED_TWICE:
                self._pixels_checked = True
                warnings.warn(
                    f"no pixel is above {high:.3g}, so the images are nearly black; if they were divided by 255 twice, "
                    "leave one out (said once for this model)",
                    stacklevel=_frames_to_caller(),
                )
            return
        self._pixels_checked = True
        if not math.isfinite(low) or not math.isfinite(high):
            mistake = "look for a division by zero or an overflow where they were made"
        elif low >= -_ROUNDING and high > 2:
            mistake = "divide pixels of 0 to 255 by 255"
        elif low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
            mistake = "clamp what a bicubic resize overshoots, x.clamp(0, 1)"
        elif low < 0:
            mistake = "give pixels that are not normalized: the model does that itself"
        else:
            mistake = "scale them"
        warnings.warn(
            f"the model takes pixels in [0, 1], and got values from {low:.3g} to {high:.3g}; {mistake}, or use "
            "model.encode(...), which checks them (said once for this model)",
            stacklevel=_frames_to_caller(),
        )

    def check_size(self, height: int, width: int, preferred: Resolution) -> None:
        """Warn about an image that runs at four times the pixels that the model works best at, or at a quarter of them,
        although nobody asked for that size."""
        share = height * width / (preferred.height * preferred.width)
        if self._size_said or 1 / _FAR < share < _FAR:
            return
        self._size_said = True
        warnings.warn(
            f"an image runs at {height} x {width} (height x width), the supported size nearest to its own; this model "
            f"works best at {preferred.height} x {preferred.width}. size='preferred' runs it there, size=... anywhere "
            "else (said once for this model)",
            stacklevel=_frames_to_caller(),
        )

    def check_mode(self, model: nn.Module, patch_generator: nn.Module | None) -> None:
        """Warn about a model in training mode, with random crops of its position embeddings, if it is not trained.

        Args:
            model: The model.
            patch_generator: The part that crops; it may be in another mode than the model. None if there is none.
        """
        if patch_generator is None or not patch_generator.training:
            return
        if self._mode_checked or torch.compiler.is_compiling():
            return
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters()):
            return
        self._mode_checked = True
        warnings.warn(
            "the model is in training mode without training: position embeddings are cropped at random, so features "
            "differ from call to call; call model.eval() after detector.train() (said once for this model)",
            stacklevel=_frames_to_caller(),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> InputWarnings:
        return InputWarnings()


def _frames_to_caller() -> int:
    """Frames from `warnings.warn` to the code that called the model, past this library and PyTorch."""
    frame, count = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in (
        "radio",
        "torch",
    ):
        frame, count = frame.f_back, count + 1
    return count


def _is_traced(x: Tensor) -> bool:
    """Whether the values cannot or must not be read: graphs, tensors without data, transforms of torch.func."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.device.type == "meta":
        return True
    return type(x) not in (Tensor, nn.Parameter) or torch._C._functorch.maybe_get_level(x) != -1
