"""What calling a model gives, for type checkers and editors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from torch import Tensor

from radio.modeling.finetuning import FineTunable
from radio.modeling.hub_surface import HubSurface
from radio.modeling.outputs import FeatureFormat, RadioOutput
from radio.modeling.token_merging import InNetworkMerging, TokenMerging
from radio.modeling.token_merging.outputs import MergedRadioOutput

OutputT = TypeVar("OutputT", RadioOutput, dict[str, RadioOutput])
"""What a call gives for one image or batch: a dict of outputs where there are adaptors."""

Merge = TokenMerging | Sequence[TokenMerging] | None


class TypedModel(FineTunable, HubSurface, Generic[OutputT]):
    """A model whose calls have types; at run time it calls as any nn.Module."""

    if TYPE_CHECKING:

        @overload
        def __call__(
            self,
            x: Tensor,
            feature_fmt: FeatureFormat = "NLC",
            merge: None = None,
            tome: None = None,
            num_tokens: None = None,
        ) -> OutputT: ...
        @overload
        def __call__(
            self,
            x: Sequence[Tensor],
            feature_fmt: FeatureFormat = "NLC",
            merge: None = None,
            tome: None = None,
            num_tokens: None = None,
        ) -> list[OutputT]: ...
        @overload
        def __call__(
            self: TypedModel[RadioOutput],
            x: Tensor,
            feature_fmt: FeatureFormat = "NLC",
            *,
            merge: TokenMerging,
        ) -> MergedRadioOutput: ...
        @overload
        def __call__(
            self: TypedModel[dict[str, RadioOutput]],
            x: Tensor,
            feature_fmt: FeatureFormat = "NLC",
            *,
            merge: TokenMerging,
        ) -> dict[str, MergedRadioOutput]: ...
        @overload
        def __call__(
            self,
            x: Tensor | Sequence[Tensor],
            feature_fmt: FeatureFormat = "NLC",
            merge: Merge = None,
            tome: InNetworkMerging | None = None,
            num_tokens: int | None = None,
        ) -> Any: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
