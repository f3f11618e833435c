"""The vision tower inside the checkpoint of a vision-language model: one file or shards, old and new formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from radio import CheckpointError, load_model
from radio.checkpoints.hub_repo import describe_folder, shard_names


def _language() -> dict[str, torch.Tensor]:
    """Weights of the rest of a model: a language model, a projector, and a vision encoder that is none of ours."""
    return {
        "language_model.model.embed_tokens.weight": torch.rand(16, 8),
        "language_model.model.layers.0.mlp.down_proj.weight": torch.rand(8, 8),
        "language_model.model.positions": torch.arange(4),
        "mlp1.0.weight": torch.rand(8),
        "clip_model.patch_embed.proj.weight": torch.rand(8, 3, 16, 16),
    }


def _save(folder: Path, shards: list[dict[str, torch.Tensor]], torch_format: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    stem, suffix = ("pytorch_model", "bin") if torch_format else ("model", "safetensors")

    def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
        torch.save(tensors, path) if torch_format else save_file(tensors, path, {"format": "pt"})

    if len(shards) == 1:
        save(shards[0], folder / f"{stem}.{suffix}")
        return
    where = {}
    for i, tensors in enumerate(shards, 1):
        name = f"{stem}-{i:05d}-of-{len(shards):05d}.{suffix}"
        save(tensors, folder / name)
        where |= dict.fromkeys(tensors, name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": where}))


@pytest.fixture(scope="module")
def tower(reference: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and tensors of a repository, as they stand inside a larger model."""
    folder = reference / "hf_repo"
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def _assert_is_the_tower(path: Path, reference: Path) -> None:
    model, original = (load_model(p, device="cpu", adaptors="clip") for p in (path, reference / "hf_repo"))
    assert model.config == original.config
    x = torch.rand(1, 3, 96, 64)
    assert torch.equal(model(x)["clip"].features, original(x)["clip"].features)


@pytest.mark.parametrize(
    ("prefix", "place"),
    [
        ("vision_model.", lambda c: {"vision_config": c}),
        ("model.vision_tower.", lambda c: {"vision_config": c, "text_config": {"model_type": "qwen2"}}),
        ("vision_encoder.vision_tower.", lambda c: {"llm": {"args": [1]}, "vision_tower_config": c}),
        ("thinker.visual.encoders.0.", lambda c: {"thinker_config": {"vision_config": {"encoder": c}}}),
    ],
    ids=["vision_model", "vision_tower", "vision_encoder", "nested"],
)
@pytest.mark.parametrize("layout", ["one_file", "shards", "old_file", "old_shards"])
def test_a_tower_under_any_name(
    reference: Path,
    tower: tuple[dict[str, Any], dict[str, torch.Tensor]],
    prefix: str,
    place: Callable[[Any], dict[str, Any]],
    layout: str,
    tmp_path: Path,
) -> None:
    config, tensors = tower
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vlm", **place(config)}))
    placed = {prefix + name: value for name, value in tensors.items()}
    names = list(placed)
    first = {name: placed[name] for name in names[: len(names) // 2]}
    second = {name: placed[name] for name in names[len(names) // 2 :]}
    shards = [_language(), first, second] if "shards" in layout else [{**_language(), **placed}]
    _save(tmp_path, shards, torch_format="old" in layout)
    _assert_is_the_tower(tmp_path, reference)


def test_only_the_shards_of_the_tower_are_needed(reference, tower, tmp_path):
    """Those of the language model, which are most of the bytes, need not be here; and are not downloaded."""
    config, tensors = tower
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": config}))
    _save(tmp_path, [_language(), {f"vision_model.{n}": v for n, v in tensors.items()}, _language()])
    index = tmp_path / "model.safetensors.index.json"
    assert shard_names(index, describe_folder(tmp_path)) == ["model-00002-of-00003.safetensors"]
    for number in (1, 3):
        (tmp_path / f"model-0000{number}-of-00003.safetensors").unlink()
    _assert_is_the_tower(tmp_path, reference)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks model-00002-of-00003.safetensors"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("constants", [{}, {"norm_mean": [0.5, 0.4, 0.3], "norm_std": [0.1, 0.2, 0.3]}])
@pytest.mark.parametrize("inside", [False, True])
def test_a_tower_without_a_conditioner(reference, tower, constants, inside, tmp_path):
    """The larger model's preprocessor normalizes; its config may say how."""
    config, tensors = tower
    fields = {"vision_config": {**config, **constants}} if inside else {"vision_config": config, **constants}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    placed = {f"vision_model.{n}": v for n, v in tensors.items() if "input_conditioner" not in n}
    _save(tmp_path, [{**_language(), **placed}])
    model, original = (load_model(p, device="cpu") for p in (tmp_path, reference / "hf_repo"))
    conditioner = model.make_preprocessor_external()
    mean = constants.get("norm_mean", original.input_conditioner.norm_mean.flatten().tolist())
    std = constants.get("norm_std", original.input_conditioner.norm_std.flatten().tolist())
    assert conditioner.norm_mean.flatten().tolist() == pytest.approx(mean, abs=1e-6)
    assert conditioner.norm_std.flatten().tolist() == pytest.approx(std, abs=1e-6)
    x = torch.rand(1, 3, 96, 64)
    assert torch.equal(model(original.input_conditioner(x)).features, original(x).features)


def test_a_tower_that_nothing_describes(reference, tower, tmp_path):
    """As in LLaVA's first checkpoints, whose config only names the tower; the advice is followed."""
    config, tensors = tower
    (tmp_path / "config.json").write_text(json.dumps({"mm_vision_tower": "nvidia/C-RADIOv3-B"}))
    _save(tmp_path, [{**_language(), **{f"model.vision_tower.{n}": v for n, v in tensors.items()}}])
    with pytest.raises(
        CheckpointError, match="put the config.json of the tower's own repository into it as 'vis"
    ):
        load_model(tmp_path, device="cpu")
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": config}))
    _assert_is_the_tower(tmp_path, reference)


def test_two_towers_are_not_guessed_between(tower, tmp_path):
    config, tensors = tower
    both = {f"{side}.{n}": v.clone() for side in ("left", "right") for n, v in tensors.items()}
    _save(tmp_path, [both])
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": config}))
    with pytest.raises(CheckpointError, match=r"several RADIO models, under 'left.radio_model.', 'right"):
        load_model(tmp_path, device="cpu")
    (tmp_path / "config.json").write_text(json.dumps({"left_config": config, "right_config": config}))
    with pytest.raises(
        CheckpointError, match="describes several RADIO models, in 'left_config', 'right_config'"
    ):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize(
    "config",
    [
        {"vision_config": {"model_type": "clip_vision_model", "hidden_size": 8}},
        {"mm_vision_tower": "nvidia/C-RADIOv2-H", "model_type": "llava"},
        {"text_config": {"args": {"lr": 1}}},
    ],
)
def test_a_model_without_radio(config, tmp_path):
    _save(tmp_path, [_language()])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not describe a RADIO model.*no part of it is"):
        load_model(tmp_path, device="cpu")


def test_a_tower_whose_tensors_are_not_there(tower, tmp_path):
    _save(tmp_path, [_language()])
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": tower[0]}))
    with pytest.raises(CheckpointError, match="does not hold a RADIO backbone"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("size", "original"), [("1GB", True), ("20KB", False)], ids=["one_file", "shards_own_names"]
)
def test_the_tower_of_a_real_vlm_of_transformers(size, original, tmp_path):
    """It leaves the normalization to its preprocessor: the constants are those of its config."""
    transformers = pytest.importorskip("transformers", minversion="5.24")
    vision = {
        "model_type": "radio",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_img_size": 64,
        "video_temporal_patch_size": 2,
        "norm_mean": [0.1, 0.2, 0.3],
        "norm_std": [0.4, 0.5, 0.6],
    }
    text = {
        "model_type": "nemotron_h",
        "hidden_size": 32,
        "intermediate_size": 32,
        "vocab_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "layers_block_type": ["attention"],
    }
    config = transformers.AutoConfig.for_model(
        "nemotron_h_omni",
        vision_config=vision,
        text_config=text,
        vision_hidden_size=32,
        projector_hidden_size=32,
    )
    torch.manual_seed(0)
    vlm = transformers.models.nemotron_h_omni.NemotronH_Omni_Reasoning_V3(config).eval()
    vlm.save_pretrained(tmp_path, max_shard_size=size, save_original_format=original)
    assert (tmp_path / "model.safetensors.index.json").exists() == (size == "20KB")
    model = load_model(tmp_path, device="cpu")
    x = torch.rand(1, 3, 64, 96)
    mean, std = (torch.tensor(vision[n]).reshape(3, 1, 1) for n in ("norm_mean", "norm_std"))
    with torch.no_grad():
        theirs = vlm.vision_model((x - mean) / std)
        assert torch.allclose(model(x).features, theirs.features, atol=1e-5)
        assert torch.allclose(model(x).summary, theirs.summary, atol=1e-5)
