"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """``1 shard``, ``2 shards``; ``many`` where an s does not do."""
    return f"{number} {one if number == 1 else many or one + 's'}"
