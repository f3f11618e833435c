"""Linear layers as convolutions: the same numbers, and only where nothing else depends on it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from radio import load_model
from radio.modeling.kernels import adaptive_linear, cpu
from radio.modeling.kernels.adaptive_linear import AdaptiveLinear
from radio.quantization import quantize

AMD = {"cpu_name": "AMD EPYC", "avx512_f": True}


@pytest.fixture
def convolutions(monkeypatch):
    """The shapes of all convolutions, on a processor that is told to be slow at products."""
    seen = []
    convolve = F.conv2d

    def watched(x, *others, **options):
        seen.append(tuple(x.shape))
        return convolve(x, *others, **options)

    monkeypatch.setattr(adaptive_linear, "has_slow_float32_products", lambda: True)
    monkeypatch.setattr(F, "conv2d", watched)
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 128, 48), (3, 70, 48), (300, 48), (2, 3, 50, 48)])
def test_equals_float64(convolutions, shape, bias):
    torch.manual_seed(0)
    layer, x = AdaptiveLinear(48, 72, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        result = layer(x)
        precise = layer.double()(x.double())
    assert len(convolutions) == 1
    assert result.shape == (*shape[:-1], 72) and result.is_contiguous()
    torch.testing.assert_close(result.double(), precise, rtol=1e-5, atol=1e-5)


def test_tokens_that_are_not_contiguous(convolutions):
    layer, x = AdaptiveLinear(48, 72), torch.randn(2, 48, 100).transpose(1, 2)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)
    assert len(convolutions) == 1


def test_everything_else_is_a_product(convolutions):
    layer, x = AdaptiveLinear(48, 72), torch.randn(200, 48)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    layer(x.clone().requires_grad_()).sum().backward()
    layer(x[:100])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    torch.compile(layer, backend="eager", fullgraph=True)(x)
    layer.bfloat16()(x.bfloat16())
    assert convolutions == []


def test_a_whole_model_in_every_way_of_running_it(reference, convolutions, monkeypatch):
    """Batches, windows and packed lists, with the numbers of plain products."""
    file = reference / "v2_5" / "checkpoint.pth.tar"
    model = load_model(file, device="cpu", vitdet_window_size=2, vitdet_num_windowed=2, adaptors=["clip"])
    images = [torch.rand(3, *size) for size in ((256, 192), (192, 320))]
    with torch.inference_mode():
        found = [model(images[0].expand(2, -1, -1, -1)), *model(images)]
        layers = sum(isinstance(module, AdaptiveLinear) for module in model.modules())
        of_summaries = sum(
            isinstance(module, AdaptiveLinear) for module in model.adaptors["clip"].head_mlp.modules()
        )
        assert len(convolutions) == 2 * (layers - of_summaries)
        monkeypatch.setattr(adaptive_linear, "has_slow_float32_products", lambda: False)
        expected = [model(images[0].expand(2, -1, -1, -1)), *model(images)]
    for ours, right in zip(found, expected, strict=True):
        for name, output in right.items():
            for actual, correct in zip(ours[name], output, strict=True):
                assert (actual - correct).abs().max() <= 1e-5 * correct.abs().max()


@pytest.mark.parametrize("mode", ["int8_weight_only", "int8_dynamic"])
def test_quantised_weights_are_left_to_torchao(reference, convolutions, mode):
    pytest.importorskip("torchao")
    model = quantize(load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu"), mode)
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 256, 256)).features.isfinite().all()
    assert len(convolutions) == 1  # the patch projection, which is not quantized


def test_a_wrong_width_is_told_as_by_pytorch(convolutions):
    with torch.inference_mode(), pytest.raises(RuntimeError, match="200x144 and 48x72"):
        AdaptiveLinear(48, 72)(torch.randn(200, 144))


def test_chosen_on_processors_of_amd(monkeypatch):
    able = AMD
    monkeypatch.setattr(cpu, "cpu_abilities", lambda: able)
    both_libraries = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    assert cpu.has_slow_float32_products() == both_libraries
    with torch.backends.mkldnn.flags(enabled=False):
        assert not cpu.has_slow_float32_products()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not cpu.has_slow_float32_products()
    finally:
        torch.set_float32_matmul_precision(before)
    for other in (AMD | {"cpu_name": "Intel Xeon"}, AMD | {"avx512_f": False}, {"architecture": "aarch64"}):
        able = other
        assert not cpu.has_slow_float32_products()
