"""Which device a model runs on."""

from __future__ import annotations

import torch


def best_device() -> torch.device:
    """The accelerator of this machine where there is one, otherwise the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def usable_device(device: str | torch.device) -> torch.device:
    """A device by its name, ``"auto"`` for the best one of this machine.

    Raises:
        ValueError: There is no such device here.
    """
    if device == "auto":
        return best_device()
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the device {str(device)!r} cannot be used here ({reason}); "
            "'auto' takes what this machine has, 'cpu' always works"
        ) from error
    return place
