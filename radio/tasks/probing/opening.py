"""From a folder to a probe."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radio.data.tensor_files import load_tensors
from radio.loading import load_model
from radio.model import RADIOModel
from radio.tasks.probing.config import CONFIG_FILE, WEIGHTS_FILE, ProbeConfig, load_options
from radio.tasks.probing.kinds import KINDS


def load_probe(
    folder: str | os.PathLike[str],
    model: RADIOModel | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
) -> Any:
    """A probe from the folder that `Probe.save` wrote.

    Args:
        folder: With ``config.json`` and ``probe.safetensors``.
        model: The model that it was trained on; loaded from where it came from if None.
        device, dtype: Of a model that is loaded, as in `radio.load_model`; by default the dtype of the training.

    Returns:
        A `ClassificationProbe`, `SegmentationProbe` or `DepthProbe`.

    Raises:
        OSError: A file is missing.
        ValueError: A file is damaged, the two do not belong together, or the model is another one.
    """
    place = Path(folder).expanduser()
    config, digest = ProbeConfig.read(place / CONFIG_FILE)
    tensors = load_tensors(place / WEIGHTS_FILE)
    if hashlib.sha256((place / WEIGHTS_FILE).read_bytes()).hexdigest() != digest:
        raise ValueError(
            f"{place / WEIGHTS_FILE} is not the file that {CONFIG_FILE} was written with; train the probe again"
        )
    head = _build_head(config, tensors, place)
    if model is None:
        if os.path.isabs(config.source) and not os.path.exists(config.source):
            raise ValueError(
                f"the probe's model was loaded from {config.source}, which is not there; give the model (--model)"
            )
        options = load_options(config)
        options["dtype"] = options["dtype"] if dtype == "auto" else dtype
        model = load_model(config.source, device=device, **options)
    return KINDS[config.task][0](config, head, model)


def _build_head(config: ProbeConfig, tensors: Mapping[str, Tensor], place: Path) -> nn.Module:
    """The head of a config with its tensors, strictly."""
    arguments: dict[str, Any] = {"channels": config.channels, **config.head}
    if config.task != "depth":
        arguments["num_classes"] = len(config.classes)
    try:
        head = KINDS[config.task][1](**arguments)
        head.load_state_dict(tensors)
    except (TypeError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"the files of {place} do not describe a {config.task} probe: {why}") from error
    return head
