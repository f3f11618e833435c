"""Grids, schedules, spectral reparametrization and partitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from radio.checkpoints.spectral import fold_spectral
from radio.training.grids import Box, align, match_grids, shifted_box
from radio.training.partition import Group, assign, teacher_weights
from radio.training.schedules import cosine_rate, draw_size, draw_window
from radio.training.spectral import fold, reparametrize


def test_grids_meet_at_the_coarser_one() -> None:
    ramp = torch.linspace(0, 1, 8).expand(1, 1, 6, 8)
    student, teacher = match_grids(ramp, torch.zeros(1, 3, 3, 16))
    assert student.shape == (1, 1, 3, 8) and teacher.shape == (1, 3, 3, 8)
    assert torch.allclose(student[0, 0, 0], ramp[0, 0, 0])
    assert match_grids(ramp, ramp)[0] is ramp


def _coordinates(box: Box, rows: int, columns: int) -> torch.Tensor:
    """Features that are the place in the image: (1, 2, rows, columns)."""
    y = box.top + (torch.arange(rows) + 0.5) / rows * (box.bottom - box.top)
    x = box.left + (torch.arange(columns) + 0.5) / columns * (box.right - box.left)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))[None]


@pytest.mark.parametrize("seed", range(5))
def test_shifted_crops_are_compared_where_both_see_the_image(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole, top, left, seen = shifted_box(256, 16, 4, generator)
    assert whole == 320 and top % 16 == left % 16 == 0 and top <= 64
    _, _, _, taught = shifted_box(224, 14, 4, generator)
    aligned, mask = align(_coordinates(seen, 16, 16), seen, _coordinates(taught, 16, 16), taught)
    error = (aligned - _coordinates(taught, 16, 16)).abs().amax(1)
    assert error[mask].max() < 1e-5
    assert mask.float().mean() > 0.4
    inside = _coordinates(taught, 16, 16)[0]
    assert (inside[0] > seen.bottom)[mask[0]].sum() == 0


def test_an_artifact_at_a_fixed_position_cannot_be_learned() -> None:
    """A teacher whose first position is always spoilt: at random shifts its error averages out over the image."""
    generator = torch.Generator().manual_seed(0)
    places = set()
    for _ in range(60):
        _, _, _, seen = shifted_box(128, 16, 4, generator)
        _, _, _, taught = shifted_box(128, 16, 4, generator)
        spoilt = torch.zeros(1, 1, 8, 8)
        spoilt[..., 2, 2] = 1
        _, mask = align(torch.zeros(1, 1, 8, 8), seen, spoilt, taught)
        if mask[0, 2, 2]:
            places.add((round((taught.top - seen.top) * 12) + 2, round((taught.left - seen.left) * 12) + 2))
    assert len(places) > 20


def test_schedules_depend_on_the_step_alone() -> None:
    sizes = [draw_size((128, 256, 512), 7, step) for step in range(300)]
    assert set(sizes) == {128, 256, 512} and sizes == [draw_size((128, 256, 512), 7, s) for s in range(300)]
    assert sizes != [draw_size((128, 256, 512), 8, s) for s in range(300)]
    for step in range(50):
        window, size = draw_window((6, 7, 8, 9, 12, 16), 432, 16, 0, step)
        assert window is not None and size % (window * 16) == 0 and abs(size - 432) <= window * 8
    assert draw_window((), 432, 16, 0, 0) == (None, 432)


def test_learning_rate() -> None:
    rates = [cosine_rate(step, 100, 10) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1 and rates[99] < 0.001
    assert rates[55] == pytest.approx(0.5)


class _Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.ModuleDict({"w12": nn.Linear(8, 32)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        a, b = self.mlp["w12"](self.proj(q * k + v)).chunk(2, -1)
        return a * b


def test_spectral_reparametrization_changes_nothing_at_first_and_bounds_weights_later() -> None:
    torch.manual_seed(0)
    plain = _Fused()
    x = torch.randn(3, 8)
    before = plain(x)
    module = reparametrize(plain).eval()
    assert torch.allclose(module(x), before, atol=1e-4)
    with torch.no_grad():
        module.qkv.parametrizations.weight.original.mul_(100)  # whatever W grows to, scale · W/σ stays
    module.train()
    for _ in range(10):
        module(x)
    module.eval()
    assert torch.allclose(module(x), before, atol=1e-3)
    scales = module.qkv.parametrizations.weight[0].parts
    for part, scale in zip(module.qkv.weight.chunk(3), scales, strict=True):
        assert torch.linalg.matrix_norm(part, 2).item() == pytest.approx(scale.scale.item(), rel=1e-3)


def test_folding_spectral_weights_here_and_when_a_file_is_loaded() -> None:
    torch.manual_seed(0)
    module = reparametrize(_Fused())
    x = torch.randn(3, 8)
    for _ in range(200):  # power iterations, until one more changes nothing: a loader makes one
        module(x)
    module(x).sum().backward()
    module.eval()
    expected = module(x)
    by_loader = fold_spectral({k: v.detach().clone() for k, v in module.state_dict().items()}, None)
    folded = fold(module)
    assert torch.allclose(folded(x), expected, atol=1e-6)
    assert set(folded.state_dict()) == set(_Fused().state_dict()) == set(by_loader)
    for name, value in folded.state_dict().items():
        assert torch.allclose(by_loader[name], value, atol=1e-4)


def test_partitioned_gradients_are_those_of_all_images() -> None:
    """Each teacher's gradient: the mean over the images it saw, whatever the groups are."""
    groups = [Group((256,), 6, ("a", "b"), processes=2), Group((512,), 2, ("b", "c"))]
    assert assign([Group((256,), 6, ("a", "b"), processes=2), Group((512,), 2, ("b", "c"))], 3) == [0, 0, 1]
    images = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0]]
    averaged = dict.fromkeys("abc", 0.0)
    for rank, values in enumerate(images):
        for name, weight in teacher_weights(groups, 3, rank, ["a", "b", "c"]).items():
            averaged[name] += weight * sum(values) / len(values) / 3
    assert averaged["a"] == pytest.approx(3.5)
    assert averaged["b"] == pytest.approx(4.5)
    assert averaged["c"] == pytest.approx(7.5)


def test_partitions_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="3 processes cannot be shared out as 1 : 1"):
        assign([Group((256,), 2), Group((512,), 2)], 3)
    with pytest.raises(ValueError, match="batch of 3 cannot be shared among 2"):
        assign([Group((256,), 3)], 2)
    with pytest.raises(ValueError, match="names the teacher 'x'"):
        teacher_weights([Group((256,), 2, ("x",))], 1, 0, ["a"])
    assert teacher_weights([Group((256,), 2, ("a",))], 1, 0, ["a", "b"]) == {"a": 1.0, "b": 0.0}
