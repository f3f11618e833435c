"""docs/adaptors.md: its snippets run, its commands exist, its table agrees with the catalogue."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import radio
from radio.cli import _parser

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "adaptors.md"
CHECKPOINT = "tests/reference/v2_5/checkpoint.pth.tar"


def test_snippets_run(text_towers: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL))
    code = code.replace('"radio_v2.5-l"', repr(CHECKPOINT)).replace("photo.jpg", "examples/images/coffee.jpg")
    code = code.replace('"sam"])', f'"sam"], text_weights={str(text_towers["clip"])!r}, device="cpu")', 1)
    names: dict = {}
    exec(code, names)
    assert names["image"].adaptors["clip"].summary.shape == (1, 40)
    assert names["output"]["clip"].features.shape == (1, 48, 32, 48)
    assert names["words"].shape == (2, 40) and names["similarity"].shape == (1, 2)
    assert names["result"].label.shape == (400, 600) and names["result"].similarity.shape == (4, 400, 600)
    assert names["picture"].width == 600
    assert names["votes"].classes.shape == (1, 5)
    printed = capsys.readouterr().out
    assert "siglip 36 36 text" in printed and "sam 48 48 no text" in printed
    assert re.search(r"(cup|cat|rocket): \d+% \(cosine -?0\.\d{3}\)", printed)


def test_the_one_picture_is_there_and_small() -> None:
    [name] = re.findall(r"\]\((images/[^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert (ROOT / "docs" / name).stat().st_size < 120_000
    with Image.open(ROOT / "docs" / name) as picture:
        picture.verify()


def test_commands_are_understood() -> None:
    commands = re.findall(
        r"^radio (?:zeroshot|segment|knn) .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        _parser(words).parse_args(words)


def test_table_agrees_with_the_catalogue_and_the_libraries() -> None:
    import open_clip

    from radio.text.siglip2_tower import REPOSITORIES

    page = PAGE.read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    listed: dict[str, set[str]] = {}
    for release in radio.RELEASES:
        for name in release.adaptors:
            generation = re.match(r"(c-)?radio_v[\d.]+", release.version)
            assert generation is not None
            listed.setdefault(name, set()).add(generation.group())
    generations = {name: set(row.split("|")[3].strip().split(", ")) for name, row in rows.items()}
    assert generations == listed
    for name in ("clip", "siglip"):
        _, model, tag = re.findall(r"`([^`]+)`", rows[name])
        assert open_clip.get_pretrained_cfg(model, tag)
        summary = rows[name].split("|")[4].strip()
        assert int(summary) == open_clip.get_model_config(model)["embed_dim"]
    assert REPOSITORIES["siglip2-g-384"] in rows["siglip2-g"]
