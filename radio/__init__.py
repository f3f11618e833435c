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
    "Encoding": "radio.encoding",
    "ArrayEncoding": "radio.arrays",
    "TokenMerging": "radio.modeling.token_merging",
    "InNetworkMerging": "radio.modeling.token_merging",
    "MergedTokens": "radio.modeling.token_merging",
    "MergedRadioOutput": "radio.modeling.token_merging.outputs",
    "merge_tokens": "radio.modeling.token_merging",
    "RELEASES": "radio.catalog",
    "Release": "radio.catalog",
    "RadioError": "radio.errors",
    "CheckpointError": "radio.errors",
    "DownloadError": "radio.errors",
    "ExportError": "radio.errors",
    "ImageError": "radio.errors",
    "MissingExtraError": "radio.errors",
}

__all__ = [
    "RELEASES",
    "ArrayEncoding",
    "CheckpointError",
    "DownloadError",
    "Encoding",
    "ExportError",
    "ImageError",
    "InNetworkMerging",
    "MergedRadioOutput",
    "MergedTokens",
    "MissingExtraError",
    "RADIOModel",
    "RadioConfig",
    "RadioError",
    "RadioOutput",
    "Release",
    "Resolution",
    "TokenMerging",
    "__version__",
    "load_model",
    "merge_tokens",
]

if TYPE_CHECKING:
    from radio.arrays import ArrayEncoding
    from radio.catalog import RELEASES, Release
    from radio.config import RadioConfig
    from radio.encoding import Encoding
    from radio.errors import (
        CheckpointError,
        DownloadError,
        ExportError,
        ImageError,
        MissingExtraError,
        RadioError,
    )
    from radio.loading import load_model
    from radio.model import RADIOModel
    from radio.modeling.outputs import RadioOutput, Resolution
    from radio.modeling.token_merging import InNetworkMerging, MergedTokens, TokenMerging, merge_tokens
    from radio.modeling.token_merging.outputs import MergedRadioOutput


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import radio`` stays cheap."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'radio' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
