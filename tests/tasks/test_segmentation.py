"""Patches in text space, windows that average where they overlap, and a picture with a legend."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import radio
from radio.drawing.segmentation import draw_segmentation, palette
from radio.tasks.segmentation import patch_embeddings, patch_similarity, segment, to_pixels

LABELS = ["cat", "dog", "sky"]


@pytest.fixture(scope="module")
def model(reference, text_towers):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    return radio.load_model(path, adaptors=["clip", "sam"], text_weights=text_towers["clip"], device="cpu")


@pytest.fixture(scope="module")
def embeddings(model):
    return model.adaptors["clip"].encode_text(LABELS, normalize=True)


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))


def test_patches_go_through_the_summary_head(model, image):
    output = model(image[None], feature_fmt="NCHW")
    features = output["backbone"].features
    head = model.adaptors["clip"].head_mlp
    with torch.no_grad():
        expected = head(features.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(1, 40, 6, 8)
    found = patch_embeddings(model, "clip", image[None])
    assert found.shape == (1, 40, 6, 8) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_feature_normalizer_is_left_out(reference, image):
    """Class tokens do not go through it, so patches that take their place must not either."""
    model = radio.load_model(
        reference / "normalizers" / "checkpoint.pth.tar", adaptors=["clip"], device="cpu"
    )
    assert model.feature_normalizer is not None
    with torch.no_grad():
        normalized = model(image[None])["backbone"].features
        normalizer = model.feature_normalizer
        raw = torch.linalg.solve(normalizer.tx.double(), normalized.double().mT).mT.float() + normalizer.mean
        expected = model.adaptors["clip"].project_summary(raw)
        found = patch_embeddings(model, "clip", image[None]).flatten(2).mT
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_half_precision_model_stays_close(reference, text_towers, image, embeddings, model):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    half = radio.load_model(path, adaptors=["clip"], dtype="bfloat16", device="cpu")
    found = patch_similarity(half, "clip", image, embeddings)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, patch_similarity(model, "clip", image, embeddings), rtol=0, atol=0.03)


def test_similarity_of_the_whole_image(model, image, embeddings):
    found = patch_similarity(model, "clip", image, embeddings)
    assert found.shape == (3, 6, 8)
    patches = F.normalize(patch_embeddings(model, "clip", image[None])[0], dim=0)
    torch.testing.assert_close(found, torch.einsum("kd,dhw->khw", embeddings, patches), rtol=1e-4, atol=1e-5)


def test_windows_average_where_they_overlap(model, image, embeddings):
    """96 x 128 in windows of 64 every 32: six crops, each computed here on its own."""
    found = patch_similarity(model, "clip", image, embeddings, window=64, stride=32, batch_size=4)
    total, count = torch.zeros(3, 6, 8), torch.zeros(6, 8)
    for top in (0, 32):
        for left in (0, 32, 64):
            crop = image[:, top : top + 64, left : left + 64]
            rows, columns = slice(top // 16, top // 16 + 4), slice(left // 16, left // 16 + 4)
            total[:, rows, columns] += patch_similarity(model, "clip", crop, embeddings)
            count[rows, columns] += 1
    assert count.min() == 1 and count.max() == 4
    torch.testing.assert_close(found, total / count, rtol=1e-4, atol=1e-5)


def test_windows_reach_the_border_when_they_do_not_fit_evenly(model, embeddings):
    image = torch.rand(3, 80, 112)
    found = patch_similarity(model, "clip", image, embeddings, window=64, stride=48)
    assert found.shape == (3, 5, 7) and found.isfinite().all()


def test_a_window_larger_than_the_image_is_the_whole_image(model, image, embeddings):
    whole = patch_similarity(model, "clip", image, embeddings)
    torch.testing.assert_close(patch_similarity(model, "clip", image, embeddings, window=512), whole)


def test_windows_with_vitdet(reference, text_towers, embeddings, image):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    model = radio.load_model(path, adaptors=["clip"], device="cpu", vitdet_window_size=2)
    assert patch_similarity(model, "clip", image, embeddings, window=64).shape == (3, 6, 8)
    with pytest.raises(ValueError, match="multiple of 32"):
        patch_similarity(model, "clip", image, embeddings, window=48)


def test_pixels_get_the_best_label():
    similarity = torch.zeros(2, 2, 2)
    similarity[0, :, 0] = 1
    similarity[1, :, 1] = 1
    label, full = to_pixels(similarity, 20, 40)
    assert label.shape == (20, 40) and full.shape == (2, 20, 40)
    assert (label[:, :19] == 0).all() and (label[:, 21:] == 1).all()
    assert (to_pixels(torch.zeros(3, 2, 2), 4, 4).label == 0).all(), "of equal labels, the first"


def test_segment_a_photo(model, photos):
    """Any image in, labels for its own pixels out; small images are enlarged, so that there are patches enough."""
    result = segment(model, "clip", photos[0], LABELS, size="short:128", window=64)
    photo = Image.open(photos[0])
    assert result.label.shape == (photo.height, photo.width)
    assert result.similarity.shape == (3, photo.height, photo.width)
    assert torch.equal(result.label, result.similarity.argmax(dim=0))
    small = torch.rand(3, 20, 40, generator=torch.Generator().manual_seed(0))
    assert segment(model, "clip", small, LABELS).label.shape == (20, 40)
    with pytest.raises(ValueError, match="'sam' has no text tower"):
        segment(model, "sam", small, LABELS)


def test_picture_shows_the_colors_and_a_legend():
    label = torch.zeros(120, 200, dtype=torch.long)
    label[:, 100:] = 1
    photo = Image.new("RGB", (200, 120), (100, 100, 100))
    picture = draw_segmentation(photo, label, ["cat", "dog"], opacity=1.0)
    assert picture.width == 200 and picture.height > 120
    assert picture.getpixel((20, 60)) == palette(2)[0]
    assert picture.getpixel((180, 60)) == palette(2)[1]
    assert picture.getpixel((99, 60)) == (255, 255, 255), "a line between the regions"
    legend = {color for _, color in picture.crop((0, 120, 200, picture.height)).getcolors(2**16) or []}
    assert {palette(2)[0], palette(2)[1]} <= legend
    assert min(legend) < (60, 60, 60), "names in dark letters"
    assert draw_segmentation(photo, label, ["cat", "dog"], opacity=0.0).getpixel((20, 60)) == (100, 100, 100)


def test_long_legends_wrap_into_rows_of_aligned_columns():
    label = torch.arange(12).repeat_interleave(25).expand(60, 300)
    photo = Image.new("RGB", (300, 60))
    short = draw_segmentation(photo, torch.zeros(60, 300, dtype=torch.long), ["a"])
    long = draw_segmentation(photo, label, [f"label number {i}" for i in range(12)])
    assert long.height > short.height + 50
    legend = np.asarray(long.crop((0, 60, *long.size))).astype(int)
    places = [np.argwhere((legend == color).all(axis=-1)).min(axis=0) for color in palette(12)]
    assert len({int(column) for _, column in places}) < len({(int(y), int(x)) for y, x in places}) == 12
    assert len(set(palette(24))) == 24


def test_labels_of_hardly_any_share_fold_into_one_line():
    label = torch.zeros(100, 300, dtype=torch.long)
    label[0, :3] = 1
    photo = Image.new("RGB", (300, 100))
    names = ["sky", *(f"label {i}" for i in range(30))]
    picture = draw_segmentation(photo, label, names, opacity=1.0)
    two_lines = draw_segmentation(photo, label, ["sky", "cat"])
    assert picture.size == two_lines.size, "one line, cut to the width"
    colors = {color for _, color in picture.crop((0, 100, *picture.size)).getcolors(2**16) or []}
    assert palette(1)[0] in colors and palette(2)[1] not in colors


def test_a_legend_cuts_no_name_off():
    """On a small image, a long name makes the picture wider; on a huge one, letters stay letters."""
    label = torch.zeros(40, 40, dtype=torch.long)
    small = draw_segmentation(
        Image.new("RGB", (40, 40)), label, ["a label that is much wider than its image"]
    )
    assert small.width > 250
    column = np.asarray(small.crop((small.width - 4, 40, small.width, small.height)))
    assert (column == 255).all(), "the last letter is whole"
    wide = torch.zeros(8, 6000, dtype=torch.long)
    picture = draw_segmentation(Image.new("RGB", (6000, 8)), wide, ["cat"])
    assert picture.width == 6000 and picture.height < 120


def test_wrong_arguments_say_what_is_allowed(model, image, embeddings):
    with pytest.raises(ValueError, match=r"without adaptor 'siglip' \(it has: clip, sam\)"):
        patch_embeddings(model, "siglip", image[None])
    with pytest.raises(ValueError, match=r"gives 40 numbers per patch but the labels have 36"):
        patch_similarity(model, "clip", image, torch.zeros(2, 36))
    with pytest.raises(ValueError, match="window must be a multiple of 16"):
        patch_similarity(model, "clip", image, embeddings, window=50)
    with pytest.raises(ValueError, match="stride must be a multiple of 16"):
        patch_similarity(model, "clip", image, embeddings, window=64, stride=80)
    with pytest.raises(ValueError, match="30 x 40"):
        draw_segmentation(Image.new("RGB", (40, 30)), torch.zeros(40, 30, dtype=torch.long), LABELS)
