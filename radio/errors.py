"""The errors a user can meet. Each message says what was given, what is allowed and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RadioError(Exception):
    """Base of all errors that this library raises on purpose, apart from plain argument errors."""


class CheckpointError(RadioError, ValueError):
    """A weights file or a repository cannot be read or does not describe a RADIO model."""


class DownloadError(RadioError, OSError):
    """A file could not be fetched from the Hugging Face Hub and is not in the local cache."""


class FileNotInRepositoryError(DownloadError):
    """The repository exists on the Hub but has no such file."""


class ImageError(RadioError, ValueError):
    """An image cannot be read, or its values are not in the range that a model expects."""


class MissingExtraError(RadioError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class ExportError(RadioError, ValueError):
    """A model has no form in the file's format, or the file does not compute what the model computes."""


def printable(text: str, most: int = 120) -> str:
    """A text that somebody else chose as a terminal may show it: cut, and with codes for what cannot be printed."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return shown if len(text) <= most else f"{shown[:most]}..."


def unknown_argument(function: str, name: str, allowed: Iterable[str]) -> TypeError:
    """The error about an argument that does not exist, with those that do and the one that was probably meant."""
    names = list(allowed)
    return TypeError(
        f"{function} has no argument {name!r}; it has: {', '.join(names)}{did_you_mean(name, names)}"
    )


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The one that was probably meant, if there is one, to end a message with. Case and punctuation do not matter."""
    known = {bare(one): one for one in allowed}
    close = get_close_matches(bare(name), known, n=1)
    return f"; did you mean {known[close[0]]!r}?" if close else ""


def bare(name: str) -> str:
    """A name without what people write in different ways: case and punctuation."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
