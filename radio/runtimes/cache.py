"""Graphs on disk, each made once: by weights, settings, runtime and versions."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub.utils import WeakFileLock

from radio.files import atomic_write, cache_folder, new_folder

_FACTS = "graph.json"


def graph_folder(name: str, key: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Path:
    """The folder of a graph: the one that is there, or a new one.

    Several processes may ask for it at once: one makes it, and the others wait.

    Args:
        name: What the folder's name begins with.
        key: All that the graph depends on.
        make: Fills a folder, and returns facts to keep with the graph.

    Raises:
        OSError: It cannot be kept.
    """
    text = json.dumps(key, sort_keys=True)
    place = cache_folder() / "graphs" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
    if _is_whole(place):
        return place
    with _alone(place):
        if not _is_whole(place):
            shutil.rmtree(place, ignore_errors=True)  # files that somebody cut or removed
            with new_folder(place) as folder:
                facts = dict(make(folder))
                sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
                with atomic_write(folder / _FACTS) as file:
                    file.write_text(json.dumps({"key": key, "facts": facts, "sizes": sizes}, indent=1))
    return place


def graph_facts(folder: Path) -> dict[str, Any]:
    """What `make` returned."""
    facts: dict[str, Any] = json.loads((folder / _FACTS).read_text())["facts"]
    return facts


@cache
def code_digest() -> str:
    """A hash of the code that a graph is traced from, so that no graph outlives a change of it."""
    root = Path(__file__).parent.parent
    result = hashlib.sha256()
    for room in ("modeling", "runtimes"):
        for file in sorted((root / room).rglob("*.py")):
            result.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return result.hexdigest()


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """No other process makes the same graph meanwhile; what one that was killed left is removed."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(place.with_name(f".{place.name}.lock")):
            for left in place.parent.glob(f".{place.name}-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"the graph cannot be kept in the cache ({error.strerror or error}); set XDG_CACHE_HOME to a folder with "
            "room that can be written",
            str(place.parent),
        ) from error


def _is_whole(place: Path) -> bool:
    """Whether a folder has all of its files at their sizes."""
    try:
        sizes: dict[str, int] = json.loads((place / _FACTS).read_text())["sizes"]
        return all((place / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False
