"""One thing is computed at a time, in a thread of its own, so that the page is always answered."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """A thread that computes, in the order in which it is asked.

    It is a daemon: the process may end in the middle of a pass.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="radio-viewer", daemon=True).start()

    async def run(self, compute: Callable[[], T]) -> T:
        """The result of a function that the thread calls. One that nobody waits for any more is not called."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            if future.cancelled():
                return
            try:
                settle = future.set_result, compute()
            except Exception as error:  # belongs to whoever waits
                settle = future.set_exception, error
            loop.call_soon_threadsafe(_settle, future, *settle)

        self._jobs.put(job)
        return await future

    def _work(self) -> None:
        while True:
            self._jobs.get()()


def _settle(future: asyncio.Future[Any], settle: Callable[[Any], None], value: Any) -> None:
    if not future.done():
        settle(value)
