"""Gradient checkpointing: less memory in the backward pass, for a second forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_block(block: nn.Module, *inputs: Any, checkpointing: bool) -> Tensor:
    """Run a block; with `checkpointing`, where there are gradients, its activations are computed anew for them."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
