"""Reading sizes off the shapes of named tensors."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from radio.checkpoints.guard import brief
from radio.errors import CheckpointError

_LONGEST_NAME = 300


class Shapes:
    """The shapes of a checkpoint's tensors, with errors that name the tensor and the file.

    Args:
        tensors: Tensors by name.
        source: Path of the file, for messages.
        root: Put before every name that is asked for.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: str, root: str = "") -> None:
        self.source = source
        self._tensors = tensors
        self._root = root
        self._children = _children(tensors)

    def under(self, root: str) -> Shapes:
        """The same tensors, with another prefix before every name."""
        below = copy(self)
        below._root = self._root + root
        return below

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return self._root + name in self._tensors

    def of(self, name: str, dimensions: int = 2) -> tuple[int, ...]:
        """The shape of a tensor that must exist, have that many dimensions and not be empty.

        Raises:
            CheckpointError: It does not.
        """
        full = self._root + name
        if full not in self._tensors:
            raise CheckpointError(f"{self.source}: the tensor {brief(full)} is missing")
        shape = tuple(self._tensors[full].shape)
        if len(shape) != dimensions or 0 in shape:
            raise CheckpointError(
                f"{self.source}: {brief(full)} has shape {shape}, expected {dimensions} dimensions"
            )
        return shape

    def numbers(self, list_name: str) -> set[str]:
        """What follows ``list_name.`` in the names: the numbers of the modules in a list."""
        return self._children.get(f"{self._root}{list_name}.", set())

    def count(self, list_name: str) -> int:
        """The length of a list of modules: how many different numbers follow ``list_name.`` in the names."""
        return len(self.numbers(list_name))


def _children(names: Iterable[str]) -> dict[str, set[str]]:
    """For every ``prefix.`` among the names what follows it, up to the next dot."""
    children: dict[str, set[str]] = {}
    for name in names:
        prefix = ""
        for part in name.split("."):
            children.setdefault(prefix, set()).add(part)
            prefix += f"{part}."
    return children


def check_names(names: Iterable[str], source: str | Path) -> None:
    """Refuse names that no module could have.

    Raises:
        CheckpointError: A name is longer than any tensor's.
    """
    for name in names:
        if len(name) > _LONGEST_NAME:
            raise CheckpointError(
                f"{source}: a tensor's name has {len(name)} characters ({brief(name)}); at most {_LONGEST_NAME}"
            )


def whole_number(value: Any, name: str, source: str, least: int = 1) -> int:
    """A field that must be a whole number.

    Raises:
        CheckpointError: It is something else, or less than `least`.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < least:
        raise CheckpointError(
            f"{source}: {name} must be a whole number of at least {least}, got {brief(value)}"
        )
    return operator.index(value)
