"""The viewer as a running server on this computer."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from radio.model import RADIOModel
from radio.optional import require
from radio.viewer.photos import Photo

HOST = "127.0.0.1"
DEFAULT_PORT = 7234
"""RADI on the keys of a telephone."""

_SECONDS_TO_FINISH = 1
_PATIENCE = 2.0
"""Seconds."""

_WAITING = 64


def check_extra() -> None:
    """Make sure that the extra ``view`` is installed.

    Raises:
        MissingExtraError: It is not.
    """
    for package in ("starlette", "uvicorn"):
        require(package, "view")


def listen(port: int | None) -> socket.socket:
    """A socket on this computer's own address.

    Args:
        port: The port; 0 for any that is free; None for `DEFAULT_PORT`, or another where that is taken.

    Raises:
        OSError: The port is taken, or may not be used.
    """
    try:
        return _listen(DEFAULT_PORT if port is None else port)
    except OSError as error:
        if port is None:
            return _listen(0)
        raise OSError(
            f"cannot listen on port {port}: {error.strerror}; give another --port, or 0 for one that is free"
        ) from error


def _listen(port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two programs share a port
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((HOST, port))
        server.listen(_WAITING)
    except BaseException:
        server.close()
        raise
    return server


def serve(
    models: Mapping[str, RADIOModel[Any]],
    photos: Sequence[Photo],
    place: socket.socket,
    ready: Callable[[str], None],
    browser: bool = True,
) -> bool:
    """Serve the page until the user interrupts it.

    Args:
        models: By name, in the order in which the page offers them.
        photos: Those that every page starts with.
        place: From `listen`.
        ready: Called with the page's address when it can be opened.
        browser: Open the page in the user's browser.

    Returns:
        Whether nothing is computed any more. A thread in the middle of a pass cannot be ended.

    Raises:
        MissingExtraError: The extra ``view`` is not installed.
    """
    check_extra()
    import uvicorn

    from radio.viewer.app import Viewer

    viewer = Viewer(models, photos)
    config = uvicorn.Config(
        viewer.application(),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=_SECONDS_TO_FINISH,
    )
    server = uvicorn.Server(config)
    viewer.ending = lambda: server.should_exit
    address = f"http://{HOST}:{place.getsockname()[1]}/"
    ready(address)
    if browser and _has_screen():
        webbrowser.open(address)
    with suppress(KeyboardInterrupt):
        server.run(sockets=[place])
    return viewer.worker.close(_PATIENCE)


def _has_screen() -> bool:
    """Whether a browser would have a window. On Linux one in the terminal may be found otherwise, and keep it."""
    names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return not sys.platform.startswith("linux") or any(map(os.environ.get, names))
