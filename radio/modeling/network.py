"""RADIO: conditioner, backbone, normalizers and adaptors behind one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from radio.config import RadioConfig
from radio.modeling.adaptors import AdaptorDict, build_adaptor
from radio.modeling.assembly import SummaryRule, assemble_layer, assemble_outputs
from radio.modeling.families import build_backbone
from radio.modeling.input_conditioner import InputConditioner
from radio.modeling.input_warnings import InputWarnings
from radio.modeling.inputs import (
    batches_of_one,
    check_channels,
    check_choice,
    check_images,
    check_num_tokens,
    divide_into_passes,
)
from radio.modeling.intermediates import Aggregation, AlphaScheme, IntermediateCollector, resolve_indices
from radio.modeling.normalizers import FeatureNormalizer, IntermediateFeatureNormalizer
from radio.modeling.outputs import FeatureFormat, Grid
from radio.modeling.protocol import ReadOut
from radio.modeling.signatures import Merge, OutputT, TypedModel
from radio.modeling.timm_surface import TimmSurface
from radio.modeling.token_merging import InNetworkMerging, TokenMerging
from radio.modeling.token_merging.block_merger import BlockMerger
from radio.modeling.token_merging.outputs import merge_intermediates, merge_output
from radio.modeling.token_merging.requests import check_merging, merging_per_image
from radio.modeling.windows import Windows, window_schedule


class RADIONetwork(TypedModel[OutputT]):
    """The network: images as tensors in, summary and spatial features out.

    Args:
        config: What shapes the model.
        adaptor_names: The adaptors to build, in this order.

    Attributes:
        config: What shapes the model.
        input_conditioner: Input normalization.
        model: The backbone.
        adaptors: The built adaptors by name; set it to None to switch them off.
        window_size: Side of the ViTDet windows in patches, or None.
        summary_idxs: The class tokens that make the summary.

    Raises:
        ValueError: An adaptor is not in the description.
    """

    if TYPE_CHECKING:
        # At run time a plain submodule, or None.
        @property
        def adaptors(self) -> AdaptorDict: ...
        @adaptors.setter
        def adaptors(self, value: AdaptorDict | None) -> None: ...

    def __init__(self, config: RadioConfig, adaptor_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.config = self._config = config
        self.input_conditioner: nn.Module = InputConditioner()
        self.model: Any = build_backbone(config)
        self.feature_normalizer = FeatureNormalizer(config.embed_dim) if config.feature_normalizer else None
        self.inter_feature_normalizer = (
            IntermediateFeatureNormalizer(
                config.depth, config.embed_dim, config.intermediate_normalizer == "per_layer"
            )
            if config.intermediate_normalizer
            else None
        )
        self.adaptors = AdaptorDict({name: build_adaptor(config.adaptor(name)) for name in adaptor_names})
        self.window_size = config.vitdet_window_size
        self.summary_idxs = config.summary_idxs
        self._warnings = InputWarnings()
        self.require(windows=self.window_size is not None, adaptors=len(self.adaptors) > 0)
        self._schedule = window_schedule(config.depth, config.vitdet_num_global, config.vitdet_num_windowed)

    @property
    def _summary_rule(self) -> SummaryRule:
        return SummaryRule(self.num_summary_tokens, self._config.summary_pool, self._summary_idxs)

    @property
    def backbone(self) -> Any:
        """The backbone itself, whatever the layout: a `radio.modeling.protocol.BackboneProtocol`."""
        return self.model.vit if isinstance(self.model, TimmSurface) else self.model

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks; a ViT and RADIO1D have some, E-RADIO does not."""
        return self.backbone.blocks

    @property
    def windows(self) -> Windows | None:
        """The ViTDet windows, or None."""
        return None if self.window_size is None else Windows(self.window_size, self._schedule)

    def forward(
        self,
        x: Tensor | Sequence[Tensor],
        feature_fmt: FeatureFormat = "NLC",
        merge: Merge = None,
        tome: InNetworkMerging | None = None,
        num_tokens: int | None = None,
    ) -> Any:
        """Summary and spatial features of images.

        Args:
            x: (B, 3, H, W) in [0, 1], floating point, H and W multiples of `min_resolution_step`. Or a list of
                images of different sizes, each (3, H, W) or (1, 3, H, W): they run packed in one pass, and every
                one's result equals running it alone. A model with a ``video_temporal_patch_size`` t also takes t frames
                of a video as one image of 3·t channels, frame after frame.
            feature_fmt: ``"NLC"`` for features (B, L, C), ``"NCHW"`` for (B, C, H/P, W/P).
            merge: Merge the final features to fewer tokens, ``"NLC"`` only; for a list of images one for all or
                one for each.
            tome: Merge tokens inside the network, which is faster and approximate; not with ViTDet windows.
            num_tokens: RADIO1D only: how many condensed tokens K are kept. None, or more than there are, for all: a
                quarter of the patches if the model merges once, rounded down.

        Returns:
            `RadioOutput` (summary (B, D), features); with adaptors a dict of them: ``"backbone"`` and one float32
            entry per adaptor. For a list of images, a list of such results, each with B = 1. With `merge`, or with
            a `tome` that does not expand, there is a `MergedRadioOutput` in place of each `RadioOutput`. A RADIO1D
            model without a `neck_name` returns a dict of two such results: ``"encoder"`` (the condensed tokens,
            features (B, K, 2C) if it merges once; no adaptors) and ``"decoder"``.

        Raises:
            TypeError: The input is not a floating-point tensor.
            ValueError: The shape or the combination of arguments is not supported; the message says which is.
        """
        self._check_request(x, feature_fmt, merge, tome)
        self.require(num_tokens=num_tokens is not None, merge=merge is not None, nchw=feature_fmt == "NCHW")
        check_num_tokens(num_tokens)
        results: list[Any] = []
        for images, merges in self._passes(x, merge):
            merger = self._block_merger(tome, images)
            read_outs = self.backbone.read(images, self.windows, merger=merger, num_tokens=num_tokens)
            outputs = self._outputs(read_outs, feature_fmt)
            in_network = [None] * len(merges) if merger is None else merger.output_mergers()
            grids = read_outs[-1].layout.grids
            results.extend(map(merge_output, outputs, grids, merges, in_network))
        return results[0] if isinstance(x, Tensor) else results

    def forward_intermediates(
        self,
        x: Tensor | Sequence[Tensor],
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: FeatureFormat = "NCHW",
        intermediates_only: bool = False,
        aggregation: Aggregation = "sparse",
        norm_alpha_scheme: AlphaScheme = "post-alpha",
        merge: Merge = None,
        tome: InNetworkMerging | None = None,
    ) -> Any:
        """Outputs of intermediate blocks, with or without the final output.

        Args:
            x: (B, 3, H, W) in [0, 1], or a list of images of different sizes as in `forward`.
            indices: None for all blocks, n for the last n, or block numbers; negative ones count from the end.
            return_prefix_tokens: Return `RadioOutput` (summary, features) per block instead of features alone.
            norm: Apply the final norm to each.
            stop_early: Do not run blocks after the last one taken. Only with `intermediates_only`, since the final
                output needs every block.
            output_fmt: ``"NCHW"`` or ``"NLC"``.
            intermediates_only: Leave the final output out.
            aggregation: ``"sparse"``: output of the block itself; ``"dense"``: average over the blocks since the
                previous one taken.
            norm_alpha_scheme: ``"post-alpha"``, ``"pre-alpha"`` or ``"none"`` (no intermediate normalizer).
            merge: Merge the features to fewer tokens, ``"NLC"`` only. What merges is decided once, on the final
                features (on the last intermediate with `intermediates_only`), so that tokens correspond.
            tome: Merge tokens inside the network; intermediates are expanded to the full grid.

        Returns:
            The list of intermediates; unless `intermediates_only`, a pair of the final output as in `forward` and
            that list. (As in the public code, the final output that comes with intermediates is not normalized for
            DINOv2-layout models.) With `merge`, or with a `tome` that does not expand, intermediates are
            `MergedTokens`, or `MergedRadioOutput` with prefix tokens. For a list of images, a list with each
            image's own result.

        Raises:
            TypeError: The input is not a floating-point tensor.
            ValueError: A shape, an index or a mode is not supported.
        """
        self._check_request(x, output_fmt, merge, tome)
        self.require(
            layers=True,
            aggregation=aggregation != "sparse",
            final_with_layers=not intermediates_only,
            merge_layers=merge is not None,
            nchw=output_fmt == "NCHW" and not intermediates_only,
        )
        taken, depth = resolve_indices(indices, len(self.blocks)), len(self.blocks)
        stop = stop_early and intermediates_only
        results: list[Any] = []
        for images, merges in self._passes(x, merge):
            collector = IntermediateCollector(
                taken, depth, self.inter_feature_normalizer, aggregation, norm_alpha_scheme, stop
            )
            merger = self._block_merger(tome, images)
            read_outs = self.backbone.read(images, self.windows, collector, merger)
            finals = [None] * len(merges) if intermediates_only else self._outputs(read_outs, output_fmt)
            layers = (self.backbone.normalize_layer(layer) if norm else layer for layer in collector.outputs)
            per_layer = [
                assemble_layer(layer, layout, self._summary_rule, output_fmt, return_prefix_tokens)
                for layer, layout in zip(layers, collector.layouts, strict=True)
            ]
            per_image = map(list, zip(*per_layer, strict=True))
            in_network = [None] * len(merges) if merger is None else merger.output_mergers()
            grids = collector.layouts[-1].grids
            results.extend(map(merge_intermediates, finals, per_image, grids, merges, in_network))
        if intermediates_only:
            results = [intermediates for _, intermediates in results]
        return results[0] if isinstance(x, Tensor) else results

    def _check_request(
        self,
        x: Tensor | Sequence[Tensor],
        feature_fmt: str,
        merge: Merge,
        tome: InNetworkMerging | None,
    ) -> None:
        check_choice("feature format", feature_fmt, ("NLC", "NCHW"))
        self._warnings.check_mode(self, self.backbone.patch_generator)
        check_merging(merge, tome, feature_fmt, isinstance(x, Tensor), self.window_size is not None)
        self.require(windows=self.window_size is not None, tome=tome is not None)

    def _passes(
        self, x: Tensor | Sequence[Tensor], merge: Merge
    ) -> Iterator[tuple[Tensor | list[Tensor], Sequence[TokenMerging | None]]]:
        """Normalized images of each pass, and what merges them: a batch is a pass by itself."""
        if isinstance(x, Tensor):
            yield self._conditioned(x), merging_per_image(merge, 1)
            return
        images = [self._conditioned(image)[0] for image in batches_of_one(x)]
        check_channels(images)
        merges = merging_per_image(merge, len(images))
        if not self.backbone.packs:
            yield from ((image.unsqueeze(0), [each]) for image, each in zip(images, merges, strict=True))
            return
        lengths = [self.num_summary_tokens + h * w for h, w in self._grids(images)]
        token_bytes = 4 * self.embed_dim * self.dtype.itemsize
        for part in divide_into_passes(lengths, token_bytes, images[0].device):
            yield images[part], merges[part]

    def _conditioned(self, x: Tensor) -> Tensor:
        frames = self._config.video_temporal_patch_size
        if isinstance(x, Tensor) and x.ndim == 4 and frames is not None and x.shape[1] == 3 * frames:
            each = self._conditioned(x.unflatten(1, (frames, 3)).flatten(0, 1))
            return each.unflatten(0, (-1, frames)).flatten(1, 2)
        windows = f" (patch {self.patch_size} x ViTDet window {self.window_size})" if self.window_size else ""
        check_images(x, self.min_resolution_step, self.get_nearest_supported_resolution, windows)
        if not isinstance(self.input_conditioner, InputConditioner):  # the caller has normalized
            return self.input_conditioner(x).to(self.dtype)
        self._warnings.check_pixels(x)
        return self.input_conditioner(x)

    def _block_merger(
        self, tome: InNetworkMerging | None, images: Tensor | Sequence[Tensor]
    ) -> BlockMerger | None:
        if tome is None:
            return None
        batch = images.shape[0] if isinstance(images, Tensor) else 1
        grids = self._grids([images] if isinstance(images, Tensor) else images)
        return BlockMerger(tome, len(self.blocks), self.num_summary_tokens, grids, batch, images[0].device)

    def _grids(self, images: Sequence[Tensor]) -> list[Grid]:
        return [(x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size) for x in images]

    def _outputs(self, read_outs: Sequence[ReadOut], feature_fmt: FeatureFormat) -> list[Any]:
        return assemble_outputs(
            read_outs, self._summary_rule, self.feature_normalizer, self.adaptors, feature_fmt
        )
