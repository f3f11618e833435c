"""A small model, and photographs of many sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radio import RADIOModel, load_model


@pytest.fixture(scope="session")
def checkpoint(reference: Path) -> Path:
    return reference / "v2_5" / "checkpoint.pth.tar"


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> RADIOModel:
    return load_model(checkpoint, adaptors=["clip"], device="cpu")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of different sizes and formats, three of them deeper, and a file that is no image."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(24):
        height, width = random.integers(20, 100, 2)
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        place = folder / "deep" / "er" if number % 8 == 7 else folder
        suffix = (".png", ".jpg", ".webp")[number % 3]
        Image.fromarray(pixels).save(place / f"{number:02d}{suffix}")
    (folder / "notes.md").write_text("not an image")
    return folder
