"""E-RADIO and RADIO1D files of other structures: what the tensors decide, and what is refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from released_families import eradio_shapes, radio1d_shapes, write

from radio import CheckpointError, load_model

SMALL = {
    "stem": 6,
    "dim": 8,
    "bottlenecks": (1, 2),
    "depths": (1, 2),
    "heads": (2, 4),
    "bias_dim": 16,
    "window": 3,
}
SMALL_1D = {
    "width": 16,
    "depth": 3,
    "merges": (1,),
    "decoder_depth": 2,
    "splits": (1,),
    "grid": 8,
    "filler": 2,
}
KWARGS = {"num_heads": 4, "cpe_max_size": 128, "num_cls_tokens": 4, "num_registers": 6}


def _eradio(path: Path, spoil: Any = None, kwargs: dict | None = None, **sizes: Any) -> Path:
    content = write(path / "e.pth.tar", eradio_shapes(**{**SMALL, "output": 24, **sizes}), "eradio", kwargs)
    if spoil is not None:
        spoil(
            {name.removeprefix("base_model."): name for name in content["state_dict"]}, content["state_dict"]
        )
        torch.save(content, path / "e.pth.tar")
    return path / "e.pth.tar"


def _radio1d(path: Path, spoil: Any = None, model: str = "radio1d_huge_patch16_224", **changes: Any) -> Path:
    sizes = {name: changes.pop(name) for name in list(changes) if name in SMALL_1D}
    content = write(path / "r.pth.tar", radio1d_shapes(**{**SMALL_1D, **sizes}), model, {**KWARGS, **changes})
    if spoil is not None:
        spoil(content["state_dict"])
        torch.save(content, path / "r.pth.tar")
    return path / "r.pth.tar"


@pytest.mark.parametrize(
    "sizes",
    [
        {"ratios": ((4, 2, 1), (2, 1))},
        {"ratios": ((1,), (1, 1))},
        {"window": 2, "bottlenecks": (0, 1), "depths": (2, 1)},
        {"heads": (1, 8), "output": 32, "stem": 4},
    ],
)
def test_eradio_of_another_structure(tmp_path, sizes):
    model = load_model(_eradio(tmp_path, **sizes), device="cpu")
    output = model(torch.rand(1, 3, 96, 64), feature_fmt="NCHW")
    assert output.features.shape == (1, sizes.get("output", 24), 6, 4)
    assert output.features.isfinite().all()
    assert model.config.eradio.attention_levels[0].window_size == sizes.get("window", 3)


def test_eradio_with_what_is_off_by_default(tmp_path):
    """Layer scale, biases of queries, keys and values, grouped convolutions, a neck without its first projection."""

    def add(names: dict, state: dict) -> None:
        for name in names:
            if name.endswith("attn.qkv.weight"):
                rows = state[names[name]].shape[0]
                state[f"base_model.{name.replace('weight', 'bias')}"] = torch.rand(rows)
                block = name.removesuffix("attn.qkv.weight")
                state |= {f"base_model.{block}{g}": torch.rand(rows // 3) for g in ("gamma1", "gamma2")}
            if name.endswith("pre_conv.conv.weight"):
                state[names[name]] = state[names[name]][:, :8].clone()
            if name.startswith("high_res_neck.neck_features_proj.0."):
                del state[names[name]]

    model = load_model(_eradio(tmp_path, add, output=32), device="cpu")
    level = model.config.eradio.attention_levels[1]
    assert (level.qkv_bias, level.layer_scale, level.conv_groups) == (True, True, 8)
    assert not model.config.eradio.neck_projects_first
    output = model(torch.rand(1, 3, 64, 64))
    model.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved", device="cpu")
    assert again.config.eradio == model.config.eradio
    assert output.features.isfinite().all()


def _drop(ending: str) -> Any:
    def spoil(names: dict, state: dict) -> None:
        for name in [name for name in names if ending in name]:
            del state[names[name]]

    return spoil


def _put(name: str, *shape: int) -> Any:
    def spoil(names: dict, state: dict) -> None:
        state[f"base_model.{name}"] = torch.rand(shape)

    return spoil


SUB = "levels.2.blocks.0.attention_blocks"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop("high_res_neck"), "without 'high_res_neck' gives neither features nor a summary"),
        (_drop("neck_features_proj.0"), "neck_features_proj.0' is missing"),
        (_put("high_res_neck.neck_features_proj.2.conv1.weight", 64, 1, 3, 3), "must join two levels"),
        (_drop("cpb_mlp.2.weight"), "cpb_mlp.2.weight' is missing"),
        (_drop("levels.1.blocks.m.1.cv2.conv"), "missing: model.levels.1.blocks.m.1.cv2.conv.weight"),
        (_drop("levels.3."), "has 4 levels, the file has 3"),
        (
            _drop(f"{SUB}.1.pre_conv"),
            f"'{SUB}.1' must have either 'pre_conv' or 'downsample_op', and has neither",
        ),
        (_put(f"{SUB}.1.downsample_op.weight", 32, 32, 2, 2), "and has both"),
        (_put(f"{SUB}.0.downsample_op.weight", 32, 32, 1, 1), "is 1 x 1"),
        (_put(f"{SUB}.0.attn.pos_emb_funct.cpb_mlp.2.weight", 3, 16), "has 3 heads at width 32"),
        (
            _put(f"{SUB}.0.attn.pos_emb_funct.relative_coords_table", 1, 4, 4, 2),
            "4 wide, which is that of no window",
        ),
        (
            _put(f"{SUB}.0.attn.pos_emb_funct.relative_coords_table", 1, 1, 1, 2),
            "1 wide, which is that of no window",
        ),
        (
            _put(f"{SUB}.1.attn.pos_emb_funct.relative_coords_table", 1, 9, 9, 2),
            "misshapen: .*relative_coords_table",
        ),
        (
            _put("levels.0.downsample.reduction.conv.weight", 20, 8, 3, 3),
            "misshapen: model.levels.0.downsample",
        ),
        (_put("levels.0.downsample.reduction.conv.weight", 16, 32, 3, 3), "moving pixels into channels"),
        (_put("levels.0.blocks.cv1.conv.bias", 8), "normalization is folded"),
        (_put("levels.0.blocks.0.conv1.weight", 8, 8, 3, 3), "residual blocks instead of C2f"),
        (_put(f"{SUB}.0.downsample_mixer.weight", 32), "average pooling"),
        (_put(f"{SUB}.0.attn.qkv.weight", 64, 32), "64 rows are not queries, keys and values of 32 each"),
        (_put(f"{SUB}.0.mlp.fc1.weight", 256, 32), "gated"),
        (_put("levels.0.blocks.m.0.something", 8), "surplus: model.levels.0.blocks.m.0.something"),
    ],
)
def test_eradio_refusals_name_the_cause(tmp_path, spoil, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(_eradio(tmp_path, spoil), device="cpu")


def test_eradio_ratios_that_do_not_fit(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"lower the resolution by \(3, 2\); each must divide the largest"
    ):
        load_model(_eradio(tmp_path, ratios=((3, 2), (1,))), device="cpu")


@pytest.mark.parametrize("option", [{"use_shift": True}, {"qk_scale": 0.5}, {"multi_query": True}])
def test_eradio_options_that_change_the_arithmetic(tmp_path, option):
    with pytest.raises(CheckpointError, match=f"model_kwargs has {next(iter(option))}="):
        load_model(_eradio(tmp_path, kwargs=option), device="cpu")
    off = dict.fromkeys(option, None)
    assert load_model(_eradio(tmp_path, kwargs=off), device="cpu").embed_dim == 24


@pytest.mark.parametrize("name", ["eradio_v1", "fastervit2_large_fullres_ws16"])
def test_an_older_eradio_is_no_model(tmp_path, name):
    content = torch.load(_eradio(tmp_path, _drop("cpb_mlp")), weights_only=False)
    content["args"].model = name
    torch.save(content, tmp_path / "old.pth.tar")
    with pytest.raises(CheckpointError):
        load_model(tmp_path / "old.pth.tar", device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"merges": (0,), "splits": (0,)},
        {"depth": 5, "merges": (1, 2), "decoder_depth": 4, "splits": (2, 3), "filler": 1},
        {"num_cls_tokens": 3, "num_registers": 0, "register_multiple": 5},
        {"num_registers": 7, "prefix": 11, "downscale_levels": [1], "k_sample_config": {"type": "uniform"}},
    ],
)
def test_radio1d_of_another_structure(tmp_path, changes):
    prefix = changes.pop("prefix", 5 if "register_multiple" in changes else 10)
    sizes = {name: value for name, value in changes.items() if name in SMALL_1D}
    others = {name: value for name, value in changes.items() if name not in SMALL_1D}
    shapes = radio1d_shapes(**{**SMALL_1D, **sizes, "prefix": prefix})
    write(tmp_path / "r.pth.tar", shapes, "radio1d_huge_patch16_224", {**KWARGS, **others})
    outputs = load_model(tmp_path / "r.pth.tar", device="cpu")(torch.rand(1, 3, 80, 112), num_tokens=2)
    merges = len(sizes.get("merges", (1,)))
    assert outputs["encoder"].features.shape == (1, 2, 16 * 2**merges)
    assert outputs["decoder"].features.shape == (1, 35, 16)
    assert all(output.features.isfinite().all() for output in outputs.values())


def test_radio1d_leftovers_of_training_are_ignored(tmp_path):
    def add(state: dict) -> None:
        state["base_model._iter_count"] = torch.tensor(7)
        state["base_model.dynamic_rate_vec"] = torch.rand(16)
        state["base_model.dynamic_rate_projector.0.weight"] = torch.rand(16, 16)
        state["base_model.norm.weight"] = state["base_model.norm.bias"] = torch.rand(32)

    model = load_model(_radio1d(tmp_path, add, dynamic_rate=True), device="cpu")
    assert not model.config.final_norm


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_norm": True}, "has pre_norm"),
        ({"qk_norm": True}, "has qk_norm"),
        ({"cpe_max_size": None}, "no cpe_max_size; a RADIO1D without CPE"),
        ({"merges": (), "splits": ()}, "the width never changes in 'blocks'"),
        ({"downscale_levels": [2]}, r"downscale_levels=\[2\], but by the tensors it is \[1\]"),
        ({"decoder_upscale_levels": [0]}, r"decoder_upscale_levels=\[0\], but by the tensors it is \[1\]"),
        (
            {"num_cls_tokens": 5},
            "5 class tokens and 6 registers, but 'patch_generator.cls_token.token' has 10 rows",
        ),
        ({"num_cls_tokens": -1}, "num_cls_tokens must be a whole number"),
        ({"num_heads": 3}, "attention of width 16 cannot have 3 heads"),
        (
            {"num_heads": None, "model": "radio1d_giant"},
            "unknown architecture 'radio1d_giant'; supported: radio1d_large",
        ),
        ({"merges": (1, 2)}, "merges 2 times and the decoder splits 1 times|wide after a width"),
    ],
)
def test_radio1d_refusals_name_the_cause(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(_radio1d(tmp_path, **changes), device="cpu")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("decoder.filler_tokens", (5, 32), "5 'decoder.filler_tokens' are not a square grid"),
        ("blocks.2.norm1.weight", (24,), "'blocks.2.norm1.weight' is 24 wide after a width of 32"),
        ("decoder.prefix_tokens", (9, 32), "misshapen: model.decoder.prefix_tokens"),
        ("downscale_blocks.1.norm.weight", (9,), "surplus: model.downscale_blocks.1.norm.weight"),
    ],
)
def test_radio1d_tensors_that_contradict_each_other(tmp_path, name, shape, message):
    def spoil(state: dict) -> None:
        state[f"base_model.{name}"] = torch.rand(shape)

    with pytest.raises(CheckpointError, match=message):
        load_model(_radio1d(tmp_path, spoil), device="cpu")
