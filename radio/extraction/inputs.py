"""What is to be extracted: folders, patterns, lists, tars, tables and videos as one table with a row per image.

Nothing is decoded here. Tars are read header by header, tables by their footers, and videos packet by packet.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import stat
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, cast

import fsspec

from radio.data.video import VIDEO_SUFFIXES, open_container
from radio.extraction.storage import PRIVATE, is_address, local_path
from radio.images import IMAGE_SUFFIXES
from radio.optional import require

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = require("pyarrow", "extract")

logger = logging.getLogger(__name__)

Kind = Literal["file", "tar", "parquet", "arrow", "video", "unreadable"]
KINDS: tuple[Kind, ...] = ("file", "tar", "parquet", "arrow", "video", "unreadable")

LIST_SUFFIXES = (".txt", ".lst", ".list")
_CONTAINERS: dict[str, Kind] = {
    ".tar": "tar",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    **dict.fromkeys(VIDEO_SUFFIXES, "video"),
}
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content", "data")
_CHUNK = 65536
_TAR_BLOCK = 512


class Item(NamedTuple):
    """One input.

    Attributes:
        id: Its name: the path as it was given, with ``/member`` in a tar and ``#number`` in a table or a video.
        kind: What it lies in.
        source: The file, or the tar, table or video, as an absolute path or an address.
        detail: The member's name in a tar; for something that cannot be listed, why.
        start: Where it starts: a byte of a tar, a row of a table, a frame of a video.
        length: Its number of bytes in a tar; the time stamp of a frame in the video's own unit, -1 if it has none.
    """

    id: str
    kind: Kind
    source: str
    detail: str
    start: int
    length: int

    @property
    def path(self) -> str:
        """Where the image is: a path or an address that fsspec opens, with ``#number`` in a table or a video."""
        source = printable(self.source)
        if self.kind == "tar":
            return f"tar://{printable(self.detail)}::{source}"
        return f"{source}#{self.start}" if self.kind in ("parquet", "arrow", "video") else source


class Listing:
    """All inputs of a run, in order, in little memory.

    Attributes:
        table: One row per input, with the fields of `Item`.
        ignored: How many files in folders have the name of no image, tar, table or video.
    """

    def __init__(self, table: pa.Table, ignored: int = 0) -> None:
        self.table = table
        self.ignored = ignored

    def __len__(self) -> int:
        return self.table.num_rows

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The inputs from one position up to another."""
        for batch in self.table.slice(start, stop - start).to_batches():
            columns = [column.to_pylist() for column in batch.columns]
            for name, kind, source, detail, begin, length in zip(*columns, strict=True):
                yield Item(name, KINDS[kind], os.fsdecode(source), os.fsdecode(detail), begin, length)

    def digest(self) -> str:
        """A hash of the names and places of all inputs, in order."""
        result = hashlib.sha256()
        for start in range(0, len(self), _CHUNK):
            for column in self.table.slice(start, _CHUNK).columns:
                if pa.types.is_integer(column.type):
                    result.update(column.to_numpy().tobytes())
                else:  # no name has a NUL in it
                    result.update(b"\0".join(column.cast(pa.binary()).to_pylist()))
        return result.hexdigest()

    def write(self, path: Path) -> None:
        """Write the table as an Arrow file."""
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(str(path), self.table.schema, options=options) as writer:
            writer.write_table(self.table, max_chunksize=_CHUNK)

    @classmethod
    def read(cls, data: bytes) -> Listing:
        """Read what `write` wrote."""
        return cls(pa.ipc.open_file(pa.py_buffer(data)).read_all())


def list_inputs(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    exclude: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    frame_step: int = 1,
) -> Listing:
    """Find every image that is to be extracted.

    Args:
        inputs: One or several of these, as paths or fsspec addresses (``s3://bucket/photos``):

            - a folder, which is searched at any depth for images, tars, tables and videos; hidden files are left out
            - a pattern with ``*``, ``?``, ``[…]`` or ``**``
            - a list, one path or address per line: a ``.txt``, ``.lst`` or ``.list`` file, or ``-`` for the standard
              input. Relative paths count from the current folder. Lines may end in NUL, as of ``find -print0``.
            - a tar as of WebDataset (``.tar``); its members with names of images count
            - a table with image bytes (``.parquet``, ``.arrow``), as of `datasets`
            - a video, of which every frame counts
            - anything else is taken for an image, whatever its name
        exclude: A folder that is left out: the one that results go to.
        image_column: The column of tables that has the images, if not the usual one.
        frame_step: Take every so many frames of a video.

    Returns:
        The inputs in the order given, folders sorted by name. Something that cannot be listed, such as a damaged tar,
        has a row that says why. Of equal names the second one gets ``#2`` behind it, and so on.

    Raises:
        ValueError: There is no input, or a pattern or a folder has none.
        FileNotFoundError: A path that was given does not exist. (One in a list becomes a row that fails.)
        MissingExtraError: A video needs PyAV.
    """
    if frame_step < 1:
        raise ValueError(f"frame_step must be at least 1, got {frame_step}")
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    finder = _Finder(exclude, image_column, frame_step)
    builder = _TableBuilder()
    for argument in given:
        text = os.fspath(argument)
        found = 0
        for item in finder.find(text):
            builder.add(item)
            found += 1
        if not found:
            raise ValueError(
                f"{text!r} has no images ({', '.join(IMAGE_SUFFIXES)}), tars (.tar), tables (.parquet, .arrow) "
                "or videos"
            )
    if not given:
        raise ValueError("there is no input; give folders, files, patterns, lists or addresses")
    return Listing(builder.finish(), finder.ignored)


def printable(text: str) -> str:
    """A file name as text that can be written anywhere: bytes that are not UTF-8 become ``\\xNN``."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def check_regular(path: str) -> None:
    """Whether a local path is a file with content, and not something that would block or never end.

    Raises:
        OSError: It is not; the message says what it is.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError("there is no such file") from None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"it is {kinds.get(stat.S_IFMT(found.st_mode), 'a device')}, not a file")
    if found.st_size == 0:
        raise OSError("the file is empty (0 bytes)")


def open_source(source: str) -> IO[bytes]:
    """Open a file or an address for reading at any place."""
    if is_address(source):
        return cast("IO[bytes]", fsspec.open(source, "rb").open())
    check_regular(source)
    return open(source, "rb")


def find_image_column(schema: pa.Schema, wanted: str | None) -> str:
    """The column of a table that has image bytes: binary, or a struct with ``bytes`` as of `datasets`.

    Raises:
        ValueError: There is none, or several and none has a usual name.
    """
    names = [field.name for field in schema if _holds_bytes(field.type)]
    if wanted is not None:
        if wanted not in schema.names:
            raise ValueError(f"there is no column {wanted!r}; the table has: {', '.join(schema.names)}")
        if wanted not in names:
            raise ValueError(
                f"the column {wanted!r} is of type {schema.field(wanted).type}; images must be binary, "
                "or a struct with bytes"
            )
        return wanted
    for usual in _IMAGE_COLUMNS:
        if usual in names:
            return usual
    if len(names) == 1:
        return names[0]
    raise ValueError(
        f"which column has the images? The table has: {', '.join(schema.names)}; with bytes: "
        f"{', '.join(names) or 'none'}; name it with image_column (--image-column)"
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)


class _TableBuilder:
    """Collects items in chunks, so that millions of them need no Python objects at the end."""

    _SCHEMA = pa.schema(
        {
            "id": pa.string(),
            "kind": pa.int8(),
            "source": pa.binary(),
            "detail": pa.binary(),
            "start": pa.int64(),
            "length": pa.int64(),
        }
    )

    def __init__(self) -> None:
        self._rows: list[Item] = []
        self._batches: list[Any] = []

    def add(self, item: Item) -> None:
        self._rows.append(item)
        if len(self._rows) == _CHUNK:
            self._flush()

    def finish(self) -> pa.Table:
        self._flush()
        table = pa.Table.from_batches(self._batches, self._SCHEMA)
        if pa.compute.count_distinct(table["id"]).as_py() < len(table):
            names = pa.array(_told_apart(table["id"].to_pylist()), pa.string())
            table = table.set_column(0, "id", names)
        return table

    def _flush(self) -> None:
        if not self._rows:
            return
        names, kinds, sources, details, starts, lengths = zip(*self._rows, strict=True)
        columns = [
            names,
            [KINDS.index(kind) for kind in kinds],
            [os.fsencode(source) for source in sources],
            [os.fsencode(detail) for detail in details],
            starts,
            lengths,
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self._SCHEMA, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._SCHEMA))
        self._rows = []


def _told_apart(names: list[str]) -> list[str]:
    taken, seen = set(names), Counter[str]()
    result = []
    for name in names:
        seen[name] += 1
        unique = name
        if seen[name] > 1:
            while unique in taken:
                unique = f"{name}#{seen[name]}"
                seen[name] += unique in taken
            taken.add(unique)
        result.append(unique)
    return result


class _Finder:
    def __init__(
        self, exclude: str | os.PathLike[str] | None, image_column: str | None, frame_step: int
    ) -> None:
        self.ignored = 0
        self._image_column = image_column
        self._frame_step = frame_step
        self._exclude = ""
        if exclude is not None:
            text = local_path(os.fspath(exclude))
            self._exclude = (
                text.rstrip("/") if is_address(text) else os.path.realpath(os.path.expanduser(text))
            )

    def find(self, argument: str) -> Iterator[Item]:
        text = local_path(argument)
        if text == "-":
            return self._listed(sys.stdin.buffer.read())
        if is_address(text):
            return self._find_remote(text)
        path = os.path.expanduser(text)
        if os.path.isdir(path):
            return self._walk(path.rstrip("/") or "/", ())
        if os.path.lexists(path):
            if path.lower().endswith(LIST_SUFFIXES):
                check_list(path)
                return self._listed(Path(path).read_bytes())
            return self._open(path, os.path.abspath(path))
        if glob.has_magic(path):
            return self._matches(sorted(glob.glob(path, recursive=True)))
        raise FileNotFoundError(f"there is no input {text!r} (looked from {os.getcwd()})")

    def _find_remote(self, address: str) -> Iterator[Item]:
        if "::" in address:
            return self._open(address, address)
        fs, path = fsspec.core.url_to_fs(address)
        if address.lower().endswith(LIST_SUFFIXES):
            return self._listed(fs.cat_file(path))
        if glob.has_magic(path):
            found = sorted(name for name in fs.glob(path) if not fs.isdir(name))
            return self._remote_files(fs, found, "")
        if fs.isdir(path):
            return self._remote_files(fs, sorted(fs.find(path)), path.rstrip("/") + "/")
        return self._open(address, address)

    def _remote_files(self, fs: Any, paths: Iterable[str], root: str) -> Iterator[Item]:
        for path in paths:
            address = fs.unstrip_protocol(path)
            hidden = any(part.startswith(".") for part in path.removeprefix(root).split("/"))
            if hidden or (self._exclude and address.startswith(self._exclude + "/")):
                continue
            if _known(path):
                yield from self._open(address, address)
            else:
                self.ignored += 1

    def _listed(self, content: bytes) -> Iterator[Item]:
        end = b"\0" if b"\0" in content else b"\n"
        for line in content.removeprefix(b"\xef\xbb\xbf").split(end):
            text = local_path(os.fsdecode(line.rstrip(b"\r\n")))
            if text.strip():
                place = text if is_address(text) else os.path.abspath(os.path.expanduser(text))
                yield from self._open(text, place)

    def _matches(self, paths: Sequence[str]) -> Iterator[Item]:
        for path in paths:
            if os.path.isdir(path):
                continue
            if _known(path):
                yield from self._open(path, os.path.abspath(path))
            else:
                self.ignored += 1

    def _walk(self, folder: str, above: tuple[str, ...]) -> Iterator[Item]:
        real = os.path.realpath(folder)
        if real == self._exclude or real in above or os.path.isdir(os.path.join(folder, PRIVATE)):
            return
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, entry.is_dir()) for entry in entries)
        except OSError as error:
            yield _unreadable(
                folder, os.path.abspath(folder), f"the folder cannot be listed: {error.strerror}"
            )
            return
        for name, is_folder in found:
            path = os.path.join(folder, name)
            if name.startswith("."):
                continue
            if is_folder:
                yield from self._walk(path, (*above, real))
            elif _known(name):
                yield from self._open(path, os.path.abspath(path))
            else:
                self.ignored += 1

    def _open(self, given: str, source: str) -> Iterator[Item]:
        """The images in a file; the file itself if it is none of the known containers."""
        name = source.lower()
        kind = container_kind(name)
        if name.endswith(_COMPRESSED_TARS):
            why = "a compressed tar has to be read from its start; unpack it to a plain .tar first"
            yield _unreadable(given, source, why)
        elif kind == "file":
            yield Item(printable(given), "file", source, "", 0, -1)
        else:
            try:
                yield from self._look_into(kind, given, source)
            except ImportError:
                raise
            except Exception as error:  # readers of damaged files fail in many ways
                yield _unreadable(given, source, _reason(error))

    def _look_into(self, kind: Kind, given: str, source: str) -> Iterator[Item]:
        if kind == "tar":
            with open_source(source) as file:
                yield from _tar_members(file, given, source)
        elif kind == "video":
            for number, stamp in enumerate(video_stamps(source)):
                if number % self._frame_step == 0:
                    yield Item(f"{printable(given)}#{number}", kind, source, "", number, stamp)
        else:
            with open_source(source) as file:
                schema, rows = _table_shape(kind, file)
            find_image_column(schema, self._image_column)
            if not rows:
                raise ValueError("the table has no rows")
            for number in range(rows):
                yield Item(f"{printable(given)}#{number}", kind, source, "", number, -1)


def container_kind(name: str) -> Kind:
    """What a file is by its name: a tar, a table, a video, or just a file."""
    return _CONTAINERS.get(os.path.splitext(name.lower())[1], "file")


def check_list(path: str) -> None:
    """Whether a list can be read.

    Raises:
        OSError: It cannot.
    """
    try:
        check_regular(path)
    except OSError as error:
        raise OSError(f"the list {path!r} cannot be read: {error}") from None


def _known(name: str) -> bool:
    lowered = name.lower()
    return lowered.endswith((*IMAGE_SUFFIXES, *_CONTAINERS, *_COMPRESSED_TARS))


def _unreadable(given: str, source: str, why: str) -> Item:
    return Item(printable(given), "unreadable", source, why, 0, -1)


def _tar_members(file: IO[bytes], given: str, source: str) -> Iterator[Item]:
    count, end = 0, 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // _TAR_BLOCK) * _TAR_BLOCK
                # Only the member just read is needed; a tar of a million members would fill the memory.
                tar.members = []  # type: ignore[attr-defined]
                name = os.path.basename(member.name)
                if member.isreg() and name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                    count += 1
                    place = f"{printable(given)}/{printable(member.name)}"
                    yield Item(place, "tar", source, member.name, member.offset_data, member.size)
    except tarfile.ReadError as error:
        yield _unreadable(given, source, f"the tar is damaged or cut off after {count} images: {error}")
        return
    file.seek(end)
    mark = file.read(_TAR_BLOCK)
    if mark != bytes(_TAR_BLOCK):
        what = "there is no end mark" if not mark else "what follows is no tar header"
        yield _unreadable(given, source, f"the tar is damaged or cut off after {count} images: {what}")
    elif not count:
        yield _unreadable(given, source, "the tar has no images")


def _table_shape(kind: Kind, file: IO[bytes]) -> tuple[Any, int]:
    if kind == "parquet":
        import pyarrow.parquet as pq

        parquet = pq.ParquetFile(file)
        return parquet.schema_arrow, parquet.metadata.num_rows
    reader = open_arrow(file)
    if hasattr(reader, "num_record_batches"):
        return reader.schema, sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
    return reader.schema, sum(batch.num_rows for batch in reader)


def open_arrow(file: IO[bytes]) -> Any:
    """A reader of an Arrow file, or of an Arrow stream as `datasets` writes it."""
    try:
        return pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_stream(file)


def video_stamps(source: str) -> list[int]:
    """The time stamp of every frame in the order shown, in the video's own unit; -1 where there is none."""
    with open_source(source) as file, open_container(file, source) as container:
        packets = container.demux(container.streams.video[0])
        stamps = [-1 if packet.pts is None else packet.pts for packet in packets if packet.size]
    if not stamps:
        raise ValueError("the video has no frames")
    return [-1] * len(stamps) if -1 in stamps else sorted(stamps)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
