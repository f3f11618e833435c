"""int8 through torchao: nearly the same outputs in a quarter of the memory."""

from __future__ import annotations

import copy
import sys

import onnx
import pytest
import torch
import torch.nn.functional as F

from radio import MissingExtraError, RADIOModel, load_model
from radio.errors import ExportError
from radio.export import export_model
from radio.quantization import is_quantized, quantize


def _load(reference, name: str = "v2_5", **options) -> RADIOModel:
    return load_model(reference / name / "checkpoint.pth.tar", device="cpu", **options)


def _image() -> torch.Tensor:
    return torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))


def _similarity(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float(F.cosine_similarity(actual.float(), expected.float(), dim=-1).min())


@pytest.mark.parametrize("mode", ["int8_weight_only", "int8_dynamic"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.inference_mode()
def test_outputs_point_the_same_way(reference, mode, dtype):
    expected = _load(reference, adaptors=["clip"])(_image())
    model = quantize(_load(reference, adaptors=["clip"], dtype=dtype), mode)
    assert is_quantized(model)
    outputs = model(_image())
    assert outputs["backbone"].features.dtype == getattr(torch, dtype)
    for name in ("backbone", "clip"):
        assert _similarity(outputs[name].summary, expected[name].summary) > 0.995
        assert _similarity(outputs[name].features, expected[name].features) > 0.995


@torch.inference_mode()
def test_windows_packing_and_intermediates(reference):
    model = quantize(_load(reference, vitdet_window_size=2))
    images = list(_image())
    for output, image in zip(model(images), images, strict=True):
        assert _similarity(output.features, model(image[None]).features) > 0.9999
    assert len(model.forward_intermediates(_image(), 3, intermediates_only=True)) == 3


def test_blocks_are_int8_and_the_rest_is_not(reference):
    model = _load(reference, adaptors=["clip"])
    before = {name for name, p in model.named_parameters() if type(p) is torch.nn.Parameter}
    quantize(model)
    after = {name for name, p in model.named_parameters() if type(p) is torch.nn.Parameter}
    changed = before - after
    suffixes = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    assert changed == {f"model.blocks.{i}.{suffix}" for i in range(12) for suffix in suffixes}
    assert model.blocks[0].mlp.fc1.weight.qdata.dtype == torch.int8
    assert model.dtype == torch.float32


@torch.inference_mode()
def test_copies_stay_quantized(reference):
    model = quantize(_load(reference))
    twin = copy.deepcopy(model)
    assert is_quantized(twin)
    assert torch.equal(twin(_image()).features, model(_image()).features)


def test_bad_requests(reference):
    model = _load(reference)
    with pytest.raises(ValueError, match="unknown mode 'int4'; allowed: int8_weight_only, int8_dynamic"):
        quantize(model, "int4")
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        quantize(model.train())
    quantize(model.eval())
    with pytest.raises(ValueError, match="quantized already"):
        quantize(model)


def test_a_missing_package_is_named_with_its_extra(reference, monkeypatch):
    model = _load(reference)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(MissingExtraError, match=r"pip install '.*\[quantize\]'"):
        quantize(model)
    assert not is_quantized(model)


def test_weight_only_exports_to_onnx(reference, tmp_path):
    model = quantize(_load(reference, adaptors=["clip"]), "int8_weight_only")
    checks = export_model(model, tmp_path / "model.onnx", dynamic=["batch", "height", "width"], check=True)
    assert max(error for check in checks for error in check.errors.values()) < 1e-5
    weights = onnx.load(tmp_path / "model.onnx").graph.initializer
    int8 = [weight for weight in weights if weight.data_type == onnx.TensorProto.INT8]
    # qkv, fc1 and fc2; PyTorch's exporter folds constants of a few thousand values, here proj (64 x 64), to float.
    assert len(int8) == 3 * len(model.blocks)


def test_dynamic_exports_to_torch_export_only(reference, tmp_path):
    model = quantize(_load(reference), "int8_dynamic")
    with pytest.raises(ExportError, match=r"_int_mm.*int8_weight_only.*\.pt2"):
        export_model(model, tmp_path / "model.onnx", size=(64, 64))
    assert not list(tmp_path.iterdir())
    (check,) = export_model(model, tmp_path / "model.pt2", size=(64, 64), check=True)
    assert max(check.errors.values()) < 1e-5


def test_a_quantised_model_is_not_saved_half(reference, tmp_path):
    model = quantize(_load(reference), "int8_weight_only")
    with pytest.raises(RuntimeError, match="quantized"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
