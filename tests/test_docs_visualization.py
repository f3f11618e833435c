"""docs/visualization.md: its snippet runs, its commands are commands, its pictures are there and small."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from radio import load_model
from radio.cli import _parser

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "visualization.md").read_text()


def test_the_snippet_runs(reference: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos[0].parent)
    [code] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    names: dict = {"model": model, "paths": photos[:2]}
    exec(code.replace("photo.jpg", photos[0].name), names)
    height, width = names["features"].shape[-2:]
    assert names["rgb"].shape == (1, 3, height, width) and names["where"].shape == (1, height, width)


def test_the_commands_are_understood() -> None:
    blocks = "".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL))
    commands = [
        shlex.split(line, comments=True)[1:] for line in blocks.splitlines() if line.startswith("radio ")
    ]
    assert {command[0] for command in commands} == {"pca", "similar"}
    for command in commands:
        assert _parser(command).parse_args(command).model == "radio_v2.5-l"


def test_the_pictures_are_there_and_small() -> None:
    pictures = [ROOT / "docs" / name for name in re.findall(r"\]\((images/[^)]+)\)", PAGE)]
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.stat().st_size < 150_000
        with Image.open(picture) as image:
            image.verify()
    assert sum(picture.stat().st_size for picture in pictures) < 400_000
