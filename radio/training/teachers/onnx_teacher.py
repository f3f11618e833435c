"""A teacher from an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from radio.optional import require
from radio.training.teachers.protocol import Normalizer, TeacherOutput, probe

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class OnnxTeacher:
    """An ONNX file with one input (B, 3, H, W), run by ONNX Runtime on the CPU.

    Args:
        model: The file.
        features: Name of the output with features (B, C, h, w), or (B, L, C) of a square grid without prefix tokens.
        summary: Name of the output (B, D); None for a teacher without a summary.
        size: Side of images in pixels; what the file says if None.
        mean, std: How its input is normalized; ImageNet's by default.
        threads: Threads that it uses.
        device: Where its outputs go.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ValueError: The file has no such outputs, or takes any size and none was given.
    """

    def __init__(
        self,
        model: str | Path,
        features: str = "features",
        summary: str | None = None,
        size: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        threads: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        runtime = require("onnxruntime", "training")
        if not Path(model).is_file():
            raise ValueError(f"there is no ONNX file {str(model)!r}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        [self.input] = self.session.get_inputs()
        outputs = [output.name for output in self.session.get_outputs()]
        for name in (features, summary):
            if name is not None and name not in outputs:
                raise ValueError(f"{model} has no output {name!r}; it has: {', '.join(outputs)}")
        side = self.input.shape[-1]
        self.fixed = isinstance(side, int)
        if size is None and not self.fixed:
            raise ValueError(f"{model} takes images of any size; give the one that it was made for as size")
        self.size = int(side) if isinstance(side, int) else int(size or 0)
        self.features, self.summary = features, summary
        self.device = torch.device(device)
        self.normalize = Normalizer(mean, std)
        self.summary_dim, self.feature_dim, self.stride = probe(self)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, names: Sequence[str] = ()) -> TeacherOutput:
        """See `Teacher`."""
        wanted = [self.features, *([self.summary] if self.summary else [])]
        found = self.session.run(wanted, {self.input.name: self.normalize(pixels.cpu()).numpy()})
        features, *rest = (torch.from_numpy(value).float().to(self.device) for value in found)
        if features.ndim == 3:
            side = round(features.shape[1] ** 0.5)
            features = features.transpose(1, 2).unflatten(2, (side, side))
        return TeacherOutput(rest[0] if rest else None, features)
