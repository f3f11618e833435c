"""What torch.hub's entry points take beside the arguments of `radio.load_model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from radio.errors import unknown_argument
from radio.opening import LoadOptions

_OWN = ("version", "progress", "adaptor_names", "vitdet_window_size", "return_checkpoint", "device", "dtype")
_OF_TORCH_HUB = ("force_reload", "skip_validation", "source", "trust_repo", "verbose")
"""torch.hub.load takes these for itself; they arrive here where an entry point is called directly."""

_ALWAYS = {
    "pretrained": "there are no models without weights; radio.timm makes some",
    "return_spatial_features": "a call always returns them, as the second part",
    "return_summary": "a call always returns it, as the first part",
}
"""Arguments that say what happens anyway, with the answer to who does not want it."""

_WITHOUT_EFFECT = ("support_packing", "trust_remote_code")
"""Arguments of the public code for what works here without asking, or is never done."""


def hub_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `radio.load_model` among the other arguments of an entry point.

    Raises:
        TypeError: An argument that does not exist; the message lists those that do.
        ValueError: An argument asks for what this library does not do.
    """
    options = {"device", "dtype", *LoadOptions.__annotations__}
    for name, value in given.items():
        if name in _ALWAYS and not value:
            raise ValueError(f"{name}={value!r} is not supported: {_ALWAYS[name]}")
        if name not in (*options, *_ALWAYS, *_WITHOUT_EFFECT, *_OF_TORCH_HUB):
            raise unknown_argument("radio_model", name, sorted({*_OWN, *options}))
    return {name: value for name, value in given.items() if name in options}
