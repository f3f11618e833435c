"""Arguments of transformers' `from_pretrained`, as code that is written for it passes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_WITHOUT_EFFECT = (
    *("attn_implementation", "code_revision", "low_cpu_mem_usage", "proxies", "resume_download"),
    *("trust_remote_code", "use_safetensors", "weights_only"),
)
"""They ask for what happens anyway, or never: no remote code is run, and attention runs through the fastest kernel."""

_MUST_BE_OFF = ("force_download", "ignore_mismatched_sizes", "output_loading_info")
_PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")


def own_arguments(
    device: str | torch.device, dtype: str | torch.dtype, options: Mapping[str, Any]
) -> tuple[str | torch.device, str | torch.dtype, dict[str, Any]]:
    """The device, the dtype and the options of `radio.load_model`, from transformers' arguments among the options.

    ``torch_dtype`` is the dtype, ``device_map`` the device. An option that is unknown stays where it is.

    Raises:
        ValueError: A device map that places the model in parts, or an argument asks for what this library does not do.
    """
    own = {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}
    for name in _MUST_BE_OFF:
        if own.pop(name, None):
            raise ValueError(f"{name}={options[name]!r} is not supported; leave it out")
    kind, placement = own.pop("torch_dtype", None), own.pop("device_map", None)
    if placement is not None:
        device = _device_of(placement)
    return device, dtype if kind is None else kind, own


def _device_of(placement: Any) -> Any:
    """The one device of a ``device_map``, as PyTorch takes it."""
    if isinstance(placement, Mapping):
        places = set(placement.values())
        if len(places) != 1:
            raise ValueError(
                f"device_map={dict(placement)} places the model in parts; load it on one device, and let "
                "accelerate.dispatch_model(model, device_map) place it"
            )
        placement = places.pop()
    if isinstance(placement, str) and placement in _PLACEMENTS:
        return "auto"
    return placement
