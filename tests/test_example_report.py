"""examples/reproduce_report.py: the table of a tiny checkpoint equals its parts, and a stopped run goes on."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import radio
from radio.data.labeled import ImageFolder
from radio.tasks.knn import classify
from radio.tasks.zero_shot import ZeroShotClassifier, count_correct, imagenet_templates

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "tests" / "reference" / "v2_5" / "checkpoint.pth.tar"
SCRIPT = ROOT / "examples" / "reproduce_report.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Parts of photographs in four class folders, laid out as ImageNet is."""
    root = tmp_path_factory.mktemp("imagenet")
    for label in range(4):
        place = root / f"n{label:08d}"
        place.mkdir()
        for i in range(4):
            with Image.open(photos[(i + label) % len(photos)]) as image:
                image.crop((20 * i, 10 * label, 20 * i + 110, 10 * label + 90)).save(place / f"{i}.png")
    return root


@pytest.fixture
def run(folder, text_towers, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*more: str) -> str:
        arguments = [
            "--model", str(CHECKPOINT), "--val", str(folder), "--train", str(folder), "--features",
            str(tmp_path / "features"), "-o", str(tmp_path / "report"), "--adaptors", "clip", "--text-weights",
            f"clip={text_towers['clip']}", "--templates", "simple", "--resolutions", "64", "96", "--windowed", "64",
            "--window", "2", "--knn-resolutions", "64", "--k", "3", "--workers", "2", "--device", "cpu", *more,
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().err

    return call


def test_the_table_equals_its_parts_and_is_made_anew_from_files(run, folder, text_towers, tmp_path):
    said = run()
    assert "64 px: 32 images" in said and "64 px, ViTDet 2: 16 images" in said and "GB of features" in said
    rows = list(csv.DictReader((tmp_path / "report" / "checkpoint.csv").open()))
    found = {(row["metric"], row["adaptor"], row["resolution"], row["window"]): row for row in rows}
    assert list(found) == [
        ("zero-shot", "clip", "64", ""), ("knn", "", "64", ""), ("zero-shot", "clip", "96", ""),
        ("zero-shot", "clip", "64", "2"),
    ]  # fmt: skip
    images = ImageFolder(folder)
    labels = torch.tensor(images.labels)
    for key, size, window in (("64", 64, None), ("96", 96, None), ("64", 64, 2)):
        model = radio.load_model(
            CHECKPOINT,
            adaptors=["clip"],
            text_weights=text_towers["clip"],
            device="cpu",
            vitdet_window_size=window,
        )
        classifier = ZeroShotClassifier.build(
            model.adaptors["clip"], images.classes, imagenet_templates("simple")
        )
        encoded = model.encode(images.paths, size=size)
        counts = count_correct(classifier, torch.cat([e.adaptors["clip"].summary for e in encoded]), labels)
        row = found["zero-shot", "clip", key, str(window or "")]
        assert float(row["top1"]) == 100 * counts.top1 / 16 and row["images"] == "16"
        if (size, window) == (64, None):
            summaries = torch.cat([each.summary for each in encoded])
            best = classify(summaries, summaries, labels, k=3).classes[:, 0]
            assert float(found["knn", "", "64", ""]["top1"]) == 100 * (best == labels).float().mean()
            assert found["knn", "", "64", ""]["database"] == "16"
    page = (tmp_path / "report" / "checkpoint.md").read_text()
    assert "## zero-shot, clip" in page and "## knn" in page and page.count("| 64 |") == 3
    assert {row["published"] for row in rows} == {""}, "nobody published numbers of this model"

    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.parquet")}
    before = (tmp_path / "report" / "checkpoint.csv").read_text()
    (tmp_path / "report" / "checkpoint.csv").unlink()
    assert "altogether about 0 s" in run()
    assert (tmp_path / "report" / "checkpoint.csv").read_text() == before
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "features").rglob("*.parquet")} == shards


def test_an_estimate_computes_nothing_and_a_subset_is_even(run, tmp_path):
    said = run("--estimate", "--subset", "8", "--price", "2")
    assert "64 px: 24 images" in said and "at 2 an hour" in said
    assert not (tmp_path / "features").exists() and not (tmp_path / "report").exists()
    script = runpy.run_path(str(SCRIPT))

    class Folder:
        def __init__(self) -> None:
            self.paths = list(range(10))
            self.kept: list[int] = []

        def __len__(self) -> int:
            return 10

        def keep(self, paths: list[int]) -> None:
            self.kept = paths

    images = Folder()
    script["evenly_spaced"](images, 5)
    assert images.kept == [0, 2, 4, 6, 8]


def test_published_numbers_stand_beside_ours_and_each_has_a_source():
    script = runpy.run_path(str(SCRIPT))
    published = script["read_published"]()
    keys = [
        tuple(row[c] for c in ("model", "metric", "adaptor", "resolution", "window")) for row in published
    ]
    assert len(set(keys)) == len(keys) > 60
    versions = {release.version for release in radio.RELEASES}
    for row in published:
        assert row["model"] in versions and 0 < float(row["top1"]) < 100 and row["source"]
        assert row["metric"] in ("zero-shot", "knn")
    assert ("radio_v2.5-l", "zero-shot", "clip", "1024", "16") in keys

    report = object.__new__(script["Report"])
    report.published, report.version = published, "radio_v2.5-l"
    counts = script["Accuracy"](40_000, 47_000, 50_000)
    row = report.row("zero-shot", "siglip", script["Pass"](512, None), counts, "")
    assert (row.top1, row.published, row.difference) == (80.0, 78.828, 1.172)
    assert report.row("zero-shot", "siglip", script["Pass"](640, None), counts, "").published == ""
