"""What is wrong with one input takes nothing from the others: each has its row, or one clear message."""

from __future__ import annotations

import gzip
import inspect
import io
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from radio import RADIOModel
from radio.extraction import Listing, list_inputs
from radio.extraction.reading import Decoded, Decoder, Prefetcher


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def results(model: RADIOModel, listing: Listing) -> list[Decoded]:
    return list(Prefetcher(Decoder(model), 2, 4)(listing.items(0, len(listing))))


def told(model: RADIOModel, path: Path) -> dict[str, str]:
    """What became of each input in a path, by its name there: "ok" or the error."""
    found = results(model, list_inputs(path))
    return {each.item.id.removeprefix(f"{path}").lstrip("/"): each.error or "ok" for each in found}


def test_a_link_to_itself_costs_its_folder_nothing(tmp_path: Path, model: RADIOModel) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    assert told(model, tmp_path) == {
        "a.png": "ok",
        "dangling.png": "there is no such file",
        "loop.png": "Too many levels of symbolic links",
    }


def test_folders_may_be_nested_deeper_than_calls(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 150, "a.png")
    deep.parent.mkdir(parents=True)
    deep.write_bytes(png())
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        (item,) = list_inputs(tmp_path).items(0, 9)
    finally:
        sys.setrecursionlimit(limit)
    assert item.id == str(deep)


@pytest.mark.parametrize("suffix", ["jpe", "jfif", "jp2", "avif", "pgm", "pnm", "heic"])
def test_every_kind_of_image_that_is_read_is_found_by_its_name(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(png())
    (tmp_path / "notes.md").write_text("none")
    listing = list_inputs(tmp_path)
    assert (len(listing), listing.ignored) == (1, 1)


def test_a_folder_with_half_a_start_of_a_run_is_still_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    with pytest.raises(ValueError, match="is the folder of the results; give another one"):
        list_inputs(tmp_path, exclude=tmp_path)
    (tmp_path / ".radio" / "unfinished").mkdir(parents=True)
    assert len(list_inputs(tmp_path)) == 1
    (tmp_path / ".radio" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="has results of 'radio extract'"):
        list_inputs(tmp_path)


def test_results_at_an_address_are_no_inputs() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/all/a.png": png(), "/all/out/s.parquet": b"", "/all/out/.radio/run.json": b"{}"})
    try:
        assert [item.id for item in list_inputs("memory://all").items(0, 9)] == ["memory:///all/a.png"]
    finally:
        memory.rm("/all", recursive=True)


def test_a_list_of_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes("a.png\r\nü/b.png\r\n".encode("utf-16"))
    assert [item.id for item in list_inputs(tmp_path / "l.txt").items(0, 9)] == ["a.png", "ü/b.png"]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """A member of a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data) if size is None else size, "a.png"
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


END = bytes(1024)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            member("a.png", png()) + member("b.png", kind=tarfile.LNKTYPE) + END,
            {"b.png": "it is a link to a.png"},
        ),
        (
            member("a.png", png()) + member("b.png", kind=tarfile.SYMTYPE) + END,
            {"b.png": "it is a link to a.png"},
        ),
        (member("a.png", png()) + member("b.png", kind=tarfile.FIFOTYPE) + END, {"b.png": "it is no file"}),
        (
            member("a.png", png()) + member("b.png", size=-512) + END,
            {"": "after 1 image: b.png has an impossible"},
        ),
        (
            member("a.png", png()) + member("b.png", size=2**80) + END,
            {"": "after 1 image: b.png has an impossible"},
        ),
        (member("a.png", png()) + END + member("b.png", png()) + END, {"b.png": "ok"}),
        (member("a.png", png()) + END + b"x" * 512, {"": "damaged or cut off after 1 image"}),
        (member("/a.png", png()) + member("../b.png", png()) + END, {"../b.png": "ok"}),
    ],
    ids=["hard-link", "link", "pipe", "negative", "endless", "joined", "garbage", "paths"],
)
def test_odd_members_of_tars(
    content: bytes, expected: dict[str, str], tmp_path: Path, model: RADIOModel
) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(content)
    found = told(model, path)
    assert found.pop("a.png") == "ok"
    assert list(found) == list(expected)
    assert all(expected[name] in why for name, why in found.items())


def test_sparse_members_and_compressed_tars_say_what_to_do(tmp_path: Path, model: RADIOModel) -> None:
    # One map of GNU's old form of sparse members: 512 bytes at 4096 of a file of 4608.
    header = bytearray(member("s.png", bytes(512), b"S"))
    header[386:410] = b"%011o\0%011o\0" % (4096, 512)
    header[483:495] = b"%011o\0" % 4608
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    tar = bytes(header) + member("a.png", png()) + END
    (tmp_path / "sparse.tar").write_bytes(tar)
    (tmp_path / "zipped.tar").write_bytes(gzip.compress(tar))
    (tmp_path / "zipped.tbz2").write_bytes(b"BZh")
    found = told(model, tmp_path)
    assert found["sparse.tar/a.png"] == "ok"
    assert "pack the tar without --sparse" in found["sparse.tar/s.png"]
    assert all("unpack it to a plain .tar" in found[name] for name in ("zipped.tar", "zipped.tbz2"))
    assert len(found) == 4


def test_damaged_tables_give_what_is_there_and_say_so(tmp_path: Path, model: RADIOModel) -> None:
    images = pa.table({"image": pa.array([png(5), png(6), png(7)])})
    pq.write_table(images, tmp_path / "cut.parquet")
    with pa.ipc.new_stream(str(tmp_path / "cut.arrow"), images.schema) as writer:
        writer.write_table(images, max_chunksize=1)
    for name, keep in (("cut.parquet", 50), ("cut.arrow", -60)):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pa.ipc.new_file(
        str(tmp_path / "d.arrow"), pa.schema({"image": pa.dictionary(pa.int32(), pa.binary())})
    ) as writer:
        writer.write_table(pa.table({"image": images["image"].dictionary_encode()}))
    found = told(model, tmp_path)
    assert "the table is damaged, cut off" in found.pop("cut.parquet")
    assert "damaged or cut off after 2 rows" in found.pop("cut.arrow")
    assert found == dict.fromkeys(["cut.arrow#0", "cut.arrow#1", "d.arrow#0", "d.arrow#1", "d.arrow#2"], "ok")


def write_video(path: Path, options: dict[str, str] | None = None, earlier: int = 0) -> None:
    """20 frames in 4 seconds, the time stamps of which start so many frames before zero."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
        for number, pixels in enumerate(noise):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = number - earlier, Fraction(1, 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "options"), [("a.mp4", {"movflags": "faststart"}), ("a.avi", {}), ("a.mkv", {})]
)
def test_a_video_cut_off_gives_what_is_there_and_says_so(
    name: str, options: dict[str, str], tmp_path: Path, model: RADIOModel
) -> None:
    path = tmp_path / name
    write_video(path, options)
    assert list(told(model, path).values()) == ["ok"] * 20
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = told(model, path)
    assert "the video is damaged or cut off" in found.pop("")
    assert 0 < len(found) < 20
    assert list(found) == [f"#{number}" for number in range(len(found))]


def test_frames_that_a_trimmed_video_does_not_show_are_no_inputs(tmp_path: Path, model: RADIOModel) -> None:
    write_video(tmp_path / "a.mp4", {"avoid_negative_ts": "disabled"}, earlier=8)
    assert list(told(model, tmp_path / "a.mp4").values()) == ["ok"] * 12


def test_the_words_of_an_error_do_not_change_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(member("a.png", png()) + END)
    (tmp_path / "b.tar").write_bytes(b"x" * 2000)
    first = list_inputs(tmp_path)
    (tmp_path / "b.tar").write_bytes(b"")
    other = list_inputs(tmp_path)
    assert [item.detail for item in first.items(0, 9)] != [item.detail for item in other.items(0, 9)]
    assert first.digest() == other.digest()
    (tmp_path / "a.tar").write_bytes(member("b.png", png()) + END)
    assert list_inputs(tmp_path).digest() != first.digest()


def test_a_row_that_names_a_file_that_is_gone_says_which(tmp_path: Path, model: RADIOModel) -> None:
    rows = [{"bytes": png(), "path": "a.png"}, {"bytes": None, "path": "gone.png"}]
    pq.write_table(pa.table({"image": pa.array(rows)}), tmp_path / "t.parquet")
    found = told(model, tmp_path)
    assert found["t.parquet#0"] == "ok"
    assert found["t.parquet#1"].endswith("the name of a file, 'gone.png': there is no such file")
