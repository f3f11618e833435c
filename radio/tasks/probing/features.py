"""Features of a data set for a probe: computed by `radio.extraction` once, read from files afterwards."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from radio.data.batches import Progress
from radio.errors import ImageError
from radio.files import atomic_write
from radio.images import SizeSpec
from radio.model import RADIOModel
from radio.optional import require
from radio.wording import counted

if TYPE_CHECKING:
    from radio.extraction.cache import CachedFeatures

_ROWS_AT_ONCE = 256
_FAILURES_SHOWN = 5


class LabeledData(Protocol):
    """Images with a class each: `radio.data.labeled.ImageFolder`, `radio.data.labeled.HubImages`, or alike.

    Attributes:
        classes: Names of the K classes.
        labels: The class of each image, in [0, K).
    """

    classes: tuple[str, ...]
    labels: list[int]

    def __len__(self) -> int: ...


class DenseData(Protocol):
    """Images with labels or depths for every pixel: `MaskFolder`, `DepthFolder`, `HubMasks`, `HubDepths`
    of `radio.data.dense`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any:
        """An image, as `radio.images.load_image` takes it."""
        ...

    def target(self, index: int) -> Tensor:
        """(H, W) of an image, at its own size."""
        ...


def read_features(
    model: RADIOModel,
    data: Any,
    root: str | os.PathLike[str],
    size: SizeSpec,
    spatial: bool,
    batch_size: int = 16,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> tuple[CachedFeatures, list[int]]:
    """The features of a data set, and the rows that have some.

    Args:
        data: With ``paths`` of its images, or with ``dataset``, a data set of the `datasets` library.
        root: Where features are kept.
        skip_unreadable: Leave out images that cannot be read, with a warning that names them; by default the first
            one is an error.
        progress: Shows how many images are done.

    Raises:
        ImageError: An image cannot be read, or none can.
        MissingExtraError: pyarrow is not installed.
    """
    require("pyarrow", "probe")
    from radio.extraction.cache import cached_features

    inputs = _inputs(data, Path(root).expanduser(), progress)
    shown = None if progress is None else _Shown(progress)
    found = cached_features(
        model, inputs, root, size, spatial=spatial, batch_size=batch_size, on_progress=shown
    )
    if not skip_unreadable or len(found.failures) == len(found):
        found.require_all()
    warn_of_failures({found.ids[row]: error for row, error in found.failures.items()})
    return found, [row for row in range(len(found)) if row not in found.failures]


def warn_of_failures(failures: Mapping[str, Any]) -> None:
    """Say which images were left out, and why."""
    if failures:
        first = [f"{name}: {error}" for name, error in failures.items()][:_FAILURES_SHOWN]
        warnings.warn(
            f"left out {counted(len(failures), 'image')} that cannot be read: {'; '.join(first)}",
            stacklevel=4,
        )


class _Shown:
    """Shows the counts of an extraction as progress over its rows."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rows: Iterator[Any] | None = None
        self._done = 0

    def __call__(self, state: Any) -> None:
        if self._rows is None:
            self._rows = iter(self._progress(range(state.total), state.total, "features"))
        for _ in range(state.done - self._done):
            next(self._rows, None)
        self._done = state.done


def read_target(data: DenseData, row: int, size: Sequence[int], name: str) -> Tensor:
    """Labels or depths (H, W) of a row, at the size of its image.

    Args:
        data: Where they come from.
        row: Which.
        size: Height and width of the image.
        name: Of the image.

    Raises:
        ImageError: They cannot be read, or have another size than the image.
    """
    target = data.target(row)
    if tuple(target.shape) != tuple(size):
        height, width = size
        raise ImageError(
            f"{name} has {height} x {width} pixels (height x width), but its labels or depths are for "
            f"{target.shape[0]} x {target.shape[1]}"
        )
    return target


def _inputs(data: Any, root: Path, progress: Progress | None) -> Sequence[Path]:
    if hasattr(data, "paths"):
        return list(data.paths)
    place = root / f"images-{data.dataset._fingerprint}.parquet"
    if not place.is_file():
        with atomic_write(place) as temporary:
            _write_table(data.dataset, temporary, progress)
    return [place]


def _write_table(dataset: Any, path: Path, progress: Progress | None) -> None:
    """The images of a data set as a table with their bytes, which `radio.extraction` reads by row."""
    pa, pq = require("pyarrow", "probe"), require("pyarrow.parquet", "probe")
    images = dataset.select_columns(["image"]).cast_column(
        "image", require("datasets", "datasets").Image(decode=False)
    )
    starts = range(0, len(images), _ROWS_AT_ONCE)
    schema = pa.schema({"image": pa.binary()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in starts if progress is None else progress(starts, len(starts), "images"):
            rows = images[start : start + _ROWS_AT_ONCE]["image"]
            writer.write_table(pa.table({"image": [_content(row) for row in rows]}, schema))


def _content(row: Any) -> bytes:
    if row["bytes"] is not None:
        return bytes(row["bytes"])
    try:
        return Path(row["path"]).read_bytes()
    except OSError as error:
        raise ImageError(f"an image of the data set cannot be read: {error}") from error
