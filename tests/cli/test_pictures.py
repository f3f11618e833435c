"""`radio pca`, `radio similar` and the examples that draw: what they write and what they refuse."""

from __future__ import annotations

import runpy
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radio.cli import main
from radio.data.video import Frame, Video, describe_video, read_frames
from radio.drawing.video import write_frames
from radio.tasks.pca import PCAFit

pytest.importorskip("av")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def checkpoint(reference: Path) -> str:
    return str(reference / "v2_5" / "checkpoint.pth.tar")


@pytest.fixture
def model(checkpoint: str) -> list[str]:
    return ["--model", checkpoint, "--device", "cpu"]


@pytest.fixture(scope="module")
def small(photos, tmp_path_factory) -> list[Path]:
    """The photographs, small; the second is not square."""
    folder = tmp_path_factory.mktemp("photos")
    for path in photos[:2]:
        Image.open(path).convert("RGB").reduce(3).save(folder / path.name, quality=95)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def clip(photos, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    photo = Image.open(photos[0]).convert("RGB")
    frames = (Frame(photo.crop((9 * i, 6 * i, 9 * i + 128, 6 * i + 96)), Fraction(i, 10)) for i in range(6))
    write_frames(path, frames, Video(6, Fraction(10), Fraction(1, 10_000)))
    return path


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_pca_draws_every_image_at_every_size(small, model, tmp_path, capsys):
    arguments = [*map(str, small), "-o", str(tmp_path / "out"), "--size", "64,96", *model]
    assert main(["pca", *arguments]) == 0
    assert "images: 2, sizes: 2" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"astronaut-64x64.png", "astronaut-96x96.png", "contact-sheet.png"} <= names and len(names) == 5
    with Image.open(small[0]) as photo, Image.open(tmp_path / "out" / "astronaut-64x64.png") as picture:
        assert picture.size == photo.size
    colors = np.unique(_pixels(tmp_path / "out" / "astronaut-64x64.png").reshape(-1, 3), axis=0)
    assert 4 < len(colors) <= 16  # one color for each of 4 x 4 patches
    sheet = _pixels(tmp_path / "out" / "contact-sheet.png")
    assert (sheet[0] == 255).all() and sheet.shape[1] > 3 * 288 and sheet.std() > 20


def test_a_kept_fit_gives_other_runs_the_same_colors(small, model, tmp_path, capsys):
    fit = str(tmp_path / "fit.safetensors")
    both = [*map(str, small), "--size", "64", *model]
    assert main(["pca", *both, "-o", str(tmp_path / "a"), "--save-fit", fit]) == 0
    assert main(["pca", str(small[0]), "--size", "64", *model, "-o", str(tmp_path / "b"), "--fit", fit]) == 0
    assert (
        _pixels(tmp_path / "a" / "astronaut-64x64.png") == _pixels(tmp_path / "b" / "astronaut-64x64.png")
    ).all()
    assert PCAFit.load(fit).width == 64 and "backbone" in PCAFit.load(fit).source["space"]
    capsys.readouterr()
    in_sam = ["--size", "64", *model, "--adaptor", "sam", "-o", str(tmp_path / "c"), "--fit", fit]
    assert main(["pca", str(small[0]), *in_sam]) == 1
    assert "64 channels" in capsys.readouterr().err


def test_side_by_side_with_outliers(small, model, tmp_path):
    out = tmp_path / "out"
    arguments = [str(small[0]), "-o", str(out), "--size", "64,128", "--side-by-side", "--show-outliers"]
    assert main(["pca", *arguments, *model]) == 0
    assert {path.name for path in out.iterdir()} == {"astronaut.png", "contact-sheet.png"}
    assert _pixels(out / "astronaut.png").shape[1] > 3 * 448


def test_a_video_becomes_a_video_of_the_same_length(clip, model, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    assert main(["pca", str(clip), "-o", str(out), "--side-by-side", "--size", "64", *model]) == 0
    assert "frames: 6, 10 per second" in capsys.readouterr().out
    assert describe_video(out).frames == 6 and describe_video(out).frame_rate == 10
    before, after = list(read_frames(clip)), list(read_frames(out))
    assert [f.time for f in after] == [f.time for f in before]
    for frame, drawn in zip(before, after, strict=True):
        left = np.asarray(drawn.picture.crop((0, 0, *frame.picture.size))).astype(int)
        assert np.abs(left - np.asarray(frame.picture)).mean() < 6
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{photo}", "{clip}", "-o", "out"], "one video, or images, not both"),
        (["{clip}", "-o", "out.gif"], "allowed endings"),
        (["{clip}", "-o", "out.mp4", "--size", "64,96"], "one size"),
        (["{photo}", "-o", "{photo}"], "is an input of this command"),
        (["{photo}", "-o", "{clip}"], "images need a folder"),
        (["{photo}", "-o", "out", "--size", "65x64"], "multiples of 16"),
        (["{photo}", "-o", "out", "--fit", "{photo}"], "not a saved PCA fit"),
        (["nothing.jpg", "-o", "out"], "nothing.jpg"),
        (["*.jpg", "-o", "out"], "no file matches the pattern"),
    ],
)
def test_pca_says_what_is_wrong(words, message, small, clip, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [word.format(photo=small[0], clip=clip) for word in words]
    assert main(["pca", *arguments, *model]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["pca", "{clip}", "-o", "{clip}"],
        ["pca", "photo.png", "-o", ".", "--side-by-side"],
        ["pca", "contact-sheet.png", "-o", "."],
        ["pca", "photo.png", "-o", "out", "--save-fit", "photo.png"],
        ["similar", "photo.png", "--at", "9,9", "-o", "link.png"],
        ["similar", "clip.jpg", "photo.png", "--at", "9,9", "-o", "photo.png"],
        ["segment", "photo.png", "--labels", "cat,dog", "-o", "./photo.png"],
        ["features", "photo.png", "-o", "{checkpoint}.safetensors"],
        ["features", "photo.png", "-o", "{checkpoint}.safetensors", "-m", "weights"],
        ["features", "photo.png", "-o", "{checkpoint}.safetensors", "-m", "weights/config.json"],
        ["pca", ".", "-o", "out", "--save-fit", "photo.png"],
        ["export", "-o", "{checkpoint}.safetensors"],
    ],
)
def test_no_command_writes_over_what_it_reads(
    words, small, clip, reference, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    with Image.open(small[0]) as photo:
        for name in ("photo.png", "contact-sheet.png", "clip.jpg"):
            photo.save(name)
    Path("link.png").symlink_to("photo.png")
    video = Path(shutil.copy(clip, "clip.mp4"))
    weights = Path(shutil.copytree(reference / "hf_repo", "weights"), "model.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = [word.format(clip=video, checkpoint=weights.with_suffix("")) for word in words]
    if "-m" not in words:
        arguments += [str(weights)] if words[0] == "export" else ["--model", str(weights)]
    assert main(arguments) == 1
    assert "is an input of this command; give another output" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["pic.png", "new/pic.JPG", "pic.webp"])
def test_pca_into_one_picture(name, small, model, tmp_path, capsys):
    """A name of a picture is a picture, never a folder of that name."""
    out = tmp_path / name
    assert main(["pca", str(small[0]), "-o", str(out), "--size", "64", *model]) == 0
    with Image.open(small[0]) as photo, Image.open(out) as picture:
        assert picture.size == photo.size
    assert main(["pca", *map(str, small), "-o", str(out), "--size", "64", *model]) == 0
    sheet = _pixels(out)
    assert sheet.shape[1] > 2 * 288 and sheet.shape[0] > 2 * 200
    for words in (["--side-by-side"], ["--size", "64,96"]):
        assert main(["pca", str(small[0]), "-o", str(out), "--size", "64", *words, *model]) == 0
        assert _pixels(out).shape[1] > 2 * 448
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert main(["pca", *[str(small[0])] * 13, "-o", str(out), "--size", "64", *model]) == 1
    assert "give a folder" in capsys.readouterr().err


def test_pca_of_a_strip_can_be_seen(model, tmp_path):
    Image.effect_noise((2000, 20), 90).convert("RGB").save(tmp_path / "strip.png")
    assert (
        main(["pca", str(tmp_path / "strip.png"), "-o", str(tmp_path / "out"), "--side-by-side", *model]) == 0
    )
    picture = _pixels(tmp_path / "out" / "strip.png")
    assert picture.shape[0] > 60 and picture[:, 460:].std() > 20


def test_similar_is_highest_at_the_chosen_patch(small, model, tmp_path):
    out = tmp_path / "similar.png"
    arguments = [*map(str, small), "--at", "60,40", "--size", "96", "-o", str(out), *model]
    assert main(["similar", *arguments]) == 0
    one = _pixels(out)
    assert one.shape[0] > 448 and one.shape[1] > 2 * 448
    arguments[arguments.index("60,40")] = "120,130"
    assert main(["similar", *arguments]) == 0
    assert _pixels(out).shape != one.shape or np.abs(_pixels(out) - one).mean() > 3


def test_attention_of_a_patch_and_of_class_tokens(small, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = ["similar", str(small[0]), "--size", "96", "--attention", *model]
    assert main([*base, "--at", "60,40", "--block", "3"]) == 0
    assert "wrote astronaut-attention.png" in capsys.readouterr().out
    of_patch = _pixels(tmp_path / "astronaut-attention.png")
    assert main([*base, "-o", "classes.png"]) == 0
    of_classes = _pixels(tmp_path / "classes.png")
    assert of_patch.std() > 20 and of_classes.std() > 20 and of_patch.shape[1] != of_classes.shape[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--at X,Y"),
        (["--at", "9999,3"], "outside the image"),
        (["--at", "3,3", "--block", "2"], "belongs to --attention"),
        (["--attention", "--block", "12"], "there is no block 12"),
        (["--attention", "--adaptor", "sam"], "leave other images and --adaptor out"),
    ],
)
def test_similar_says_what_is_wrong(words, message, small, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["similar", str(small[0]), "--size", "64", *words, *model]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_example_on_photographs(small, checkpoint, tmp_path, capsys):
    run = runpy.run_path(str(EXAMPLES / "visualize_features.py"))["main"]
    out = tmp_path / "new" / "sheet.png"
    run([*map(str, small), "--size", "64,96", "--adaptor", "sam", "-o", str(out), "--model", checkpoint])
    assert _pixels(out).shape[1] > 3 * 288 and _pixels(out).std() > 20
    assert str(out) in capsys.readouterr().out


def test_the_example_on_a_video(clip, checkpoint, tmp_path, capsys):
    run = runpy.run_path(str(EXAMPLES / "visualize_video.py"))["main"]
    out = tmp_path / "features.mp4"
    run([str(clip), "--size", "64", "--fit-frames", "2", "-o", str(out), "--model", checkpoint])
    frames = [np.asarray(frame.picture).astype(int) for frame in read_frames(out)]
    assert len(frames) == 6 and frames[0].shape == (96, 2 * 128 + 8, 3)
    assert f"6 frames to {out}" in capsys.readouterr().out
