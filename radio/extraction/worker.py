"""One model that works through shards: decoded images in, complete shards out. Every engine runs this class."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radio.encoding import Encoding, encode_images
from radio.errors import RadioError
from radio.extraction.inputs import Item
from radio.extraction.plan import Run
from radio.extraction.reading import Decoded, Decoder, Prefetcher
from radio.extraction.shards import (
    ArrowWriter,
    DenseRow,
    DenseWriter,
    SafetensorsWriter,
    ShardTable,
    pq,
    write_table,
)
from radio.images import load_image
from radio.model import RADIOModel
from radio.wording import counted

_FAILURES_KEPT = 20
_DEVICE_IS_LOST: tuple[type[Exception], ...] = (
    (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
)


@dataclass
class Counts:
    """How far a run is.

    Attributes:
        ok, failed: Rows done by this run, of each kind.
        seconds: Since the first image was asked for.
        waited: Of these, the seconds in which the model had to wait for decoding.
        failures: Id and error of the first rows that failed.
    """

    ok: int = 0
    failed: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows done."""
        return self.ok + self.failed

    @property
    def images_per_second(self) -> float:
        """Rows per second so far."""
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """Share of the time in which the model waited for decoding, 0 to 1."""
        return self.waited / self.seconds if self.seconds else 0.0

    def add(self, other: Counts) -> None:
        """Add what another worker did."""
        self.ok += other.ok
        self.failed += other.failed
        self.seconds += other.seconds
        self.waited += other.waited
        self.failures = (self.failures + other.failures)[:_FAILURES_KEPT]


class TooManyFailuresError(RadioError, RuntimeError):
    """More inputs failed than were allowed."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to be done.

    Attributes:
        number: Of the shard.
        retry: Only redo the rows that failed, of a shard that is there already.
    """

    number: int
    retry: bool = False


class ShardWorker:
    """A model and a pool of decoders that work through shards of a run.

    Args:
        run: The run.
        model: The model.
        batch_size: Images per forward pass; it halves when the memory does not suffice.
        workers: Threads that decode.
        max_failures: Stop when more rows than this failed; None for never.
    """

    def __init__(
        self, run: Run, model: RADIOModel, batch_size: int, workers: int, max_failures: int | None = None
    ) -> None:
        options = run.options
        self._run = run
        self._model = model
        self._batch_size = batch_size
        self._max_failures = max_failures
        decoder = Decoder(model, options.size, options.exact)
        # What is decoded has its size already; only where nobody chose one the model may remark on it.
        self._prepare = model.resize if options.size is None else load_image
        self._prefetch = Prefetcher(decoder, workers, batch_size + 2 * workers, options.image_column)
        self.counts = Counts()
        self._earlier = 0.0

    def __call__(
        self, tasks: Sequence[ShardTask], on_progress: Callable[[Counts], None] = lambda counts: None
    ) -> Iterator[int]:
        """Do shards, one after the other, while the decoders are ahead.

        Args:
            tasks: What to do.
            on_progress: Called after every pass with the counts so far.

        Yields:
            The number of each shard as it is finished.

        Raises:
            TooManyFailuresError: More rows failed than were allowed. The shard in which that happened is not written.
            OSError: A shard cannot be written; those before it are complete.
        """
        jobs = [self._job(task) for task in tasks]
        start = time.perf_counter()
        self._earlier = self.counts.seconds

        def tell() -> None:
            self.counts.seconds = self._earlier + time.perf_counter() - start
            on_progress(self.counts)

        with closing(self._prefetch(self._items(jobs))) as decoded:
            for task, rows in jobs:
                self._do_shard(task, rows, islice(decoded, len(rows)), tell)
                tell()
                yield task.number

    def _job(self, task: ShardTask) -> tuple[ShardTask, Sequence[int]]:
        """A task with the rows of its shard that are to be done."""
        rows = range(len(self._run.rows(task.number)))
        if not task.retry or self._run.options.dense:
            return task, rows
        with self._run.folder.open(self._run.name(task.number)) as file:
            status = pq.read_table(file, columns=["status"])["status"].to_pylist()
        return task, [row for row in rows if status[row] != "ok"]

    def _items(self, jobs: Sequence[tuple[ShardTask, Sequence[int]]]) -> Iterator[Item]:
        listing = self._run.listing
        for task, rows in jobs:
            shard = self._run.rows(task.number)
            if isinstance(rows, range):
                yield from listing.items(shard.start, shard.stop)
            else:
                for row in rows:
                    yield from listing.items(shard.start + row, shard.start + row + 1)

    def _do_shard(
        self, task: ShardTask, rows: Sequence[int], decoded: Iterable[Decoded], tell: Callable[[], None]
    ) -> None:
        run, options = self._run, self._run.options
        shard = run.rows(task.number)
        items = list(run.listing.items(shard.start, shard.stop))
        table = ShardTable(items, run.vectors, options.summary_dtype)
        if not isinstance(rows, range):
            with run.folder.open(run.name(task.number)) as file:
                table.take_over(pq.read_table(file))
        before = self.counts.failed
        with ExitStack() as stack:
            dense: DenseWriter | None = None
            if options.dense:
                path = stack.enter_context(run.folder.writing(run.dense_name(task.number)))
                dense = stack.enter_context(closing(self._dense_writer(path, items)))
            self._fill(table, dense, rows, iter(decoded), tell)
        self.counts.failures = (self.counts.failures + table.failures())[:_FAILURES_KEPT]
        assert self.counts.failed - before <= len(rows)
        write_table(run.folder, run.name(task.number), table.to_arrow(run.fingerprint))

    def _fill(
        self,
        table: ShardTable,
        dense: DenseWriter | None,
        rows: Sequence[int],
        decoded: Iterator[Decoded],
        tell: Callable[[], None],
    ) -> None:
        """Fill in rows in order, a pass at a time."""
        waiting = iter(rows)
        while batch := self._take(decoded):
            pairs = list(zip(islice(waiting, len(batch)), batch, strict=True))
            good = [(row, each) for row, each in pairs if each.pixels is not None]
            for row, each in pairs:
                if each.pixels is None:
                    self._fail(table, row, each, each.error or "")
            results = self._encode([each.pixels for _, each in good if each.pixels is not None])
            for (row, each), result in zip(good, results, strict=True):
                if isinstance(result, Exception):
                    self._fail(table, row, each, _reason(result))
                else:
                    self._succeed(table, dense, row, each, result)
            tell()

    def _take(self, decoded: Iterator[Decoded]) -> list[Decoded]:
        start = time.perf_counter()
        batch = list(islice(decoded, self._batch_size))
        self.counts.waited += time.perf_counter() - start
        return batch

    def _succeed(
        self, table: ShardTable, dense: DenseWriter | None, row: int, decoded: Decoded, result: Encoding
    ) -> None:
        options = self._run.options
        vectors = {
            name: _to_numpy(summary[0], options.summary_dtype) for name, summary in _summaries(result).items()
        }
        wrong = [name for name, vector in vectors.items() if not np.isfinite(vector).all()]
        if wrong:
            hint = "; float16 may be too narrow" if options.summary_dtype == "float16" else ""
            self._fail(table, row, decoded, f"{wrong[0]} has numbers that are not finite{hint}")
            return
        if dense is not None:
            spatial = _dense_row(decoded.item.id, result, options.dense_dtype)
            if not all(np.isfinite(array).all() for array in spatial.features.values()):
                self._fail(table, row, decoded, "the spatial features have numbers that are not finite")
                return
            dense.add(spatial)
        table.succeed(row, (decoded.height, decoded.width), result.grid, vectors)
        self.counts.ok += 1

    def _fail(self, table: ShardTable, row: int, decoded: Decoded, error: str) -> None:
        table.fail(row, (decoded.height, decoded.width), error)
        self.counts.failed += 1
        if self._max_failures is not None and self.counts.failed > self._max_failures:
            raise TooManyFailuresError(
                f"{counted(self.counts.failed, 'input')} failed, more than the {self._max_failures} allowed; the last "
                f"one is {decoded.item.id}: {error}. Finished shards are kept; run the same command again to go on"
            )

    def _encode(self, images: Sequence[Tensor]) -> list[Encoding | Exception]:
        """A result for each image, or why there is none. Runs fewer at a time when the memory does not suffice."""
        results: list[Encoding | Exception] = []
        start = 0
        while start < len(images):
            group = list(images[start : start + self._batch_size])
            try:
                merge = self._run.options.merge
                encoded = encode_images(self._model, group, self._prepare, batch_size=len(group), merge=merge)
                assert isinstance(encoded, list)  # as it is for a list of images
                results += encoded
            except Exception as error:
                failure = error.with_traceback(None)
                failure.__context__ = None
            else:
                start += len(group)
                continue
            if is_out_of_memory(failure):
                if self._model.device.type == "cuda":
                    torch.cuda.empty_cache()
                if len(group) > 1:
                    self._batch_size = max(len(group) // 2, 1)
                    continue
            elif isinstance(
                failure, torch.AcceleratorError
            ):  # the device is lost, and every image would fail
                raise failure
            if len(group) == 1:
                results.append(failure)
            else:
                results += [one for image in group for one in self._encode([image])]
            start += len(group)
        return results

    def _dense_writer(self, path: Path, items: Sequence[Item]) -> DenseWriter:
        options, facts = self._run.options, self._run.description["model"]
        widths = dict(facts["widths"])
        if options.dense == "safetensors":
            return SafetensorsWriter(path, [item.id for item in items], list(widths))
        if options.merge is not None:  # a merged token of a finer map has all places of its patches
            for name in facts["adaptors"]:
                widths[name] *= self._model.config.adaptor(name).feature.upsample_factor ** 2
        return ArrowWriter(path, widths, options.dense_dtype, merged=options.merge is not None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is an allocation that failed, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)


def _summaries(result: Encoding) -> dict[str, Tensor]:
    return {"summary": result.summary, **{name: each.summary for name, each in result.adaptors.items()}}


def _dense_row(name: str, result: Encoding, dtype: str) -> DenseRow:
    outputs = {"features": result.features, **{key: each.features for key, each in result.adaptors.items()}}
    merged: dict[str, Any] = {}
    if hasattr(result.backbone, "sizes"):
        backbone: Any = result.backbone
        merged = {
            "sizes": _to_numpy(backbone.sizes[0], "float32"),
            "positions": _to_numpy(backbone.positions[0], "float32"),
        }
    return DenseRow(
        name, result.grid, {key: _to_numpy(value[0], dtype) for key, value in outputs.items()}, merged
    )


def _to_numpy(tensor: Tensor, dtype: str) -> NDArray[Any]:
    return tensor.to("cpu", getattr(torch, dtype)).numpy()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if is_out_of_memory(error):
        return f"the memory does not suffice for this image alone; give a smaller size ({text[:200]})"
    return text or type(error).__name__
