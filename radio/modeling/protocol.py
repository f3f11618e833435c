"""What the network asks of a backbone, whatever its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from radio.modeling.layout import TokenLayout
from radio.modeling.patch_generator import PatchGenerator
from radio.modeling.token_merging.block_merger import BlockMerger
from radio.modeling.windows import Windows

Option = Literal[
    "adaptors",
    "aggregation",
    "attention_maps",
    "blocks",
    "export_of_any_size",
    "final_with_layers",
    "layers",
    "merge",
    "merge_layers",
    "moving",
    "nchw",
    "num_tokens",
    "program_of_any_size",
    "quantization",
    "saving",
    "tome",
    "training",
    "video",
    "windows",
]
"""What a user may ask for and not every backbone can do."""


class ReadOut(NamedTuple):
    """Final tokens of a pass, from which an output is assembled.

    Attributes:
        tokens: (B, T + L, C) for a batch; groups of images in a row as `layout` says.
        layout: Where each group's tokens lie. Tokens without a place on a grid lie on one of a single row.
        name: Which of several outputs this is.
        on_grid: Whether the tokens are those of the image's patches, in the model's space: feature normalizers and
            adaptors work on them, and a map (B, C, H/P, W/P) can be made of them.
    """

    tokens: Tensor
    layout: TokenLayout
    name: str = "backbone"
    on_grid: bool = True


class Collector(Protocol):
    """Takes the output of chosen blocks while a backbone runs."""

    @property
    def last_block(self) -> int:
        """The backbone stops after this block."""
        ...

    def wants(self, block: int) -> bool:
        """Whether `add` should be called after that block."""
        ...

    def add(self, block: int, tokens: Tensor, layout: TokenLayout) -> None:
        """Take a block's tokens, prefix tokens first, patches in raster order."""
        ...


class PassOptions(NamedTuple):
    """What a pass through the blocks of a ViT is asked for.

    Attributes:
        windows: ViTDet windows; None for global attention in every block.
        collector: Takes intermediate outputs.
        merger: Merges patch tokens in every block; not together with windows.
    """

    windows: Windows | None = None
    collector: Collector | None = None
    merger: BlockMerger | None = None


class BackboneProtocol(Protocol):
    """A backbone: images in; final tokens out, with where they lie.

    Attributes:
        refuses: What it cannot do, and why: a whole sentence for the user.
        packs: Whether images of different sizes run in one pass. Otherwise `read` gets batches only.
        patch_generator: What has position embeddings that are cropped at random in training, or None.
        grad_checkpointing: Whether blocks are computed anew in the backward pass.
    """

    refuses: Mapping[Option, str]
    packs: bool
    patch_generator: PatchGenerator | None
    grad_checkpointing: bool

    def read(
        self,
        x: Tensor | Sequence[Tensor],
        windows: Windows | None = None,
        collector: Collector | None = None,
        merger: BlockMerger | None = None,
        num_tokens: int | None = None,
    ) -> Sequence[ReadOut]:
        """Run images in one pass.

        Args:
            x: Normalized images: a batch (B, 3, H, W), or a list of (3, H, W), each of its own size.
            windows: ViTDet windows; None for global attention in every block.
            collector: Takes intermediate outputs.
            merger: Merges patch tokens in every block; not together with windows.
            num_tokens: How many condensed tokens are kept; None for all.

        Returns:
            The final output; or several, which become a dict by name.
        """
        ...

    def normalize_layer(self, tokens: Tensor) -> Tensor:
        """The final norm, on the output of an intermediate block."""
        ...
