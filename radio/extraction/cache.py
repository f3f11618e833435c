"""Features that are computed once, in a folder for each choice of model, size and inputs, and read by row."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from radio.distributed import Processes
from radio.errors import ImageError
from radio.extraction.engine import Inputs, ProgressCallback, extract
from radio.extraction.inputs import Listing, list_inputs
from radio.extraction.plan import ExtractionOptions, FloatName, Run, describe_model
from radio.extraction.shards import as_matrix, pq
from radio.extraction.storage import Folder
from radio.images import SizeSpec
from radio.model import RADIOModel
from radio.wording import counted

ROWS_PER_SHARD = 1000
"""A stopped run loses at most so many images, and several processes share the shards."""


class CachedFeatures:
    """The features of a list of inputs, by row. Make one with `cached_features`.

    Attributes:
        folder: Where they lie.
        ids: The inputs, as they were given.
        failures: The rows that have no features, and why.
        grids: Patches down and across, by row.
        image_sizes: Height and width of the images themselves, by row, in pixels.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run = Run.load(Folder(folder))
        self.ids: list[str] = []
        self.failures: dict[int, str] = {}
        self.grids: list[tuple[int, int]] = []
        self.image_sizes: list[tuple[int, int]] = []
        for table in self._tables(["id", "height", "width", "grid", "error"]):
            for row in table.to_pylist():
                if row["error"] is not None:
                    self.failures[len(self.ids)] = row["error"]
                self.ids.append(row["id"])
                self.grids.append(tuple(row["grid"] or (0, 0)))
                self.image_sizes.append((row["height"], row["width"]))
        self._dense: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> list[str]:
        """``summary``, and the adaptors."""
        return list(self._run.vectors)

    def require_all(self) -> None:
        """Make sure that every input has features.

        Raises:
            ImageError: One has none; the message says which, and why.
        """
        if self.failures:
            row, error = next(iter(self.failures.items()))
            raise ImageError(
                f"no features for {len(self.failures)} of {counted(len(self), 'image')}; the first is "
                f"{self.ids[row]}: {error}"
            )

    def chunks(self, name: str = "summary") -> Iterator[Tensor]:
        """Vectors in the order of the rows, a shard at a time, (n, D); rows that failed are zeros."""
        for table in self._tables([name]):
            dtype = np.dtype(self._run.options.summary_dtype)
            yield torch.from_numpy(as_matrix(table[name], self._run.vectors[name], dtype))

    def vectors(self, name: str = "summary") -> Tensor:
        """All vectors, (N, D) float32; rows that failed are zeros."""
        return torch.cat([chunk.float() for chunk in self.chunks(name)])

    def spatial(self, row: int, name: str = "features") -> Tensor:
        """The spatial features of a row, (C, h, w) float32; those of an adaptor may be on a finer grid.

        Raises:
            ValueError: They were not asked for, or the row failed.
        """
        if self._run.options.dense is None or row in self.failures:
            raise ValueError(f"row {row} has no spatial features in {self.folder}")
        shard = row // self._run.options.rows
        if shard not in self._dense:
            path = self.folder / self._run.dense_name(shard)
            self._dense[shard] = safe_open(str(path), framework="pt")
        tokens: Tensor = self._dense[shard].get_tensor(f"{name}:{self.ids[row]}").float()
        height, width = self.grids[row]
        finer = math.isqrt(len(tokens) // (height * width))
        return tokens.T.reshape(-1, height * finer, width * finer)

    def _tables(self, columns: list[str]) -> Iterator[Any]:
        for shard in range(self._run.shards):
            with self._run.folder.open(self._run.name(shard)) as file:
                yield pq.read_table(file, columns=columns)


class CachePlan:
    """What a call of `cached_features` with these arguments would use, and what is still missing of it.

    Attributes:
        folder: Where the features are, or will be.
        listing: The inputs.
        options: What is computed.
    """

    def __init__(
        self,
        model: RADIOModel,
        inputs: Inputs,
        root: str | os.PathLike[str],
        size: SizeSpec = None,
        spatial: bool = False,
        summary_dtype: FloatName = "float32",
    ) -> None:
        self.listing = inputs if isinstance(inputs, Listing) else list_inputs(_as_list(inputs))
        self.options = ExtractionOptions(
            size=size,
            summary_dtype=summary_dtype,
            dense="safetensors" if spatial else None,
            exact=True,
            rows_per_shard=ROWS_PER_SHARD,
        )
        self.folder = Path(root).expanduser() / _key(model, self.listing, self.options)

    @property
    def missing(self) -> int:
        """How many inputs have no features yet."""
        done = len(list(self.folder.glob("shard-*.parquet")))
        return max(0, len(self.listing) - done * self.options.rows)


def cached_features(
    model: RADIOModel,
    inputs: Inputs,
    root: str | os.PathLike[str],
    size: SizeSpec = None,
    *,
    spatial: bool = False,
    summary_dtype: FloatName = "float32",
    processes: Processes | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> CachedFeatures:
    """Features of a list of inputs: computed by `extract` at the first call, read from files at the next.

    They lie in a folder under ``root`` whose name follows from all that they depend on: weights, dtype, adaptors,
    windows, size, and the list of inputs with each file's size and time of change. A call that was stopped goes on
    where it was. Images are read exactly as `RADIOModel.encode` reads them.

    Args:
        model: The model, with the adaptors whose outputs are wanted.
        inputs: As `extract` takes them.
        root: Where the folders are.
        size: As in `radio.images.target_size`.
        spatial: Spatial features too, in float16.
        summary_dtype: Of the stored vectors.
        processes: Those that share the work; each gets all features.
        batch_size, workers, on_progress: As `extract` takes them.

    Raises:
        ValueError: There are no inputs, or the size does not fit the model.
        OSError: The folder cannot be written.
    """
    plan = CachePlan(model, inputs, root, size, spatial, summary_dtype)
    share = (0, 1) if processes is None else (processes.rank, processes.size)
    extract(
        plan.listing,
        model,
        plan.folder,
        plan.options,
        shard=share,
        batch_size=batch_size,
        workers=workers,
        on_progress=on_progress,
    )
    if processes is not None:
        processes.wait()
    return CachedFeatures(plan.folder)


def _as_list(inputs: Any) -> Sequence[str | os.PathLike[str]]:
    return [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)


def _key(model: RADIOModel, listing: Listing, options: ExtractionOptions) -> str:
    """The name of the folder; it starts with the model's, for people who look for what takes the space."""
    files = [_identity(item.source) for item in listing.items(0, len(listing))]
    facts = [describe_model(model), asdict(options), listing.digest(), files]
    digest = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
    name = model.config.version or model.checkpoint_path.name.partition(".")[0]
    return f"{''.join(c if c.isalnum() or c in '._-' else '_' for c in name)}-{digest[:16]}"


def _identity(path: str) -> tuple[int, int] | None:
    """A file's size and time of change; None for an address, and for what is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns
