"""What every reader does with content that makes no sense: refuse it with one kind of error, in few words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from radio.errors import CheckpointError, printable

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
    """The kind of an error and the first line of its message, cut short and safe to print."""
    lines = str(error)[:2000].splitlines()
    return f"{type(error).__name__}: {printable(lines[0], 500)}" if lines else type(error).__name__


def brief(value: Any) -> str:
    """A value from a file as a short text that a terminal may show, however long or deeply nested it is."""
    return _brief(value, 2)


def _brief(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 120 else value[:117] + "...")
    if isinstance(value, int) and not isinstance(value, bool):
        large = value.bit_length() > 128
        return f"a number of {value.bit_length()} bits" if large else repr(value)
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, (list, tuple, dict)):
        opening, closing = "{}" if isinstance(value, dict) else "()" if isinstance(value, tuple) else "[]"
        if depth == 0 and value:
            return f"{opening}...{closing}"
        shown = [_brief(item, depth - 1) for item in islice(value, 6)]
        if isinstance(value, dict):
            values = [_brief(item, depth - 1) for item in islice(value.values(), 6)]
            shown = [f"{key}: {item}" for key, item in zip(shown, values, strict=True)]
        return f"{opening}{', '.join(shown)}{', ...' if len(value) > 6 else ''}{closing}"
    return f"<{type(value).__name__}>"


def listing(names: Iterable[str], most: int = 12) -> str:
    """Names from a file, one after another, the first of them if there are many."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(printable(name, 200) for name in every[:most]) + more


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
