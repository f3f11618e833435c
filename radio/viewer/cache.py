"""Results that are kept while there is room for them, those used last first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T")


class Key(NamedTuple):
    """What a result was computed from.

    Attributes:
        photo: Id of the photograph.
        what: Which result it is.
        options: What else it depends on.
    """

    photo: str
    what: str
    options: Hashable


class Cache:
    """Results by key; the least recently used ones leave when there are more than ``most`` bytes of them.

    Args:
        most: Bytes of tensors. The newest result stays, however large.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0
        self._kept: OrderedDict[Key, tuple[Any, int]] = OrderedDict()

    def get(self, key: Key, compute: Callable[[], T]) -> T:
        """The result that is kept under a key, or that is computed now."""
        if key in self._kept:
            self._kept.move_to_end(key)
            known: T = self._kept[key][0]
            return known
        result = compute()
        size = _bytes(result)
        self._kept[key] = result, size
        self.bytes += size
        while self.bytes > self.most and len(self._kept) > 1:
            self.bytes -= self._kept.popitem(last=False)[1][1]
        return result

    def forget(self, photos: Iterable[str]) -> None:
        """Drop all results of photographs that are gone."""
        gone = set(photos)
        for key in [key for key in self._kept if key.photo in gone]:
            self.bytes -= self._kept.pop(key)[1]


def _bytes(result: Any) -> int:
    if isinstance(result, Tensor):
        return result.numel() * result.element_size()
    if isinstance(result, dict):
        return sum(map(_bytes, result.values()))
    if isinstance(result, tuple | list):
        return sum(map(_bytes, result))
    return 0
