"""Mosaics: a fake teacher that tells where it looks finds every cut-out exactly where it should be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from radio.training import Mosaic


def _telling_teacher(canvases: Tensor, stride: int) -> Tensor:
    """Features of a canvas: its number, the absolute row and column, and the mean of the pixels of that position."""
    count, _, height, width = canvases.shape
    rows, columns = height // stride, width // stride
    number = torch.arange(count).reshape(-1, 1, 1).expand(-1, rows, columns)
    row = torch.arange(rows).reshape(1, -1, 1).expand(count, -1, columns)
    column = torch.arange(columns).expand(count, rows, -1)
    seen = torch.nn.functional.avg_pool2d(canvases.mean(1, keepdim=True), stride)[:, 0]
    return torch.stack([number, row, column, seen], dim=1)


def _views(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize(
    ("canvas", "stride", "size", "grid", "tile"),
    [
        (1024, 16, (432, 432), (2, 2), (512, 512)),
        (1024, 16, (256, 256), (4, 4), (256, 256)),
        (1024, 16, (336, 336), (3, 3), (336, 336)),  # 21 positions a tile; one is left over at the edge
        (1024, 16, (1024, 1024), (1, 1), (1024, 1024)),
        (1024, 16, (256, 512), (4, 2), (256, 512)),
        (504, 14, (252, 168), (2, 3), (252, 168)),
        ((96, 160), 16, (48, 48), (2, 3), (48, 48)),
    ],
)
def test_cut_outs_are_exactly_where_they_should_be(canvas, stride, size, grid, tile) -> None:
    mosaic = Mosaic(canvas, stride)
    assert mosaic.tiles(*size) == grid
    per_canvas = grid[0] * grid[1]
    views = _views(per_canvas + 1, *size)
    canvases, placements = mosaic.compose(views)
    assert len(canvases) == 2
    cuts = mosaic.cut(_telling_teacher(canvases, stride), placements)
    assert len(cuts) == len(views)
    for i, (view, cut) in enumerate(zip(views, cuts, strict=True)):
        assert cut.shape == (4, size[0] // stride, size[1] // stride)
        row, column = divmod(i % per_canvas, grid[1])
        assert (cut[0] == i // per_canvas).all()
        assert cut[1, 0, 0] == row * tile[0] // stride and cut[2, 0, 0] == column * tile[1] // stride
        assert torch.equal(cut[1, :, 0] - cut[1, 0, 0], torch.arange(size[0] // stride).float())
        assert torch.allclose(cut[3], torch.nn.functional.avg_pool2d(view.mean(0)[None], stride)[0])


def test_the_rest_of_a_canvas_is_zero() -> None:
    canvases, placements = Mosaic(1024, 16).compose(_views(5, 432, 432))
    assert canvases.shape == (2, 3, 1024, 1024)
    assert int((canvases != 0).sum()) == 5 * 3 * 432 * 432
    assert canvases[1, :, 432:].abs().max() == 0 and placements[4][:3] == (1, 0, 0)


def test_views_of_several_sizes_share_canvases() -> None:
    views = [_views(1, *size)[0] for size in ((64, 32), (32, 48), (16, 64), (64, 64), (48, 16))]
    canvases, placements = Mosaic(128, 16).compose(views)
    assert len(canvases) == 2
    cuts = Mosaic(128, 16).cut(_telling_teacher(canvases, 16), placements)
    for view, cut in zip(views, cuts, strict=True):
        assert torch.allclose(cut[3], torch.nn.functional.avg_pool2d(view.mean(0)[None], 16)[0])


def test_one_pass_instead_of_many() -> None:
    canvases, _ = Mosaic(1024, 16).compose(_views(16, 256, 256))
    assert len(canvases) == 1


def test_dtype_and_gradients_pass_through() -> None:
    views = _views(4, 32, 32).bfloat16()
    assert Mosaic(64, 16).compose(views)[0].dtype == torch.bfloat16
    views = _views(5, 32, 32).requires_grad_()
    mosaic = Mosaic(64, 16)
    canvases, placements = mosaic.compose(views)
    cuts = mosaic.cut(torch.nn.functional.avg_pool2d(canvases, 16), placements)
    cuts[4].sum().backward()
    assert views.grad is not None
    assert torch.allclose(views.grad[4], torch.full((3, 32, 32), 1 / 256))
    assert views.grad[:4].abs().max() == 0


def test_wrong_use_is_told() -> None:
    with pytest.raises(ValueError, match="whole strides of 16 px"):
        Mosaic(1000, 16)
    mosaic = Mosaic(64, 16)
    with pytest.raises(ValueError, match="24 x 32 px are not made of whole strides"):
        mosaic.compose(_views(1, 24, 32))
    with pytest.raises(ValueError, match="larger than the canvas"):
        mosaic.compose(_views(1, 80, 32))
    with pytest.raises(ValueError, match="at least one view"):
        mosaic.compose([])
    _, placements = mosaic.compose(_views(5, 32, 32))
    with pytest.raises(ValueError, match="expected feature maps \\(K, C, 4, 4\\)"):
        mosaic.cut(torch.zeros(2, 8, 5, 4), placements)
    with pytest.raises(ValueError, match="2 canvases, but there are 1"):
        mosaic.cut(torch.zeros(1, 8, 4, 4), placements)
