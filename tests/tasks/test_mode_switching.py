"""The mode switching measures where the answer is known, and the example on photographs."""

from __future__ import annotations

import csv
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from radio import load_model
from radio.tasks.mode_switching import (
    feature_error,
    measure_mode_switching,
    resample,
    scale_variance,
)
from radio.tasks.teacher_features import TimmTeacher, saved_teacher

timm = pytest.importorskip("timm")

EXAMPLE = Path(__file__).parents[2] / "examples" / "mode_switching.py"


@pytest.fixture(scope="module")
def checkpoint(reference):
    return reference / "v2_5" / "checkpoint.pth.tar"


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint, adaptors=["dino_v2"], device="cpu")


def ramp(h, w):
    """A value at every patch center that depends on where it is in the image, and not on the grid."""
    rows, columns = (torch.arange(n).add(0.5) / n for n in (h, w))
    return torch.stack([rows[:, None] + columns[None], 3 * rows[:, None] - columns[None]])


def test_error_of_a_known_difference():
    target = torch.zeros(2, 3, 4)
    assert feature_error(target + torch.tensor([3.0, 4.0])[:, None, None], target) == pytest.approx(12.5)
    assert feature_error(target.bfloat16() + 1, target) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"5 channels cannot be compared with 2.*adaptor"):
        feature_error(torch.zeros(5, 3, 4), target)


def test_features_are_compared_where_they_lie():
    """A ramp over the image is the same ramp on every grid, but for the borders' half patches."""
    fine = resample(ramp(32, 48), (8, 12))
    torch.testing.assert_close(fine[:, 1:-1, 1:-1], ramp(8, 12)[:, 1:-1, 1:-1], atol=1e-5, rtol=0)
    assert feature_error(ramp(32, 48), ramp(8, 12)) < 1e-3 < feature_error(ramp(32, 48), ramp(8, 12).flip(1))
    constant = torch.full((3, 7, 9), 2.0)
    assert feature_error(constant, torch.full((3, 13, 5), 4.0)) == pytest.approx(4)


def test_variance_over_resolutions():
    maps = [torch.full((4, n, n), float(value)) for n, value in ((4, 1), (8, 3), (16, 5))]
    variance, relative = scale_variance(maps)
    assert variance == pytest.approx(8 / 3) and relative == pytest.approx(1)
    equivariant, share = scale_variance([ramp(8, 8), ramp(16, 16), ramp(32, 32)])
    assert equivariant < 1e-3 and share < 2e-3
    pattern = torch.tensor([[[0.0, 2.0]]])  # variance 1 over positions
    assert scale_variance([pattern, pattern + 2]) == pytest.approx((1, 0.5))
    assert scale_variance([torch.ones(2, 3, 3)] * 2) == (0, 0)
    with pytest.raises(ValueError, match="at least two"):
        scale_variance([pattern])


def test_a_teacher_that_the_adaptor_equals_has_no_error(model, photos):
    """The teacher answers with the adaptor's own features plus a constant that depends on the image."""
    asked = []

    def teacher(pixels, grid):
        asked.append(grid)
        [encoding] = model.encode([pixels], size=(grid[0] * 16, grid[1] * 16), feature_fmt="NCHW")
        return encoding.adaptors["dino_v2"].features[0] + 0.5

    images = {path.name: path for path in photos[:2]}
    found = list(measure_mode_switching(model, images, ["64", "96"], "96", "dino_v2", teacher))
    assert [m.measure for m in found[:6]] == [
        *("reference", "teacher") * 2,
        "variance",
        "relative_variance",
    ]
    assert {m.image for m in found} == set(images) and len(found) == 12
    assert [m.value for m in found if m.measure == "teacher"] == pytest.approx([0.25] * 4, abs=1e-5)
    reference = {(m.image, m.size): m.value for m in found if m.measure == "reference"}
    for name in images:
        assert reference[name, "96"] == pytest.approx(0, abs=1e-9) and reference[name, "64"] > 1e-6
    assert found[0][:4] == (photos[0].name, "64", 64, 64) and asked[:2] == [(4, 4), (6, 6)]


def test_saved_features_as_teacher(model, photos, tmp_path):
    [encoding] = model.encode([photos[0]], size="64", feature_fmt="NCHW")
    saved = encoding.adaptors["dino_v2"].features[0] - 2
    save_file({photos[0].name: saved.contiguous()}, tmp_path / "teacher.safetensors")
    teacher = saved_teacher(tmp_path / "teacher.safetensors")
    images = {photos[0].name: photos[0]}
    found = list(measure_mode_switching(model, images, ["64", "80"], "64", "dino_v2", teacher))
    errors = [m.value for m in found if m.measure == "teacher"]
    assert errors[0] == pytest.approx(4, abs=1e-4) and errors[1] != errors[0]
    with pytest.raises(ValueError, match=r"none for 'other.jpg'; they have: " + photos[0].name):
        list(measure_mode_switching(model, {"other.jpg": photos[0]}, ["64", "80"], "64", "dino_v2", teacher))
    save_file({"a": torch.zeros(3)}, tmp_path / "flat.safetensors")
    with pytest.raises(ValueError, match=r"\(C, h, w\) for 'a'"):
        saved_teacher(tmp_path / "flat.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(ValueError, match="not a safetensors file"):
        saved_teacher(tmp_path / "text.safetensors")


def test_wrong_settings_are_told(model, photos):
    images = {photos[0].name: photos[0]}
    with pytest.raises(ValueError, match="at least two sizes"):
        next(measure_mode_switching(model, images, ["64"], "64"))
    with pytest.raises(ValueError, match="name the adaptor"):
        next(measure_mode_switching(model, images, ["64", "80"], "64", None, lambda pixels, grid: pixels))


def test_a_timm_teacher_from_a_local_file(photos, tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("vit_small_patch14_dinov2", img_size=518, num_classes=0).eval()
    torch.save(source.state_dict(), tmp_path / "teacher.pth")
    save_file(source.state_dict(), tmp_path / "teacher.safetensors")
    pixels = torch.rand(3, 56, 84, generator=torch.Generator().manual_seed(0))
    teacher = TimmTeacher("vit_small_patch14_dinov2", tmp_path / "teacher.pth")
    features = teacher(pixels, (4, 6))
    assert features.shape == (384, 4, 6)
    same = TimmTeacher("vit_small_patch14_dinov2", tmp_path / "teacher.safetensors")
    assert torch.equal(same(pixels, (4, 6)), features)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    source.set_input_size((56, 84))
    with torch.no_grad():
        tokens = source.forward_features(((pixels - mean[:, None, None]) / std[:, None, None])[None])
    torch.testing.assert_close(features, tokens[0, 1:].T.reshape(384, 4, 6), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="no model 'vit_nothing'"):
        TimmTeacher("vit_nothing")
    with pytest.raises(ValueError, match="nobody published weights of vit_base_patch16_plus_240"):
        TimmTeacher("vit_base_patch16_plus_240")
    short = {name: value for name, value in source.state_dict().items() if not name.startswith("blocks.11.")}
    torch.save(short, tmp_path / "short.pth")
    with pytest.raises(ValueError, match="short.pth are not those of vit_small_patch14_dinov2"):
        TimmTeacher("vit_small_patch14_dinov2", tmp_path / "short.pth")
    torch.save({"a": "text"}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold tensors"):
        TimmTeacher("vit_small_patch14_dinov2", tmp_path / "other.pth")


def test_the_example_writes_a_table_and_a_plot(checkpoint, model, photos, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    features = {
        path.name: model.encode(path, size="64", feature_fmt="NCHW").adaptors["dino_v2"].features[0] + 1
        for path in photos
    }
    save_file({name: value.contiguous() for name, value in features.items()}, tmp_path / "t.safetensors")
    main = runpy.run_path(str(EXAMPLE))["main"]
    settings = f"--model {checkpoint} --device cpu --sizes 64,96 --reference 96 -o {tmp_path / 'out'}"
    main([*map(str, photos), *settings.split(), "--teacher", str(tmp_path / "t.safetensors")])
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(photos) * 6
    at_64 = [float(r["value"]) for r in rows if r["measure"] == "teacher" and r["size"] == "64"]
    assert at_64 == pytest.approx([1] * len(photos), abs=1e-5)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 1500 and picture.height > 400
    assert "out.csv" in capsys.readouterr().out


def test_without_a_network_the_teacher_says_at_once_what_to_do(tmp_path):
    code = f"""
import atexit, runpy, time
example = runpy.run_path({str(EXAMPLE)!r})
started = time.monotonic()
atexit.register(lambda: print(time.monotonic() - started))
example["make_teacher"](example["parse"](["photo.jpg", "--model", "m"]), "cpu")
"""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert float(result.stdout) < 20  # the Hub's client asks six times, for minutes
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr
    assert "timm/vit_giant_patch14_reg4_dinov2" in result.stderr and "--teacher-weights" in result.stderr


def test_the_example_without_a_teacher():
    example = runpy.run_path(str(EXAMPLE))
    for words in (["--teacher", "none"], ["--adaptor", ""]):
        args = example["parse"](["photo.jpg", "--model", "radio_v2.5-l", *words])
        assert example["make_teacher"](args, "cpu") is None
