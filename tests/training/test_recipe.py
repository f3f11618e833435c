"""Recipes say what they mean, or which field is wrong; data of every form is read in one order."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import KnownTeacher, pictures, recipe

from radio import ImageError
from radio.training import read_recipe
from radio.training.data import Draw, Draws, FolderImages, TarImages, batches, open_images
from radio.training.objective import Objective
from radio.training.plan import plan_steps
from radio.training.recipe import DataRecipe

ROOT = Path(__file__).parent.parent.parent


def stage(**changes: Any) -> dict[str, Any]:
    """The change of a recipe's only stage."""
    return {"stages": [recipe(Path("x"))["stages"][0] | changes]}


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    read_recipe(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": 1}, "unknown field 'stage'; allowed: output, teachers, stages"),
        ({"teachers": []}, "at least one teacher"),
        ({"student": {"widht": 3}}, "unknown field 'student.widht'; allowed: student.start"),
        ({"student": {"width": "3"}}, "student.width must be of type int, got '3'"),
        ({"student": 3}, "student must be a table"),
        ({"seed": True}, "seed must be of type int"),
        ({"optimizer": {"name": "sgd"}}, "unknown optimizer.name 'sgd'; allowed: adamw, lamb"),
        ({"teachers": [{"name": "a", "kind": "timm"}]}, "lacks 'teachers\\[0\\].model'"),
        ({"teachers": [{"name": "a", "kind": "timm", "model": "x"}] * 2}, "different names"),
        ({"teachers": [{"name": "a", "kind": "timm", "model": "x", "mosaic": True}]}, "use_summary = false"),
        ({"teachers": [{"name": "a", "kind": "cached", "model": "x"}]}, 'augmentation = "none"'),
        ({"data": {}}, "one of folder, webdataset and dataset"),
        ({"stages": [{"steps": 3, "batch_size": 2, "sizes": [32]}]}, "statistics_steps of at least 1"),
        ({"stages": [{"steps": 3, "statistics_steps": 1}]}, "needs sizes and batch_size, or groups"),
        ({"loss": {"teacher_dropout": 1}}, "teacher_dropout must be in"),
        ({"optimizer": {"rate": float("nan")}}, "optimizer.rate must be a finite number"),
        ({"optimizer": {"clip": 0}}, "optimizer.clip must be above 0"),
        ({"optimizer": {"warmup": -1}}, "optimizer.warmup must be at least 0"),
        ({"student": {"width": 32, "heads": 3}}, "student.width must be a multiple of heads"),
        ({"student": {"head_images": 1}}, "head_images must be 0 or at least 2, got 1"),
        ({"optimizer": {"token_rate": -1e-3}}, "optimizer.token_rate must be at least 0"),
        ({"student": {"heads": 0}}, "student.heads must be at least 1"),
        ({"student": {"patch_size": 0}}, "student.patch_size must be at least 1"),
        ({"student": {"max_size": 4}}, "student.max_size must be at least 16"),
        ({"teachers": [{"name": "backbone", "kind": "timm", "model": "x"}]}, "name cannot be 'backbone'"),
        ({"teachers": [{"name": "a.b", "kind": "timm", "model": "x"}]}, "name cannot be 'a.b'"),
        (
            {"teachers": [{"name": "a", "kind": "timm", "model": "x", "shift": -1}]},
            "shift must be at least 0",
        ),
        ({"teachers": [{"name": "a", "kind": "timm", "model": "x", "shift": 4}]}, "leaves nothing in common"),
        ({"data": {"folder": "x", "crop_scale": 0}}, "crop_scale must be above 0 and at most 1"),
        ({"data": {"folder": ""}}, "must not be empty"),
        ({"evaluation": {"every": 5}}, "evaluation.every needs evaluation.labeled"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"log_every": -1}, "log_every must be at least 1"),
        ({"divergence": 1}, "divergence must be above 1"),
        ({"output": ""}, "output is empty"),
        (stage(sizes=[33]), "size 33 is no multiple of student.patch_size 8; nearest: 32"),
        (stage(windows=[0]), "windows must be from 1 to 4"),
        (stage(windows=[5]), "windows must be from 1 to 4"),
        (stage(statistics_steps=9), "statistics_steps must be at most its 8 steps"),
        (
            stage(sizes=[], batch_size=0, groups=[{"sizes": [32], "batch_size": 2, "teachers": ["b"]}]),
            "unknown teacher 'b' in a group",
        ),
        (
            {
                "teachers": [{"name": name, "kind": "timm", "model": "x"} for name in "ab"],
                **stage(sizes=[], batch_size=0, groups=[{"sizes": [32], "batch_size": 2, "teachers": ["a"]}]),
            },
            "no group of the first stage runs the teacher 'b'",
        ),
    ],
)
def test_what_is_wrong_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe(Path("x")) | change)


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("output = ")
    with pytest.raises(ValueError, match="not a TOML file"):
        read_recipe(tmp_path / "recipe.toml")


def _plan(fields: dict, rank: int, size: int, start: int = 0) -> list:
    read = read_recipe(fields)
    objectives = [Objective(each, KnownTeacher(1.0), read.loss) for each in read.teachers]
    return plan_steps(read, objectives, 8, 0, rank, size, start)


def test_images_and_sizes_do_not_depend_on_the_number_of_processes() -> None:
    fields = recipe(
        Path("x"), stages=[{"steps": 5, "batch_size": 4, "sizes": [16, 32, 48], "statistics_steps": 1}]
    )
    alone, two = _plan(fields, 0, 1), [_plan(fields, rank, 2) for rank in (0, 1)]
    for step, first, second in zip(alone, *two, strict=True):
        assert first.student_side == second.student_side == step.student_side
        assert sorted([*first.draws, *second.draws]) == sorted(step.draws)
    assert [draw.number for step in alone for draw in step.draws] == list(range(20))
    assert _plan(fields, 0, 1, start=3) == alone[3:]


def test_partitioned_processes_do_different_things() -> None:
    groups = [
        {"sizes": [16], "batch_size": 4, "teachers": ["a"]},
        {"sizes": [48], "batch_size": 2, "teachers": ["a", "b"]},
    ]
    fields = recipe(Path("x"), ["a", "b"], stages=[{"steps": 2, "groups": groups, "statistics_steps": 1}])
    low, high = _plan(fields, 0, 2), _plan(fields, 1, 2)
    assert {step.student_side for step in low} == {16} and {step.student_side for step in high} == {48}
    assert low[0].weights == {"a": pytest.approx(4 / 3), "b": 0}
    assert high[0].weights == {"a": pytest.approx(2 / 3), "b": 2}
    numbers = [draw.number for steps in zip(low, high, strict=True) for step in steps for draw in step.draws]
    assert sorted(numbers) == list(range(12))
    with pytest.raises(ValueError, match="1 process cannot be shared out"):
        _plan(fields, 0, 1)


def test_every_image_comes_once_an_epoch_from_folders_and_tar_files(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures" / "deep", 5)
    with tarfile.open(tmp_path / "shard-0.tar", "w") as archive:
        for path in sorted(folder.glob("*")):
            archive.add(path, path.name)
        (tmp_path / "label.txt").write_text("1")
        archive.add(tmp_path / "label.txt", "000.txt")
    data = DataRecipe(folder="x", augmentation="none")
    found = []
    for images in (FolderImages(str(tmp_path / "pictures")), TarImages(str(tmp_path / "shard-*.tar"))):
        draws = Draws(images, data, seed=3)
        samples = [draws[Draw(number, 16)] for number in range(10)]
        assert sorted(name for _, name, _ in samples[:5]) == sorted(path.name for path in folder.glob("*"))
        assert [name for _, name, _ in samples[:5]] != [name for _, name, _ in samples[5:]]
        found.append(samples)
    assert all(torch.equal(a, b) and n == m for (a, n, _), (b, m, _) in zip(*found, strict=True))
    for nothing in (FolderImages, TarImages):
        with pytest.raises(ValueError, match="images"):
            nothing(str(tmp_path / "nowhere"))


def test_a_data_set_of_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of Parquet through `datasets` itself: pixels of the folder; a row that is no image is passed over."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = pictures(tmp_path / "pictures", 5)
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(folder.glob("*"))]
    made = datasets.Dataset.from_dict({"image": rows, "text": list("abcde")})
    made.cast_column("image", datasets.Image()).to_parquet(tmp_path / "rows" / "train.parquet")
    data = DataRecipe(dataset=str(tmp_path / "rows"), augmentation="none")
    images = open_images(data)
    assert len(images) == 5
    [found] = batches(images, data, 3, [[Draw(number, 16) for number in range(5)]])
    [wanted] = batches(FolderImages(str(folder)), data, 3, [[Draw(number, 16) for number in range(5)]])
    assert torch.equal(found.pixels, wanted.pixels) and found.skipped == 0

    rows[2]["bytes"] = b"not an image"
    made = datasets.Dataset.from_dict({"image": rows})
    made.cast_column("image", datasets.Image()).to_parquet(tmp_path / "bad" / "train.parquet")
    images = open_images(DataRecipe(dataset=str(tmp_path / "bad")))
    [batch] = batches(images, data, 3, [[Draw(number, 16) for number in range(5)]])
    assert batch.skipped >= 1 and batch.pixels.shape == (5, 3, 16, 16)
    with pytest.raises(ValueError, match="columns text; expected image"):
        datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "none" / "train.parquet")
        open_images(DataRecipe(dataset=str(tmp_path / "none")))


def test_crops_follow_from_the_seed_and_workers_change_nothing(tmp_path: Path) -> None:
    images = FolderImages(str(pictures(tmp_path, 5)))
    plan = [[Draw(0, 24), Draw(1, 24)], [Draw(2, 32), Draw(3, 32)]]
    first = list(batches(images, DataRecipe(folder="x"), 1, plan))
    again = list(batches(images, DataRecipe(folder="x", workers=1), 1, plan))
    other = list(batches(images, DataRecipe(folder="x"), 2, plan))
    assert (
        first[1].pixels.shape == (2, 3, 32, 32) and first[0].pixels.min() >= 0 and first[0].pixels.max() <= 1
    )
    assert all(
        torch.equal(a.pixels, b.pixels) and a.names == b.names for a, b in zip(first, again, strict=True)
    )
    assert not torch.equal(first[0].pixels, other[0].pixels)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_cannot_be_read_is_told_without_a_traceback(workers: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "._a.png").write_text("of a Mac")
    images = FolderImages(str(tmp_path))
    assert len(images) == 1
    data = DataRecipe(folder=str(tmp_path), workers=workers)
    with pytest.raises(ImageError, match="^20 images in a row cannot be read") as caught:
        list(batches(images, data, 0, [[Draw(0, 16)]]))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("size", [-512, 100])
def test_damaged_tar_files_are_named(size: int, tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = size
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(ValueError, match=r"a\.tar cannot be read as a tar file"):
        TarImages(str(tmp_path / "*.tar"))
