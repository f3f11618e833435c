"""A folder for results, on this machine or at an fsspec address, whose files are complete or absent.

A file is written under another name first and then takes its place, so that nobody ever sees half of one: not after
a kill, not on a full disk, and not when several machines write into the same folder.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

PRIVATE = ".radio"
"""The folder of a run's own notes. Readers of tables do not look into folders whose names start with a dot."""

RUN = f"{PRIVATE}/run.json"
"""What makes a folder one of results."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNFINISHED = f"{PRIVATE}/unfinished"


def is_address(text: str) -> bool:
    """Whether this is an address for fsspec (``s3://…``) rather than a path."""
    return "://" in text


def local_path(address: str) -> str:
    """``file:///a/b`` as the path that it is; anything else unchanged."""
    for prefix in ("file://", "local://"):
        if address.startswith(prefix) and "::" not in address:
            return address.removeprefix(prefix)
    return address


class Folder:
    """A folder that results go to.

    Args:
        address: A path, or an fsspec address such as ``s3://bucket/features``.

    Raises:
        ImportError: The address needs a package that is not installed; fsspec names it.
        ValueError: The name is empty, or fsspec does not know such addresses.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        text = local_path(os.fspath(address))
        if not text:
            raise ValueError("the name of the folder of results is empty; give one (-o)")
        self._fs: Any = None
        self.address = text if is_address(text) else os.path.abspath(os.path.expanduser(text))
        if is_address(text):
            self._fs, self._root = fsspec.core.url_to_fs(text)
            if isinstance(self._fs, LocalFileSystem):
                self._fs, self.address = None, self._root
            self.address = self.address.rstrip("/")

    def __str__(self) -> str:
        return self.address

    @property
    def local(self) -> Path | None:
        """The folder as a path, or None when it is somewhere else."""
        return Path(self.address) if self._fs is None else None

    def address_of(self, name: str) -> str:
        """The full path or address of a file of this folder."""
        return f"{self.address}/{name}"

    def names(self, subfolder: str = "") -> list[str]:
        """The names of the files directly in it, or in a subfolder; none if that does not exist."""
        if self._fs is None:
            place = Path(self.address) / subfolder
            return sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
        key = self._key(subfolder) if subfolder else self._root
        if not self._fs.exists(key):
            return []
        self._fs.invalidate_cache(key)
        return sorted(entry.rstrip("/").rpartition("/")[2] for entry in self._fs.ls(key, detail=False))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return Path(self.address, name).exists() if self._fs is None else self._fs.exists(self._key(name))

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        if self._fs is None:
            return open(Path(self.address, name), "rb")
        return cast("IO[bytes]", self._fs.open(self._key(name), "rb"))

    def read(self, name: str) -> bytes:
        """A file's content."""
        with self.open(name) as file:
            return file.read()

    def prepare(self) -> None:
        """Make the folder and try whether it can be written; also sweep up what killed runs of this machine left.

        Raises:
            OSError: It cannot be written.
        """
        if self.local is not None and self.local.exists() and not self.local.is_dir():
            raise NotADirectoryError(f"cannot write {self}/: that is a file; give another folder")
        with self.writing(f"{PRIVATE}/writable") as path:
            path.write_bytes(b"")
        self.remove(f"{PRIVATE}/writable")
        if self._fs is None:
            _sweep(Path(self.address, _UNFINISHED))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A new local file that becomes ``name`` when the block ends well, and disappears when it does not.

        Raises:
            OSError: It cannot be written.
        """
        with self._unfinished(name) as temporary:
            yield Path(temporary)
            if self._fs is None:
                _commit(temporary, Path(self.address, name))
            else:
                self._upload(temporary, name)

    @contextmanager
    def _unfinished(self, name: str) -> Iterator[str]:
        """A temporary file for ``name`` that is gone when the block ends, and errors that tell what to do."""
        temporary = ""
        try:
            temporary = self._temporary(Path(name).suffix)
            yield temporary
        except OSError as error:
            if error.errno is None:  # not of the system, so it tells by itself what to do
                raise
            if error.errno in _FULL:
                advice = "free space or give another folder, and run the same command again: what is finished is kept"
            else:
                advice = "give another folder (what is finished is kept)"
            raise OSError(
                f"cannot write {self.address_of(name)}: {os.strerror(error.errno)}; {advice}"
            ) from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def _temporary(self, suffix: str) -> str:
        if self._fs is not None:  # in a folder that others may look into
            handle, private = tempfile.mkstemp(prefix=_mark(), suffix=suffix)
            os.close(handle)
            return private
        place = Path(self.address, _UNFINISHED)
        place.mkdir(parents=True, exist_ok=True)
        temporary = place / f"{_mark()}{secrets.token_hex(8)}{suffix}"
        temporary.touch(exist_ok=False)  # with the permissions of every new file
        return str(temporary)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one already, so that of several machines only one succeeds.

        Returns:
            Whether this call wrote it.
        """
        if self._fs is not None:
            if self.exists(name):
                return False
            with self.writing(name) as path:
                path.write_bytes(content)
            return True
        final = Path(self.address, name)
        with self._unfinished(name) as temporary:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, final)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                if final.exists():
                    return False
                os.replace(temporary, final)
        return True

    def remove(self, name: str) -> None:
        """Delete a file if there is one."""
        if self._fs is None:
            Path(self.address, name).unlink(missing_ok=True)
        elif self._fs.exists(self._key(name)):
            self._fs.rm_file(self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _upload(self, temporary: str, name: str) -> None:
        key, part = self._key(name), self._key(f"{name}.{_mark()}part")
        self._fs.makedirs(key.rpartition("/")[0], exist_ok=True)
        try:
            self._fs.put_file(temporary, part)
            self._fs.mv(part, key)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                self._fs.rm_file(part)
            raise


def _mark() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-"


def _commit(temporary: str, final: Path) -> None:
    """Make the content durable before the name, so that a power cut leaves no empty file under a good name."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, final)
    with suppress(OSError):  # not every file system can do it for folders
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _sweep(place: Path) -> None:
    """Delete the unfinished files of processes of this machine that are gone."""
    host = f"{socket.gethostname()}-"
    for file in place.glob(f"{host}*") if place.is_dir() else ():
        number = file.name.removeprefix(host).partition("-")[0]
        if number.isdecimal() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            file.unlink(missing_ok=True)
