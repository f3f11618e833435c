"""A model, small SAMs in local folders, and images embedded by SAM's own encoder."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from sam_folders import sam3_folder, sam_folder

import radio


@pytest.fixture(scope="package")
def sam(tmp_path_factory):
    return sam_folder(tmp_path_factory.mktemp("sam") / "sam")


@pytest.fixture(scope="package")
def sam3(tmp_path_factory):
    return sam3_folder(tmp_path_factory.mktemp("sam3") / "sam3")


@pytest.fixture(scope="package")
def model(reference, text_towers):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    return radio.load_model(path, adaptors=["clip", "sam"], text_weights=text_towers["clip"], device="cpu")


@pytest.fixture(scope="package")
def photo():
    """Colored noise of 90 x 150 pixels (height x width)."""
    pixels = torch.rand(90, 150, 3, generator=torch.Generator().manual_seed(0))
    return Image.fromarray((pixels * 255).byte().numpy())
