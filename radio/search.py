"""Search over the results of `radio extract`: an embedded LanceDB table. Needs the ``search`` extra.

>>> from radio import load_model
>>> from radio.search import SearchIndex, build_index
>>> index = build_index("features/", "radio.lancedb")
>>> model = load_model("c-radio_v3-b", adaptors=["siglip2-g"])
>>> query = model.encode("q.jpg", size=index.size).summary[0]
>>> for match in index.search(query, limit=5, where="width > 1000"):
...     print(match.score, match.path)
>>> text = model.adaptors["siglip2-g"].encode_text(["a red bicycle"])[0]
>>> index.search(text, column="siglip2-g")
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image

from radio.drawing.pictures import Panel, fit_long_side, sheet
from radio.errors import printable as on_one_line
from radio.extraction.inputs import printable
from radio.extraction.plan import Run
from radio.extraction.reading import open_image
from radio.extraction.shards import OK, pa, pq
from radio.extraction.storage import Folder, is_address
from radio.images import SizeSpec
from radio.optional import require

logger = logging.getLogger(__name__)

DEFAULT_INDEX = "radio.lancedb"
"""Where `radio index` writes and `radio search` looks."""

APPROXIMATE_FROM = 20_000
"""From so many rows on an approximate index answers faster than looking at every row; see docs/extraction.md."""

_TABLE = "images"
_METADATA = b"radio"
_REFINE = 5
_THUMBNAIL = 384
_PANELS_PER_ROW = 5
_LONGEST_PATH = 500
_LONGEST_REASON = 200
_MISSING = (225, 226, 229)


@dataclass(frozen=True)
class Match:
    """A result of a search.

    Attributes:
        id, path: Of the image.
        score: Cosine similarity to what was searched for, -1 to 1.
        row: The other columns of its row, without vectors.
    """

    id: str
    path: str
    score: float
    row: Mapping[str, Any]


class SearchIndex:
    """A table of images that answers which of them are most like a vector.

    Args:
        place: A folder or an address that `build_index` wrote.

    Raises:
        ValueError: There is no index.
        MissingExtraError: LanceDB is not installed.
    """

    def __init__(self, place: str | os.PathLike[str] = DEFAULT_INDEX) -> None:
        self.place = os.fspath(place)
        database = _connect(self.place)
        if _TABLE not in _tables(database, self.place):
            raise ValueError(
                f"there is no index at {self.place!r}; make one: radio index FOLDER -o {self.place}"
            )
        with _told(self.place):
            self._table = database.open_table(_TABLE)
            metadata = self._table.schema.metadata or {}
        if _METADATA not in metadata:
            raise ValueError(f"the index at {self.place!r} is not from 'radio index'; give another one")
        self.description: Mapping[str, Any] = json.loads(metadata[_METADATA])

    def __len__(self) -> int:
        return int(self._table.count_rows())

    @property
    def vectors(self) -> dict[str, int]:
        """Name and length of each column of vectors: ``summary`` and one per adaptor."""
        return dict(self.description["model"]["vectors"])

    @property
    def size(self) -> SizeSpec:
        """How large images became when they were extracted; queries should be as large."""
        size: str | None = self.description["options"]["size"]
        return size

    @property
    def approximate(self) -> list[str]:
        """The columns of vectors that have an approximate index."""
        return [index.columns[0] for index in self._table.list_indices()]

    def search(
        self,
        vector: ArrayLike | torch.Tensor,
        limit: int = 10,
        column: str = "summary",
        where: str | None = None,
        exact: bool = False,
    ) -> list[Match]:
        """The images most like a vector.

        Args:
            vector: (D,) of any length above zero.
            limit: How many.
            column: ``"summary"``, or the name of an adaptor in whose space the vector is.
            where: Only look at rows that meet this SQL condition on other columns, such as ``width > 1000 and path
                like '%/cats/%'``.
            exact: Look at every row, also where there is an approximate index.

        Returns:
            At most so many matches, the best first.

        Raises:
            ValueError: The column, the vector, the limit or the condition does not fit.
        """
        if column not in self.vectors:
            raise ValueError(f"unknown column {column!r}; this index has: {', '.join(self.vectors)}")
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        values = torch.as_tensor(vector).detach().float().cpu().numpy()
        if values.shape != (self.vectors[column],) or not np.isfinite(values).all() or not values.any():
            raise ValueError(
                f"the vector must be {self.vectors[column]} finite numbers, not all zero, got shape {values.shape}"
            )
        values = values / np.linalg.norm(
            values.astype(np.float64)
        )  # or the squares of large ones would be infinite
        others = [name for name in self._table.schema.names if name not in self.vectors]
        query = (
            self._table.search(values.astype(np.float32), vector_column_name=column)
            .distance_type("cosine")
            .limit(limit)
        )
        query = query.select([*others, "_distance"])
        if where is not None:
            query = query.where(where, prefilter=True)
        query = query.bypass_vector_index() if exact else query.refine_factor(_REFINE)
        try:
            rows = query.to_list()
        except (ValueError, RuntimeError, OSError) as error:
            if where is None:
                raise _damaged(self.place, error) from error
            raise ValueError(
                f"the condition {where!r} cannot be used ({str(error).splitlines()[0]}); columns: {', '.join(others)}"
            ) from error
        return [Match(row.pop("id"), row.pop("path"), 1 - row.pop("_distance"), row) for row in rows]


def build_index(
    folder: str | os.PathLike[str],
    place: str | os.PathLike[str] = DEFAULT_INDEX,
    approximate: bool | None = None,
) -> SearchIndex:
    """Put the results of `radio extract` into an index. One that is there already is replaced.

    Args:
        folder: The folder of shards, or its address. Rows that failed are left out.
        place: Where the index goes, a folder or an address.
        approximate: Whether to add an approximate index (IVF with 8-bit scalar quantization) for every column of
            vectors; None for from `APPROXIMATE_FROM` rows on, where it pays.

    Returns:
        The index.

    Raises:
        ValueError: The folder has no results, or none that did not fail, or the index would lie among them.
        MissingExtraError: LanceDB is not installed.
        OSError: The index cannot be written.
    """
    run = Run.load(Folder(folder))
    _check_outside(run.folder, os.fspath(place))
    finished = run.finished()
    shards = [run.name(number) for number in finished]
    if len(shards) < run.shards:
        logger.warning(
            "%s has %d of %d shards; the others are not in the index", run.folder, len(shards), run.shards
        )
    if not shards:
        raise ValueError(f"{run.folder} has no finished shard; run 'radio extract' first")
    if not any(state.ok for state in finished.values()):
        raise ValueError(f"all rows of {run.folder} failed; there is nothing to search")
    with run.folder.open(shards[0]) as file:
        schema = pq.read_schema(file).with_metadata({_METADATA: json.dumps(run.description).encode()})
    schema = pa.schema([field for field in schema if field.name != "error"], schema.metadata)
    database = _connect(os.fspath(place))
    there = _TABLE in _tables(database, os.fspath(place))
    try:
        table = database.create_table(
            _TABLE,
            data=_good_rows(run.folder, shards, schema),
            schema=schema,
            mode="overwrite" if there else "create",
        )
        if approximate or (approximate is None and table.count_rows() >= APPROXIMATE_FROM):
            kind = require("lancedb.index", "search").IvfSq(distance_type="cosine")
            for column in run.vectors:
                table.create_index(column, config=kind)
    except (RuntimeError, OSError) as error:  # such as a full disk, or another process that does the same
        why = on_one_line(str(error).strip().split("\n")[0], _LONGEST_REASON)
        raise OSError(
            f"the index at {place!r} cannot be written, run the same command again ({why})"
        ) from error
    return SearchIndex(place)


def contact_sheet(matches: Sequence[Match], title: str = "", image_column: str | None = None) -> Image.Image:
    """Pictures of matches with their ranks and scores.

    Args:
        matches: As `SearchIndex.search` gives them. An image that is gone is a gray field.
        title: Goes above them.
        image_column: The column of tables that has the images, as it was extracted.

    Raises:
        ValueError: There are no matches.
    """
    if not matches:
        raise ValueError("nothing was found, so there is no contact sheet to draw")
    panels = [
        Panel(_thumbnail(match.path, image_column), f"{rank}.  {match.score:.3f}")
        for rank, match in enumerate(matches, start=1)
    ]
    rows = [panels[i : i + _PANELS_PER_ROW] for i in range(0, len(panels), _PANELS_PER_ROW)]
    return sheet(rows, title=title)


def _thumbnail(path: str, image_column: str | None) -> Image.Image:
    try:
        with open_image(path, image_column) as image:
            return image.convert("RGB").resize(fit_long_side(image.size, _THUMBNAIL))
    except Exception as error:  # a picture that is gone or changed takes nothing from the others
        logger.warning("%s cannot be shown: %s", on_one_line(path, _LONGEST_PATH), error)
        return Image.new("RGB", (_THUMBNAIL, _THUMBNAIL), _MISSING)


def _good_rows(folder: Folder, shards: Sequence[str], schema: pa.Schema) -> Iterator[Any]:
    for name in shards:
        with folder.open(name) as file:
            table = pq.read_table(file, columns=schema.names, filters=[("status", "=", OK)])
        yield from table.replace_schema_metadata(schema.metadata).to_batches()


def _connect(place: str) -> Any:
    lancedb = require("lancedb", "search")
    if not is_address(place) and Path(place).exists() and not Path(place).is_dir():
        raise ValueError(f"{printable(place)} is a file; an index is a folder")
    return lancedb.connect(place)


def _check_outside(folder: Folder, place: str) -> None:
    """Whether an index lies outside of a folder of shards: readers of tables would take its files for more of them."""
    if folder.local is None or is_address(place):
        return
    inside = os.path.relpath(os.path.realpath(place), os.path.realpath(folder.local)).split(os.sep)
    if inside[0] != os.pardir and not inside[0].startswith((".", "_")):
        raise ValueError(f"the index would lie among the shards, in {folder}; give another place for it (-o)")


def _tables(database: Any, place: str) -> Sequence[str]:
    with _told(place):
        return list(database.list_tables().tables)


@contextmanager
def _told(place: str) -> Iterator[None]:
    """LanceDB's errors in words of ours."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise _damaged(place, error) from error


def _damaged(place: str, error: Exception) -> ValueError:
    why = on_one_line(str(error).strip().split("\n")[0], _LONGEST_REASON)
    return ValueError(f"the index at {place!r} is damaged, or none; make it again with 'radio index' ({why})")
