"""Videos out, frame by frame. Needs the ``video`` extra (PyAV)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from radio.data.video import Frame, Video
from radio.drawing.pictures import Size
from radio.files import Outputs
from radio.optional import require

_WRITABLE = (".mp4", ".mov", ".m4v", ".mkv")
_QUALITY = "18"  # of x264, where 0 is lossless and 51 is worst


def write_frames(
    path: str | Path, frames: Iterable[Frame], video: Video, outputs: Outputs | None = None
) -> int:
    """Encode frames as H.264, one at a time; the file appears when it is whole.

    Args:
        path: An ``.mp4``, ``.mov``, ``.m4v`` or ``.mkv`` file, which is replaced.
        frames: All of one size, with even sides.
        video: The frame rate and the unit of time.
        outputs: Of the run that it belongs to.

    Returns:
        How many frames were written.

    Raises:
        ValueError: There are no frames, their sizes differ or are odd, the file's name ends otherwise, or it is an
            input of the run or was written by it.
        OSError: The file cannot be written.
        MissingExtraError: PyAV is not installed.
    """
    path = Path(path)
    check_video_name(path)
    av = require("av", "video")
    with (outputs or Outputs()).write(path) as temporary:
        try:
            # An absolute path, because FFmpeg takes a relative one such as "http:/x.mp4" for an address.
            with av.open(os.path.abspath(temporary), "w") as container:
                return _encode(av, container, frames, video)
        except av.FFmpegError as error:
            raise OSError(f"cannot write the video {str(path)!r}: {error}") from error


def check_video_name(path: Path) -> None:
    """Whether a video can be written under that name.

    Raises:
        ValueError: The name ends in no format that can be written.
    """
    if path.suffix.lower() not in _WRITABLE:
        raise ValueError(f"cannot write a video to {str(path)!r}; allowed endings: {', '.join(_WRITABLE)}")


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
