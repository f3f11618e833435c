"""A tiny model, and small labeled sets whose answers its features show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radio import RADIOModel, load_model


@pytest.fixture(scope="session")
def tiny(reference: Path) -> RADIOModel:
    return load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors=["clip"], device="cpu")


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that differ in color, with noise."""
    root = tmp_path_factory.mktemp("colors")
    random = np.random.default_rng(0)
    for name, color in {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}.items():
        (root / name).mkdir()
        for i in range(6):
            pixels = np.array(color) + random.integers(0, 50, (48, 64, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright boxes on dark ground: images, masks of the boxes (255 in one corner), and depths (3 m, boxes 1 m)."""
    root = tmp_path_factory.mktemp("boxes")
    random = np.random.default_rng(0)
    for kind in ("images", "masks", "depths"):
        (root / kind).mkdir()
    for i in range(8):
        pixels, mask = random.integers(0, 60, (64, 96, 3)), np.zeros((64, 96), np.uint8)
        top, left = 16 * int(random.integers(0, 3)), 16 * int(random.integers(0, 4))
        pixels[top : top + 32, left : left + 48] += 150
        mask[top : top + 32, left : left + 48] = 1
        depth = (3000 - 2000 * mask.astype(np.uint16)).astype(np.uint16)
        depth[:4, :4], mask[:4, :4] = 0, 255
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{i}.jpg", quality=95)
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
        Image.fromarray(depth).save(root / "depths" / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where features are kept for all tests."""
    return tmp_path_factory.mktemp("features")
