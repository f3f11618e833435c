"""Things under a file's name that are no regular file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

KINDS = ("FIFO", "socket", "device", "folder")


def make_irregular(kind: str, path: Path) -> None:
    """Put one of the `KINDS` at a path in the working directory, whose short name a socket needs."""
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
