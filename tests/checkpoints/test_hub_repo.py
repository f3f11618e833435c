"""Hub repositories: round trips bit for bit, shards, remote code that is never run, and folders that are damaged."""

from __future__ import annotations

import copy
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from released import VERSIONS, attention_head, make_checkpoint, random_state
from safetensors.torch import load_file, save_file

from radio import CheckpointError, load_model
from radio.checkpoints import read_checkpoint, read_content


@pytest.fixture
def folder(reference, tmp_path) -> Path:
    """A copy of the reference repository, to be spoiled."""
    return Path(shutil.copytree(reference / "hf_repo", tmp_path / "repo"))


def _edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


@pytest.mark.parametrize("name", VERSIONS)
def test_every_version_survives_saving(name, tmp_path):
    """Saved and loaded again, a model of every layout has the same bits, the same description and the same outputs."""
    make_checkpoint(tmp_path / "file.pth.tar", VERSIONS[name], small=True)
    adaptors = [a.name for a in read_checkpoint(tmp_path / "file.pth.tar").config.adaptors]
    model = load_model(tmp_path / "file.pth.tar", adaptors=adaptors, device="cpu", dtype="bfloat16")
    model.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved", adaptors=adaptors, device="cpu")
    assert _equal(model.state_dict(), again.state_dict())
    before = {**vars(model.config), "dtype": "bfloat16"}
    assert {
        key: (before[key], value) for key, value in vars(again.config).items() if before[key] != value
    } == {}
    side = 4 * model.patch_size
    x = torch.rand(1, 3, side, side)
    assert torch.equal(_outputs(model, x), _outputs(again, x))


def _outputs(model, x) -> torch.Tensor:
    """All outputs of a copy of the model: matrix products may round differently where weights lie in a mapped file."""
    output = copy.deepcopy(model)(x)
    outputs = output.values() if isinstance(output, dict) else [output]
    return torch.cat([part.float().flatten(1) for each in outputs for part in each], 1)


@pytest.mark.parametrize(
    "name",
    [
        "v2_5",
        "normalizers",
        "normalizer_shared_rotation",
        "spectral",
        "ema_by_name",
        "single_cls_mlp_v1",
        "duplicate_teachers",
        "token_slots",
        "layer_scale_norm",
        "bf16",
        "upsample",
        "mlpnorm",
        "no_cpe_patch14",
        "dinov2_giant",
    ],
)
def test_every_reference_file_survives_saving(reference, name, tmp_path):
    file = reference / name / "checkpoint.pth.tar"
    adaptors = [a.name for a in read_checkpoint(file).config.adaptors]
    model = load_model(file, adaptors=adaptors, device="cpu")
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, adaptors=adaptors, device="cpu")
    assert _equal(model.state_dict(), again.state_dict())
    side = 4 * model.patch_size
    x = torch.rand(1, 3, side, side)
    assert torch.equal(_outputs(model, x), _outputs(again, x))


@pytest.mark.parametrize("upsample", [1, 2])
def test_attention_heads_survive_saving(upsample, tmp_path):
    content = make_checkpoint(
        tmp_path / "file.pth.tar", VERSIONS["c-radio_v4-so400m"], small=True, dtype=torch.float32
    )
    _replace_feature_head(content, upsample)
    torch.save(content, tmp_path / "file.pth.tar")
    model = load_model(tmp_path / "file.pth.tar", adaptors="sam3", device="cpu")
    assert model.config.adaptor("sam3").feature.kind == "attn"
    model.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved", adaptors="sam3", device="cpu")
    assert _equal(model.state_dict(), again.state_dict())
    x = torch.rand(1, 3, 64, 96)
    assert torch.equal(model(x)["sam3"].features, again(x)["sam3"].features)
    assert model(x)["sam3"].features.shape == (1, 24 * upsample**2, 40)


def _replace_feature_head(content: dict, upsample: int) -> None:
    state = content["state_dict"]
    for name in [name for name in state if name.startswith("_feature_projections.2.")]:
        del state[name]
    state |= random_state(attention_head("_feature_projections.2", 64, 48, 40 * upsample**2))
    content["args"].teachers[2]["fd_upsample_factor"] = upsample


def test_saving_over_the_folder_it_was_loaded_from(folder):
    """The weights are mapped from the very file that is replaced."""
    adaptors = ["clip", "sam"]
    model = load_model(folder, adaptors=adaptors, device="cpu")
    with torch.no_grad():
        model.blocks[0].attn.proj.weight.mul_(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(folder)
    assert _equal(before, model.state_dict())
    again = load_model(folder, adaptors=adaptors, device="cpu")
    assert _equal(before, again.state_dict())
    again.save_pretrained(folder)
    assert _equal(before, load_model(folder, adaptors=adaptors, device="cpu").state_dict())
    assert sorted(path.name for path in folder.iterdir()) == [
        "cases.safetensors",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def test_weights_that_share_memory_can_be_saved(tmp_path):
    make_checkpoint(tmp_path / "file.pth.tar", VERSIONS["radio_v2.5-b"], small=True, repeat_blocks=True)
    model = load_model(tmp_path / "file.pth.tar", device="cpu", dtype="bfloat16", mmap=True)
    first, last = model.blocks[0].attn.proj.weight, model.blocks[-1].attn.proj.weight
    assert first.data_ptr() == last.data_ptr()
    model.save_pretrained(tmp_path / "saved")
    assert _equal(model.state_dict(), load_model(tmp_path / "saved", device="cpu").state_dict())


def test_teachers_with_fields_that_json_does_not_know(tmp_path):
    content = make_checkpoint(tmp_path / "file.pth.tar", VERSIONS["radio_v2.5-b"], small=True)
    content["args"].teachers[0] |= {
        3: (1, 2),
        "dtype": torch.float16,
        "path": Path("/data"),
        "crop": {1: None},
    }
    torch.save(content, tmp_path / "odd.pth.tar")
    load_model(tmp_path / "odd.pth.tar", adaptors="clip", device="cpu").save_pretrained(tmp_path / "saved")
    teacher = load_model(tmp_path / "saved", adaptors="clip", device="cpu").adaptors["clip"].teacher
    assert teacher["model"] == "ViT-H-14-378-quickgelu"
    odd = {name: teacher[name] for name in ("3", "dtype", "path", "crop")}
    assert odd == {"3": [1, 2], "dtype": "torch.float16", "path": "/data", "crop": {"1": None}}


def test_saving_over_shards(folder):
    """The single file that is written is the one that is read, and no shard of the old model stays in use."""
    _shard(folder)
    model = load_model(folder, device="cpu")
    with torch.no_grad():
        model.blocks[0].attn.proj.weight.mul_(2)
    model.save_pretrained(folder)
    again = load_model(folder, device="cpu")
    assert torch.equal(again.blocks[0].attn.proj.weight, model.blocks[0].attn.proj.weight)


def _shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: tensors[name].clone() for name in members}, folder / file)
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {name: file for file, m in parts.items() for name in m},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_shards(reference, folder):
    _shard(folder)
    adaptors = ["clip", "siglip", "dino_v2", "sam"]
    whole = load_model(reference / "hf_repo", adaptors=adaptors, device="cpu")
    assert _equal(load_model(folder, adaptors=adaptors, device="cpu").state_dict(), whole.state_dict())


def test_a_missing_shard_is_named(folder):
    _shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00002-of-00002\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("weight_map", [None, [], {}])
def test_an_index_without_a_map(folder, weight_map):
    _shard(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="no usable 'weight_map'"):
        load_model(folder)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "..",
            "",
            ".",
            "/etc/passwd",
            "../model-00001-of-00002.safetensors",
            "x/model-00001-of-00002.safetensors",
        ),
        *(
            "..\\model.safetensors",
            "C:model.safetensors",
            ".hidden.safetensors",
            "a\0.safetensors",
        ),
        *("\nmodel.safetensors", "model.safetensors\n"),
    ],
)
def test_shards_lie_beside_their_index(folder, name):
    """An index is made by others: it names safetensors files of its own folder, or nothing is read."""
    _shard(folder)
    (folder.parent / "model-00001-of-00002.safetensors").write_bytes(b"secret")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["a"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="no name of a weights file in the same folder"):
        load_model(folder)


def test_a_tensor_in_two_shards(folder):
    _shard(folder)
    second = folder / "model-00002-of-00002.safetensors"
    first = load_file(folder / "model-00001-of-00002.safetensors")
    name, value = next(iter(first.items()))
    save_file({**load_file(second), name: value + 1}, folder / "again.safetensors")
    (folder / "again.safetensors").replace(second)
    with pytest.raises(CheckpointError, match="in more than one file"):
        load_model(folder)


def test_remote_code_is_never_run(folder, tmp_path):
    mark = tmp_path / "ran"
    _edit(folder, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, trust_remote_code=True)
    for name in ("evil.py", "hf_model.py", "__init__.py", "conftest.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')")
    load_model(folder, device="cpu").save_pretrained(tmp_path / "saved")
    assert not mark.exists()
    assert "auto_map" not in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_the_folder_can_be_given(folder, name):
    assert load_model(folder / name, device="cpu").embed_dim == 32


def test_content_as_stored(folder):
    content = read_content(folder)
    assert content["args"].model == "vit_base_patch16_224"
    assert "radio_model.model.blocks.0.attn.qkv.weight" in content["state_dict"]
    assert content["max_resolution"] == 2048


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x00" * 64, "damaged or not a safetensors file"),
        (b"PK\x03\x04" + b"\x00" * 64, "damaged or not a safetensors file"),
        (struct.pack("<Q", 2**62) + b"{}", "damaged or not a safetensors file"),
    ],
)
def test_wrong_weights(folder, data, message):
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(folder)
    assert str(folder / "model.safetensors") in str(error.value)


@pytest.mark.parametrize("keep", [0.001, 0.1, 0.5, 0.999])
def test_truncated_weights(folder, keep):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointError, match=r"damaged.*download it again"):
        load_model(folder)


def _with_header(folder: Path, change) -> None:
    """Rewrite the header of the weights file, and leave the data as it is."""
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(new)) + new + data[8 + length :])


_QKV = "radio_model.model.blocks.0.attn.qkv.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header[_QKV].update(shape=[2**20, 2**20]),
        lambda header: header[_QKV].update(shape=[2**20, 2**20], data_offsets=[0, 2**42]),
        lambda header: header[_QKV].update(data_offsets=[0, 2**63]),
        lambda header: header[_QKV].update(data_offsets=[16, 0]),
        lambda header: header[_QKV].update(shape=[-3, 32]),
        lambda header: header[_QKV].update(dtype="Q99"),
        lambda header: header.update(extra={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
    ],
)
def test_a_header_that_claims_more_than_the_file_holds(folder, change):
    _with_header(folder, change)
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"args": ' * 100_000, "not valid JSON"),
        ("[]", "must hold a JSON object, not a list"),
        ("{}", "has no 'args'"),
        ('{"model_type": "vit", "hidden_size": 768}', "has no 'args'"),
        ('{"args": []}', "has no 'args'"),
        ('{"args": {}}', "must name an architecture"),
        ("<html>", "is a web page"),
        ("9" * 5000, "not valid JSON"),
    ],
)
def test_wrong_config(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_files_are_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 14}, "says patch_size 14, the tensors say 16"),
        ({"max_resolution": -1}, "max_resolution must be a whole number"),
        ({"max_resolution": float("nan")}, "max_resolution must be a whole number"),
        ({"preferred_resolution": [768]}, "must be a height and a width, got .768."),
        ({"preferred_resolution": [0, 768]}, "preferred_resolution must be a whole number of at least 1"),
        ({"preferred_resolution": "large"}, "preferred_resolution|too many values"),
        ({"vitdet_window_size": 0}, "vitdet_window_size must be a whole number of at least 1"),
        ({"vitdet_num_global": "4"}, "vitdet_num_global must be a whole number"),
        ({"vitdet_num_windowed": True}, "vitdet_num_windowed must be a whole number"),
        ({"pos_embed_align_corners": "no"}, "must be true or false"),
        ({"adaptor_configs": {"clip": {"head_idx": 4}}}, "'clip' reads class token 4 of 4"),
        (
            {"adaptor_configs": {"clip": {"feature": {"upsample_factor": 0.5}}}},
            "upsample_factor must be a whole",
        ),
        ({"adaptor_configs": [1]}, "AttributeError"),
    ],
)
def test_wrong_fields(folder, changes, message):
    _edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, device="cpu")


def test_sizes_come_from_the_tensors_whatever_the_config_claims(folder):
    """A config that asks for a giant model builds the model that is in the file."""
    config = json.loads((folder / "config.json").read_text())
    config["args"]["model_kwargs"] |= {"depth": 10**9, "embed_dim": 10**9, "img_size": 10**9}
    config["args"] |= {"cpe_max_size": 10**12, "register_multiple": 10**9}
    config["adaptor_configs"]["clip"]["summary"] |= {"hidden_dim": 10**9, "num_inner": 10**9}
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder, adaptors="clip", device="cpu")
    assert (len(model.blocks), model.embed_dim, model.num_summary_tokens) == (6, 32, 8)


def test_null_align_corners_leaves_the_versions_own(folder):
    _edit(folder, version="radio_v2.5-b", pos_embed_align_corners=None)
    assert read_checkpoint(folder).config.pos_embed_align_corners is True
    _edit(folder, version="radio_v2.5-b", pos_embed_align_corners=False)
    assert read_checkpoint(folder).config.pos_embed_align_corners is False


def test_a_chosen_window_schedule_survives_saving(folder, tmp_path):
    """The catalogue's schedule of a version does not come back once another one was chosen."""
    _edit(folder, version="radio_v2.1")
    assert load_model(folder, device="cpu").config.vitdet_num_windowed == 5
    model = load_model(folder, device="cpu", vitdet_window_size=2, vitdet_num_global=2)
    model.save_pretrained(tmp_path / "saved")
    config = load_model(tmp_path / "saved", device="cpu").config
    assert (config.vitdet_num_global, config.vitdet_num_windowed) == (2, None)


def test_the_named_weights_file_is_the_one_that_is_read(reference, tmp_path):
    """A file beside `model.safetensors` is not mistaken for it."""
    shutil.copytree(reference / "hf_repo", tmp_path / "repo")
    other = load_file(tmp_path / "repo" / "model.safetensors")
    other["radio_model.input_conditioner.norm_mean"] += 1
    save_file(other, tmp_path / "repo" / "tuned.safetensors")
    tuned = read_checkpoint(tmp_path / "repo" / "tuned.safetensors").tensors["input_conditioner.norm_mean"]
    released = read_checkpoint(tmp_path / "repo").tensors["input_conditioner.norm_mean"]
    assert torch.equal(tuned, released + 1)
