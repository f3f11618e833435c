"""RadioConfig.to_dict and from_dict: plain, strict, and the same description afterwards."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from radio import RadioConfig
from radio.checkpoints import read_checkpoint
from radio.config import HeadConfig

FOLDERS = sorted(path.name for path in (Path(__file__).parent / "reference").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def config(reference: Path) -> RadioConfig:
    return read_checkpoint(reference / "v2_5" / "checkpoint.pth.tar").config


@pytest.mark.parametrize("name", FOLDERS)
def test_every_reference_checkpoint(reference, name):
    file = reference / name / "checkpoint.pth.tar"
    config = read_checkpoint(file if file.exists() else file.parent).config
    plain = config.to_dict()
    assert set(plain) == {field.name for field in fields(RadioConfig)}
    text = json.dumps(plain, allow_nan=False)
    assert json.loads(text) == plain  # nothing that JSON changes
    assert RadioConfig.from_dict(plain) == config == RadioConfig.from_dict(json.loads(text))


def test_nothing_is_shared(config):
    plain = config.to_dict()
    before = copy.deepcopy(plain)
    plain["teachers"][0]["name"] = "other"
    plain["adaptors"][0]["summary"]["kind"] = "v1"
    assert config.to_dict() == before


def test_what_has_a_default_may_be_left_out(config):
    """So that files of an older version open in a newer one."""
    plain = config.to_dict()
    for name in ("scaled_norm", "dtype", "vitdet_window_size"):
        del plain[name]
    assert RadioConfig.from_dict(plain) == config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("depth",), 6.0, "depth must be of type int, got 6.0"),
        (("depth",), True, "depth must be of type int, got True"),
        (("depth",), None, "depth must be of type int, got None"),
        (("qkv_bias",), 1, "qkv_bias must be of type bool, got 1"),
        (("architecture",), 3, "architecture must be of type str, got 3"),
        (("layout",), "resnet", "layout must be one of cpe, plain, dinov2"),
        (("intermediate_normalizer",), "some", "intermediate_normalizer must be one of shared, per_layer"),
        (("vitdet_window_size",), "16", "vitdet_window_size must be of type int, got '16'"),
        (("preferred_resolution",), [768], r"preferred_resolution must have 2 values, got 1"),
        (("preferred_resolution",), 768, "preferred_resolution must be a list, got 768"),
        (("summary_idxs",), [0, "1"], r"summary_idxs\[1\] must be of type int, got '1'"),
        (("teachers",), {"a": 1}, "teachers must be a list"),
        (("teachers", 0), "clip", r"teachers\[0\] must be a dict, got 'clip'"),
        (("teachers", 0, "weird"), {1, 2}, r"teachers\[0\].weird is a set, which JSON cannot hold"),
        (("adaptors", 1, "head_idx"), "x", r"adaptors\[1\].head_idx must be of type int"),
        (("adaptors", 0, "summary", "kind"), "v9", r"adaptors\[0\].summary.kind must be one of v1, v2, attn"),
        (("adaptors", 0, "summary"), [1], r"adaptors\[0\].summary must be a dict"),
        (("colour",), 1, "RadioConfig has no field 'colour'"),
        (("adaptors", 0, "colour"), 1, r"adaptors\[0\] has no field 'colour'"),
    ],
)
def test_wrong_fields_are_named(config, path, value, message):
    plain = config.to_dict()
    place = plain
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        RadioConfig.from_dict(plain)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("depth",), "the field depth is missing"),
        (("adaptors", 0, "feature", "input_dim"), r"adaptors\[0\].feature.input_dim is missing"),
    ],
)
def test_missing_fields_are_named(config, path, message):
    plain = config.to_dict()
    place = plain
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    with pytest.raises(ValueError, match=message):
        RadioConfig.from_dict(plain)


@pytest.mark.parametrize("content", [None, [], "cpe", 3])
def test_what_is_no_dict(content):
    with pytest.raises(ValueError, match="RadioConfig must be a dict, got"):
        RadioConfig.from_dict(content)


def test_what_json_cannot_hold_is_refused_when_written(config):
    with pytest.raises(TypeError, match=r"teachers\[0\].path is a PosixPath, which JSON cannot hold"):
        replace(config, teachers=({"name": "clip", "path": Path("/")},)).to_dict()
    with pytest.raises(TypeError, match=r"the keys of teachers\[0\].sizes must be texts"):
        replace(config, teachers=({"name": "clip", "sizes": {3: 1}},)).to_dict()


def test_messages_stay_short(config):
    with pytest.raises(ValueError) as error:
        RadioConfig.from_dict(config.to_dict() | {"depth": "9" * 10**6})
    assert len(str(error.value)) < 200
    with pytest.raises(ValueError) as error:
        RadioConfig.from_dict(config.to_dict() | {"x" * 10**6: 1})
    assert len(str(error.value)) < 200
    with pytest.raises(ValueError) as error:
        RadioConfig.from_dict(config.to_dict() | {"architecture": 10**5000})
    assert len(str(error.value)) < 200


def test_parts_compare_equal(config):
    again = RadioConfig.from_dict(config.to_dict())
    assert isinstance(again.adaptors[0].summary, HeadConfig) and hash(again.summary_idxs) == hash(
        config.summary_idxs
    )
