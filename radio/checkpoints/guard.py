"""What every reader does with content that makes no sense: refuse it with one kind of error, in few words."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from radio.errors import CheckpointError

_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 2, 120, 120, 40

_MALFORMED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)


@contextmanager
def refuse_malformed(source: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file's content is taken apart into an error about that file.

    Raises:
        CheckpointError: In place of any error that content of the wrong type, size or shape leads to.
    """
    try:
        yield
    except CheckpointError:
        raise
    except _MALFORMED as error:
        raise CheckpointError(f"{source} does not describe a RADIO model ({short_reason(error)})") from error


def short_reason(error: BaseException) -> str:
    """The kind of an error and the first line of its message, cut short."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:500]}" if lines else type(error).__name__


def brief(value: Any) -> str:
    """A value from a file as a short text, however long or deeply nested it is."""
    return _BRIEF.repr(value)


def refuse_placeholder(path: Path) -> None:
    """Tell apart what people often have in place of a weights file: nothing, a web page, a Git LFS pointer.

    Raises:
        CheckpointError: The file is one of these, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({short_reason(error)})") from error
    if not head:
        raise CheckpointError(f"{path} is empty; download it again")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise CheckpointError(f"{path} is a web page, not a weights file; download the file itself")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights; run 'git lfs pull' or download the file"
        )
