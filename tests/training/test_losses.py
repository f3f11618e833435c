"""Losses against their formulas, on numbers done by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from radio.training.losses import (
    AdaLoss,
    Dispersion,
    angle_loss,
    angles,
    cosine_loss,
    cosine_smooth_l1,
    drop_teachers,
    feature_mse,
)


def test_cosine_loss() -> None:
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    teacher = torch.tensor([[5.0, 0.0], [1.0, 1.0]])
    assert cosine_loss(student, teacher).item() == pytest.approx((1 - math.sqrt(0.5)) / 2)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 1e-3, 0.5, math.pi / 2, 3.0, math.pi])
def test_angles_are_exact_and_have_finite_gradients(angle: float) -> None:
    a = torch.tensor([[7.0, 0.0]], requires_grad=True)
    b = torch.tensor([[0.1 * math.cos(angle), 0.1 * math.sin(angle)]])
    found = angles(a, b)
    found.sum().backward()
    assert found.item() == pytest.approx(angle, abs=2e-7)
    assert a.grad is not None and a.grad.isfinite().all()


def test_angle_loss_is_measured_in_the_teachers_own_dispersion() -> None:
    """Teachers that differ only in how far their summaries spread count the same for errors of their own size."""
    losses = []
    for spread in (0.05, 0.5):
        directions = torch.tensor([[math.cos(a), math.sin(a)] for a in (-spread, spread)])
        dispersion = Dispersion()
        dispersion.update(directions * 3)
        assert dispersion.fit() == pytest.approx(spread**2, rel=1e-5)
        turned = torch.tensor([[math.cos(a), math.sin(a)] for a in (0.0, 0.0)])
        losses.append(angle_loss(turned, directions, dispersion.value).item())
    assert losses == pytest.approx([1, 1], rel=1e-5)


def test_dispersion_is_saved_and_refuses_summaries_that_do_not_spread() -> None:
    dispersion, copy = Dispersion(most=3), Dispersion()
    dispersion.update(torch.eye(4))
    value = dispersion.fit()
    copy.load_state_dict(dispersion.state_dict())
    assert copy.value == value and copy.fit() == value
    with pytest.raises(ValueError, match="no summaries"):
        Dispersion().fit()
    same = Dispersion()
    same.update(torch.ones(5, 3))
    with pytest.raises(ValueError, match="same way"):
        same.fit()


def test_feature_losses() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 3, 4, generator=generator)
    assert torch.allclose(feature_mse(student, teacher), (student - teacher).square().mean())
    cosine = (student * teacher).sum(1) / student.norm(dim=1) / teacher.norm(dim=1)
    expected = (0.9 * (1 - cosine)).mean() + 0.1 * F.smooth_l1_loss(student, teacher)
    assert torch.allclose(cosine_smooth_l1(student, teacher), expected)


def test_masked_positions_have_no_gradient() -> None:
    student = torch.randn(1, 5, 2, 2, requires_grad=True)
    teacher = torch.full((1, 5, 2, 2), torch.nan)
    teacher[..., 0, 1] = 1
    mask = torch.tensor([[[False, True], [False, False]]])
    for loss in (feature_mse, cosine_smooth_l1):
        value = loss(student, torch.where(mask[:, None], teacher, 0), mask)
        [gradient] = torch.autograd.grad(value, student)
        assert gradient[..., 0, 1].abs().min() > 0 and gradient[..., 1, :].abs().max() == 0
    assert feature_mse(student, teacher, mask & False).item() == 0


def test_adaloss_makes_losses_of_any_size_count_the_same() -> None:
    ada = AdaLoss(momentum=0.5)
    assert ada.weight("loud", 100.0) * 100 == pytest.approx(1)
    assert ada.weight("quiet", 0.01) * 0.01 == pytest.approx(1)
    assert ada.weight("loud", 50.0) == pytest.approx(1 / 75)


def test_teacher_dropout_keeps_the_expected_gradient() -> None:
    names = ["a", "b", "c"]
    draws = [drop_teachers(names, 0.6, seed) for seed in range(20000)]
    assert all(any(draw.values()) for draw in draws)
    for name in names:
        assert sum(draw[name] for draw in draws) / len(draws) == pytest.approx(1, abs=0.03)
    assert drop_teachers(names, 0, 1) == {"a": 1, "b": 1, "c": 1}
    assert drop_teachers(names, 0.6, 5) == drop_teachers(names, 0.6, 5)
    with pytest.raises(ValueError, match="probability"):
        drop_teachers(names, 1, 0)
