"""Videos in and out, frame by frame, and features of videos as colors. Needs the ``video`` extra (PyAV).

>>> video = describe_video("clip.mp4")
>>> accumulator = PCAAccumulator()
>>> for spatial in spatial_features(model, sample_frames("clip.mp4", 32)):
...     accumulator.add(spatial.features)
>>> draw_video(model, accumulator.fit(), read_frames("clip.mp4"), "out.mp4", video)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from PIL import Image

from radio.drawing.pictures import Size, feature_picture, fitting
from radio.errors import ImageError
from radio.files import written_at_once
from radio.images import SizeSpec
from radio.model import RADIOModel
from radio.optional import require
from radio.tasks.pca import PCAFit, outlier_patches
from radio.tasks.spatial import batches, spatial_features

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
"""How the names of video files end."""

_WRITABLE = (".mp4", ".mov", ".m4v", ".mkv")
_LARGEST_SIDE = 1024
_GAP = 8
_QUALITY = "18"  # of x264, where 0 is lossless and 51 is worst


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
    with _open(path) as (_, container):
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
    with _open(path) as (_, container):
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


def write_frames(path: str | Path, frames: Iterable[Frame], video: Video) -> int:
    """Encode frames as H.264, one at a time; the file appears when it is whole.

    Args:
        path: An ``.mp4``, ``.mov``, ``.m4v`` or ``.mkv`` file, which is replaced.
        frames: All of one size, with even sides.
        video: The frame rate and the unit of time.

    Returns:
        How many frames were written.

    Raises:
        ValueError: There are no frames, their sizes differ or are odd, or the file's name ends otherwise.
        OSError: The file cannot be written.
        MissingExtraError: PyAV is not installed.
    """
    path = Path(path)
    check_video_name(path)
    av = require("av", "video")
    with written_at_once(path) as temporary, av.open(str(temporary), "w") as container:
        return _encode(av, container, frames, video)


def check_video_name(path: Path) -> None:
    """Whether a video can be written under that name.

    Raises:
        ValueError: The name ends in no format that can be written.
    """
    if path.suffix.lower() not in _WRITABLE:
        raise ValueError(f"cannot write a video to {str(path)!r}; allowed endings: {', '.join(_WRITABLE)}")


def draw_video(
    model: RADIOModel,
    fit: PCAFit,
    frames: Iterable[Frame],
    path: str | Path,
    video: Video,
    size: SizeSpec = None,
    adaptor_name: str | None = None,
    side_by_side: bool = False,
    show_outliers: bool = False,
    batch_size: int = 4,
) -> int:
    """Write a video of the features of a video. Memory does not grow with its length.

    Args:
        model: A model, with the adaptor if one is asked for.
        fit: One for all frames, so that colors are stable.
        frames: As `read_frames` gives them.
        path, video: As in `write_frames`.
        size: At which the frames are run, as in `radio.images.target_size`.
        adaptor_name: The teacher's space; the backbone's own if None.
        side_by_side: Put the frame to the left of its features.
        show_outliers: Frame the patches of unusually high norm.
        batch_size: Frames per forward pass.

    Returns:
        How many frames were written.

    Raises:
        ValueError: The fit, the size or the adaptor does not fit the model, or as `write_frames`.
        OSError, MissingExtraError: As `write_frames`.
    """

    def drawn() -> Iterator[Frame]:
        for batch in batches(frames, batch_size):
            pictures = [frame.picture for frame in batch]
            found = spatial_features(model, pictures, size, adaptor_name, batch_size)
            for frame, (features, _) in zip(batch, found, strict=True):
                shown = _shown_size(frame.picture.size)
                outliers = outlier_patches(features) if show_outliers else None
                colors = feature_picture(fit.to_rgb(features), shown, outliers)
                picture = _beside(frame.picture.resize(shown), colors) if side_by_side else colors
                yield Frame(picture, frame.time)

    return write_frames(path, drawn(), video)


def _encode(av: ModuleType, container: Any, frames: Iterable[Frame], video: Video) -> int:
    stream = container.add_stream("libx264", rate=video.frame_rate, options={"crf": _QUALITY})
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = video.time_base
    duration = max(round(1 / (video.frame_rate * video.time_base)), 1)
    size: Size | None = None
    count, last = 0, -1
    for picture, time in frames:
        if size is None:
            size = picture.size
            stream.width, stream.height = size
        if picture.size != size or size[0] % 2 or size[1] % 2:
            raise ValueError(f"frames must have one size with even sides, got {size} and {picture.size}")
        frame = av.VideoFrame.from_image(picture.convert("RGB"))
        last = max(round(time / video.time_base), last + 1)
        frame.pts, frame.time_base, frame.duration = last, video.time_base, duration
        container.mux(stream.encode(frame))
        count += 1
    if not count:
        raise ValueError("there are no frames to write")
    container.mux(stream.encode(None))
    return count


@contextmanager
def _open(path: str | Path) -> Iterator[tuple[ModuleType, Any]]:
    """PyAV and an open container that has a video, with its errors told as ours."""
    av = require("av", "video")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no video file {str(path)!r}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{str(path)!r} has no video stream")
            yield av, container
    except av.FFmpegError as error:
        raise ImageError(f"cannot read the video {str(path)!r}: {error}") from error


def _upright(frame: Any) -> Image.Image:
    picture = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


def _shown_size(size: Size) -> Size:
    """At most `_LARGEST_SIDE`, with even sides, as H.264 wants them."""
    width, height = fitting(size, min(max(size), _LARGEST_SIDE))
    return max(width // 2, 1) * 2, max(height // 2, 1) * 2


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    result = Image.new("RGB", (left.width + _GAP + right.width, left.height), "white")
    result.paste(left, (0, 0))
    result.paste(right, (left.width + _GAP, 0))
    return result
