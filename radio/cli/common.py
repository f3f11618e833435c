"""What several commands share: loading the model, progress bars, tables, image lists."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from radio.errors import printable

if TYPE_CHECKING:
    from radio.data.labeled import ImageFolder
    from radio.model import RADIOModel

Item = TypeVar("Item")

_LONGEST_LINE = 2000
"""Characters of a line on a terminal."""


def choose_model(args: argparse.Namespace, with_text: bool = False) -> str:
    """The model that ``--model`` names. If it names none, one that can be had, which `args` then names.

    Args:
        args: The parsed arguments of a command whose ``--model`` is optional.
        with_text: It must understand words.

    Raises:
        DownloadError: It must understand words, and none that does can be had.
    """
    from radio.demo import choose_version

    if args.model is None:
        args.model = choose_version(with_text)
    return str(args.model)


def load_chosen_model(
    args: argparse.Namespace, adaptors: Sequence[str] | None = None, **options: Any
) -> RADIOModel:
    """Load the model that `choose_model` and the options of `radio.cli.options.add_execution` choose.

    Args:
        args: The parsed arguments.
        adaptors: The adaptors to build; those of ``--adaptor`` if None.
        options: Other arguments of `radio.load_model`.
    """
    from radio import load_model

    return load_model(
        choose_model(args),
        adaptors=args.adaptor if adaptors is None else adaptors,
        device=args.device,
        dtype=args.dtype,
        vitdet_window_size=args.vitdet_window_size,
        eradio_window_size=args.eradio_window_size,
        neck_name=args.neck_name,
        runtime=getattr(args, "runtime", "auto"),
        **options,
    )


def progress(iterable: Iterable[Item], total: int | None, what: str) -> Iterator[Item]:
    """Show a progress bar on stderr while iterating; nothing when stderr is not a terminal."""
    from tqdm import tqdm

    return iter(tqdm(iterable, total=total, desc=what, file=sys.stderr, disable=not sys.stderr.isatty()))


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images that were named, and those in the folders that were named (not in their subfolders), sorted.

    What else is in such a folder is named on stderr.

    Raises:
        ValueError: A folder has no images.
        FileNotFoundError: A path does not exist.
    """
    from radio.images import IMAGE_SUFFIXES

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.iterdir())
            images = [file for file in inside if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
            if not images:
                raise ValueError(f"{path} has no images ({', '.join(IMAGE_SUFFIXES)})")
            found += images
            taken = set(images)
            others = [file.name for file in inside if file not in taken]
            if others:
                show(f"not taken for images in {path}: {_first_names(others)}", sys.stderr)
        elif path.exists():
            found.append(path)
        else:
            hint = (
                "; no file matches the pattern, or quotes kept it from the shell" if "*" in str(path) else ""
            )
            raise FileNotFoundError(f"there is no image file {str(path)!r}{hint}")
    return found


def find_labeled(folder: Path, args: argparse.Namespace) -> ImageFolder:
    """The labeled images of a folder with one subfolder per class, as `find_images` and `without_unreadable` do it.

    Raises:
        ValueError: It has no images in subfolders, or none of them can be read.
    """
    from radio.data.labeled import ImageFolder

    images = ImageFolder(folder)
    if images.others:
        names = _first_names([str(path.relative_to(folder.expanduser())) for path in images.others])
        show(f"not taken for images in {folder}: {names}", sys.stderr)
    images.keep(without_unreadable(images.paths, args))
    return images


def check_folder_name(name: str) -> None:
    """Refuse the name of a file where a folder is written.

    Raises:
        ValueError: It ends as files do and is not there yet; a last "/" says that a folder is meant.
    """
    place = Path(name)
    if name.endswith("/") or place.exists() or not re.fullmatch(r"\.[A-Za-z][A-Za-z0-9]{0,11}", place.suffix):
        return
    raise ValueError(f"{name!r} is named like a file, and a folder is written; give a folder, or '{name}/'")


def _first_names(names: Sequence[str], most: int = 5) -> str:
    from radio.images.opening import printable

    shown = ", ".join(printable(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def without_unreadable(paths: Sequence[Path], args: argparse.Namespace) -> list[Path]:
    """The images that can be read, if ``--skip-unreadable`` was given; the others are named on stderr.

    Raises:
        ValueError: None of them can be read.
    """
    from radio.errors import ImageError
    from radio.images import load_image

    if not args.skip_unreadable:
        return list(paths)
    readable = []
    for path in progress(paths, len(paths), "reading"):
        try:
            load_image(path)
        except ImageError as error:
            print_skipped(args.command, error)
        else:
            readable.append(path)
    if not readable:
        raise ValueError("none of the images can be read; nothing was written")
    return readable


def print_skipped(command: str, error: Exception) -> None:
    """Name an image that ``--skip-unreadable`` leaves out."""
    show(f"radio {command}: skipped: {error}", sys.stderr)


def show(line: str, file: TextIO | None = None) -> None:
    """Print a line that may hold names of files, labels or errors: cut, and without codes that a terminal obeys."""
    print(printable(line, _LONGEST_LINE), file=file)


def print_table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> None:
    """Print columns side by side on stdout."""
    for line in table_lines(rows, header):
        show(line)


def table_lines(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> list[str]:
    """Columns side by side."""
    lines = [
        [printable(cell, _LONGEST_LINE) for cell in row] for row in [*([header] if header else []), *rows]
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def print_result(args: argparse.Namespace, result: dict[str, Any], lines: Sequence[str]) -> None:
    """Print what a command did: as JSON if that was asked for, else the lines."""
    if args.json:
        print(json.dumps(result, indent=2, default=str))
        return
    for line in lines:
        show(line)


def format_count(number: int) -> str:
    """A number of parameters as people say it: 98.4M, 1.1B."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(number)


def format_bytes(number: int) -> str:
    """A number of bytes as people say it: 393.1 MB."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"
