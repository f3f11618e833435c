"""What a piece of code starts, opens or connects to, as Python's audit events tell it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_events: frozenset[str] = frozenset()
_seen: list[str] = []
_bystanders: set[int | None] = set()


def _audit(event: str, _: tuple) -> None:
    if event in _events and threading.get_ident() not in _bystanders:
        _seen.append(event)


sys.addaudithook(_audit)


@contextmanager
def watched(*events: str) -> Iterator[list[str]]:
    """The events of these names, as they happen in the block.

    What threads that ran before do is left out: it is no business of what runs in the block.
    """
    global _events
    _bystanders.clear()
    _bystanders.update({thread.ident for thread in threading.enumerate()} - {threading.get_ident()})
    _seen.clear()
    _events = frozenset(events)
    try:
        yield _seen
    finally:
        _events = frozenset()
