"""What prompts give."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from radio.modeling.outputs import describe_fields
from radio.tasks.promptable.canvas import box_of


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of one image.

    Attributes:
        mask: (N, H, W) bool, in the image's own pixels.
        score: (N,) float32, how well the decoder thinks that each one fits: its predicted IoU (intersection over
            union with the object's true mask). For a concept in words, the probability that it is an instance of it.
        prompt: (N,) int64, the number of the prompt or concept that each one answers.
    """

    mask: Tensor
    score: Tensor
    prompt: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def __repr__(self) -> str:
        return describe_fields("Masks", {"mask": self.mask, "score": self.score, "prompt": self.prompt})

    @property
    def area(self) -> Tensor:
        """(N,) int64, pixels."""
        return self.mask.flatten(1).sum(dim=1)

    @property
    def box(self) -> Tensor:
        """(N, 4) int64: the left, top, right and bottom pixel that belongs to each mask; zeros for an empty one."""
        return box_of(self.mask)
