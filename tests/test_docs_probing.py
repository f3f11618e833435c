"""docs/probing.md and docs/report.md: the snippets run, the commands are commands, the pictures are there and small."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import radio
from radio.cli import _parser

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "probing.md").read_text()
REPORT = (ROOT / "docs" / "report.md").read_text()


@pytest.fixture
def data(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that the page speaks of, tiny."""
    random = np.random.default_rng(0)
    shutil.copy(photos[0], tmp_path / "photo.jpg")
    for folder in ("train/a", "train/b", "images", "masks", "depths"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(3):
        pixels = [random.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(3)]
        for place, array in zip(("train/a", "train/b", "images"), pixels, strict=True):
            Image.fromarray(array).save(tmp_path / place / f"{i}.png")
        Image.fromarray(random.integers(0, 5, (48, 64)).astype(np.uint8)).save(
            tmp_path / "masks" / f"{i}.png"
        )
        Image.fromarray(random.integers(900, 3000, (48, 64)).astype(np.uint16)).save(
            tmp_path / "depths" / f"{i}.png"
        )
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_snippets_run(data: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = radio.load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    monkeypatch.setattr(radio, "load_model", lambda name: model)
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(code) == 4 and all(len(snippet.strip().splitlines()) <= 12 for snippet in code)
    smaller = {"steps=300": "steps=2", "(224, 224)": "(64, 64)", "size=224": "size=64", "width=32": "width=4"}
    smaller |= {"SlidingWindows(224, stride=154": "SlidingWindows(64, stride=48", "short:448": "short:96"}
    names: dict = {}
    for snippet in code:
        for large, small in smaller.items():
            snippet = snippet.replace(large, small)
        exec(snippet, names)
    assert names["result"].label.shape == names["depth"].shape == (512, 512)
    assert (data / "probe" / "probe.safetensors").is_file() and (data / "colors.png").is_file()


def test_the_commands_are_understood() -> None:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)).replace("\\\n", " ")
    commands = [
        shlex.split(line, comments=True)[1:] for line in blocks.splitlines() if line.startswith("radio ")
    ]
    assert {tuple(command[:2]) for command in commands} == {
        ("probe", "train"), ("probe", "predict"), ("probe", "evaluate")
    }  # fmt: skip
    for command in commands:
        _parser(command).parse_args(command)


def test_the_small_stamps_are_split_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stamp of a large enough class is in one of the two parts, on white; mirrored ones are in none."""
    root = tmp_path / "stamps"
    names = [*(f"bird{i}" for i in range(8)), "bird1_mirror"]
    for place in [f"animals/birds/{name}.png" for name in names] + [
        "animals/fish/one.png",
        "symbols/a/a.png",
    ]:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(root / place)
    script = runpy.run_path(str(ROOT / "examples" / "small_labeled_data.py"))
    script["write_stamps"](root, tmp_path / "out")
    found = {
        split: sorted(p.stem for p in (tmp_path / "out" / split).rglob("*.png")) for split in ("train", "val")
    }
    assert found["val"] == ["bird0", "bird4"] and len(found["train"]) == 6
    assert [path.name for path in (tmp_path / "out" / "val").iterdir()] == ["animals-birds"]
    with Image.open(tmp_path / "out" / "val" / "animals-birds" / "bird0.png") as picture:
        assert picture.mode == "RGB" and picture.getpixel((0, 0)) == (255, 255, 255)


def test_the_reports_commands_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ROOT / "examples" / "reproduce_report.py"
    parse = runpy.run_path(str(script))["parse_arguments"]
    [block] = re.findall(r"```sh\n(.*?)```", REPORT, flags=re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    assert len(lines) == 3
    for line in lines:
        monkeypatch.setattr(
            sys, "argv", shlex.split(line.partition("reproduce_report.py")[2].partition("#")[0])
        )
        sys.argv.insert(0, str(script))
        assert parse().model in ("radio_v2.5-l", "radio_v2.1")


def test_the_reports_picture_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "published_results.csv", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", REPORT, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    lines = {line.get_label(): line.get_ydata() for line in names["axes"].get_lines()}
    assert min(lines["radio_v2.1"]) < 1 and min(lines["radio_v2.5-h"]) > 79
    with Image.open("report.png") as picture:
        picture.verify()


def test_published_numbers_on_the_page_are_those_of_the_table() -> None:
    known = (ROOT / "examples" / "published_results.csv").read_text()
    for resolution, window, number in re.findall(
        r"^\| (\d+) \| (\d*) \| – \| ([\d.]+) \| – \|$", REPORT, re.MULTILINE
    ):
        assert f"radio_v2.5-l,zero-shot,clip,{resolution},{window},{number}," in known
    assert "82.51 and 82.304" in REPORT and "radio_v2.5-h,zero-shot,clip,1024,,82.304," in known


def test_the_pictures_are_there_and_small() -> None:
    pictures = [ROOT / "docs" / name for name in re.findall(r"\]\((images/[^)]+)\)", PAGE + REPORT)]
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.stat().st_size < 150_000
        with Image.open(picture) as image:
            image.verify()
