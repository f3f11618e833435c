"""Prompts: what a user points at, and how they become tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from radio.tasks.promptable.canvas import Canvas
from radio.wording import counted

Point = tuple[float, float]
"""x and y in pixels of the image, from its upper left corner."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels of the image."""


@dataclass(frozen=True)
class Prompt:
    """One object that a mask is wanted of: points, a box, or both.

    Attributes:
        points: Pixels (x, y) of the image.
        labels: Of each point, 1 if it belongs to the object and 0 if not; all belong by default.
        box: Left, top, right and bottom of a box around the object.

    Raises:
        ValueError: There is neither a point nor a box, labels do not fit the points, or the box is empty.
    """

    points: Sequence[Point] = ()
    labels: Sequence[int] | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        if not len(self.points) and self.box is None:
            raise ValueError("a prompt needs a point or a box, as Prompt(points=[(120, 80)])")
        if any(len(point) != 2 for point in self.points):
            raise ValueError(f"a point is x and y, got {list(self.points)}")
        if self.labels is not None and len(self.labels) != len(self.points):
            raise ValueError(f"{counted(len(self.points), 'point')} but {counted(len(self.labels), 'label')}")
        if any(label not in (0, 1) for label in self.labels or ()):
            raise ValueError(f"a label is 1 (belongs to the object) or 0 (does not), got {self.labels}")
        if self.box is not None and (
            len(self.box) != 4 or self.box[0] >= self.box[2] or self.box[1] >= self.box[3]
        ):
            raise ValueError(f"a box is its left, top, right and bottom in that order, got {tuple(self.box)}")

    @property
    def is_ambiguous(self) -> bool:
        """Whether it is a single point, which may mean a part or the whole."""
        return len(self.points) == 1 and self.box is None


class PromptBatch(NamedTuple):
    """Prompts of one form as a mask decoder takes them, in pixels of the square.

    Attributes:
        numbers: Which prompts these are.
        points: (N, K, 2), or None.
        labels: (N, K) int64, or None.
        boxes: (N, 4), or None.
        ambiguous: Whether each is a single point.
    """

    numbers: list[int]
    points: Tensor | None
    labels: Tensor | None
    boxes: Tensor | None
    ambiguous: bool


def batches(
    prompts: Sequence[Prompt], canvas: Canvas, size: int, device: torch.device
) -> Iterator[PromptBatch]:
    """Prompts of one form together, so that none needs padding, which would change what a decoder answers.

    Raises:
        ValueError: A point or a box lies outside of the image.
    """
    forms: dict[tuple[int, bool], list[int]] = {}
    for number, prompt in enumerate(prompts):
        _check_inside(prompt, canvas)
        forms.setdefault((len(prompt.points), prompt.box is not None), []).append(number)
    for (count, has_box), numbers in forms.items():
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            chosen = [prompts[number] for number in part]
            points = _tensor([list(prompt.points) for prompt in chosen], device) if count else None
            labels = [list(prompt.labels or [1] * count) for prompt in chosen] if count else None
            boxes = _tensor([prompt.box for prompt in chosen], device).view(-1, 2, 2) if has_box else None
            yield PromptBatch(
                part,
                None if points is None else canvas.to_canvas(points),
                None if labels is None else torch.tensor(labels, device=device),
                None if boxes is None else canvas.to_canvas(boxes).flatten(1),
                chosen[0].is_ambiguous,
            )


def _tensor(values: list, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _check_inside(prompt: Prompt, canvas: Canvas) -> None:
    height, width = canvas.image_size
    corners = [] if prompt.box is None else [prompt.box[:2], prompt.box[2:]]
    for x, y in prompt.points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"the point {x}, {y} lies outside of the image of {width} x {height} pixels (x, y)"
            )
    for x, y in corners:
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(
                f"the box {tuple(prompt.box or ())} lies outside of the image of {width} x {height} pixels (x, y)"
            )
