"""Best buddies, against pairs that are known."""

from __future__ import annotations

import pytest
import torch

from radio.tasks.matching import Matches, best_buddies, spread_out


def test_a_moved_image_is_found_again():
    first = torch.randn(16, 6, 8, generator=torch.Generator().manual_seed(0))
    second = torch.roll(first, shifts=(1, 2), dims=(1, 2)) * 3  # lengths do not matter
    matches = best_buddies(first, second)
    assert len(matches.first) == 48 and (matches.similarity > 0.999).all()
    assert torch.equal((matches.first + torch.tensor([1, 2])) % torch.tensor([6, 8]), matches.second)


def test_buddies_are_mutual_and_ordered():
    first = torch.tensor([[1.0, 0.0, 0.9], [0.0, 1.0, 0.3]])[:, None]
    second = torch.tensor([[1.0, 0.28], [0.0, 0.96]])[:, None]
    matches = best_buddies(first, second)  # the third patch of the first likes one that likes another
    assert matches.first.tolist() == [[0, 0], [0, 1]] and matches.second.tolist() == [[0, 0], [0, 1]]
    torch.testing.assert_close(matches.similarity, torch.tensor([1.0, 0.96]))


def test_only_chosen_patches_take_part():
    features = torch.eye(4).view(4, 2, 2)
    where = torch.tensor([[True, False], [False, True]])
    assert best_buddies(features, features, where).first.tolist() == [[0, 0], [1, 1]]
    assert len(best_buddies(features, features, where, torch.zeros(2, 2, dtype=torch.bool)).first) == 0
    with pytest.raises(ValueError, match=r"mask is \(3, 2\) but the features have \(2, 2\)"):
        best_buddies(features, features, torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="of one width"):
        best_buddies(features, torch.zeros(3, 2, 2))


def test_shown_matches_lie_apart():
    features = torch.randn(16, 12, 12, generator=torch.Generator().manual_seed(0))
    shown = spread_out(best_buddies(features, features), 9, (12, 12))
    assert len(shown.first) == len(shown.similarity) == 9
    distances = torch.cdist(shown.first.float(), shown.first.float()) + 99 * torch.eye(9)
    assert distances.min() > 1.4
    assert len(spread_out(best_buddies(features, features), 1000, (12, 12)).first) <= 144


def test_a_grid_of_few_patches_shows_its_pairs_too() -> None:
    def matches(places: list[tuple[int, int]]) -> Matches:
        at = torch.tensor(places)
        return Matches(at, at, torch.ones(len(places)))

    assert spread_out(matches([(0, 0)]), 40, (1, 1)).first.tolist() == [[0, 0]]
    few = spread_out(matches([(0, 0), (0, 1), (1, 1), (2, 2)]), 40, (3, 3))
    assert few.first.tolist() == [[0, 0], [1, 1], [2, 2]]
