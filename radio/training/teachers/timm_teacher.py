"""Teachers of timm: DINOv2, DINOv3, any other ViT, and convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radio.optional import require
from radio.training.teachers.protocol import Normalizer, TeacherOutput, probe


class TimmTeacher:
    """A model of timm: its last feature map, and what its classifier would see as the summary.

    Args:
        model: timm's name, e.g. ``"vit_large_patch14_reg4_dinov2"``.
        weights: A local file of weights; None to let timm download them.
        size: Side of images in pixels; the model's own if None.
        pretrained: False for random weights, to compare with.
        device: Where it runs.

    Raises:
        MissingExtraError: timm is not installed.
        ValueError: timm has no such model.
    """

    def __init__(
        self,
        model: str,
        weights: str | Path | None = None,
        size: int | None = None,
        pretrained: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        timm = require("timm", "training")
        if not timm.is_model(model):
            raise ValueError(f"timm has no model {model!r}; see timm.list_models()")
        from_file = {} if weights is None else {"pretrained_cfg_overlay": local_weights(weights)}
        transformer = {"dynamic_img_size": True} if "vit" in model or "eva" in model else {}
        self.model = timm.create_model(
            model, pretrained=pretrained, num_classes=0, **from_file, **transformer
        )
        self.model.eval().requires_grad_(False).to(device)
        published = self.model.pretrained_cfg
        self.normalize = Normalizer(published["mean"], published["std"], device)
        self.fixed = False
        self.size = size or int(published["input_size"][-1])
        self.summary_dim, self.feature_dim, self.stride = probe(self)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, names: Sequence[str] = ()) -> TeacherOutput:
        """See `Teacher`."""
        pixels = self.normalize(pixels)
        features = self.model.forward_features(pixels)
        summary = self.model.forward_head(features, pre_logits=True)
        if features.ndim == 3:  # tokens: the prefix, then patches in raster order
            patch = self.model.patch_embed.patch_size
            grid = (pixels.shape[2] // patch[0], pixels.shape[3] // patch[1])
            features = features[:, self.model.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
        elif features.shape[1] != self.model.num_features:  # (B, h, w, C)
            features = features.permute(0, 3, 1, 2)
        return TeacherOutput(summary.float(), features.float())


def local_weights(path: str | Path) -> dict[str, Any]:
    """What to tell timm about a file of weights. Older versions take every file for one of JAX if a model's own is."""
    return {"file": str(path), "custom_load": Path(path).suffix == ".npz"}
