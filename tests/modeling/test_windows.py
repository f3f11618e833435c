"""ViTDet windows: the order of the patches, the schedule, and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from radio import load_model
from radio.modeling.protocol import PassOptions
from radio.modeling.windows import to_raster_order, to_window_order, window_schedule


@pytest.mark.parametrize(("grid", "side"), [((4, 6), 2), ((6, 3), 3), ((8, 8), 8), ((5, 2), 1)])
def test_window_order_lists_window_after_window(grid, side):
    h, w = grid
    raster = torch.arange(h * w).reshape(1, h * w, 1).expand(2, -1, 3)
    expected = [
        (top + y) * w + left + x
        for top in range(0, h, side)
        for left in range(0, w, side)
        for y in range(side)
        for x in range(side)
    ]
    windows = to_window_order(raster, grid, side)
    assert windows[1, :, 2].tolist() == expected
    assert torch.equal(to_raster_order(windows, grid, side), raster)


def _letters(schedule: tuple[bool, ...]) -> str:
    return "".join("w" if windowed else "G" for windowed in schedule)


@pytest.mark.parametrize(
    ("depth", "options", "expected"),
    [
        (12, {}, "wwGwwGwwGwwG"),
        (12, {"num_global": 4}, "wwGwwGwwGwwG"),
        (12, {"num_global": 2}, "wwwwwGwwwwwG"),
        (12, {"num_windowed": 1}, "wGwGwGwGwGwG"),
        (12, {"num_windowed": 5, "num_global": 4}, "wwwwwGwwwwwG"),
        (6, {"num_global": 4}, "GGGGGG"),
        (14, {"num_global": 4}, "wwGwwGwwGwwGwG"),
    ],
)
def test_schedule(depth, options, expected):
    assert _letters(window_schedule(depth, **options)) == expected


@pytest.mark.parametrize("name", ["num_global", "num_windowed"])
def test_schedule_refuses_nonsense(name):
    with pytest.raises(ValueError, match=f"vitdet_{name} must be at least 1, got 0"):
        window_schedule(12, **{name: 0})


def test_a_windowed_block_sees_its_window_only(reference):
    """A change in one window reaches another one in global blocks only."""
    path = reference / "v2_5" / "checkpoint.pth.tar"
    model = load_model(path, device="cpu", vitdet_window_size=2, vitdet_num_global=2)
    first_global = model.windows.schedule.index(False)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    changed = image.clone()
    changed[:, :, :16, :16] = 0
    with torch.inference_mode():
        plain = model.forward_intermediates(image, intermediates_only=True)
        other = model.forward_intermediates(changed, intermediates_only=True)
    for block, (a, b) in enumerate(zip(plain, other, strict=True)):
        differs = (a != b).any(dim=1)[0]
        assert differs[:2, :2].all()
        assert bool(differs[2:, 2:].any()) == (block >= first_global)


class _Operations(TorchDispatchMode):
    """Records the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_windows_cost_two_reorderings_and_no_gather(reference):
    """Beyond global attention there are two copies to reorder patches, and a concatenation per step out of windows."""

    def operations(window: int | None) -> list[str]:
        path = reference / "v2_5" / "checkpoint.pth.tar"
        model = load_model(path, device="cpu", vitdet_window_size=window)
        with torch.inference_mode(), _Operations() as recorded:
            model.backbone(torch.rand(1, 3, 128, 128), PassOptions(model.windows))
        return recorded.names

    windowed, plain = operations(4), operations(None)
    gathers = [[name for name in names if "index" in name or "gather" in name] for names in (windowed, plain)]
    assert gathers[0] == gathers[1]
    steps_out = 4
    extra = {
        name: windowed.count(name) - plain.count(name) for name in ("aten.cat.default", "aten.clone.default")
    }
    assert extra["aten.cat.default"] == steps_out + 2
    assert extra["aten.clone.default"] <= steps_out + 2
