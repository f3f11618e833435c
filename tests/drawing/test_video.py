"""Real videos: decoding, sampling, encoding, and features of every frame in stable colors."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from radio import load_model
from radio.data.video import Frame, Video, describe_video, read_frames, sample_frames
from radio.drawing.video import write_frames
from radio.errors import ImageError
from radio.tasks.feature_video import draw_video
from radio.tasks.pca import PCAAccumulator
from radio.tasks.spatial import spatial_features

av = pytest.importorskip("av")

RATE = Fraction(24000, 1001)
FRAMES = 9


@pytest.fixture(scope="module")
def pictures(photos):
    """A camera that moves over a photograph."""
    photo = Image.open(photos[0]).convert("RGB")
    return [photo.crop((8 * i, 5 * i, 8 * i + 192, 5 * i + 128)) for i in range(FRAMES)]


@pytest.fixture(scope="module")
def clip(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    frames = (Frame(picture, i / RATE) for i, picture in enumerate(pictures))
    assert write_frames(path, frames, Video(FRAMES, RATE, Fraction(1, 24000))) == FRAMES
    return path


@pytest.fixture(scope="module")
def model(reference):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    return load_model(path, adaptors=["sam"], device="cpu")


def _difference(one, other):
    return np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean()


def _fit(model, clip):
    accumulator = PCAAccumulator()
    for spatial in spatial_features(model, sample_frames(clip, 4)):
        accumulator.add(spatial.features)
    return accumulator.fit()


def test_what_was_written_is_read_back(clip, pictures):
    assert describe_video(clip)[:2] == (FRAMES, RATE)
    frames = list(read_frames(clip))
    assert len(frames) == FRAMES
    for i, (frame, picture) in enumerate(zip(frames, pictures, strict=True)):
        assert frame.time == i / RATE
        assert frame.picture.size == (192, 128)
        assert _difference(frame.picture, picture) < 6


def test_a_sample_covers_the_whole_video(clip, pictures):
    sample = list(sample_frames(clip, 3))
    assert len(sample) == 3
    for picture, number in zip(sample, (1, 4, 7), strict=True):
        assert _difference(picture, pictures[number]) < 6
    assert len(list(sample_frames(clip, 1000))) == FRAMES
    with pytest.raises(ValueError, match="at least 1"):
        next(sample_frames(clip, 0))


def test_uneven_times_are_kept(pictures, tmp_path):
    times = [Fraction(t, 1000) for t in (0, 40, 50, 200, 900)]
    frames = [Frame(picture, time) for picture, time in zip(pictures, times, strict=False)]
    write_frames(tmp_path / "uneven.mkv", frames, Video(5, Fraction(25), Fraction(1, 1000)))
    assert [frame.time for frame in read_frames(tmp_path / "uneven.mkv")] == times


def test_a_turned_video_is_read_upright(pictures, tmp_path):
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 192, "yuv420p"
        stream.set_display_rotation(90)
        for picture in pictures[:2]:
            lying = av.VideoFrame.from_image(picture.rotate(-90, expand=True))
            container.mux(stream.encode(lying))
        container.mux(stream.encode(None))
    frame = next(read_frames(path))
    assert frame.picture.size == (192, 128)
    assert _difference(frame.picture, pictures[0]) < 8


def test_features_of_every_frame_in_stable_colors(model, clip, tmp_path):
    fit = _fit(model, clip)
    out = tmp_path / "out.mp4"
    written = draw_video(model, fit, read_frames(clip), out, describe_video(clip), batch_size=4)
    assert written == FRAMES
    assert describe_video(out)[:2] == (FRAMES, RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    drawn = list(read_frames(out))
    assert [frame.time for frame in drawn] == [frame.time for frame in read_frames(clip)]
    sources = [frame.picture for frame in read_frames(clip)]
    for spatial, frame in zip(spatial_features(model, sources), drawn, strict=True):
        assert frame.picture.size == (192, 128)
        expected = fit.to_rgb(spatial.features)
        found = frame.picture.resize((12, 8), Image.Resampling.BOX)
        assert _difference(found, (expected * 255).permute(1, 2, 0)) < 20


def test_side_by_side_at_another_size_in_a_teachers_space(model, clip, tmp_path):
    accumulator = PCAAccumulator()
    for spatial in spatial_features(model, sample_frames(clip, 2), "short:64", "sam"):
        assert spatial.features.shape == (48, 4, 6)
        accumulator.add(spatial.features)
    out = tmp_path / "out.mkv"
    draw_video(
        model,
        accumulator.fit(),
        read_frames(clip),
        out,
        describe_video(clip),
        size="short:64",
        adaptor_name="sam",
        side_by_side=True,
        show_outliers=True,
    )
    first = next(read_frames(out)).picture
    assert first.size == (192 + 8 + 192, 128)
    assert _difference(first.crop((0, 0, 192, 128)), next(read_frames(clip)).picture) < 8


def test_frames_flow_through(model, clip, tmp_path):
    """Never more frames are held than a batch and what the encoder looks ahead."""
    held = {"now": 0, "most": 0}

    class Counted(Frame):
        def __del__(self):
            held["now"] -= 1

    def frames():
        for frame in read_frames(clip):
            held["now"] += 1
            held["most"] = max(held.values())
            yield Counted(*frame)

    draw_video(model, _fit(model, clip), frames(), tmp_path / "o.mp4", describe_video(clip), batch_size=2)
    assert held["most"] <= 5


def test_nothing_half_written_stays(pictures, tmp_path):
    def broken():
        yield Frame(pictures[0], Fraction(0))
        raise RuntimeError("stop")

    (tmp_path / "out.mp4").write_text("older")
    with pytest.raises(RuntimeError, match="stop"):
        write_frames(tmp_path / "out.mp4", broken(), Video(2, RATE, Fraction(1, 24000)))
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "older"


def test_what_cannot_be_read_or_written_is_refused(photos, pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match="no video file"):
        describe_video(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ImageError, match="cannot read the video"):
        list(read_frames(tmp_path / "text.mp4"))
    video = Video(1, RATE, Fraction(1, 24000))
    with pytest.raises(ValueError, match="allowed endings: .mp4"):
        write_frames(tmp_path / "out.gif", [], video)
    with pytest.raises(ValueError, match="no frames"):
        write_frames(tmp_path / "out.mp4", [], video)
    odd = pictures[0].crop((0, 0, 191, 128))
    with pytest.raises(ValueError, match="even sides"):
        write_frames(tmp_path / "out.mp4", [Frame(odd, Fraction(0))], video)


def test_a_damaged_video_is_told(clip, tmp_path):
    whole = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(ImageError):
        list(read_frames(tmp_path / "cut.mp4"))


def test_odd_sizes_and_large_frames_get_even_sides(model, photos, tmp_path):
    photo = Image.open(photos[0]).convert("RGB").resize((1500, 751))
    fit = PCAAccumulator()
    fit.add(torch.randn(64, 8, 8))
    video = Video(1, RATE, Fraction(1, 24000))
    draw_video(model, fit.fit(), [Frame(photo, Fraction(0))], tmp_path / "o.mp4", video, size="short:32")
    assert next(read_frames(tmp_path / "o.mp4")).picture.size == (1024, 512)
