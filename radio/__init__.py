"""RADIO: one vision backbone for everything.

>>> from radio import load_model
>>> model = load_model("radio_v2.5-b", adaptors=["clip"])
>>> output = model.encode("photo.jpg")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_model": "radio.loading",
    "RADIOModel": "radio.model",
    "RadioConfig": "radio.config",
    "RadioOutput": "radio.modeling.outputs",
    "Resolution": "radio.modeling.outputs",
    "RELEASES": "radio.catalog",
    "RadioError": "radio.errors",
    "CheckpointError": "radio.errors",
    "DownloadError": "radio.errors",
    "ImageError": "radio.errors",
    "MissingExtraError": "radio.errors",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from radio.catalog import RELEASES as RELEASES
    from radio.config import RadioConfig as RadioConfig
    from radio.errors import (
        CheckpointError as CheckpointError,
    )
    from radio.errors import (
        DownloadError as DownloadError,
    )
    from radio.errors import (
        ImageError as ImageError,
    )
    from radio.errors import (
        MissingExtraError as MissingExtraError,
    )
    from radio.errors import (
        RadioError as RadioError,
    )
    from radio.loading import load_model as load_model
    from radio.model import RADIOModel as RADIOModel
    from radio.modeling.outputs import RadioOutput as RadioOutput
    from radio.modeling.outputs import Resolution as Resolution


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import radio`` stays cheap."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'radio' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
