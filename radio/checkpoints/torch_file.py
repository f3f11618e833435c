"""Torch files (``*.pth.tar``): read without running any code from them, memory-mapped."""

from __future__ import annotations

import pathlib
import pickle
import threading
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radio.checkpoints.guard import brief, refuse_placeholder, short_reason
from radio.checkpoints.pickle_check import LONGEST_PICKLE, check_pickle
from radio.checkpoints.shapes import check_names
from radio.checkpoints.teachers import read_teachers
from radio.errors import CheckpointError

_READING = threading.Lock()
"""torch keeps the list of allowed globals for the whole process, so that one file is read at a time."""

_OF_PROGRAMS = frozenset({"constants.pkl", "archive_format"})
"""Files that torch.jit.save and torch.export.save put into theirs."""

_MOST_SHARING = 32
"""Tensors may share storage, but together they may not claim more than this many times the file's size."""


def _allowed_globals() -> list[Callable | tuple[Callable, str]]:
    """What a released file may name besides what ``weights_only`` allows by itself."""
    allowed: list[Callable | tuple[Callable, str]] = [Namespace, np.dtype]
    for module in ("pathlib", "pathlib._local"):
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"):
            pure = pathlib.PureWindowsPath if "Windows" in name else pathlib.PurePosixPath
            allowed.append((pure, f"{module}.{name}"))
    scalar: Any = np.float64(0).__reduce__()[0]
    allowed.extend((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))
    allowed.extend(
        type(np.dtype(name)) for name in ("bool", "int32", "int64", "float16", "float32", "float64")
    )
    return allowed


def read_torch_content(path: Path, mmap: bool = True) -> dict[str, Any]:
    """The dict that a torch checkpoint file holds, read without running any code.

    Args:
        path: A zip-format ``torch.save`` of a dict.
        mmap: Leave the tensors in the file and map it, instead of reading them.

    Raises:
        CheckpointError: The file is not a torch file, is damaged, asks for more than tensors and plain values, or
            holds something other than a dict.
    """
    _check_container(path)
    content = _load(path, mmap)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not the dict of a RADIO checkpoint")
    return content


def _check_container(path: Path) -> None:
    """Make sure that the file is a whole zip archive of plain entries before torch maps it."""
    refuse_placeholder(path)
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path} is not a zip-format torch file, or was cut short ({short_reason(error)}); download it again (a "
            "'.safetensors' file needs its 'config.json' beside it; a file in torch's old format must be saved again "
            "with a current torch.save)"
        ) from error
    names = {entry.filename.partition("/")[2] for entry in entries}
    if not names.isdisjoint(_OF_PROGRAMS):
        raise CheckpointError(
            f"{path} holds a traced or exported program, not weights; load the checkpoint that it was made from"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path} has compressed entries, which torch.save never writes; refused")
    if any(entry.header_offset + entry.file_size > size for entry in entries):
        raise CheckpointError(
            f"{path} is damaged: an entry reaches beyond the end of the file; download it again"
        )


def _load(path: Path, mmap: bool) -> Any:
    try:
        # torch's own reader, so that what is checked is what torch.load reads.
        reader = torch._C.PyTorchFileReader(str(path))
        sizes = _record_sizes(reader, path)
        records = {
            name.removeprefix("data/"): size for name, size in sizes.items() if name.startswith("data/")
        }
        if sizes["data.pkl"] > LONGEST_PICKLE:
            raise CheckpointError(f"{path} describes itself in more bytes than any RADIO checkpoint; refused")
        check_pickle(reader.get_record("data.pkl"), records, str(path))
        with _READING, torch.serialization.safe_globals(_allowed_globals()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, or is damaged, so it cannot be read safely; refused"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way inside torch's reader
        raise CheckpointError(
            f"{path} is damaged or not a torch checkpoint ({short_reason(error)}); download it again"
        ) from error


def _record_sizes(reader: Any, path: Path) -> dict[str, int]:
    """The number of bytes of every record, by its name without the folder that all lie in."""
    names = reader.get_all_records()
    if hasattr(reader, "get_record_size"):
        return {name: reader.get_record_size(name) for name in names}
    with zipfile.ZipFile(path) as archive:  # PyTorch up to 2.6 or so
        return {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}


def plain_tensors(state: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, if they are plain ones that the file really holds.

    Raises:
        CheckpointError: One is not, or all together claim much more than the file holds.
    """
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path}: the state dict must map names to tensors")
    for name, value in state.items():
        if (
            type(value) not in (Tensor, torch.nn.Parameter)
            or value.layout != torch.strided
            or value.device.type != "cpu"
            or value.is_quantized
            or value.is_nested
        ):
            raise CheckpointError(f"{path}: {brief(name)} is not a plain dense tensor")
        if value.nbytes > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {brief(name)} claims shape {tuple(value.shape)}, more than the file holds"
            )
    claimed, held = sum(value.nbytes for value in state.values()), path.stat().st_size
    if claimed > _MOST_SHARING * held:
        raise CheckpointError(f"{path} claims {claimed} bytes of weights in a file of {held} bytes; refused")
    check_names(state, path)
    return {name: value.detach() for name, value in state.items()}


_PREFIXES = {
    "base_model.": "model.",
    "input_conditioner.": "input_conditioner.",
    "_feature_normalizer.": "feature_normalizer.",
    "_intermediate_feature_normalizer.": "inter_feature_normalizer.",
}
_HEADS = {"_heads.": "head_mlp", "_feature_projections.": "feat_mlp"}


def from_released_names(tensors: dict[str, Tensor], args: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Tensors under this library's names; those that have them already stay as they are.

    Raises:
        CheckpointError: A head belongs to none of the teachers that the arguments list.
    """
    names = [teacher["name"] for teacher in read_teachers(args, path)]
    first = {name: number for number, name in reversed(list(enumerate(names)))}
    renamed: dict[str, Tensor] = {}
    for old, value in tensors.items():
        new = _new_name(old, names, first, path)
        if new is not None:
            renamed[new] = value
    return renamed


def _new_name(old: str, teachers: list[str], first: dict[str, int], path: Path) -> str | None:
    """This library's name of a tensor, or None for the heads of a teacher's later entries.

    Args:
        old: The stored name.
        teachers: The teachers' names, in order.
        first: The number of each teacher's first entry.
        path: For messages.
    """
    for prefix, new_prefix in _PREFIXES.items():
        if old.startswith(prefix):
            return new_prefix + old.removeprefix(prefix)
    for prefix, part in _HEADS.items():
        if old.startswith(prefix):
            key, _, rest = old.removeprefix(prefix).partition(".")
            if key in first:
                return f"adaptors.{key}.{part}.{rest}"
            if not key.isdecimal() or int(key) >= len(teachers):
                raise CheckpointError(
                    f"{path}: {brief(old)} belongs to no teacher; the teachers are {brief(teachers)}"
                )
            name = teachers[int(key)]
            return f"adaptors.{name}.{part}.{rest}" if first[name] == int(key) else None
    return old
