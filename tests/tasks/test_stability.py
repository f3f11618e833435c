"""Stability over frames, where the right answer is known."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import radio
from radio.cli import main
from radio.errors import ImageError
from radio.tasks.stability import measure_stability


@pytest.fixture(scope="module")
def model(reference):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    return radio.load_model(path, adaptors=["clip"], device="cpu")


@pytest.fixture(scope="module")
def frames() -> list[Image.Image]:
    """A gray square that moves over still noise, 64 x 96 pixels."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    made = []
    for i in range(5):
        frame = noise.copy()
        frame[16:32, 16 * i : 16 * i + 16] = 128
        made.append(Image.fromarray(frame))
    return made


def test_one_picture_over_and_over_is_stable(model, frames):
    found = measure_stability(model, [frames[0]] * 4, size=(64, 96))
    assert found.frames == 4 and found.still_share == 1 and found.pixels == 0
    for value in (found.features, found.still_features, found.drift, found.summary, found.summary_drift):
        assert value == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("adaptor", [None, "clip"])
def test_the_numbers_are_those_of_the_definition(model, frames, adaptor):
    found = measure_stability(model, iter(frames), (64, 96), adaptor, batch_size=2)
    pixels = torch.stack([radio.images.load_image(frame) for frame in frames])
    with torch.no_grad():
        output = model(pixels, feature_fmt="NCHW")[adaptor or "backbone"]
    features, summary = output.features, output.summary
    change = (pixels[1:] - pixels[:-1]).abs()
    still = F.avg_pool2d(change.mean(dim=1), 16) < 2 / 255
    consecutive = F.cosine_similarity(features[1:], features[:-1], dim=1)
    expected = {
        "frames": 5,
        "features": consecutive.mean(),
        "still_features": consecutive[still].mean(),
        "still_share": still.float().mean(),
        "drift": F.cosine_similarity(features[1:], features[:1], dim=1).mean(),
        "summary": F.cosine_similarity(summary[1:], summary[:-1], dim=1).mean(),
        "summary_drift": F.cosine_similarity(summary[1:], summary[:1], dim=1).mean(),
        "pixels": change.mean(),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(float(value), abs=1e-5), name
    assert found.still_share == pytest.approx(22 / 24), "all but where the square was and is"
    assert found.still_features > found.features


def test_clips_go_into_encode(model, frames, tmp_path):
    """An iterator of frames is read batch by batch; a clip as a tensor is a batch; others say what to do."""
    taken = []

    def read():
        for i, frame in enumerate(frames):
            taken.append(i)
            yield frame

    together = model.encode(read(), size=(64, 96), batch_size=2)
    assert taken == [0, 1, 2, 3, 4] and len(together) == 5
    clip = torch.stack([radio.images.load_image(frame) for frame in frames])
    for one, other in zip(together, model.encode(clip, (64, 96)), strict=True):
        torch.testing.assert_close(one.features, other.features, rtol=1e-4, atol=1e-4)
    with open(_png(frames[0], tmp_path), "rb") as file:
        assert not isinstance(model.encode(file, size=(64, 96)), list), "an open file is one image"
    assert model.encode(iter([]), size=64) == []
    with pytest.raises(ValueError, match=r"one batch: x\.flatten\(0, 1\)"):
        model(clip[None])
    with pytest.raises(
        ValueError, match=r"packed along the channels, 2 at a time.*unflatten\(1, \(-1, 3\)\)"
    ):
        model(clip[:4].reshape(2, 6, 64, 96))


def test_a_video_is_told_from_a_damaged_image(model, frames, tmp_path):
    path = _video(frames, tmp_path)
    with pytest.raises(ImageError, match=r"seems to be a video; .*sample_frames"):
        model.encode(path)


def test_the_command(reference, frames, tmp_path, capsys):
    folder = tmp_path / "frames"
    for i, frame in enumerate(frames):
        folder.mkdir(exist_ok=True)
        frame.save(folder / f"{i}.png")
    video = _video(frames, tmp_path)
    words = [
        "evaluate",
        "stability",
        str(folder),
        str(video),
        "-m",
        str(reference / "v2_5" / "checkpoint.pth.tar"),
    ]
    words += ["--size", "64x96", "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    pictures, coded = json.loads(capsys.readouterr().out)["videos"]
    assert pictures["frames"] == coded["frames"] == 5 and pictures["still_share"] == pytest.approx(22 / 24)
    assert main([*words, "--frames", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["video", "frames", "features"] and lines[2].split()[1] == "2"
    assert main([*words[:2], "nowhere.mp4", *words[4:]]) == 1
    assert "there is no video" in capsys.readouterr().err


def test_what_is_no_video_says_so(model, frames):
    with pytest.raises(ValueError, match="at least two, got 1"):
        measure_stability(model, frames[:1])
    with pytest.raises(ValueError, match="64 x 64 and 64 x 96"):
        measure_stability(model, [frames[0], frames[0].resize((64, 64))])
    with pytest.raises(ValueError, match="without adaptor 'sam'"):
        measure_stability(model, frames, adaptor_name="sam")


def _png(frame, folder):
    frame.save(folder / "frame.png")
    return folder / "frame.png"


def _video(frames, folder):
    pytest.importorskip("av")
    from radio.data.video import Frame, Video
    from radio.drawing.video import write_frames

    timed = (Frame(frame, Fraction(i, 25)) for i, frame in enumerate(frames))
    write_frames(folder / "clip.mp4", timed, Video(len(frames), Fraction(25), Fraction(1, 12800)))
    return folder / "clip.mp4"
