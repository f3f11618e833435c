"""Build empty, then fill: modules on the meta device take the file's tensors by assignment, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from radio.checkpoints.guard import listing
from radio.errors import CheckpointError

Module = TypeVar("Module", bound=nn.Module)


def fill(
    module: Module,
    tensors: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    source: str,
    copy: bool = True,
) -> Module:
    """Give a module that was built on the meta device its tensors.

    Args:
        module: Built under ``torch.device("meta")``.
        tensors: Exactly the module's state, by name.
        device: Where the weights go.
        dtype: What the weights become.
        source: Where the tensors come from, for messages.
        copy: Whether the module gets memory of its own. Otherwise tensors that already fit are taken as they are, and
            the module depends on what they lie in, such as a mapped file.

    Returns:
        The module.

    Raises:
        CheckpointError: Tensors are missing, surplus, misshapen or not floating-point; the message names them.
    """
    expected = module.state_dict()
    problems = [
        _problem("missing", [name for name in expected if name not in tensors]),
        _problem("surplus", [name for name in tensors if name not in expected]),
        _problem(
            "misshapen",
            [
                f"{name} is {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
                for name, value in expected.items()
                if name in tensors and tensors[name].shape != value.shape
            ],
        ),
        _problem(
            "not floating-point",
            [f"{name} is {value.dtype}" for name, value in tensors.items() if not value.is_floating_point()],
        ),
    ]
    found = "; ".join(problem for problem in problems if problem)
    if found:
        raise CheckpointError(f"{source}: the tensors do not fit the model: {found}")
    state = {name: value.to(device=device, dtype=dtype, copy=copy) for name, value in tensors.items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module


def _problem(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{kind}: {listing(names, most=8)}"
