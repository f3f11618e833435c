"""SAM as a teacher: features before its neck, with every version of transformers."""

from __future__ import annotations

import torch
import transformers
from sam_folders import sam_folder

from radio.training.teachers import build_teacher


def test_features_are_those_that_enter_the_neck(tmp_path):
    folder = sam_folder(tmp_path / "sam")
    teacher = build_teacher("sam", str(folder))
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    model, seen = transformers.SamVisionModel.from_pretrained(folder).eval(), []
    model.vision_encoder.neck.register_forward_pre_hook(lambda neck, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(teacher.normalize(pixels))
    features = teacher(pixels).features
    assert features.shape == (1, 48, 8, 8)
    torch.testing.assert_close(features, seen[0].movedim(-1, 1))
