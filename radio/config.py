"""What shapes a model: one frozen description, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from radio.config_dict import from_plain, to_plain

Layout = Literal["cpe", "plain", "dinov2", "eradio", "radio1d"]
HeadKind = Literal["v1", "v2", "attn"]
WindowRule = Literal["optimal", "balanced"]
Neck = Literal["encoder", "decoder"]
WINDOW_RULES: tuple[WindowRule, ...] = get_args(WindowRule)
"""The rules by which E-RADIO's attention windows can be chosen for each size of images."""
NECKS: tuple[Neck, ...] = get_args(Neck)
"""The outputs that a RADIO1D model can give."""


SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Short names of dtypes, as people write them."""

TEXT_TEACHERS = ("open_clip", "siglip2")
"""The types of teachers that have a text tower."""


@dataclass(frozen=True)
class HeadConfig:
    """One adaptor head: the MLP (or attention head) between the backbone and a teacher's space.

    Attributes:
        kind: ``"v1"``, ``"v2"`` (MLPs of the released generations) or ``"attn"`` (two blocks, then a v2 MLP).
        input_dim: Width of the tokens that go in.
        hidden_dim: Width inside the MLP.
        output_dim: Width of what comes out, per output position.
        num_inner: Number of inner (residual, for v2) layers.
        pre_norm: Whether a v2 MLP starts with LayerNorm and GELU.
        upsample_factor: A feature head emits a map that is this much finer along each side.
        attn_num_heads: Attention heads of the blocks inside an ``"attn"`` head.
        attn_hidden_dim: Width of the MLPs inside the blocks of an ``"attn"`` head.
        attn_qkv_bias: Whether the query, key and value projections of an ``"attn"`` head have a bias.
    """

    kind: HeadKind
    input_dim: int
    hidden_dim: int
    output_dim: int
    num_inner: int
    pre_norm: bool = False
    upsample_factor: int = 1
    attn_num_heads: int = 16
    attn_hidden_dim: int = 0
    attn_qkv_bias: bool = False


@dataclass(frozen=True)
class AdaptorConfig:
    """One teacher adaptor.

    Attributes:
        name: The teacher's name, e.g. ``"clip"``.
        head_idx: Number of the class token that the summary head reads.
        summary: The summary head.
        feature: The feature head.
        teacher: The teacher's entry of the checkpoint (``type``, ``model``, ``pretrained``, ...).
    """

    name: str
    head_idx: int
    summary: HeadConfig
    feature: HeadConfig
    teacher: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_text(self) -> bool:
        """Whether the teacher has a text tower."""
        return self.teacher.get("type") in TEXT_TEACHERS


@dataclass(frozen=True)
class ERadioLevelConfig:
    """One attention level of E-RADIO.

    Attributes:
        depth: Number of blocks.
        ratios: At how much of a lower resolution each sub-block of a block works.
        num_heads: Attention heads.
        mlp_dim: Width inside the MLPs.
        bias_dim: Width inside the MLPs of the position bias.
        window_size: Side w0 of the file's windows.
        conv_groups: Groups of the convolutions before the attention.
        qkv_bias: Whether the query, key and value projections have a bias.
        layer_scale: Whether the branches are scaled per channel.
    """

    depth: int
    ratios: tuple[int, ...]
    num_heads: int
    mlp_dim: int
    bias_dim: int
    window_size: int
    conv_groups: int = 1
    qkv_bias: bool = False
    layer_scale: bool = False


@dataclass(frozen=True)
class ERadioConfig:
    """What shapes an E-RADIO backbone, besides the width of its output.

    Attributes:
        stem_dim, dim: Widths of the stem's two convolutions. Level i is ``dim * 2**i`` wide.
        bottlenecks: Bottlenecks of the two convolutional levels.
        attention_levels: The two attention levels.
        neck_projects_first: Whether the neck has weights for the first of them.
        window_size: Side of the attention windows in positions, a rule that chooses it for each size of images
            (``"optimal"``, ``"balanced"``), or None for the file's own.
    """

    stem_dim: int
    dim: int
    bottlenecks: tuple[int, int]
    attention_levels: tuple[ERadioLevelConfig, ERadioLevelConfig]
    neck_projects_first: bool = True
    window_size: int | WindowRule | None = None


@dataclass(frozen=True)
class Radio1DConfig:
    """What a RADIO1D model has besides a ViT of the width and heads it starts with.

    Attributes:
        downscale_levels: The encoder blocks before which the grid is merged 2 x 2 and the width doubles.
        mlp_dims: MLP width of the encoder's blocks before the first merge and after each.
        decoder_depth: Blocks of the decoder.
        decoder_upscale_levels: The decoder blocks before which the grid is split 2 x 2 and the width halves.
        decoder_mlp_dims: MLP width of the decoder's blocks before the first split and after each.
        filler_size: Side of the grid of learned tokens that stand for those that were left out.
        progressive_reduction: Whether the encoder drops tokens little by little, instead of all at its end.
        neck_name: Which output the model gives: ``"encoder"``, ``"decoder"``, or both if None.
    """

    downscale_levels: tuple[int, ...]
    mlp_dims: tuple[int, ...]
    decoder_depth: int
    decoder_upscale_levels: tuple[int, ...]
    decoder_mlp_dims: tuple[int, ...]
    filler_size: int
    progressive_reduction: bool = False
    neck_name: Neck | None = None


@dataclass(frozen=True)
class RadioConfig:
    """All that shapes a model.

    Attributes:
        architecture: The released architecture name, e.g. ``"vit_large_patch16_224"``.
        layout: ``"cpe"`` (ViT with cropped position embeddings), ``"plain"`` (ViT without), ``"dinov2"``,
            ``"eradio"`` or ``"radio1d"``.
        embed_dim, depth, num_heads, mlp_dim: The transformer's width C, blocks, attention heads, MLP width.
        patch_size: Side P of a square patch, in pixels.
        grid_size: Side of the stored grid of position embeddings, in patches.
        num_cls_tokens, num_registers: The split of the prefix tokens.
        summary_idxs: The class tokens that make the summary.
        summary_names: The teachers that these tokens were trained for, in the same order.
        summary_pool: ``"token"``, or ``"mean"`` for the mean of the patch tokens.
        teachers: The teachers' entries of the checkpoint, in order.
        adaptors: The adaptors that the file can provide.
        patch_bias: Whether the patch projection has a bias.
        qkv_bias: Whether the query, key and value projections have a bias.
        swiglu: Whether the MLP is a SwiGLU (otherwise GELU).
        mlp_norm: Whether there is a LayerNorm inside the MLP, after the activation.
        layer_scale: Whether the blocks have LayerScale.
        scaled_norm: Whether the output of block i's norms is multiplied by 1/sqrt(i), i from 1.
        final_norm: Whether a final LayerNorm follows the blocks.
        pos_embed_has_class: Plain layout: whether the position embedding starts with the class token's.
        feature_normalizer: Whether the spatial features are normalized.
        intermediate_normalizer: ``None``, ``"shared"`` (one rotation) or ``"per_layer"``.
        dtype: Name of the dtype that the checkpoint's model runs in, e.g. ``"float32"``.
        version: Released version name, or an empty string.
        max_resolution: Largest side of an image, in pixels.
        preferred_resolution: Height and width at which the model works best.
        vitdet_window_size: Side of the ViTDet windows in patches, or ``None`` for global attention.
        vitdet_num_global: Number of groups of blocks that end in a global one.
        vitdet_num_windowed: Number of windowed blocks between global ones; takes precedence when given.
        video_temporal_patch_size: How many frames of a video a packed patch covers, or None without a projection for
            them.
        pos_embed_align_corners: How position embeddings are resized for other grids.
        eradio: What shapes an E-RADIO backbone; the numbers of transformer blocks above are then 0.
        radio1d: What a RADIO1D model has besides a ViT of the width, heads and MLP above.
    """

    architecture: str
    layout: Layout
    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch_size: int
    grid_size: int
    num_cls_tokens: int
    num_registers: int
    summary_idxs: tuple[int, ...] = (0,)
    summary_names: tuple[str, ...] = ()
    summary_pool: Literal["token", "mean"] = "token"
    teachers: tuple[Mapping[str, Any], ...] = ()
    adaptors: tuple[AdaptorConfig, ...] = ()
    patch_bias: bool = False
    qkv_bias: bool = True
    swiglu: bool = False
    mlp_norm: bool = False
    layer_scale: bool = False
    scaled_norm: bool = False
    final_norm: bool = False
    pos_embed_has_class: bool = True
    feature_normalizer: bool = False
    intermediate_normalizer: Literal["shared", "per_layer"] | None = None
    dtype: str = "float32"
    version: str = ""
    max_resolution: int = 2048
    preferred_resolution: tuple[int, int] = (768, 768)
    video_temporal_patch_size: int | None = None
    vitdet_window_size: int | None = None
    vitdet_num_global: int | None = None
    vitdet_num_windowed: int | None = None
    pos_embed_align_corners: bool = False
    eradio: ERadioConfig | None = None
    radio1d: Radio1DConfig | None = None

    @property
    def num_prefix_tokens(self) -> int:
        """Class tokens and registers, the T tokens before the patches."""
        return self.num_cls_tokens + self.num_registers

    @property
    def resolution_step(self) -> int:
        """Height and width of an image are multiples of this many pixels: a patch; for E-RADIO a position of its
        coarsest map."""
        return self.patch_size if self.eradio is None else 2 * self.patch_size

    @property
    def summary_dim(self) -> int:
        """Width of the summary vector."""
        return self.embed_dim if self.summary_pool == "mean" else self.embed_dim * len(self.summary_idxs)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain dicts, lists, texts and numbers, as JSON and ``torch.load(weights_only=True)`` hold them.

        ``torch.save({"state_dict": model.state_dict(), "config": model.config.to_dict()}, path)`` is a checkpoint that
        `radio.load_model` opens.

        Raises:
            TypeError: A teacher's entry holds a value that JSON cannot; the message names its field.
        """
        fields: dict[str, Any] = to_plain(self)
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RadioConfig:
        """The description that `to_dict` gave. Fields that have a default may be left out.

        Raises:
            ValueError: A field is unknown or missing, or its value is not of its type; the message names it.
        """
        return from_plain(cls, fields)

    def adaptor(self, name: str) -> AdaptorConfig:
        """The adaptor of that name.

        Raises:
            ValueError: The checkpoint has no such adaptor; the message lists those it has.
        """
        for adaptor in self.adaptors:
            if adaptor.name == name:
                return adaptor
        raise ValueError(
            f"unknown adaptor {name!r}; this checkpoint has: {', '.join(a.name for a in self.adaptors) or 'none'}"
        )
