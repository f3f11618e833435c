"""torch.hub entry points.

>>> model = torch.hub.load("<repo>", "radio_model", version="radio_v2.5-l", adaptor_names="clip")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch.hub.list takes every callable here for an entry point
    from collections.abc import Sequence
    from typing import Any

dependencies = ["torch", "einops", "huggingface_hub", "safetensors", "PIL", "numpy", "tqdm"]

_DEFAULT_VERSION = "c-radio_v4-h"


def radio_model(
    version: str = "",
    progress: bool = True,
    adaptor_names: str | Sequence[str] | None = None,
    vitdet_window_size: int | None = None,
    return_checkpoint: bool = False,
    **kwargs: Any,
) -> Any:
    """A RADIO model.

    Args:
        version: A released version ("radio_v2.5-b", "c-radio_v3-h", ...), a Hub repository ("owner/name"), or the path
            of a local checkpoint. Empty for c-radio_v4-h, as in the public code.
        progress: Show progress bars of downloads.
        adaptor_names: Teacher adaptors to build: one name or several, e.g. ["clip", "sam"].
        vitdet_window_size: Side of ViTDet windows in patches; None for global attention.
        return_checkpoint: Also return the checkpoint's content.
        kwargs: Any other argument of radio.load_model: dtype, vitdet_num_global, vitdet_num_windowed,
            pos_embed_align_corners, eradio_window_size, neck_name, text_weights, cache_dir, revision, local_files_only,
            token, mmap, device ("cpu" here by default). Arguments of the public code that ask for what happens anyway
            change nothing.

    Returns:
        The model in eval mode: `model(x)` for x (B, 3, H, W) in [0, 1] gives (summary, spatial features), with adaptors
        a dict of such pairs. With return_checkpoint, a pair of the model and a dict with "args" and the state dict.

    Raises:
        ImportError: Another package called radio is loaded in this process.
        TypeError: An argument that does not exist.
    """
    from radio_vision import check_package

    check_package()
    from radio.checkpoints import read_content
    from radio.hub import hub_options
    from radio.loading import load_model

    model = load_model(
        version or _DEFAULT_VERSION,
        adaptors=adaptor_names,
        vitdet_window_size=vitdet_window_size,
        progress=progress,
        **{"device": "cpu", **hub_options(kwargs)},
    )
    return (model, read_content(model.checkpoint_path)) if return_checkpoint else model


def radio_v2_5_b(**kwargs: Any) -> Any:
    """RADIOv2.5-B (ViT-B/16). Arguments as radio_model, without version."""
    return radio_model(version="radio_v2.5-b", **kwargs)


def radio_v2_5_l(**kwargs: Any) -> Any:
    """RADIOv2.5-L (ViT-L/16). Arguments as radio_model, without version."""
    return radio_model(version="radio_v2.5-l", **kwargs)


def radio_v2_5_h(**kwargs: Any) -> Any:
    """RADIOv2.5-H (ViT-H/16). Arguments as radio_model, without version."""
    return radio_model(version="radio_v2.5-h", **kwargs)


def radio_v2_5_h_norm(**kwargs: Any) -> Any:
    """RADIOv2.5-H with normalized features (ViT-H/16). Arguments as radio_model, without version."""
    return radio_model(version="radio_v2.5-h-norm", **kwargs)


def radio_v2_5_g(**kwargs: Any) -> Any:
    """RADIOv2.5-g (ViT-g/14). Arguments as radio_model, without version."""
    return radio_model(version="radio_v2.5-g", **kwargs)
