"""A row for every input, in step with its vectors, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from radio import RADIOModel, TokenMerging, load_model
from radio.extraction import (
    ExtractionOptions,
    Listing,
    Progress,
    TooManyFailuresError,
    extract,
    list_inputs,
)
from radio.extraction.plan import Run, shards_of
from radio.extraction.reading import single_threaded_pool
from radio.extraction.shards import SafetensorsWriter
from radio.extraction.storage import Folder

SMALL = ExtractionOptions(rows_per_shard=5)


def rows_of(folder: str | Path) -> pd.DataFrame:
    return pd.read_parquet(folder)


def same(left: str | Path, right: str | Path) -> bool:
    """Whether two folders have the same shards with the same rows, bit by bit."""
    names = [sorted(path.name for path in Path(each).glob("*.parquet")) for each in (left, right)]
    return names[0] == names[1] and all(
        pq.read_table(Path(left) / name).equals(pq.read_table(Path(right) / name)) for name in names[0]
    )


@pytest.fixture(scope="module")
def mixed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures, and what goes wrong in a data set."""
    folder = tmp_path_factory.mktemp("mixed") / "data"
    shutil.copytree(pictures, folder)
    (folder / "05-empty.png").write_bytes(b"")
    (folder / "05-text.jpg").write_text("I am no picture")
    (folder / "11-cut.png").write_bytes((folder / "00.png").read_bytes()[:900])
    os.mkfifo(folder / "12-pipe.png")
    Image.new("1", (30_000, 30_000)).save(folder / "13-enormous.png")
    (folder / "14-dangling.jpg").symlink_to(folder / "nowhere.jpg")
    return folder


@pytest.fixture(scope="module")
def whole(mixed: Path, model: RADIOModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run over them."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    report = extract(mixed, model, folder, SMALL, batch_size=3)
    assert (report.rows, report.ok, report.failed, report.shards, report.skipped) == (30, 24, 6, 6, 0)
    return folder


def test_every_input_has_its_own_row(mixed: Path, whole: Path, model: RADIOModel) -> None:
    table = rows_of(whole)
    assert list(table.id) == [item.id for item in list_inputs(mixed).items(0, 30)]
    assert list(table.id) == list(table.path)
    for row in table[table.status == "ok"].itertuples():
        encoding = model.encode(Path(row.path))
        torch.testing.assert_close(torch.from_numpy(row.summary), encoding.summary[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            torch.from_numpy(row.clip), encoding.adaptors["clip"].summary[0], rtol=1e-4, atol=1e-4
        )
        with Image.open(row.path) as image:
            assert (row.width, row.height) == image.size
        assert tuple(row.grid) == encoding.grid
        assert row.error is None or pd.isna(row.error)


def test_failed_inputs_say_why_and_have_no_vectors(whole: Path) -> None:
    table = rows_of(whole)
    failed = table[table.status == "failed"]
    failed = failed.set_index(failed.id.str.rpartition("-")[2])
    expected = {
        "empty.png": "0 bytes",
        "text.jpg": "not an image",
        "cut.png": "truncated",
        "pipe.png": "named pipe",
        "enormous.png": "enormous",
        "dangling.jpg": "no such file",
    }
    assert all(word in failed.error[name] for name, word in expected.items())
    assert len(failed) == len(expected)
    assert failed[["summary", "clip", "grid"]].isna().all(axis=None)
    assert set(table.status) == {"ok", "failed"}


def test_other_libraries_open_the_result(whole: Path, model: RADIOModel, tmp_path: Path) -> None:
    import datasets
    import duckdb
    import polars

    expected = rows_of(whole)
    vector = expected.summary[0]
    assert vector.dtype == np.float32
    frame = polars.read_parquet(whole / "*.parquet")
    assert frame.schema["summary"] == polars.Array(polars.Float32, model.summary_dim)
    assert np.array_equal(frame["summary"][0], vector)
    found = duckdb.sql(
        f"select id, summary from '{whole}/*.parquet' where status = 'ok' order by id"
    ).fetchall()
    assert [name for name, _ in found] == sorted(expected.id[expected.status == "ok"])
    assert np.array_equal(np.float32(found[0][1]), vector)
    loaded = datasets.load_dataset(str(whole), split="train", cache_dir=str(tmp_path))
    assert loaded.num_rows == 30
    assert loaded.features["summary"].length == model.summary_dim
    assert np.array_equal(np.float32(loaded[0]["summary"]), vector)


def test_half_precision_vectors_and_one_matrix(pictures: Path, model: RADIOModel, tmp_path: Path) -> None:
    extract(pictures, model, tmp_path / "out", ExtractionOptions(summary_dtype="float16"))
    kind = pq.read_schema(tmp_path / "out" / "shard-00000-of-00001.parquet").field("summary").type
    assert kind == pa.list_(pa.float16(), model.summary_dim)
    matrix = np.stack(pd.read_parquet(tmp_path / "out").summary.dropna().to_numpy())
    assert matrix.shape == (24, model.summary_dim)
    assert matrix.dtype == np.float16


def test_a_finished_run_has_nothing_left_to_do(mixed: Path, whole: Path, model: RADIOModel) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.glob("*.parquet")}
    report = extract(mixed, model, whole, SMALL)
    assert (report.skipped, report.counts.rows, report.failed) == (6, 0, 6)
    assert {path.name: path.stat().st_mtime_ns for path in whole.glob("*.parquet")} == before


def test_missing_shards_are_done_again_alike(
    mixed: Path, whole: Path, model: RADIOModel, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    for number in (0, 3):
        (copy / f"shard-{number:05d}-of-00006.parquet").unlink()
    report = extract(mixed, model, copy, SMALL, batch_size=3)
    assert (report.skipped, report.counts.rows) == (4, 10)
    assert same(copy, whole)


def test_parts_make_the_whole(mixed: Path, whole: Path, model: RADIOModel, tmp_path: Path) -> None:
    reports = [extract(mixed, model, tmp_path / "out", SMALL, shard=(i, 4), batch_size=3) for i in range(4)]
    assert [report.shards for report in reports] == [2, 2, 1, 1]
    assert sum(report.rows for report in reports) == 30
    assert same(tmp_path / "out", whole)


def test_parts_count_from_zero_or_from_one() -> None:
    for parts in (range(3), range(1, 4)):
        assert sorted(n for i in parts for n in shards_of((i, 3), 10)) == list(range(10))
    assert list(shards_of((5, 8), 2)) == []
    with pytest.raises(ValueError, match="there is no part 4 of 3"):
        shards_of((4, 3), 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda: {"options": ExtractionOptions(rows_per_shard=5, size=64)},
            "options size was None and is 'short:64'",
        ),
        (lambda: {"options": ExtractionOptions(rows_per_shard=6)}, "options rows_per_shard was 5 and is 6"),
        (
            lambda: {"options": ExtractionOptions(rows_per_shard=5, summary_dtype="float16")},
            "options summary_dtype was 'float32' and is 'float16'",
        ),
    ],
)
def test_another_run_into_the_same_folder_is_refused(
    mixed: Path, whole: Path, model: RADIOModel, change: Callable[[], dict[str, Any]], message: str
) -> None:
    before = sorted(whole.rglob("*"))
    with pytest.raises(ValueError, match=message):
        extract(mixed, model, whole, **change())
    assert sorted(whole.rglob("*")) == before


def test_other_inputs_weights_adaptors_or_dtypes_are_refused(
    mixed: Path, pictures: Path, whole: Path, model: RADIOModel, checkpoint: Path
) -> None:
    with pytest.raises(ValueError, match="inputs rows was 30 and is 24; the inputs are not the same"):
        extract(pictures, model, whole, SMALL)
    with pytest.raises(ValueError, match="model adaptors was"):
        extract(mixed, load_model(checkpoint, device="cpu"), whole, SMALL)
    with pytest.raises(ValueError, match="model dtype was 'float32' and is 'bfloat16'"):
        extract(mixed, load_model(checkpoint, ["clip"], device="cpu", dtype="bfloat16"), whole, SMALL)
    other = load_model(checkpoint, ["clip"], device="cpu")
    with torch.no_grad():
        other.blocks[0].mlp.fc1.bias[0] = 3.0
    with pytest.raises(ValueError, match="the weights are not the same"):
        extract(mixed, other, whole, SMALL)


@pytest.mark.parametrize(
    ("name", "setting"), [("eradio", {"eradio_window_size": 4}), ("radio1d", {"neck_name": "decoder"})]
)
def test_other_settings_of_a_family_are_another_run(
    name: str, setting: dict[str, Any], pictures: Path, reference: Path, tmp_path: Path
) -> None:
    path, options = reference / name / "checkpoint.pth.tar", ExtractionOptions(size=64)
    picture = pictures / "00.png"
    extract(picture, load_model(path, device="cpu"), tmp_path, options)
    with pytest.raises(ValueError, match=f"has another run: model {next(iter(setting))} was .* and is"):
        extract(picture, load_model(path, device="cpu", **setting), tmp_path, options)


def test_condensed_tokens_are_refused_before_anything_is_written(
    pictures: Path, reference: Path, tmp_path: Path
) -> None:
    other = load_model(reference / "radio1d" / "checkpoint.pth.tar", device="cpu", neck_name="encoder")
    with pytest.raises(ValueError, match="condensed tokens have no summary"):
        extract(pictures, other, tmp_path, SMALL)
    assert not (tmp_path / ".radio" / "run.json").exists()


def test_the_same_size_in_other_words_is_the_same_run() -> None:
    for sizes in ((96, "96", " short:96"), ((96, 128), [96, 128], "96x128", "96×128")):
        assert len({ExtractionOptions(size=size).size for size in sizes}) == 1
    assert ExtractionOptions(size="crop:96x128").size == "crop:96x128"


def test_foreign_and_damaged_shards_are_refused(
    mixed: Path, whole: Path, model: RADIOModel, tmp_path: Path
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "x.parquet")
    with pytest.raises(ValueError, match="has Parquet files, but not the notes of a run"):
        extract(mixed, model, folder, SMALL)
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    shard = copy / "shard-00002-of-00006.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"shard-00002-of-00006.parquet is damaged.*delete it"):
        extract(mixed, model, copy, SMALL)
    shutil.copy(copy / "shard-00001-of-00006.parquet", shard)
    table = pq.read_table(shard)
    notes = table.schema.metadata[b"radio"].replace(b'"run": "', b'"run": "0')
    pq.write_table(table.replace_schema_metadata({b"radio": notes}), shard)
    with pytest.raises(ValueError, match="is of another run; delete it"):
        extract(mixed, model, copy, SMALL)


def test_retrying_redoes_only_what_failed(mixed: Path, model: RADIOModel, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for number in range(8):
        name = sorted(mixed.glob("0*.png"))[0]
        shutil.copy(name, data / f"{number}.png")
    good = (data / "2.png").read_bytes()
    for number in (2, 6):
        (data / f"{number}.png").write_bytes(good[:500])
    options = ExtractionOptions(rows_per_shard=3)
    assert extract(data, model, out, options).failed == 2
    before = pq.read_table(out / "shard-00000-of-00003.parquet").slice(0, 2)
    (data / "2.png").write_bytes(good)
    untouched = extract(data, model, out, options)
    assert (untouched.counts.rows, untouched.failed) == (0, 2)
    report = extract(data, model, out, options, retry_failed=True)
    assert (report.counts.rows, report.counts.ok, report.failed) == (2, 1, 1)
    table = rows_of(out)
    assert list(table.status) == ["ok"] * 6 + ["failed", "ok"]
    assert pq.read_table(out / "shard-00000-of-00003.parquet").slice(0, 2).equals(before)
    expected = model.encode(data / "2.png").summary[0]
    torch.testing.assert_close(torch.from_numpy(table.summary[2]), expected, rtol=1e-4, atol=1e-4)


def test_too_many_failures_stop_and_leave_whole_shards(
    mixed: Path, whole: Path, model: RADIOModel, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        TooManyFailuresError, match=r"3 inputs failed, more than the 2 allowed; the last one is .*"
    ):
        extract(mixed, model, out, SMALL, max_failures=2, batch_size=3)
    assert 0 < len(list(out.glob("*.parquet"))) < 6
    assert not list((out / ".radio" / "unfinished").iterdir())
    extract(mixed, model, out, SMALL, batch_size=3, max_failures=6)
    assert same(out, whole)


def test_progress_counts_every_row(mixed: Path, model: RADIOModel, tmp_path: Path) -> None:
    seen: list[Progress] = []
    extract(mixed, model, tmp_path / "out", SMALL, batch_size=3, on_progress=seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert (done[-1], seen[-1].total, seen[-1].seconds_left) == (30, 30, 0)
    assert 0 < seen[-1].counts.waiting_share < 1


@pytest.mark.parametrize("dense", ["safetensors", "arrow"])
@pytest.mark.parametrize("merge", [None, TokenMerging(ratio=0.5)], ids=["all", "merged"])
def test_spatial_features_beside_the_rows(
    dense: Any, merge: TokenMerging | None, mixed: Path, model: RADIOModel, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ExtractionOptions(size="short:64", dense=dense, merge=merge, rows_per_shard=16)
    extract(mixed, model, out, options, batch_size=3)
    table = rows_of(out)
    assert len(table) == 30
    good = table[table.status == "ok"]
    files = sorted((out / "__dense").iterdir())
    assert [file.name for file in files] == [f"shard-0000{i}-of-00002.{dense}" for i in range(2)]
    if dense == "arrow":
        rows = [row for file in files for row in pa.ipc.open_file(file).read_all().to_pylist()]
        found = {row["id"]: row for row in rows}
    else:
        found = {}
        for file in files:
            with safe_open(file, "np") as tensors:
                for key in tensors.keys():  # noqa: SIM118  not a dict
                    kind, _, name = key.partition(":")
                    found.setdefault(name, {})[kind] = tensors.get_tensor(key)
    assert list(found) == list(good.id) if dense == "arrow" else set(found) == set(good.id)
    for name in list(good.id)[::5]:
        encoding = model.encode(Path(name), size="short:64", merge=merge)
        for kind, output in (("features", encoding.backbone), ("clip", encoding.adaptors["clip"])):
            values = np.array(found[name][kind], np.float16)
            assert values.shape == output.features.shape[1:]
            np.testing.assert_allclose(values, output.features[0].numpy(), rtol=2e-3, atol=1e-2)
        assert tuple(found[name]["grid"]) == encoding.grid
        assert ("sizes" in found[name]) == (merge is not None)
        if merge is not None:
            assert np.sum(found[name]["sizes"]) == encoding.grid[0] * encoding.grid[1]


def test_spatial_features_are_redone_with_their_shard(mixed: Path, model: RADIOModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ExtractionOptions(size=32, dense="safetensors", rows_per_shard=16)
    extract(mixed, model, out, options)
    before = {path.name: path.read_bytes() for path in (out / "__dense").iterdir()}
    report = extract(mixed, model, out, options, retry_failed=True)
    assert (report.counts.rows, report.failed) == (30, 6)
    assert {path.name: path.read_bytes() for path in (out / "__dense").iterdir()} == before


class Narrow(RADIOModel):
    """A model whose memory suffices for so many patches at once, as that of a small GPU."""

    room = 40

    def forward(self, images: Any, *args: Any, **options: Any) -> Any:
        patches = sum(image.shape[1] * image.shape[2] for image in images) // self.patch_size**2
        if patches > self.room:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {patches} patches")
        return super().forward(images, *args, **options)


def test_batches_halve_when_the_memory_does_not_suffice(
    mixed: Path, whole: Path, checkpoint: Path, tmp_path: Path
) -> None:
    narrow = load_model(checkpoint, adaptors=["clip"], device="cpu")
    narrow.__class__ = Narrow
    extract(mixed, narrow, tmp_path / "out", SMALL, batch_size=8)
    found, expected = rows_of(tmp_path / "out"), rows_of(whole)
    assert list(found.id) == list(expected.id)
    assert list(found.status) == list(expected.status)
    for one, other in zip(found.summary.dropna(), expected.summary.dropna(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    Narrow.room = 20
    report = extract(mixed, narrow, tmp_path / "narrower", SMALL, batch_size=8)
    assert 6 < report.failed < 30
    errors = rows_of(tmp_path / "narrower").error.dropna()
    assert (
        sum("the memory does not suffice for this image alone" in error for error in errors)
        == report.failed - 6
    )


def test_numbers_that_are_not_finite_are_failures(pictures: Path, checkpoint: Path, tmp_path: Path) -> None:
    broken = load_model(checkpoint, device="cpu")
    with torch.no_grad():
        broken.blocks[-1].mlp.fc2.bias[0] = 1e6
    assert extract(pictures, broken, tmp_path / "wide", SMALL).failed == 0
    report = extract(
        pictures, broken, tmp_path / "half", ExtractionOptions(summary_dtype="float16", rows_per_shard=5)
    )
    assert report.failed == 24
    assert set(rows_of(tmp_path / "half").error) == {
        "summary has numbers that are not finite; float16 may be too narrow"
    }


def test_results_have_the_permissions_of_new_files(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    before = os.umask(0o027)
    try:
        (tmp_path / "new").touch()
        folder.create("notes.json", b"{}")
        with folder.writing("shard.parquet") as path:
            path.write_bytes(b"rows")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode} and modes.pop() & 0o777 == 0o640


def test_results_at_an_address(mixed: Path, whole: Path, model: RADIOModel, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        extract(mixed, model, "memory://run/out", SMALL, shard=(0, 2), batch_size=3)
        report = extract(mixed, model, "memory://run/out", SMALL, batch_size=3)
        assert (report.skipped, report.rows) == (3, 30)
        with pytest.raises(ValueError, match="has another run"):
            extract(mixed, model, "memory://run/out", ExtractionOptions(rows_per_shard=7))
        memory.get("/run/out/", str(tmp_path / "copy"), recursive=True)
        assert same(tmp_path / "copy", whole)
        assert not [name for name in memory.find("/run") if "part" in name or "unfinished" in name]
    finally:
        memory.rm("/run", recursive=True)


def test_results_inside_the_inputs_are_no_inputs(pictures: Path, model: RADIOModel, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    for _ in range(2):
        report = extract(data, model, data / "features", SMALL)
        assert report.rows == 24


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": 1, "options": {}, "inputs": {}}', "\xff"])
def test_damaged_notes_of_a_run_are_named(
    content: str, pictures: Path, model: RADIOModel, tmp_path: Path
) -> None:
    (tmp_path / ".radio").mkdir()
    (tmp_path / ".radio" / "run.json").write_bytes(content.encode("latin1"))
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        extract(pictures, model, tmp_path, SMALL)


def test_inputs_that_are_gone_or_new_are_named(model: RADIOModel, tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    extract(tmp_path, model, tmp_path / "out", SMALL)
    (tmp_path / "a.png").rename(tmp_path / "d.png")
    with pytest.raises(ValueError, match=r"1 is gone \('.*/a\.png'\), 1 is new \('.*/d\.png'\)"):
        extract(tmp_path, model, tmp_path / "out", SMALL)


def test_spatial_features_that_were_deleted_are_written_again(
    pictures: Path, model: RADIOModel, tmp_path: Path
) -> None:
    options = ExtractionOptions(size=32, dense="arrow", rows_per_shard=12)
    extract(pictures, model, tmp_path, options)
    file = tmp_path / "__dense" / "shard-00001-of-00002.arrow"
    before = file.read_bytes()
    file.unlink()
    assert extract(pictures, model, tmp_path, options).counts.rows == 12
    assert file.read_bytes() == before


def test_what_cannot_work_is_refused_before_anything_is_written(
    pictures: Path, model: RADIOModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="the name of the folder of results is empty"):
        extract(pictures, model, "", SMALL)
    with pytest.raises(ValueError, match="too many for one safetensors file"):
        SafetensorsWriter(tmp_path / "x", ["photos/" + "x" * 1000] * 30_000, ["features", "clip"])
    assert not list(tmp_path.iterdir())

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ValueError, match="cannot start 99 threads; give fewer workers"):
        single_threaded_pool(99)


def test_nobody_is_told_of_a_size_that_was_chosen(
    pictures: Path, checkpoint: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    other = load_model(checkpoint, device="cpu")
    extract(pictures, other, tmp_path / "chosen", ExtractionOptions(size=64))
    assert not [warning for warning in recwarn if "an image runs at" in str(warning.message)]
    with pytest.warns(UserWarning, match="an image runs at"):
        extract(pictures, other, tmp_path / "nearest", SMALL)


def test_names_of_shards_are_in_their_order(model: RADIOModel, pictures: Path, tmp_path: Path) -> None:
    table = list_inputs(pictures).table
    listing = Listing(pa.concat_tables([table.slice(0, 1)] * 100_001))
    run = Run(Folder(tmp_path), listing, ExtractionOptions(rows_per_shard=1), {})
    assert run.name(9) == "shard-000009-of-100001.parquet"
    assert run.name(99_999) < run.name(100_000)


def test_a_model_is_found_again_from_everywhere(
    checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    other = load_model(checkpoint.name, device="cpu")
    extract(pictures, other, tmp_path, ExtractionOptions(size=32), source=checkpoint.name)
    assert Run.load(Folder(tmp_path)).description["source"] == str(checkpoint)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "radio", "extract", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_killed_at_random_times_and_resumed_it_is_the_same(
    mixed: Path, whole: Path, checkpoint: Path, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    times = random.Random(seed)
    out = tmp_path / "out"
    arguments: Sequence[str | Path] = (
        mixed, "-m", checkpoint, "--adaptor", "clip", "-o", out, "--rows-per-shard", "5", "--batch-size", "3",
        "--device", "cpu",
    )  # fmt: skip
    killed = 0
    for wanted in sorted(times.sample(range(6), 3)):
        process = subprocess.Popen(command(*arguments), env=environment(), stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if (out / ".radio").is_dir() and len(list(out.glob("*.parquet"))) >= wanted:
                time.sleep(times.random() * 0.15)
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        for shard in out.glob("*.parquet"):
            assert pq.read_table(shard).num_rows == 5, f"seed {seed}"
    assert killed, f"seed {seed}: every run had ended before it was killed"
    subprocess.run(command(*arguments), env=environment(), check=True, capture_output=True)
    assert same(out, whole), f"seed {seed}"
    assert not list((out / ".radio" / "unfinished").iterdir())


def test_a_full_disk_is_one_message_and_loses_nothing(
    mixed: Path, whole: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Files may not grow beyond 4 kB here, which is what a full disk looks like to a program."""
    out = tmp_path / "out"
    arguments = [mixed, "-m", checkpoint, "--adaptor", "clip", "-o", out, "--rows-per-shard", "5", "--device", "cpu",
                 "--batch-size", "3"]  # fmt: skip

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert done.returncode == 1
    assert len([line for line in done.stderr.splitlines() if "warning:" not in line]) == 1
    assert f"cannot write {out}/shard-00000-of-00006.parquet: {os.strerror(errno.EFBIG)}" in done.stderr
    assert "free space" in done.stderr
    assert not list(out.glob("*.parquet"))
    assert not list((out / ".radio" / "unfinished").iterdir())
    subprocess.run(command(*arguments), env=environment(), check=True, capture_output=True)
    assert same(out, whole)


def test_a_folder_that_cannot_be_written_is_named(pictures: Path, model: RADIOModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper", Path("/proc/features")):
        with pytest.raises(OSError, match=f"cannot write {place}/.* give another folder"):
            extract(pictures, model, place, SMALL)
