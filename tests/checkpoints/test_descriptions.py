"""What describes the model of a file: its own config, a config.json beside it, or a message whose advice works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from radio import CheckpointError, RadioConfig, RADIOModel, load_model
from radio.checkpoints import read_checkpoint, read_content

FOLDERS = sorted(path.name for path in (Path(__file__).parents[1] / "reference").iterdir() if path.is_dir())
X = torch.rand(1, 3, 96, 64)


@pytest.fixture(scope="module")
def model(reference: Path) -> RADIOModel:
    return load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")


def _source(reference: Path, name: str) -> Path:
    file = reference / name / "checkpoint.pth.tar"
    return file if file.exists() else file.parent


@pytest.mark.parametrize("name", FOLDERS)
def test_a_state_dict_with_its_config(reference, name, tmp_path):
    """Plain torch.load opens what is saved, and load_model gives the same model."""
    source = _source(reference, name)
    adaptors = [adaptor.name for adaptor in read_checkpoint(source).config.adaptors]
    model = load_model(source, adaptors=adaptors, device="cpu")
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": model.state_dict(), "config": model.config.to_dict()}, path)
    content = torch.load(path, weights_only=True)
    assert RadioConfig.from_dict(content["config"]) == model.config
    again = load_model(path, adaptors=adaptors, device="cpu")
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[n], v) for n, v in model.state_dict().items())


def test_adaptors_that_were_not_built_are_not_promised(model, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": model.state_dict(), "config": model.config.to_dict()}, path)
    assert model.config.adaptors
    assert load_model(path, device="cpu").config.adaptors == ()
    with pytest.raises(ValueError, match="unknown adaptor 'clip'.*no adaptors"):
        load_model(path, adaptors="clip", device="cpu")


def test_the_dtype_is_that_of_the_weights(reference, tmp_path):
    """A bfloat16 model that was trained in float32 stays float32, whatever its first file said."""
    model = load_model(reference / "bf16" / "checkpoint.pth.tar", device="cpu", dtype="float32")
    assert model.config.dtype == "bfloat16"
    torch.save({"state_dict": model.state_dict(), "config": model.config.to_dict()}, tmp_path / "mine.pth")
    again = load_model(tmp_path / "mine.pth", device="cpu")
    assert again.dtype == torch.float32 and torch.equal(again(X).features, model(X).features)


def test_a_model_with_blocks_cut_off_and_another_summary(reference, tmp_path, caplog):
    """In a folder, in a file with the config that the model came with, and in transformers' class."""
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    model.model.blocks = model.model.blocks[:5]
    torch.save({"state_dict": model.state_dict(), "config": model.config.to_dict()}, tmp_path / "cut.pth")
    again = load_model(tmp_path / "cut.pth", device="cpu")
    assert "says 12 blocks, it holds the first 5" in caplog.text
    assert torch.equal(again(X).features, model(X).features)
    model.summary_idxs = torch.tensor([2, 0])
    model.save_pretrained(tmp_path / "cut")
    again = load_model(tmp_path / "cut", device="cpu")
    assert torch.equal(again(X).summary, model(X).summary)
    assert again.config.summary_names == ("clip", "dino_v2")[::-1]


@pytest.mark.parametrize("name", ["normalizers", "normalizer_shared_rotation"])
def test_blocks_cut_off_a_model_with_an_intermediate_normalizer(reference, name, tmp_path):
    """What it has for each block goes with them."""
    model = load_model(reference / name / "checkpoint.pth.tar", device="cpu")
    model.model.blocks = model.model.blocks[:2]
    expected = model.forward_intermediates(X, [0, 1])
    torch.save({"state_dict": model.state_dict(), "config": model.config.to_dict()}, tmp_path / "cut.pth")
    model.save_pretrained(tmp_path / "cut")
    assert load_file(tmp_path / "cut" / "model.safetensors")[
        "radio_model.inter_feature_normalizer.alphas"
    ].shape == (2,)
    for place in ("cut.pth", "cut"):
        final, layers = load_model(tmp_path / place, device="cpu").forward_intermediates(X, [0, 1])
        assert torch.equal(final.features, expected[0].features)
        assert all(torch.equal(a, b) for a, b in zip(layers, expected[1], strict=True))


def test_settings_travel(reference, tmp_path):
    model = load_model(
        reference / "v2_5" / "checkpoint.pth.tar",
        device="cpu",
        vitdet_window_size=2,
        vitdet_num_windowed=1,
        pos_embed_align_corners=True,
    )
    torch.save({"state_dict": model.state_dict(), "config": model.config.to_dict()}, tmp_path / "mine.pth")
    again = load_model(tmp_path / "mine.pth", device="cpu")
    assert replace(again.config, adaptors=model.config.adaptors) == model.config and again.window_size == 2
    assert not load_model(
        tmp_path / "mine.pth", device="cpu", pos_embed_align_corners=False
    ).config.pos_embed_align_corners


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 5}, "its config says depth=5, its tensors say 12"),
        ({"patch_size": 14}, "says patch_size|patch_size 14"),
        ({"grid_size": 10**30}, "grid_size"),
        ({"layer_scale": True}, "layer_scale=True, its tensors say False"),
        ({"num_registers": 5}, "num_registers=5"),
        ({"num_heads": 7}, "cannot have 7 heads"),
        ({"surprise": 1}, "no field 'surprise'"),
        ({"depth": "6"}, "depth must be of type int, got '6'"),
        ({"layout": "vgg"}, "layout must be one of"),
        ({"teachers": [{"name": ["x"]}]}, "each with a 'name'"),
        ({"summary_idxs": [9]}, "takes class tokens"),
    ],
)
def test_configs_that_are_not_of_the_weights(change, message, model, tmp_path):
    config = model.config.to_dict() | change
    torch.save({"state_dict": model.state_dict(), "config": config}, tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(tmp_path / "mine.pth", device="cpu")
    assert len(str(error.value)) < 600


def _bare(path: Path, model: RADIOModel) -> Path:
    torch.save(model.state_dict(), path)
    return path


def test_a_bare_state_dict_says_what_to_do(model, reference, tmp_path):
    """Each of the three ways that the message names works when it is followed."""
    path = _bare(tmp_path / "bare.pth", model)
    with pytest.raises(CheckpointError, match="nothing that describes the model") as error:
        load_model(path, device="cpu")
    message = str(error.value)
    [saving] = re.findall(r"save (\{.*?\}\))?(\{.*?\(\)\});", message)[:1] or [("", "")]
    torch.save(eval(saving[1], {"model": model}), tmp_path / "described.pth")
    fresh = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    torch.nn.init.zeros_(fresh.blocks[0].attn.qkv.weight)
    [call] = re.findall(r"call (model\.load_state_dict\(.*\))$", message)
    eval(call, {"model": fresh, "torch": torch, "path": path})
    assert "config.json that belongs to them beside it" in message
    model.save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "saved" / "config.json", tmp_path)
    followed = [fresh, load_model(tmp_path / "described.pth", device="cpu"), load_model(path, device="cpu")]
    for again in followed:
        assert torch.equal(again(X).features, model(X).features)
        assert torch.equal(again(X).summary, model(X).summary)


def test_a_bare_state_dict_under_released_names(reference, tmp_path):
    content = read_content(reference / "hf_repo")
    torch.save(content["state_dict"], tmp_path / "weights.bin")
    shutil.copy(reference / "hf_repo" / "config.json", tmp_path)
    again = load_model(tmp_path / "weights.bin", adaptors="sam", device="cpu")
    model = load_model(reference / "hf_repo", adaptors="sam", device="cpu")
    assert torch.equal(again(X)["sam"].features, model(X)["sam"].features)


def test_the_config_as_a_dict_in_a_json_file(model, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
    save_file({n: v.contiguous() for n, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path, device="cpu")(X).features, model(X).features)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "."])
def test_a_lone_config_is_its_folders_model(reference, name):
    path = reference / "hf_repo" / name
    assert load_model(path, device="cpu").config == load_model(reference / "hf_repo", device="cpu").config
    assert load_model(str(path), device="cpu").config.version == "radio_v2.5-b"


def test_a_config_without_weights_says_which_files_there_are(reference, tmp_path):
    shutil.copy(reference / "hf_repo" / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"has no model.safetensors; download it beside config.json$"):
        load_model(tmp_path / "config.json", device="cpu")
    shutil.copy(reference / "hf_repo" / "model.safetensors", tmp_path / "tuned.safetensors")
    shutil.copy(reference / "v2_5" / "checkpoint.pth.tar", tmp_path / "other.pth.tar")
    with pytest.raises(CheckpointError, match="path of another file in it: other.pth.tar, tuned.safetensors"):
        load_model(tmp_path / "config.json", device="cpu")
    for followed in ("tuned.safetensors", "other.pth.tar"):
        assert load_model(tmp_path / followed, device="cpu")(X).features.shape[1] == 24


def test_a_config_under_another_name(reference, tmp_path):
    shutil.copy(reference / "hf_repo" / "config.json", tmp_path / "radio.json")
    with pytest.raises(CheckpointError, match=r"'config.json'"):
        load_model(tmp_path / "radio.json", device="cpu")
    with pytest.raises(CheckpointError, match="no file or folder"):
        load_model("nowhere/radio.json", device="cpu")


def test_several_state_dicts_are_not_guessed_between(model, tmp_path):
    config, state = model.config.to_dict(), model.state_dict()
    torch.save({"model": state, "student": state, "config": config}, tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match="several state dicts .model, student.; save the one"):
        load_model(tmp_path / "mine.pth", device="cpu")


def test_arguments_of_another_program_do_not_hide_the_config(model, tmp_path):
    """Many programs save their own command line as ``args``."""
    content: dict[str, Any] = {"state_dict": model.state_dict(), "config": model.config.to_dict()}
    for args in ({"lr": 1e-4}, {"model": "resnet50", "epochs": 3}):
        torch.save({**content, "args": args}, tmp_path / "mine.pth")
        assert torch.equal(load_model(tmp_path / "mine.pth", device="cpu")(X).features, model(X).features)


def test_weights_in_the_cache_of_torch_hub(reference, tmp_path):
    """The public hub code left them there under their released name; nothing is asked of the network."""
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    shutil.copy(reference / "v2_5" / "checkpoint.pth.tar", cache / "radio-v2.5-b_half.pth.tar")
    (cache / "radio-v2.5-l_half.pth.tar").write_bytes(b"half a file")
    code = (
        "from radio import DownloadError, RELEASES, load_model\n"
        "from radio.download import is_cached\n"
        "m = load_model('radio_v2.5-b', device='cpu')\n"
        "print(m.checkpoint_path, m.config.version, m.config.pos_embed_align_corners)\n"
        "print([r.version for r in RELEASES if is_cached(r)])\n"
        "try:\n    load_model('radio_v2.5-l', device='cpu')\n"
        "except DownloadError as error:\n    print('not used')\n"
        "try:\n    load_model('radio_v2.5-b', revision='v9', device='cpu')\n"
        "except DownloadError as error:\n    print('not this revision')\n"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "TORCH_HOME": str(tmp_path / "torch")}
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": "", **env}, capture_output=True, text=True, check=False
    )
    path = cache / "radio-v2.5-b_half.pth.tar"
    assert run.stdout.splitlines() == [
        f"{path} radio_v2.5-b True",
        "['radio_v2.5-b']",
        "not used",
        "not this revision",
    ], run.stderr
    assert "not a whole weights file" in run.stderr


def test_content_of_every_layout(reference, tmp_path):
    """torch.hub's return_checkpoint works for whatever was loaded."""
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    model.save_pretrained(tmp_path / "saved")
    torch.save({"state_dict": model.state_dict(), "config": model.config.to_dict()}, tmp_path / "mine.pth")
    assert read_content(tmp_path / "saved")["args"].model == model.config.architecture
    assert read_content(tmp_path / "mine.pth")["state_dict"].keys() == model.state_dict().keys()
    assert (
        load_file(tmp_path / "saved" / "model.safetensors").keys()
        == read_content(tmp_path / "saved")["state_dict"].keys()
    )


def test_what_looks_like_weights_is_answered_with_what_works(model, tmp_path):
    """Each advice is followed, and the model is the same."""
    config = json.dumps(model.config.to_dict())
    state = model.state_dict()

    bare = tmp_path / "bare" / "tower.safetensors"
    bare.parent.mkdir()
    save_file(state, bare)
    (bare.parent / "other.pth").touch()
    with pytest.raises(
        CheckpointError, match=r"tower.safetensors has no config.json, .* beside it, or .*json.dump"
    ):
        load_model(bare)
    (bare.parent / "config.json").write_text(config)
    assert torch.equal(load_model(bare, device="cpu")(X).features, model(X).features)

    alone = {f"backbone.{name}": value for name, value in model.model.state_dict().items()}
    for content in (model.model.state_dict(), {"state_dict": alone, "epoch": 3}):
        torch.save(content, tmp_path / "vit.pth")
        with pytest.raises(CheckpointError, match=r"the ViT alone .* model\.model\.load_state_dict"):
            load_model(tmp_path / "vit.pth")

    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)), tmp_path / "traced.pt")
    with pytest.raises(CheckpointError, match="a traced or exported program, not weights"):
        load_model(tmp_path / "traced.pt")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one process without a process group
        torch.distributed.checkpoint.save({"model": state}, checkpoint_id=tmp_path / "parts")
    with pytest.raises(CheckpointError, match=r"dcp_to_torch \S*parts model\.pth.*config\.json beside"):
        load_model(tmp_path / "parts")
    (tmp_path / "whole").mkdir()
    dcp_to_torch_save(tmp_path / "parts", tmp_path / "whole" / "model.pth")  # what the command calls
    (tmp_path / "whole" / "config.json").write_text(config)
    again = load_model(tmp_path / "whole" / "model.pth", device="cpu")
    assert torch.equal(again(X).features, model(X).features)
