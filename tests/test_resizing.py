"""Every part of the library gives an image the same size, and refuses the same sizes, with windows and without."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from radio import ImageError, load_model
from radio.cli import main
from radio.data.batches import image_batches
from radio.images import resize_image
from radio.tasks import segmentation
from radio.tasks.mode_switching import measure_mode_switching
from radio.tasks.segmentation import LabelEmbeddings, SegmentOptions
from radio.tasks.spatial import spatial_features

SIZES = [
    None,
    "preferred",
    96,
    "short:80",
    "long:160",
    "patches:20",
    "patches:256",
    (128, 192),
    "crop:64x128",
]
CAT = LabelEmbeddings(torch.zeros(1, 40), torch.tensor([0]), 100.0)
"""One label, wherever it lies in the text space."""


@pytest.fixture(scope="module", params=[None, 4], ids=["plain", "windows"])
def model(reference, request):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    return load_model(path, adaptors=["clip"], vitdet_window_size=request.param, device="cpu")


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, 300, 420, generator=torch.Generator().manual_seed(0))


def _run_at(model, image, size, monkeypatch):
    """The size at which each caller runs the model."""
    found = {"encode": tuple(model.encode(image, size=size).image_size)}
    [batch] = image_batches(model, [image], [0], size)
    found["batches"] = tuple(batch.pixels.shape[-2:])
    found["spatial"] = tuple(next(spatial_features(model, [image], size)).image_size)
    measured = measure_mode_switching(model, {"it": image}, [size, 64], 64)
    found["mode switching"] = next((m.height, m.width) for m in measured)
    if size is not None:  # segmentation has a default of its own
        seen = []

        def patch_similarity(model, adaptor, resized, embeddings, window, stride, refine):
            seen.append(tuple(resized.shape[-2:]))
            return torch.zeros(1, 2, 2)

        monkeypatch.setattr(segmentation, "patch_similarity", patch_similarity)
        segmentation.segment_with(model, "clip", image, CAT, SegmentOptions(size))
        found["segmentation"] = seen[0]
    return found


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_all_callers_agree(model, image, size, monkeypatch):
    expected = model.resize(image, size)
    assert expected.shape[0] == 3 and expected.dtype == torch.float32
    assert all(side % model.min_resolution_step == 0 for side in expected.shape[-2:])
    try:
        found = _run_at(model, image, size, monkeypatch)
    except ValueError as error:
        pytest.fail(f"a caller refuses what resize accepts: {error}")
    assert set(found.values()) == {tuple(expected.shape[-2:])}, found


@pytest.mark.parametrize("size", ["long:4096", 4096, "patches:3", (100, 96), "crop:100x96", "vast", (0, 16)])
def test_all_callers_refuse_the_same_with_the_same_words(model, image, size):
    if size == "patches:3" and model.window_size is None:
        pytest.skip("three patches make an image without windows")
    with pytest.raises(ValueError) as refused:
        model.resize(image, size)
    callers = [
        lambda: model.encode(image, size=size),
        lambda: list(image_batches(model, [image], [0], size)),
        lambda: list(spatial_features(model, [image], size)),
        lambda: list(measure_mode_switching(model, {"it": image}, [size, 64], 64)),
        lambda: segmentation.segment_with(model, "clip", image, CAT, SegmentOptions(size)),
    ]
    for caller in callers:
        with pytest.raises(ValueError) as also:
            caller()
        assert str(also.value) == str(refused.value)


def test_windows_count_patches_not_steps(reference, image):
    """A budget of patches is one of patches, however many of them make a window."""
    path = reference / "v2_5" / "checkpoint.pth.tar"
    wide = torch.rand(3, 480, 640)
    for window in (None, 2, 4):
        model = load_model(path, vitdet_window_size=window, device="cpu")
        [batch] = image_batches(model, [wide], [0], "patches:256")
        height, width = batch.pixels.shape[-2:]
        assert height // 16 * (width // 16) <= 256
        assert model.encode(wide, size="patches:256").grid == (height // 16, width // 16)


@pytest.mark.parametrize("window", [None, 4])
def test_the_commands_agree_too(window, reference, image, tmp_path, capsys):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    photo = tmp_path / "photo.png"
    Image.fromarray((image.permute(1, 2, 0) * 255).byte().numpy()).save(photo)
    options = [
        "-m",
        str(path),
        "--size",
        "patches:30",
        *(["--vitdet-window-size", str(window)] if window else []),
    ]
    model = load_model(path, vitdet_window_size=window, device="cpu")
    height, width = model.resize(photo, "patches:30").shape[-2:]
    for flag in ([], ["--skip-unreadable"]):
        assert main(["features", str(photo), "-o", str(tmp_path / "out.npz"), *options, *flag]) == 0
        assert np.load(tmp_path / "out.npz")["image_sizes"].tolist() == [[height, width]]
    assert main(["pca", str(photo), "-o", str(tmp_path / "pca"), *options]) == 0
    assert (tmp_path / "pca" / f"photo-{width}x{height}.png").exists()
    capsys.readouterr()


def test_a_default_never_asks_for_more_than_the_model_supports(model):
    """A strip: its short side cannot become the preferred one without its long side going too far."""
    strip = torch.rand(3, 32, 900, generator=torch.Generator().manual_seed(0))
    assert segmentation.segment_with(model, "clip", strip, CAT).label.shape == (32, 900)


def test_resize_reads_what_encode_reads(model, photos):
    assert model.resize(photos[0], "long:128").shape[-1] == 128
    with Image.open(photos[0]) as picture:
        assert torch.equal(model.resize(picture, 64), model.resize(photos[0], 64))
    assert torch.equal(model.resize(np.zeros((64, 64, 3), np.uint8)), torch.zeros(3, 64, 64))
    with pytest.raises(ImageError, match="divide by 255"):
        model.resize(torch.rand(3, 64, 64) * 255)


def test_the_preferred_size_is_the_models(reference):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    model = load_model(path, device="cpu")
    assert model.preferred_resolution == (768, 768)
    assert model.resize(torch.rand(3, 32, 64), "preferred").shape == (3, 768, 1536)
    assert model.resize(torch.rand(3, 3000, 4000), "preferred").shape == (3, 768, 1024)
    assert max(model.resize(torch.rand(3, 20, 900), "preferred").shape) == model.max_resolution
    with pytest.raises(ValueError, match="one of a model"):
        resize_image(torch.rand(3, 32, 32), "preferred")


@pytest.mark.parametrize(("height", "width", "far"), [(3000, 4000, True), (32, 32, True), (512, 512, False)])
def test_a_default_far_from_the_preferred_size_is_said_once(height, width, far, reference):
    """A photograph of 12 megapixels would run for minutes, a thumbnail at four patches, without a word."""
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    image = torch.rand(3, height, width)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.resize(image, "preferred")
        model.resize(image, 64)
        assert not said, "whoever asks for a size knows"
        for _ in range(2):
            model.resize(image)
    assert len(said) == far
    if far:
        assert "works best at 768 x 768" in str(said[0].message) and "size='preferred'" in str(
            said[0].message
        )
        assert said[0].filename == __file__, "the place is the caller's"


def test_a_command_says_it_in_one_line(reference, tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "small.png")
    words = ["features", str(tmp_path / "small.png"), "-m", str(reference / "v2_5" / "checkpoint.pth.tar")]
    assert main([*words, "-o", str(tmp_path / "out.npz")]) == 0
    errors = capsys.readouterr().err
    assert errors.startswith("radio features: warning: an image runs at 32 x 32") and errors.count("\n") == 1
    assert main([*words, "-o", str(tmp_path / "out.npz"), "--size", "64"]) == 0
    assert capsys.readouterr().err == ""
