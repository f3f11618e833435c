"""`make demo`, without its installation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


def test_demo_without_the_hub_says_that_its_weights_are_random(photos: list[Path], tmp_path: Path) -> None:
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
    assert "WEIGHTS ARE RANDOM" in done.stdout
    with Image.open(tmp_path / "pca" / f"{photos[-1].stem}.png") as picture:
        assert picture.width > picture.height, "the photograph and its features, side by side"
    assert set(load_file(tmp_path / "features.safetensors")) == {"summary", "features.0", "image_sizes"}
