"""Foregrounds, overlays, matches and masks of videos: what the commands write, from photographs."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from radio.cli import main
from radio.data.video import Frame, Video, describe_video, read_frames
from radio.drawing.segmentation import palette
from radio.drawing.video import write_frames

pytest.importorskip("av")


@pytest.fixture
def model(reference: Path) -> list[str]:
    return ["--model", str(reference / "v2_5" / "checkpoint.pth.tar"), "--device", "cpu"]


@pytest.fixture(scope="module")
def scene(photos, tmp_path_factory) -> Path:
    """A folder with a video of a square that moves over a photograph, and the mask of its first frame."""
    folder = tmp_path_factory.mktemp("scene")
    ground = Image.open(photos[1]).convert("RGB").resize((96, 64))
    mask = Image.new("RGB", ground.size)
    frames = []
    for number in range(4):
        picture = ground.copy()
        box = (16 + 8 * number, 16, 47 + 8 * number, 47)
        ImageDraw.Draw(picture).rectangle(box, fill="red")
        if not number:
            ImageDraw.Draw(mask).rectangle(box, fill="yellow")
        frames.append(Frame(picture, Fraction(number, 10)))
    write_frames(folder / "clip.mp4", frames, Video(4, Fraction(10), Fraction(1, 10_000)))
    mask.save(folder / "mask.png")
    return folder


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_pca_of_the_foreground_leaves_the_background_gray(photos, model, tmp_path):
    out = tmp_path / "x.png"
    words = [str(photos[1]), "--size", "short:96", "--foreground", "-o", str(out), *model]
    assert main(["pca", *words]) == 0
    pixels = _pixels(out)
    with Image.open(photos[1]) as photo:
        assert pixels.shape == (photo.height, photo.width, 3)
    gray = np.ptp(pixels, axis=-1) == 0
    assert 0.05 < gray.mean() < 0.95 and pixels[gray].max() < 80
    squares = pixels
    assert main(["pca", *words, "--smooth"]) == 0
    assert len(np.unique(_pixels(out).reshape(-1, 3), axis=0)) > 2 * len(
        np.unique(squares.reshape(-1, 3), axis=0)
    )


def test_pca_refuses_what_the_foreground_does_not_go_with(photos, model, tmp_path, capsys):
    words = ["pca", str(photos[0]), "-o", str(tmp_path / "x.png"), "--foreground", *model]
    assert main([*words, "--save-fit", str(tmp_path / "fit.safetensors")]) == 1
    assert "--foreground fits twice" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "below"), [((900, 150), True), ((150, 900), False), ((400, 300), False)])
def test_panels_of_wide_images_go_below_each_other(size, below, model, tmp_path):
    Image.effect_noise(size, 90).convert("RGB").save(tmp_path / "photo.png")
    words = [str(tmp_path / "photo.png"), "-o", str(tmp_path / "out"), "--size", "patches:60", *model]
    assert main(["pca", *words]) == 0
    height, width = _pixels(tmp_path / "out" / "contact-sheet.png").shape[:2]
    long = 384 if max(size) < 2 * min(size) else 768
    panel = round(size[0] * long / max(size)), round(size[1] * long / max(size))
    if below:
        assert panel[0] < width < 1.3 * panel[0] and height > 2 * panel[1]
    else:
        assert width > 2 * panel[0] and panel[1] < height < 1.5 * panel[1]


@pytest.mark.parametrize(
    "words", [["--at", "100,100"], ["--attention", "--at", "100,100"], ["--at", "9,9", "--smooth"]]
)
def test_an_overlay_has_the_photographs_size(words, photos, model, tmp_path):
    out = tmp_path / "x.png"
    assert main(["similar", str(photos[1]), "--size", "96", "--overlay", *words, "-o", str(out), *model]) == 0
    photo, drawn = _pixels(photos[1]), _pixels(out)
    assert drawn.shape == photo.shape
    assert np.corrcoef(drawn.sum(axis=-1).ravel(), photo.sum(axis=-1).ravel())[0, 1] > 0.3, (
        "it shines through"
    )
    assert np.abs(drawn - photo).mean() > 10


def test_overlays_of_several_class_tokens_are_on_one_sheet(photos, model, tmp_path):
    out = tmp_path / "x.png"
    words = [str(photos[1]), "--size", "96", "--attention", "--overlay", "-o", str(out), *model]
    assert main(["similar", *words]) == 0
    assert _pixels(out).shape[1] > 2 * _pixels(photos[1]).shape[1]


def test_match_of_an_image_with_itself_is_everything(photos, model, tmp_path, capsys):
    other, out = tmp_path / "other.jpg", tmp_path / "x.png"
    shutil.copy(photos[1], other)
    words = [str(photos[1]), str(other), "--size", "96", "-o", str(out), *model]
    assert main(["match", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["grids"][0] == found["grids"][1] and found["matches"]
    assert all(pair["first"] == pair["second"] and pair["similarity"] > 0.999 for pair in found["matches"])
    assert _pixels(out).shape[1] > 560
    assert main(["match", *words, "--foreground", "--count", "3"]) == 0
    assert "in the picture: 3" in capsys.readouterr().out


def test_match_refuses_to_write_over_a_photograph(photos, model, tmp_path, capsys):
    photo = Path(shutil.copy(photos[0], tmp_path / "photo.png"))
    assert main(["match", str(photos[1]), str(photo), "-o", str(photo), *model]) == 1
    assert "is an input of this command" in capsys.readouterr().err


def test_a_mask_follows_its_object_through_a_video(scene, model, tmp_path, capsys):
    words = [str(scene / "clip.mp4"), "--mask", str(scene / "mask.png"), "--size", "128x192", *model]
    assert main(["propagate", *words, "-o", str(tmp_path / "out.mp4")]) == 0
    assert "frames: 4, objects: 1" in capsys.readouterr().out
    assert describe_video(tmp_path / "out.mp4").frames == 4
    assert [frame.picture.size for frame in read_frames(tmp_path / "out.mp4")] == 4 * [(96, 64)]
    assert main(["propagate", *words, "-o", str(tmp_path / "masks")]) == 0
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "00003.png"]
    for number, name in enumerate(names):
        with Image.open(tmp_path / "masks" / name) as picture:
            labels = np.asarray(picture)
            assert picture.mode == "P" and tuple(picture.getpalette()[3:6]) == palette(1)[0]
        truth = np.zeros((64, 96), dtype=int)
        truth[16:48, 16 + 8 * number : 48 + 8 * number] = 1
        assert (labels & truth).sum() / (labels | truth).sum() > 0.7


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (96, 64)), "has 1 color;"),
        (Image.effect_noise((96, 64), 90), "at most 64"),
        (Image.linear_gradient("L").point(lambda v: v // 128), "256 x 256 pixels but the frames are 96 x 64"),
    ],
)  # fmt: skip
def test_propagate_says_what_is_wrong_with_a_mask(mask, message, scene, model, tmp_path, capsys):
    mask.save(tmp_path / "mask.png")
    words = [str(scene / "clip.mp4"), "--mask", str(tmp_path / "mask.png"), "-o", str(tmp_path / "out.mp4")]
    assert main(["propagate", *words, *model]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]
