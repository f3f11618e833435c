"""The parts of probes against plain versions and known answers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from radio.tasks.knn import leave_one_out
from radio.tasks.linear import fit_linear
from radio.tasks.probing.fitting import (
    FitOptions,
    _batches,
    depth_loss,
    fit_dense,
    resize_target,
    segmentation_loss,
)
from radio.tasks.probing.heads import DepthHead, SegmentationHead
from radio.tasks.probing.metrics import ClassificationMetrics, DepthMetrics, SegmentationMetrics


def test_the_segmentation_head_is_linear_in_normalized_patches():
    head = SegmentationHead(5, 3).eval()
    head.norm.running_mean.copy_(torch.arange(5.0))
    head.norm.running_var.fill_(4)
    maps = torch.randn(2, 5, 4, 6)
    plain = torch.einsum(
        "kc,bchw->bkhw", head.classify.weight[:, :, 0, 0], (maps - torch.arange(5.0)[:, None, None]) / 2
    )
    assert torch.allclose(head(maps), plain, atol=1e-4)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (8, 4)])
def test_depths_lie_between_the_bins_on_any_grid(grid):
    head = DepthHead(6, 0.5, 4.0, width=8, bins=16)
    depth = head(10 * torch.randn(2, 6, *grid))
    assert depth.shape == (2, 1, 4 * grid[0], 4 * grid[1])
    assert depth.min() >= 0.5 and depth.max() <= 4
    with pytest.raises(ValueError, match="0 < min_depth < max_depth"):
        DepthHead(6, 0, 4)


def test_losses_leave_out_what_is_not_known():
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    labels[:, 0] = 255
    expected = F.cross_entropy(logits[:, :, 1:], labels[:, 1:])
    assert torch.allclose(segmentation_loss(logits, labels), expected)
    assert segmentation_loss(logits, torch.full_like(labels, 255)) == 0

    truth = 1 + torch.rand(1, 6, 6)
    assert depth_loss(truth[:, None], truth) < 2e-3
    scaled = float(
        depth_loss(2 * truth[:, None], truth)
    )  # off by one factor: only the mean counts, and little
    assert scaled == pytest.approx(10 * 0.15**0.5 * math.log(2), rel=1e-3)
    guess = truth[:, None].clone()
    guess[:, :, :2], truth[:, :2] = 9, 0
    assert depth_loss(guess, truth) < 2e-3
    guess.requires_grad_()
    depth_loss(guess, torch.zeros_like(truth)).backward()
    assert guess.grad is not None and not guess.grad.any()


def test_batches_hold_one_grid_and_every_row_once_a_round():
    grids = [(2, 2), (3, 2), (2, 2), (2, 2), (3, 2)]
    batches = _batches(grids, range(5), 2, seed=0)
    first = [next(batches) for _ in range(3)]
    assert sorted(row for batch in first for row in batch) == list(range(5))
    assert all(len({grids[row] for row in batch}) == 1 for batch in first)


def test_training_stops_at_a_loss_that_is_no_number():
    head = SegmentationHead(2, 2)
    nan = torch.full((2, 4, 4), float("nan"))
    target = torch.zeros(8, 8, dtype=torch.long)
    with pytest.raises(ValueError, match="not a number after 1 step; give a smaller learning rate"):
        fit_dense(
            head, lambda row: nan, lambda row: target, [(4, 4)] * 2, [0, 1], segmentation_loss, FitOptions()
        )
    with pytest.raises(ValueError, match="no images"):
        fit_dense(head, lambda row: nan, lambda row: target, [], [], segmentation_loss, FitOptions())


def test_labels_are_never_mixed_when_they_are_resized():
    labels = torch.tensor([[0, 255], [7, 3]])
    larger = resize_target(labels, 4, 6)
    assert larger.dtype == torch.long and torch.equal(
        larger, labels.repeat_interleave(2, 0).repeat_interleave(3, 1)
    )
    assert set(resize_target(torch.randint(0, 2, (37, 53)) * 200, 16, 16).unique().tolist()) <= {0, 200}


def test_a_linear_classifier_is_the_optimum():
    """The penalized loss is convex, so where its gradient is zero it is lowest."""
    generator = torch.Generator().manual_seed(0)
    vectors, labels = torch.randn(80, 6, generator=generator), torch.arange(80) % 3
    vectors[:, :3] += 2 * F.one_hot(labels, 3)
    head = fit_linear(5 * vectors + 3, labels, 3, decay=1e-2)
    weight = head.linear.weight
    loss = F.cross_entropy(head(5 * vectors + 3), labels) + 1e-2 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-3 and head.linear.bias.grad.abs().max() < 1e-3
    assert torch.allclose(head.mean, (5 * vectors + 3).mean(0), atol=1e-5)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\)"):
        fit_linear(vectors, labels, 2)
    with pytest.raises(ValueError, match="one label for each vector"):
        fit_linear(vectors, labels[1:], 3)


def test_leaving_one_out_leaves_out_just_that_one():
    vectors = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    vectors[10:20] = vectors[10]  # equal ones crowd a row out of its own neighbors
    unit = F.normalize(vectors, dim=1)
    plain = (unit @ unit.T).fill_diagonal_(-2).sort(dim=1, descending=True, stable=True)
    found = leave_one_out(vectors, k=4)
    assert found.indices.shape == (50, 4) and not (found.indices == torch.arange(50)[:, None]).any()
    assert torch.allclose(found.similarity, plain.values[:, :4], atol=1e-6)
    assert leave_one_out(vectors, k=100).indices.shape == (50, 49)
    with pytest.raises(ValueError, match="two vectors"):
        leave_one_out(vectors[:1])


def test_measures_of_known_answers():
    pytest.importorskip("torchmetrics")
    classes = ClassificationMetrics(["a", "b", "c"])
    classes.update(torch.eye(3)[[0, 0, 1, 1]], torch.tensor([0, 0, 0, 1]))
    found = classes.compute()
    assert found["top1"] == 0.75 and found["top5"] == 1
    assert found["mean_class_accuracy"] == pytest.approx((2 / 3 + 1) / 2)

    pixels = SegmentationMetrics(["a", "b", "never"])
    pixels.update(torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0, 1], [1, 255]]))
    assert pixels.compute() == {
        "miou": 0.5, "pixel_accuracy": pytest.approx(2 / 3), "iou/a": 0.5, "iou/b": 0.5
    }  # fmt: skip

    depths = DepthMetrics()
    depths.update(torch.tensor([[1.0, 2.0], [3.0, 9.0]]), torch.tensor([[1.0, 4.0], [3.0, 0.0]]))
    depths.update(torch.ones(2, 2), torch.zeros(2, 2))
    assert depths.compute() == pytest.approx({"rmse": (4 / 3) ** 0.5, "abs_rel": 1 / 6, "delta1": 2 / 3})
