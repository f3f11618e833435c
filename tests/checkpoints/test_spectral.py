"""Folding of spectral reparametrization, against an obvious double-precision re-implementation, and broken factors."""

from __future__ import annotations

import math

import pytest
import torch
from released import VERSIONS, make_checkpoint
from torch import Tensor

from radio import CheckpointError, load_model
from radio.checkpoints.spectral import fold_spectral


def _factors(rows: int, columns: int, version: int | None = None) -> dict[str, Tensor]:
    factors = {"scale": torch.tensor([[1.7]]), "_u": torch.randn(rows), "_v": torch.randn(columns)}
    if version is not None:
        factors["_sn_version"] = torch.tensor(version)
    return factors


def _expected(weight: Tensor, factors: dict[str, Tensor], eps: float) -> Tensor:
    weight, u, v = weight.double(), factors["_u"].double(), factors["_v"].double()
    u = weight @ v
    u = u / max(u.norm(), eps)
    v = weight.T @ u
    v = v / max(v.norm(), eps)
    scale = float(factors["scale"])
    if int(factors.get("_sn_version", torch.tensor(1))) == 2:
        scale = math.log1p(math.exp(scale)) + 0.05
    return (weight * scale / (u @ weight @ v + eps)).float()


def _named(layer: str, weight: Tensor, parts: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    names = {f"{layer}.parametrizations.weight.original": weight}
    for prefix, factors in parts.items():
        names |= {
            f"{layer}.parametrizations.weight.0.{prefix}{name}": value for name, value in factors.items()
        }
    return names


@pytest.mark.parametrize("version", [None, 1, 2])
@pytest.mark.parametrize("setting", [True, {"eps": 1e-3}, {}])
def test_one_weight(version, setting):
    torch.manual_seed(0)
    weight, factors = torch.randn(6, 4), _factors(6, 4, version)
    tensors = _named("a.proj", weight, {"": factors}) | {"a.proj.bias": torch.ones(6)}
    folded = fold_spectral(tensors, setting)
    assert folded.keys() == {"a.proj.weight", "a.proj.bias"}
    eps = setting.get("eps", 1e-12) if isinstance(setting, dict) else 1e-6
    assert torch.allclose(folded["a.proj.weight"], _expected(weight, factors, eps), atol=1e-6)
    assert folded["a.proj.bias"] is tensors["a.proj.bias"]


def test_qkv_in_three_parts_and_w12_in_two():
    torch.manual_seed(0)
    qkv, w12 = torch.randn(12, 4), torch.randn(10, 4)
    qkv_parts = {f"parts.{i}.": _factors(4, 4) for i in range(3)}
    w12_parts = {f"parts.{i}.": _factors(5, 4) for i in range(2)}
    folded = fold_spectral(_named("attn.qkv", qkv, qkv_parts) | _named("mlp.w12", w12, w12_parts), True)
    expected = [_expected(c, f, 1e-6) for c, f in zip(qkv.chunk(3), qkv_parts.values(), strict=True)]
    assert torch.allclose(folded["attn.qkv.weight"], torch.cat(expected), atol=1e-6)
    expected = [_expected(c, f, 1e-6) for c, f in zip(w12.chunk(2), w12_parts.values(), strict=True)]
    assert torch.allclose(folded["mlp.w12.weight"], torch.cat(expected), atol=1e-6)


def test_the_values_of_qkv_may_be_left_as_they_are():
    torch.manual_seed(0)
    qkv = torch.randn(12, 4)
    folded = fold_spectral(_named("attn.qkv", qkv, {f"parts.{i}.": _factors(4, 4) for i in range(2)}), True)
    assert torch.equal(folded["attn.qkv.weight"][8:], qkv[8:])
    assert not torch.allclose(folded["attn.qkv.weight"][:8], qkv[:8])


def test_half_precision_weights_are_folded_in_float32_and_keep_their_dtype():
    torch.manual_seed(0)
    weight, factors = torch.randn(6, 4).bfloat16(), _factors(6, 4)
    folded = fold_spectral(_named("proj", weight, {"": factors}), True)["proj.weight"]
    assert folded.dtype == torch.bfloat16
    assert torch.equal(folded, _expected(weight, factors, 1e-6).bfloat16())


def test_the_tensors_given_are_not_changed():
    weight, factors = torch.randn(6, 4), _factors(6, 4, 2)
    tensors = _named("proj", weight, {"": factors})
    before = {name: value.clone() for name, value in tensors.items()}
    fold_spectral(tensors, True)
    assert all(torch.equal(before[name], tensors[name]) for name in before)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.pop("original"), "original is missing"),
        (lambda p: p.pop("0._u"), "_u is missing"),
        (lambda p: p.pop("0.scale"), "scale is missing"),
        (lambda p: p.update({"0._v": torch.zeros(3)}), "do not fit its weight"),
        (lambda p: p.update({"0.scale": torch.zeros(3)}), "do not fit its weight"),
        (lambda p: p.update({"0._sn_version": torch.zeros(3)}), "do not fit its weight"),
        (lambda p: p.update({"original": torch.zeros(3)}), "do not fit its weight"),
    ],
)
def test_broken_factors_name_the_layer(spoil, message, tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    content = make_checkpoint(path, VERSIONS["radio_v2.5-b"], small=True, dtype=torch.float32)
    state = content["state_dict"]
    layer = "base_model.blocks.0.attn.proj"
    weight = state.pop(f"{layer}.weight")
    factors = {"original": weight} | {f"0.{name}": value for name, value in _factors(*weight.shape).items()}
    spoil(factors)
    state |= {f"{layer}.parametrizations.weight.{name}": value for name, value in factors.items()}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(path, device="cpu")
    assert "blocks.0.attn.proj" in str(error.value)


@pytest.mark.parametrize("eps", ["x", None, [1]])
def test_an_epsilon_that_is_no_number(eps, tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    content = make_checkpoint(path, VERSIONS["radio_v2.5-b"], small=True, dtype=torch.float32)
    content["args"].spectral_reparam = {"eps": eps}
    layer = "base_model.blocks.0.attn.proj"
    weight = content["state_dict"].pop(f"{layer}.weight")
    content["state_dict"] |= _named(layer, weight, {"": _factors(*weight.shape)})
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="does not describe a RADIO model"):
        load_model(path, device="cpu")


def test_a_hub_repository_is_folded_too(reference, tmp_path):
    """Weights that were uploaded as they were trained load like the torch file they came from."""
    from argparse import Namespace

    from radio.checkpoints import read_content
    from radio.checkpoints.hub_repo import config_to_json

    file = reference / "spectral" / "checkpoint.pth.tar"
    model = load_model(file, device="cpu")
    content = read_content(file)
    config = config_to_json(model.config)
    assert isinstance(content["args"], Namespace)
    config["args"]["spectral_reparam"] = content["args"].spectral_reparam
    config["adaptor_configs"] = {}
    _write_repository(tmp_path, config, content["state_dict"])
    again = load_model(tmp_path, device="cpu")
    # Folding multiplies matrices, which may round differently where the tensors lie in the two files.
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=1e-6, atol=1e-7)


def _write_repository(folder, config: dict, state: dict[str, Tensor]) -> None:
    import json

    from safetensors.torch import save_file

    tensors = {
        "radio_model." + name.replace("base_model.", "model.", 1): value.contiguous()
        for name, value in state.items()
        if name.startswith(("base_model.", "input_conditioner."))
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
