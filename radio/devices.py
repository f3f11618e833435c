"""Which device a model runs on when nobody chose one."""

from __future__ import annotations

import torch


def best_device() -> torch.device:
    """The accelerator of this machine where there is one, otherwise the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")
