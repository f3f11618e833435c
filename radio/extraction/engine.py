"""The plain engine: one process, one model, shards one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from radio.extraction.inputs import Listing, list_inputs
from radio.extraction.plan import ExtractionOptions, Run, shards_of
from radio.extraction.storage import Folder
from radio.extraction.worker import Counts, ShardTask, ShardWorker
from radio.model import RADIOModel

Inputs = Listing | str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Rows done by this run so far.
        total: Rows that this run has to do.
        counts: What became of them, and the time it took.
    """

    done: int
    total: int
    counts: Counts

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take at the rate so far; None before the first row is done."""
        rate = self.counts.images_per_second
        return (self.total - self.done) / rate if rate else None


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class Report:
    """What a run has done and what is there now.

    Attributes:
        folder: Where the results are.
        rows: Rows of the shards that were asked for, all of which are there now.
        failed: How many of these have failed.
        shards: Number of these shards.
        skipped: How many of them were there already.
        counts: What this run did itself.
    """

    folder: str
    rows: int
    failed: int
    shards: int
    skipped: int
    counts: Counts = field(default_factory=Counts)

    @property
    def ok(self) -> int:
        """How many rows have vectors."""
        return self.rows - self.failed


@dataclass(frozen=True)
class Work:
    """What is left to do of a run.

    Attributes:
        mine: The shards that were asked for.
        tasks: Those that are missing, and with ``retry_failed`` those with failed rows.
        rows: Rows that these have to do.
        failed_before: Failed rows in shards that stay as they are.
    """

    mine: range
    tasks: list[ShardTask]
    rows: int
    failed_before: int

    @classmethod
    def of(cls, run: Run, part: tuple[int, int], retry_failed: bool) -> Work:
        """What is left of a part of a run, see `radio.extraction.plan.shards_of`."""
        mine = shards_of(part, run.shards)
        finished = run.finished()
        tasks, rows, failed_before = [], 0, 0
        for number in mine:
            state = finished.get(number)
            if state is None:
                tasks.append(ShardTask(number))
                rows += len(run.rows(number))
            elif retry_failed and state.failed:
                tasks.append(ShardTask(number, retry=True))
                rows += state.rows if run.options.dense else state.failed
            else:
                failed_before += state.failed
        return cls(mine, tasks, rows, failed_before)

    def report(self, run: Run, counts: Counts) -> Report:
        """What is there when all of it is done."""
        rows = sum(len(run.rows(number)) for number in self.mine)
        skipped = len(self.mine) - len(self.tasks)
        return Report(
            str(run.folder), rows, self.failed_before + counts.failed, len(self.mine), skipped, counts
        )


def extract(
    inputs: Inputs,
    model: RADIOModel,
    output: str | os.PathLike[str],
    options: ExtractionOptions | None = None,
    *,
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    max_failures: int | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    source: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Report:
    """Write the features of a whole data set as Parquet shards. Run it again to go on where it was stopped.

    Every input has a row, in the order of the listing, also those that fail: columns ``id``, ``path``, ``height`` and
    ``width`` (the image's own), ``grid`` (patches down and across), ``status`` (``ok`` or ``failed``), ``error``,
    ``summary`` and one column of vectors per adaptor of the model.

    Args:
        inputs: As for `list_inputs`, or what that returned.
        model: From `radio.load_model`, with the adaptors whose vectors are wanted.
        output: A folder, or an fsspec address such as ``s3://bucket/features``.
        options: What is computed and how it is stored.
        shard: ``(i, n)``: only do part i of n of the shards, for several processes over one folder.
        retry_failed: Also redo the rows that failed in shards that are there.
        max_failures: Stop when more rows than this failed.
        batch_size: Images per forward pass. It halves when the memory does not suffice.
        workers: Threads that decode; as many as there are cores if None.
        source: What the model was loaded from, which `radio.search` uses to load it again.
        on_progress: Called after every pass.

    Returns:
        What was done and what is there now.

    Raises:
        ValueError: There are no inputs, the folder has the results of another run, or an option makes no sense.
        TooManyFailuresError: More rows failed than were allowed.
        OSError: The folder cannot be written. Shards that are finished stay.
    """
    if batch_size < 1 or (workers is not None and workers < 1):
        raise ValueError(f"batch_size and workers must be at least 1, got {batch_size} and {workers}")
    options = options or ExtractionOptions()
    folder = Folder(output)
    folder.prepare()
    listing = listed(inputs, folder, options)
    run = Run.start(folder, listing, options, model, source or str(getattr(model, "checkpoint_path", "")))
    work = Work.of(run, shard, retry_failed)
    worker = ShardWorker(run, model, batch_size, workers or default_workers(), max_failures)

    def tell(counts: Counts) -> None:
        if on_progress is not None:
            on_progress(Progress(counts.rows, work.rows, counts))

    for _ in worker(work.tasks, tell):
        pass
    return work.report(run, worker.counts)


def listed(inputs: Inputs, folder: Folder, options: ExtractionOptions) -> Listing:
    """The inputs as a listing, without those in the folder of results."""
    if isinstance(inputs, Listing):
        return inputs
    return list_inputs(
        inputs,
        exclude=folder.address,
        image_column=options.image_column,
        frame_step=options.frame_step,
    )


def default_workers() -> int:
    """As many threads as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
