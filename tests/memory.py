"""How much private memory a piece of code takes at its peak."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

_STATUS = Path("/proc/self/status")

needs_proc = pytest.mark.skipif(
    not _STATUS.exists() or "RssAnon" not in _STATUS.read_text(),
    reason="reads the process's memory from /proc",
)


class PeakMemory:
    """The highest private memory of this process while the block runs, in bytes above what it was before.

    Memory-mapped files are not private: the kernel can drop their pages at any time.
    """

    peak = 0

    def __enter__(self) -> PeakMemory:
        self._before = self._highest = _private()
        self._running = True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()
        self.peak = max(self._highest, _private()) - self._before

    def _watch(self) -> None:
        while self._running:
            self._highest = max(self._highest, _private())
            time.sleep(0.002)


def _private() -> int:
    """0 where the system does not report it."""
    for line in _STATUS.read_text().splitlines() if _STATUS.exists() else ():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
