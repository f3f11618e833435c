"""Probes learn what the features show, say the same after saving and loading, and refuse what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from radio import ImageError, RADIOModel, load_model
from radio.cli import main
from radio.data.dense import DepthFolder, HubDepths, HubMasks, MaskFolder
from radio.data.labeled import HubImages, ImageFolder
from radio.tasks.probing import FitOptions, LabelScore, load_probe, train_probe

QUICK = FitOptions(steps=40, batch_size=4, learning_rate=5e-3)


@pytest.fixture(scope="module")
def linear(tiny, colors, features):
    return train_probe("linear", tiny, ImageFolder(colors), features, size=64)


@pytest.fixture(scope="module")
def segmentation(tiny, boxes, features):
    data = MaskFolder(boxes / "images", boxes / "masks", ["ground", "box"])
    return train_probe("segmentation", tiny, data, features, size=96, fit=QUICK)


@pytest.mark.parametrize(("task", "settings"), [("linear", {}), ("knn", {"k": 3, "temperature": 0.1})])
def test_classes_of_images(task, settings, tiny, colors, features, tmp_path):
    probe = train_probe(task, tiny, ImageFolder(colors), features, size=64, **settings)
    assert probe.evaluate(ImageFolder(colors), features) == {
        "images": 18, "top1": 1.0, "top5": 1.0, "mean_class_accuracy": 1.0
    }  # fmt: skip
    path = colors / "red" / "2.png"
    ranked = probe.predict(path, top=2)
    assert ranked[0].label == "red" and len(ranked) == 2
    assert isinstance(ranked[0], LabelScore) and 0.5 < ranked[0].score <= 1
    assert sum(each.score for each in probe.predict(path)) == pytest.approx(1, abs=1e-5)
    assert [each[0].label for each in probe.predict([path, colors / "blue" / "0.png"])] == ["red", "blue"]

    probe.save(tmp_path / "probe")
    again = load_probe(tmp_path / "probe", tiny)
    assert again.predict(path) == probe.predict(path) and again.config == probe.config
    assert again.config.head.get("k") == settings.get("k")


def test_a_teachers_features_in_place_of_the_backbones(tiny, colors, features, tmp_path):
    probe = train_probe("linear", tiny, ImageFolder(colors), features, size=64, adaptor="clip")
    assert probe.config.channels == 40 != tiny.summary_dim
    probe.save(tmp_path)
    loaded = load_probe(tmp_path, device="cpu")  # the model comes from where it came from, with that adaptor
    assert list(loaded.model.adaptors) == ["clip"]
    assert loaded.predict(colors / "green" / "0.png")[0].label == "green"


def test_classes_of_pixels(segmentation, tiny, boxes, features, tmp_path):
    data = MaskFolder(boxes / "images", boxes / "masks", ["ground", "box"])
    found = segmentation.evaluate(data, features)
    assert found["miou"] == pytest.approx((found["iou/ground"] + found["iou/box"]) / 2)
    assert found["miou"] > 0.75 and found["pixel_accuracy"] > 0.85, "chance is 0.5 and less"
    result = segmentation.predict(boxes / "images" / "0.jpg")
    assert result.label.shape == (64, 96) and result.probability.shape == (2, 64, 96)
    assert torch.allclose(result.probability.sum(0), torch.ones(64, 96), atol=1e-5)
    assert torch.equal(result.probability.argmax(0), result.label)
    segmentation.save(tmp_path)
    assert torch.equal(load_probe(tmp_path, tiny).predict(boxes / "images" / "0.jpg").label, result.label)
    assert segmentation.config.training["last_loss"] < segmentation.config.training["first_loss"]


def test_depths_of_pixels(tiny, boxes, features, tmp_path):
    data = DepthFolder(boxes / "images", boxes / "depths")
    fit = FitOptions(steps=30, batch_size=4, learning_rate=1e-2)
    probe = train_probe("depth", tiny, data, features, size=96, fit=fit, width=8, bins=32)
    found = probe.evaluate(data, features)
    truth = torch.stack([data.target(i) for i in range(8)])
    constant = (truth[truth > 0] - truth[truth > 0].mean()).square().mean().sqrt()
    assert found["rmse"] < 0.5 * constant and 0.8 < found["delta1"] <= 1
    depth = probe.predict(boxes / "images" / "0.jpg")
    assert depth.shape == (64, 96) and depth.min() > 0.9 and depth.max() < 3.2, (
        "the range of the training data"
    )
    probe.save(tmp_path)
    assert torch.equal(load_probe(tmp_path, tiny).predict(boxes / "images" / "0.jpg"), depth)


def test_one_seed_gives_one_head(segmentation, tiny, boxes, features):
    data = MaskFolder(boxes / "images", boxes / "masks", ["ground", "box"])
    again = train_probe("segmentation", tiny, data, features, size=96, fit=QUICK)
    for name, value in segmentation.head.state_dict().items():
        assert torch.equal(again.head.state_dict()[name], value), name


def test_progress_is_told_of_features_and_of_training(tiny, boxes, tmp_path):
    seen = []

    def progress(items, total, what):
        for item in items:
            seen.append((what, total))
            yield item

    data = MaskFolder(boxes / "images", boxes / "masks", ["ground", "box"])
    fit = FitOptions(steps=3, batch_size=4)
    probe = train_probe(
        "segmentation", tiny, data, tmp_path, size=96, fit=fit, progress=progress, batch_size=3
    )
    assert seen == [("features", 8)] * 8 + [("training", 3)] * 3
    seen.clear()
    probe.evaluate(data, tmp_path, progress=progress)
    assert seen == [("evaluating", 8)] * 8


def test_features_are_computed_once(tiny, colors, features, monkeypatch):
    train_probe("linear", tiny, ImageFolder(colors), features, size=64)
    monkeypatch.setattr(RADIOModel, "forward", None)  # nothing can run any more
    train_probe("knn", tiny, ImageFolder(colors), features, size=64)


def test_images_of_the_datasets_library(tiny, colors, features, tmp_path, linear):
    """From a local folder, as `datasets` reads it: the same labels, features and answers."""
    data = HubImages(str(colors), "train")
    assert data.classes == ("blue", "green", "red") and len(data) == 18
    probe = train_probe("linear", tiny, data, features, size=64)
    assert probe.evaluate(ImageFolder(colors), features)["top1"] == 1
    ours, theirs = (each.head.state_dict()["linear.weight"] for each in (linear, probe))
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_masks_of_the_datasets_library(segmentation, tiny, boxes, features, tmp_path):
    """A table with both pictures in it, as the Hub's data sets are: the same answers as from the folders."""
    import datasets

    folder = MaskFolder(boxes / "images", boxes / "masks", ["ground", "box"])
    columns = {"image": list(map(str, folder.paths)), "annotation": list(map(str, folder.targets))}
    table = datasets.Dataset.from_dict(columns)
    for name in columns:
        table = table.cast_column(name, datasets.Image())
    table.to_parquet(tmp_path / "data" / "train.parquet")
    data = HubMasks(str(tmp_path / "data"), "train", ["ground", "box"])
    assert len(data) == 8 and torch.equal(data.target(3), folder.target(3)) and data[0].size == (96, 64)
    assert segmentation.evaluate(data, features) == segmentation.evaluate(folder, features)
    with pytest.raises(ValueError, match="has columns image, annotation; expected image and mask"):
        HubMasks(str(tmp_path / "data"), "train", ["ground", "box"], mask_column="mask")


def test_depths_of_the_datasets_library(boxes, tmp_path):
    """Whole numbers of millimeters, pictures of meters, and arrays; the command takes them too."""
    import datasets

    folder = DepthFolder(boxes / "images", boxes / "depths")
    meters = [folder.target(i).numpy() for i in range(8)]
    (tmp_path / "meters").mkdir()
    for i, depth in enumerate(meters):
        Image.fromarray(depth).save(tmp_path / "meters" / f"{i}.tiff")
    columns = {
        "image": list(map(str, folder.paths)),
        "millimeters": list(map(str, folder.targets)),
        "depth_map": [str(tmp_path / "meters" / f"{i}.tiff") for i in range(8)],
        "array": [depth.tolist() for depth in meters],
        "flat": [depth.flatten().tolist() for depth in meters],
    }
    table = datasets.Dataset.from_dict(columns)
    for name in ("image", "millimeters", "depth_map"):
        table = table.cast_column(name, datasets.Image())
    table.to_parquet(tmp_path / "data" / "train.parquet")
    name = str(tmp_path / "data")
    for data in (HubDepths(name, "train"), *(HubDepths(name, "train", n) for n in ("millimeters", "array"))):
        assert len(data) == 8 and data[0].size == (96, 64)
        torch.testing.assert_close(data.target(3), folder.target(3))
    with pytest.raises(ImageError, match=r"depth 3 of the data set has the shape \(6144,\)"):
        HubDepths(name, "train", "flat").target(3)
    with pytest.raises(ValueError, match="expected image and depth$"):
        HubDepths(name, "train", "depth")
    with pytest.raises(ValueError, match="scale must be positive"):
        HubDepths(name, "train", scale=0)
    checkpoint = Path(__file__).parents[2] / "reference" / "v2_5" / "checkpoint.pth.tar"
    words = ["probe", "train", "depth", name, "--split", "train", "-m", checkpoint, "--device", "cpu"]
    words += ["--size", 64, "--steps", 1, "--images-per-step", 2, "--width", 4, "-o", tmp_path / "probe"]
    assert main(list(map(str, words))) == 0
    assert load_probe(tmp_path / "probe").config.head["max_depth"] == pytest.approx(3 * 1.05, rel=1e-3)


def test_an_unreadable_image_is_named_or_left_out(tiny, colors, tmp_path):
    import shutil

    shutil.copytree(colors, tmp_path / "colors")
    (tmp_path / "colors" / "blue" / "9.png").write_bytes(b"no picture")
    data = ImageFolder(tmp_path / "colors")
    with pytest.raises(ImageError, match=r"no features for 1 of 19 images; the first is .*9\.png"):
        train_probe("linear", tiny, data, tmp_path / "features", size=64)
    with pytest.warns(UserWarning, match=r"left out 1 image that cannot be read: .*9\.png"):
        probe = train_probe("linear", tiny, data, tmp_path / "features", size=64, skip_unreadable=True)
    assert probe.config.training["images"] == 18


def test_wrong_arguments(tiny, colors, boxes, features, linear, tmp_path):
    data = ImageFolder(colors)
    for arguments, message in (
        (("forest", tiny, data, features), "unknown task 'forest'; there are linear, knn"),
        (("segmentation", tiny, data, features, "crop:64x64"), "nothing is cropped"),
    ):
        with pytest.raises(ValueError, match=message):
            train_probe(*arguments)
    with pytest.raises(ValueError, match="no setting 'steps'; it has: decay"):
        train_probe("linear", tiny, data, features, steps=3)
    with pytest.raises(ValueError, match="without adaptor 'sam'"):
        train_probe("linear", tiny, data, features, adaptor="sam")
    with pytest.raises(ValueError, match="steps and batch_size must be at least 1"):
        FitOptions(steps=0)
    (tmp_path / "one" / "thing").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "one" / "thing" / "0.png")
    with pytest.raises(ValueError, match="at least two classes, got thing"):
        train_probe("linear", tiny, ImageFolder(tmp_path / "one"), features)
    with pytest.raises(ValueError, match="the probe has 3 classes and the data 1; 'thing' is not among them"):
        linear.evaluate(ImageFolder(tmp_path / "one"), features)


def test_another_model_is_refused(linear, reference, colors, features, tmp_path):
    linear.save(tmp_path)
    with pytest.raises(ValueError, match="with other weights"):
        load_probe(
            tmp_path, load_model(reference / "bf16" / "checkpoint.pth.tar", device="cpu", dtype="float32")
        )
    windowed = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu", vitdet_window_size=2)
    with pytest.raises(ValueError, match="vitdet_window_size None, not 2"):
        load_probe(tmp_path, windowed)


def test_damaged_files_are_refused(linear, tiny, tmp_path, reference):
    linear.save(tmp_path / "a")
    config, weights = tmp_path / "a" / "config.json", tmp_path / "a" / "probe.safetensors"
    good, values = weights.read_bytes(), json.loads(config.read_text())
    weights.write_bytes(good[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="is not the file that config.json was written with"):
        load_probe(tmp_path / "a", tiny)
    weights.write_bytes(good)
    for change, message in (
        ({"radio_probe": 2}, "is of format 2"),
        ({"task": "forest"}, "has the task 'forest'"),
        ({"channels": 7}, "do not describe a linear probe: .*size mismatch"),
        ({"classes": "abc"}, "classes must be a list of names"),
    ):
        config.write_text(json.dumps({**values, **change}))
        with pytest.raises(ValueError, match=message):
            load_probe(tmp_path / "a", tiny)
    config.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_probe(tmp_path / "a", tiny)
    config.write_text(json.dumps({**values, "source": str(tmp_path / "gone.pth")}))
    with pytest.raises(ValueError, match="which is not there; give the model"):
        load_probe(tmp_path / "a")
    assert load_probe(tmp_path / "a", tiny).classes == ("blue", "green", "red")
    config.write_text("{")
    with pytest.raises(FileNotFoundError):
        load_probe(tmp_path / "nowhere", tiny)
    with pytest.raises(ValueError, match="does not describe a probe"):
        linear.save(_model_folder(tmp_path / "model", tiny))
    load_model(tmp_path / "model", device="cpu")  # still whole


def _model_folder(folder: Path, model: RADIOModel) -> Path:
    model.save_pretrained(folder)
    return folder


def test_masks_and_depths_that_are_wrong(tiny, boxes, features, tmp_path):
    import shutil

    shutil.copytree(boxes, tmp_path / "boxes")
    images, masks, depths = (tmp_path / "boxes" / name for name in ("images", "masks", "depths"))
    assert MaskFolder(images, masks).classes == ("0", "1"), "255 is no class"
    reduced = MaskFolder(images, masks, ["box"] * 2, reduce_zero_label=True).target(0)
    assert set(reduced.unique().tolist()) == {0, 255}
    (masks / "7.png").unlink()
    assert len(MaskFolder(images, masks)) == 7, "an image without a mask is left out"
    with pytest.raises(ValueError, match="at least two classes, got ground"):
        MaskFolder(images, masks, ["ground"])
    Image.new("L", (96, 64), 2).save(masks / "0.png")
    with pytest.raises(
        ImageError, match=r"0\.png has the label 2, but the data set has 2 classes: labels are 0 to 1"
    ):
        MaskFolder(images, masks, ["ground", "box"]).target(0)
    Image.fromarray(np.full((64, 96), 40_000, np.uint16)).save(masks / "3.png")
    with pytest.raises(ValueError, match=r"3\.png has the label 40000, .* it may be a depth map"):
        MaskFolder(images, masks)
    Image.new("RGB", (96, 64)).save(masks / "3.png")
    with pytest.raises(ImageError, match=r"3\.png is a picture of mode RGB, not a mask"):
        MaskFolder(images, masks, ["ground", "box"]).target(3)
    Image.new("L", (60, 64)).save(masks / "3.png")
    with pytest.raises(
        ImageError, match=r"3\.jpg has 64 x 96 pixels .*, but its labels or depths are for 64 x 60"
    ):
        train_probe(
            "segmentation", tiny, MaskFolder(images, masks, ["a", "b", "c"]), features, size=96, fit=QUICK
        )
    np.save(depths / "5.npy", np.ones((64, 96), np.float32))
    with pytest.raises(ValueError, match="have the same name"):
        DepthFolder(images, depths)
    (depths / "5.png").unlink()
    assert (
        DepthFolder(images, depths).target(5).eq(1).all() and DepthFolder(images, depths).target(4)[0, 0] == 0
    )
    np.save(depths / "5.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(ImageError, match=r"5\.npy cannot be read as an array"):
        DepthFolder(images, depths).target(5)
    with pytest.raises(ValueError, match="no image of .* has a file of the same name"):
        MaskFolder(images, tmp_path)
