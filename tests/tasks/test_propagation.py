"""A mask that is carried through frames, where it must end up is known."""

from __future__ import annotations

import pytest
import torch

from radio.tasks.propagation import labels_at_size, propagate_labels


def _moving(steps: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Features of a scene that moves one patch to the right in each frame, and where its object is."""
    scene = torch.randn(32, 8, 20, generator=torch.Generator().manual_seed(0))
    inside = torch.zeros(8, 20, dtype=torch.long)
    inside[2:6, 8:12] = 1
    inside[0:2, 13:15] = 2
    starts = range(steps, -1, -1)
    return [scene[:, :, s : s + 14] for s in starts], [inside[:, s : s + 14] for s in starts]


def test_labels_move_with_what_they_are_on():
    frames, truths = _moving(5)
    mask = truths[0].repeat_interleave(10, 0).repeat_interleave(10, 1)
    found = list(propagate_labels(iter(frames), mask, neighbors=1))
    for shares, truth in zip(found, truths, strict=True):
        assert shares.shape == (3, 8, 14)
        torch.testing.assert_close(shares.sum(dim=0), torch.ones(8, 14))
        known = shares.argmax(dim=0)[:, 5:]  # what came into view since has no label to take
        assert torch.equal(known, truth[:, 5:])
    assert torch.equal(labels_at_size(found[0], (80, 140))[25:55, 35:65], mask[25:55, 35:65])


def test_nothing_is_taken_from_further_away_than_the_radius():
    features = torch.eye(10)[:, None]  # each patch is like itself only
    mask = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    moved = torch.roll(features, 6, dims=2)
    near = list(propagate_labels([features, moved], mask, radius=3, neighbors=1))[1]
    far = list(propagate_labels([features, moved], mask, radius=6, neighbors=1))[1]
    assert near[1, 0, 6] == 0 and far[1, 0, 6] == 1


def test_wrong_arguments_say_what_is_allowed():
    frames, (mask, *_) = _moving(1)
    for changes, message in (
        ({"mask": torch.rand(4, 4)}, "whole numbers"),
        ({"mask": -mask}, "whole numbers from 0"),
        ({"context": 0}, "context must be at least 1"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"features": [frames[0], frames[0][:, :4]]}, "must be of one size"),
    ):
        with pytest.raises(ValueError, match=message):
            list(propagate_labels(**{"features": frames, "mask": mask, **changes}))
