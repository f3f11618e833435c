"""From a SAM 3 as transformers saves it to its detector: the image encoder is neither built nor kept."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from radio.checkpoints.fill import fill
from radio.checkpoints.guard import refuse_malformed
from radio.checkpoints.hub_repo import CONFIG
from radio.errors import CheckpointError
from radio.optional import require
from radio.tasks.promptable.concepts import ConceptDetector
from radio.tasks.promptable.weights import check_sam3, open_folder, read_tensors, sizes
from radio.text.tokenizer_file import TOKENIZER, read_tokenizer

DETECTORS = ("sam3", "sam3_video")
"""The kinds of model that have a detector: alone, and in one file with a tracker."""

_PREFIX = "detector_model."
_IMAGE_ENCODER = "vision_encoder.backbone."


def load_concept_detector(name: str | Path, device: str | torch.device = "cpu") -> ConceptDetector:
    """The detector of a SAM 3, which takes words.

    Args:
        name: A local folder with config.json, tokenizer.json and safetensors, or a Hub repository, e.g.
            ``"facebook/sam3"``.
        device: Where it runs, in float32 as adaptors do.

    Raises:
        CheckpointError: It has no detector, its files are damaged, or tensors are missing.
        DownloadError: It is not in the cache and the Hub cannot be reached.
        MissingExtraError: transformers is not installed.
        ValueError: The name is neither a folder nor a repository's.
    """
    transformers = require("transformers", "sam")
    folder, config = open_folder(name, also=[TOKENIZER])
    kind = config.get("model_type")
    if kind not in DETECTORS:
        raise CheckpointError(
            f"{folder} describes a model of the kind {kind!r}, which takes no words; concepts need SAM 3's detector, "
            "as in facebook/sam3 or in what transformers' Sam3Model saves"
        )
    check_sam3(transformers, name)
    if not (folder / TOKENIZER).is_file():
        raise CheckpointError(f"{folder} has no {TOKENIZER}; save the tokenizer of SAM 3 beside {CONFIG}")
    tokenizer = read_tokenizer(folder / TOKENIZER, "sam")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with refuse_malformed(folder / CONFIG), torch.device("meta"):
        own = config["detector_config"] if kind == "sam3_video" else config
        described = transformers.Sam3Config(**sizes({**own, "model_type": "sam3"}))
        described.vision_config.backbone_config.num_hidden_layers = 0
        model = transformers.Sam3Model(described)
    model.vision_encoder.backbone = nn.Identity()
    known = described.text_config.vocab_size
    if tokenizer.get_vocab_size() > known:
        raise CheckpointError(
            f"{folder / TOKENIZER} has {tokenizer.get_vocab_size()} tokens, of which the text encoder knows {known}; "
            "it must be the tokenizer of this SAM 3"
        )
    # The one buffer that no file holds: the numbers of the positions.
    longest = described.text_config.max_position_embeddings
    model.text_encoder.text_model.embeddings.position_ids = torch.arange(longest, device=device)[None]
    stored = read_tensors(folder)
    if kind == "sam3_video":
        stored = {
            key.removeprefix(_PREFIX): value for key, value in stored.items() if key.startswith(_PREFIX)
        }
    tensors = {key: value for key, value in stored.items() if not key.startswith(_IMAGE_ENCODER)}
    fill(model, tensors, torch.device(device), torch.float32, str(folder)).eval().requires_grad_(False)
    return ConceptDetector(model, tokenizer)
