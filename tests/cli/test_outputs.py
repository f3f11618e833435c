"""No command writes over what it reads or over what it has written, whatever the name is when it comes to writing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from radio.cli import main


@pytest.fixture
def model(reference) -> list[str]:
    return ["-m", str(reference / "v2_5" / "checkpoint.pth.tar"), "--device", "cpu"]


@pytest.fixture
def pictures(tmp_path, photos, monkeypatch) -> Path:
    """A folder of small pictures whose names are those that a command gives."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "p"
    folder.mkdir()
    with Image.open(photos[0]) as photo:
        small = photo.convert("RGB").resize((64, 48))
    for name in ("a.png", "a-64x48.png", "a-96x64.png", "contact-sheet.png"):
        small.save(folder / name)
    return folder


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        ["pca", "p/a.png", "p/a-64x48.png", "-o", "p"],
        ["pca", "p/a.png", "p/a-96x64.png", "-o", "p", "--size", "64x96"],
        ["pca", "p/a.png", "p/contact-sheet.png", "-o", "p"],
        ["pca", "p", "-o", "p"],
        ["pca", "p", "-o", "./p/../p", "--side-by-side"],
        ["pca", "p/a.png", "-o", "out", "--save-fit", "out/a-64x48.png"],
        ["pca", "p/a.png", "-o", "out", "--save-fit", "out/contact-sheet.png"],
        ["similar", "p/a.png", "--at", "5,5", "-o", "p/a.png"],
        ["similar", "p/a.png", "p/a-64x48.png", "--at", "5,5", "-o", "p/a-64x48.png"],
    ],
    ids=" ".join,
)
def test_inputs_and_earlier_outputs_survive(words, pictures, model, capsys):
    before = _contents(pictures)
    assert main([*words, *model]) == 1
    error = capsys.readouterr().err
    assert any(why in error for why in ("is an input", "written by this run", "written twice")), error
    after = _contents(pictures)
    assert all(after[path] == content for path, content in before.items())
    assert not list(pictures.parent.rglob(".radio-*"))


def test_a_linked_folder_is_the_same_folder(pictures, model, capsys):
    (pictures.parent / "q").symlink_to(pictures)
    before = _contents(pictures)
    assert main(["pca", "p/a.png", "p/a-64x48.png", "-o", "q", *model]) == 1
    assert "is an input" in capsys.readouterr().err
    assert {path: _contents(pictures)[path] for path in before} == before


def test_a_hard_link_to_an_input_is_the_input(pictures, model, capsys):
    out = pictures.parent / "out"
    out.mkdir()
    (out / "a-64x48.png").hardlink_to(pictures / "a.png")
    before = _contents(pictures)
    assert main(["pca", "p/a.png", "-o", "out", *model]) == 1
    assert "is an input" in capsys.readouterr().err and _contents(pictures) == before


LINKS = {"features": "out.npz", "similar": "out.png", "pca": "out/contact-sheet.png"}


@pytest.mark.parametrize(("command", "name"), LINKS.items())
def test_a_linked_output_is_not_followed(command, name, pictures, model, capsys):
    target = pictures.parent / "elsewhere"
    target.write_text("precious")
    place = pictures.parent / name
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(target)
    out = "out" if command == "pca" else name
    words = [command, "p/a.png", "-o", out, *(["--at", "5,5"] if command == "similar" else []), *model]
    assert main(words) == 1
    assert "symbolic link" in capsys.readouterr().err
    assert place.is_symlink() and target.read_text() == "precious"


def test_other_outputs_are_replaced(pictures, model):
    """A second run over the same inputs replaces the first run's results."""
    for _ in range(2):
        assert main(["pca", "p/a.png", "-o", "out", *model]) == 0
        assert main(["features", "p/a.png", "-o", "out.npz", *model]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["a-64x48.png", "contact-sheet.png"]
    assert np.load("out.npz")["summary"].shape[0] == 1


@pytest.mark.parametrize(
    "words", [["similar", "p/a.png", "--at", "5,5"], ["segment", "p/a.png", "--labels", "cat"]]
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(words, pictures, model, capsys):
    assert main([*words, "-o", "x.xyz", "-m", "no-such-model"]) == 1
    assert "allowed endings: .png" in capsys.readouterr().err
    assert not Path("x.xyz").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["pca", "p/a.png", "-m", "no-such-model"],
        ["extract", "p", "-m", "no-such-model"],
        ["convert", "no-such-model"],
        ["train", "p/recipe.toml"],
        ["features", "p/a.png", "-m", "no-such-model"],
        ["export", "no-such-model"],
    ],
    ids=lambda words: words[0],
)
def test_no_folder_is_named_like_a_file(words, pictures, capsys):
    (pictures / "recipe.toml").write_text("")
    assert main([*words, "-o", "x.xyz"]) == 1
    error = capsys.readouterr().err
    assert "give a folder" in error or ".onnx" in error or "or a folder" in error, error
    assert not Path("x.xyz").exists()


def test_a_folder_may_have_such_a_name_if_that_is_said(pictures, model, reference):
    assert main(["pca", "p/a.png", "-o", "x.d/", *model]) == 0
    assert main(["convert", str(reference / "v2_5" / "checkpoint.pth.tar"), "-o", "y.d/"]) == 0
    assert Path("x.d").is_dir() and Path("y.d", "config.json").is_file()


def test_converting_a_folder_onto_itself_is_refused(reference, tmp_path, capsys):
    assert main(["convert", str(reference / "v2_5" / "checkpoint.pth.tar"), str(tmp_path / "m")]) == 0
    before = _contents(tmp_path)
    assert main(["convert", str(tmp_path / "m"), str(tmp_path / "m"), "--overwrite"]) == 1
    assert "is an input" in capsys.readouterr().err and _contents(tmp_path) == before


def test_an_export_that_would_replace_an_input_at_the_last_moment(reference, tmp_path, monkeypatch, capsys):
    """The check comes just before the file takes its place, not only before the work."""
    from radio import export

    weights = tmp_path / "weights.pth.tar"
    weights.write_bytes((reference / "v2_5" / "checkpoint.pth.tar").read_bytes())
    before = weights.read_bytes()
    place = tmp_path / "out.pt2"

    def save(program, path, metadata):
        path.write_text("program")
        place.hardlink_to(weights)

    monkeypatch.setattr(export, "_save_program", save)
    assert main(["export", str(weights), "-o", str(place), "--size", "32"]) == 1
    error = capsys.readouterr().err
    if torch.__version__ < (2, 13):
        assert "exports are tested with 2.13 and newer" in error and not place.exists()
        return
    assert "is an input" in error
    assert weights.read_bytes() == before and place.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pt2", "weights.pth.tar"]


@pytest.mark.parametrize("given", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_converting_into_the_folder_of_the_weights_keeps_their_config(given, reference, tmp_path, capsys):
    folder = tmp_path / "old"
    folder.mkdir()
    shutil.copy(reference / "hf_repo" / "config.json", folder)
    state = load_file(reference / "hf_repo" / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    index = {"weight_map": dict.fromkeys(state, "pytorch_model.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    before = _contents(folder)
    assert main(["convert", str(folder / given), str(folder), "--overwrite"]) == 1
    assert "is an input" in capsys.readouterr().err and _contents(folder) == before


def test_an_image_that_is_skipped_is_not_replaced(pictures, model, capsys):
    broken = ("a-64x48.png", "contact-sheet.png")
    for name in broken:
        (pictures / name).write_bytes(b"half of a photo")
    files = [f"p/{name}" for name in ("a.png", *broken)]
    before = _contents(pictures)
    for options in ([], ["--side-by-side"]):
        assert main(["pca", *files, "-o", "p", "--skip-unreadable", *options, *model]) == 1
        assert "is an input" in capsys.readouterr().err
        assert {path: _contents(pictures)[path] for path in before} == before
