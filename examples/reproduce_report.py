"""The zero-shot and k-NN tables of the RADIOv2.5 tech report in one command, with the published numbers beside ours.

    python examples/reproduce_report.py --model radio_v2.5-l --val imagenet/val --features features -o report
    torchrun --nproc-per-node 8 examples/reproduce_report.py --model radio_v2.5-h --train imagenet/train --val ...

Writes ``report/MODEL.csv`` and ``report/MODEL.md``: a row for every resolution, adaptor and ViTDet window (k-NN where a
training set is given), each as soon as it is known. Before anything is computed it says how long that will take and how
much disk it needs; ``--estimate`` stops there, ``--subset 5000`` takes every tenth image of ImageNet's 50,000.

Features are kept under ``--features``, in a folder that follows from weights, dtype, windows, size and the list of
files. A run that was stopped goes on, and a table is made anew in seconds. Published numbers and their sources are in
``published_results.csv``; what nobody published has an empty cell. Needs the extras ``text`` and ``extract``.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

import radio
from radio.data.labeled import ImageFolder
from radio.distributed import Processes, processes
from radio.extraction import Progress
from radio.extraction.cache import CachedFeatures, CachePlan, cached_features
from radio.extraction.plan import FloatName
from radio.files import atomic_write
from radio.opening import open_checkpoint
from radio.tasks.knn import classify
from radio.tasks.zero_shot import (
    Accuracy,
    ZeroShotClassifier,
    count_correct,
    default_cache_dir,
    imagenet_templates,
    names_of_folders,
)

RESOLUTIONS = (224, 256, 336, 432, 512, 768, 1024)
WINDOWED = (512, 1024)
PUBLISHED = Path(__file__).with_name("published_results.csv")
TRIAL = 8  # images that the estimate is measured on
SECONDS_BETWEEN_LINES = 30.0
BYTES = {"float16": 2, "float32": 4}


class Pass(NamedTuple):
    """One way to run the model over all images: short side in pixels, and side of ViTDet windows in patches."""

    resolution: int
    window: int | None


@dataclass(frozen=True)
class Row:
    """One number of the tables, in percent, and the published one."""

    model: str
    metric: str
    adaptor: str
    resolution: int
    window: int | str
    images: int
    database: int | str
    top1: float
    top5: float
    published: float | str
    difference: float | str
    source: str


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="radio_v2.5-l", help="version, Hub repository or local path")
    parser.add_argument(
        "--val", required=True, help="folder of class folders: the images that are classified"
    )
    parser.add_argument("--train", help="folder of class folders: the database of k-NN (default: no k-NN)")
    parser.add_argument("--features", type=Path, required=True, help="folder for the features")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the tables")
    parser.add_argument(
        "--adaptors", nargs="*", help="text-aligned ones (default: clip and siglip, where there are)"
    )
    parser.add_argument(
        "--text-weights",
        nargs="*",
        default=[],
        metavar="NAME=PATH",
        help="local weights of an adaptor's text tower",
    )
    parser.add_argument("--templates", choices=("openai", "simple"), default="openai")
    parser.add_argument("--resolutions", type=int, nargs="+", default=RESOLUTIONS, help="short sides")
    parser.add_argument(
        "--window", type=int, default=16, help="side of ViTDet windows, in patches (default: 16)"
    )
    parser.add_argument(
        "--windowed",
        type=int,
        nargs="*",
        default=WINDOWED,
        help="short sides with windows (default: 512 1024)",
    )
    parser.add_argument(
        "--knn-resolutions",
        type=int,
        nargs="+",
        help="of k-NN, without windows (default: those published for the model, else what it works best at)",
    )
    parser.add_argument("--subset", type=int, metavar="N", help="so many images of --val, evenly spaced")
    parser.add_argument(
        "--train-subset", type=int, metavar="N", help="so many images of --train, evenly spaced"
    )
    parser.add_argument("--estimate", action="store_true", help="say what it will take, and stop")
    parser.add_argument(
        "--price", type=float, help="of an hour of one process's machine, to say what it will cost"
    )
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.07)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=8, help="threads that read images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    val = evenly_spaced(ImageFolder(arguments.val), arguments.subset)
    train = evenly_spaced(ImageFolder(arguments.train), arguments.train_subset) if arguments.train else None
    if train is not None and train.classes != val.classes:
        raise SystemExit("the two folders must have the same class folders")
    with processes(arguments.device) as world:
        report = Report(arguments, val, train, world)
        report.estimate()
        if not arguments.estimate:
            report.make()


def evenly_spaced(images: ImageFolder, count: int | None) -> ImageFolder:
    """So many images of a folder, or all of them; every class has its share, because they are sorted by class."""
    if count is not None and count < len(images):
        images.keep([images.paths[i * len(images) // count] for i in range(count)])
    return images


class Report:
    """The tables of one model."""

    def __init__(
        self, arguments: argparse.Namespace, val: ImageFolder, train: ImageFolder | None, world: Processes
    ) -> None:
        self.arguments = arguments
        self.val = val
        self.train = train
        self.world = world
        self.published = read_published()
        self.model = self.load(None)
        self.windowed: radio.RADIOModel | None = None
        self.version = self.model.config.version or Path(arguments.model).name.split(".")[0]
        self.adaptors = list(self.model.adaptors or {})

    def load(self, window: int | None) -> radio.RADIOModel:
        """The model with its text-aligned adaptors."""
        names = self.arguments.adaptors
        if names is None:
            has = {adaptor.name for adaptor in open_checkpoint(self.arguments.model).config.adaptors}
            names = [name for name in ("clip", "siglip", "siglip2-g") if name in has]
        return radio.load_model(
            self.arguments.model,
            adaptors=names,
            text_weights=dict(each.split("=", 1) for each in self.arguments.text_weights) or None,
            vitdet_window_size=window,
            device=self.world.device,
            dtype=self.arguments.dtype,
        )

    def passes(self) -> Iterator[tuple[Pass, radio.RADIOModel]]:
        """Every way to run the model, the cheap ones first; those without windows before those with."""
        for side in sorted({*self.arguments.resolutions, *(self.knn_resolutions() if self.train else ())}):
            yield Pass(side, None), self.model
        if self.arguments.windowed:
            self.windowed = self.windowed or self.load(self.arguments.window)
            for side in sorted(self.arguments.windowed):
                yield Pass(side, self.arguments.window), self.windowed

    def knn_resolutions(self) -> Sequence[int]:
        """Where k-NN is measured."""
        known = [
            int(row["resolution"])
            for row in self.published
            if row["model"] == self.version and row["metric"] == "knn" and row["resolution"]
        ]
        return self.arguments.knn_resolutions or known or [self.model.preferred_resolution.height]

    def sets(self, run: Pass) -> list[ImageFolder]:
        """The images that one pass needs."""
        knn = self.train is not None and run.window is None and run.resolution in self.knn_resolutions()
        return [self.val, self.train] if knn and self.train is not None else [self.val]

    def estimate(self) -> None:
        """Say how long it will take, from a few images, and how much disk it needs."""
        total, size = 0.0, 0
        width = self.model.summary_dim + sum(
            self.model.config.adaptor(name).summary.output_dim for name in self.adaptors
        )
        for run, model in self.passes():
            plans = [self.plan(model, images, run) for images in self.sets(run)]
            missing = sum(plan.missing for plan in plans)
            size += sum(plan.missing * width * BYTES[plan.options.summary_dtype] for plan in plans)
            seconds = missing * self.seconds_per_image(model, run) / self.world.size if missing else 0.0
            total += seconds
            window = f", ViTDet {run.window}" if run.window else ""
            self.say(f"{run.resolution} px{window}: {missing} images, {minutes(seconds)}")
        price = self.arguments.price
        cost = "" if price is None else f", {total / 3600 * self.world.size * price:.2f} at {price:g} an hour"
        self.say(f"altogether about {minutes(total)}{cost}; {size / 1e9:.2f} GB of features")

    def seconds_per_image(self, model: radio.RADIOModel, run: Pass) -> float:
        """Reading and computing one after the other, after a pass to warm up: more than a real run takes."""
        paths = self.val.paths[:: max(1, len(self.val) // TRIAL)][:TRIAL]
        for path in paths[:2]:
            model.encode(path, size=run.resolution)
        start = time.perf_counter()
        found = model.encode(paths, size=run.resolution, batch_size=self.arguments.batch_size)
        found[-1].summary.sum().item()  # waits for the device
        return (time.perf_counter() - start) / len(paths)

    def make(self) -> None:
        """Compute the rows and write the tables after each."""
        classifiers = {
            name: ZeroShotClassifier.build(
                self.model.adaptors[name],
                names_of_folders(self.val.classes),
                imagenet_templates(self.arguments.templates),
                cache_dir=default_cache_dir(),
            )
            for name in self.adaptors
        }
        rows: list[Row] = []
        for run, model in self.passes():
            found = [self.features(model, images, run) for images in self.sets(run)]
            if run.resolution in self.arguments.resolutions or run.window:
                rows += [self.zero_shot(run, name, classifiers[name], found[0]) for name in self.adaptors]
            if len(found) == 2:
                rows.append(self.knn(run, *found))
            if self.world.is_first:
                self.write(rows)

    def plan(self, model: radio.RADIOModel, images: ImageFolder, run: Pass) -> CachePlan:
        return CachePlan(
            model,
            images.paths,
            self.arguments.features,
            run.resolution,
            summary_dtype=self.stored_dtype(images),
        )

    def stored_dtype(self, images: ImageFolder) -> FloatName:
        """Of the vectors in files: half precision for the many of a training set."""
        return "float16" if images is self.train else "float32"

    def features(self, model: radio.RADIOModel, images: ImageFolder, run: Pass) -> CachedFeatures:
        found = cached_features(
            model,
            images.paths,
            self.arguments.features,
            run.resolution,
            summary_dtype=self.stored_dtype(images),
            processes=self.world,
            batch_size=self.arguments.batch_size,
            workers=self.arguments.workers,
            on_progress=Told(self.say, f"{run.resolution} px"),
        )
        found.require_all()
        return found

    def zero_shot(
        self, run: Pass, name: str, classifier: ZeroShotClassifier, features: CachedFeatures
    ) -> Row:
        total, start = Accuracy(0, 0, 0), 0
        for chunk in features.chunks(name):
            labels = torch.tensor(self.val.labels[start : start + len(chunk)])
            total += count_correct(classifier, chunk.to(self.world.device), labels)
            start += len(chunk)
        return self.row("zero-shot", name, run, total, "")

    def knn(self, run: Pass, queries: CachedFeatures, database: CachedFeatures) -> Row:
        assert self.train is not None
        mine = list(self.world.positions(len(self.val)))
        found = classify(
            queries.vectors()[mine].to(self.world.device),
            database.chunks(),
            torch.tensor(self.train.labels),
            num_classes=len(self.train.classes),
            k=self.arguments.k,
            temperature=self.arguments.temperature,
        )
        hits = found.classes.cpu() == torch.tensor(self.val.labels)[mine, None]
        total = self.world.sum([int(hits[:, 0].sum()), int(hits.sum()), len(mine)])
        return self.row("knn", "", run, Accuracy(*total), len(database))

    def row(self, metric: str, adaptor: str, run: Pass, counts: Accuracy, database: int | str) -> Row:
        top1, top5 = (round(100 * hits / counts.images, 3) for hits in counts[:2])
        asked = (self.version, metric, adaptor, str(run.resolution), str(run.window or ""))
        columns = ("model", "metric", "adaptor", "resolution", "window")
        known = [each for each in self.published if tuple(each[name] for name in columns) == asked]
        published = float(known[0]["top1"]) if known else ""
        difference = round(top1 - float(known[0]["top1"]), 3) if known else ""
        source = known[0]["source"] if known else ""
        window = run.window or ""
        return Row(
            self.version, metric, adaptor, run.resolution, window, counts.images, database,
            top1, top5, published, difference, source,
        )  # fmt: skip

    def write(self, rows: Sequence[Row]) -> None:
        """Both tables, whole."""
        with (
            atomic_write(self.arguments.output / f"{self.version}.csv") as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, list(Row.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
        with atomic_write(self.arguments.output / f"{self.version}.md") as temporary:
            temporary.write_text(self.markdown(rows), encoding="utf-8")

    def markdown(self, rows: Sequence[Row]) -> str:
        """A table for each metric and adaptor: ours, the published number, the difference."""
        settings = f"{len(self.val)} images, {self.arguments.templates} templates, {self.model.dtype}"
        parts = [f"# {self.version}\n\nTop-1 accuracy in percent. {settings}; radio {radio.__version__}.\n"]
        for metric, adaptor in dict.fromkeys((row.metric, row.adaptor) for row in rows):
            parts.append(f"## {metric}{f', {adaptor}' if adaptor else ''}\n")
            lines = [
                "| resolution | ViTDet window | ours | published | difference |",
                "|---|---|---|---|---|",
            ]
            lines += [
                f"| {row.resolution} | {row.window} | {row.top1:.3f} | {row.published} | {row.difference} |"
                for row in rows
                if (row.metric, row.adaptor) == (metric, adaptor)
            ]
            parts.append("\n".join(lines) + "\n")
        without = [row for row in self.published if row["model"] == self.version and not row["resolution"]]
        parts += [
            f"Published without a resolution: {row['metric']} {row['top1']} ({row['source']}).\n"
            for row in without
        ]
        sources = sorted({row.source for row in rows if row.source})
        parts += [f"Sources: {'; '.join(sources)}.\n"] if sources else []
        return "\n".join(parts)

    def say(self, line: str) -> None:
        if self.world.is_first:
            print(line, file=sys.stderr, flush=True)


class Told:
    """Says now and then how far a pass is."""

    def __init__(self, say: Callable[[str], None], what: str) -> None:
        self.say = say
        self.what = what
        self.last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            left = "" if progress.seconds_left is None else f", {minutes(progress.seconds_left)} left"
            self.say(f"{self.what}: {progress.done} of {progress.total} images of this process{left}")


def read_published() -> list[dict[str, str]]:
    """What was published, a row for each number."""
    with PUBLISHED.open(newline="") as file:
        return list(csv.DictReader(file))


def minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


if __name__ == "__main__":
    main()
