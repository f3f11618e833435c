"""From inputs to pixels, ahead of the model: a thread that fetches in order and a pool of threads that decode.

Pixels stay 8-bit until they are resized, and JPEG files much larger than the model needs are decoded at a fraction of
their size, so that photographs of many megapixels neither fill the memory nor keep the model waiting.
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import IO, Any

import fsspec
import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from radio.data.video import open_container
from radio.extraction.inputs import (
    Item,
    check_regular,
    container_kind,
    find_image_column,
    open_arrow,
    open_source,
    reason,
)
from radio.extraction.stamps import check_stamp
from radio.extraction.storage import is_address
from radio.images import SizeSpec, center_crop, target_size
from radio.images.opening import identify
from radio.model import RADIOModel
from radio.wording import counted

_MUCH_LARGER = 2.0
"""From this factor per side on, an image is shrunk with 8-bit pixels: at most half a level of rounding."""

_HUGE = 64_000_000
"""Images of more pixels than this are decoded one at a time, so that a pool of threads does not fill the memory."""

_TABLE_ROWS = 64
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Decoded:
    """An input, ready for the model or known to be unreadable.

    Attributes:
        item: The input.
        pixels: (3, H, W) float32 in [0, 1] at a size that the model supports; None if it failed.
        height, width: Of the image itself, upright, in pixels; None if not even that can be read.
        error: Why it failed; None otherwise.
    """

    item: Item
    pixels: Tensor | None
    height: int | None = None
    width: int | None = None
    error: str | None = None


class Decoder:
    """Turns an image file into pixels for one model and one rule of sizes.

    Args:
        model: The model; only its sizes are used.
        size: How large images become, as in `radio.images.target_size`.
        exact: Read every image exactly as `model.encode` does. Otherwise an image that is at least twice as large per
            side as needed is shrunk with 8-bit pixels, and a JPEG file is decoded at 1/2, 1/4 or 1/8, which is many
            times faster and differs by less than one level of 255 on average.
    """

    def __init__(self, model: RADIOModel, size: SizeSpec = None, exact: bool = False) -> None:
        self._model = model
        self._size = size
        self._rule = _size_rule(model, size)
        self._crop = isinstance(size, str) and size.strip().startswith("crop:")
        self._exact = exact
        self._huge = threading.Lock()

    def __call__(self, item: Item, payload: Any = None) -> Decoded:
        """Decode one input. Whatever is wrong with it is told in the result.

        Args:
            item: The input.
            payload: What was fetched for it: bytes, a PIL image, an exception, or None to read it from its source.
        """
        sizes: list[int] = []  # filled in as soon as the height and the width are known
        try:
            if isinstance(payload, Exception):
                raise payload
            pixels = self._decode(_open_image(item, payload), sizes)
        except Exception as error:  # decoders of damaged files fail in many ways; none may stop the others
            height, width = sizes or (None, None)
            return Decoded(item, None, height, width, reason(error))
        return Decoded(item, pixels, sizes[0], sizes[1])

    def _decode(self, image: Image.Image, sizes: list[int]) -> Tensor:
        """The pixels; the image's own height and width go to ``sizes`` as soon as they are known."""
        with image:
            width, height = image.size
            sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
            sizes += (width, height) if sideways else (height, width)
            if width * height > _HUGE:
                with self._huge:
                    return self._resized(image, *sizes)
            return self._resized(image, *sizes)

    def _resized(self, image: Image.Image, height: int, width: int) -> Tensor:
        target = target_size(height, width, **self._rule)
        scale = max(target[0] / height, target[1] / width)
        covering = target
        if self._crop:
            covering = max(round(height * scale), target[0]), max(round(width * scale), target[1])
        if not self._exact and scale * _MUCH_LARGER <= 1:
            image.draft(None, _at_least(image.size, scale * _MUCH_LARGER))
            small = _shrunk(image, covering)
            if small is not None:
                return center_crop(small, *target) if self._crop else small
        return self._model.resize(image, self._size)


def open_image(path: str, image_column: str | None = None) -> Image.Image:
    """The image at a path as `radio.extraction.inputs.Item` names it, upright.

    Args:
        path: A path or an address, with ``#number`` in a table or a video.
        image_column: The column of a table that has the images, if not the usual one.

    Raises:
        Exception: It cannot be read, for one of many reasons.
    """
    source, _, number = path.rpartition("#")
    kind = container_kind(source)
    if number.isdecimal() and kind in ("parquet", "arrow", "video"):
        item = Item(path, kind, source, "", int(number), -1)
        with closing(_Fetcher(image_column)) as fetcher:
            payload = fetcher.fetch(item)
        if isinstance(payload, Exception):
            raise payload
    else:
        item, payload = Item(path, "file", path, "", 0, -1), None
    image = _open_image(item, payload)
    image.draft(None, (1024, 1024))
    return ImageOps.exif_transpose(image)


def check_size(model: RADIOModel, size: SizeSpec) -> None:
    """Whether a model supports a size at all.

    Raises:
        ValueError: It does not.
    """
    target_size(model.max_resolution, model.max_resolution, **_size_rule(model, size))


def _size_rule(model: RADIOModel, size: SizeSpec) -> dict[str, Any]:
    """The arguments of `radio.images.target_size` for a model."""
    return {
        "size": size,
        "step": model.min_resolution_step,
        "patch_size": model.patch_size,
        "max_side": model.max_resolution,
        "preferred": min(model.preferred_resolution),
    }


def _at_least(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return math.ceil(size[0] * scale), math.ceil(size[1] * scale)


def _shrunk(image: Image.Image, size: tuple[int, int]) -> Tensor | None:
    """(3, H, W) float32 in [0, 1] at this height and width, through 8-bit pixels; None for other pixels than RGB."""
    if image.mode not in ("RGB", "L", "CMYK", "YCbCr") or image.has_transparency_data:
        return None
    array = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    pixels = torch.from_numpy(array).permute(2, 0, 1)[None]
    return F.interpolate(pixels, size, mode="bicubic", antialias=True)[0].contiguous() / 255


def _open_image(item: Item, payload: Any) -> Image.Image:
    if isinstance(payload, Image.Image):
        return payload
    file = io.BytesIO(payload) if isinstance(payload, bytes) else _open_item(item)
    return identify(file, "it")


def _open_item(item: Item) -> IO[bytes]:
    if item.kind == "unreadable":
        raise ValueError(item.detail)
    if item.kind == "file" and not is_address(item.source):
        check_regular(item.source)
        return open(item.source, "rb")
    data = _read_range(item) if item.kind == "tar" else _read_address(item.source)
    if not data:
        raise ValueError("the file is empty (0 bytes)")
    return io.BytesIO(data)


def _read_range(item: Item) -> bytes:
    if is_address(item.source):
        fs, path = fsspec.core.url_to_fs(item.source)
        data = fs.cat_file(path, start=item.start, end=item.start + item.length)
        check_stamp(item.source, item.stamp)
    else:
        with open(item.source, "rb") as file:
            file.seek(item.start)
            data = file.read(item.length)
            check_stamp(item.source, item.stamp, file)
    if len(data) < item.length:
        raise ValueError(f"the tar is cut off: {len(data)} of the image's {item.length} bytes are there")
    return data


def _read_address(address: str) -> bytes:
    with fsspec.open(address, "rb") as file:
        return file.read()


class Prefetcher:
    """Decodes inputs ahead of whoever takes them, in order and in bounded memory.

    Args:
        decoder: Decodes one input.
        workers: Threads that decode.
        ahead: At most so many inputs are decoded and not taken yet.
        image_column: The column of tables that has the images, if not the usual one.
    """

    def __init__(self, decoder: Decoder, workers: int, ahead: int, image_column: str | None = None) -> None:
        self._decoder = decoder
        self._workers = workers
        self._ahead = ahead
        self._image_column = image_column

    def __call__(self, items: Iterable[Item]) -> Generator[Decoded, None, None]:
        """One result for each input, in the same order."""
        queue: Queue[Future[Decoded] | BaseException | None] = Queue(self._ahead)
        stop = threading.Event()
        with single_threaded_pool(self._workers) as pool:
            feeder = threading.Thread(target=self._feed, args=(items, pool, queue, stop), daemon=True)
            feeder.start()
            try:
                while (entry := queue.get()) is not None:
                    if isinstance(entry, BaseException):
                        raise entry
                    yield entry.result()
            finally:
                stop.set()
                while feeder.is_alive():
                    with suppress(Empty):
                        queue.get(timeout=0.05)
                pool.shutdown(wait=True, cancel_futures=True)

    def _feed(
        self, items: Iterable[Item], pool: ThreadPoolExecutor, queue: Queue[Any], stop: threading.Event
    ) -> None:
        end: BaseException | None = None
        try:
            with closing(_Fetcher(self._image_column)) as fetcher:
                for item in items:
                    if stop.is_set():
                        break
                    future = pool.submit(self._decoder, item, fetcher.fetch(item))
                    _put(queue, future, stop)
        except BaseException as error:  # whoever takes the results gets it
            end = error
        _put(queue, end, stop)


def _put(queue: Queue[Any], entry: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(Full):
            queue.put(entry, timeout=0.1)
            return


def single_threaded_pool(workers: int) -> ThreadPoolExecutor:
    """Threads in each of which PyTorch computes alone.

    Otherwise each of them would start as many threads of OpenMP as there are cores, which all wait for each other.
    How many threads PyTorch uses elsewhere stays as it is.
    """
    everywhere = torch.get_num_threads()
    ready = threading.Barrier(workers + 1)

    def set_up() -> None:
        torch.get_num_threads()  # PyTorch sets a thread up when it first asks, and would undo what follows
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for _ in range(workers):
            pool.submit(set_up)
    except RuntimeError as error:
        ready.abort()  # or those that did start would wait for ever
        raise ValueError(
            f"this machine cannot start {counted(workers, 'thread')}; give fewer workers"
        ) from error
    ready.wait()
    torch.set_num_threads(everywhere)
    return pool


class _Fetcher:
    """Reads what has to be read in order: rows of tables and frames of videos. The source last used stays open."""

    def __init__(self, image_column: str | None) -> None:
        self._image_column = image_column
        self._source = ""
        self._cursor: _Rows | _Frames | None = None

    def fetch(self, item: Item) -> Any:
        """Bytes or a PIL image, an exception if it failed, or None for what the pool reads by itself."""
        if item.kind not in ("parquet", "arrow", "video"):
            return None
        try:
            if self._cursor is None or item.source != self._source:
                self.close()
                self._source = item.source
                self._cursor = _Frames(item) if item.kind == "video" else _Rows(item, self._image_column)
            return self._cursor.take(item)
        except Exception as error:  # this row fails, and the next one tries anew
            self.close()
            return error

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
        self._cursor = None


class _Rows:
    """Image bytes of a table, row by row from anywhere onwards."""

    def __init__(self, item: Item, image_column: str | None) -> None:
        self._stack = ExitStack()
        self._folder = os.path.dirname(item.source)
        self._file = self._stack.enter_context(open_source(item.source))
        pieces = _parquet_pieces if item.kind == "parquet" else _arrow_pieces
        self._pieces = pieces(self._file, image_column, item.start)
        self._first = 0
        self._values: Any = ()

    def take(self, item: Item) -> bytes:
        while not self._first <= item.start < self._first + len(self._values):
            try:
                piece = next(self._pieces, None)
            finally:  # also when it cannot be read any more: this is then why
                check_stamp(item.source, item.stamp, self._file)
            if piece is None:
                raise ValueError("the table ends before this row")
            self._first, self._values = piece
        value = self._values[item.start - self._first].as_py()
        if isinstance(value, dict):
            data, path = value.get("bytes"), value.get("path")
            if data is None and path:
                return self._beside(path)
            value = data
        if not value:
            raise ValueError("the row has no image bytes")
        return value

    def _beside(self, path: str) -> bytes:
        """The content of a file that a row names."""
        try:
            with open_source(path if is_address(path) else os.path.join(self._folder, path)) as file:
                return file.read()
        except OSError as error:
            raise ValueError(
                f"the row has no bytes, but the name of a file, {path!r}: {reason(error)}"
            ) from error

    def close(self) -> None:
        self._stack.close()


def _parquet_pieces(file: IO[bytes], image_column: str | None, start: int) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    column = find_image_column(parquet.schema_arrow, image_column)
    first = 0
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if first + rows <= start:
            first += rows
            continue
        for batch in parquet.iter_batches(_TABLE_ROWS, row_groups=[group], columns=[column]):
            yield first, batch.column(0)
            first += batch.num_rows


def _arrow_pieces(file: IO[bytes], image_column: str | None, start: int) -> Iterator[tuple[int, Any]]:
    reader = open_arrow(file)
    column = find_image_column(reader.schema, image_column)
    whole = hasattr(reader, "num_record_batches")
    batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if whole else iter(reader)
    first = 0
    for batch in batches:
        if first + batch.num_rows > start:
            yield first, batch.column(column)
        first += batch.num_rows


class _Frames:
    """Frames of a video from anywhere onwards: a jump to the key frame before, then one after the other."""

    def __init__(self, item: Item) -> None:
        self._stack = ExitStack()
        self._file = self._stack.enter_context(open_source(item.source))
        check_stamp(item.source, item.stamp, self._file)
        self._container = self._stack.enter_context(open_container(self._file, item.source))
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._frames: Iterator[Any] | None = None
        self._number = -1

    def take(self, item: Item) -> Image.Image:
        try:
            return self._next(item)
        finally:
            if not is_address(item.source):  # where asking for each frame would take longer than decoding it
                check_stamp(item.source, item.stamp, self._file)

    def _next(self, item: Item) -> Image.Image:
        if self._frames is None:
            if item.length >= 0 and item.start > 0:
                self._container.seek(item.length, stream=self._stream, backward=True)
            self._frames = self._decoded()
        for frame in self._frames:
            self._number += 1
            here = self._number == item.start if item.length < 0 else frame.pts == item.length
            if here:
                picture = frame.to_image()
                return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
            if item.length >= 0 and frame.pts is not None and frame.pts > item.length:
                break
        raise ValueError("the video has no such frame; it may be damaged")

    def _decoded(self) -> Iterator[Any]:
        try:
            yield from self._container.decode(self._stream)
        except Exception as error:  # of FFmpeg, with a number that nobody knows in front
            raise ValueError(f"the video is damaged: {getattr(error, 'strerror', '') or error}") from error

    def close(self) -> None:
        self._stack.close()
