"""Which family a checkpoint's model belongs to."""

from __future__ import annotations

from torch import Tensor

from radio.checkpoints.describe import architecture_of, describe
from radio.checkpoints.describe_eradio import describe_eradio
from radio.checkpoints.describe_radio1d import describe_radio1d
from radio.checkpoints.raw import RawCheckpoint
from radio.config import RadioConfig


def describe_any(raw: RawCheckpoint, source: str) -> tuple[RadioConfig, dict[str, Tensor]]:
    """Understand a checkpoint of any family; the architecture's name tells which.

    Arguments, result and errors are those of `radio.checkpoints.describe.describe`.
    """
    name = architecture_of(raw.args, source).replace("-", "").replace("_", "").lower()
    if name.startswith("eradio"):
        return describe_eradio(raw, source)
    if name.startswith("radio1d"):
        return describe_radio1d(raw, source)
    return describe(raw, source)
