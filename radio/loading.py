"""`load_model`: a model in one call, from a version, a repository, a file or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch
from typing_extensions import Unpack

from radio.config import Neck, WindowRule
from radio.images import ImageInput
from radio.model import RADIOModel
from radio.modeling.outputs import RadioOutput
from radio.opening import LoadOptions, TextWeights
from radio.runtimes import RuntimeName


@overload
def load_model(
    version_or_path: str | Path,
    adaptors: None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    **options: Unpack[LoadOptions],
) -> RADIOModel[RadioOutput]: ...
@overload
def load_model(
    version_or_path: str | Path,
    adaptors: str | Sequence[str],
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    **options: Unpack[LoadOptions],
) -> RADIOModel[dict[str, RadioOutput]]: ...
def load_model(
    version_or_path: str | Path,
    adaptors: str | Sequence[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    vitdet_window_size: int | None = None,
    vitdet_num_global: int | None = None,
    vitdet_num_windowed: int | None = None,
    pos_embed_align_corners: bool | None = None,
    eradio_window_size: int | WindowRule | None = None,
    neck_name: Neck | None = None,
    text_weights: TextWeights | None = None,
    cache_dir: str | Path | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    progress: bool = True,
    mmap: bool = False,
    runtime: RuntimeName = "auto",
    calibration: Sequence[ImageInput] | None = None,
    **unknown: Any,
) -> RADIOModel[Any]:
    """Load a model, ready for inference (eval mode).

    Args:
        version_or_path: A released version (``"radio_v2.5-l"``), a Hub repository (``"nvidia/C-RADIOv3-B"``), a local
            torch file (``*.pth.tar``) or a local folder with ``config.json`` and ``model.safetensors``; also those of
            training programs, of transformers' ``RadioModel`` and of larger models with a RADIO tower
            (docs/interchange.md).
        adaptors: Names of the teacher adaptors to build, e.g. ``["clip", "sam"]``.
        device: ``"auto"`` for an accelerator where there is one, or a torch device.
        dtype: ``"auto"`` for the dtype that the checkpoint names, or ``"float32"``, ``"bfloat16"``, ``"float16"``,
            ``"float64"``.
        vitdet_window_size: Side of ViTDet windows in patches; None for global attention everywhere.
        vitdet_num_global, vitdet_num_windowed: The schedule of windowed and global blocks, instead of the version's.
        pos_embed_align_corners: How position embeddings are resized, instead of the version's own way (False for a
            file that names no version; a local copy of a released file is known by its file name).
        eradio_window_size: E-RADIO only: side of its attention windows in positions of its maps; or ``"balanced"`` or
            ``"optimal"``, rules that choose it for each size of images (docs/eradio.md); None for the file's own, as
            the public code has it.
        neck_name: RADIO1D only: ``"encoder"`` for condensed tokens, ``"decoder"`` for features on the image's grid,
            None for a dict of both.
        text_weights: Local weights for the text towers: one path, or a path per adaptor name.
        cache_dir: Where downloads are kept, instead of huggingface_hub's cache.
        revision: Branch, tag or commit of the Hub repository.
        subfolder: The folder inside a repository or a local folder where the model is.
        local_files_only: Never use the network.
        token: Hugging Face token, if not the stored one.
        progress: Show progress bars of downloads.
        mmap: Leave weights that need no conversion in the file and map it, which loads in milliseconds and takes no
            memory. The file must then stay as it is while the model lives: to write over it changes the model or
            kills the process. By default the model has memory of its own.
        runtime: What computes the backbone: ``"pytorch"``, ``"openvino"`` or ``"onnxruntime"``; ``"auto"`` is PyTorch.
            The others run on the CPU, for inference only; their first load of a model makes a graph, which stays in
            ``$XDG_CACHE_HOME/radio`` or ``~/.cache/radio`` (docs/runtimes.md).
        calibration: Another runtime than PyTorch only: 50 to 300 images like those to come, with which the backbone is
            quantized to int8. Faster, and not exact (docs/runtimes.md#int8).
        unknown: Arguments of transformers' `from_pretrained`: ``torch_dtype`` and ``device_map`` for dtype and device,
            and what changes nothing here (``low_cpu_mem_usage``, ``trust_remote_code``, ...).

    Returns:
        The model in eval mode.

    Raises:
        ValueError: An unknown version, adaptor, dtype, a device that is not here, or windows that make no sense.
        TypeError: A window size that is not a whole number, another argument of the wrong type, or one that does not
            exist.
        CheckpointError: The file is damaged, unsafe or does not describe a RADIO model.
        DownloadError: The file is not in the cache and cannot be fetched.
        MissingExtraError: The runtime is not installed.
        OSError: The runtime's graph cannot be kept.
    """
    return RADIOModel.from_pretrained(
        version_or_path,
        adaptors,
        device,
        dtype,
        vitdet_window_size=vitdet_window_size,
        vitdet_num_global=vitdet_num_global,
        vitdet_num_windowed=vitdet_num_windowed,
        pos_embed_align_corners=pos_embed_align_corners,
        eradio_window_size=eradio_window_size,
        neck_name=neck_name,
        text_weights=text_weights,
        cache_dir=cache_dir,
        revision=revision,
        subfolder=subfolder,
        local_files_only=local_files_only,
        token=token,
        progress=progress,
        mmap=mmap,
        runtime=runtime,
        calibration=calibration,
        **unknown,
    )
