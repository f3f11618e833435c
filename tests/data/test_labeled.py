"""Data sets give every image once, at a size that the model accepts."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

from radio import load_model
from radio.data.batches import image_batches
from radio.data.labeled import HubImages, ImageFolder
from radio.errors import ImageError


@pytest.fixture(scope="module")
def model(reference):
    return load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")


@pytest.fixture
def folder(tmp_path):
    """Two classes, three shapes, one image deeper down, and a file that is no image."""
    for i in range(5):
        path = tmp_path / "b cat" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40 + 20 * (i % 2), 40), (50 * i, 0, 0)).save(path)
    deep = tmp_path / "a_dog" / "more" / "x.JPG"
    deep.parent.mkdir(parents=True)
    Image.new("RGB", (30, 90)).save(deep, "JPEG")
    (tmp_path / "a_dog" / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_lists_classes_and_images_in_order(folder):
    images = ImageFolder(folder)
    assert images.classes == ("a_dog", "b cat")
    assert [path.name for path in images.paths] == ["x.JPG", "0.png", "1.png", "2.png", "3.png", "4.png"]
    assert images.labels == [0, 1, 1, 1, 1, 1]
    assert len(images) == 6 and images[1] == folder / "b cat" / "0.png"


def test_batches_have_one_size_and_every_image_comes_once(model, folder):
    images = ImageFolder(folder)
    seen = []
    for batch in image_batches(model, images, range(6), 32, batch_size=2, workers=2):
        assert batch.pixels.dtype == torch.float32 and len(batch.positions) <= 2
        for pixels, position in zip(batch.pixels, batch.positions, strict=True):
            torch.testing.assert_close(pixels, model.resize(images[position], 32))
        seen += batch.positions
    assert sorted(seen) == list(range(6))


def test_one_number_keeps_the_aspect_ratio_and_two_cut_the_centre(model, folder):
    images = ImageFolder(folder)
    (tall,) = image_batches(model, images, [0], "short:32")
    assert tall.pixels.shape == (1, 3, 96, 32)
    (crop,) = image_batches(model, images, range(6), "crop:32x48")
    assert crop.pixels.shape == (6, 3, 32, 48)


def test_part_of_a_data_set(model, folder):
    found = [batch.positions for batch in image_batches(model, ImageFolder(folder), range(1, 6, 2), 32)]
    assert sorted(position for positions in found for position in positions) == [1, 3, 5]


def test_a_broken_image_is_named(model, folder):
    broken = folder / "b cat" / "9.png"
    shutil.copyfile(folder / "a_dog" / "notes.txt", broken)
    with pytest.raises(ImageError, match=r"9\.png"):
        list(image_batches(model, ImageFolder(folder), range(7), 32))


def test_images_can_be_left_out(folder):
    images = ImageFolder(folder)
    images.keep([images.paths[4], images.paths[0]])
    assert [path.name for path in images.paths] == ["x.JPG", "3.png"] and images.labels == [0, 1]


def test_folders_that_cannot_be_used_say_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        ImageFolder(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"CLASS/IMAGE\.jpg"):
        ImageFolder(tmp_path)


def test_data_sets_of_the_datasets_library(model, folder, monkeypatch):
    """A local folder through `datasets` itself: names, labels and pixels are those of the folder."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    import datasets

    rows = datasets.Dataset.from_dict(
        {"image": [str(path) for path in ImageFolder(folder).paths], "label": [0, 1, 1, 1, 1, 1]},
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])}
        ),
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows if split == "test" else None)
    images = HubImages("anyone/anything", "test")
    assert images.classes == ("dog", "cat") and images.labels == [0, 1, 1, 1, 1, 1] and len(images) == 6
    found = {
        i: image
        for batch in image_batches(model, images, range(6), 32)
        for i, image in zip(batch.positions, batch.pixels, strict=True)
    }
    torch.testing.assert_close(found[3], model.resize(ImageFolder(folder)[3], 32))
    rows = rows.remove_columns("label")
    with pytest.raises(ValueError, match="expected image and label"):
        HubImages("anyone/anything", "test")
