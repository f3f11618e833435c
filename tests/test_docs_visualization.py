"""docs/visualization.md: its snippets run, its commands are commands, its pictures are there and small."""

from __future__ import annotations

import re
import shlex
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from radio import load_model
from radio.cli import _parser
from radio.data.video import Frame, Video
from radio.drawing.video import write_frames

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "visualization.md").read_text()


def test_the_snippets_run(
    reference: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    with Image.open(photos[0]) as photo:
        photo.reduce(3).save("photo.jpg")
        photo.reduce(5).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("other.jpg")
        frames = [Frame(photo.reduce(6).crop((i, 0, i + 64, 64)), Fraction(i, 10)) for i in range(3)]
    write_frames("clip.mp4", frames, Video(3, Fraction(10), Fraction(1, 10_000)))
    mask = Image.new("1", (64, 64))
    mask.paste(1, (20, 20, 50, 50))
    mask.save("first.png")
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    names: dict = {"model": model, "paths": ["photo.jpg", "other.jpg"]}
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    exec(code.replace("short:480", "short:64"), names)
    height, width = names["features"].shape[-2:]
    assert names["rgb"].shape == (1, 3, height, width) and names["where"].shape == (1, height, width)
    assert [mask.shape for mask in names["masks"]] == [each.shape[1:] for each in names["maps"]]
    assert names["colors"][0].shape == (3, height, width)
    assert names["picture"].size == names["photograph"].size
    assert len(names["matches"].first) == len(names["matches"].similarity) > 0
    assert names["labels"].shape == (480, 854) and set(names["labels"].unique().tolist()) == {0, 1}


def test_the_commands_are_understood() -> None:
    blocks = "".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL))
    commands = [
        shlex.split(line, comments=True)[1:] for line in blocks.splitlines() if line.startswith("radio ")
    ]
    assert {command[0] for command in commands} == {"pca", "similar", "match", "propagate"}
    for command in commands:
        assert _parser(command).parse_args(command).model is None


def test_the_pictures_are_there_and_small() -> None:
    pictures = [ROOT / "docs" / name for name in re.findall(r"\]\((images/[^)]+)\)", PAGE)]
    assert len(pictures) == 8
    for picture in pictures:
        assert picture.stat().st_size < 150_000
        with Image.open(picture) as image:
            image.verify()
    assert sum(picture.stat().st_size for picture in pictures) < 900_000
