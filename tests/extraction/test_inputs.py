"""Everything that can be extracted is found, in a fixed order, under names of its own."""

from __future__ import annotations

import io
import os
import tarfile
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
from radio.extraction.inputs import Item
from radio.extraction.reading import Decoded, Decoder, Prefetcher


def png(shade: int, size: tuple[int, int] = (32, 32)) -> bytes:
    """A picture that can be told from others by its color."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def items(listing: Listing) -> list[Item]:
    return list(listing.items(0, len(listing)))


def decoded(model: RADIOModel, listing: Listing, column: str | None = None) -> list[Decoded]:
    return list(Prefetcher(Decoder(model), 2, 4, column)(items(listing)))


def shades(model: RADIOModel, listing: Listing, column: str | None = None) -> list[int | None]:
    found = decoded(model, listing, column)
    return [None if each.pixels is None else round(float(each.pixels.mean()) * 255) for each in found]


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_folders_are_searched_at_any_depth_in_order(pictures: Path) -> None:
    listing = list_inputs(pictures)
    names = [item.id for item in items(listing)]
    assert len(names) == 24
    assert names == sorted(names)
    assert sum("deep/er/" in name for name in names) == 3
    assert listing.ignored == 1
    assert all(Path(item.path).is_file() for item in items(listing))


def test_hidden_files_results_and_links_in_circles_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "._a.png").write_bytes(b"of a Mac")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "out" / ".radio").mkdir(parents=True)
    (tmp_path / "out" / ".radio" / "run.json").write_text("{}")
    (tmp_path / "out" / "shard.parquet").write_bytes(b"")
    assert [Path(item.id).name for item in items(list_inputs(tmp_path))] == ["a.png"]


def test_patterns_lists_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.png", "sub/c.png", "d [1].png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(png(9))
    assert [item.id for item in items(list_inputs("*.png"))] == ["a.png", "b.png", "d [1].png"]
    assert [item.id for item in items(list_inputs("**/c.png"))] == ["sub/c.png"]
    assert [item.id for item in items(list_inputs("d [1].png"))] == ["d [1].png"]
    Path("list.txt").write_text("b.png\r\n\nsub/c.png\nmissing.png\n")
    found = items(list_inputs("list.txt"))
    assert [item.id for item in found] == ["b.png", "sub/c.png", "missing.png"]
    assert [item.path for item in found] == [str(tmp_path / item.id) for item in found]


def test_the_standard_input_may_end_names_in_nul(monkeypatch: pytest.MonkeyPatch) -> None:
    class Input:
        buffer = io.BytesIO(b"/x/one\ntwo.png\0/x/three.png\0")

    monkeypatch.setattr("sys.stdin", Input)
    assert [item.id for item in items(list_inputs("-"))] == ["/x/one\ntwo.png", "/x/three.png"]


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(png(1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(png(2))
    names = [item.id for item in items(list_inputs([picture, picture, tmp_path]))]
    assert names == [str(picture), f"{picture}#2", f"{picture}#3", str(tmp_path / "other" / "a.png")]


def test_names_in_any_language_and_in_none(tmp_path: Path, model: RADIOModel) -> None:
    (tmp_path / "żółw 龜 🐢.png").write_bytes(png(100))
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(png(200))
    listing = list_inputs(tmp_path)
    assert [Path(item.id).name for item in items(listing)] == ["caf\\xe9.png", "żółw 龜 🐢.png"]
    assert shades(model, listing) == [200, 100]


def test_tars_are_read_member_by_member(tmp_path: Path, model: RADIOModel) -> None:
    tar = tmp_path / "data-000.tar"
    write_tar(
        tar, {"a/0.png": png(10), "a/0.json": b"{}", "a/1.png": png(20), "a/1.txt": b"x", "a/2.png": b""}
    )
    listing = list_inputs(tmp_path)
    assert [item.id for item in items(listing)] == [f"{tar}/a/{number}.png" for number in range(3)]
    assert shades(model, listing) == [10, 20, None]
    with fsspec.open(items(listing)[1].path, "rb") as file:
        assert file.read() == png(20)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(700, [10, None]), (1100, [10, None]), (512 + 1024, [10, None]), (512, [None]), (0, [None])],
    ids=["in data", "in a header", "between members", "only a header", "nothing"],
)
def test_a_tar_cut_off_gives_what_is_there_and_says_so(
    tmp_path: Path, model: RADIOModel, keep: int, expected: list[int | None]
) -> None:
    whole = tmp_path / "whole.tar"
    noise = io.BytesIO()
    Image.new("RGB", (32, 32), (10, 10, 10)).save(noise, "BMP")
    write_tar(whole, {"0.png": png(10), "1.bmp": noise.getvalue()})
    cut = tmp_path / "cut" / "cut.tar"
    cut.parent.mkdir()
    first_ends = 512 + 512
    cut.write_bytes(whole.read_bytes()[: keep if keep <= 512 else first_ends + keep - 512])
    found = decoded(model, list_inputs(cut))
    assert [each.pixels is None for each in found][: len(expected)] == [each is None for each in expected]
    assert any(word in (found[-1].error or "") for word in ("cut off", "empty"))


def table(kind: str, path: Path, columns: dict[str, pa.Array]) -> Path:
    data = pa.table(columns)
    if kind == "parquet":
        pq.write_table(data, path, row_group_size=3)
    else:
        new = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
        with new(str(path), data.schema) as writer:
            writer.write_table(data, max_chunksize=3)
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream"])
def test_tables_with_image_bytes(kind: str, tmp_path: Path, model: RADIOModel) -> None:
    (tmp_path / "beside.png").write_bytes(png(77))
    rows = [{"bytes": png(10 * i), "path": None} for i in range(8)]
    rows[4] = {"bytes": None, "path": None}
    rows[5] = {"bytes": None, "path": "beside.png"}
    rows[6] = {"bytes": b"", "path": None}
    path = table(
        kind,
        tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow"),
        {"image": pa.array(rows), "label": pa.array(range(8))},
    )
    listing = list_inputs(path)
    assert [item.id for item in items(listing)] == [f"{path}#{number}" for number in range(8)]
    assert shades(model, listing) == [0, 10, 20, 30, None, 77, None, 70]
    later = Listing(listing.table.slice(7, 1))
    assert shades(model, later) == [70]


def test_the_column_of_a_table_can_be_named(tmp_path: Path, model: RADIOModel) -> None:
    columns = {"thumb": pa.array([png(1)]), "full": pa.array([png(2)], pa.large_binary())}
    path = table("parquet", tmp_path / "a.parquet", columns)
    (unclear,) = decoded(model, list_inputs(path))
    assert "which column has the images? The table has: thumb, full" in (unclear.error or "")
    assert shades(model, list_inputs(path, image_column="full"), "full") == [2]
    (wrong,) = decoded(model, list_inputs(path, image_column="ful"))
    assert "there is no column 'ful'; the table has: thumb, full" in (wrong.error or "")


def test_datasets_of_hugging_face(tmp_path: Path, model: RADIOModel) -> None:
    import datasets

    pictures = [Image.new("RGB", (32, 32), (shade, shade, shade)) for shade in (5, 50)]
    made = datasets.Dataset.from_dict({"image": pictures}).cast_column("image", datasets.Image())
    made.to_parquet(tmp_path / "made.parquet")
    made.save_to_disk(str(tmp_path / "disk"))
    assert shades(model, list_inputs(tmp_path / "made.parquet")) == [5, 50]
    assert shades(model, list_inputs(tmp_path / "disk")) == [5, 50]


def test_videos_frame_by_frame_from_anywhere(tmp_path: Path, model: RADIOModel) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1", "g": "8", "bf": "2"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * number, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    listing = list_inputs(path)
    assert len(listing) == 30
    every = [each or 0 for each in shades(model, listing)]
    assert all(abs(shade - 8 * number) < 6 for number, shade in enumerate(every))
    tail = Listing(listing.table.slice(19, 3))
    assert shades(model, tail) == every[19:22]
    steps = list_inputs(path, frame_step=10)
    assert [item.id for item in items(steps)] == [f"{path}#0", f"{path}#10", f"{path}#20"]
    assert shades(model, steps) == every[::10]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (broken,) = decoded(model, list_inputs(path))
    assert broken.error


def test_addresses_of_fsspec(tmp_path: Path, model: RADIOModel) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(
        {"/data/b.png": png(20), "/data/sub/a.png": png(10), "/data/.h.png": png(1), "/data/x.md": b""}
    )
    write_tar(tmp_path / "a.tar", {"0.png": png(30)})
    memory.pipe("/data/z.tar", (tmp_path / "a.tar").read_bytes())
    memory.pipe("/list.txt", b"memory://data/b.png\nmemory://data/gone.png\n")
    try:
        listing = list_inputs("memory://data")
        names = [item.id for item in items(listing)]
        assert names == ["memory:///data/b.png", "memory:///data/sub/a.png", "memory:///data/z.tar/0.png"]
        assert shades(model, listing) == [20, 10, 30]
        assert shades(model, list_inputs("memory://data/*.png")) == [20]
        assert shades(model, list_inputs("memory://list.txt")) == [20, None]
        (tmp_path / "l.png").write_bytes(png(40))
        assert shades(model, list_inputs(f"file://{tmp_path}/l.png")) == [40]
    finally:
        memory.rm("/data", recursive=True)
        memory.rm("/list.txt")


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ("no/such/folder", FileNotFoundError, "there is no input 'no/such/folder'"),
        ("*.nothing", ValueError, "has no images"),
        ([], ValueError, "there is no input"),
    ],
)
def test_no_input_is_an_error(inputs: str | list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list_inputs(inputs)


def test_a_named_pipe_blocks_nothing(tmp_path: Path, model: RADIOModel) -> None:
    for name in ("a.jpg", "b.tar", "c.parquet", "d.mp4"):
        os.mkfifo(tmp_path / name)
    found = decoded(model, list_inputs(tmp_path))
    assert ["named pipe" in (each.error or "") for each in found] == [True] * 4


def test_many_inputs_need_little_memory_and_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"/x/{number}.png\n" for number in range(200_000)))
    listing = list_inputs(tmp_path / "list.txt")
    assert len(listing) == 200_000
    assert listing.table.nbytes < 100 * 200_000
    assert [item.id for item in listing.items(131_070, 131_074)] == [
        f"/x/{i}.png" for i in range(131_070, 131_074)
    ]
    listing.write(tmp_path / "copy.arrow")
    assert Listing.read((tmp_path / "copy.arrow").read_bytes()).digest() == listing.digest()


def test_large_photos_are_decoded_smaller_and_nearly_alike(
    tmp_path: Path, photos: list[Path], model: RADIOModel
) -> None:
    size = (1600, 1200)
    with Image.open(photos[0]) as photo:
        large = photo.convert("RGB").resize(size)
    for name, options in (("a.jpg", {"quality": 95}), ("b.png", {}), ("c.jpg", {"quality": 95})):
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "c.jpg" else 1
        large.save(tmp_path / name, exif=exif, **options)
    for size_rule in ("short:128", "crop:96x128"):
        for path in sorted(tmp_path.iterdir()):
            (item,) = items(list_inputs(path))
            quick = Decoder(model, size_rule)(item)
            exact = Decoder(model, size_rule, exact=True)(item)
            assert (quick.height, quick.width) == ((1600, 1200) if path.name == "c.jpg" else (1200, 1600))
            assert quick.pixels is not None and exact.pixels is not None
            assert quick.pixels.equal(model.resize(path, size_rule)) is False
            assert exact.pixels.equal(model.resize(path, size_rule))
            assert quick.pixels.shape == exact.pixels.shape
            assert float((quick.pixels - exact.pixels).abs().mean()) < 1.5 / 255
