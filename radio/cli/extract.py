"""``radio extract``: the features of a whole data set, as Parquet shards that a stopped run goes on from."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from radio.cli.common import check_folder_name, choose_model, load_chosen_model, show
from radio.cli.options import (
    add_adaptor,
    add_batch_size,
    add_execution,
    add_json,
    add_model,
    add_output,
    add_size,
    positive_int,
)
from radio.wording import counted

if TYPE_CHECKING:
    from radio.extraction import ExtractionOptions, Listing, Progress, Report
    from radio.modeling.token_merging import TokenMerging

_EPILOG = """\
INPUT is one or several of
  a folder            searched at any depth for images, tars, tables and videos
  'photos/**/*.jpg'   a pattern, in quotes
  list.txt or -       one path per line (.txt, .lst, .list, or the standard input; also with NULs, find -print0)
  data.tar            a tar as of WebDataset
  data.parquet, data.arrow   a table with image bytes, as of 'datasets'
  clip.mp4            a video, frame by frame
each on this machine or at an address such as s3://bucket/photos.

FOLDER gets shard-00000-of-00012.parquet and so on, with a row for every input, also those that fail:
  id, path, height, width, grid, status (ok or failed), error, summary, and a column for each --adaptor
Stopped at any moment, the same command goes on with the shards that are missing. Another run into the same folder is
refused. The exit code is 1 if every input failed.
"""

_SECONDS_BETWEEN_LINES = 30.0
_FAILURES_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="what to extract; see below")
    add_output(
        parser,
        "the folder of the shards, or an address such as s3://bucket/features",
        metavar="FOLDER",
        type=str,
    )
    add_model(parser, optional=True)
    add_adaptor(parser, "also a column of vectors in this teacher's space (clip, ...); may be repeated")
    add_size(parser)
    results = parser.add_argument_group("results")
    results.add_argument(
        "--rows-per-shard", type=positive_int, metavar="N", help="default: 10000, or 1000 with --dense"
    )
    results.add_argument(
        "--summary-dtype", choices=("float32", "float16"), default="float32", help="default: float32"
    )
    results.add_argument(
        "--dense",
        choices=("safetensors", "arrow"),
        help="also write the spatial features, into FOLDER/__dense, in this format",
    )
    results.add_argument(
        "--dense-dtype", choices=("float16", "float32"), default="float16", help="default: float16"
    )
    results.add_argument(
        "--merge",
        type=merging,
        metavar="HOW",
        help="merge spatial features to fewer tokens: keep=196, at_most=196, ratio=0.64 or r=100, and stride=3x3",
    )
    results.add_argument(
        "--exact",
        action="store_true",
        help="read large photos in full, instead of decoding them at the size that the model needs",
    )
    results.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="as in other commands, and always so here: what cannot be read is a row with its error",
    )
    results.add_argument("--image-column", metavar="NAME", help="the column of tables that has the images")
    results.add_argument(
        "--frame-step", type=positive_int, default=1, metavar="N", help="take every N-th frame of videos"
    )
    work = parser.add_argument_group("work")
    work.add_argument(
        "--retry-failed", action="store_true", help="also redo the failed rows of shards that are there"
    )
    work.add_argument(
        "--max-failures", type=natural_int, metavar="N", help="stop when more than N inputs failed"
    )
    work.add_argument(
        "--shard",
        type=part,
        default=(0, 1),
        metavar="I/N",
        help="only part I of N, for N processes that write into one FOLDER; I from 0 to N-1 or from 1 to N",
    )
    work.add_argument(
        "--workers", type=positive_int, metavar="N", help="threads that decode (default: one per core)"
    )
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine",
        choices=("plain", "ray"),
        default="plain",
        help="plain (default): this process; ray: the machines of a Ray cluster, with the same rows",
    )
    engine.add_argument(
        "--address",
        metavar="ADDRESS",
        help="ray: of the cluster, such as auto or 10.0.0.1:6379 (default: Ray on this machine alone)",
    )
    engine.add_argument(
        "--num-gpus",
        type=float,
        metavar="N",
        help="ray: GPUs per model; may be a fraction (default: 0, the CPU)",
    )
    engine.add_argument(
        "--actors",
        type=positive_int,
        metavar="N",
        help="ray: models at work (default: as many as the GPUs suffice for, or one per machine)",
    )
    add_batch_size(parser, 16)
    add_execution(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Extract, and tell what became of it."""
    from radio.extraction import ExtractionOptions
    from radio.extraction.storage import Folder

    options = ExtractionOptions(
        size=args.size,
        summary_dtype=args.summary_dtype,
        dense=args.dense,
        dense_dtype=args.dense_dtype,
        merge=args.merge,
        exact=args.exact,
        rows_per_shard=args.rows_per_shard,
        image_column=args.image_column,
        frame_step=args.frame_step,
    )
    check_folder_name(args.output)
    Folder(args.output).prepare()
    report = _with_ray(args, options) if args.engine == "ray" else _plain(args, options)
    _print_report(report, args.json)
    if report.rows and not report.ok:
        raise ValueError(
            f"nothing was extracted: {counted(report.rows, 'input')} failed; the column error says why"
        )


def _plain(args: argparse.Namespace, options: ExtractionOptions) -> Report:
    from radio.extraction import extract, list_inputs

    if args.address or args.num_gpus is not None or args.actors:
        raise ValueError("--address, --num-gpus and --actors are for --engine ray")

    listing = list_inputs(
        args.inputs, exclude=args.output, image_column=args.image_column, frame_step=args.frame_step
    )
    _tell_of_ignored(listing)
    model = load_chosen_model(args)
    with _Display() as display:
        return extract(
            listing,
            model,
            args.output,
            options,
            shard=args.shard,
            retry_failed=args.retry_failed,
            max_failures=args.max_failures,
            batch_size=args.batch_size,
            workers=args.workers,
            source=args.model,
            on_progress=display,
        )


def _with_ray(args: argparse.Namespace, options: ExtractionOptions) -> Report:
    from radio.extraction import list_inputs
    from radio.extraction.ray_engine import ModelSource, extract_with_ray

    if args.shard != (0, 1):
        raise ValueError("--shard is for separate processes; --engine ray shares the shards out by itself")
    listing = list_inputs(
        args.inputs, exclude=args.output, image_column=args.image_column, frame_step=args.frame_step
    )
    _tell_of_ignored(listing)
    model = ModelSource(
        choose_model(args),
        args.adaptor,
        args.device,
        args.dtype,
        args.vitdet_window_size,
        args.eradio_window_size,
        args.neck_name,
        args.runtime,
    )
    with _Display() as display:
        return extract_with_ray(
            listing,
            model,
            args.output,
            options,
            address=args.address,
            num_gpus=args.num_gpus or 0,
            actors=args.actors,
            retry_failed=args.retry_failed,
            max_failures=args.max_failures,
            batch_size=args.batch_size,
            workers=args.workers,
            on_progress=display,
        )


def _tell_of_ignored(listing: Listing) -> None:
    if listing.ignored:
        print(
            f"radio extract: warning: left out {counted(listing.ignored, 'file')} with names that are none of images, "
            "tars, tables or videos",
            file=sys.stderr,
        )


def _print_report(report: Report, as_json: bool) -> None:
    counts = report.counts
    if as_json:
        facts: dict[str, Any] = {**asdict(report), "ok": report.ok}
        facts["counts"]["images_per_second"] = counts.images_per_second
        facts["counts"]["waiting_share"] = counts.waiting_share
        print(json.dumps(facts, indent=2))
        return
    for name, error in counts.failures[:_FAILURES_SHOWN]:
        show(f"failed: {name}: {error}", sys.stderr)
    if counts.failed > _FAILURES_SHOWN:
        print(f"failed: {counts.failed - _FAILURES_SHOWN} more; see the column error", file=sys.stderr)
    show(
        f"{report.folder}: {counted(report.shards, 'shard')}, {counted(report.rows, 'row')}: {report.ok} ok, "
        f"{report.failed} failed"
    )
    if counts.rows:
        print(f"this run: {counted(counts.rows, 'image')} in {_duration(counts.seconds)}, {_rates(counts)}")
    else:
        print("nothing was left to do")


class _Display:
    """Progress on stderr: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()
        self._shown = False

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown and self._terminal:
            print(file=sys.stderr)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else _SECONDS_BETWEEN_LINES):
            return
        self._last, self._shown = now, True
        left = progress.seconds_left
        share = f"{progress.done / max(progress.total, 1):.1%}"
        line = f"{progress.done} of {counted(progress.total, 'row')} ({share}), {_rates(progress.counts)}"
        line += "" if left is None else f", {_duration(left)} left"
        if self._terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(f"radio extract: {line}", file=sys.stderr, flush=True)


def _rates(counts: Any) -> str:
    failed = f", {counts.failed} failed" if counts.failed else ""
    return (
        f"{counts.images_per_second:.1f} images/s, the model waited "
        f"{counts.waiting_share:.0%} of the time for decoding{failed}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def part(text: str) -> tuple[int, int]:
    """``--shard I/N``."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(of) > 0 and int(number) <= int(of)):
        raise argparse.ArgumentTypeError(
            f"expected I/N such as 0/8, with I from 0 to N-1 or from 1 to N, got {text!r}"
        )
    return int(number), int(of)


def natural_int(text: str) -> int:
    """An argument that is a whole number, zero or above."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, zero or above, got {text!r}")
    return int(text)


def merging(text: str) -> TokenMerging:
    """``--merge keep=196,stride=3x3``."""
    from radio.modeling.token_merging import TokenMerging

    kinds: dict[str, Any] = {
        "keep": int,
        "at_most": int,
        "r": int,
        "ratio": float,
        "stride": _pair,
        "mode": str,
        "order": str,
    }
    chosen: dict[str, Any] = {}
    for each in text.split(","):
        name, _, value = each.strip().partition("=")
        if name not in kinds:
            raise argparse.ArgumentTypeError(f"unknown {name!r} in {text!r}; allowed: {', '.join(kinds)}")
        try:
            chosen[name] = kinds[name](value)
        except ValueError:
            wanted = "rows x columns, such as 3x3" if name == "stride" else "a number"
            raise argparse.ArgumentTypeError(f"{name} must be {wanted}, got {value!r}") from None
    try:
        return TokenMerging(**chosen)
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pair(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    return int(rows), int(columns)
