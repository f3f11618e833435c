"""Another RADIO model as a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from radio.loading import load_model
from radio.model import RADIOModel
from radio.training.teachers.protocol import TeacherOutput


class RadioTeacher:
    """A RADIO model: its backbone, or one of its adaptors.

    Args:
        model: A model, or what `radio.load_model` takes.
        adaptor: The adaptor whose space is taught; the backbone's own if None.
        size: Side of images in pixels; the model's preferred one if None.
        device: Where it runs.
    """

    def __init__(
        self,
        model: str | Path | RADIOModel,
        adaptor: str | None = None,
        size: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if isinstance(model, RADIOModel):
            self.model = model
        else:
            self.model = load_model(model, adaptors=[adaptor] if adaptor else [], device=device)
            self.model.requires_grad_(False)
        self.adaptor = adaptor
        self.size = size or self.model.preferred_resolution.height
        self.stride = self.model.min_resolution_step
        self.fixed = False
        config = self.model.config
        if adaptor:
            self.summary_dim = config.adaptor(adaptor).summary.output_dim
            self.feature_dim = config.adaptor(adaptor).feature.output_dim
        else:
            self.summary_dim, self.feature_dim = self.model.summary_dim, self.model.embed_dim

    @torch.no_grad()
    def __call__(self, pixels: Tensor, names: Sequence[str] = ()) -> TeacherOutput:
        """See `Teacher`."""
        output = self.model(pixels.to(self.model.device), feature_fmt="NCHW")
        if isinstance(output, dict):
            output = output[self.adaptor or "backbone"]
        return TeacherOutput(output.summary.float(), output.features.float())
