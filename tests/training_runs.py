"""What tests of training share: pictures, teachers that are known functions, and small recipes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from radio.training.teachers import TeacherOutput

REFERENCE = Path(__file__).parent / "reference" / "v2_5" / "checkpoint.pth.tar"


def pictures(folder: Path, count: int, side: int = 48) -> Path:
    """A folder of smooth random pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        pixels = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)[0]
        Image.fromarray(pixels.mul(255).byte().permute(1, 2, 0).numpy()).save(folder / f"{number:03d}.png")
    return folder


class KnownTeacher:
    """Features are a fixed random function of each patch's mean color, of a given standard deviation."""

    fixed = False

    def __init__(
        self, deviation: float, size: int = 32, stride: int = 8, channels: int = 16, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.size, self.stride, self.deviation = size, stride, deviation
        self.summary_dim = self.feature_dim = channels
        self.mix = torch.randn(channels, 3, generator=generator)
        self.calls = 0

    def __call__(self, pixels: Tensor, names: Sequence[str] = ()) -> TeacherOutput:
        self.calls += len(pixels)
        colors = F.avg_pool2d(pixels, self.stride) - 0.5
        features = torch.einsum("oc,bchw->bohw", self.mix, colors) * 2
        features = (features + torch.sin(3 * features)) * self.deviation
        return TeacherOutput(features.mean(dim=(2, 3)), features)


class PixelTeacher(KnownTeacher):
    """Features are a fixed random projection of each patch's pixels, of a given standard deviation.

    Several of them want more of a narrow student's tokens than these can hold.
    """

    def __init__(self, deviation: float, seed: int) -> None:
        super().__init__(deviation, size=48, seed=seed)
        self.mix = torch.randn(16, 48, generator=torch.Generator().manual_seed(seed)) / 48**0.5

    def __call__(self, pixels: Tensor, names: Sequence[str] = ()) -> TeacherOutput:
        patches = F.pixel_unshuffle(F.avg_pool2d(pixels, 2) - 0.5, 4) * 3.46
        features = torch.einsum("oc,bchw->bohw", self.mix, patches) * self.deviation
        return TeacherOutput(features.mean(dim=(2, 3)), features)


def noise(folder: Path, count: int) -> Path:
    """A folder of pictures of 24 x 24 random colors, 48 px a side."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        pixels = torch.rand(24, 24, 3, generator=generator).repeat_interleave(2, 0).repeat_interleave(2, 1)
        Image.fromarray(pixels.mul(255).byte().numpy()).save(folder / f"{number:03d}.png")
    return folder


def recipe(folder: Path, names: Sequence[str] = ("a",), **changes: Any) -> dict[str, Any]:
    """A recipe for a tiny student of `KnownTeacher`s on the pictures in ``folder/pictures``."""
    fields: dict[str, Any] = {
        "output": str(folder / "run"),
        "device": "cpu",
        "student": {"depth": 2, "width": 32, "heads": 2, "patch_size": 8, "max_size": 48, "head_width": 32},
        "teachers": [{"name": name, "kind": "known", "model": name} for name in names],
        "data": {"folder": str(folder / "pictures")},
        "stages": [{"steps": 8, "batch_size": 4, "sizes": [32], "statistics_steps": 2}],
        "checkpoint_every": 4,
        "log_every": 1,
    }
    return fields | changes


TOML = """
output = "{output}"
device = "cpu"
checkpoint_every = 1
log_every = 1
[student]
depth = 2
width = 32
heads = 2
patch_size = 8
max_size = 48
head_width = 32
head_images = 4
[[teachers]]
name = "small"
kind = "radio"
model = "{reference}"
options = {{ size = 64 }}
[[teachers]]
name = "sam"
kind = "radio"
model = "{reference}"
options = {{ adaptor = "sam", size = 64 }}
use_summary = false
mosaic = true
[data]
folder = "{pictures}"
[loss]
teacher_dropout = 0.2
ada_loss = true
[[stages]]
steps = {steps}
batch_size = 4
sizes = [32, 48]
statistics_steps = 2
freeze_steps = 3
windows = [2, 3]
"""
