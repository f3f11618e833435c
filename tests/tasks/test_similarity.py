"""Similarity to a patch and attention maps, against values worked out another way."""

from __future__ import annotations

import pytest
import torch

from radio import load_model
from radio.tasks.similarity import attention_maps, patch_at, similarity_to_patch


@pytest.fixture(scope="module")
def model(reference):
    return load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_known_similarities():
    features = torch.tensor([[[2.0, 0.0], [-3.0, 1.0]], [[0.0, 5.0], [0.0, 1.0]]])
    found = similarity_to_patch(features, features[:, 0, 0])
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [-1.0, 0.5**0.5]]))
    assert similarity_to_patch(features[None], features[:, 0, 0]).shape == (1, 2, 2)
    with pytest.raises(ValueError, match=r"\(2, 2, 2\) and \(3,\)"):
        similarity_to_patch(features, torch.zeros(3))


def test_the_patch_under_a_pixel():
    assert patch_at(0, 0, (100, 200), (10, 20)) == (0, 0)
    assert patch_at(199, 99, (100, 200), (10, 20)) == (9, 19)
    assert patch_at(15, 40, (100, 200), (10, 20)) == (4, 1)
    for x, y in ((200, 0), (0, 100), (-1, 0)):
        with pytest.raises(ValueError, match=r"outside the image of 200 x 100"):
            patch_at(x, y, (100, 200), (10, 20))


@pytest.mark.parametrize("block", [0, 5, 11])
def test_attention_is_what_the_block_computes(model, image, block):
    maps = attention_maps(model, image, block, patch=(2, 3))
    assert maps.block == block and maps.prefix.shape == (model.num_summary_tokens, 4, 4, 6)
    with torch.no_grad():
        tokens = model.backbone.embed(model.input_conditioner(image[None]))
        for before in model.blocks[:block]:
            tokens = before(tokens)
        attention = model.blocks[block].attn
        q, k, _ = attention.project(model.blocks[block].norm1(tokens))
        # Attending to one-hot values gives the attention itself, through the fused kernel.
        everything = torch.eye(k.shape[2]).expand(*k.shape[:2], -1, -1)
        weights = torch.nn.functional.scaled_dot_product_attention(q, k, everything)[0]
    prefix = model.num_summary_tokens
    expected = weights[:, :, prefix:].unflatten(-1, (4, 6))
    torch.testing.assert_close(maps.prefix, expected[:, :prefix].transpose(0, 1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(maps.patch, expected[:, prefix + 2 * 6 + 3], atol=1e-6, rtol=1e-4)
    assert (maps.prefix.sum(dim=(-2, -1)) < 1).all()


def test_blocks_count_from_the_end_and_windows_are_told(model, image, reference):
    assert attention_maps(model, image).block == 11
    with pytest.raises(ValueError, match="no block 12; the model has 12, numbered 0 to 11"):
        attention_maps(model, image, 12)
    with pytest.raises(ValueError, match=r"no patch \(4, 0\)"):
        attention_maps(model, image, patch=(4, 0))
    with pytest.raises(ValueError, match="multiples of 16"):
        attention_maps(model, image[:, :60])
    windowed = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu", vitdet_window_size=2)
    maps = attention_maps(windowed, image)
    assert not torch.allclose(maps.prefix, attention_maps(model, image).prefix)
    with pytest.raises(ValueError, match=r"block 3 attends within ViTDet windows; .*: 2, 5, 8, 11"):
        attention_maps(windowed, image, 3)


def test_the_input_of_a_windowed_models_block(image, reference):
    """The tokens that reach a block are those that the windowed model has there."""
    windowed = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu", vitdet_window_size=2)
    prefix = windowed.num_summary_tokens
    patches = windowed.forward_intermediates(
        image[None], indices=[7], output_fmt="NLC", intermediates_only=True, norm_alpha_scheme="none"
    )[0]
    from radio.modeling.windows import Windows, window_schedule
    from radio.tasks.similarity import _tokens_before

    with torch.no_grad():
        tokens = _tokens_before(windowed, image, 8, Windows(2, window_schedule(12)))
    torch.testing.assert_close(tokens[:, prefix:], patches)
