"""What training a model needs besides its forward pass."""

from __future__ import annotations

from typing import Any

from torch import nn

from radio.modeling.block import Block
from radio.modeling.description import DescribedModel
from radio.modeling.heads import AttentionHead, MLPv1, MLPv2
from radio.modeling.patch_generator import PatchGenerator

_KEPT_WHOLE = (Block, PatchGenerator, MLPv1, MLPv2, AttentionHead)
"""Modules with residual connections, or parameters of their own beside their parts."""


class FineTunable(DescribedModel):
    """Gradient checkpointing and drop path, under timm's and transformers' names."""

    supports_gradient_checkpointing = True

    @property
    def _no_split_modules(self) -> list[str]:
        """Classes whose modules belong on one device, under the name by which accelerate asks for them."""
        return sorted({type(part).__name__ for part in self.modules() if isinstance(part, _KEPT_WHOLE)})

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether the blocks are computed anew in the backward pass."""
        return self.backbone.grad_checkpointing

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks anew in the backward pass instead of keeping their activations: less memory, about a
        third more time. Not together with `tome=`, which keeps them."""
        self.backbone.grad_checkpointing = enable

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None
    ) -> None:
        """`set_grad_checkpointing` under transformers' name, without reentrant checkpoints.

        Raises:
            ValueError: Reentrant checkpoints, or anything else, are asked for.
        """
        asked = dict(gradient_checkpointing_kwargs or {})
        if asked.pop("use_reentrant", False) or asked:
            raise ValueError(
                "gradient checkpointing here takes no options but use_reentrant=False, got "
                f"{gradient_checkpointing_kwargs}"
            )
        self.set_grad_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep the activations of the blocks again."""
        self.set_grad_checkpointing(False)

    def set_drop_path(self, rate: float) -> None:
        """Leave out branches of blocks at random while training (stochastic depth, Huang et al. 2016).

        Args:
            rate: Probability in the last block; it grows linearly from 0 in the first one. 0 switches it off.

        Raises:
            ValueError: A rate below 0, or not below 1; or a model without such blocks.
        """
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be at least 0 and below 1, got {rate}")
        self.require(blocks=True)
        # Imported here because timm takes longer to import than a model to load.
        from timm.layers import DropPath

        blocks = self.backbone.blocks
        for i, block in enumerate(blocks):
            own = rate * i / max(len(blocks) - 1, 1)
            for name in ("drop_path1", "drop_path2"):
                drop: nn.Module = DropPath(own) if own else nn.Identity()
                setattr(block, name, drop.train(block.training))
