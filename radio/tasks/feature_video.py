"""The features of a video as colors, frame by frame.

>>> video = describe_video("clip.mp4")
>>> accumulator = PCAAccumulator()
>>> for spatial in spatial_features(model, sample_frames("clip.mp4", 32)):
...     accumulator.add(spatial.features)
>>> draw_video(model, accumulator.fit(), read_frames("clip.mp4"), "out.mp4", video)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from radio.data.video import Frame, Video
from radio.drawing.pictures import Size, feature_picture, fit_long_side
from radio.drawing.video import write_frames
from radio.files import Outputs
from radio.images import SizeSpec
from radio.model import RADIOModel
from radio.tasks.pca import PCAFit, outlier_patches
from radio.tasks.spatial import chunked, spatial_features

_LARGEST_SIDE = 1024
_GAP = 8


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
    smooth: bool = False,
    batch_size: int = 4,
    outputs: Outputs | None = None,
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
        smooth: Blend neighboring patches.
        batch_size: Frames per forward pass.
        outputs: Of the run that it belongs to.

    Returns:
        How many frames were written.

    Raises:
        ValueError: The fit, the size or the adaptor does not fit the model, or as `write_frames`.
        OSError, MissingExtraError: As `write_frames`.
    """

    def drawn() -> Iterator[Frame]:
        for batch in chunked(frames, batch_size):
            pictures = [frame.picture for frame in batch]
            found = spatial_features(model, pictures, size, adaptor_name, batch_size)
            for frame, (features, _) in zip(batch, found, strict=True):
                shown = _shown_size(frame.picture.size)
                outliers = outlier_patches(features) if show_outliers else None
                colors = feature_picture(fit.to_rgb(features), shown, outliers, smooth)
                picture = _beside(frame.picture.resize(shown), colors) if side_by_side else colors
                yield Frame(picture, frame.time)

    return write_frames(path, drawn(), video, outputs)


def _shown_size(size: Size) -> Size:
    """At most `_LARGEST_SIDE`, with even sides, as H.264 wants them."""
    width, height = fit_long_side(size, min(max(size), _LARGEST_SIDE))
    return max(width // 2, 1) * 2, max(height // 2, 1) * 2


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    result = Image.new("RGB", (left.width + _GAP + right.width, left.height), "white")
    result.paste(left, (0, 0))
    result.paste(right, (left.width + _GAP, 0))
    return result
