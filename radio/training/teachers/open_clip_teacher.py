"""Teachers of open_clip: the image towers of CLIP and SigLIP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from radio.optional import require
from radio.training.teachers.protocol import Normalizer, TeacherOutput, probe


class OpenClipTeacher:
    """The image tower of a model of open_clip: image embedding, and patch tokens of its last block.

    Args:
        model: open_clip's name, e.g. ``"ViT-H-14-378-quickgelu"``.
        pretrained: open_clip's name of the weights, or a local file; None for random weights.
        device: Where it runs.

    Raises:
        MissingExtraError: open_clip is not installed.
    """

    def __init__(self, model: str, pretrained: str | None = None, device: str | torch.device = "cpu") -> None:
        open_clip = require("open_clip", "training")
        self.model = open_clip.create_model(model, pretrained=pretrained, device=device)
        self.model.eval().requires_grad_(False)
        visual = self.model.visual
        size = getattr(visual, "image_size", 224)
        self.size = int(size[0] if isinstance(size, Sequence) else size)
        self.fixed = True
        published = visual.preprocess_cfg
        self.normalize = Normalizer(published["mean"], published["std"], device)
        self.summary_dim, self.feature_dim, self.stride = probe(self)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, names: Sequence[str] = ()) -> TeacherOutput:
        """See `Teacher`."""
        found = self.model.forward_intermediates(
            image=self.normalize(pixels), image_indices=1, normalize=False, normalize_intermediates=True
        )
        return TeacherOutput(found["image_features"].float(), found["image_intermediates"][-1].float())
