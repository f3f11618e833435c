"""Files in folders that cannot be read or are no images: named, and with --skip-unreadable passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from radio.cli import main


@pytest.fixture
def labeled(tmp_path: Path, photos: list[Path]) -> Path:
    """Two classes of two images each; one has a broken image and a text beside them."""
    for name, photo in zip(("a", "b"), photos, strict=False):
        (tmp_path / name).mkdir()
        small = Image.open(photo).convert("RGB").resize((48, 32))
        for number in range(2):
            small.save(tmp_path / name / f"{number}.jfif", "JPEG")
    (tmp_path / "a" / "broken.jpg").write_bytes(b"half of a photo")
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "images"),
    [
        (["knn", "LABELED", "LABELED", "--k", "1", "-m", "MODEL"], None),
        (["evaluate", "MODEL", "--labeled", "LABELED", "--side", "32", "--k", "1"], 4),
        (["evaluate", "MODEL", "--images", "LABELED/a", "--sides", "32,48"], None),
    ],
    ids=["knn", "evaluate_labeled", "evaluate_images"],
)
def test_with_labels_and_over_resolutions(command, images, labeled, reference, capsys):
    model = str(reference / "v2_5" / "checkpoint.pth.tar")
    words = [word.replace("LABELED", str(labeled)).replace("MODEL", model) for word in command]
    words += ["--device", "cpu", "--json"]
    assert main(words) == 1
    assert "broken.jpg" in capsys.readouterr().err
    assert main([*words, "--skip-unreadable"]) == 0
    seen = capsys.readouterr()
    assert "skipped" in seen.err and "broken.jpg" in seen.err
    assert "not taken for images" in seen.err and "notes.txt" in seen.err
    assert images is None or json.loads(seen.out)["images"] == images
