"""A RADIO network with the surface of timm's vision transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from radio.modeling.inputs import check_images
from radio.modeling.intermediates import IntermediateCollector, resolve_indices
from radio.modeling.layout import TokenLayout
from radio.modeling.network import RADIONetwork
from radio.modeling.outputs import to_format
from radio.modeling.protocol import PassOptions

Pool = Literal["token", "avg", ""]
_POOLS = ("token", "avg", "")


class RADIOViT(nn.Module):
    """A RADIO network with the methods and attributes of timm's vision transformers.

    Args:
        network: The network; its adaptors are not used.
        num_classes: Width of the linear classifier, 0 for none.
        global_pool: What `forward_head` classifies: ``"token"`` for the summary, ``"avg"`` for the mean of the patches,
            ``""`` for all tokens.
        in_chans: Always 3.
        img_size: The size that the data pipeline should use, one side or height and width. The model itself takes any
            multiple of its patch size.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth while training, as `RADIOModel.set_drop_path` has it.

    Attributes:
        radio_model: The network.
        num_features, embed_dim: Width C of the tokens.
        head_hidden_size: Width of what is classified: the summary's, or C.
        num_prefix_tokens: Class tokens and registers before the patches.
        feature_info: Every block's width and stride.

    Raises:
        ValueError: Another number of channels, a size that the model cannot take, or an unknown pooling.
    """

    def __init__(
        self,
        network: RADIONetwork[Any],
        num_classes: int = 0,
        global_pool: Pool = "token",
        in_chans: int = 3,
        img_size: int | tuple[int, int] | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if in_chans != 3:
            raise ValueError(f"RADIO models take RGB images; in_chans must be 3, got {in_chans}")
        self.radio_model = network
        if img_size is not None:
            height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
            probe = torch.empty(1, 3, height, width, device="meta")
            check_images(probe, network.min_resolution_step, network.get_nearest_supported_resolution)
        network.set_drop_path(drop_path_rate)
        config = network.config
        self.in_chans = in_chans
        self.num_features = self.embed_dim = config.embed_dim
        self.num_prefix_tokens = config.num_prefix_tokens
        self.num_reg_tokens = config.num_registers
        self.feature_info = [
            {
                "module": f"radio_model.model.blocks.{i}",
                "num_chs": config.embed_dim,
                "reduction": config.patch_size,
            }
            for i in range(config.depth)
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = nn.Identity()
        self.reset_classifier(num_classes, global_pool)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.radio_model.blocks

    @property
    def head_hidden_size(self) -> int:
        """Width of what `forward_head` classifies."""
        return self.radio_model.summary_dim if self.global_pool == "token" else self.embed_dim

    def get_classifier(self) -> nn.Module:
        """The classifier, an identity when there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: Pool | None = None) -> None:
        """Put a new linear classifier in place, or none for 0 classes.

        Raises:
            ValueError: An unknown pooling.
        """
        if global_pool is not None:
            if global_pool not in _POOLS:
                raise ValueError(f"unknown global_pool {global_pool!r}; allowed: 'token', 'avg', ''")
            self.global_pool = global_pool
        self.num_classes = num_classes
        weight = next(self.radio_model.backbone.parameters())
        self.head = (
            nn.Linear(self.head_hidden_size, num_classes, device=weight.device, dtype=weight.dtype)
            if num_classes
            else nn.Identity()
        )
        if isinstance(self.head, nn.Linear):
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, H, W) in [0, 1]; without classes, what would be classified."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens (B, T + L, C) of images (B, 3, H, W) in [0, 1]: prefix tokens, then patches in reading order.

        Raises:
            ValueError: Height or width is not a multiple of the patch size (times the window).
        """
        return self._finish(self._run(x)[0])

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the tokens of `forward_features` and classify them; with `pre_logits`, pool only."""
        pooled = self.head_drop(self.pool(tokens))
        return pooled if pre_logits else self.head(pooled)

    def pool(self, tokens: Tensor) -> Tensor:
        """The summary (B, D), the mean of the patches (B, C), or the tokens as they are, as `global_pool` says."""
        if self.global_pool == "":
            return tokens
        network = self.radio_model
        if self.global_pool == "avg" or network.config.summary_pool == "mean":
            return self._split(tokens)[1].mean(dim=1)
        return tokens[:, network.summary_idxs.tolist()].flatten(1)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of intermediate blocks, as timm's models return them.

        Args:
            x: Images (B, 3, H, W) in [0, 1].
            indices: None for all blocks, n for the last n, or block numbers; negative ones count from the end.
            return_prefix_tokens: Return pairs of the patches and the prefix tokens (B, T, C).
            norm: Apply the final norm to each.
            stop_early: Do not run blocks after the last one taken; without them there is no final output, so this
                counts only with `intermediates_only`, where it is always done.
            output_fmt: ``"NCHW"`` for maps (B, C, H/P, W/P), ``"NLC"`` for (B, L, C).
            intermediates_only: Return the list alone, instead of a pair of the output of `forward_features` and it.

        Raises:
            ValueError: An unknown format, a block that is not there, or a size that does not fit.
        """
        if str(getattr(output_fmt, "value", output_fmt)) not in ("NCHW", "NLC"):
            raise ValueError(f"unknown output_fmt {output_fmt!r}; allowed: NCHW, NLC")
        network, depth = self.radio_model, len(self.blocks)
        taken, normalizer = resolve_indices(indices, depth), network.inter_feature_normalizer
        collector = IntermediateCollector(
            taken, depth, normalizer, "sparse", "post-alpha", stop_early=intermediates_only
        )
        tokens, layout = self._run(x, collector)
        outputs = [network.backbone.norm(output) if norm else output for output in collector.outputs]
        found: list[Any] = []
        for prefix, patches in map(self._split, outputs):
            features = to_format(
                patches, layout.grids[0], "NLC" if output_fmt == "NLC" else "NCHW"
            ).contiguous()
            found.append((features, prefix) if return_prefix_tokens else features)
        return found if intermediates_only else (self._finish(tokens), found)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the intermediates at `indices` do not need, and return their block numbers.

        Raises:
            ValueError: A block that is not there.
        """
        backbone = self.radio_model.backbone
        taken = resolve_indices(indices, len(self.blocks))
        backbone.blocks = backbone.blocks[: taken[-1] + 1]
        if prune_norm:
            backbone.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names by depth, for learning rates that decay from layer to layer."""
        return {
            "stem": r"^radio_model\.model\.(?:inner\.)?(?:patch_generator|patch_embed|cls_token|pos_embed)",
            "blocks": [
                (r"^radio_model\.model\.(?:inner\.)?blocks\.(\d+)", None),
                (r"^radio_model\.model\.(?:inner\.)?norm", (99999,)),
            ],
        }

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay should leave alone: position embeddings and prefix tokens."""
        names = ("pos_embed", "cls_token", "cls_token.token")
        return {name for name, _ in self.named_parameters() if name.endswith(names)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks anew in the backward pass instead of keeping their activations."""
        self.radio_model.set_grad_checkpointing(enable)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what this model's own `state_dict` gave.

        Raises:
            RuntimeError: The tensors are another model's. For a released RADIO file the message says how to load it.
        """
        if any(name.startswith(("base_model.", "radio_model.adaptors.")) for name in state_dict):
            raise RuntimeError(
                "these are the tensors of a released RADIO file; load it with timm.create_model(NAME, pretrained=True, "
                "pretrained_cfg_overlay={'file': PATH}) instead of checkpoint_path"
            )
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _run(self, x: Tensor, collector: IntermediateCollector | None = None) -> tuple[Tensor, TokenLayout]:
        """Tokens (B, T + L, C) before the final norm, and where they lie."""
        network = self.radio_model
        check_images(x, network.min_resolution_step, network.get_nearest_supported_resolution)
        return network.backbone(network.input_conditioner(x), PassOptions(network.windows, collector))

    def _finish(self, tokens: Tensor) -> Tensor:
        tokens = self.radio_model.backbone.norm(tokens)
        normalizer = self.radio_model.feature_normalizer
        if normalizer is None:
            return tokens
        prefix, patches = self._split(tokens)
        return torch.cat([prefix, normalizer(patches)], dim=1)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]
