"""Files of older generations: other names, other containers and missing arguments lead to the very same model."""

from __future__ import annotations

import json
import shutil
import uuid
from argparse import Namespace

import pytest
import torch
from released import VERSIONS, make_checkpoint

from radio import load_model
from radio.catalog import get_release
from radio.checkpoints import read_checkpoint
from radio.config import RadioConfig


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pth.tar"


def _content(path, version: str = "c-radio_v3-b") -> dict:
    return make_checkpoint(path, VERSIONS[version], small=True, dtype=torch.float32)


def _load(path, content: dict, **options):
    """Write the content to a file of its own, since models stay mapped to theirs, and load it."""
    path = path.with_name(f"{uuid.uuid4()}.pth.tar")
    torch.save(content, path)
    return load_model(path, device="cpu", **options)


def _same(a, b) -> None:
    """Same description, same weights, same outputs."""
    assert a.config == b.config
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    side = 4 * a.patch_size
    x = torch.rand(1, 3, side, side)
    assert torch.equal(a(x).summary, b(x).summary)
    assert torch.equal(a(x).features, b(x).features)


def _renamed(content: dict, old: str, new: str) -> dict:
    return {**content, "state_dict": {name.replace(old, new): v for name, v in content["state_dict"].items()}}


def test_layer_scale_as_gamma_or_grandma(path):
    content = _content(path)
    assert any(".ls1.grandma" in name for name in content["state_dict"])
    model = _load(path, content)
    assert model.config.layer_scale
    _same(model, _load(path, _renamed(content, ".grandma", ".gamma")))


def test_module_prefix(path):
    content = _content(path)
    wrapped = {**content, "state_dict": {f"module.{n}": v for n, v in content["state_dict"].items()}}
    _same(_load(path, content), _load(path, wrapped))


def test_ema_weights_are_preferred(path):
    content = _content(path)
    trained = {name: value + 1 for name, value in content["state_dict"].items()}
    _same(
        _load(path, content),
        _load(path, {**content, "state_dict": trained, "state_dict_ema": content["state_dict"]}),
    )
    _same(_load(path, content), _load(path, {**content, "state_dict_ema": None}))


def test_args_as_a_dict(path):
    content = _content(path)
    _same(_load(path, content), _load(path, {**content, "args": vars(content["args"])}))


def test_heads_by_teacher_name(path):
    content = _content(path, "radio_v2.5-b")
    named = dict(content["state_dict"])
    for i, teacher in enumerate(content["args"].teachers):
        for part in ("_heads", "_feature_projections"):
            for name in [name for name in named if name.startswith(f"{part}.{i}.")]:
                named[name.replace(f"{part}.{i}.", f"{part}.{teacher['name']}.")] = named.pop(name)
    x = torch.rand(1, 3, 64, 64)
    first = _load(path, content, adaptors=["clip", "sam"])
    second = _load(path, {**content, "state_dict": named}, adaptors=["clip", "sam"])
    assert first.config == second.config
    for name in ("clip", "sam"):
        assert torch.equal(first(x)[name].features, second(x)[name].features)
        assert torch.equal(first(x)[name].summary, second(x)[name].summary)


@pytest.mark.parametrize(
    "missing",
    [
        *("in_chans", "input_size", "gp", "mlp_version", "spectral_reparam", "spectral_heads"),
        *("register_multiple", "cpe_max_size", "dtype", "model_norm", "damp"),
    ],
)
def test_optional_arguments_may_be_absent(path, missing):
    content = _content(path)
    complete = _load(path, content)
    vars(content["args"]).pop(missing, None)
    _same(complete, _load(path, content))


def test_only_the_architecture_is_needed(tmp_path, path):
    """With the head count in the architecture's name, everything else can be read off the tensors."""
    version = VERSIONS["radio_v1"]
    content = make_checkpoint(path, version, small=True, dtype=torch.float32)
    complete = _load(path, content)
    bare = Namespace(model="vit_huge_patch14_224", model_kwargs={"num_heads": 4})
    _same_but_for_teachers(complete, _load(path, {**content, "args": bare}))


def _same_but_for_teachers(complete, bare) -> None:
    fields = {**vars(complete.config), "teachers": (), "summary_names": ("0",)}
    assert bare.config == RadioConfig(**fields)
    x = torch.rand(1, 3, 56, 56)
    assert torch.equal(complete(x).summary, bare(x).summary)
    assert torch.equal(complete(x).features, bare(x).features)


@pytest.mark.parametrize("value", [None, {}])
def test_no_model_kwargs(path, value):
    """Heads then come from the architecture: 16 of width 4 in this narrow model."""
    content = _content(path, "c-radio_v3-l")
    content["args"].model_kwargs = value
    assert _load(path, content).config.num_heads == 16
    del content["args"].model_kwargs
    assert _load(path, content).config.num_heads == 16


@pytest.mark.parametrize("use_summary", [None, True])
def test_use_summary_defaults_to_true(path, use_summary):
    content = _content(path, "radio_v2.5-b")
    for teacher in content["args"].teachers:
        del teacher["use_summary"]
        if use_summary:
            teacher["use_summary"] = True
    assert _load(path, content).config.summary_idxs == (0, 1, 2, 3)


def test_a_final_norm_without_model_norm_is_not_used(path):
    content = _content(path)
    expected = _load(path, content)
    content["state_dict"] |= {
        "base_model.norm.weight": torch.full((64,), 3.0),
        "base_model.norm.bias": torch.ones(64),
    }
    _same(expected, _load(path, content))
    content["args"].model_norm = True
    model = _load(path, content)
    assert model.config.final_norm
    x = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(model(x).features, expected(x).features)


@pytest.mark.parametrize("leftover", ["mask_token", "head.weight", "head.bias", "fc_norm.weight"])
def test_leftovers_of_training_are_dropped(path, leftover):
    content = _content(path)
    expected = _load(path, content)
    content["state_dict"][f"base_model.{leftover}"] = torch.ones(64)
    _same(expected, _load(path, content))


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_dtype_as_text_or_as_a_dtype(path, dtype):
    content = _content(path)
    content["args"].dtype = dtype
    assert _load(path, content).dtype == torch.bfloat16


def test_no_dtype_means_float32_also_for_half_precision_files(path):
    make_checkpoint(path, VERSIONS["c-radio_v3-b"], small=True)
    assert load_model(path, device="cpu").dtype == torch.float32


@pytest.mark.parametrize("name", VERSIONS)
def test_a_released_file_is_known_by_its_name(name, tmp_path):
    """A file that was copied by hand gives the same model as its version's name does."""
    release = get_release(name)
    make_checkpoint(tmp_path / release.filename, VERSIONS[name], small=True)
    by_path = read_checkpoint(tmp_path / release.filename).config
    assert by_path == read_checkpoint(tmp_path / release.filename, release).config
    assert (by_path.version, by_path.max_resolution) == (name, release.max_resolution)
    assert by_path.pos_embed_align_corners == release.pos_embed_align_corners
    (tmp_path / release.filename).rename(tmp_path / "mine.pth.tar")
    assert read_checkpoint(tmp_path / "mine.pth.tar").config.version == ""


@pytest.fixture
def folder(reference, tmp_path):
    return shutil.copytree(reference / "hf_repo", tmp_path / "repo")


def _with(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        if value is ...:
            config.pop(name, None)
        else:
            config[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    return read_checkpoint(folder).config


def test_preferred_resolution_as_written_by_hub_code(folder):
    """A named tuple becomes a list in JSON; the library always gives height and width."""
    assert _with(folder, version="", preferred_resolution=[512, 768]).preferred_resolution == (512, 768)
    assert load_model(folder, device="cpu").preferred_resolution.height == 512
    assert load_model(folder, device="cpu").preferred_resolution.width == 768


@pytest.mark.parametrize(
    "name",
    [
        *("patch_size", "max_resolution", "preferred_resolution", "adaptor_names", "vitdet_window_size"),
        *("dtype", "feature_normalizer_config", "inter_feature_normalizer_config", "architectures"),
        "model_type",
    ],
)
@pytest.mark.parametrize("value", [None, ...])
def test_repository_fields_may_be_null_or_absent(folder, name, value):
    before = read_checkpoint(folder).config
    assert _with(folder, version="", **{name: value}).embed_dim == before.embed_dim
    assert load_model(folder, adaptors=["clip"], device="cpu").config.adaptor("clip") == before.adaptor(
        "clip"
    )


def test_adaptor_slots_without_adaptor_configs(folder):
    """Then each adaptor reads the class token of its teacher's place, as in a torch file."""
    config = _with(folder, adaptor_configs=...)
    assert {a.name: a.head_idx for a in config.adaptors} == {"clip": 0, "siglip": 1, "dino_v2": 2, "sam": 3}
    config = _with(folder, adaptor_configs={"sam": {"head_idx": 1}})
    assert config.adaptor("sam").head_idx == 1


def test_tensors_without_the_repository_prefix(folder):
    """Some conversions store the model itself rather than the model that wraps it."""
    from safetensors.torch import load_file, save_file

    expected = load_model(folder, device="cpu")
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {n.removeprefix("radio_model."): v.clone() for n, v in tensors.items()}, folder / "model.safetensors"
    )
    _same(expected, load_model(folder, device="cpu"))


def test_summary_idxs_are_taken_from_the_repository(folder):
    from safetensors.torch import load_file, save_file

    tensors = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    tensors["radio_model.summary_idxs"] = torch.tensor([2, 0])
    save_file(tensors, folder / "model.safetensors")
    model = load_model(folder, device="cpu")
    assert model.config.summary_idxs == (2, 0)
    assert model.config.summary_names == ("dino_v2", "clip")
    assert list(model.split_summary(model(torch.rand(1, 3, 32, 32)).summary)) == ["dino_v2", "clip"]
