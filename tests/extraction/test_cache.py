"""Features that are computed once: they equal `encode`, follow from all they depend on, and a stopped call goes on."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from radio import ImageError, load_model
from radio.distributed import Processes
from radio.extraction import cache
from radio.extraction.cache import CachePlan, cached_features


@pytest.fixture(scope="module")
def tiny(reference):
    return load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors=["clip", "sam"], device="cpu")


@pytest.fixture
def images(tmp_path: Path, photos: list[Path]) -> list[Path]:
    """Small parts of photographs, in two shapes."""
    found = []
    for i in range(5):
        found.append(tmp_path / "images" / f"{i}.png")
        found[-1].parent.mkdir(exist_ok=True)
        with Image.open(photos[i % len(photos)]) as image:
            image.crop((10 * i, 0, 10 * i + (80 if i % 2 else 120), 80)).save(found[-1])
    return found


def test_rows_are_what_encode_gives(tiny, images, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a size that was asked for is no reason for a warning
        found = cached_features(tiny, images, tmp_path / "cache", 64, spatial=True)
    assert len(found) == 5 and found.names == ["summary", "clip", "sam"] and not found.failures
    assert found.image_sizes[:2] == [(80, 120), (80, 80)] and found.grids[:2] == [(4, 6), (4, 4)]
    for row, path in enumerate(images):
        encoded = tiny.encode(path, size=64, feature_fmt="NCHW")
        assert torch.allclose(found.vectors()[row], encoded.summary[0], atol=1e-4)
        for name, output in {"features": encoded, **encoded.adaptors}.items():
            assert torch.allclose(found.spatial(row, name), output.features[0], atol=1e-2, rtol=2e-3)
    without = cached_features(tiny, images, tmp_path / "cache", 64)
    assert torch.equal(without.vectors("clip"), found.vectors("clip")) and without.folder != found.folder
    with pytest.raises(ValueError, match="row 0 has no spatial features"):
        without.spatial(0)


def test_whatever_changes_features_changes_the_folder(tiny, images, reference, tmp_path):
    def folder(model=tiny, paths=images, size=64, **options) -> Path:
        return CachePlan(model, paths, tmp_path, size, **options).folder

    start = folder()
    assert folder(size="short:64") == start
    checkpoint = reference / "v2_5" / "checkpoint.pth.tar"
    others = [
        folder(size=96),
        folder(paths=images[1:]),
        folder(spatial=True),
        folder(summary_dtype="float16"),
        folder(load_model(checkpoint, adaptors=["clip"], device="cpu")),
        folder(load_model(checkpoint, adaptors=["clip", "sam"], device="cpu", vitdet_window_size=2)),
        folder(load_model(checkpoint, adaptors=["clip", "sam"], device="cpu", dtype="bfloat16")),
    ]
    Image.new("RGB", (80, 80)).save(images[2])
    assert len({start, *others, folder()}) == 9


def test_a_stopped_call_goes_on_and_processes_share(tiny, images, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "ROWS_PER_SHARD", 2)
    plan = CachePlan(tiny, images, tmp_path / "cache", 64)
    assert plan.missing == 5
    second = Processes(1, 2, torch.device("cpu"))
    monkeypatch.setattr(Processes, "wait", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(
        KeyboardInterrupt
    ):  # the second process has done its part, and the first one never came
        cached_features(tiny, images, tmp_path / "cache", 64, processes=second)
    assert 0 < plan.missing < 5
    before = {path: path.stat().st_mtime_ns for path in plan.folder.glob("*.parquet")}
    found = cached_features(tiny, images, tmp_path / "cache", 64)
    assert plan.missing == 0 and {path: path.stat().st_mtime_ns for path in before} == before
    expected = torch.cat([each.summary for each in tiny.encode(images, size=64)])
    assert torch.allclose(found.vectors(), expected, atol=1e-4)
    assert [len(chunk) for chunk in found.chunks()] == [2, 2, 1]


def test_what_cannot_be_read_has_a_row_that_says_so(tiny, images, tmp_path):
    shutil.copy(__file__, images[3])
    found = cached_features(tiny, images, tmp_path / "cache", 64, spatial=True)
    assert list(found.failures) == [3] and not found.vectors()[3].any() and found.vectors()[4].any()
    with pytest.raises(ValueError, match="row 3 has no spatial features"):
        found.spatial(3)
    with pytest.raises(ImageError, match=r"no features for 1 of 5 images; the first is .*3\.png"):
        found.require_all()
