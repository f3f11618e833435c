"""Where a module is computed, also when accelerate keeps its weights elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def compute_device(module: nn.Module) -> torch.device:
    """The device that a module's inputs belong on.

    It is where the weights are. Weights that accelerate offloads are on the meta device between calls; then it is where
    accelerate brings them to run.
    """
    for one in _hooks(module):
        if one.execution_device is not None:
            return torch.device(one.execution_device)
    device = next(module.parameters()).device
    if device.type != "meta":
        return device
    places = (one.execution_device for part in module.modules() for one in _hooks(part))
    return torch.device(next((place for place in places if place is not None), device))


def is_offloaded(module: nn.Module) -> bool:
    """Whether some weights are not in memory between calls."""
    return any(value.device.type == "meta" for value in module.state_dict().values())


def _hooks(module: nn.Module) -> Iterator[Any]:
    """accelerate's hooks on a module that know a device: one, or several in a row."""
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if hasattr(one, "execution_device"):
            yield one
