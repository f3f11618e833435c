"""Attention feature heads of newer models, against a plain re-implementation on timm's own blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from released import VERSIONS, attention_head, make_checkpoint, random_state
from timm.models.vision_transformer import Block

from radio import load_model

WIDTH, HIDDEN, OUTPUT = 64, 48, 40


def _path(tmp_path, head: dict[str, torch.Tensor], upsample: int):
    """A C-RADIOv4-like checkpoint whose sam3 feature head is that one."""
    path = tmp_path / "checkpoint.pth.tar"
    content = make_checkpoint(path, VERSIONS["c-radio_v4-h"], small=True, dtype=torch.float32)
    state = {n: v for n, v in content["state_dict"].items() if not n.startswith("_feature_projections.2.")}
    content["state_dict"] = state | {f"_feature_projections.2.{name}": value for name, value in head.items()}
    content["args"].teachers[2]["fd_upsample_factor"] = upsample
    torch.save(content, path)
    return path


def _random_head(upsample: int, qkv_bias: bool = True) -> dict[str, torch.Tensor]:
    head = random_state(attention_head("x", WIDTH, HIDDEN, OUTPUT * upsample**2), seed=1)
    head = {name.removeprefix("x."): value * 4 for name, value in head.items()}
    head |= {name: value + 1 for name, value in head.items() if name.endswith("gamma")}
    return {name: value for name, value in head.items() if qkv_bias or not name.endswith("attn.qkv.bias")}


def _expected(head: dict[str, torch.Tensor], x: torch.Tensor, qkv_bias: bool) -> torch.Tensor:
    """The head written out on (B, L, C)."""
    for i in range(2):
        block = Block(WIDTH, num_heads=16, qkv_bias=qkv_bias, init_values=1e-5)
        prefix = f"blocks.{i}."
        block.load_state_dict({n.removeprefix(prefix): v for n, v in head.items() if n.startswith(prefix)})
        x = block(x)
    w = {name.removeprefix("mlp."): value for name, value in head.items() if name.startswith("mlp.")}

    def layer(values: torch.Tensor, first: str, second: str) -> torch.Tensor:
        normed = F.layer_norm(values, (HIDDEN,), w[f"{first}.weight"], w[f"{first}.bias"])
        return F.linear(F.gelu(normed), w[f"{second}.weight"], w[f"{second}.bias"])

    x = F.linear(x, w["fc1.weight"], w["fc1.bias"])
    x = x + layer(x, "blocks.0.0", "blocks.0.2")
    return layer(x, "final.0", "final.2")


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("upsample", [1, 2])
def test_equals_timm_blocks_and_an_mlp(tmp_path, upsample, qkv_bias):
    head = _random_head(upsample, qkv_bias)
    model = load_model(_path(tmp_path, head, upsample), adaptors=["sam3"], device="cpu")
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        outputs = model(x, feature_fmt="NCHW")
        patches = outputs["backbone"].features.flatten(2).transpose(1, 2)
        expected = _expected(head, patches, qkv_bias)
    if upsample == 2:
        expected = expected.reshape(2, 4, 6, 2, 2, OUTPUT)
        fine = torch.empty(2, OUTPUT, 8, 12)
        for row in range(8):
            for column in range(12):
                fine[:, :, row, column] = expected[:, row // 2, column // 2, row % 2, column % 2]
    else:
        fine = expected.transpose(1, 2).unflatten(2, (4, 6))
    actual = outputs["sam3"].features
    assert actual.shape == (2, OUTPUT, 4 * upsample, 6 * upsample)
    assert (actual - fine).abs().max() < 2e-5 * fine.abs().max()


def test_the_blocks_see_their_own_image_only(tmp_path):
    """The head's attention runs over the patches of one image, also when images are packed."""
    model = load_model(_path(tmp_path, _random_head(1), 1), adaptors=["sam3"], device="cpu")
    images = [torch.rand(3, 64, 96), torch.rand(3, 32, 32)]
    with torch.no_grad():
        packed = model(images)
        for image, output in zip(images, packed, strict=True):
            alone = model(image.unsqueeze(0))["sam3"].features
            assert (output["sam3"].features - alone).abs().max() < 2e-5 * alone.abs().max()


def test_sixteen_heads_need_a_width_of_sixteens(tmp_path):
    from radio import CheckpointError

    odd = random_state(attention_head("x", 36, HIDDEN, OUTPUT))
    head = {n.removeprefix("x."): v for n, v in odd.items()}
    with pytest.raises(CheckpointError, match="width 36 cannot have 16 heads"):
        load_model(_path(tmp_path, head, 1), device="cpu")
