"""Every runtime and dtype in a process of its own, one after the other, so that each one's memory is its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from radio.architectures import release_config
from radio.catalog import get_release
from radio.checkpoints import write_hub_repo
from radio.errors import MissingExtraError
from radio.runtimes import RUNTIMES
from radio.timm.random_weights import random_network
from radio.wording import counted

DTYPES = ("float32", "bfloat16")
RANDOM = "c-radio_v3-b"
"""The version whose shape is measured where no model is given."""


@dataclass(frozen=True)
class Row:
    """What was measured of one runtime and dtype at one size.

    Attributes:
        runtime, dtype: Of the model.
        device: Where it ran.
        threads: Of the CPU.
        height, width: Of the images, in pixels.
        batch: Images per call.
        latency: Seconds of a call, the median.
        fastest, slowest: Seconds of the fastest and of the slowest call.
        images_per_second: At the median.
        memory: Most bytes that the process had more than before the model was loaded, weights included; on a GPU what
            PyTorch had allocated there.
        load: Seconds that loading took; for a runtime with its graph in the cache.
        matmul_rate: Floating-point operations per second of a large matrix product in PyTorch, in this dtype, around
            these calls.
    """

    runtime: str
    dtype: str
    device: str
    threads: int
    height: int
    width: int
    batch: int
    latency: float
    fastest: float
    slowest: float
    images_per_second: float
    memory: int
    load: float
    matmul_rate: float


@dataclass(frozen=True)
class Failure:
    """A runtime and dtype that could not be measured, and why."""

    runtime: str
    dtype: str
    reason: str


@dataclass(frozen=True)
class Job:
    """What one process measures; fields as the arguments of `bench`."""

    model: str
    runtime: str
    dtype: str
    device: str
    sizes: Sequence[tuple[int, int]] | None
    batches: Sequence[int]
    threads: int | None
    seconds: float
    vitdet_window_size: int | None


def runtimes_here() -> dict[str, str | None]:
    """Every runtime by name; None if it is installed, else what to do about that."""
    found: dict[str, str | None] = {"pytorch": None}
    for name, runtime in RUNTIMES.items():
        try:
            runtime.versions()
        except MissingExtraError as error:
            found[name] = str(error)
        else:
            found[name] = None
    return found


def dtypes_of(runtime: str) -> list[str]:
    """Those of `DTYPES` that a runtime computes in."""
    if runtime not in RUNTIMES:
        return list(DTYPES)
    known = [str(dtype).removeprefix("torch.") for dtype in RUNTIMES[runtime].dtypes]
    return [name for name in DTYPES if name in known]


def bench(
    model: str | Path,
    sizes: Sequence[tuple[int, int]] | None = None,
    runtimes: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    device: str = "auto",
    seconds: float = 2.0,
    vitdet_window_size: int | None = None,
    on_result: Callable[[Sequence[Row] | Failure], None] = lambda result: None,
) -> list[Row]:
    """Measure a model, on random images.

    Args:
        model: As `radio.load_model` takes it.
        sizes: Heights and widths, in pixels; each becomes the nearest one that the model takes. The preferred
            resolution by default.
        runtimes: ``"pytorch"``, ``"openvino"``, ``"onnxruntime"``; those that are installed by default.
        dtypes: ``"float32"``, ``"bfloat16"``; those of each runtime by default. Also ``"int8"``, for the time of a
            graph in int8 in another runtime than PyTorch (it is calibrated with noise).
        batches: Images per call.
        threads: Of the CPU; PyTorch's choice by default.
        device: Where PyTorch runs. The other runtimes run on the CPU.
        seconds: How long each combination is measured, at least three calls after one that is not counted.
        vitdet_window_size: As `radio.load_model` takes it.
        on_result: Called with what each process found.

    Returns:
        What was measured.

    Raises:
        ValueError: A runtime is unknown.
    """
    known = runtimes_here()
    chosen = [name for name, missing in known.items() if missing is None] if runtimes is None else runtimes
    rows: list[Row] = []
    for runtime in chosen:
        if runtime not in known:
            raise ValueError(f"unknown runtime {runtime!r}; allowed: {', '.join(known)}")
        for dtype in dtypes_of(runtime) if dtypes is None else dtypes:
            where = device if runtime == "pytorch" else "cpu"
            job = Job(str(model), runtime, dtype, where, sizes, batches, threads, seconds, vitdet_window_size)
            result: list[Row] | Failure = []
            if (
                runtime in RUNTIMES
            ):  # its graph is made by another process than the one whose memory is measured
                result = _run(replace(job, batches=()))
            if not isinstance(result, Failure):
                result = _run(job)
            on_result(result)
            rows += [] if isinstance(result, Failure) else result
    return rows


def recommend(rows: Sequence[Row]) -> list[str]:
    """For each size and batch which runtime and dtype is the fastest, in sentences."""
    sentences = []
    for height, width, batch in dict.fromkeys((row.height, row.width, row.batch) for row in rows):
        alike = [row for row in rows if (row.height, row.width, row.batch) == (height, width, batch)]
        best = min(alike, key=lambda row: row.latency)
        where = f"{height}x{width}, {counted(batch, 'image')}"
        sentence = f"{where}: {best.runtime} in {best.dtype}"
        plain = next((row for row in alike if (row.runtime, row.dtype) == ("pytorch", "float32")), None)
        if plain is not None and plain is not best:
            sentence += f", {plain.latency / best.latency:.1f} times as fast as PyTorch in float32"
        exact = [row for row in alike if row.dtype == "float32"]
        if exact and best.dtype != "float32":
            sentence += f"; in float32 {min(exact, key=lambda row: row.latency).runtime}"
        sentences.append(sentence)
    return sentences


@contextmanager
def random_model() -> Iterator[Path]:
    """A folder with random weights in the shape of a ViT-B, for a moment: the time depends on the shape only.

    Its graphs do not stay in the user's cache.
    """
    before = os.environ.get("XDG_CACHE_HOME")
    with TemporaryDirectory(prefix="radio-bench-") as folder:
        place = Path(folder) / "model"
        config = release_config(get_release(RANDOM))
        write_hub_repo(place, config, random_network(config).state_dict())
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield place
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


def _run(job: Job) -> list[Row] | Failure:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "radio.bench.worker"],
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        env=environment,
    )
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Failure(job.runtime, job.dtype, f"its process ended with {done.returncode}: {last}")
    if "error" in found:
        return Failure(job.runtime, job.dtype, found["error"])
    return [Row(**row) for row in found["rows"]]
