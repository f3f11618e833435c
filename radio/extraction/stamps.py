"""Whether a tar, a table or a video is still the one that was listed.

Images in these are found by their place, so another file under the same name would give other images under the same
ids. Its size and time of change tell the two apart, as they do for make and rsync.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import IO, Any

import fsspec

from radio.extraction.storage import is_address

NO_STAMP = 0
"""Of what needs none, such as an image in a file of its own, and of addresses whose file system tells too little."""

_VERSIONS = (
    *("ETag", "etag", "generation", "blob_id", "md5Hash", "Content-MD5"),
    *("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "created"),
)
"""What file systems of fsspec call the mark of a file's content, or its time of change."""


def stamp_of(source: str, file: IO[bytes]) -> int:
    """A number for the content that an open file has now: another one after it was written to or replaced."""
    if not is_address(source):
        found = os.fstat(file.fileno())
        return _number(found.st_size, found.st_mtime_ns)
    with suppress(Exception):  # not every file system has an answer
        return _remote_stamp(source)
    return NO_STAMP


def check_stamp(source: str, stamp: int, file: IO[bytes] | None = None) -> None:
    """Whether a file has the content that it had when it was listed. Ask after reading from it.

    Args:
        source: Its path or address.
        stamp: Its stamp of then.
        file: The open file; None for an address.

    Raises:
        ValueError: It has not; the message says what to do.
    """
    if stamp == NO_STAMP:
        return
    now = _remote_stamp(source) if file is None else stamp_of(source, file)
    if now != stamp:
        raise ValueError(
            f"{os.path.basename(source)} was replaced or changed after it was listed; run again into another folder"
        )


def _remote_stamp(address: str) -> int:
    fs, path = fsspec.core.url_to_fs(address)
    fs.invalidate_cache(path)  # what it remembers would be the state at the time of the listing
    facts: dict[str, Any] = fs.info(path)
    version = next((facts[name] for name in _VERSIONS if facts.get(name) is not None), None)
    return NO_STAMP if version is None else _number(facts.get("size"), version)


def _number(*facts: object) -> int:
    """A hash of facts that fits in 63 bits and is not `NO_STAMP`."""
    return int.from_bytes(hashlib.sha256(repr(facts).encode()).digest()[:8], "big") >> 1 or 1
