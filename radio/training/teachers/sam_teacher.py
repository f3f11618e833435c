"""The image encoder of SAM, from transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from radio.optional import require
from radio.training.teachers.protocol import Normalizer, TeacherOutput, probe


class SamTeacher:
    """SAM's vision encoder: features before its neck; no summary.

    Args:
        model: A Hub repository, e.g. ``"facebook/sam-vit-huge"``, or a local folder.
        device: Where it runs.

    Raises:
        MissingExtraError: transformers is not installed.
        OSError: The model cannot be found.
    """

    def __init__(self, model: str | Path, device: str | torch.device = "cpu") -> None:
        transformers = require("transformers", "training")
        self.model = transformers.SamVisionModel.from_pretrained(str(model)).to(device)
        self.model.eval().requires_grad_(False)
        config = self.model.config
        self.size, self.fixed = int(config.image_size), True
        self.normalize = Normalizer((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), device)
        self.summary_dim, self.feature_dim, self.stride = probe(self)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, names: Sequence[str] = ()) -> TeacherOutput:
        """See `Teacher`."""
        encoder = self.model.vision_encoder
        # Block by block: the last of the hidden states that the model gives is before the neck only since version 5.
        tokens = encoder.patch_embed(self.normalize(pixels))
        if encoder.pos_embed is not None:
            tokens = tokens + encoder.pos_embed
        for layer in encoder.layers:
            tokens = layer(tokens)
        return TeacherOutput(None, tokens.permute(0, 3, 1, 2).float())
