"""Data sets for segmentation in their published layouts."""

from __future__ import annotations

import pytest
import torch
from segmentation_sets import ade20k_folder, fields, plain_folder, voc_folder

from radio.data.dense import IGNORED
from radio.data.segmentation import VOC_CLASSES, segmentation_folder


def test_ade20k(tmp_path):
    data = segmentation_folder(ade20k_folder(tmp_path))
    assert [path.name for path in data.paths] == ["ADE_val_0.jpg", "ADE_val_1.jpg"], "not the training part"
    assert data.classes == ("red, red field", "green, green field", "blue, blue field")
    target = data.target(1)
    assert (target[:8] == IGNORED).all() and torch.equal(
        target[8:], torch.from_numpy(fields(1)[1][8:]).long()
    )
    assert len(segmentation_folder(tmp_path, "training")) == 1


def test_pascal_voc(tmp_path):
    data = segmentation_folder(voc_folder(tmp_path))
    assert [path.stem for path in data.paths] == ["2007_0", "2007_2"], "those of the list"
    assert [path.stem for path in data.targets] == ["2007_0", "2007_2"]
    assert data.classes == VOC_CLASSES and len(VOC_CLASSES) == 21
    target = data.target(1)
    assert (target[31:33] == IGNORED).all()
    assert torch.equal(target[:31], torch.from_numpy(fields(2)[1][:31]).long())


def test_any_other(tmp_path):
    data = segmentation_folder(plain_folder(tmp_path), classes=["red", "green", "blue"])
    assert len(data) == 3 and data.target(0)[0, 0] == IGNORED
    assert data.target(0)[20, 20] == int(fields(0)[1][20, 20])


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(ValueError, match="no layout that is known"):
        segmentation_folder(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        segmentation_folder(tmp_path / "nowhere")
    plain = plain_folder(tmp_path / "plain")
    with pytest.raises(ValueError, match="does not say what its classes are called"):
        segmentation_folder(plain)
    with pytest.raises(ValueError, match="name another split"):
        segmentation_folder(plain, "test", ["a", "b", "c"])
    voc = voc_folder(tmp_path / "voc")
    with pytest.raises(ValueError, match=r"there is no .*test\.txt"):
        segmentation_folder(voc, "test")
    (voc / "ImageSets" / "Segmentation" / "test.txt").write_text("2012_7\n")
    with pytest.raises(ValueError, match="is in the list"):
        segmentation_folder(voc, "test")
