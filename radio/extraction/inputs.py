"""What is to be extracted: folders, patterns, lists, tars, tables and videos as one table with a row per image.

Nothing is decoded here. Tars are read header by header, tables by their footers, and videos packet by packet.
"""

from __future__ import annotations

import codecs
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
from radio.extraction.stamps import NO_STAMP, stamp_of
from radio.extraction.storage import RUN, is_address, local_path
from radio.images import IMAGE_SUFFIXES
from radio.optional import require
from radio.wording import counted

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
_COMPRESSED_TARS = (
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
    *(".tar.lzma", ".tar.lz4", ".tar.lz", ".tar.z"),
)
_COMPRESSED_STARTS = (
    b"\x1f\x8b",
    b"\x1f\x9d",
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
)
_UNPACK = "a compressed tar has to be read from its start; unpack it to a plain .tar first"
_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content", "data")
_CHUNK = 65536
_ROWS_AT_A_TIME = 1024
"""How many rows are Python objects at the same time: few, since the garbage collector looks at each of them."""

_TAR_BLOCK = 512
_TAR_TAIL = 128 * _TAR_BLOCK
_LONGEST = 2**62
_ENDS_EARLY = 1.0
"""Seconds at the end of a video without a frame, from which on it counts as cut off."""


class Item(NamedTuple):
    """One input.

    Attributes:
        id: Its name: the path as it was given, with ``/member`` in a tar and ``#number`` in a table or a video.
        kind: What it lies in.
        source: The file, or the tar, table or video, as an absolute path or an address.
        detail: The member's name in a tar; for something that cannot be listed, why.
        start: Where it starts: a byte of a tar, a row of a table, a frame of a video.
        length: Its number of bytes in a tar; the time stamp of a frame in the video's own unit, -1 if it has none.
        stamp: Of the tar, table or video when it was listed, see `radio.extraction.stamps`.
    """

    id: str
    kind: Kind
    source: str
    detail: str
    start: int
    length: int
    stamp: int = NO_STAMP

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
            for name, kind, source, detail, begin, length, stamp in zip(*columns, strict=True):
                yield Item(name, KINDS[kind], os.fsdecode(source), os.fsdecode(detail), begin, length, stamp)

    def stamps(self) -> dict[str, int]:
        """The tars, tables and videos among the sources, each with its stamp; see `radio.extraction.stamps`."""
        pairs = self.table.select(["source", "stamp"]).group_by(["source", "stamp"]).aggregate([])
        found = zip(pairs["source"].to_pylist(), pairs["stamp"].to_pylist(), strict=True)
        return {printable(os.fsdecode(source)): stamp for source, stamp in found if stamp != NO_STAMP}

    def digest(self) -> str:
        """A hash of the names, places and stamps of all inputs, in order.

        Why something cannot be listed is left out: the words of an error may have addresses or numbers of their own
        each time.
        """
        result = hashlib.sha256()
        why = pa.compute.equal(self.table["kind"], KINDS.index("unreadable"))
        detail = pa.compute.if_else(why, pa.scalar(b""), self.table["detail"])
        table = self.table.set_column(self.table.schema.get_field_index("detail"), "detail", detail)
        for start in range(0, len(self), _CHUNK):
            for column in table.slice(start, _CHUNK).columns:
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
            raise ValueError(finder.why_nothing(text))
    if not given:
        raise ValueError("there is no input; give folders, files, patterns, lists or addresses")
    return Listing(builder.finish(), finder.ignored)


def printable(text: str) -> str:
    """A file name as text that can be written anywhere: bytes that are not UTF-8 become ``\\xNN``."""
    if text.isascii():
        return text
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def reason(error: Exception) -> str:
    """Why something cannot be read, in a line without the name that stands before it."""
    if isinstance(error, MemoryError):
        return "the memory does not suffice to decode it"
    if isinstance(error, FileNotFoundError):  # fsspec says nothing but the name
        return "there is no such file"
    text = " ".join(str(error.strerror if isinstance(error, OSError) and error.strerror else error).split())
    return text or type(error).__name__


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
        return index >= 0 and _is_bytes(kind.field(index).type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
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
            "stamp": pa.int64(),
        }
    )

    def __init__(self) -> None:
        self._rows: list[Item] = []
        self._batches: list[Any] = []

    def add(self, item: Item) -> None:
        self._rows.append(item)
        if len(self._rows) == _ROWS_AT_A_TIME:
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
        names, kinds, sources, details, starts, lengths, stamps = zip(*self._rows, strict=True)
        columns = [names, list(map(KINDS.index, kinds)), sources, details, starts, lengths, stamps]
        arrays = [_column(values, field.type) for values, field in zip(columns, self._SCHEMA, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._SCHEMA))
        self._rows = []


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_binary(kind):
        return pa.array(values, kind)
    try:
        return pa.array(values, pa.string()).cast(kind)
    except UnicodeEncodeError:  # names that are not UTF-8
        return pa.array(map(os.fsencode, values), kind)


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

    def why_nothing(self, argument: str) -> str:
        """Why nothing was found in an argument."""
        path = os.path.expanduser(local_path(argument))
        if os.path.isdir(path) and os.path.realpath(path) == self._exclude:
            return f"{argument!r} is the folder of the results; give another one for them (-o)"
        if os.path.lexists(os.path.join(path, RUN)):
            return f"{argument!r} has results of 'radio extract', which are no images"
        return (
            f"{argument!r} has no images ({', '.join(IMAGE_SUFFIXES)}), tars (.tar), tables (.parquet, .arrow) or "
            "videos"
        )

    def find(self, argument: str) -> Iterator[Item]:
        text = local_path(argument)
        if text == "-":
            return self._listed(sys.stdin.buffer.read())
        if is_address(text):
            return self._find_remote(text)
        path = os.path.expanduser(text)
        if os.path.isdir(path):
            return self._walk(path.rstrip("/") or "/")
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

    def _remote_files(self, fs: Any, paths: Sequence[str], root: str) -> Iterator[Item]:
        results = tuple(path.removesuffix(RUN) for path in paths if path.endswith(f"/{RUN}"))
        for path in paths:
            address = fs.unstrip_protocol(path)
            hidden = any(part.startswith(".") for part in path.removeprefix(root).split("/"))
            if (
                hidden
                or path.startswith(results)
                or (self._exclude and address.startswith(self._exclude + "/"))
            ):
                continue
            if _known(path):
                yield from self._open(address, address)
            else:
                self.ignored += 1

    def _listed(self, content: bytes) -> Iterator[Item]:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as Windows PowerShell writes it
            content = content.decode("utf-16", "replace").encode()
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

    def _walk(self, root: str) -> Iterator[Item]:
        """Depth first, sorted by name, and without recursion: folders may be nested deeper than calls."""
        above: list[str] = []  # the real paths of the folders that this one lies in
        waiting = [(root, os.path.abspath(root), True, 0)]
        while waiting:
            path, source, is_folder, depth = waiting.pop()
            if is_folder:
                del above[depth:]
                plain = above and not os.path.islink(path)
                real = os.path.join(above[-1], os.path.basename(path)) if plain else os.path.realpath(path)
                if real == self._exclude or real in above or os.path.lexists(os.path.join(path, RUN)):
                    continue
                above.append(real)
                try:
                    found = _entries(path)
                except OSError as error:
                    yield _unreadable(path, source, f"the folder cannot be listed: {error.strerror}")
                else:
                    path, source = path.rstrip("/") + "/", source.rstrip("/") + "/"
                    waiting += (
                        (path + name, source + name, folder, depth + 1) for name, folder in reversed(found)
                    )
            elif _suffix(path) in IMAGE_SUFFIXES:
                yield Item(printable(path), "file", source, "", 0, -1)
            elif _known(path):
                yield from self._open(path, source)
            else:
                self.ignored += 1

    def _open(self, given: str, source: str) -> Iterator[Item]:
        """The images in a file; the file itself if it is none of the known containers."""
        name = source.lower()
        kind = container_kind(name)
        if name.endswith(_COMPRESSED_TARS):
            yield _unreadable(given, source, _UNPACK)
        elif kind == "file":
            yield Item(printable(given), "file", source, "", 0, -1)
        else:
            try:
                yield from self._look_into(kind, given, source)
            except ImportError:
                raise
            except Exception as error:  # readers of damaged files fail in many ways
                yield _unreadable(given, source, reason(error))

    def _look_into(self, kind: Kind, given: str, source: str) -> Iterator[Item]:
        if kind == "tar":
            with open_source(source) as file:
                yield from _tar_members(file, given, source)
        elif kind == "video":
            with open_source(source) as file:
                stamp = stamp_of(source, file)
                times, why = _frame_times(file, source)
            for number, time in enumerate(times):
                if number % self._frame_step == 0:
                    yield Item(f"{printable(given)}#{number}", kind, source, "", number, time, stamp)
            if why:
                yield _unreadable(given, source, why)
        else:
            with open_source(source) as file:
                stamp = stamp_of(source, file)
                schema, rows, why = _table_shape(kind, file)
            find_image_column(schema, self._image_column)
            if not rows and not why:
                raise ValueError("the table has no rows")
            for number in range(rows):
                yield Item(f"{printable(given)}#{number}", kind, source, "", number, -1, stamp)
            if why:
                yield _unreadable(given, source, why)


def _entries(folder: str) -> list[tuple[str, bool]]:
    """Name and whether it is a folder of all that is in one and not hidden, sorted."""
    with os.scandir(folder) as entries:
        return sorted((entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith("."))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself, which says so when it is read
        return False


def container_kind(name: str) -> Kind:
    """What a file is by its name: a tar, a table, a video, or just a file."""
    return _CONTAINERS.get(_suffix(name), "file")


def check_list(path: str) -> None:
    """Whether a list can be read.

    Raises:
        OSError: It cannot.
    """
    try:
        check_regular(path)
    except OSError as error:
        raise OSError(f"the list {path!r} cannot be read: {error}") from None


def _suffix(path: str) -> str:
    """``.jpg`` of ``photos/a.JPG``."""
    return "." + path.rpartition(".")[2].lower()


def _known(name: str) -> bool:
    suffix = _suffix(name)
    return suffix in IMAGE_SUFFIXES or suffix in _CONTAINERS or name.lower().endswith(_COMPRESSED_TARS)


def _unreadable(given: str, source: str, why: str) -> Item:
    return Item(printable(given), "unreadable", source, why, 0, -1)


def _tar_members(file: IO[bytes], given: str, source: str) -> Iterator[Item]:
    """The images of a tar, or of several that were joined."""
    count, start = 0, 0
    stamp = stamp_of(source, file)
    more = True
    while more:
        end = start
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if not 0 <= member.size < _LONGEST:
                        raise tarfile.ReadError(f"{printable(member.name)} has an impossible size")
                    # Only the member just read is needed; a tar of a million members would fill the memory.
                    tar.members = []  # type: ignore[attr-defined]
                    item = _tar_item(member, given, source, stamp)
                    if item is not None:
                        count += 1
                        yield item
                    end = tar.offset
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            yield _unreadable(given, source, _damaged_tar(file, count, reason(error)))
            return
        file.seek(end)
        tail = file.read(_TAR_TAIL)
        if tail[:_TAR_BLOCK] != bytes(_TAR_BLOCK):
            why = "there is no end mark" if not tail else "what follows is no tar header"
            yield _unreadable(given, source, _damaged_tar(file, count, why))
            return
        content = tail.lstrip(b"\0")
        start = end + (len(tail) - len(content)) // _TAR_BLOCK * _TAR_BLOCK
        more = bool(content)
    if not count:
        yield _unreadable(given, source, "the tar has no images")


def _tar_item(member: tarfile.TarInfo, given: str, source: str, stamp: int) -> Item | None:
    """The image that a member of a tar is; None if it has no name of one."""
    name = os.path.basename(member.name)
    if not name.lower().endswith(IMAGE_SUFFIXES) or name.startswith(".") or member.isdir():
        return None
    place = f"{printable(given)}/{printable(member.name)}"
    if member.issparse():
        return _unreadable(place, source, "it is stored as a sparse file; pack the tar without --sparse")
    if member.islnk() or member.issym():
        why = f"it is a link to {printable(member.linkname)}; pack the tar with --dereference --hard-dereference"
        return _unreadable(place, source, why)
    if not member.isreg():
        return _unreadable(place, source, "it is no file, but a device or a named pipe")
    return Item(place, "tar", source, member.name, member.offset_data, member.size, stamp)


def _damaged_tar(file: IO[bytes], count: int, why: str) -> str:
    file.seek(0)
    if file.read(8).startswith(_COMPRESSED_STARTS):
        return _UNPACK
    return f"the tar is damaged or cut off after {counted(count, 'image')}: {why}"


def _table_shape(kind: Kind, file: IO[bytes]) -> tuple[Any, int, str]:
    """The schema of a table, the number of its rows, and what is wrong with those that follow, if anything is."""
    try:
        if kind == "parquet":
            import pyarrow.parquet as pq

            parquet = pq.ParquetFile(file)
            return parquet.schema_arrow, parquet.metadata.num_rows, ""
        reader = open_arrow(file)
        if hasattr(reader, "num_record_batches"):
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            return reader.schema, sum(batch.num_rows for batch in batches), ""
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"the table is damaged, cut off or of another format: {reason(error)}") from error
    rows = 0
    try:
        for batch in reader:
            rows += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        return (
            reader.schema,
            rows,
            f"the table is damaged or cut off after {counted(rows, 'row')}: {reason(error)}",
        )
    return reader.schema, rows, ""


def open_arrow(file: IO[bytes]) -> Any:
    """A reader of an Arrow file, or of an Arrow stream as `datasets` writes it."""
    try:
        return pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_stream(file)


def _frame_times(file: IO[bytes], source: str) -> tuple[list[int], str]:
    """The frames of a video, without decoding them.

    Returns:
        The time stamp of every frame in the order shown, in the video's own unit, -1 where there is none; and what is
        wrong with the rest, if the file promises more frames than it has.
    """
    with open_container(file, source) as container:
        stream = container.streams.video[0]
        listed = (
            "mp4" in container.format.name
        )  # where the count of frames has those that were trimmed away, too
        promised = sum(entry.size > 0 for entry in stream.index_entries) if listed else stream.frames
        found, stamps, end = 0, [], 0
        for packet in container.demux(stream):
            found += bool(packet.size)
            if packet.size and not packet.is_discard:  # what a trimmed video keeps, but does not show
                stamps.append(-1 if packet.pts is None else packet.pts)
                end = max(end, stamps[-1] + (packet.duration or 0))
        missing = _seconds(stream.metadata.get("DURATION", "")) - float(end * (stream.time_base or 0))
    why = ""
    if found < promised:
        why = f"the video is damaged or cut off: {found} of {promised} frames are there"
    elif stamps and missing > _ENDS_EARLY:
        why = f"the video is damaged or cut off: its last {missing:.1f} s are missing"
    elif not stamps:
        raise ValueError("the video has no frames")
    return [-1] * len(stamps) if -1 in stamps else sorted(stamps), why


def _seconds(text: str) -> float:
    """``00:01:30.5`` in seconds; 0 if it is something else."""
    try:
        hours, minutes, seconds = map(float, text.split(":"))
    except ValueError:
        return 0.0
    return 3600 * hours + 60 * minutes + seconds
