"""Whose choice counts: the user's over the file's over the catalog's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from radio import RELEASES, CheckpointError, Release, load_model
from radio.checkpoints import read_checkpoint
from radio.checkpoints.settings import Settings, settings_of_release, settle

NOTHING = Settings()


def test_the_first_who_states_a_setting_wins():
    user = Settings(vitdet_window_size=8)
    file = Settings(vitdet_window_size=4, max_resolution=1024, pos_embed_align_corners=False)
    catalog = Settings(max_resolution=2048, preferred_resolution=(768, 768), pos_embed_align_corners=True)
    assert settle(user, file, catalog) == Settings(
        max_resolution=1024,
        preferred_resolution=(768, 768),
        vitdet_window_size=8,
        pos_embed_align_corners=False,
    )
    assert settle(NOTHING, NOTHING, catalog) == catalog
    assert settle(NOTHING, NOTHING, NOTHING) == NOTHING


def test_false_is_a_choice():
    settled = settle(Settings(pos_embed_align_corners=False), NOTHING, Settings(pos_embed_align_corners=True))
    assert settled.pos_embed_align_corners is False


@pytest.mark.parametrize(
    ("user", "file", "expected"),
    [
        (NOTHING, NOTHING, (4, None)),
        (NOTHING, Settings(vitdet_num_windowed=5), (None, 5)),
        (Settings(vitdet_num_global=2), Settings(vitdet_num_windowed=5), (2, None)),
        (Settings(vitdet_num_windowed=3), Settings(vitdet_num_global=2), (None, 3)),
        (Settings(vitdet_num_global=2, vitdet_num_windowed=3), NOTHING, (2, 3)),
    ],
)
def test_the_schedule_is_one_setting(user, file, expected):
    """Half of one source's schedule is never mixed with half of another's."""
    settled = settle(user, file, Settings(vitdet_num_global=4))
    assert (settled.vitdet_num_global, settled.vitdet_num_windowed) == expected


def test_what_the_catalog_says_is_its_row():
    row = next(release for release in RELEASES if release.version == "radio_v2.5-g")
    assert isinstance(row, Release)
    assert settings_of_release(row) == Settings(1792, (896, 896), None, 8, None, True)
    assert settings_of_release(None) == NOTHING


def test_all_three_sources_meet_in_a_model(reference, tmp_path):
    """The catalog says 2048 and align corners, the file 1024 and windows of 2, the user windows of 4."""
    folder = Path(shutil.copytree(reference / "hf_repo", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_resolution": 1024, "vitdet_window_size": 2, "pos_embed_align_corners": None}
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder, device="cpu", vitdet_window_size=4)
    assert model.release is not None and model.release.version == model.config.version == "radio_v2.5-b"
    assert (model.max_resolution, model.window_size) == (1024, 4)
    assert model.config.pos_embed_align_corners is model.release.pos_embed_align_corners is True
    assert load_model(folder, device="cpu").window_size == 2


def test_the_release_travels_with_the_checkpoint(reference, tmp_path):
    file = reference / "v2_5" / "checkpoint.pth.tar"
    assert read_checkpoint(file).release is None
    by_name = shutil.copy(file, tmp_path / "radio-v2.5-l_half.pth.tar")
    checkpoint = read_checkpoint(by_name)
    assert checkpoint.release is not None and checkpoint.release.version == "radio_v2.5-l"
    given = read_checkpoint(by_name, release=RELEASES[0])
    assert given.release is RELEASES[0] and given.config.version == "radio_v2.5-b"


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"vitdet_window_size": 129}, "windows of 2064 pixels.*at most 128"),
        ({"vitdet_window_size": 10**300}, "holds a number of 997 bits, larger than any setting"),
        ({"vitdet_window_size": -1}, "vitdet_window_size must be a whole number of at least 1"),
        ({"vitdet_window_size": 2.0}, "vitdet_window_size must be a whole number"),
        ({"vitdet_window_size": True}, "vitdet_window_size must be a whole number"),
        ({"max_resolution": 10**9}, "max_resolution must be from 16 .* to 65536 pixels"),
        ({"max_resolution": 10**4000}, "holds a number of 13288 bits"),
        ({"max_resolution": 15}, "max_resolution must be from 16"),
        ({"max_resolution": float("nan")}, "max_resolution must be a whole number"),
        ({"max_resolution": float("inf")}, "max_resolution must be a whole number"),
        ({"max_resolution": [2048]}, "max_resolution must be a whole number"),
        ({"max_resolution": 512}, r"preferred_resolution must be two sides from 16 to 512 pixels"),
        ({"preferred_resolution": [768, 4096]}, r"preferred_resolution must be two sides from 16 to 2048"),
        ({"preferred_resolution": [8, 768]}, r"preferred_resolution must be two sides from 16 to 2048"),
        ({"preferred_resolution": [10**9, 10**9]}, r"preferred_resolution must be two sides"),
        ({"preferred_resolution": {"a": 1, "b": 2}}, r"must be a height and a width"),
        ({"preferred_resolution": "ab"}, r"must be a height and a width"),
        ({"vitdet_num_global": 10**9}, "vitdet_num_global must be at least 1 and at most 1024"),
        ({"vitdet_num_windowed": 10**30}, "vitdet_num_windowed must be at least 1 and at most 1024"),
        ({"vitdet_num_windowed": 0}, "vitdet_num_windowed must be a whole number of at least 1"),
    ],
)
def test_sizes_in_a_config_are_checked_like_a_callers(reference, tmp_path, stated, message):
    folder = Path(shutil.copytree(reference / "hf_repo", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | stated))
    with pytest.raises(CheckpointError, match=message) as refused:
        load_model(folder, device="cpu")
    assert len(str(refused.value)) < 1000
