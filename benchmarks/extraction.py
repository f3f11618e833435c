"""`radio extract` against other ways to get the same features out of a folder of photographs. Prints markdown tables.

    python benchmarks/extraction.py                     # all tables with a few thousand images; about half an hour
    python benchmarks/extraction.py --only photos       # one table: photos, small, waiting, memory, recall
    python benchmarks/extraction.py --quick             # few images and small ones, a minute

The photographs are made: smooth shapes with noise, saved as JPEG at the sizes of a phone (4032x3024) and of a
thumbnail. All ways use the same model and the same sizes, and their summaries are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from load import write_file
from PIL import Image
from timing import Spread, forget_peak, print_header, print_row, print_table, resident_bytes, spread

from radio import RADIOModel, load_model
from radio.extraction import Counts, ExtractionOptions, extract

PHONE, SMALL = (4032, 3024), (640, 480)
DISTINCT = 24
MODELS = {"tiny": (192, 2, 1024), "ViT-B": (768, 12, 2048)}
"""Width, number of blocks, and the side of the position embeddings in pixels."""


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEG files of about the entropy of photographs. A few are made; the others are links to them."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    width, height = size
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number >= DISTINCT:
            path.hardlink_to(folder / f"{number % DISTINCT:06d}.jpg")
            continue
        shapes = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(shapes).resize(size, Image.Resampling.BICUBIC), np.int16)
        noise = random.normal(0, 5, (height // 2, width // 2, 1)).repeat(2, 0).repeat(2, 1)
        Image.fromarray((picture + noise).clip(0, 255).astype(np.uint8)).save(path, quality=88)


def saved_model(name: str, place: Path) -> Path:
    """The file of a model with random weights, made when it is first asked for."""
    path = place / f"{name}.pth.tar"
    if not path.exists():
        torch.manual_seed(0)
        write_file(path, MODELS[name], torch.float32)
    return path


def load(name: str, place: Path) -> RADIOModel:
    """That model."""
    return load_model(saved_model(name, place), device="cpu")


def plain_loop(model: RADIOModel, paths: list[Path], size: str) -> torch.Tensor:
    """What people write first: one image after the other."""
    return torch.cat([model.encode(path, size=size).summary for path in paths])


class PhotoSet(torch.utils.data.Dataset):
    """The photographs for a DataLoader, read and resized as the model wants them."""

    def __init__(self, model: RADIOModel, paths: list[Path], size: str) -> None:
        self.model, self.paths, self.size = model, paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.model.resize(self.paths[index], self.size)


def data_loader(model: RADIOModel, paths: list[Path], size: str, batch_size: int) -> torch.Tensor:
    """What people write next: a torch DataLoader with two worker processes, and batches of one size."""
    loader = torch.utils.data.DataLoader(PhotoSet(model, paths, size), batch_size, num_workers=2)
    with torch.no_grad():
        return torch.cat([model(batch).summary for batch in loader])


def radio_extract(
    folder: Path, model: RADIOModel, out: Path, size: str, batch_size: int, rows: int
) -> Counts:
    """Ours."""
    options = ExtractionOptions(size=size, rows_per_shard=rows)
    return extract(folder, model, out, options, batch_size=batch_size).counts


def with_ray(
    folder: Path, model: Path, out: Path, size: str, batch_size: int, rows: int, actors: int
) -> float:
    """Seconds of `--engine ray`, in a process of its own, without the start of Ray and of its actors."""
    command = [sys.executable, __file__, "--ray", str(folder), str(model), str(out), size]
    command += [str(batch_size), str(rows), str(actors)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def ray_process(folder: str, model: str, out: str, size: str, batch: str, rows: str, actors: str) -> None:
    """What `with_ray` starts. The clock runs from the first finished shard to the last one."""
    import ray

    from radio.extraction.ray_engine import ModelSource, extract_with_ray

    ray.init(
        "local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False
    )
    marks: list[tuple[float, int]] = []
    extract_with_ray(
        folder,
        ModelSource(model, device="cpu"),
        out,
        ExtractionOptions(size=size, rows_per_shard=int(rows)),
        actors=int(actors),
        workers=2 // int(actors),
        batch_size=int(batch),
        on_progress=lambda progress: marks.append((time.perf_counter(), progress.done)),
    )
    (first, before), (last, done) = marks[0], marks[-1]
    print(json.dumps({"seconds": (last - first) / (done - before) * done}))


def throughput(
    title: str,
    name: str,
    photo: tuple[int, int],
    count: int,
    size: str,
    batch_size: int,
    rounds: int,
    place: Path,
) -> None:
    """Images per second of every way."""
    folder = place / f"photos-{photo[0]}-{count}"
    if not folder.exists():
        make_photos(folder, count, photo)
    paths = sorted(folder.glob("*.jpg"))
    model, saved = load(name, place), saved_model(name, place)
    rows = max(count // 12, 1)
    number = iter(range(10**6))

    def fresh() -> Path:
        return place / f"out-{next(number)}-{name}-{photo[0]}"

    check(model, paths[:6], size, place / f"check-{name}-{photo[0]}")
    ways: dict[str, Callable[[], float]] = {
        "radio extract": timed(lambda: radio_extract(folder, model, fresh(), size, batch_size, rows)),
        "plain loop over model.encode": timed(lambda: plain_loop(model, paths, size)),
        "torch DataLoader, 2 workers": timed(lambda: data_loader(model, paths, size, batch_size)),
        "--engine ray, 1 actor": lambda: with_ray(folder, saved, fresh(), size, batch_size, rows, 1),
        "--engine ray, 2 actors": lambda: with_ray(folder, saved, fresh(), size, batch_size, rows, 2),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in list(ways) if turn % 2 else reversed(list(ways)):
            seconds[way].append(ways[way]())
    print_table(
        f"{title}: {count} JPEGs of {photo[0]}x{photo[1]}, {name} at {size}",
        ["way", "images/s", "rate of radio extract over it"],
    )
    ours = seconds["radio extract"]
    for way, values in seconds.items():
        ratio = spread([value / own for value, own in zip(values, ours, strict=True)])
        print_row([way, str(spread([count / value for value in values])), str(ratio)])


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """A call that gives its seconds."""

    def run() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return run


def check(model: RADIOModel, paths: list[Path], size: str, out: Path) -> None:
    """Whether all ways give the same vectors.

    Raises:
        RuntimeError: They do not; then there is nothing to compare.
    """
    import pandas as pd

    extract(paths, model, out, ExtractionOptions(size=size, exact=True))
    ours = torch.tensor(np.stack(pd.read_parquet(out).summary.to_numpy()))
    for other in (plain_loop(model, paths, size), data_loader(model, paths, size, 4)):
        apart = float((ours - other).abs().max() / other.abs().max())
        if apart > 1e-3:
            raise RuntimeError(f"the ways give different vectors: {apart:.2g} apart")


def waiting(place: Path, count: int, name: str, size: str) -> None:
    """How much of its time the model waits for decoding."""
    folder = place / f"photos-{PHONE[0]}-{count}"
    if not folder.exists():
        make_photos(folder, count, PHONE)
    counts = radio_extract(folder, load(name, place), place / f"waiting-{name}", size, 8, count)
    print_table(
        f"Waiting: {count} JPEGs of 4032x3024, {name} at {size}", ["images/s", "share of time waited", "goal"]
    )
    print_row([f"{counts.images_per_second:.2f}", f"{counts.waiting_share:.1%}", "at most 15 %"])


def memory(place: Path, count: int) -> None:
    """Peak memory after a part of a long run and after all of it, and what the notes for going on cost.

    The notes are the listing, the fingerprint and the state of the shards; going on when nothing is left does nothing
    else. The model is tiny, so that their share is as large as it gets.
    """
    folder = place / "many"
    make_photos(folder, count, (64, 64))
    model = load("tiny", place)
    peaks: list[tuple[int, int]] = []
    marks = [count // 20, count // 4, count // 2, count]
    forget_peak()

    def watch(progress: object) -> None:
        done = getattr(progress, "done", 0)
        if len(peaks) < len(marks) and done >= marks[len(peaks)]:
            peaks.append((done, resident_bytes("VmHWM")))

    options = ExtractionOptions(size="32x32", rows_per_shard=min(10_000, count // 20))
    start, cpu = time.perf_counter(), time.process_time()
    extract(folder, model, place / "many-out", options, batch_size=64, on_progress=watch)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print_table(
        f"Memory: {count} JPEGs of 64x64 in one folder, a tiny model",
        ["images done", "peak memory", "over the first"],
    )
    for done, peak in peaks:
        print_row([str(done), f"{peak / 2**20:.0f} MiB", f"{peak / peaks[0][1]:.2f}"])
    start = time.process_time()
    extract(folder, model, place / "many-out", options)
    again = time.process_time() - start
    print_table(
        f"Going on: the same {count} images once more, when nothing is left to do",
        ["images/s of the run", "its CPU seconds", "CPU seconds of running it again", "share", "goal"],
    )
    print_row([f"{count / seconds:.0f}", f"{cpu:.1f}", f"{again:.2f}", f"{again / cpu:.2%}", "under 1 %"])


def recall(place: Path, count: int) -> None:
    """The approximate index against an exact search over vectors in clusters, as features are."""
    import lancedb
    import pyarrow as pa

    from radio.search import SearchIndex

    random = np.random.default_rng(0)
    basis, centers = random.normal(size=(64, 768)), random.normal(size=(500, 64))
    codes = centers[random.integers(0, 500, count + 100)] + 0.6 * random.normal(size=(count + 100, 64))
    vectors = np.float32(codes @ basis) + 0.3 * random.normal(size=(count + 100, 768)).astype(np.float32)
    notes = {"model": {"vectors": {"summary": 768}}, "options": {"size": None}}
    columns = {
        "id": pa.array([str(number) for number in range(count)]),
        "path": pa.array([""] * count),
        "summary": pa.FixedSizeListArray.from_arrays(pa.array(vectors[:count].reshape(-1)), 768),
    }
    table = pa.table(columns).replace_schema_metadata({b"radio": json.dumps(notes).encode()})
    made = lancedb.connect(place / "index").create_table("images", data=table)
    start = time.perf_counter()
    made.create_index("summary", config=lancedb.index.IvfSq(distance_type="cosine"))
    built = time.perf_counter() - start
    index = SearchIndex(place / "index")
    results: dict[bool, list[set[str]]] = {}
    milliseconds: dict[bool, Spread] = {}
    for exact in (True, False):
        index.search(vectors[count], exact=exact)
        taken, results[exact] = [], []
        for query in vectors[count:]:
            start = time.perf_counter()
            results[exact].append({match.id for match in index.search(query, exact=exact)})
            taken.append(1000 * (time.perf_counter() - start))
        milliseconds[exact] = spread(taken)
    found = np.mean([len(a & b) / 10 for a, b in zip(results[True], results[False], strict=True)])
    print_table(
        f"Search: {count} vectors of 768 numbers in 500 clusters, 100 queries",
        ["search", "recall of the 10 nearest", "milliseconds", "seconds to build"],
    )
    print_row(["exact", "1.000", str(milliseconds[True]), "0"])
    print_row(["approximate (IVF, 8-bit)", f"{found:.3f}", str(milliseconds[False]), f"{built:.1f}"])


def main() -> None:
    if sys.argv[1:2] == ["--ray"]:
        ray_process(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = ("photos", "small", "waiting", "memory", "recall")
    parser.add_argument("--only", choices=tables, action="append", help="may be repeated")
    parser.add_argument("--photos", type=int, default=600, help="12-MP photographs (default: 600)")
    parser.add_argument("--small", type=int, default=3000, help="small images (default: 3000)")
    parser.add_argument("--many", type=int, default=100_000, help="images of the long run (default: 100000)")
    parser.add_argument("--vectors", type=int, default=100_000, help="vectors to search in (default: 100000)")
    parser.add_argument("--waiting-photos", type=int, default=32, help="photographs for ViT-B (default: 32)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="ViT-B", choices=MODELS, help="of the table 'waiting'")
    parser.add_argument("--quick", action="store_true", help="few images and small ones")
    args = parser.parse_args()
    phone, size = PHONE, "224x224"
    if args.quick:
        args.photos, args.small, args.many, args.vectors, args.waiting_photos = 12, 24, 400, 5000, 4
        args.rounds, args.model, phone, size = 1, "tiny", (800, 600), "64x64"
    print_header()
    wanted = args.only or tables
    with tempfile.TemporaryDirectory(prefix="radio-extraction-") as name:
        place = Path(name)
        if "photos" in wanted:
            throughput("Phone photos", "tiny", phone, args.photos, size, 16, args.rounds, place)
        if "small" in wanted:
            throughput("Small images", "tiny", SMALL, args.small, size, 16, args.rounds, place)
        if "waiting" in wanted:
            waiting(place, args.waiting_photos, args.model, "512x512")
        if "memory" in wanted:
            memory(place, args.many)
        if "recall" in wanted:
            recall(place, args.vectors)


if __name__ == "__main__":
    main()
