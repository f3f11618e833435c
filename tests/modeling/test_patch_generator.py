"""Patches and position embeddings, which are always those of the current weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from radio.modeling.patch_generator import PatchGenerator, flatten_patches

GRID = 8


def _generator(align_corners: bool = False) -> PatchGenerator:
    generator = PatchGenerator(
        dim=12,
        patch_size=4,
        grid_size=GRID,
        num_cls_tokens=2,
        num_registers=1,
        bias=True,
        align_corners=align_corners,
    )
    random = torch.Generator().manual_seed(0)
    for parameter in generator.parameters():
        parameter.data.normal_(generator=random)
    return generator.eval()


def _expected(generator: PatchGenerator, grid: tuple[int, int]) -> torch.Tensor:
    """The definition: resize the float32 square to the larger side, then crop."""
    side = max(grid)
    stored = generator.pos_embed.float().reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2).contiguous()
    resized = F.interpolate(stored, size=(side, side), mode="bilinear", align_corners=generator.align_corners)
    return resized[:, :, : grid[0], : grid[1]].flatten(2).transpose(1, 2)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("grid", [(8, 8), (4, 4), (4, 6), (6, 4), (1, 1), (1, 9), (20, 3)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)
def test_position_embedding_of_any_grid(align_corners, grid, dtype, tolerance):
    generator = _generator(align_corners).to(dtype)
    with torch.inference_mode():
        actual = generator.position_embedding(grid)
    expected = _expected(generator, grid)
    assert actual.shape == (1, grid[0] * grid[1], 12)
    assert actual.dtype == dtype
    assert (actual.float() - expected).abs().max() <= tolerance * expected.abs().max()


def _load(generator: PatchGenerator, assign: bool) -> None:
    state = {name: value * 2 for name, value in generator.state_dict().items()}
    generator.load_state_dict(state, assign=assign)


def _optimiser_step(generator: PatchGenerator) -> None:
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.5)
    generator(torch.rand(1, 3, 16, 24)).square().sum().backward()
    optimizer.step()


def _edit_data(generator: PatchGenerator) -> None:
    generator.pos_embed.data.mul_(3)


def _edit_in_place(generator: PatchGenerator) -> None:
    with torch.no_grad():
        generator.pos_embed.add_(1)


def _replace(generator: PatchGenerator) -> None:
    generator.pos_embed = torch.nn.Parameter(generator.pos_embed.detach() + 1)


CHANGES = {
    "load_state_dict": lambda generator: _load(generator, assign=False),
    "load_state_dict assign": lambda generator: _load(generator, assign=True),
    "double": lambda generator: generator.double(),
    "half": lambda generator: generator.half(),
    "optimizer step": _optimiser_step,
    ".data": _edit_data,
    "in place": _edit_in_place,
    "replaced": _replace,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("grid", [(4, 6), (8, 8)])
def test_position_embeddings_are_never_stale(change, grid):
    generator = _generator()
    with torch.inference_mode():
        before = generator.position_embedding(grid).clone()
    CHANGES[change](generator)
    with torch.inference_mode():
        after = generator.position_embedding(grid)
    assert after.dtype == generator.pos_embed.dtype
    torch.testing.assert_close(after.float(), _expected(generator, grid).detach(), atol=2e-3, rtol=2e-3)
    if change not in ("double", "half"):
        assert not torch.allclose(after.float(), before)


def test_position_embeddings_carry_gradients_after_inference():
    generator = _generator()
    with torch.inference_mode():
        generator.position_embedding((4, 6))
    generator.position_embedding((4, 6)).sum().backward()
    assert generator.pos_embed.grad.abs().sum() > 0


def test_copies_and_pickles_hold_the_weights_only():
    generator = _generator()
    with torch.inference_mode():
        expected = generator.position_embedding((4, 6))
        names = set(generator.state_dict())
        for twin in (copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
            assert torch.equal(twin.position_embedding((4, 6)), expected)
    assert names == {"pos_embed", "embedder.weight", "embedder.bias", "cls_token.token"}


def test_patches_are_flattened_channel_first():
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    patches = flatten_patches(x, 2)
    assert patches.shape == (2, 6, 12)
    assert torch.equal(patches[1, 4], x[1, :, 2:4, 2:4].flatten())


def test_tokens_are_prefix_then_patches():
    generator = _generator()
    x = torch.rand(2, 3, 16, 24)
    with torch.inference_mode():
        tokens = generator(x)
        patches = generator.embedder(flatten_patches(x, 4)) + _expected(generator, (4, 6))
    assert torch.equal(tokens[:, :3], generator.cls_token.token.expand(2, -1, -1))
    torch.testing.assert_close(tokens[:, 3:], patches)
