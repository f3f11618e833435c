"""The E-RADIO backbone: one explicit pass from pixels to a dense map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from radio.config import RadioConfig
from radio.modeling.eradio.attention import AttentionLevel
from radio.modeling.eradio.convolutions import C2f, Downsample, Neck, Stem
from radio.modeling.eradio.windows import WINDOW_RULES, optimal_window
from radio.modeling.layout import TokenLayout
from radio.modeling.protocol import Collector, Option, ReadOut
from radio.modeling.token_merging.block_merger import BlockMerger
from radio.modeling.windows import Windows

_REFUSES: dict[Option, str] = {
    "windows": "E-RADIO has no ViTDet windows; its own attention windows are set with eradio_window_size at loading",
    "blocks": "E-RADIO has no transformer blocks in a row; its levels are model.backbone.levels",
    "layers": "E-RADIO has no transformer blocks of one resolution, so there are no intermediate layers to take",
    "tome": "E-RADIO attends within windows of a fixed grid, where no tokens can merge; merge the final features with "
    "merge=TokenMerging(...)",
    "num_tokens": "num_tokens is how many condensed tokens a RADIO1D model keeps, and this is an E-RADIO; "
    "merge=TokenMerging(...) gives fewer tokens of any model",
    "video": "E-RADIO has no position embedding to crop, so there is no video mode",
    "attention_maps": "E-RADIO attends within small windows of its maps, so there are no attention maps of the image",
    "program_of_any_size": "torch.export fixes how many windows an image has, so an E-RADIO program holds for one "
    "height and width: give a size, leave the batch dynamic, or write an ONNX file, which holds for all sizes",
    "quantization": "E-RADIO is convolutions for the most part, which int8 quantization does not cover; use bfloat16",
}
_BY_SIZE: dict[Option, str] = {
    "export_of_any_size": "with a rule for eradio_window_size the side of the windows depends on the image, and a file "
    "for all sizes has one side: load the model with a number, or None for the file's own, or give a size",
}


class ConvolutionLevel(nn.Module):
    """One C2f stage at one resolution."""

    def __init__(self, dim: int, num_bottlenecks: int) -> None:
        super().__init__()
        self.blocks = C2f(dim, num_bottlenecks)
        self.downsample = Downsample(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape, before downsampling."""
        return self.blocks(x)


class ERadioBackbone(nn.Module):
    """E-RADIO without heads.

    Args:
        config: What shapes the model.
    """

    packs = False
    patch_generator = None

    def __init__(self, config: RadioConfig) -> None:
        super().__init__()
        assert config.eradio is not None
        self.grad_checkpointing = False
        self.window_size = config.eradio.window_size
        self.refuses: Mapping[Option, str] = (
            {**_REFUSES, **_BY_SIZE} if isinstance(self.window_size, str) else _REFUSES
        )
        dim = config.eradio.dim
        self.patch_embed = Stem(config.eradio.stem_dim, dim)
        third, fourth = config.eradio.attention_levels
        self.levels = nn.ModuleList(
            [
                *(ConvolutionLevel(dim * 2**i, number) for i, number in enumerate(config.eradio.bottlenecks)),
                AttentionLevel(4 * dim, third, downsamples=True),
                AttentionLevel(8 * dim, fourth, downsamples=False),
            ]
        )
        self.high_res_neck = Neck(4 * dim, config.embed_dim, config.eradio.neck_projects_first)

    def read(
        self,
        x: Tensor | Sequence[Tensor],
        windows: Windows | None = None,
        collector: Collector | None = None,
        merger: BlockMerger | None = None,
        num_tokens: int | None = None,
    ) -> Sequence[ReadOut]:
        """The dense map of a batch, position after position, without prefix tokens, as `BackboneProtocol` says."""
        assert isinstance(x, Tensor)
        dense = self(x)
        layout = TokenLayout(0, [(dense.shape[-2], dense.shape[-1])])
        return [ReadOut(dense.flatten(2).transpose(1, 2), layout)]

    def normalize_layer(self, tokens: Tensor) -> Tensor:
        """There is no final norm."""
        return tokens

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W), sides multiples of 32, to the dense map (B, E, H/16, W/16)."""
        window = self._window(x.shape[-2], x.shape[-1])
        first, second, third, fourth = self.levels
        x = first(self.patch_embed(x))
        x = second(first.downsample(x))  # type: ignore[operator]
        fine = third(second.downsample(x), window, self.grad_checkpointing)  # type: ignore[operator]
        coarse = fourth(third.downsample(fine), window, self.grad_checkpointing)  # type: ignore[operator]
        return self.high_res_neck(fine, coarse)

    def set_optimal_window_size(self, image_dim: Sequence[int]) -> None:
        """Set the side of the attention windows by the public code's rule, for images (height, width) from now on.

        Loading with ``eradio_window_size="optimal"`` does the same for each size by itself.
        """
        height, width = (int(side) for side in image_dim)
        self.window_size = optimal_window(height, width)

    def _window(self, height: int, width: int) -> int | None:
        """Side of the attention windows for images of this size; None for the file's own."""
        if isinstance(self.window_size, str):
            return WINDOW_RULES[self.window_size](height, width)
        return self.window_size
