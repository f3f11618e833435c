"""The examples with words and neighbors run, alone and under torchrun, and give the same numbers."""

from __future__ import annotations

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import radio
from radio.data.labeled import ImageFolder
from radio.distributed import Processes
from radio.tasks.zero_shot import Accuracy, ZeroShotClassifier, count_correct, imagenet_templates

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "tests" / "reference" / "v2_5" / "checkpoint.pth.tar"
CLASSES = ("cat", "coffee_cup", "dog", "drawing", "photo", "rocket", "sky")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos) -> Path:
    """Parts of the photographs, of many shapes, in seven class folders."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for label in CLASSES:
        (root / label).mkdir()
        for i in range(5):
            image = Image.open(photos[i % len(photos)])
            width, height = random.integers(100, 200, size=2)
            left, top = random.integers(0, 150, size=2)
            image.crop((left, top, left + width, top + height)).save(root / label / f"{i}.png")
    return root


def _run(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")


def _torchrun(script: str, arguments: list[str], cache: Path) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(cache),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [*command, str(ROOT / "examples" / script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _zero_shot_arguments(folder: Path, text_towers: dict[str, Path], table: Path) -> list[str]:
    return [
        "--model", str(CHECKPOINT), "--dataset", str(folder), "--adaptor-name", "clip", "--text-weights",
        str(text_towers["clip"]), "--resolutions", "64", "96", "--batch-size", "4", "--workers", "2",
        "--csv", str(table), "--device", "cpu",
    ]  # fmt: skip


def test_zero_shot_counts_are_right(folder, text_towers, tmp_path, monkeypatch, capsys):
    """The table equals a plain loop over the images, one at a time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _run(
        "zero_shot_imagenet.py", _zero_shot_arguments(folder, text_towers, tmp_path / "out.csv"), monkeypatch
    )
    printed = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert printed.replace("\r\n", "\n") == (tmp_path / "out.csv").read_text()
    assert [row["resolution"] for row in rows] == ["64", "96"]
    assert len(list((tmp_path / "cache" / "radio" / "zero_shot").iterdir())) == 1

    model = radio.load_model(CHECKPOINT, adaptors=["clip"], text_weights=text_towers["clip"], device="cpu")
    names = [name.replace("_", " ") for name in CLASSES]
    classifier = ZeroShotClassifier.build(model.adaptors["clip"], names, imagenet_templates())
    images = ImageFolder(folder)
    for row in rows:
        total = Accuracy(0, 0, 0)
        for path, label in zip(images.paths, images.labels, strict=True):
            summary = model.encode(path, size=int(row["resolution"])).adaptors["clip"].summary
            total = total + count_correct(classifier, summary, torch.tensor([label]))
        assert int(row["images"]) == total.images == 35
        assert float(row["top1"]) == pytest.approx(100 * total.top1 / 35, abs=1e-3)
        assert float(row["top5"]) == pytest.approx(100 * total.top5 / 35, abs=1e-3)
        assert 0 < total.top5 < 35


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--resolution", "64", "96"], "crop:64x96"),
        (["--vitdet-window-size", "2", "--resolution", "64"], "64"),
    ],
)
def test_zero_shot_crops_and_windows(folder, text_towers, tmp_path, monkeypatch, capsys, extra, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = _zero_shot_arguments(folder, text_towers, tmp_path / "out.csv")
    start = arguments.index("--resolutions")
    arguments[start : start + 3] = extra
    _run("zero_shot_imagenet.py", arguments, monkeypatch)
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    assert row["resolution"] == expected and row["images"] == "35"
    assert row["vitdet_window_size"] == ("2" if "--vitdet-window-size" in extra else "")


def test_the_sweep_is_one_option():
    script = runpy.run_path(str(ROOT / "examples" / "zero_shot_imagenet.py"))
    assert script["SWEEP"][0] == 224 and script["SWEEP"][-1] == 1024
    assert all(side % 16 == 0 for side in script["SWEEP"])


def _knn_arguments(folder) -> list[str]:
    return ["--model", str(CHECKPOINT), "--train", str(folder), "--val", str(folder), "--resolution", "64"]


def _shards(features: Path) -> list[Path]:
    return sorted(features.glob("checkpoint-*/*.parquet"))


def test_knn_writes_summaries_once(folder, tmp_path, monkeypatch, capsys):
    arguments = _knn_arguments(folder)
    arguments += ["--features", str(tmp_path / "features"), "--k", "1", "--workers", "2", "--device", "cpu"]
    _run("knn_classification.py", arguments, monkeypatch)
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 35 and result["top1"] == 100.0, "with k = 1 every image finds itself"
    (shard,) = _shards(tmp_path / "features")  # the two folders are one and the same
    stored = np.array(pq.read_table(shard)["summary"].to_pylist())
    model = radio.load_model(CHECKPOINT, device="cpu")
    expected = model.encode(ImageFolder(folder).paths[7], size=64).summary
    np.testing.assert_allclose(stored[7], expected[0].numpy(), rtol=5e-3, atol=5e-3)
    time = shard.stat().st_mtime_ns
    _run("knn_classification.py", arguments, monkeypatch)
    assert [path.stat().st_mtime_ns for path in _shards(tmp_path / "features")] == [time]


@pytest.mark.parametrize("change", ["weights", "dtype", "windows", "size", "an image", "one image more"])
def test_knn_does_not_use_summaries_of_something_else(change, folder, tmp_path, monkeypatch, capsys):
    images = tmp_path / "images"
    shutil.copytree(folder, images)
    weights = tmp_path / "checkpoint.pth.tar"
    shutil.copy(CHECKPOINT, weights)
    arguments = ["--model", str(weights), "--train", str(images), "--val", str(images), "--device", "cpu"]
    arguments += ["--features", str(tmp_path / "features"), "--k", "1", "--resolution", "64"]
    _run("knn_classification.py", arguments, monkeypatch)
    before = {path.name for path in (tmp_path / "features").iterdir()}
    first = sorted(images.rglob("*.png"))[0]
    if change == "weights":
        shutil.copy(CHECKPOINT.parents[1] / "bf16" / "checkpoint.pth.tar", weights)
    elif change == "dtype":
        arguments += ["--dtype", "bfloat16"]
    elif change == "windows":
        arguments += ["--vitdet-window-size", "2"]
    elif change == "size":
        arguments[-1] = "96"
    elif change == "an image":
        Image.new("RGB", (64, 64)).save(first)
    else:
        Image.new("RGB", (64, 64)).save(first.with_name("another.png"))
    _run("knn_classification.py", arguments, monkeypatch)
    assert len({path.name for path in (tmp_path / "features").iterdir()} - before) == 1, "computed anew"
    capsys.readouterr()


def test_processes_share_every_image_once():
    shares = [Processes(rank, 3, torch.device("cpu")).positions(10) for rank in range(3)]
    assert sorted(position for share in shares for position in share) == list(range(10))
    assert Processes(0, 1, torch.device("cpu")).sum([1, 2]) == [1, 2]


def test_two_processes_give_the_numbers_of_one(folder, text_towers, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _run(
        "zero_shot_imagenet.py", _zero_shot_arguments(folder, text_towers, tmp_path / "one.csv"), monkeypatch
    )
    _torchrun(
        "zero_shot_imagenet.py",
        _zero_shot_arguments(folder, text_towers, tmp_path / "two.csv"),
        tmp_path / "cache",
    )
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()

    arguments = _knn_arguments(folder)
    arguments += ["--workers", "2", "--device", "cpu", "--features"]
    capsys.readouterr()
    _run("knn_classification.py", [*arguments, str(tmp_path / "one")], monkeypatch)
    alone = json.loads(capsys.readouterr().out)
    together = json.loads(_torchrun("knn_classification.py", [*arguments, str(tmp_path / "two")], tmp_path))
    assert together == alone
    one, two = (
        np.array(pq.read_table(_shards(tmp_path / run)[0])["summary"].to_pylist()) for run in ("one", "two")
    )
    np.testing.assert_allclose(two, one, rtol=5e-3, atol=5e-3)
