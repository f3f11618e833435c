"""A teacher from its description in a recipe or on a command line."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from radio.training.teachers.protocol import Teacher

KINDS = {
    "timm": "radio.training.teachers.timm_teacher:TimmTeacher",
    "open_clip": "radio.training.teachers.open_clip_teacher:OpenClipTeacher",
    "sam": "radio.training.teachers.sam_teacher:SamTeacher",
    "radio": "radio.training.teachers.radio_teacher:RadioTeacher",
    "onnx": "radio.training.teachers.onnx_teacher:OnnxTeacher",
    "cached": "radio.training.teachers.cached_teacher:CachedTeacher",
}
"""Where each kind is made; nothing is imported before it is used."""


def build_teacher(kind: str, model: str, device: str | torch.device = "cpu", **options: Any) -> Teacher:
    """Make a teacher.

    Args:
        kind: One of `KINDS`.
        model: What the kind knows it by: timm's or open_clip's name, a RADIO version or folder, a file, a folder.
        device: Where it runs.
        options: Other arguments of that kind.

    Raises:
        ValueError: There is no such kind, it has no such option, or its size is none.
        MissingExtraError: A package that it needs is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of teacher {kind!r}; allowed: {', '.join(KINDS)}")
    size = options.get("size")
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"the size of a teacher of kind {kind!r} must be a number of pixels, got {size!r}")
    module, name = KINDS[kind].split(":")
    make = getattr(import_module(module), name)
    try:
        return make(model, device=device, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(f"a teacher of kind {kind!r} has no such option: {error}") from error
