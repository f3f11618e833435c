"""RADIO: conditioner, backbone, normalizers and adaptors behind one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from radio.config import RadioConfig
from radio.modeling.adaptors import Adaptor
from radio.modeling.backbone import Backbone, DINOv2Backbone, Windows
from radio.modeling.input_conditioner import InputConditioner
from radio.modeling.intermediates import (
    Aggregation,
    AlphaScheme,
    IntermediateCollector,
    resolve_indices,
)
from radio.modeling.layouts import PackedLayout, Segments, packs
from radio.modeling.normalizers import FeatureNormalizer, IntermediateFeatureNormalizer
from radio.modeling.outputs import RadioOutput, Resolution
from radio.modeling.token_merging import InNetworkMerging, MergedTokens, TokenMerging
from radio.modeling.token_merging.in_blocks import (
    MergingPass,
    backbone_features,
    check_merging,
    merge_output,
    merging_per_image,
    plan_reduction,
    reductions_of,
)
from radio.modeling.token_merging.outputs import MergedOutput, MergedRadioOutput, Reduction
from radio.modeling.windows import window_schedule

FeatureFormat = Literal["NLC", "NCHW"]
Output = RadioOutput | dict[str, RadioOutput]
Intermediates = list[Tensor] | list[RadioOutput] | list[MergedTokens | MergedRadioOutput]
IntermediateOutput = Intermediates | tuple[Output | MergedOutput, Intermediates]


class RADIONetwork(nn.Module):
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

    Raises:
        ValueError: An adaptor is not in the description.
    """

    def __init__(self, config: RadioConfig, adaptor_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.config = config
        self.input_conditioner: nn.Module = InputConditioner()
        self.model = DINOv2Backbone(config) if config.layout == "dinov2" else Backbone(config)
        self.feature_normalizer = FeatureNormalizer(config.embed_dim) if config.feature_normalizer else None
        self.inter_feature_normalizer = (
            IntermediateFeatureNormalizer(
                config.depth, config.embed_dim, config.intermediate_normalizer == "per_layer"
            )
            if config.intermediate_normalizer
            else None
        )
        self.adaptors: nn.ModuleDict | None = nn.ModuleDict(
            {name: Adaptor(config.adaptor(name)) for name in adaptor_names}
        )
        self.window_size = config.vitdet_window_size
        self._schedule = window_schedule(config.depth, config.vitdet_num_global, config.vitdet_num_windowed)

    @property
    def backbone(self) -> Backbone:
        """The ViT itself, whatever the layout."""
        return self.model.inner if isinstance(self.model, DINOv2Backbone) else self.model

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.backbone.blocks

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.backbone.parameters()).dtype

    @property
    def patch_size(self) -> int:
        """Side P of a patch, in pixels."""
        return self.config.patch_size

    @property
    def embed_dim(self) -> int:
        """Width C of the spatial features."""
        return self.config.embed_dim

    @property
    def summary_dim(self) -> int:
        """Width of the summary."""
        return self.config.summary_dim

    @property
    def num_summary_tokens(self) -> int:
        """Number T of prefix tokens (class tokens and registers) before the patches."""
        return self.config.num_prefix_tokens

    @property
    def num_cls_tokens(self) -> int:
        """Number of class tokens."""
        return self.config.num_cls_tokens

    @property
    def max_resolution(self) -> int:
        """Largest side of an image, in pixels, that the version was made for."""
        return self.config.max_resolution

    @property
    def preferred_resolution(self) -> Resolution:
        """The resolution at which the version works best."""
        return Resolution(*self.config.preferred_resolution)

    @property
    def min_resolution_step(self) -> int:
        """Height and width must be multiples of this: P, or P times the ViTDet window."""
        return self.patch_size * (self.window_size or 1)

    def get_nearest_supported_resolution(self, height: int, width: int) -> Resolution:
        """The closest height and width, in pixels, that the model accepts.

        Halfway between two, it is the even multiple of the step, as in the public code.
        """
        step = self.min_resolution_step
        return Resolution(*(max(round(side / step), 1) * step for side in (height, width)))

    def make_preprocessor_external(self) -> nn.Module:
        """Take the input normalization out of the model.

        Returns:
            The conditioner. From now on the caller applies it, and the model expects its output.
        """
        conditioner, self.input_conditioner = self.input_conditioner, nn.Identity()
        return conditioner

    def cpe_video_mode(self, t: int) -> AbstractContextManager[None]:
        """While training, t consecutive images of a batch (one clip) share a random position crop.

        Use it as ``with model.cpe_video_mode(t): ...``. At inference it changes nothing.
        """
        generator = self.backbone.patch_generator
        return nullcontext() if generator is None else generator.video_mode(t)

    def switch_to_deploy(self) -> None:
        """Fold training-time structure for deployment. ViT models have none, so this does nothing."""

    def split_summary(self, summary: Tensor) -> dict[str, Tensor]:
        """The part of a backbone summary (B, D) that belongs to each teacher, (B, C) each."""
        names = self.config.summary_names or ("summary",)
        return dict(zip(names, summary.split(self.embed_dim, dim=-1), strict=True))

    def forward(
        self,
        x: Tensor | Sequence[Tensor],
        feature_fmt: FeatureFormat = "NLC",
        merge: TokenMerging | Sequence[TokenMerging] | None = None,
        tome: InNetworkMerging | None = None,
    ) -> Output | MergedOutput | list[Output | MergedOutput]:
        """Summary and spatial features of images.

        Args:
            x: (B, 3, H, W) in [0, 1], floating point, H and W multiples of `min_resolution_step`. Or a list of
                images of different sizes, each (3, H, W) or (1, 3, H, W): they run packed in one pass, and every
                one's result equals running it alone.
            feature_fmt: ``"NLC"`` for features (B, L, C), ``"NCHW"`` for (B, C, H/P, W/P).
            merge: Merge the final features to fewer tokens, ``"NLC"`` only; for a list of images one for all or
                one for each.
            tome: Merge tokens inside the network, which is faster and approximate; not with ViTDet windows.

        Returns:
            `RadioOutput` (summary (B, D), features); with adaptors a dict of them: ``"backbone"`` and one float32
            entry per adaptor. For a list of images, a list of such results, each with B = 1. With `merge`, or with
            a `tome` that does not expand, there is a `MergedRadioOutput` in place of each `RadioOutput`.

        Raises:
            TypeError: The input is not a floating-point tensor.
            ValueError: The shape or the combination of arguments is not supported; the message says which is.
        """
        _check_format(feature_fmt)
        check_merging(merge, tome, feature_fmt, isinstance(x, Tensor), self.window_size is not None)
        if isinstance(x, Tensor):
            self._check_images(x)
            grid = self._grid(x)
            assert not isinstance(merge, Sequence)
            merging = self._merging_pass(tome, [grid], x.shape[0])
            tokens = self.backbone(self.input_conditioner(x), self._windows(), merging=merging)
            output = self._outputs(self.backbone.norm(tokens), grid, feature_fmt)
            [in_network] = reductions_of(merging, 1)
            return merge_output(output, grid, merge, in_network)
        images = self._conditioned_list(x)
        merges = merging_per_image(merge, len(images))
        results: list[Output | MergedOutput] = []
        for pack in self._packs(images):
            grids = [self._grid(image) for image in images[pack]]
            merging = self._merging_pass(tome, grids)
            tokens, layout = self.backbone.forward_packed(images[pack], self._windows(), merging=merging)
            outputs = self._packed_outputs(self.backbone.norm(tokens), layout, feature_fmt)
            in_networks = reductions_of(merging, len(grids))
            results.extend(map(merge_output, outputs, grids, merges[pack], in_networks))
        return results

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
        merge: TokenMerging | Sequence[TokenMerging] | None = None,
        tome: InNetworkMerging | None = None,
    ) -> IntermediateOutput | list[IntermediateOutput]:
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
        _check_format(output_fmt)
        _check_choice("aggregation", aggregation, ("sparse", "dense"))
        _check_choice("norm_alpha_scheme", norm_alpha_scheme, ("post-alpha", "pre-alpha", "none"))
        check_merging(merge, tome, output_fmt, isinstance(x, Tensor), self.window_size is not None)
        start_collecting = partial(
            IntermediateCollector,
            taken=resolve_indices(indices, self.config.depth),
            depth=self.config.depth,
            normalizer=self.inter_feature_normalizer,
            aggregation=aggregation,
            alpha_scheme=norm_alpha_scheme,
            stop_early=stop_early and intermediates_only,
        )
        finish = partial(
            self._intermediate_result,
            norm=norm,
            output_fmt=output_fmt,
            return_prefix_tokens=return_prefix_tokens,
        )
        if isinstance(x, Tensor):
            self._check_images(x)
            grid = self._grid(x)
            collector = start_collecting(prefix_mask=self._prefix_mask([grid]))
            merging = self._merging_pass(tome, [grid], x.shape[0])
            tokens = self.backbone(self.input_conditioner(x), self._windows(), collector, merging)
            final = None if intermediates_only else self._outputs(self._final(tokens), grid, output_fmt)
            assert not isinstance(merge, Sequence)
            [in_network] = reductions_of(merging, 1)
            return finish(final, collector.outputs, grid, merge, in_network)
        images = self._conditioned_list(x)
        merges = merging_per_image(merge, len(images))
        results: list[IntermediateOutput] = []
        for pack in self._packs(images):
            grids = [self._grid(image) for image in images[pack]]
            collector = start_collecting(prefix_mask=self._prefix_mask(grids))
            merging = self._merging_pass(tome, grids)
            tokens, layout = self.backbone.forward_packed(images[pack], self._windows(), collector, merging)
            finals: Sequence[Output | None] = [None] * len(grids)
            if not intermediates_only:
                finals = self._packed_outputs(self._final(tokens), layout, output_fmt)
            collected = zip(*(layout.images(output) for output in collector.outputs), strict=True)
            in_networks = reductions_of(merging, len(grids))
            results.extend(map(finish, finals, collected, grids, merges[pack], in_networks))
        return results

    def _intermediate_result(
        self,
        final: Output | None,
        collected: Sequence[Tensor],
        grid: tuple[int, int],
        merge: TokenMerging | None,
        in_network: Reduction | None,
        *,
        norm: bool,
        output_fmt: FeatureFormat,
        return_prefix_tokens: bool,
    ) -> IntermediateOutput:
        """What `forward_intermediates` returns for images of one size.

        Args:
            final: The final output, or None to leave it out.
            collected: Tokens (B, T + L, C) after every block taken.
            grid: Patches down and across.
            in_network: How the network merged tokens, if merged tokens are wanted.
            merge, norm, output_fmt, return_prefix_tokens: As asked for.
        """
        prefix = self.num_summary_tokens
        outputs = [self.backbone.norm(tokens) if norm else tokens for tokens in collected]
        features = [_to_format(tokens[:, prefix:], grid, output_fmt) for tokens in outputs]
        intermediates = (
            [RadioOutput(self._summary(tokens), f) for tokens, f in zip(outputs, features, strict=True)]
            if return_prefix_tokens
            else features
        )
        decided_on = features[-1] if final is None else backbone_features(final)
        reduction = plan_reduction(decided_on, grid, merge, in_network)
        if reduction is None:
            return intermediates if final is None else (final, intermediates)
        merged = [reduction.apply(each) for each in intermediates]
        return merged if final is None else (reduction.apply(final), merged)

    def _final(self, tokens: Tensor) -> Tensor:
        """The final tokens that come with intermediates."""
        return tokens if self.config.layout == "dinov2" else self.backbone.norm(tokens)

    def _prefix_mask(self, grids: Sequence[tuple[int, int]]) -> Tensor:
        """Which tokens are prefix tokens, over the tokens of all grids in a row."""
        prefix = self.num_summary_tokens
        counts = [torch.arange(prefix + h * w, device=self.device) for h, w in grids]
        return torch.cat(counts) < prefix

    def _windows(self) -> Windows | None:
        return None if self.window_size is None else Windows(self.window_size, self._schedule)

    def _merging_pass(
        self, tome: InNetworkMerging | None, grids: Sequence[tuple[int, int]], batch: int = 1
    ) -> MergingPass | None:
        if tome is None:
            return None
        return MergingPass(tome, self.config.depth, self.num_summary_tokens, grids, batch, self.device)

    def _grid(self, x: Tensor) -> tuple[int, int]:
        return x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size

    def _summary(self, tokens: Tensor) -> Tensor:
        if self.config.summary_pool == "mean":
            return tokens[:, self.num_summary_tokens :].mean(dim=1)
        return torch.cat([tokens[:, i] for i in self.config.summary_idxs], dim=1)

    def _spatial_features(self, patches: Tensor) -> Tensor:
        return patches if self.feature_normalizer is None else self.feature_normalizer(patches)

    def _outputs(self, tokens: Tensor, grid: tuple[int, int], feature_fmt: FeatureFormat) -> Output:
        """The result of a dense batch from its final tokens (B, T + L, C)."""
        features = self._spatial_features(tokens[:, self.num_summary_tokens :])
        backbone = RadioOutput(self._summary(tokens), _to_format(features, grid, feature_fmt))
        if not self.adaptors:
            return backbone
        outputs = {"backbone": backbone}
        for name, adaptor in self.adaptors.items():
            assert isinstance(adaptor, Adaptor)
            summary, projected = adaptor(self._class_token(tokens, adaptor), features, grid)
            fine_grid = (grid[0] * adaptor.upsample_factor, grid[1] * adaptor.upsample_factor)
            outputs[name] = RadioOutput(summary, _to_format(projected, fine_grid, feature_fmt))
        return outputs

    def _class_token(self, tokens: Tensor, adaptor: Adaptor) -> Tensor:
        if self.config.summary_pool == "mean":
            return self._summary(tokens)
        return tokens[:, adaptor.head_idx]

    def _packed_outputs(
        self, tokens: Tensor, layout: PackedLayout, feature_fmt: FeatureFormat
    ) -> list[Output]:
        """Each image's result from packed final tokens; heads run over all images at once."""
        images = layout.images(tokens)
        packed = self._spatial_features(
            torch.cat([image[:, self.num_summary_tokens :] for image in images], dim=1)
        )
        counts = layout.patch_counts
        patches = Segments(counts)
        outputs: list[dict[str, RadioOutput]] = [
            {"backbone": RadioOutput(self._summary(image), _to_format(features, grid, feature_fmt))}
            for image, features, grid in zip(images, packed.split(counts, dim=1), layout.grids, strict=True)
        ]
        for name, adaptor in (self.adaptors or {}).items():
            assert isinstance(adaptor, Adaptor)
            summaries = adaptor.project_summary(
                torch.cat([self._class_token(image, adaptor) for image in images])
            )
            projected = adaptor.project_features(packed, patches.attend)
            u = adaptor.upsample_factor
            for output, summary, features, (h, w) in zip(
                outputs, summaries.split(1), projected.split(counts, dim=1), layout.grids, strict=True
            ):
                fine = adaptor.unfold(features, (h, w))
                output[name] = RadioOutput(summary, _to_format(fine, (h * u, w * u), feature_fmt))
        return list(outputs) if self.adaptors else [output["backbone"] for output in outputs]

    def _packs(self, images: Sequence[Tensor]) -> list[slice]:
        lengths = [self.num_summary_tokens + h * w for h, w in map(self._grid, images)]
        return packs(lengths, 4 * self.embed_dim * self.dtype.itemsize, images[0].device)

    def _conditioned_list(self, x: Sequence[Tensor]) -> list[Tensor]:
        if not isinstance(x, Sequence) or isinstance(x, str):
            raise TypeError(
                f"expected a tensor (B, 3, H, W) or a list of tensors, got {type(x).__name__}; "
                "model.encode(...) takes paths, PIL images and arrays"
            )
        images = []
        for image in x:
            if not isinstance(image, Tensor):
                raise TypeError(
                    f"expected tensors, got {type(image).__name__}; "
                    "model.encode(...) takes paths, PIL images and arrays"
                )
            batch = image.unsqueeze(0) if image.ndim == 3 else image
            self._check_images(batch)
            if batch.shape[0] != 1:
                raise ValueError(
                    f"each image of a list must be (3, H, W) or (1, 3, H, W), got {tuple(image.shape)}"
                )
            images.append(self.input_conditioner(batch)[0])
        if not images:
            raise ValueError("the list of images is empty")
        return images

    def _check_images(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"expected a tensor, got {type(x).__name__}; model.encode(...) takes paths, PIL images and arrays"
            )
        if not x.is_floating_point():
            raise TypeError(
                f"expected floating-point values in [0, 1], got {x.dtype}; divide by 255, or use model.encode(...)"
            )
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(x.shape)}")
        height, width = x.shape[-2:]
        step = self.min_resolution_step
        if height % step or width % step or height < step or width < step:
            nearest = self.get_nearest_supported_resolution(height, width)
            windows = (
                f" (patch {self.patch_size} x ViTDet window {self.window_size})" if self.window_size else ""
            )
            raise ValueError(
                f"height and width must be multiples of {step}{windows}, got {height} x {width}; the nearest supported "
                f"resolution is {nearest.height} x {nearest.width} (model.get_nearest_supported_resolution)"
            )


def _to_format(features: Tensor, grid: tuple[int, int], feature_fmt: FeatureFormat) -> Tensor:
    """Spatial features (B, h·w, C) in the asked format."""
    if feature_fmt == "NLC":
        return features
    return features.transpose(1, 2).unflatten(2, grid)


def _check_format(feature_fmt: str) -> None:
    _check_choice("feature format", feature_fmt, ("NLC", "NCHW"))


def _check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {what} {value!r}; allowed: {', '.join(allowed)}")
