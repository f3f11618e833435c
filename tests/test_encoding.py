"""model.encode: any kind of image, any size, one result per image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from radio import ImageError, RADIOModel, RadioOutput, TokenMerging, load_model


@pytest.fixture(scope="module")
def model(reference) -> RADIOModel:
    return load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors=["clip", "sam"], device="cpu")


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


def test_every_kind_of_input_gives_the_same(model, photos):
    with Image.open(photos[0]) as image:
        picture = image.convert("RGB").resize((96, 64))
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = model.encode(picture)
    assert expected.image_size == (64, 96)
    assert expected.grid == (4, 6)
    for same in (array, tensor, tensor.float() / 255, tensor.double() / 255):
        assert _close(model.encode(same).features, expected.features)


def test_an_encoding_is_the_models_own_output(model):
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        direct = model(x)
    first, second = model.encode(x)
    assert _close(second.summary, direct["backbone"].summary[1:])
    assert _close(first.features, direct["backbone"].features[:1])
    assert _close(first.adaptors["sam"].features, direct["sam"].features[:1])
    assert list(first.adaptors) == ["clip", "sam"]
    assert isinstance(first.adaptors["clip"], RadioOutput)
    assert list(first.summary_by_teacher) == ["clip", "siglip", "dino_v2"]
    assert torch.equal(torch.cat(list(first.summary_by_teacher.values()), dim=1), first.summary)


def test_images_of_different_sizes_keep_their_order(model):
    images = [torch.rand(3, h, w) for h, w in [(64, 96), (32, 32), (64, 96), (48, 128), (32, 32)]]
    together = model.encode(images, batch_size=4)
    assert [encoding.image_size for encoding in together] == [
        (64, 96),
        (32, 32),
        (64, 96),
        (48, 128),
        (32, 32),
    ]
    for image, encoding in zip(images, together, strict=True):
        alone = model.encode(image)
        assert _close(encoding.features, alone.features)
        assert _close(encoding.adaptors["clip"].summary, alone.adaptors["clip"].summary)


def test_sizes(model, photos):
    assert min(model.encode(photos[0], size=64).image_size) == 64
    assert model.encode(photos[0], size=(64, 80), feature_fmt="NCHW").features.shape == (1, 64, 4, 5)
    encoding = model.encode(torch.rand(3, 70, 4100))
    assert encoding.image_size.width <= model.max_resolution


def test_an_image_too_long_for_a_size_is_named(model, tmp_path):
    Image.new("RGB", (4000, 20)).save(tmp_path / "wide.png")
    with pytest.raises(ImageError, match=r"/wide\.png: size 'short:64' makes an image of 20x4000"):
        model.encode([torch.rand(3, 64, 64), tmp_path / "wide.png"], size="short:64")


def test_merging(model):
    merge = TokenMerging(keep=10)
    mixed = model.encode([torch.rand(3, 64, 96), torch.rand(3, 96, 96)], merge=[merge, TokenMerging(keep=12)])
    assert [encoding.features.shape[1] for encoding in mixed] == [10, 12]
    batch = model.encode(torch.rand(2, 3, 64, 96), merge=merge)
    assert batch[1].features.shape == (1, 10, 64)
    assert batch[1].backbone.sizes.sum() == 24
    assert batch[1].backbone.plan.unmerge(batch[1].features).shape == (1, 24, 64)
    with pytest.raises(TypeError, match="one TokenMerging for each image"):
        model.encode([torch.rand(3, 64, 96), torch.rand(3, 96, 96)], merge=[None, merge])
    with pytest.raises(ValueError, match="merge lists 1 TokenMerging for 2 images"):
        model.encode([torch.rand(3, 64, 96), torch.rand(3, 96, 96)], merge=[merge])


def test_no_gradients_but_usable_in_training(model):
    features = model.encode(torch.rand(3, 32, 32)).features
    probe = torch.nn.Linear(64, 2)
    probe(features).sum().backward()
    assert probe.weight.grad is not None


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        ("nowhere.jpg", {}, ImageError, "nowhere.jpg"),
        (torch.rand(3, 32, 32) * 255, {}, ImageError, "divide by 255"),
        (torch.randn(3, 32, 32), {}, ImageError, "normalized"),
        (torch.rand(3, 32, 32), {"batch_size": 0}, ValueError, "batch_size"),
        (torch.rand(3, 32, 32), {"size": (33, 32)}, ValueError, "multiple"),
        ([torch.rand(3, 32, 32)], {"merge": []}, ValueError, "one for each"),
    ],
)
def test_bad_input(model, image, options, error, message):
    with pytest.raises(error, match=message):
        model.encode(image, **options)


def test_an_external_preprocessor_is_refused(reference):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    conditioner = model.make_preprocessor_external()
    with pytest.raises(RuntimeError, match="external"):
        model.encode(torch.rand(3, 32, 32))
    model.input_conditioner = conditioner
    model.encode(torch.rand(3, 32, 32))


def test_an_encoding_shows_shapes_and_not_numbers(model):
    shown = repr(model.encode(torch.rand(3, 64, 96)))
    assert shown.startswith(
        "Encoding(summary=Tensor(1x192, float32, cpu), features=Tensor(1x24x64, float32, cpu), "
    )
    assert "image_size=(64, 96), grid=(4, 6)" in shown and "'sam': RadioOutput(summary=Tensor(" in shown
    assert "tensor(" not in shown and "\n" not in shown and len(shown) < 700


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_summaries_of_length_one(reference, dtype):
    """Every summary, and nothing else."""
    path = reference / "v2_5" / "checkpoint.pth.tar"
    model = load_model(path, adaptors=["clip", "sam"], device="cpu", dtype=dtype)
    x = torch.rand(2, 3, 64, 96)
    plain, unit = model.encode(x), model.encode(x, normalize=True)
    assert isinstance(model.encode(x[0], normalize=True), type(unit[0]))
    for before, after in zip(plain, unit, strict=True):
        summaries = [after.summary, after.backbone.summary, *after.summary_by_teacher.values()]
        summaries += [output.summary for output in after.adaptors.values()]
        assert len(summaries) == 2 + len(before.summary_by_teacher) + 2
        for summary in summaries:
            assert float(summary.float().norm()) == pytest.approx(1, abs=1e-5 if dtype == "float32" else 5e-3)
        assert after.summary.dtype == before.summary.dtype
        similarity = torch.cosine_similarity(after.summary.float(), before.summary.float())
        assert float(similarity) == pytest.approx(1, abs=1e-4)
        assert torch.equal(after.features, before.features)
        assert torch.equal(after.adaptors["sam"].features, before.adaptors["sam"].features)


@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "float32"), ("float16", "float16")])
def test_numpy_arrays(reference, dtype, stored):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    model = load_model(path, adaptors="clip", device="cpu", dtype=dtype)
    encoding = model.encode(torch.rand(3, 64, 96))
    arrays = encoding.numpy()
    assert isinstance(arrays.summary, np.ndarray)
    assert (arrays.summary.dtype, arrays.features.dtype) == (stored, stored)
    assert np.array_equal(arrays.features, encoding.features.float())
    assert set(arrays.summary_by_teacher) == set(encoding.summary_by_teacher)
    assert arrays.adaptors["clip"].summary.dtype == np.float32
    assert np.array_equal(arrays.adaptors["clip"].features, encoding.adaptors["clip"].features)
    assert (arrays.grid, arrays.image_size, arrays.sizes) == (encoding.grid, encoding.image_size, None)
    kept = arrays.summary.copy()
    encoding.summary.zero_()
    assert np.array_equal(arrays.summary, kept)
    assert len(repr(arrays)) < 200


def test_numpy_arrays_of_merged_tokens(model):
    merged = model.encode(torch.rand(3, 64, 96), merge=TokenMerging(keep=8)).numpy()
    assert merged.features.shape[:2] == (1, 8)
    assert merged.positions.shape == (1, 8, 2)
    assert merged.sizes.sum() == 24
