"""One thing is computed at a time, in a thread of its own, so that the page is always answered."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """A thread that computes, in the order in which it is asked."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._open = True
        self._thread = threading.Thread(target=self._work, name="radio-viewer", daemon=True)
        self._thread.start()

    async def run(self, compute: Callable[[], T]) -> T:
        """The result of a function that the thread calls. One that nobody waits for any more is not called."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            if future.cancelled():
                return
            try:
                result = compute()
            except Exception as error:  # belongs to whoever waits
                settle = partial(_fail, future, error)
            else:
                settle = partial(_finish, future, result)
            with suppress(RuntimeError):  # the server ended meanwhile
                loop.call_soon_threadsafe(settle)

        self._jobs.put(job)
        return await future

    def close(self, patience: float) -> bool:
        """End the thread when it is done with what it computes now; what waits is given up.

        Args:
            patience: How long to wait for that, in seconds.

        Returns:
            Whether it has ended. Nothing can end a pass before it is done, but the process itself.
        """
        self._open = False
        self._jobs.put(lambda: None)
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while self._open:
            self._jobs.get()()


def _finish(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
