"""`radio extract`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from radio.cli import main


@pytest.fixture
def checkpoint(reference: Path) -> str:
    return str(reference / "v2_5" / "checkpoint.pth.tar")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (40 + number, 30), (20 * number, 0, 99)).save(folder / f"{number}.png")
    (folder / "bad.jpg").write_text("no picture")
    return folder


def test_a_run_ends_with_a_summary_and_goes_on(
    data: Path, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [
        "extract",
        str(data),
        "-m",
        checkpoint,
        "-o",
        str(out),
        "--size",
        "32",
        "--rows-per-shard",
        "3",
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert f"failed: {data}/bad.jpg: it is not an image" in shown.err
    assert f"{out}: 3 shards, 7 rows: 6 ok, 1 failed" in shown.out
    assert "images/s, the model waited" in shown.out
    assert list(pd.read_parquet(out).status) == ["ok"] * 6 + ["failed"]
    assert main(arguments) == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert main([*arguments, "--adaptor", "clip"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "has another run: model adaptors was [] and is ['clip']" in message


def test_all_options_as_json(
    data: Path, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in sorted(data.iterdir())))
    for part in ("1/2", "2/2"):
        arguments = (
            f"extract {tmp_path / 'list.txt'} -m {checkpoint} -o {out} --adaptor clip --size 64 --dtype fp32 --exact "
            f"--rows-per-shard 4 --summary-dtype float16 --dense arrow --dense-dtype float32 "
            f"--merge ratio=0.5,stride=2x2 --shard {part} --workers 1 --batch-size 2 --max-failures 1 "
            "--retry-failed --json"
        )
        assert main(arguments.split()) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["shards"], found["rows"]) == ((1, 3) if part == "1/2" else (1, 4))
    table = pd.read_parquet(out)
    assert list(table.columns)[-2:] == ["summary", "clip"]
    assert table.summary[0].dtype == np.float16
    assert len(list((out / "__dense").glob("*.arrow"))) == 2


def test_an_enormous_image_is_told_of_once_and_by_name(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "enormous.png"
    Image.new("1", (13_000, 10_400)).save(path)  # Pillow warns of it, we refuse it
    assert main(["extract", str(path), "-m", checkpoint, "-o", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "enormous" in line or "limit" in line] == [
        f"failed: {path}: it is enormous: 13000 x 10400 pixels; at most 134 million are read. Shrink it or cut it into "
        "tiles first"
    ]


def test_it_fails_if_every_input_fails(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_text("no picture")
    out = tmp_path / "out"
    arguments = ["extract", f"{tmp_path}/*.jpg", "-m", checkpoint, "-o", str(out)]
    for _ in range(2):
        assert main(arguments) == 1
        assert "nothing was extracted: 3 inputs failed; the column error says why" in capsys.readouterr().err
    assert len(pd.read_parquet(out)) == 3
    assert main([*arguments, "--retry-failed", "--max-failures", "0"]) == 1
    assert "1 input failed, more than the 0 allowed; the last one is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--shard 3/2", "expected I/N"),
        ("--shard 1", "expected I/N"),
        ("--rows-per-shard 0", "above zero"),
        ("--max-failures -1", "zero or above"),
        ("--merge half=1", "unknown 'half'"),
        ("--merge keep=x", "keep must be a number"),
        ("--dense npy", "invalid choice"),
    ],
)
def test_wrong_usage(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["extract", "x", "-m", "m", "-o", "o", *arguments.split()])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--merge keep=4", "merge is about spatial features; ask for them too"),
        ("--size 511x512", "must be multiples of 16"),
        ("--size long:1000000", "supports sides up to"),
        ("--num-gpus 1", "are for --engine ray"),
        ("--engine ray --shard 0/2", "shares the shards out by itself"),
        ("--adaptor nobody", "unknown adaptor 'nobody'"),
    ],
)
def test_options_that_make_no_sense_write_nothing(
    arguments: str,
    message: str,
    data: Path,
    checkpoint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main(["extract", str(data), "-m", checkpoint, "-o", str(out), *arguments.split()]) == 1
    assert message in capsys.readouterr().err
    assert not list(out.rglob("run.json")) and not list(out.rglob("*.parquet"))
