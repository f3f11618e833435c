"""Fixtures that every test file may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

os.environ["ORT_DISABLE_TELEMETRY"] = (
    "1"  # also where a test imports it by itself, and in all processes it starts
)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


needs_new_compiler = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11),
    reason="this PyTorch does not trace it, or in more graphs",
)
"""For what compiles well since PyTorch 2.11; an older one runs it without compiling."""


@pytest.fixture(scope="session")
def reference() -> Path:
    """The reference checkpoints with their inputs and true outputs."""
    return ROOT / "tests" / "reference"


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Real photographs, in a fixed order."""
    return sorted((ROOT / "examples" / "images").glob("*.jpg"))


@pytest.fixture(scope="session")
def text_towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny text towers in local folders, for the clip (40 numbers) and siglip (36) adaptors of the reference models."""
    from text_towers import open_clip_folder, siglip2_folder

    root = tmp_path_factory.mktemp("text_towers")
    return {
        "clip": open_clip_folder(root / "clip", 40),
        "siglip": open_clip_folder(root / "siglip", 36, siglip=True),
        "siglip2-g": siglip2_folder(root / "siglip2-g", 36),
        "siglip2-so400m": siglip2_folder(root / "siglip2-so400m", 36, naflex=True),
    }
