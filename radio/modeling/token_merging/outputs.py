"""Outputs whose spatial features are merged tokens instead of a grid of patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

from torch import Tensor

from radio.modeling.outputs import Grid, Output, RadioOutput, backbone_output, describe_fields
from radio.modeling.token_merging.merge import MergedTokens, TokenMerging
from radio.modeling.token_merging.plan import MergePlan, Mode


class MergedRadioOutput(NamedTuple):
    """The result for a batch of images whose tokens were merged.

    It is no `RadioOutput`, so that code which expects a grid of patches fails at once instead of misreading
    it.

    Attributes:
        summary: One vector per image, (B, D).
        features: The merged tokens, (B, K, C).
        sizes: (B, K) float32: how many patches each token stands for.
        positions: (B, K, 2) float32: mean (row, column) of these patches on the grid of the image.
        plan: `plan.unmerge(x)` spreads tokens (B, K, ...) back onto the patches (B, L, ...), `plan.reduce(x)`
            merges any other per-patch tensor alike.
    """

    summary: Tensor
    features: Tensor
    sizes: Tensor
    positions: Tensor
    plan: MergePlan

    def __repr__(self) -> str:
        return describe_fields("MergedRadioOutput", self._asdict())


MergedOutput = MergedRadioOutput | dict[str, MergedRadioOutput]


class OutputMerger(NamedTuple):
    """What merges, and how the values of merged tokens combine.

    One merger serves the backbone's features, every adaptor's and every intermediate layer's, so row k of
    each stands for the same patches.
    """

    plan: MergePlan
    mode: Mode

    @overload
    def apply(self, output: Tensor) -> MergedTokens: ...
    @overload
    def apply(self, output: RadioOutput) -> MergedRadioOutput: ...
    @overload
    def apply(self, output: dict[str, RadioOutput]) -> dict[str, MergedRadioOutput]: ...
    def apply(
        self, output: Tensor | RadioOutput | dict[str, RadioOutput]
    ) -> MergedTokens | MergedRadioOutput | dict[str, MergedRadioOutput]:
        """Merge features (B, L, C), those of an output, or those of every entry of a dict.

        The map of an upsampling adaptor, (B, L·u·u, C), has all places of a patch in that patch's token.
        """
        if isinstance(output, dict):
            return {name: self.apply(entry) for name, entry in output.items()}
        if isinstance(output, RadioOutput):
            return MergedRadioOutput(output.summary, *self.apply(output.features))
        finer = 1
        while finer**2 * self.plan.assignment.shape[1] < output.shape[1]:
            finer += 1
        features = self.plan.refine(finer).reduce(output, self.mode)
        return MergedTokens(features, self.plan.sizes, self.plan.centroids(), self.plan)


Intermediates = Sequence[Tensor | RadioOutput] | Sequence[MergedTokens | MergedRadioOutput]


def merge_output(
    output: Output, grid: Grid, merge: TokenMerging | None, in_network: OutputMerger | None
) -> Output | MergedOutput:
    """An output with merged features: as `merge` decides on them, as the network merged, or as it is."""
    if merge is None and in_network is None:
        return output
    return _merger(backbone_output(output).features, grid, merge, in_network).apply(output)


def merge_intermediates(
    final: Output | None,
    intermediates: Sequence[Tensor | RadioOutput],
    grid: Grid,
    merge: TokenMerging | None,
    in_network: OutputMerger | None,
) -> tuple[Output | MergedOutput | None, Intermediates]:
    """The same for intermediates; what merges is decided once, on the final output or, without one, the last of
    them."""
    if merge is None and in_network is None:
        return final, intermediates
    last = intermediates[-1] if final is None else backbone_output(final)
    merger = _merger(last.features if isinstance(last, RadioOutput) else last, grid, merge, in_network)
    return None if final is None else merger.apply(final), [merger.apply(each) for each in intermediates]


def _merger(
    features: Tensor, grid: Grid, merge: TokenMerging | None, in_network: OutputMerger | None
) -> OutputMerger:
    if merge is not None:
        return OutputMerger(merge.plan(features, grid), merge.mode)
    assert in_network is not None
    return in_network
