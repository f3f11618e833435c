"""The same work on many machines through Ray Data. Needs the ``ray`` extra.

Every row of the Ray data set is a shard, and an actor with the model in it writes the shards that it is given. So the
shards are the checkpoints: what a lost node had not finished is done again elsewhere, and a run that was stopped can be
finished by this engine or by the plain one. Ray's own checkpoints of a data set (``CheckpointConfig``) would note
finished rows a second time, in files that the plain engine does not read, and are not used.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from radio.config import Neck, WindowRule
from radio.extraction.engine import Inputs, Progress, ProgressCallback, Report, Work, default_workers, listed
from radio.extraction.plan import ExtractionOptions, Run, absolute_source, describe_model
from radio.extraction.storage import Folder
from radio.extraction.worker import Counts, ShardTask, ShardWorker, TooManyFailuresError
from radio.loading import load_model
from radio.model import RADIOModel
from radio.optional import require
from radio.runtimes import RuntimeName
from radio.wording import counted


@dataclass(frozen=True)
class ModelSource:
    """How every machine loads the model; the fields are arguments of `radio.load_model`."""

    version_or_path: str
    adaptors: Sequence[str] = ()
    device: str = "auto"
    dtype: str = "auto"
    vitdet_window_size: int | None = None
    eradio_window_size: int | WindowRule | None = None
    neck_name: Neck | None = None
    runtime: RuntimeName = "auto"

    def load(self, device: str | None = None) -> RADIOModel:
        """Load it, on another device if one is given."""
        return load_model(
            self.version_or_path,
            adaptors=list(self.adaptors),
            device=device or self.device,
            dtype=self.dtype,
            vitdet_window_size=self.vitdet_window_size,
            eradio_window_size=self.eradio_window_size,
            neck_name=self.neck_name,
            runtime=self.runtime,
        )


def extract_with_ray(
    inputs: Inputs,
    model: ModelSource,
    output: str | os.PathLike[str],
    options: ExtractionOptions | None = None,
    *,
    address: str | None = None,
    num_gpus: float = 0,
    actors: int | None = None,
    retry_failed: bool = False,
    max_failures: int | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> Report:
    """Do what `radio.extraction.extract` does, with the same rows, on the machines of a Ray cluster.

    Args:
        inputs, output, options, retry_failed, max_failures, batch_size: As there. Inputs and output must be reachable
            from every machine under the same path or address.
        model: The model; its file must be reachable from every machine too, or be a released version.
        address: Of the cluster (``"auto"`` for one that runs here). None uses the one that this process is connected
            to, or that of ``RAY_ADDRESS``, or starts Ray on this machine alone.
        num_gpus: GPUs per actor; 0 runs on the CPU, and a fraction shares a GPU.
        actors: Models that work at the same time; by default one for every ``num_gpus`` GPUs of the cluster, or one
            per machine on the CPU.
        workers: Threads that decode, per actor; Ray reserves as many CPUs for it. All cores of a machine over the
            actors on it if None.
        on_progress: Called after every shard.

    Returns:
        What was done and what is there now.

    Raises:
        ValueError, TooManyFailuresError, OSError: As `radio.extraction.extract`. (Failures are counted shard by shard.)
        RuntimeError: A machine could not go on; the message says why.
        ConnectionError: There is no cluster at the address.
        MissingExtraError: Ray is not installed.
    """
    ray = require("ray", "ray")
    data = require("ray.data", "ray")
    options = options or ExtractionOptions()
    folder = Folder(output)
    folder.prepare()
    listing = listed(inputs, folder, options)
    model = replace(model, version_or_path=absolute_source(model.version_or_path))
    run = Run.start(folder, listing, options, model.load("cpu"), model.version_or_path)
    work = Work.of(run, (0, 1), retry_failed)
    counts = Counts()
    if not work.tasks:
        return work.report(run, counts)
    ours = not ray.is_initialized()
    if ours:
        ray.init(
            address=address or os.environ.get("RAY_ADDRESS") or "local",
            log_to_driver=False,
            logging_level="error",
        )
    try:
        wanted = actors or _actors(ray, num_gpus)
        threads = workers or _threads(ray, wanted)
        data.DataContext.get_current().enable_progress_bars = False
        tasks = [{"shard": task.number, "retry": task.retry} for task in work.tasks]
        shards = data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            _Actor,
            batch_size=1,
            batch_format="numpy",
            compute=data.ActorPoolStrategy(min_size=1, max_size=min(wanted, len(tasks))),
            num_cpus=threads,
            num_gpus=num_gpus,
            fn_constructor_kwargs={
                "address": folder.address,
                "model": model,
                "batch_size": batch_size,
                "workers": threads,
            },
        )
        failure = _collect(shards, work, counts, max_failures, on_progress)
        # An error that is kept would keep the actors through the frames of its traceback, and with them their CPUs.
        del shards
        if failure is not None:
            raise failure
    finally:
        if ours:
            ray.shutdown()
    return work.report(run, counts)


class _Actor:
    """A model on one machine, in a process of Ray's."""

    def __init__(self, address: str, model: ModelSource, batch_size: int, workers: int) -> None:
        run = Run.load(Folder(address))
        loaded = model.load()
        if describe_model(loaded) != run.description["model"]:
            raise ValueError(
                f"{model.version_or_path} on {os.uname().nodename} has other weights than where the run was started"
            )
        self._worker = ShardWorker(run, loaded, batch_size, workers)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        tasks = [
            ShardTask(int(number), bool(retry))
            for number, retry in zip(batch["shard"], batch["retry"], strict=True)
        ]
        self._worker.counts = Counts()
        for _ in self._worker(tasks):
            pass
        counts = self._worker.counts
        return {
            "ok": [counts.ok],
            "failed": [counts.failed],
            "seconds": [counts.seconds],
            "waited": [counts.waited],
            "failures": ["\n".join("\t".join(pair) for pair in counts.failures)],
        }


def _collect(
    shards: Any, work: Work, counts: Counts, max_failures: int | None, on_progress: ProgressCallback | None
) -> Exception | None:
    """Add up what the actors report, while they work.

    Returns:
        Why they could not go on; None if they are done.
    """
    ray_errors = require("ray.exceptions", "ray").RayError
    start = time.perf_counter()
    busy = Counts()
    try:
        for row in shards.iter_rows():
            failures = [tuple(line.split("\t", 1)) for line in row["failures"].splitlines()]
            busy.add(Counts(row["ok"], row["failed"], row["seconds"], row["waited"], failures))
            seconds = time.perf_counter() - start
            counts.ok, counts.failed, counts.failures = busy.ok, busy.failed, busy.failures
            counts.seconds, counts.waited = seconds, seconds * busy.waiting_share
            if on_progress is not None:
                on_progress(Progress(counts.rows, work.rows, counts))
            if max_failures is not None and counts.failed > max_failures:
                return TooManyFailuresError(
                    f"{counted(counts.failed, 'input')} failed, more than the {max_failures} allowed; the last one is "
                    f"{': '.join(counts.failures[-1])}. Finished shards are kept; run the same command again to go on"
                )
    except ray_errors as error:
        return RuntimeError(
            f"a machine of the cluster failed: {_in_a_line(error)}. Finished shards are kept; run the same command "
            "again to go on"
        )
    return None


def _in_a_line(error: Exception) -> str:
    """What went wrong on a machine, out of the traceback that Ray makes of it."""
    lines = re.findall(r"^(?!ray\.)[\w.]*(?:Error|Exception): .+$", str(error), re.MULTILINE)
    return lines[-1].rpartition("radio.extraction.")[2] if lines else str(error).strip().splitlines()[-1]


def _actors(ray: Any, num_gpus: float) -> int:
    if num_gpus:
        return max(int(ray.cluster_resources().get("GPU", 0) / num_gpus), 1)
    return max(sum(node["Alive"] for node in ray.nodes()), 1)


def _threads(ray: Any, actors: int) -> int:
    """Cores of the smallest machine over the actors on it."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    cores = min((int(node["Resources"].get("CPU", 1)) for node in alive), default=default_workers())
    return max(cores // -(-actors // max(len(alive), 1)), 1)
