"""How many tokens stay, in Python integers, so that no tensor shape ever depends on data."""

from __future__ import annotations

from collections.abc import Sequence

from radio.modeling.outputs import Grid

Stride = tuple[int, int]


def num_destinations(grid: Grid, stride: Stride) -> int:
    """Number of `sy x sx` cells on the grid, counting the partial cells at its right and bottom border."""
    return -(-grid[0] // stride[0]) * -(-grid[1] // stride[1])


def smallest_stride(grid: Grid, keep: int) -> Stride:
    """The smallest square stride, from `(2, 2)` up, that has at most `keep` cells on the grid."""
    side = 2
    while num_destinations(grid, (side, side)) > keep:
        side += 1
    return side, side


def default_stride(grid: Grid, keep: int) -> Stride:
    """The smallest square stride whose destinations are at most two thirds of the tokens that stay.

    The last third is room for sources that resemble no destination: merged to 576 of 2304 tokens, photographs lose
    less with (3, 3) than with (2, 2), which leaves no room (benchmarks/token_merging.md).
    """
    return smallest_stride(grid, max(1, keep * 2 // 3))


def check_request(keep: int | None, ratio: float | None, r: int | None, at_most: int | None = None) -> None:
    """Check what can be checked before the grid is known.

    Raises:
        ValueError: Not exactly one of the four is given, or it is out of range on every grid.
    """
    named = (("keep", keep), ("ratio", ratio), ("r", r), ("at_most", at_most))
    given = {name: value for name, value in named if value is not None}
    if len(given) != 1:
        got = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(
            "give exactly one of keep (tokens that stay), ratio (share that is removed), r (tokens that are removed) "
            f"and at_most (as keep, but smaller grids stay as they are); got {got or 'none of them'}"
        )
    for name, value in given.items():
        if name != "ratio" and not isinstance(value, int):
            raise ValueError(f"{name}={value!r} is impossible: it is a whole number of tokens (an int)")
    for name, kept in (("keep", keep), ("at_most", at_most)):
        if kept is not None and kept < 1:
            raise ValueError(f"{name}={kept} is impossible: at least one token stays")
    if ratio is not None and not 0 <= ratio < 1:
        raise ValueError(
            f"ratio={ratio} is impossible: it is the share of tokens to remove, at least 0 and below 1"
        )
    if r is not None and r < 0:
        raise ValueError(f"r={r} is impossible: it is the number of tokens to remove, at least 0")


def check_stride(stride: Stride | None) -> None:
    """Raise ValueError unless the stride is None or a pair of positive integers."""
    if stride is None:
        return
    is_pair = isinstance(stride, Sequence) and len(stride) == 2
    if not is_pair or not all(isinstance(side, int) and side >= 1 for side in stride):
        raise ValueError(
            f"stride={stride!r} is impossible: give (rows, columns) of a cell, both whole numbers of at least 1, "
            "e.g. (2, 2)"
        )


def resolve(
    grid: Grid, keep: int | None, ratio: float | None, r: int | None, stride: Stride | None
) -> tuple[int, Stride]:
    """Turn a request into `(number of tokens that stay, stride)` for one grid.

    Args:
        grid: Rows and columns of tokens.
        keep: Number of tokens that stay.
        ratio: Share of tokens that is removed; `round(ratio * rows * columns)` tokens go.
        r: Number of tokens that are removed.
        stride: Cell size `(rows, columns)`, or None for `default_stride`.

    Raises:
        ValueError: The request is contradictory, or impossible on this grid with this stride.
    """
    check_request(keep, ratio, r)
    check_stride(stride)
    total = grid[0] * grid[1]
    if keep is not None:
        wanted = keep
    elif ratio is not None:
        wanted = total - round(ratio * total)
    else:
        assert r is not None
        wanted = total - r
    if wanted > total:
        raise ValueError(
            f"{_request(keep, ratio, r)} is impossible on {_size(grid)}: at most keep={total} (nothing merged)"
        )
    if wanted < 1:
        raise ValueError(
            f"{_request(keep, ratio, r)} is impossible on {_size(grid)}: it leaves no token; "
            f"remove at most {total - 1}"
        )
    if stride is None:
        return wanted, default_stride(grid, wanted)
    fewest = num_destinations(grid, stride)
    if wanted < fewest:
        needed = smallest_stride(grid, wanted)
        raise ValueError(
            f"{_request(keep, ratio, r)} leaves {wanted} of {_size(grid)}, but stride={tuple(stride)} always "
            f"keeps one token in each of its {fewest} cells; "
            f"the smallest with this stride is keep={fewest}, r={total - fewest}; "
            f"use stride={needed} or larger, or leave stride out to have it chosen"
        )
    return wanted, (stride[0], stride[1])


def _request(keep: int | None, ratio: float | None, r: int | None) -> str:
    """What was asked for, as it was written."""
    given = (("keep", keep), ("ratio", ratio), ("r", r))
    return ", ".join(f"{name}={value}" for name, value in given if value is not None)


def _size(grid: Grid) -> str:
    return f"a {grid[0]}x{grid[1]} grid of {grid[0] * grid[1]} tokens"
