"""Shards of results: Parquet tables with a row for every input, and files of spatial features beside them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from radio.extraction.inputs import Item
from radio.extraction.storage import Folder
from radio.optional import require

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa = require("pyarrow", "extract")
    pq = require("pyarrow.parquet", "extract")

OK, FAILED = "ok", "failed"

_METADATA = b"radio"
_SAFETENSORS = {"float16": "F16", "float32": "F32", "int32": "I32"}
_HEADER_ROOM = 160
_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors opens no file with a longer one."""


class ShardState:
    """A finished shard, as its own footer tells.

    Attributes:
        run: The fingerprint of the run that wrote it.
        ok, failed: Number of rows of each kind.
    """

    def __init__(self, run: str, ok: int, failed: int) -> None:
        self.run = run
        self.ok = ok
        self.failed = failed

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.ok + self.failed


def read_state(folder: Folder, name: str) -> ShardState:
    """What a finished shard says about itself.

    Raises:
        ValueError: The file is damaged, or no shard of this library.
    """
    try:
        with folder.open(name) as file:
            footer = pq.read_metadata(file)
        notes = json.loads((footer.metadata or {})[_METADATA])
        state = ShardState(notes["run"], notes["ok"], notes["failed"])
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"{folder.address_of(name)} is damaged or not from 'radio extract' ({error}); "
            "delete it and run the same command again"
        ) from error
    if state.rows != footer.num_rows:
        raise ValueError(f"{folder.address_of(name)} is damaged; delete it and run the same command again")
    return state


class ShardTable:
    """The rows of one shard while they come in.

    Args:
        items: The inputs, one per row.
        vectors: Name and length of each column of vectors.
        dtype: Of the vectors: ``"float32"`` or ``"float16"``.
    """

    def __init__(self, items: Sequence[Item], vectors: Mapping[str, int], dtype: str) -> None:
        rows = len(items)
        self._ids = [item.id for item in items]
        self._paths = [item.path for item in items]
        self._sizes: list[tuple[int | None, int | None]] = [(None, None)] * rows
        self._grids = np.zeros((rows, 2), np.int32)
        self._errors: list[str | None] = ["it was not run"] * rows
        self._vectors = {name: np.zeros((rows, length), dtype) for name, length in vectors.items()}

    @property
    def failed(self) -> int:
        """Number of rows that failed."""
        return sum(error is not None for error in self._errors)

    def failures(self) -> list[tuple[str, str]]:
        """Id and error of the rows that failed."""
        pairs = zip(self._ids, self._errors, strict=True)
        return [(name, error) for name, error in pairs if error is not None]

    def succeed(
        self,
        row: int,
        size: tuple[int | None, int | None],
        grid: tuple[int, int],
        vectors: Mapping[str, NDArray[Any]],
    ) -> None:
        """Fill in a row."""
        for name, column in self._vectors.items():
            column[row] = vectors[name]
        self._sizes[row], self._grids[row], self._errors[row] = size, grid, None

    def fail(self, row: int, size: tuple[int | None, int | None], error: str) -> None:
        """Note that a row failed, and why. Its vectors are null."""
        self._sizes[row], self._errors[row] = size, error

    def take_over(self, table: pa.Table) -> list[int]:
        """Fill in all rows of an earlier shard of the same inputs.

        Returns:
            The rows that had failed.
        """
        heights, widths, errors = (table[name].to_pylist() for name in ("height", "width", "error"))
        self._sizes = list(zip(heights, widths, strict=True))
        self._errors = errors
        self._grids = as_matrix(table["grid"], 2, np.dtype(np.int32))
        self._vectors = {
            name: as_matrix(table[name], column.shape[1], column.dtype)
            for name, column in self._vectors.items()
        }
        return [row for row, error in enumerate(errors) if error is not None]

    def to_arrow(self, run: str) -> pa.Table:
        """The table, with a note of its run and its counts."""
        failed = np.array([error is not None for error in self._errors], bool)
        heights, widths = zip(*self._sizes, strict=True)
        columns = {
            "id": pa.array(self._ids, pa.string()),
            "path": pa.array(self._paths, pa.string()),
            "height": pa.array(heights, pa.int32()),
            "width": pa.array(widths, pa.int32()),
            "grid": _fixed_lists(self._grids, failed),
            "status": pa.array([FAILED if each else OK for each in failed], pa.string()),
            "error": pa.array(self._errors, pa.string()),
            **{name: _fixed_lists(values, failed) for name, values in self._vectors.items()},
        }
        notes = {"run": run, "ok": int((~failed).sum()), "failed": int(failed.sum())}
        return pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(notes).encode()})


def write_table(folder: Folder, name: str, table: pa.Table) -> None:
    """Write a shard, complete or not at all.

    Raises:
        OSError: It cannot be written; the message says what to do.
    """
    with folder.writing(name) as path:
        pq.write_table(table, path, use_dictionary=["status", "error"])


def _fixed_lists(values: NDArray[Any], null: NDArray[np.bool_]) -> Any:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(null))


def as_matrix(column: Any, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A column of lists of one length as a matrix; null rows are zeros."""
    whole = column.combine_chunks()
    result = np.zeros((len(whole), length), dtype)
    result[whole.is_valid().to_numpy(zero_copy_only=False)] = (
        whole.flatten().to_numpy(zero_copy_only=False).reshape(-1, length)
    )
    return result


class DenseRow:
    """The spatial features of one image.

    Attributes:
        id: The input's.
        grid: Patches down and across.
        features: By name (``features`` and each adaptor's), (L, C), or (K, C) merged tokens.
        merged: With merged tokens, ``sizes`` (K,) and ``positions`` (K, 2), float32; empty otherwise.
    """

    def __init__(
        self,
        id: str,
        grid: tuple[int, int],
        features: Mapping[str, NDArray[Any]],
        merged: Mapping[str, NDArray[Any]],
    ) -> None:
        self.id = id
        self.grid = grid
        self.features = features
        self.merged = merged


class DenseWriter(Protocol):
    """Writes spatial features image by image, in little memory."""

    def add(self, row: DenseRow) -> None:
        """Write those of one image."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class SafetensorsWriter:
    """A safetensors file with tensors ``features:ID``, ``NAME:ID`` of each adaptor, ``grid:ID``, and with merged
    tokens ``sizes:ID`` and ``positions:ID``.

    The header comes first in such a file, so room for it is left and filled in at the end.
    """

    def __init__(self, path: Path, ids: Sequence[str], names: Sequence[str]) -> None:
        kinds = [*names, "grid", "sizes", "positions"]
        longest = max(len(name) for name in kinds)
        room = sum(len(kinds) * (len(json.dumps(each)) + longest + _HEADER_ROOM) for each in ids)
        self._room = -(-(room + _HEADER_ROOM) // 8) * 8
        if self._room > _LONGEST_HEADER:
            raise ValueError(
                f"{len(ids)} images are too many for one safetensors file, whose header would be too long; give fewer "
                "rows per shard (--rows-per-shard 1000)"
            )
        self._header: dict[str, Any] = {}
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115  closed by `close`
        self._file.seek(8 + self._room)
        self._end = 0

    def add(self, row: DenseRow) -> None:
        grid = np.array(row.grid, np.int32)
        for name, array in {**row.features, "grid": grid, **row.merged}.items():
            data = np.ascontiguousarray(array)
            self._file.write(data.data)
            self._header[f"{name}:{row.id}"] = {
                "dtype": _SAFETENSORS[data.dtype.name],
                "shape": list(data.shape),
                "data_offsets": [self._end, self._end + data.nbytes],
            }
            self._end += data.nbytes

    def close(self) -> None:
        header = json.dumps(self._header).encode()
        with self._file:
            self._file.truncate(8 + self._room + self._end)
            self._file.seek(0)
            self._file.write(struct.pack("<Q", self._room) + header.ljust(self._room))


class ArrowWriter:
    """An Arrow file with columns ``id``, ``grid``, ``features``, one per adaptor, and with merged tokens ``sizes`` and
    ``positions``; one record batch per image."""

    def __init__(self, path: Path, widths: Mapping[str, int], dtype: str, merged: bool) -> None:
        value = pa.float16() if dtype == "float16" else pa.float32()
        self._types = {
            "id": pa.string(),
            "grid": pa.list_(pa.int32(), 2),
            **{name: pa.list_(pa.list_(value, width)) for name, width in widths.items()},
        }
        if merged:
            self._types["sizes"] = pa.list_(pa.float32())
            self._types["positions"] = pa.list_(pa.list_(pa.float32(), 2))
        self._schema = pa.schema(self._types)
        self._file = open(path, "wb")  # noqa: SIM115  closed by `close`
        self._writer = pa.ipc.new_file(self._file, self._schema)

    def add(self, row: DenseRow) -> None:
        columns = [
            pa.array([row.id], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(row.grid, pa.int32()), 2),
            *(_one_list(array) for array in {**row.features, **row.merged}.values()),
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        with self._file:
            self._writer.close()


def _one_list(array: NDArray[Any]) -> Any:
    """A column of one row that holds a list: of numbers, or of vectors."""
    values = pa.array(np.ascontiguousarray(array).reshape(-1))
    if array.ndim == 2:
        values = pa.FixedSizeListArray.from_arrays(values, array.shape[1])
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
