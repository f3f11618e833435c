"""What several commands share: the arguments that choose a model, loading it, progress bars, tables, image lists."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from radio.files import written_at_once as written_at_once

if TYPE_CHECKING:
    from radio.model import RADIOModel

Item = TypeVar("Item")

MODEL_HELP = (
    "a released version (see 'radio models'), a Hugging Face repository (owner/name), a checkpoint file, "
    "or a folder with config.json and model.safetensors"
)


def add_model_arguments(parser: argparse.ArgumentParser, adaptors: bool = True) -> None:
    """Add ``--model`` (required), ``--device``, ``--dtype``, ``--vitdet-window-size`` and ``--adaptor``.

    Args:
        parser: Of the command.
        adaptors: Whether the user may choose adaptors; False for a command that chooses them itself.
    """
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", required=True, metavar="MODEL", help=MODEL_HELP)
    group.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps, ...")
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="what the model computes in (default: what the checkpoint says)",
    )
    group.add_argument(
        "--vitdet-window-size", type=positive, metavar="N", help="side of ViTDet windows, in patches"
    )
    if adaptors:
        group.add_argument(
            "--adaptor",
            action="append",
            default=[],
            metavar="NAME",
            help="also give the outputs in this teacher's space (clip, sam, ...); may be repeated",
        )


def load(args: argparse.Namespace, adaptors: Sequence[str] | None = None, **options: Any) -> RADIOModel:
    """Load the model that the arguments of `add_model_arguments` choose.

    Args:
        args: The parsed arguments.
        adaptors: The adaptors to build; those of ``--adaptor`` if None.
        options: Other arguments of `radio.load_model`.
    """
    from radio import load_model

    return load_model(
        args.model,
        adaptors=args.adaptor if adaptors is None else adaptors,
        device=args.device,
        dtype=args.dtype,
        vitdet_window_size=args.vitdet_window_size,
        **options,
    )


def progress(iterable: Iterable[Item], total: int | None, what: str) -> Iterator[Item]:
    """Show a progress bar on stderr while iterating; nothing when stderr is not a terminal."""
    from tqdm import tqdm

    return iter(tqdm(iterable, total=total, desc=what, file=sys.stderr, disable=not sys.stderr.isatty()))


def positive(text: str) -> int:
    """An argument that is a whole number above zero."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, got {text!r}")
    return value


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images that were named, and those in the folders that were named (not in their subfolders), sorted.

    Raises:
        ValueError: A folder has no images.
        FileNotFoundError: A path does not exist.
    """
    from radio.images import IMAGE_SUFFIXES

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise ValueError(f"{path} has no images ({', '.join(IMAGE_SUFFIXES)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            hint = (
                "; no file matches the pattern, or quotes kept it from the shell" if "*" in str(path) else ""
            )
            raise FileNotFoundError(f"there is no image file {str(path)!r}{hint}")
    return found


def keep_inputs(outputs: Iterable[Path], inputs: Iterable[str | Path | None]) -> None:
    """Refuse to write a result over something that the command reads.

    Args:
        outputs: The files to be written.
        inputs: The files that are read. A model may be a version's name, or a folder, of which every file counts.

    Raises:
        ValueError: An output is one of the inputs, under this name or another.
    """
    read = {identity for path in inputs if path is not None for identity in _identities(path)}
    for output in outputs:
        if not read.isdisjoint(_identities(output)):
            raise ValueError(f"{output} is an input of this command; give another output")


def _identities(path: str | Path) -> list[tuple[int, int]]:
    """What tells a file from all others, whatever its name, or every file of a folder; nothing if it is not here."""
    try:
        place = Path(path).expanduser()
        if place.name == "config.json":  # a model, given by its config
            place = place.parent
        files = place.iterdir() if place.is_dir() else [place]
        found = [file.stat() for file in files if file.is_file()]
    except (OSError, RuntimeError):  # a name that cannot be a path
        return []
    return [(stat.st_dev, stat.st_ino) for stat in found]


def print_table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> None:
    """Print columns side by side on stdout."""
    lines = [*([header] if header else []), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def count(number: int) -> str:
    """A number of parameters as people say it: 98.4M, 1.1B."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(number)


def file_size(number: int) -> str:
    """A number of bytes as people say it: 393.1 MB."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"
