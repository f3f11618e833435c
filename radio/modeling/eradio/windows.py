"""How large E-RADIO's windows are for images of a size. All sides are in positions of the deepest level, 32 pixels."""

from __future__ import annotations

STEP = 32
"""Pixels of a position of the deepest level: what height and width must be multiples of."""

LARGEST = 16
SMALLEST = 8
"""The sides between which the rules choose."""


def optimal_window(height: int, width: int) -> int:
    """The largest divisor, up to 16, of the image's shorter side: the rule of the public code.

    The map is never resized along that side. Where it has no useful divisor (544, 608, 736, 928 and 992 pixels) the
    side is 1, and every position attends to itself alone.
    """
    shorter = min(height, width) // STEP
    return max(side for side in range(1, LARGEST + 1) if shorter % side == 0)


def balanced_window(height: int, width: int) -> int:
    """The side from 8 to 16 with which the map grows least when it is resized to whole windows; the larger of equals.

    A map smaller than 8 is one window. From 224 pixels on the map grows by 57 % at most, a square one by 12 %.
    """
    rows, columns = height // STEP, width // STEP
    smallest = min(SMALLEST, max(rows, columns))

    def resized(side: int) -> int:
        return -(-rows // side) * -(-columns // side) * side * side

    return min(range(LARGEST, smallest - 1, -1), key=resized)


WINDOW_RULES = {"optimal": optimal_window, "balanced": balanced_window}
"""The rules by name."""
