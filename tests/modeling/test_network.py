"""The model's public surface: dtypes, training, windows with intermediates, bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from radio import InNetworkMerging, RADIOModel, RadioOutput, TokenMerging, load_model
from radio.modeling.block import Attention
from radio.modeling.network import RADIONetwork


@pytest.fixture
def model(reference) -> RADIOModel:
    return load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")


def _relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.detach().float(), expected.detach().float()
    return float((actual - expected).abs().max() / expected.abs().max())


def _images(batch: int = 1, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_public_surface(model):
    assert (model.patch_size, model.embed_dim, model.summary_dim) == (16, 64, 192)
    assert (model.num_summary_tokens, model.num_cls_tokens) == (8, 4)
    assert (model.max_resolution, model.preferred_resolution) == (2048, (768, 768))
    assert (model.window_size, model.min_resolution_step) == (None, 16)
    assert model.get_nearest_supported_resolution(100, 5) == (96, 16)
    assert model.get_nearest_supported_resolution(360, 1080) == (352, 1088)  # both halfway
    assert len(model.blocks) == len(model.model.blocks) == 12
    attention = model.model.blocks[-1].attn
    assert attention.num_heads == 4
    q, k, v = attention.qkv(torch.zeros(1, 1, 64)).chunk(3, dim=-1)
    assert attention.q_norm(q).shape == attention.k_norm(k).shape == attention.proj(v).shape
    assert model.switch_to_deploy() is None
    assert not model.training


def test_state_dict_has_the_released_names(model):
    names = set(model.state_dict())
    assert {"model.blocks.0.attn.qkv.weight", "model.patch_generator.pos_embed"} <= names
    assert {"model.patch_generator.cls_token.token", "input_conditioner.norm_mean"} <= names


@pytest.mark.parametrize("convert", ["to", "half", "bfloat16", "load"])
def test_lower_precision(reference, model, convert):
    x = _images()
    expected = model(x)
    if convert == "load":
        low = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu", dtype="bfloat16")
    else:
        low = copy.deepcopy(model)
        low = low.to(torch.bfloat16) if convert == "to" else getattr(low, convert)()
    dtype = torch.float16 if convert == "half" else torch.bfloat16
    output = low(x)
    assert output.summary.dtype == output.features.dtype == dtype
    assert low.input_conditioner(x).dtype == dtype
    assert _relative(output.features, expected.features) < 6e-2


def test_autocast(model):
    x = _images()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    assert _relative(output.summary, model(x).summary) < 6e-2


def test_adaptors_return_float32_and_can_be_switched_off(reference):
    model = load_model(
        reference / "v2_5" / "checkpoint.pth.tar", adaptors=["sam", "clip"], device="cpu", dtype="bfloat16"
    )
    outputs = model(_images())
    assert list(outputs) == ["backbone", "sam", "clip"]
    assert outputs["clip"].summary.dtype == outputs["sam"].features.dtype == torch.float32
    adaptor = model.adaptors["clip"]
    assert adaptor.head_idx == 0
    assert adaptor.head_mlp is not adaptor.feat_mlp
    model.adaptors = None
    assert isinstance(model(_images()), RadioOutput)


def test_external_preprocessor_gives_the_same_numbers(model):
    x = _images()
    expected = model(x)
    conditioner = model.make_preprocessor_external()
    assert torch.equal(model(conditioner(x)).features, expected.features)
    assert _relative(model(x).features, expected.features) > 1e-2


def test_summary_splits_by_teacher(model):
    summary = model(_images(2)).summary
    parts = model.split_summary(summary)
    assert list(parts) == ["clip", "siglip", "dino_v2"]
    assert torch.equal(torch.cat(list(parts.values()), dim=1), summary)


def test_gradients_reach_every_parameter(reference):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors=["clip"], device="cpu").train()
    outputs = model(_images(2))
    sum(part.square().sum() for output in outputs.values() for part in output).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_training_crops_positions_at_random_per_image_or_clip(model):
    x = _images(1).expand(4, -1, -1, -1)
    model.train()
    torch.manual_seed(0)
    features = model(x).features
    assert not torch.allclose(features[0], features[1])
    with model.cpe_video_mode(2):
        features = model(x).features
    assert torch.allclose(features[0], features[1], atol=1e-5)
    assert not torch.allclose(features[0], features[2])
    with pytest.raises(ValueError, match="clips of 3 frames"), model.cpe_video_mode(3):
        model(x)
    model.eval()
    assert torch.allclose(model(x).features[0], model(x).features[1], atol=1e-5)


def test_training_crops_stay_inside_the_grid_and_vary_in_scale(model):
    """A position embedding that is linear in x and y shows which rectangle was sampled."""
    generator = model.backbone.patch_generator
    side = generator.grid_size
    ys, xs = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    with torch.no_grad():
        generator.pos_embed.zero_()
        generator.pos_embed[0, :, 0] = xs.flatten()
        generator.pos_embed[0, :, 1] = ys.flatten()
    generator.train()
    torch.manual_seed(0)
    images = torch.zeros(500, 3, 128, 128)
    with torch.no_grad():
        crops = generator(images)[:, generator.num_skip :]
    corners = crops.detach().reshape(500, 8, 8, -1)[..., :2]
    low, high = corners[:, 0, 0], corners[:, -1, -1]
    extent = high - low
    assert low.min() >= -1e-5
    assert high.max() <= 1 + 1e-5
    smallest = 0.1**0.5
    assert extent.min() >= smallest * (3 / 4) - 1e-4
    assert extent.min() < 0.4
    assert extent.max() > 0.95
    ratio = extent[:, 0] / extent[:, 1]
    assert ratio.min() >= (3 / 4) ** 2 - 1e-3
    assert ratio.max() <= (4 / 3) ** 2 + 1e-3


@pytest.mark.parametrize("schedule", [{"vitdet_num_global": 4}, {"vitdet_num_windowed": 2}])
def test_windows_with_intermediates(reference, schedule):
    """Intermediates under windows equal the windowed pass itself, run block by block on each window."""
    path = reference / "v2_5" / "checkpoint.pth.tar"
    model = load_model(path, device="cpu", vitdet_window_size=2, **schedule)
    x = _images(2)
    with torch.no_grad():
        final, intermediates = model.forward_intermediates(x, output_fmt="NLC")
        expected = _windowed_blocks(model, x, grid=(4, 6), side=2)
        output = model(x)
    assert len(intermediates) == 12
    for taken, block in zip(intermediates, expected, strict=True):
        assert _relative(taken, block) < 2e-5
    assert torch.equal(final.features, output.features)
    assert _relative(intermediates[-1], output.features) < 2e-5


def _windowed_blocks(
    model: RADIONetwork, x: torch.Tensor, grid: tuple[int, int], side: int
) -> list[torch.Tensor]:
    """Every block's patches, by an obvious loop: each window on its own in a windowed block."""
    h, w = grid
    prefix = model.num_summary_tokens
    tokens = model.backbone.patch_generator(model.input_conditioner(x))
    outputs = []
    for block, windowed in zip(model.blocks, model.windows.schedule, strict=True):
        if windowed:
            patches = tokens[:, prefix:].reshape(len(x), h, w, -1).clone()
            for top in range(0, h, side):
                for left in range(0, w, side):
                    window = patches[:, top : top + side, left : left + side]
                    result = block(window.reshape(len(x), side * side, -1))
                    patches[:, top : top + side, left : left + side] = result.reshape(window.shape)
            tokens = torch.cat([tokens[:, :prefix], patches.flatten(1, 2)], dim=1)
        else:
            tokens = block(tokens)
        outputs.append(tokens[:, prefix:])
    return outputs


def test_intermediates_stop_early_gives_the_same(model):
    x = _images()
    full = model.forward_intermediates(x, indices=[1, 4], intermediates_only=True)
    early = model.forward_intermediates(x, indices=[1, 4], intermediates_only=True, stop_early=True)
    assert all(torch.equal(a, b) for a, b in zip(full, early, strict=True))
    final, _ = model.forward_intermediates(x, indices=[1], stop_early=True, output_fmt="NLC")
    assert torch.equal(final.features, model(x).features)


def test_intermediates_take_every_kind_of_whole_number(model):
    x = _images()
    expected = model.forward_intermediates(x, 2, intermediates_only=True)
    for indices in (np.int64(2), np.array([-2, -1]), (model.config.depth - 2, -1)):
        same = model.forward_intermediates(x, indices, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(same, expected, strict=True))


@pytest.mark.parametrize("wrong", [1.5, [1.5], ["1"]])
def test_block_numbers_are_whole(model, wrong):
    with pytest.raises(TypeError, match="indices are whole numbers of blocks"):
        model.forward_intermediates(_images(), wrong)


@pytest.mark.parametrize("wrong", [None, "photo.jpg", np.zeros((1, 3, 64, 64), np.float32), 3])
def test_what_is_no_tensor_is_named(model, wrong):
    with pytest.raises(TypeError, match=f"got {type(wrong).__name__}; model.encode"):
        model(wrong)


def test_stop_early_skips_the_later_blocks(model):
    ran = []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    model.forward_intermediates(_images(), indices=[4], intermediates_only=True, stop_early=True)
    assert ran == [0, 1, 2, 3, 4]


def test_nchw_is_the_grid_of_nlc(model):
    x = _images()
    nlc, nchw = model(x).features, model(x, feature_fmt="NCHW").features
    assert nchw.shape == (1, 64, 4, 6)
    assert torch.equal(nchw[0, :, 1, 2], nlc[0, 1 * 6 + 2])


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(1, 3, 60, 96), ValueError, "nearest supported resolution is 64 x 96"),
        (torch.zeros(1, 3, 0, 96), ValueError, "multiples of 16"),
        (torch.zeros(3, 64, 96), ValueError, r"shape \(B, 3, H, W\)"),
        (torch.zeros(1, 4, 64, 96), ValueError, r"shape \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 64, 96, dtype=torch.uint8), TypeError, "divide by 255"),
        ("photo.jpg", TypeError, "model.encode"),
        ([], ValueError, "empty"),
    ],
)
def test_bad_input(model, x, error, message):
    with pytest.raises(error, match=message):
        model(x)


def test_windows_need_multiples_of_patch_and_window(reference):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu", vitdet_window_size=4)
    assert model.min_resolution_step == 64
    with pytest.raises(ValueError, match=r"multiples of 64 .*the nearest supported resolution is 64 x 128"):
        model(torch.zeros(1, 3, 64, 96))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indices": 13}, "the model has 12"),
        ({"indices": [12]}, "from -12 to 11"),
        ({"indices": []}, "from -12 to 11"),
        ({"aggregation": "mean"}, "allowed: sparse, dense"),
        ({"norm_alpha_scheme": "x"}, "allowed: post-alpha"),
        ({"output_fmt": "NHWC"}, "allowed: NLC, NCHW"),
    ],
)
def test_bad_intermediates(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.forward_intermediates(_images(), **options)


def test_scaled_norms_of_the_giant():
    """Block i's norms are multiplied by 1/sqrt(i), counted from 1."""
    from radio.modeling.block import Block

    torch.manual_seed(0)
    scaled = Block(8, 2, 16, norm_scale=3**-0.5)
    plain = Block(8, 2, 16)
    plain.load_state_dict(scaled.state_dict())
    x = torch.randn(1, 5, 8)
    with torch.no_grad():
        normed = F.layer_norm(x, (8,), scaled.norm1.weight, scaled.norm1.bias, eps=1e-6) / 3**0.5
        middle = x + plain.attn(normed)
        normed = F.layer_norm(middle, (8,), scaled.norm2.weight, scaled.norm2.bias, eps=1e-6) / 3**0.5
        assert torch.allclose(scaled(x), middle + plain.mlp(normed), atol=1e-6)


class OwnAttention(torch.nn.Module):
    """A user's attention that takes tokens alone."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x)


class SilentAttention(OwnAttention):
    """One that takes `attend` and does not use it."""

    def forward(self, x: torch.Tensor, attend=None) -> torch.Tensor:
        return self.attention(x)


@torch.inference_mode()
def test_own_attention_modules(reference):
    """They run where all tokens see each other; elsewhere the message says what they would have to take."""
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    own = OwnAttention(model.blocks[3].attn)
    model.blocks[3].attn = own
    assert torch.equal(model(x).features, expected.features)
    with pytest.raises(TypeError, match=r"OwnAttention that takes tokens alone; .* tome="):
        model(x, tome=InNetworkMerging(r=2))
    with pytest.raises(TypeError, match="OwnAttention that takes tokens alone; a list of images"):
        model([x[0], x[0, :, :32]])
    model.blocks[3].attn = SilentAttention(own.attention)
    with pytest.raises(TypeError, match="SilentAttention in block 3 does not call attend"):
        model(x, tome=InNetworkMerging(r=2))
    model.blocks[3] = torch.nn.Identity()
    assert model(x).summary.shape == expected.summary.shape
    with pytest.raises(TypeError, match="block 3 is of type Identity"):
        model(x, tome=InNetworkMerging(r=2))


@pytest.mark.parametrize("window", [None, 2])
@torch.inference_mode()
def test_blocks_cut_off(reference, window):
    """The output is that of the last block left, also where that one ran within windows."""
    path = reference / "v2_5" / "checkpoint.pth.tar"
    model = load_model(path, device="cpu", vitdet_window_size=window)
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected = model.forward_intermediates(
        x, indices=[1], output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
    )[0]
    del model.backbone.blocks[2:]
    output = model(x)
    assert torch.equal(output.summary, expected.summary)
    assert torch.equal(output.features, expected.features)
    final, layers = model.forward_intermediates(x, indices=1, output_fmt="NLC")
    assert torch.equal(final.features, output.features)
    assert torch.equal(layers[0], output.features)
    assert len(model.forward_intermediates(x, intermediates_only=True)) == 2
    with pytest.raises(ValueError, match="from -2 to 1"):
        model.forward_intermediates(x, indices=[2])


@torch.inference_mode()
def test_summary_idxs_choose_the_summary(reference):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    whole, width = model(x).summary, model.embed_dim
    assert model.summary_idxs.tolist() == [0, 1, 2]
    model.summary_idxs = torch.tensor([2])
    chosen = model(x).summary
    assert torch.equal(chosen, whole[:, 2 * width :])
    assert model.summary_dim == width
    assert list(model.split_summary(chosen)) == ["dino_v2"]
    with pytest.raises(ValueError, match="class tokens from 0 to 3"):
        model.summary_idxs = [4]


@torch.inference_mode()
def test_outputs_show_shapes_instead_of_numbers(reference):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu", adaptors=["clip"])
    output = model(torch.rand(1, 3, 64, 96))
    width = model.embed_dim
    assert repr(output["backbone"]) == (
        f"RadioOutput(summary=Tensor(1x{3 * width}, float32, cpu), features=Tensor(1x24x{width}, float32, cpu))"
    )
    merged = model(torch.rand(1, 3, 64, 96), merge=TokenMerging(keep=8))["clip"]
    assert repr(merged).startswith("MergedRadioOutput(summary=Tensor(1x")
    assert "grid=(4, 6)" in repr(merged)
