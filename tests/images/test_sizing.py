"""Sizes that a model supports, and resizing to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from radio.images import center_crop, load_image, nearest_supported, resize_image, target_size


def test_nearest_supported() -> None:
    assert nearest_supported(300, 451, 16) == (304, 448)
    assert nearest_supported(24, 8, 16) == (32, 16)
    assert nearest_supported(1, 3, 14) == (14, 14)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (None, (304, 448)),
        (512, (512, 768)),
        ("512", (512, 768)),
        ("short:512", (512, 768)),
        ("long:512", (336, 512)),
        ((224, 320), (224, 320)),
        ("224x320", (224, 320)),
        ("crop:224x320", (224, 320)),
        ("patches:10000", (304, 448)),
        ("patches:256", (208, 304)),
        (torch.Size([32, 48]), (32, 48)),
        ((np.int64(32), np.int64(48)), (32, 48)),
    ],
)
def test_every_form_of_size(size: object, expected: tuple[int, int]) -> None:
    assert target_size(300, 451, size, step=16) == expected


def test_an_image_above_the_maximum_is_made_smaller_when_no_size_is_asked_for() -> None:
    assert target_size(3000, 4000, None, step=16, max_side=2048) == (1536, 2048)
    assert target_size(3000, 4000, "patches:100000", step=16, max_side=2048) == (1536, 2048)
    assert target_size(3000, 4000, None, step=14, max_side=1050) == (784, 1050)


def test_a_size_above_the_maximum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1024x4096.*up to 2048; use 'long:2048'"):
        target_size(500, 2000, 1024, step=16, max_side=2048)


@pytest.mark.parametrize(
    "size", ["big", "", "short", "short:0", "512x", "0x512", (512,) * 3, 0, -16, True, 512.0, (1.5, 2), {}]
)
def test_other_forms_are_refused(size: object) -> None:
    with pytest.raises(ValueError, match=r"unknown size .* allowed: .*long:512"):
        target_size(300, 400, size)


def test_a_height_that_is_no_multiple_of_the_step_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="multiples of 16 for this model, got 500x512; nearest: 496x512"):
        target_size(300, 400, (500, 512), step=16)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    budget=st.integers(16, 4096),
    windows=st.sampled_from([1, 2, 4]),
)
def test_a_token_budget_is_kept(height: int, width: int, budget: int, windows: int) -> None:
    patch = 16
    step = patch * windows
    target = target_size(height, width, f"patches:{budget}", step, patch, max_side=2048)
    own = target_size(height, width, None, step, max_side=2048)
    patches = target[0] * target[1] // patch**2
    assert patches <= budget
    assert target[0] % step == target[1] % step == 0
    assert (
        target == own
        if own[0] * own[1] // patch**2 <= budget
        else patches > budget // 8 or min(target) == step
    )


def test_a_budget_below_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="the smallest image of this model has 16"):
        target_size(300, 400, "patches:9", step=64, patch_size=16)


def test_resizing_is_close_to_pillows_antialiased_bicubic(photos: list[Path]) -> None:
    image = load_image(photos[0])
    resized = resize_image(image, (96, 160))
    pil = Image.open(photos[0]).convert("RGB").resize((160, 96), Image.Resampling.BICUBIC)
    expected = torch.tensor(np.asarray(pil)).permute(2, 0, 1) / 255
    assert resized.shape == (3, 96, 160)
    difference = (resized - expected).abs()
    assert difference.mean() < 0.5 / 255
    assert difference.max() < 4 / 255
    assert resized.min() >= 0
    assert resized.max() <= 1


def test_a_batch_is_resized_as_its_images_are(photos: list[Path]) -> None:
    batch = torch.stack([resize_image(load_image(photo), (60, 80)) for photo in photos[:2]])
    assert torch.equal(resize_image(batch, 32)[1], resize_image(batch[1], 32))


def test_an_image_of_the_right_size_is_returned_as_it_is() -> None:
    image = torch.rand(3, 32, 48)
    assert resize_image(image, step=16) is image


def test_crop_keeps_the_aspect_ratio_and_the_centre() -> None:
    image = torch.zeros(3, 100, 300)
    image[:, :, 150:] = 1
    cut = resize_image(image, "crop:50x50")
    assert cut.shape == (3, 50, 50)
    assert cut[:, :, :24].max() < 0.01
    assert cut[:, :, 26:].min() > 0.99


def test_center_crop() -> None:
    image = torch.arange(20).view(1, 4, 5)
    assert center_crop(image, 2, 3).tolist() == [[[6, 7, 8], [11, 12, 13]]]
    with pytest.raises(ValueError, match="cannot cut 5x3"):
        center_crop(image, 5, 3)
