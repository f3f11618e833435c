"""No option and no place that a file chooses reaches another library."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from radio import CheckpointError
from radio.text import text_encoder_for

SIGLIP = {"name": "siglip", "type": "open_clip", "model": "ViT-SO400M-14-SigLIP-384", "pretrained": "webli"}
SIGLIP2 = {"name": "siglip2-g", "type": "siglip2", "model": "siglip2-g-384"}
CLIP = {"name": "clip", "type": "open_clip", "model": "ViT-H-14-378-quickgelu", "pretrained": "dfn5b"}


@pytest.fixture
def mark(tmp_path) -> Path:
    """Where foreign code would leave a trace."""
    return tmp_path / "was_here"


def _evil(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast as Evil"
    )


def _tokenizer_with_code(folder: Path, mark: Path) -> None:
    _evil(folder, mark)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _change_text(folder: Path, **settings: Any) -> None:
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"] |= settings
    path.write_text(json.dumps(content))


def test_code_beside_a_tokenizer_is_never_run(text_towers, tmp_path, mark):
    folder = Path(shutil.copytree(text_towers["siglip"], tmp_path / "tower"))
    _tokenizer_with_code(folder, mark)
    with contextlib.suppress(CheckpointError, OSError):
        text_encoder_for(SIGLIP, folder).tokenizer(["a cat"])
    assert not mark.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "BertJapaneseTokenizer", "mecab_kwargs": {"mecab_option": "-r evil"}},
        {"tokenizer_class": "BertweetTokenizer"},
        {"tokenizer_class": "MistralCommonBackend"},
        {"tokenizer_class": 5},
        {"tokenizer_class": ["Evil"]},
        {"sp_model_kwargs": {"enable_sampling": True}},
        {"vocab_file": "/etc/passwd"},
        {"tokenizer_file": "/etc/passwd"},
        {"extra_special_tokens": [{"a": 1}]},
        {"pad_token": {"a": 1}},
    ],
)
def test_settings_of_tokenizers(text_towers, tmp_path, settings):
    folder = Path(shutil.copytree(text_towers["siglip"], tmp_path / "tower"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(CheckpointError):
        text_encoder_for(SIGLIP, folder).tokenizer(["a cat"])


def test_a_damaged_tokenizer(text_towers, tmp_path):
    folder = Path(shutil.copytree(text_towers["siglip"], tmp_path / "tower"))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no tokenizer that can be read"):
        text_encoder_for(SIGLIP, folder).tokenizer(["a cat"])


@pytest.mark.parametrize(
    "options",
    [
        {"trust_remote_code": True},
        {"code_revision": "main"},
        {"_from_auto": True},
        {"tokenizer_file": "/etc/passwd"},
        {"cache_dir": "/tmp"},
        {"subfolder": ".."},
        {"proxies": {"http": "http://evil"}},
        {"clean": "evil"},
        {"clean": ["lower"]},
        ["trust_remote_code"],
    ],
)
def test_options_of_tokenizers(text_towers, tmp_path, mark, options):
    folder = Path(shutil.copytree(text_towers["siglip"], tmp_path / "tower"))
    _tokenizer_with_code(folder, mark)
    _change_text(folder, tokenizer_kwargs=options)
    for use in (lambda e: e.tokenizer(["a cat"]), lambda e: e.encode_text(torch.zeros(1, 64).long())):
        with pytest.raises(CheckpointError, match="tokenizer_kwargs.* refused"):
            use(text_encoder_for(SIGLIP, folder))
    assert not mark.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"hf_model_name": "evil/model"},
        {"layers": 10**9},
        {"layers": -1},
        {"layers": True},
        {"width": 2.0},
        {"width": 10**12},
        {"context_length": 10**9},
        {"vocab_size": float("nan")},
        {"norm_kwargs": {"eps": 1e-6, "device": "cuda"}},
        {"norm_kwargs": "eps"},
        {"act_kwargs": {"inplace": True}},
        {"pool_type": "evil"},
        {"block_type": "evil"},
        {"unknown": 1},
        {"mlp_ratio": float("inf")},
    ],
)
def test_settings_of_text_towers(text_towers, tmp_path, settings):
    folder = Path(shutil.copytree(text_towers["siglip"], tmp_path / "tower"))
    _change_text(folder, **settings)
    with pytest.raises(CheckpointError):
        text_encoder_for(SIGLIP, folder).encode_text(torch.zeros(1, 64).long())


def test_a_tokenizers_repository_is_one_of_open_clips_own(text_towers, tmp_path):
    folder = Path(shutil.copytree(text_towers["siglip"], tmp_path / "tower"))
    _change_text(folder, hf_tokenizer_name="evil/tokenizer")
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"'evil/tokenizer', which no model of open_clip uses"):
        text_encoder_for(SIGLIP, folder).tokenizer(["a cat"])


@pytest.mark.parametrize(
    "model", ["hf-hub:evil", "hf-hub:evil/model", "local-dir:.", "local-dir:/", "../x", "", "\x1b[31m"]
)
def test_a_teachers_model_is_one_of_open_clips_own(text_towers, tmp_path, monkeypatch, model):
    """A checkpoint chooses its teacher's model; it must not choose a place."""
    shutil.copytree(text_towers["clip"], tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for weights in (None, tmp_path / "here" / "open_clip_model.safetensors"):
        for use in (lambda e: e.tokenizer(["a cat"]), lambda e: e.encode_text(torch.zeros(1, 77).long())):
            with pytest.raises(CheckpointError, match="does not know the model") as error:
                use(text_encoder_for({**CLIP, "model": model}, weights))
            assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}},
        {"_attn_implementation": "evil/kernels"},
        {"attn_implementation": "evil/kernels"},
        {"quantization_config": {"quant_method": "evil"}},
    ],
)
def test_transformers_gets_nothing_but_sizes(text_towers, tmp_path, mark, changes):
    folder = Path(shutil.copytree(text_towers["siglip2-g"], tmp_path / "tower"))
    _evil(folder, mark)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config | changes))
    same = text_encoder_for(SIGLIP2, text_towers["siglip2-g"]).encode_text(["a cat"])
    assert torch.equal(text_encoder_for(SIGLIP2, folder).encode_text(["a cat"]), same)
    assert not mark.exists()


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 10**9}, {"hidden_size": "64"}, {"hidden_act": "evil"}, {"vocab_size": -1},
     {"layer_norm_eps": float("nan")}, {"max_position_embeddings": True}]
)  # fmt: skip
def test_sizes_of_siglip_towers(text_towers, tmp_path, changes):
    folder = Path(shutil.copytree(text_towers["siglip2-g"], tmp_path / "tower"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is not one that a text tower may have"):
        text_encoder_for(SIGLIP2, folder).encode_text(["a cat"])


def test_text_weights_are_read_with_the_guards_of_checkpoints(text_towers, tmp_path):
    """What a checkpoint may not ask for, text weights may not either."""
    state = load_file(text_towers["clip"] / "open_clip_model.safetensors")

    class Calls:
        def __reduce__(self) -> tuple:
            return bytearray, (10**9,)

    class Uninitialized:
        def __reduce__(self) -> tuple:
            return torch.FloatTensor, (64,)

    for number, extra in enumerate((Calls(), Uninitialized(), torch.eye(3).to_sparse())):
        path = tmp_path / f"{number}.pt"
        torch.save({"state_dict": {**state, "extra": extra}}, path)
        with pytest.raises(CheckpointError, match="cannot be read safely"):
            text_encoder_for({**CLIP, "model": "ViT-B-32"}, path).encode_text(["a cat"])
    old = tmp_path / "old.pt"
    torch.save(state, old, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="old format must be saved again"):
        text_encoder_for({**CLIP, "model": "ViT-B-32"}, old).encode_text(["a cat"])


def test_a_tower_outlives_its_file(text_towers, tmp_path):
    folder = Path(shutil.copytree(text_towers["siglip2-g"], tmp_path / "tower"))
    encoder = text_encoder_for(SIGLIP2, folder)
    before = encoder.encode_text(["a cat"])
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(encoder.encode_text(["a cat"]), before)
