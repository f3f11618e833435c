"""What one teacher asks of the student: its targets, how they are balanced, and the losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from radio.modeling.outputs import RadioOutput
from radio.training.data import resize
from radio.training.grids import Box, align, match_grids, shifted_box
from radio.training.losses import Dispersion, angle_loss, cosine_loss, cosine_smooth_l1, feature_mse
from radio.training.mosaic import Mosaic
from radio.training.recipe import LossRecipe, TeacherRecipe
from radio.training.standardization import Standardization
from radio.training.teachers import Teacher, TeacherOutput

WHOLE = Box(0, 0, 1, 1)


class Target(NamedTuple):
    """A teacher's output for a batch, and the part of the images that it saw."""

    output: TeacherOutput
    seen: Box


class Objective:
    """One teacher in a run.

    Args:
        recipe: Of the teacher.
        teacher: The frozen model.
        losses: Which losses.

    Attributes:
        standardization: Of its features.
        dispersion: Of its summaries, for the angle loss.
        passes: How often the teacher ran, in images or canvases.
    """

    def __init__(self, recipe: TeacherRecipe, teacher: Teacher, losses: LossRecipe) -> None:
        self.recipe, self.teacher, self.losses = recipe, teacher, losses
        self.standardization = Standardization(recipe.standardization, teacher.feature_dim)  # type: ignore[arg-type]
        self.dispersion = Dispersion()
        self.mosaic = Mosaic(teacher.size, teacher.stride) if recipe.mosaic else None
        self.passes = 0
        if recipe.use_summary and not teacher.summary_dim:
            raise ValueError(f"teacher {recipe.name!r} has no summary; set use_summary = false")

    @property
    def name(self) -> str:
        """The teacher's name."""
        return self.recipe.name

    def side(self, student_side: int) -> int:
        """Side of the square that this teacher needs of every image, for a student of that side."""
        if self.mosaic is not None:
            return self._view(student_side)
        return self.teacher.size + self.recipe.shift * self.teacher.stride

    def _view(self, student_side: int) -> int:
        stride = self.teacher.stride
        return min(max(1, round(student_side / stride)) * stride, self.teacher.size)

    def target(
        self, pixels: Tensor, names: Sequence[str], student_side: int, generator: torch.Generator
    ) -> Target:
        """Run the teacher on a batch.

        Args:
            pixels: (B, 3, S, S) in [0, 1]; resized as the teacher needs it.
            names: Of the images.
            student_side: Side at which the student sees them.
            generator: For random offsets.
        """
        if self.mosaic is not None:
            views = resize(pixels, self._view(student_side))
            canvases, placements = self.mosaic.compose(views)
            self.passes += len(canvases)
            maps = self.teacher(canvases).features
            return Target(TeacherOutput(None, torch.stack(self.mosaic.cut(maps, placements))), WHOLE)
        self.passes += len(pixels)
        cut, seen = cut_out(pixels, self.teacher.size, self.teacher.stride, self.recipe.shift, generator)
        return Target(self.teacher(cut, names), seen)

    def update(self, target: Target) -> None:
        """Take a target into the statistics.

        Raises:
            ValueError: The teacher's features are not finite.
        """
        try:
            self.standardization.update(target.output.features.movedim(1, -1))
        except ValueError as error:
            raise ValueError(f"teacher {self.name!r}: {error}") from error
        if target.output.summary is not None:
            self.dispersion.update(target.output.summary)

    def fit(self) -> None:
        """Make the balance from the statistics, over all processes."""
        self.standardization.fit()
        if self.recipe.use_summary and self.losses.summary == "angle":
            self.dispersion.fit()

    def loss(self, student: RadioOutput, seen: Box, target: Target) -> dict[str, Tensor]:
        """Unweighted losses of a batch by kind: ``"features"``, and ``"summary"`` where it is taught.

        Args:
            student: The output of this teacher's adaptor, features (B, C, h, w) in balanced space.
            seen: The part of the images that the student saw.
            target: From `target`.
        """
        theirs, mask = target.output.features.float(), None
        if seen == target.seen:
            # Balancing is affine, so that it may follow the resampling; a coarse grid has fewer positions to rotate.
            ours, theirs = match_grids(student.features.float(), theirs)
        else:
            ours, mask = align(student.features, seen, theirs, target.seen)
        balanced = self.standardization.standardize(theirs.movedim(1, -1), torch.float32)
        theirs = balanced.movedim(-1, 1)
        compare = feature_mse if self.losses.features == "mse" else cosine_smooth_l1
        found = {"features": compare(ours, theirs, mask)}
        if self.recipe.use_summary:
            assert target.output.summary is not None
            if self.losses.summary == "angle":
                found["summary"] = angle_loss(student.summary, target.output.summary, self.dispersion.value)
            else:
                found["summary"] = cosine_loss(student.summary, target.output.summary)
        return found

    def weight(self, kind: str) -> float:
        """The recipe's factor of a loss."""
        return self.recipe.summary_weight if kind == "summary" else self.recipe.feature_weight

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs."""
        return {
            "standardization": self.standardization.state_dict(),
            "dispersion": self.dispersion.state_dict(),
            "passes": self.passes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.standardization.load_state_dict(state["standardization"])
        self.dispersion.load_state_dict(state["dispersion"])
        self.passes = state["passes"]


def cut_out(
    pixels: Tensor, side: int, step: int, shift: int, generator: torch.Generator
) -> tuple[Tensor, Box]:
    """Squares of that side from a batch: all of the images, or at a random offset of at most `shift` steps."""
    if not shift:
        return resize(pixels, side), WHOLE
    whole, top, left, seen = shifted_box(side, step, shift, generator)
    return resize(pixels, whole)[:, :, top : top + side, left : left + side].contiguous(), seen
