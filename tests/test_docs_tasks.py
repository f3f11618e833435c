"""The pages of tasks: their snippets run, their commands are commands, their pictures are there and small."""

from __future__ import annotations

import re
import shlex
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image
from sam_folders import published_sam3_folder, sam3_detector_folder, sam3_folder, sam_folder

from radio import load_model
from radio.cli import _parser
from radio.data.video import Frame, Video
from radio.drawing.video import write_frames
from radio.tasks.promptable import PromptableSegmenter

ROOT = Path(__file__).parent.parent
CHECKPOINT = str(ROOT / "tests" / "reference" / "v2_5" / "checkpoint.pth.tar")
WITH_SAM3 = str(ROOT / "tests" / "reference" / "radio1d" / "checkpoint.pth.tar")
SAM3_PART = 'model = load_model("c-radio_v4-h"'
PAGES = {"promptable": {"masks"}, "segmentation": {"evaluate"}, "video": {"extract", "pca", "evaluate"}}
"""Each page, and the commands that it shows."""


def _blocks(page: str, language: str) -> str:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL))


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """photo.jpg, 190 x 220, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Image.open(ROOT / "examples" / "images" / "coffee.jpg").resize((220, 190)).save("photo.jpg")


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page):
    lines = _blocks(page, "bash").replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("radio ")]
    assert {command[0] for command in commands} == PAGES[page]
    for command in commands:
        _parser(command).parse_args(command)


@pytest.mark.parametrize("page", PAGES)
def test_the_one_picture_is_there_and_small(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    [name] = re.findall(r"\]\((images/[^)]+)\)", text)
    path = ROOT / "docs" / name
    assert path.stat().st_size < 120_000
    with Image.open(path) as picture:
        picture.verify()


def test_masks(tmp_path, text_towers, photo, capsys):
    folder = sam_folder(tmp_path / "sam")
    code = _blocks("promptable", "python").partition(SAM3_PART)[0]
    code = code.replace('"radio_v2.5-l"', repr(CHECKPOINT))
    code = code.replace('"facebook/sam-vit-huge"', repr(str(folder)))
    code = code.replace('"clip"])', f'"clip"], text_weights={str(text_towers["clip"])!r}, device="cpu")', 1)
    names: dict = {}
    exec(code, names)
    assert names["masks"].mask.shape == (2, 190, 220)
    assert re.search(r"\[\('(cup|spoon|table)', -?0\.\d+\)", capsys.readouterr().out)


def test_concepts(tmp_path, photo):
    width = load_model(WITH_SAM3, adaptors=["sam3"], device="cpu").config.adaptor("sam3").feature.output_dim
    detector = sam3_detector_folder(tmp_path / "detector", width)
    sam3 = published_sam3_folder(tmp_path / "sam3", sam3_folder(tmp_path / "tracker", width), detector)
    _, start, code = _blocks("promptable", "python").partition(SAM3_PART)
    code = (start + code).replace('"c-radio_v4-h"', repr(WITH_SAM3))
    code = code.replace('"facebook/sam3"', repr(str(sam3))).replace("(image, words)", "(image, words, 0.0)")
    names: dict = {"load_model": load_model, "PromptableSegmenter": PromptableSegmenter}
    exec(code, names)
    assert names["masks"].mask.shape == (40, 190, 220)
    assert [names["words"][number] for number in names["masks"].prompt] == ["red cup"] * 20 + ["spoon"] * 20


def test_segmentation(tmp_path, text_towers, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.open(ROOT / "examples" / "images" / "coffee.jpg").resize((150, 100)).save("photo.jpg")
    small = _blocks("segmentation", "python").replace("768", "64").replace("384", "32")
    code = small.replace('"radio_v2.5-l"', repr(CHECKPOINT))
    code = code.replace('["clip"])', f'["clip"], text_weights={str(text_towers["clip"])!r}, device="cpu")', 1)
    names: dict = {}
    exec(code, names)
    assert names["result"].label.shape == (100, 150) and names["result"].similarity.shape == (3, 100, 150)
    assert names["picture"].width >= 150


def test_video(tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    photo = Image.open(ROOT / "examples" / "images" / "coffee.jpg")
    frames = (Frame(photo.crop((8 * i, 0, 8 * i + 96, 64)), Fraction(i, 25)) for i in range(4))
    write_frames(Path("clip.mp4"), frames, Video(4, Fraction(25), Fraction(1, 12800)))
    small = _blocks("video", "python").replace("512", "64")
    code = small.replace('"radio_v2.5-l"', f'{CHECKPOINT!r}, device="cpu"')
    names: dict = {}
    exec(code, names)
    assert len(names["encodings"]) == 4 and names["drift"][0] == pytest.approx(1, abs=1e-5)
    assert names["stability"].frames == 4 and 0 < names["stability"].features < 1
