"""Videos, frame by frame. Needs the ``video`` extra (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

from PIL import Image

from radio.errors import ImageError
from radio.files import open_regular
from radio.images.opening import MAX_PIXELS, printable, reason
from radio.optional import require

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
"""How the names of video files end."""

FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpeg", "mpegts", "mpegvideo")
"""The containers that are read, by FFmpeg's names (each is one demuxer). A file's content says which it is."""


class Video(NamedTuple):
    """What a video is.

    Attributes:
        frames: Number of frames.
        frame_rate: Frames per second, on average.
        time_base: The unit of the frames' times, in seconds.
    """

    frames: int
    frame_rate: Fraction
    time_base: Fraction


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        picture: RGB, upright.
        time: When it is shown, in seconds from the first frame.
    """

    picture: Image.Image
    time: Fraction


def describe_video(path: str | Path) -> Video:
    """Count a video's frames and read its frame rate, without decoding.

    Raises:
        FileNotFoundError: There is no such file.
        ImageError: It is not a video.
        MissingExtraError: PyAV is not installed.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        frames = sum(1 for packet in container.demux(stream) if packet.size)
        rate = stream.average_rate or stream.guessed_rate
        if not frames or not rate:
            raise ImageError(f"the video {str(path)!r} has no frames")
        return Video(frames, Fraction(rate), Fraction(stream.time_base))


def read_frames(path: str | Path) -> Iterator[Frame]:
    """Decode a video, one frame at a time.

    Raises:
        FileNotFoundError: There is no such file.
        ImageError: It is not a video, or it is damaged.
        MissingExtraError: PyAV is not installed.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        first: Fraction | None = None
        for number, frame in enumerate(container.decode(stream)):
            time = number / rate if frame.pts is None else Fraction(frame.pts) * Fraction(frame.time_base)
            first = time if first is None else first
            yield Frame(_upright(frame), time - first)


def sample_frames(path: str | Path, count: int) -> Iterator[Image.Image]:
    """Pictures of so many frames, at even distances over a whole video; all of them if it has no more.

    Raises:
        ValueError: The count is below 1.
        FileNotFoundError, ImageError, MissingExtraError: As `read_frames`.
    """
    if count < 1:
        raise ValueError(f"the number of frames must be at least 1, got {count}")
    total = describe_video(path).frames
    count = min(count, total)
    wanted = {(2 * i + 1) * total // (2 * count) for i in range(count)}
    for number, frame in enumerate(read_frames(path)):
        if number in wanted:
            yield frame.picture


@contextmanager
def _open(path: str | Path) -> Iterator[Any]:
    """An open container that has a video. FFmpeg gets the open file and not its name."""
    name = printable(str(path))
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no video file '{name}'") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it
        raise ImageError(f"cannot read the video '{name}': {reason(error)}") from error
    with file, open_container(file, name) as container:
        yield container


@contextmanager
def open_container(file: IO[bytes], name: str) -> Iterator[Any]:
    """A PyAV container with a video, from an open file.

    FFmpeg may open nothing else, and reads only the formats of `FORMATS`: a playlist in a file named .mp4 would make it
    read other files, or the network.

    Args:
        file: Open for reading, at its start.
        name: What it is called in messages.

    Raises:
        ImageError: It is not a video, or it is damaged.
        MissingExtraError: PyAV is not installed.
    """
    av = require("av", "video")
    allowed = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
    try:
        with av.open(file, "r", container_options=allowed) as container:
            if container.format.name not in FORMATS:
                raise ImageError(f"'{name}' is of format {container.format.name}, which is not read")
            if not container.streams.video:
                raise ImageError(f"'{name}' has no video stream")
            _check_size(container.streams.video[0], name)
            yield container
    except av.FFmpegError as error:
        why = printable(error.strerror or reason(error))
        raise ImageError(
            f"cannot read the video '{name}': {why}; it is damaged, or none of the formats that are read "
            f"({', '.join(VIDEO_SUFFIXES)})"
        ) from error


def _check_size(stream: Any, name: str) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise ImageError(f"the frames of '{name}' have {width} x {height} pixels, more than are read")


def _upright(frame: Any) -> Image.Image:
    picture = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
