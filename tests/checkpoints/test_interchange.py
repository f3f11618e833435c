"""transformers' own RadioModel opens what this library saves, and the other way round, with equal numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from radio import CheckpointError, RADIOModel, load_model
from radio.checkpoints.layouts.native import native_fields, why_not_native

transformers = pytest.importorskip("transformers", minversion="5.24")

HELD = (
    "bf16",
    "duplicate_teachers",
    "ema_by_name",
    "normalizer_shared_rotation",
    "single_cls_mlp_v1",
    "spectral",
    "token_slots",
    "upsample",
    "v2_5",
)
"""The reference models that transformers' class can hold."""


def _native(folder: Path) -> Any:
    model, info = transformers.RadioModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    return model.eval()


def _random_native(**fields: Any) -> Any:
    """A model of transformers' class with weights that make a difference."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_img_size": 128,
        "num_cls_tokens": 4,
        "num_registers": 1,
        "summary_idxs": [1, 3],
    }
    torch.manual_seed(0)
    model = transformers.RadioModel(transformers.RadioConfig(**{**sizes, **fields})).eval()
    for name, value in model.named_parameters():
        if "lambda1" not in name:
            torch.nn.init.normal_(value, std=0.3)
    return model


@torch.no_grad()
def _assert_equal(
    ours: RADIOModel, native: Any, sizes: tuple[tuple[int, int], ...] = ((6, 8), (8, 8))
) -> None:
    """The same features and summary from both, on the stored grid and on others."""
    tolerance = 2e-5 if native.dtype == torch.float32 else 2e-2
    for height, width in sizes:
        x = torch.rand(2, 3, height * ours.patch_size, width * ours.patch_size)
        theirs = native(x.to(native.dtype))
        for a, b in zip(ours(x), (theirs.summary, theirs.features), strict=True):
            assert a.shape == b.shape
            assert (a.float() - b.float()).abs().max() <= tolerance * a.float().abs().max()


@pytest.mark.parametrize("name", HELD)
def test_what_is_saved_opens_in_transformers_and_comes_back(reference, name, tmp_path):
    model = load_model(reference / name / "checkpoint.pth.tar", device="cpu")
    model.save_pretrained(tmp_path / "ours")
    native = _native(tmp_path / "ours")
    _assert_equal(model, native)
    for original in (True, False):  # the released names of the tensors, and transformers' own
        native.save_pretrained(tmp_path / f"theirs{original}", save_original_format=original)
        again = load_model(tmp_path / f"theirs{original}", device="cpu")
        known = again.state_dict()
        before = {
            n: v for n, v in model.state_dict().items() if not n.startswith("inter_feature_normalizer.")
        }
        assert known.keys() == before.keys()
        assert all(torch.equal(known[n], v) for n, v in before.items())
        for field in ("num_heads", "num_cls_tokens", "num_registers", "summary_idxs", "dtype", "teachers"):
            assert getattr(again.config, field) == getattr(model.config, field)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"qkv_bias": False},
        {"use_swiglu_ffn": True, "mlp_ratio": 3.0},
        {"mlp_ratio": 3.7361111},
        {"patch_size": 14, "max_img_size": 140},
        {"num_registers": 0, "summary_idxs": [0]},
        {"video_temporal_patch_size": 2},
        {"norm_mean": [0.5, 0.4, 0.3], "norm_std": [0.1, 0.2, 0.3]},
        {"max_img_size": 4096, "hidden_size": 8, "num_hidden_layers": 1},
    ],
    ids=lambda fields: "-".join(fields) or "plain",
)
def test_what_transformers_saved_loads_and_goes_back(fields, tmp_path):
    native = _random_native(**fields)
    for original in (False, True):  # transformers' own names of the tensors, and the released ones
        native.save_pretrained(tmp_path / f"theirs{original}", save_original_format=original)
        model = load_model(tmp_path / f"theirs{original}", device="cpu")
        assert not model.config.layer_scale  # transformers writes ones, which do nothing
        _assert_equal(model, native, sizes=((6, 8),))
    model.save_pretrained(tmp_path / "ours")
    _assert_equal(model, _native(tmp_path / "ours"))


def test_layer_scale_travels_both_ways(tmp_path):
    native = _random_native()
    for name, value in native.named_parameters():
        if "lambda1" in name:
            torch.nn.init.normal_(value)
    native.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs", device="cpu")
    assert model.config.layer_scale
    _assert_equal(model, native)
    model.save_pretrained(tmp_path / "ours")
    names = load_file(tmp_path / "ours" / "model.safetensors")
    assert "radio_model.model.blocks.0.ls1.gamma" in names  # what the public hub code reads
    again = load_model(tmp_path / "ours", device="cpu")
    assert again.config == model.config
    _assert_equal(again, _native(tmp_path / "ours"))
    names["radio_model.model.blocks.0.ls1.gamma"] += 1
    with safe_open(tmp_path / "ours" / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(names, tmp_path / "ours" / "model.safetensors", metadata)
    with pytest.raises(CheckpointError, match=r"ls1.gamma.*layer_scale1.lambda1.*differ"):
        load_model(tmp_path / "ours", device="cpu")


def test_automodel_finds_the_class_and_dtypes_travel(reference, tmp_path):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu", dtype="bfloat16")
    model.save_pretrained(tmp_path / "ours")
    native = transformers.AutoModel.from_pretrained(tmp_path / "ours").eval()
    assert type(native) is transformers.RadioModel and native.dtype == torch.bfloat16
    _assert_equal(model, native)
    native.float().save_pretrained(tmp_path / "theirs")
    assert load_model(tmp_path / "theirs", device="cpu").dtype == torch.float32


def test_weights_trained_in_transformers_load_over_the_folder_they_came_from(reference, tmp_path):
    """transformers writes into the same folder, with this library's other fields still in its config."""
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    model.save_pretrained(tmp_path)
    native = _native(tmp_path)
    with torch.no_grad():
        native.encoder.layer[0].mlp.fc1.weight.mul_(2)
    native.save_pretrained(tmp_path)
    _assert_equal(load_model(tmp_path, device="cpu"), native)


def test_windows_and_adaptors_are_left_out_by_transformers_only(reference, tmp_path):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    model = load_model(path, adaptors=["clip", "sam"], device="cpu", vitdet_window_size=2)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, adaptors=["clip", "sam"], device="cpu")
    x = torch.rand(1, 3, 128, 128)
    assert again.window_size == 2 and torch.equal(model(x)["sam"].features, again(x)["sam"].features)
    _assert_equal(load_model(path, device="cpu"), _native(tmp_path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dinov2_giant", "the layout 'dinov2'"),
        ("no_cpe_patch14", "the layout 'plain'"),
        ("layer_scale_norm", "a final LayerNorm"),
        ("mlpnorm", "a LayerNorm inside the MLPs"),
        ("normalizers", "a feature normalizer"),
        ("hf_repo", "a feature normalizer"),
    ],
)
def test_models_that_the_class_cannot_hold_stay_ours(reference, name, reason, tmp_path):
    """They say nothing that makes transformers take them for its own, and load here."""
    folder = reference / name
    model = load_model(folder if name == "hf_repo" else folder / "checkpoint.pth.tar", device="cpu")
    assert reason in why_not_native(model.config)
    model.save_pretrained(tmp_path)
    assert "model_type" not in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ValueError, match="model_type"):
        transformers.AutoModel.from_pretrained(tmp_path)
    x = torch.rand(1, 3, 4 * model.patch_size, 4 * model.patch_size)
    assert torch.equal(load_model(tmp_path, device="cpu")(x).features, model(x).features)


def test_every_width_of_a_released_mlp_is_what_transformers_computes(reference):
    config = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu").config
    constants = {f"input_conditioner.{n}": torch.ones(3, 1, 1) for n in ("norm_mean", "norm_std")}
    for width, hidden in ((768, 3072), (1152, 4304), (1152, 4320), (1280, 5120), (48, 127), (7, 5)):
        shape = replace(config, embed_dim=width, mlp_dim=hidden)
        assert int(width * native_fields(shape, constants)["mlp_ratio"]) == hidden
    for width, hidden in ((1536, 4096), (64, 176)):
        shape = replace(config, embed_dim=width, mlp_dim=hidden, swiglu=True)
        ratio = native_fields(shape, constants)["mlp_ratio"]
        assert (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8 == hidden
    assert native_fields(replace(config, embed_dim=64, mlp_dim=175, swiglu=True), constants) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 4}, "num_hidden_layers=4, the tensors say 3"),
        ({"hidden_size": 64}, "hidden_size=64, the tensors say 32"),
        ({"num_registers": 2}, "4 class tokens and 2 registers, the tensors have 5"),
        ({"num_attention_heads": 3}, "cannot have 3 heads"),
        ({"num_attention_heads": "2"}, "num_attention_heads must be a whole number"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05 is not supported"),
        ({"hidden_act": "relu"}, "hidden_act='relu' is not supported"),
        ({"patch_size": 14}, "patch_size 14, the tensors say 16"),
        ({"dtype": "int8"}, "dtype 'int8'"),
    ],
)
def test_configs_that_are_not_of_the_weights(change, message, tmp_path):
    _random_native().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(tmp_path, device="cpu")
    assert len(str(error.value)) < 500


def test_a_part_of_the_attention_is_missing(tmp_path):
    _random_native().save_pretrained(tmp_path, save_original_format=False)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.attention.k_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"blocks.1.attn.q_proj.weight.*without attn.k_proj"):
        load_model(tmp_path, device="cpu")


@torch.no_grad()
def test_packed_frames_of_a_video(tmp_path):
    """transformers normalizes no packed frames by itself: there the preprocessor is external."""
    theirs = _random_native(video_temporal_patch_size=2)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs", device="cpu")
    assert ours.config.video_temporal_patch_size == 2
    clip = torch.rand(5, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    ours.save_pretrained(tmp_path / "ours")
    for native in (theirs, _native(tmp_path / "ours")):
        normalize = native.make_preprocessor_external()
        packed = torch.cat([normalize(clip), normalize(clip[-1:])]).view(3, 6, 96, 128)
        expected = native(packed)
        for encoding, summary, features in zip(
            ours.encode(iter(clip), (96, 128), pack_frames=True, batch_size=2),
            expected.summary,
            expected.features,
            strict=True,
        ):
            assert torch.allclose(encoding.summary[0], summary, rtol=1e-4, atol=1e-4)
            assert torch.allclose(encoding.features[0], features, rtol=1e-4, atol=1e-4)
    one_by_one = ours.encode(clip, (96, 128))
    assert len(one_by_one) == 5 and not torch.allclose(one_by_one[0].summary, expected.summary[0], atol=1e-2)
    raw = torch.cat([clip, clip[-1:]]).view(3, 6, 96, 128)
    assert torch.allclose(ours(raw).summary, expected.summary, rtol=1e-4, atol=1e-4)
    listed = ours([raw[0], raw[1][:, :64]])
    assert torch.allclose(listed[0].summary, expected.summary[:1], rtol=1e-4, atol=1e-4)
    layers = ours.forward_intermediates(raw, indices=[-1], intermediates_only=True)
    assert layers[0].shape == (3, 32, 6, 8)


def test_packed_frames_that_a_model_cannot_take(reference, tmp_path):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    frames = list(torch.rand(4, 3, 64, 64))
    with pytest.raises(ValueError, match="no projection for packed frames"):
        model.encode(frames, pack_frames=True)
    with pytest.raises(ValueError, match=r"packed along the channels, 2 at a time"):
        model(torch.rand(1, 6, 64, 64))
    _random_native(video_temporal_patch_size=2).save_pretrained(tmp_path)
    video = load_model(tmp_path, device="cpu")
    with pytest.raises(ValueError, match="for the frames of a video"):
        video.encode(frames[0], pack_frames=True)
    with pytest.raises(ValueError, match="have one size"):
        video.encode([frames[0], torch.rand(3, 64, 96)], pack_frames=True)
    with pytest.raises(ValueError, match="packed along the channels, 3 at a time"):
        video(torch.rand(1, 9, 64, 64))
    with pytest.raises(ValueError, match=r"do not run together, got \[3, 6\] channels"):
        video([frames[0], torch.rand(6, 64, 64)])


@torch.no_grad()
@pytest.mark.parametrize("windows", [None, 4])
def test_the_image_processor_of_a_folder(reference, windows, photos, tmp_path):
    """`AutoImageProcessor` opens what was saved, and makes what both classes take."""
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu", vitdet_window_size=windows)
    small = replace(model.config, preferred_resolution=(120, 120))
    model._config = small
    model.save_pretrained(tmp_path)
    side = 128
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    inputs = processor(images=[Image.open(path) for path in photos[:2]], return_tensors="pt")
    pixels = inputs["pixel_values"]
    assert pixels.shape == (2, 3, side, side)
    assert 0 <= pixels.min() < 0.2 and 0.8 < pixels.max() <= 1
    encoded = model.encode(photos[:2], size=f"crop:{side}x{side}")
    for number, encoding in enumerate(encoded):
        similarity = torch.cosine_similarity(model(pixels).features[number], encoding.features[0], dim=-1)
        assert similarity.min() > 0.999
    if windows is None:
        theirs = _native(tmp_path)(**inputs)
        for a, b in zip(model(pixels), (theirs.summary, theirs.features), strict=True):
            assert (a - b).abs().max() <= 2e-5 * a.abs().max()


@pytest.mark.parametrize("name", ["dinov2_giant", "eradio", "radio1d"])
def test_every_family_has_an_image_processor(reference, name, photos, tmp_path):
    model = load_model(reference / name / "checkpoint.pth.tar", device="cpu")
    model.save_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    height, width = processor(images=Image.open(photos[0]), return_tensors="pt")["pixel_values"].shape[-2:]
    assert height == width and height % model.min_resolution_step == 0
    assert abs(height - min(model.preferred_resolution)) < model.min_resolution_step
