"""`radio zeroshot`, `radio segment` and `radio knn`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import radio
from radio.cli import main
from radio.drawing.segmentation import palette
from radio.tasks.segmentation import segment
from radio.tasks.zero_shot import ZeroShotClassifier


@pytest.fixture
def checkpoint(reference: Path) -> str:
    return str(reference / "v2_5" / "checkpoint.pth.tar")


@pytest.fixture
def folders(tmp_path, photos):
    """Crops of the photographs: one class per to_pil_image, in TRAIN and VAL."""
    for photo in photos:
        image = Image.open(photo)
        for split, offset in (("train", 0), ("val", 7)):
            folder = tmp_path / split / photo.stem
            folder.mkdir(parents=True)
            for i in range(3):
                left = 10 * i + offset
                image.crop((left, left, image.width - 60 + left, image.height - 60 + left)).save(
                    folder / f"{i}.png"
                )
    return tmp_path / "train", tmp_path / "val"


def test_zeroshot_ranks_labels(checkpoint, text_towers, photos, capsys):
    arguments = [
        "zeroshot", str(photos[0]), str(photos[1]), "--labels", "cat, dog,coffee cup", "--model", checkpoint,
        "--adaptor", "clip", "--text-weights", str(text_towers["clip"]), "--size", "96", "--top", "2",
        "--device", "cpu",
    ]  # fmt: skip
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    model = radio.load_model(checkpoint, adaptors=["clip"], text_weights=text_towers["clip"], device="cpu")
    classifier = ZeroShotClassifier.build(model.adaptors["clip"], ["cat", "dog", "coffee cup"])
    for photo, image in zip(photos, printed["images"], strict=False):
        (ranked,) = classifier.rank(model.encode(photo, size=96).adaptors["clip"].summary, 2)
        assert image["image"] == str(photo)
        assert [label["label"] for label in image["labels"]] == [label.label for label in ranked]
        assert image["labels"][0]["similarity"] == pytest.approx(ranked[0].similarity, abs=1e-5)
        assert image["labels"][0]["probability"] == pytest.approx(ranked[0].probability, abs=1e-4)
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(photos[0])
    assert lines[1].split() == ["rank", "label", "share", "cosine"]
    assert lines[2].split()[0] == "1" and printed["images"][0]["labels"][0]["label"] in lines[2]


def test_the_adaptor_is_chosen_and_labels_come_from_a_file(checkpoint, text_towers, photos, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("cat\n\n dog, of any kind \n")
    arguments = [
        "zeroshot",
        str(photos[0]),
        "--labels-file",
        str(tmp_path / "labels.txt"),
        "--model",
        checkpoint,
    ]
    arguments += ["--text-weights", str(text_towers["siglip"]), "--template", "{}", "--size", "64", "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["adaptor"] == "siglip"
    assert {label["label"] for label in printed["images"][0]["labels"]} == {"cat", "dog, of any kind"}


def test_segment_draws_every_pixel(checkpoint, text_towers, photos, tmp_path, capsys):
    out = tmp_path / "new" / "out.png"
    arguments = [
        "segment", str(photos[1]), "--labels", "cat,dog,sky", "-o", str(out), "--model", checkpoint, "--adaptor",
        "siglip", "--text-weights", str(text_towers["siglip"]), "--size", "128", "--window", "64", "--stride", "32",
        "--opacity", "1", "--device", "cpu",
    ]  # fmt: skip
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert sum(label["share"] for label in printed["labels"]) == pytest.approx(1)
    model = radio.load_model(
        checkpoint, adaptors=["siglip"], text_weights=text_towers["siglip"], device="cpu"
    )
    labels = ["cat", "dog", "sky"]
    result = segment(model, "siglip", photos[1], labels, size="128", window=64, stride=32)
    shares = torch.bincount(result.label.flatten(), minlength=3) / result.label.numel()
    assert {label["label"]: pytest.approx(label["share"], abs=1e-3) for label in printed["labels"]} == dict(
        zip(labels, shares.tolist(), strict=True)
    )
    photo, picture = Image.open(photos[1]), Image.open(out)
    assert picture.width == photo.width and picture.height > photo.height
    colors = {picture.getpixel((x, 5)) for x in range(0, photo.width, 10)}
    assert colors <= {*palette(3), (255, 255, 255)}
    assert main(arguments) == 0
    assert f"written: {out}" in capsys.readouterr().out


def test_knn_measures_accuracy(checkpoint, folders, capsys):
    arguments = [
        "knn",
        *map(str, folders),
        "--model",
        checkpoint,
        "--size",
        "64",
        "--k",
        "3",
        "--device",
        "cpu",
    ]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"] == 9 and printed["top1"] == 1.0 and printed["top5"] == 1.0
    assert {row["class"] for row in printed["classes"]} == {"astronaut", "chelsea", "coffee"}
    assert main(arguments) == 0
    assert "9 images, k = 3: top-1 100.00%" in capsys.readouterr().out


def test_knn_classifies_images(checkpoint, folders, photos, capsys):
    arguments = [
        "knn",
        str(folders[0]),
        str(photos[0].parent),
        "--model",
        checkpoint,
        "--size",
        "64",
        "--k",
        "3",
    ]
    assert main([*arguments, "--json"]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert [image["classes"][0]["class"] for image in images] == [photo.stem for photo in photos]
    assert all(sum(c["score"] for c in image["classes"]) == pytest.approx(1) for image in images)
    assert main(arguments) == 0
    assert "rank  class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zeroshot", "PHOTO", "--labels", " , "], "no labels were given"),
        (["zeroshot", "PHOTO", "--labels", "cat,dog,cat"], "'cat' is given twice"),
        (["zeroshot", "nothing.jpg", "--labels", "cat"], "nothing.jpg"),
        (["zeroshot", "PHOTO", "--labels", "cat", "--adaptor", "sam"], "'sam' has no text tower"),
        (["zeroshot", "PHOTO", "--labels", "cat", "--adaptor", "best"], "unknown adaptor 'best'"),
        (["segment", "PHOTO", "--labels", "cat", "-o", "x.png", "--window", "50"], "multiple of 16"),
        (["knn", "nowhere", "PHOTO"], "nowhere is not a folder"),
    ],
)
def test_failures_are_one_line(
    arguments, message, checkpoint, text_towers, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = [str(photos[0]) if word == "PHOTO" else word for word in arguments]
    if "window" in " ".join(words):
        words += ["--text-weights", str(text_towers["siglip"])]
    assert main([*words, "--model", checkpoint]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"radio {words[0]}: error:") and message in error and "\n" not in error
    assert not (tmp_path / "x.png").exists()


def test_a_model_without_text_says_so(reference, photos, tmp_path, capsys):
    folder = tmp_path / "model"
    radio.load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors=["sam"]).save_pretrained(folder)
    assert main(["zeroshot", str(photos[0]), "--labels", "cat", "--model", str(folder)]) == 1
    assert "no text-aligned adaptor (it has: sam)" in capsys.readouterr().err
