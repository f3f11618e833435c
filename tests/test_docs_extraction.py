"""docs/extraction.md: its commands are commands, its Python runs, and its arithmetic is right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from radio import RADIOModel, load_model
from radio.cli import _parser
from radio.search import build_index

PAGE = (Path(__file__).parent.parent / "docs" / "extraction.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_commands_are_understood() -> None:
    text = "".join(snippets("sh")).replace("\\\n", " ")
    lines = [line[line.index("radio ") :] for line in text.splitlines() if re.match(r"(srun )?radio ", line)]
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    assert {command[0] for command in commands} == {"extract", "index", "search"}
    for command in commands:
        words = [word.replace("$SLURM_ARRAY_TASK_ID", "3") for word in command]
        assert _parser(words).parse_args(words).command == words[0]


def test_the_python_runs(
    photos: list[Path],
    reference: Path,
    text_towers: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = load_model(
        reference / "v2_5" / "checkpoint.pth.tar", ["clip"], text_weights=text_towers["clip"], device="cpu"
    )
    (tmp_path / "photos").symlink_to(photos[0].parent)
    (tmp_path / "q.jpg").symlink_to(photos[0])

    def run(code: str) -> dict:
        code = re.sub(r"^model = load_model.*$", "", code, flags=re.MULTILINE).replace("siglip2-g", "clip")
        code = code.replace('"s3://bucket/more"', "").replace("size=512", 'size=64, dense="safetensors"')
        code = code.replace("width > 1000", "width > 100")
        code = code.replace("00000-of-00012", "00000-of-00001").replace("cat.jpg", photos[0].name)
        names: dict = {"model": model}
        exec(f"import numpy, pandas\n{code}", names)
        return names

    extracting, opening, matrix, dense, searching = snippets("python")
    assert run(extracting)["report"].ok == len(photos)
    assert "datasets" in opening  # the libraries are tried in tests/extraction/test_extract.py
    assert run(matrix)["matrix"].shape == (len(photos), model.summary_dim)
    height, width = pd.read_parquet("features").grid[0]
    assert run(dense)["features"].shape == (height, width, model.embed_dim)
    assert run(searching)["matches"][0].path.endswith("q.jpg") is False
    assert Path("sheet.png").stat().st_size > 1000
    assert isinstance(model, RADIOModel)
    assert len(build_index("features", "again")) == len(photos)


def test_the_arithmetic_is_right() -> None:
    rows = re.findall(r"\| (10 million|1 billion) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", PAGE)
    assert len(rows) == 4
    for name, rate, *hours in rows:
        images = 10**7 if name == "10 million" else 10**9
        for gpus, value in zip((1, 8, 64), hours, strict=True):
            assert float(value) == pytest.approx(images / 3600 / int(rate) / gpus, rel=0.02, abs=0.06)
    summary, adaptor, dense, merged = (2 * n for n in (2304, 2304 + 1536, 1024 * 768, 196 * 768))
    for size, words in ((summary, "48 GB"), (adaptor, "78 GB"), (dense, "15.7 TB"), (merged, "3.0 TB")):
        value, unit = words.split()
        assert words in PAGE
        assert float(value) == pytest.approx(
            10**7 * (size + 150) / (10**9 if unit == "GB" else 10**12), rel=0.02
        )
