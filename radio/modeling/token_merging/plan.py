"""What was merged into what, and the two directions: many tokens to few, few tokens to many."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from radio.modeling.outputs import Grid, describe_fields

Mode = Literal["mean", "sum", "max"]
MODES = ("mean", "sum", "max")


def check_mode(mode: str) -> None:
    """Raise ValueError unless `mode` is one of the ways in which tokens merge."""
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; allowed: {', '.join(MODES)}")


class MergePlan(NamedTuple):
    """Which of L tokens merged into which of K, for every image of a batch.

    Attributes:
        assignment: (B, L) int64: the merged token, 0 to K - 1, that each input token went into.
        source_sizes: (B, L) float32: how many patches each input token stood for.
        sizes: (B, K) float32: how many patches each merged token stands for.
        grid: Rows and columns of the L input tokens.
    """

    assignment: Tensor
    source_sizes: Tensor
    sizes: Tensor
    grid: Grid

    def __repr__(self) -> str:
        return describe_fields("MergePlan", self._asdict())

    @classmethod
    def from_assignment(
        cls, assignment: Tensor, kept: int, grid: Grid, sizes: Tensor | None = None
    ) -> MergePlan:
        """Complete an assignment (B, L) to `kept` tokens; `sizes` (B, L) before the merge, None for one
        each."""
        source_sizes = (
            torch.ones(assignment.shape, device=assignment.device) if sizes is None else sizes.float()
        )
        empty = source_sizes.new_zeros((assignment.shape[0], kept))
        return cls(
            assignment, source_sizes, empty.scatter_add(1, assignment, source_sizes), (grid[0], grid[1])
        )

    def reduce(self, x: Tensor, mode: Mode = "mean") -> Tensor:
        """Merge any other tensor with one entry per input token in the same way.

        Args:
            x: (B, L) or (B, L, ...), e.g. the features of another layer or one-hot labels.
            mode: `"mean"` weighs every input token by the number of patches it stands for; `"sum"` and
                `"max"` do not weigh. Half-precision tensors are accumulated in float32.

        Returns:
            (B, K) or (B, K, ...), of the dtype of `x`. Gradients flow to `x`. A token that nothing merged
            into comes out as it was. (A GPU adds in any order, so the last bits of sums vary between runs unless
            `torch.use_deterministic_algorithms(True)` is set.)

        Raises:
            ValueError: `x` does not have B and L in front, `mode` is unknown, or a mean of integers is
                asked for.
        """
        check_mode(mode)
        self._check(x, self.assignment.shape, "reduce")
        batch, length = self.assignment.shape
        kept = self.sizes.shape[1]
        rest = x.shape[2:]
        values = x.reshape(batch, length, -1)
        if mode == "max":
            index = self.assignment[:, :, None].expand_as(values)
            empty = values.new_zeros((batch, kept, values.shape[2]))
            return empty.scatter_reduce(1, index, values, "amax", include_self=False).reshape(
                batch, kept, *rest
            )
        if mode == "mean":
            if not x.is_floating_point():
                raise ValueError(
                    f"mode='mean' needs a floating-point tensor, got {x.dtype}; "
                    "convert it, or use 'sum' or 'max'"
                )
            weights = self.source_sizes / self.sizes.gather(1, self.assignment)
            values = values.to(torch.promote_types(x.dtype, torch.float32)) * weights[:, :, None]
        elif x.is_floating_point():
            values = values.to(torch.promote_types(x.dtype, torch.float32))
        rows = self.assignment + kept * torch.arange(batch, device=x.device)[:, None]
        total = values.new_zeros((batch * kept, values.shape[2])).index_add(
            0, rows.flatten(), values.flatten(0, 1)
        )
        return total.reshape(batch, kept, *rest).to(x.dtype)

    def unmerge(self, x: Tensor) -> Tensor:
        """Give every input token the value of the merged token that it went into.

        Args:
            x: (B, K) or (B, K, ...), e.g. the merged features or what a language model predicted for them.

        Returns:
            (B, L) or (B, L, ...), in raster order, so `.reshape(B, *plan.grid, ...)` is a map.

        Raises:
            ValueError: `x` does not have B and K in front.
        """
        self._check(x, self.sizes.shape, "unmerge")
        batch, length = self.assignment.shape
        values = x.reshape(batch, x.shape[1], -1)
        index = self.assignment[:, :, None].expand(-1, -1, values.shape[2])
        return values.gather(1, index).reshape(batch, length, *x.shape[2:])

    def refine(self, factor: int) -> MergePlan:
        """The same merge for a map that is `factor` times finer along each side, e.g. of an upsampling
        adaptor.

        All `factor * factor` places of a patch go into the token of that patch, so K stays.
        """
        if factor == 1:
            return self
        height, width = self.grid
        rows = torch.arange(height * factor, device=self.assignment.device)[:, None] // factor
        columns = torch.arange(width * factor, device=self.assignment.device) // factor
        patch = (rows * width + columns).flatten()
        fine = self.assignment[:, patch]
        sizes = self.source_sizes[:, patch]
        return MergePlan.from_assignment(fine, self.sizes.shape[1], (height * factor, width * factor), sizes)

    def centroids(self) -> Tensor:
        """(B, K, 2) float32: mean (row, column) of the patches of each merged token; patch (0, 0) is the
        top-left one."""
        height, width = self.grid
        index = torch.arange(height * width, device=self.assignment.device)
        places = torch.stack((index // width, index % width), dim=1).float()
        return self.reduce(places.expand(self.assignment.shape[0], -1, -1))

    @staticmethod
    def _check(x: Tensor, leading: torch.Size, name: str) -> None:
        if x.ndim < 2 or x.shape[:2] != leading:
            raise ValueError(
                f"{name} needs a tensor of shape ({leading[0]}, {leading[1]}, ...) for this plan, "
                f"got {tuple(x.shape)}"
            )
