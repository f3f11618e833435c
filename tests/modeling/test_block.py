"""Blocks on many tokens: with gradients and without, and against float64."""

from __future__ import annotations

import pytest
import torch

from radio.modeling.block import Block


def random_block(**options: bool) -> Block:
    torch.manual_seed(0)
    block = Block(64, 4, 128, **options)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return block


@pytest.mark.parametrize("options", [{}, {"swiglu": True}, {"mlp_norm": True, "layer_scale": True}])
@pytest.mark.parametrize("shape", [(1, 1100, 64), (3, 1050, 64)])
def test_many_tokens_give_the_same_with_gradients_and_without(
    options: dict[str, bool], shape: tuple[int, ...]
) -> None:
    block, x = random_block(**options), torch.randn(shape)
    with_gradients = block(x)
    with torch.inference_mode():
        torch.testing.assert_close(block(x), with_gradients.detach(), rtol=1e-5, atol=1e-5)
    with_gradients.sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


def test_many_tokens_attend_as_in_float64() -> None:
    block, x = random_block(), torch.randn(1, 1100, 64)
    with torch.no_grad():
        attended = block.attn(x)
        precise = block.double().attn(x.double())
    torch.testing.assert_close(attended.double(), precise, rtol=1e-5, atol=1e-5)
