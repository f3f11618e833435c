"""Hadamard matrices of every order that the papers' teachers have, and of every construction."""

from __future__ import annotations

import pytest
import torch

from radio.training import hadamard
from radio.training.hadamard_matrix import has_hadamard

PUBLISHED = (384, 768, 1024, 1152, 1280, 1408, 1536)
CONSTRUCTIONS = {
    "Sylvester": (1, 2, 4, 64),
    "Paley I": (12, 20, 24, 44),
    "Paley I, prime powers": (28, 244),
    "Paley II": (36, 76, 148),
    "Paley II, prime powers": (20, 52, 100, 340),
    "products": (40, 56, 1000, 1056),
}


@pytest.mark.parametrize("order", [*PUBLISHED, *(n for orders in CONSTRUCTIONS.values() for n in orders)])
def test_orthonormal_with_entries_of_one_magnitude(order: int) -> None:
    matrix = hadamard(order, torch.float64)
    assert matrix.shape == (order, order)
    assert torch.allclose(matrix @ matrix.T, torch.eye(order, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(matrix.abs(), torch.full_like(matrix, order**-0.5), atol=1e-15)


def test_every_multiple_of_four_below_a_hundred_but_the_one_of_williamson() -> None:
    missing = [n for n in range(4, 100, 4) if not has_hadamard(n)]
    assert missing == [92]  # found by Baumert, Golomb and Hall in 1962 by another construction


def test_dtype() -> None:
    assert hadamard(12).dtype == torch.float32
    assert hadamard(12, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("order", [0, -4, 3, 6, 10, 770])
def test_orders_that_cannot_exist(order: int) -> None:
    with pytest.raises(ValueError, match=f"order {order}.*multiple of 4"):
        hadamard(order)


def test_orders_without_a_construction_name_their_neighbors() -> None:
    with pytest.raises(ValueError, match="order 92 .* 88, 96"):
        hadamard(92)


@pytest.mark.parametrize("order", [4.0, "4", True])
def test_orders_that_are_not_numbers(order: object) -> None:
    with pytest.raises(TypeError, match="whole number"):
        hadamard(order)  # type: ignore[arg-type]
