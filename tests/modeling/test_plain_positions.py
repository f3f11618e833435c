"""Plain ViTs (RADIOv1 era) resize their position embeddings as timm does."""

from __future__ import annotations

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from radio.modeling.patch_generator import resize_plain_position_embedding


@pytest.mark.parametrize("grid", [(4, 6), (27, 27), (12, 5)])
@pytest.mark.parametrize("prefix", [0, 1])
def test_equals_timm(grid, prefix):
    pos_embed = torch.randn(1, prefix + 9 * 9, 8)
    expected = resample_abs_pos_embed(pos_embed, list(grid), [9, 9], num_prefix_tokens=prefix)
    assert torch.allclose(resize_plain_position_embedding(pos_embed, grid, 9, prefix), expected, atol=1e-6)


def test_the_stored_grid_is_used_as_it_is():
    pos_embed = torch.randn(1, 82, 8)
    assert resize_plain_position_embedding(pos_embed, (9, 9), 9, 1) is pos_embed
