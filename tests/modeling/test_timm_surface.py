"""What code for timm's VisionTransformer reads and calls on `model.model`, its blocks and their attention."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.utils import AttentionExtract
from torch import nn

from radio import load_model

NOT_HERE = {
    *("patch_embed", "pos_embed", "cls_token", "reg_token"),  # the patch generator has them
    *(
        "load_pretrained",
        "set_input_size",
        "weight_init_mode",
        "fix_init",
        "fix_init_weight",
    ),  # how timm starts
    *("pool_include_prefix", "gate", "is_causal"),  # newer options that are off by default
}

FOLDERS = ["v2_5", "dinov2_giant", "no_cpe_patch14", "layer_scale_norm"]


@pytest.fixture(params=FOLDERS)
def model(request, reference):
    return load_model(reference / request.param / "checkpoint.pth.tar", device="cpu")


@pytest.fixture
def x(model):
    side = 4 * model.patch_size
    pixels = torch.rand(2, 3, side, side + model.patch_size, generator=torch.Generator().manual_seed(0))
    return model.input_conditioner(pixels)


@torch.inference_mode()
def test_forward_features_are_all_tokens(model, x):
    vit, pixels = model.model, x * model.input_conditioner.norm_std + model.input_conditioner.norm_mean
    tokens = vit.forward_features(x)
    features = model(pixels.clamp(0, 1)).features
    prefix = model.num_summary_tokens
    assert tokens.shape == (2, prefix + features.shape[1], vit.num_features)
    torch.testing.assert_close(
        tokens[:, prefix:], features, rtol=1e-4, atol=1e-4 * float(features.abs().max())
    )
    assert (vit.num_features, vit.embed_dim, vit.num_classes) == (model.embed_dim, model.embed_dim, 0)


@torch.inference_mode()
def test_forward_intermediates_as_in_timm(model, x):
    vit, depth = model.model, len(model.blocks)
    tokens = vit.forward_features(x)
    final, layers = vit.forward_intermediates(x, indices=2, norm=True)
    assert torch.equal(final, tokens)
    assert [tuple(layer.shape) for layer in layers] == [(2, model.embed_dim, 4, 5)] * 2
    prefix = model.num_summary_tokens
    assert torch.equal(layers[1].flatten(2).transpose(1, 2), tokens[:, prefix:])
    everything = vit.forward_intermediates(x, depth, intermediates_only=True, output_fmt="NLC")
    assert len(everything) == depth
    [(patches, before)] = vit.forward_intermediates(
        x, [1], return_prefix_tokens=True, stop_early=True, intermediates_only=True, output_fmt="NLC"
    )
    assert torch.equal(patches, everything[1])
    assert before.shape == (2, prefix, model.embed_dim)
    last = vit.get_intermediate_layers(x, n=[0, depth - 1], reshape=True)
    assert torch.equal(last[0].flatten(2).transpose(1, 2), everything[0])
    with pytest.raises(ValueError, match="indices"):
        vit.forward_intermediates(x, [depth])


@torch.inference_mode()
def test_attention_can_be_taken_apart(model, x):
    """As RADSeg and others rebuild the last block from timm's parts."""
    block = model.model.blocks[-1]
    attention = block.attn
    tokens = torch.randn(2, 9, model.embed_dim, generator=torch.Generator().manual_seed(1))
    batch, length, width = tokens.shape
    qkv = attention.qkv(block.norm1(tokens))
    q, k, v = qkv.reshape(batch, length, 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    assert attention.fused_attn
    weights = attention.attn_drop((q * attention.scale @ k.transpose(-2, -1)).softmax(-1))
    attended = attention.proj_drop(
        attention.proj((weights @ v).transpose(1, 2).reshape(batch, length, width))
    )
    by_hand = tokens + block.drop_path1(block.ls1(attended))
    by_hand = by_hand + block.drop_path2(block.ls2(block.mlp(block.norm2(by_hand))))
    torch.testing.assert_close(by_hand, block(tokens), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_weights_of_attention_are_there_to_be_seen(model, x):
    """timm's own extractor hooks `attn_drop`, which sees them where attention is not fused."""
    vit = model.model
    expected = vit.forward_features(x)
    for block in vit.blocks:
        block.attn.fused_attn = False
    maps = AttentionExtract(vit, method="hook", names=["*attn.attn_drop"])(x)
    tokens = expected.shape[1]
    assert list(maps) == [f"{_prefix(vit)}blocks.{i}.attn.attn_drop" for i in range(len(vit.blocks))]
    for weights in maps.values():
        assert weights.shape == (2, model.config.num_heads, tokens, tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        vit.forward_features(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


def _prefix(vit: nn.Module) -> str:
    return "inner." if hasattr(vit, "inner") else ""


@torch.inference_mode()
@pytest.mark.parametrize("fused", [True, False])
def test_attention_among_some_tokens(model, fused):
    """timm's `attn_mask`: as if the tokens that it leaves out were not there."""
    block = model.model.blocks[0]
    block.attn.fused_attn = fused
    tokens = torch.randn(2, 9, model.embed_dim, generator=torch.Generator().manual_seed(1))
    allowed = torch.ones(9, 9, dtype=torch.bool)
    allowed[:, 6:] = False
    added = torch.zeros(9, 9).masked_fill(~allowed, float("-inf"))
    for part in (block, block.attn):
        expected = part(tokens[:, :6])
        for mask in (allowed, added):
            torch.testing.assert_close(part(tokens, attn_mask=mask)[:, :6], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(part(tokens, attn_mask=None), part(tokens), rtol=0, atol=0)


def test_gradient_checkpointing_changes_no_gradient(model, x):
    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model.model.forward_features(x).square().mean().backward()
        return [
            parameter.grad.clone() for parameter in model.model.parameters() if parameter.grad is not None
        ]

    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.is_gradient_checkpointing
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):
        again = gradients()
    with_checkpoints = sum(saved)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(again, expected, strict=True))
    model.model.set_grad_checkpointing(False)
    assert not model.is_gradient_checkpointing
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):
        gradients()
    assert with_checkpoints < sum(saved) / 2
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_drop_path_acts_while_training_only(model, x):
    with torch.inference_mode():
        expected = model.model.forward_features(x)
        model.set_drop_path(0.5)
        assert torch.equal(model.model.forward_features(x), expected)
        model.blocks.train()
        assert not torch.allclose(model.model.forward_features(x), expected, atol=1e-3)
    model.blocks.eval()
    model.set_drop_path(0)
    assert isinstance(model.blocks[-1].drop_path1, torch.nn.Identity)
    with pytest.raises(ValueError, match="below 1"):
        model.set_drop_path(1)


def test_no_weight_decay(model):
    names = model.model.no_weight_decay()
    assert names
    assert all("pos_embed" in name or "cls_token" in name for name in names)


def _own(module: nn.Module) -> set[str]:
    return {name for name in set(dir(module)) - set(dir(nn.Module())) if not name.startswith("_")}


def test_every_name_of_timm(model):
    timm = VisionTransformer(img_size=32, embed_dim=8, depth=1, num_heads=1, num_classes=0, global_pool="")
    ours, theirs = model.model.blocks[0], timm.blocks[0]
    pairs = [(model.model, timm), (ours, theirs), (ours.attn, theirs.attn)]
    pairs += [(ours.mlp, theirs.mlp)] if hasattr(ours.mlp, "fc1") else []  # SwiGLU has other parts
    for own, other in pairs:
        assert not _own(other) - _own(own) - NOT_HERE, type(own)


@torch.inference_mode()
def test_heads_as_in_timm(model, x):
    vit = model.model
    tokens = vit.forward_features(x)
    assert torch.equal(vit(x), tokens)
    assert torch.equal(vit.forward_head(tokens), tokens)
    assert torch.equal(vit.pool(tokens, "avg"), tokens[:, model.num_summary_tokens :].mean(dim=1))
    assert vit.num_reg_tokens == model.config.num_registers
    named = vit.forward_intermediates(x, [1], return_prefix_tokens=True, output_dict=True)
    final, [(patches, prefix)] = vit.forward_intermediates(x, [1], return_prefix_tokens=True)
    assert torch.equal(named["image_intermediates"][0], patches)
    assert torch.equal(named["image_intermediates_prefix"][0], prefix)
    assert torch.equal(named["image_features"], final)
    with pytest.raises(ValueError, match="no classifier"):
        vit.reset_classifier(10)
    assert [info["num_chs"] for info in vit.feature_info] == [model.embed_dim] * len(model.blocks)
    assert vit.prune_intermediate_layers([1]) == [1]
    assert len(model.blocks) == 2
    last = model.model.forward_intermediates(x, 1, intermediates_only=True)
    assert torch.equal(last[0], patches)
