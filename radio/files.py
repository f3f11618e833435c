"""Files in and out: only regular ones are read, none is seen half written, and no output takes an input's place."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

AnyPath = str | os.PathLike[str]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: AnyPath) -> BinaryIO:
    """Open a file for reading, if it is a regular one: a pipe would wait for ever, and a device has no end.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It is a folder, a pipe, a device or a socket, or it cannot be read.
    """
    _require_regular(os.stat(path), path)
    descriptor = os.open(
        path,
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0),
    )
    try:
        _require_regular(os.fstat(descriptor), path)  # it may have changed since
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


class Outputs:
    """The files that one run writes: each appears whole, and none replaces an input or another output of the run.

    Files are told apart by what they are, not by name, so links, other spellings of a path and file systems that
    ignore case make no difference.

    Args:
        inputs: The files that the run reads. A folder stands for the files in it, and weights for the
            ``config.json`` beside them, too; a name that is no file (a model's version) and None are ignored.
    """

    def __init__(self, inputs: Iterable[AnyPath | None] = ()) -> None:
        self._inputs: set[tuple[int, int]] = set()
        self._written: set[tuple[int, int] | None] = set()
        self.add_inputs(*inputs)

    def add_inputs(self, *inputs: AnyPath | None) -> None:
        """Name more files that the run reads."""
        for path in inputs:
            if path is not None:
                self._inputs.update(_identities(path))

    def check(self, *paths: AnyPath) -> None:
        """Refuse outputs before any work is done; `write` checks again.

        Raises:
            ValueError: An output is an input or another output.
            OSError: Something that is not a regular file is there, or a link, or the folder is write-protected.
        """
        for path in paths:
            self._check(Path(path))
        for name, times in Counter(os.path.abspath(path) for path in paths).items():
            if times > 1:
                raise ValueError(f"{name} would be written twice; give the inputs different names")

    def write(self, path: AnyPath) -> AbstractContextManager[Path]:
        """A temporary file that takes the place of ``path`` when the block ends well, and is removed when it does not.

        Folders on the way are made. A file that is replaced passes its permissions on; a new one has those that the
        process gives to new files, whatever the writer made of them (safetensors' writer lets nobody else read).

        Raises:
            ValueError: The path is an input, or an earlier output, under this name or another.
            OSError: The file cannot be written, or something that is not a regular file is there, or a link.
        """
        return self._replacing(Path(path))

    def move(self, finished: Path, path: AnyPath) -> None:
        """Move a finished file out of a `staging` folder to its place; for files that appear together.

        Raises:
            ValueError, OSError: As `write`.
        """
        self._move(finished, Path(path), file_mode(finished.parent))

    def _move(self, finished: Path, place: Path, mode: int) -> None:
        self._check(place)
        if place.exists():
            shutil.copymode(place, finished)
        else:
            finished.chmod(mode)
        finished.replace(place)
        self._written.add(_identity(place))

    @contextmanager
    def _replacing(self, path: Path) -> Iterator[Path]:
        self._check(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".radio-{secrets.token_hex(8)}{path.suffix}")
        try:
            try:
                temporary.touch(exist_ok=False)
                mode = file_mode(temporary)
                yield temporary
                self._move(temporary, path, mode)
            except OSError as error:
                if error.errno is None or str(error.filename) not in ("None", str(temporary)):
                    raise  # of another file
                raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error
            finally:
                temporary.unlink(missing_ok=True)
        finally:  # again, for an interrupt that comes during the first
            temporary.unlink(missing_ok=True)

    def _check(self, path: Path) -> None:
        try:
            found = path.lstat()
        except FileNotFoundError:
            folder = next(folder for folder in path.absolute().parents if folder.exists())
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, "it is write-protected", os.fspath(folder)) from None
            return
        identity = _identity(path)
        if identity in self._inputs:
            raise ValueError(f"{path} is an input of this command; give another output")
        if stat.S_ISLNK(found.st_mode):
            raise OSError(
                f"{path} is a symbolic link, which is not followed; give the path that it points to, or remove it"
            )
        _require_regular(found, path)
        if identity in self._written:
            raise ValueError(
                f"{path} was written by this run already, for another input; nothing was replaced"
            )
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "it is write-protected", os.fspath(path))


def atomic_write(path: AnyPath) -> AbstractContextManager[Path]:
    """`Outputs.write` for a single file that nothing else is read or written with."""
    return Outputs().write(path)


@contextmanager
def staging(folder: Path, name: str) -> Iterator[Path]:
    """A hidden folder inside another for files that appear together; removed when the block ends, however it ends.

    Args:
        folder: Where the files go, which exists; the hidden folder is on the same file system.
        name: What the hidden folder's name starts with, after a dot.

    Raises:
        OSError: It cannot be made.
    """
    place = folder / f".{name}-{secrets.token_hex(8)}"
    try:
        try:
            place.mkdir()
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
    finally:  # again, for an interrupt that comes during the first
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A hidden folder that becomes ``path`` in one step when the block ends well, and is removed when it does not.

    Where another process has made the same folder meanwhile, its folder stays.

    Raises:
        OSError: It cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with staging(path.parent, path.name) as folder:
        yield folder
        mode = file_mode(folder)
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(mode)
        try:
            folder.rename(path)
        except OSError:
            if not path.is_dir():
                raise


def file_mode(made: Path) -> int:
    """The permissions that this process gives to new files, off a file or folder that it has just made."""
    return stat.S_IMODE(made.stat().st_mode) & 0o666


def cache_folder() -> Path:
    """Where this library keeps what can be made anew: ``radio`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radio"


def _require_regular(found: os.stat_result, path: AnyPath) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        number = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(number, f"it is {kind}, not a regular file", os.fspath(path))


def _identity(path: AnyPath) -> tuple[int, int] | None:
    """What tells a file from all others, whatever its name; None if it is not here."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _identities(path: AnyPath) -> set[tuple[int, int]]:
    """The identity of a file, or of every file in a folder; none if it is not here."""
    try:
        place = Path(path).expanduser()
        if place.name == "config.json" or place.name.endswith(
            ".index.json"
        ):  # a model, given by what describes it
            place = place.parent
        files = list(place.iterdir()) if place.is_dir() else [place]
        if place.suffix in (".safetensors", ".bin"):  # a model, given by its weights
            files.append(place.with_name("config.json"))
    except (OSError, RuntimeError, ValueError):  # a name that cannot be a path
        return set()
    return {identity for file in files if (identity := _identity(file))}
