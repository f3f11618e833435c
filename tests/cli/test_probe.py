"""``radio probe``: train, predict and evaluate, in one go each, and what it says of wrong arguments."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radio.cli import main
from radio.data.dense import read_mask

MODEL = str(Path(__file__).parents[1] / "reference" / "v2_5" / "checkpoint.pth.tar")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of colors, and halves of pictures with masks and depths."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for kind in ("colors/dark", "colors/light", "images", "masks", "depths"):
        (root / kind).mkdir(parents=True)
    for i in range(4):
        for name, level in (("dark", 20), ("light", 200)):
            pixels = level + random.integers(0, 50, (48, 64, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / "colors" / name / f"{i}.png")
        pixels, mask = random.integers(0, 60, (64, 64, 3)), np.zeros((64, 64), np.uint8)
        pixels[:, 16 * i :] += 150
        mask[:, 16 * i :] = 1
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
        Image.fromarray((1000 + 1000 * mask.astype(np.uint16)).astype(np.uint16)).save(
            root / "depths" / f"{i}.png"
        )
    (root / "classes.txt").write_text("ground\nwall\n")
    return root


def _run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code = main(["probe", *map(str, words)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_classes_of_images(data, tmp_path, capsys):
    probe, features = tmp_path / "probe", tmp_path / "features"
    options = ["-m", MODEL, "--device", "cpu", "--size", "64", "--features", features]
    said = _run(capsys, "train", "linear", data / "colors", "-o", probe, *options)
    assert "linear" in said and str(probe) in said
    assert sorted(path.name for path in probe.iterdir()) == ["config.json", "probe.safetensors"]
    found = json.loads(
        _run(capsys, "evaluate", probe, data / "colors", "--features", features, "--device", "cpu", "--json")
    )
    assert found["top1"] == 1 and found["images"] == 8
    image = data / "colors" / "light" / "0.png"
    shown = _run(capsys, "predict", probe, image, "-m", MODEL, "--device", "cpu")
    assert str(image) in shown and shown.index("light") < shown.index("dark ")
    [row] = json.loads(_run(capsys, "predict", probe, image, "--top", 1, "--device", "cpu", "--json"))[
        "images"
    ]
    assert row["image"] == str(image) and [each["label"] for each in row["classes"]] == ["light"]
    assert main(["probe", "predict", str(probe), str(image), "--window", "64", "--device", "cpu"]) == 1
    assert "--window is for masks and depths" in capsys.readouterr().err


def test_masks_go_in_and_come_out(data, tmp_path, capsys):
    probe, out = tmp_path / "probe", tmp_path / "out"
    labels = ["--masks", data / "masks"]
    words = [*labels, "--classes-file", data / "classes.txt", "-m", MODEL, "--device", "cpu", "--size", "64"]
    _run(
        capsys, "train", "segmentation", data / "images", "-o", probe, *words,
        "--steps", 60, "--images-per-step", 2, "--learning-rate", 0.005,
    )  # fmt: skip
    found = json.loads(_run(capsys, "evaluate", probe, data / "images", *labels, "--device", "cpu", "--json"))
    assert found["miou"] > 0.8 and 0 < found["iou/wall"] <= 1
    slid = json.loads(
        _run(
            capsys, "evaluate", probe, data / "images", *labels, "--device", "cpu", "--json",
            "--window", 32, "--stride", 16, "--size", "128x128",
        )
    )  # fmt: skip
    assert slid["images"] == 4 and slid["miou"] != found["miou"]
    images = [data / "images" / "1.png", data / "images" / "2.png"]
    said = _run(capsys, "predict", probe, *images, "-o", out, "--device", "cpu")
    assert str(out / "1.png") in said
    right = [(read_mask(out / p.name) == read_mask(data / "masks" / p.name)).float().mean() for p in images]
    assert min(right) > 0.85
    with Image.open(out / "1.png") as picture:
        assert picture.mode == "P" and picture.getpalette() != list(range(768))


def test_depths_come_out_in_millimeters(data, tmp_path, capsys):
    probe, out = tmp_path / "probe", tmp_path / "out"
    _run(
        capsys, "train", "depth", data / "images", "--depths", data / "depths", "-o", probe, "-m", MODEL, "--size",
        64, "--device", "cpu", "--steps", 2, "--images-per-step", 2, "--width", 4,
    )  # fmt: skip
    _run(capsys, "predict", probe, data / "images" / "1.png", "-o", out, "--device", "cpu")
    depth = read_mask(out / "1.png")
    assert depth.shape == (64, 64) and depth.min() >= 950 and depth.max() <= 2105


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "segmentation", "{data}/images", "-o", "{out}", "-m", MODEL], "needs --masks FOLDER"),
        (["train", "depth", "{data}/images", "-o", "{out}", "-m", MODEL], "needs --depths FOLDER"),
        (["train", "linear", "{data}/images", "-o", "{out}", "-m", MODEL], "no images in subfolders"),
        (["train", "linear", "{data}/colors", "-o", "{data}", "-m", MODEL, "--k", "3"], "no setting 'k'"),
        (["predict", "{data}", "{data}/images/0.png"], "there is no .*config.json"),
        (["evaluate", "{data}", "{data}/colors"], "there is no .*config.json"),
        (["predict", "{data}", "{data}/images/0.png", "--size", "64"], "--size go with --window"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(words, message, data, tmp_path, capsys):
    filled = [word.format(data=data, out=tmp_path / "out") for word in words]
    assert main(["probe", *filled]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()
