"""The Python snippets of README.md and docs/images.md run, on a reference checkpoint and a photograph."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import radio

ROOT = Path(__file__).parent.parent
CHECKPOINT = "tests/reference/v2_5/checkpoint.pth.tar"


def _snippets(page: str, towers: dict[str, Path]) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    code = code.replace(
        'adaptors=["clip"]', f'adaptors=["clip"], text_weights={{"clip": {str(towers["clip"])!r}}}'
    )
    code = code.replace("photo.jpg", "examples/images/coffee.jpg")
    return code.replace("c-radio_v3-b", CHECKPOINT).replace("radio_v2.5-l", CHECKPOINT)


def test_readme_snippets_run(text_towers: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(_snippets("README.md", text_towers), names)
    assert names["image"].features.shape == (1, 25 * 38, 64)
    assert set(names["output"]) == {"backbone", "clip"}
    assert names["features"].shape == (2, 64, 32, 32)
    assert len(names["layers"]) == 4
    assert names["similarity"].shape == (1, 2)
    assert names["large"].image_size == (640, 1024)
    assert set(names["model"].adaptors) == {"clip", "sam"}


def test_snippets_about_images_run(text_towers: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict = {"model": radio.load_model(CHECKPOINT)}
    exec(_snippets("docs/images.md", text_towers), names)
    assert names["pixels"].shape == (3, 400, 600)
    assert names["pixels"].dtype == torch.float32
    assert names["small"].shape == (3, 512, 768)
    assert names["image"].grid == (25, 38)


def test_the_table_of_models_is_the_catalogue() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {
        row.split("`")[1]: row for row in text.splitlines() if row.startswith(("| `radio_", "| `c-radio_"))
    }
    for release in radio.RELEASES:
        if release.version in rows:
            height, width = release.preferred_resolution
            row = [cell.strip() for cell in rows[release.version].strip("|").split("|")]
            assert row[2:4] == [str(release.patch_size), f"{height} × {width}"]
            assert row[4:6] == [str(release.max_resolution), ", ".join(release.adaptors)]
            assert row[6] == release.license
        else:
            assert f"`{release.version}`" in text
