"""Attention by heads: the same as the fused kernel, where it is chosen and where it is not."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from radio import load_model
from radio.modeling.kernels import attention, cpu
from radio.modeling.kernels.attention import (
    attend_all,
    attend_by_convolution,
    attend_by_head,
    is_faster_by_convolution,
    is_faster_by_head,
)


def _queries_keys_values(*shape: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Laid out as the projection leaves them: (B, N, 3, heads, head_dim) in memory."""
    batch, heads, tokens, width = shape
    packed = torch.randn(batch, tokens, 3, heads, width, generator=torch.Generator().manual_seed(0))
    return list(packed.to(dtype).permute(2, 0, 3, 1, 4).unbind(0))


@pytest.mark.parametrize("scores_at_once", [2**23, 5000, 30, 1])
@pytest.mark.parametrize("shape", [(1, 3, 50, 64), (5, 2, 33, 80), (7, 1, 1, 16)])
def test_equals_the_fused_kernel_in_pieces_of_any_size(monkeypatch, shape, scores_at_once):
    monkeypatch.setattr(attention, "_SCORES_AT_ONCE", scores_at_once)
    qkv = _queries_keys_values(*shape, dtype=torch.float64)
    attended = attend_by_head(*qkv)
    assert attended.shape == shape
    torch.testing.assert_close(attended, F.scaled_dot_product_attention(*qkv), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 12, 400, 64), (20, 4, 256, 80)])
def test_bfloat16_is_close_to_float64(shape):
    qkv = _queries_keys_values(*shape, dtype=torch.bfloat16)
    precise = F.scaled_dot_product_attention(*(t.double() for t in qkv))
    assert (attend_by_head(*qkv) - precise).abs().max() <= 2e-2 * precise.abs().max()


@pytest.mark.parametrize("scores_at_once", [2**21, 5000, 30, 1])
@pytest.mark.parametrize("shape", [(1, 3, 50, 64), (5, 2, 33, 80), (2, 1, 1, 16)])
def test_convolutions_equal_the_fused_kernel_in_pieces_of_any_size(monkeypatch, shape, scores_at_once):
    monkeypatch.setattr(attention, "_CONVOLVED_AT_ONCE", scores_at_once)
    qkv = _queries_keys_values(*shape, dtype=torch.float32)
    attended = attend_by_convolution(*qkv)
    assert attended.shape == shape
    torch.testing.assert_close(attended, F.scaled_dot_product_attention(*qkv), rtol=1e-5, atol=1e-6)


def _errors(reference, monkeypatch, by_head: bool) -> list[float]:
    """How far the features of a bfloat16 model are from float32, relative to their norm, alone and packed."""
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")
    images = [
        torch.rand(3, *size, generator=torch.Generator().manual_seed(1)) for size in ((256, 320), (288, 224))
    ]
    half = copy.deepcopy(model).to(torch.bfloat16)
    monkeypatch.setattr(attention, "is_faster_by_head", lambda *qkv: by_head)
    with torch.inference_mode():
        precise = [model(image[None]).features for image in images]
        outputs = [half(image[None]).features for image in images] + [o.features for o in half(images)]
    return [
        float((found.float() - right).norm() / right.norm())
        for found, right in zip(outputs, precise * 2, strict=True)
    ]


def test_a_model_is_as_precise_as_with_the_fused_kernel(reference, monkeypatch):
    fused = _errors(reference, monkeypatch, by_head=False)
    by_head = _errors(reference, monkeypatch, by_head=True)
    for ours, theirs in zip(by_head, fused, strict=True):
        assert ours != theirs
        assert ours <= 1.1 * theirs


@pytest.fixture
def processor_with(monkeypatch):
    """Pretend that the processor has these abilities, and no others."""
    return lambda **able: monkeypatch.setattr(cpu, "cpu_abilities", lambda: able)


def test_chosen_for_many_bfloat16_tokens_without_a_matrix_unit(processor_with):
    processor_with(avx512_bf16=True, amx_bf16=False)
    q = torch.empty(1, 2, 400, 64, dtype=torch.bfloat16)
    assert is_faster_by_head(q, q, q)
    windows = q[:, :, :64].expand(64, -1, -1, -1)
    assert is_faster_by_head(windows, windows, windows)
    for other in (q[:, :, :200], q.float(), q.to("meta")):
        assert not is_faster_by_head(other, other, other)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not is_faster_by_head(q, q, q)
    for able in (
        {"avx512_bf16": True, "amx_bf16": True},
        {"avx512_bf16": False},
        {"architecture": "aarch64"},
    ):
        processor_with(**able)
        assert not is_faster_by_head(q, q, q)


def test_convolved_for_many_float32_tokens_with_one_thread_of_amd(processor_with, monkeypatch):
    threads = 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    q = torch.empty(2, 2, 600, 64)
    processor_with(cpu_name="Intel Xeon", avx512_f=True)
    assert not is_faster_by_convolution(q, q, q)
    processor_with(cpu_name="AMD EPYC", avx512_f=True)
    both_libraries = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    assert is_faster_by_convolution(q, q, q) == both_libraries
    for other in (q[:, :, :200], q.bfloat16(), q.double(), q.to("meta"), q.clone().requires_grad_()):
        assert not is_faster_by_convolution(other, other, other)
    threads = 2
    assert not is_faster_by_convolution(q, q, q)


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_gradients_reach_each_of_the_three(processor_with, which):
    processor_with(avx512_bf16=True)
    qkv = dict(zip("qkv", _queries_keys_values(1, 2, 400, 16, dtype=torch.bfloat16), strict=True))
    watched = qkv[which].requires_grad_()
    attend_all(**qkv).sum().backward()
    assert watched.grad is not None
    with torch.no_grad():
        assert is_faster_by_head(**qkv)


def test_traced_graphs_serve_other_sizes(processor_with):
    processor_with(avx512_bf16=True)
    example = tuple(_queries_keys_values(1, 2, 400, 16, dtype=torch.bfloat16))
    traced = torch.jit.trace(attend_all, example, check_trace=False)
    other = _queries_keys_values(9, 2, 300, 16, dtype=torch.bfloat16)
    assert torch.equal(traced(*other), F.scaled_dot_product_attention(*other))


def test_compiled_graphs_keep_the_fused_kernel(processor_with):
    processor_with(avx512_bf16=True)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph.code)
        return graph

    compiled = torch.compile(attend_all, backend=keep, fullgraph=True, dynamic=True)
    for tokens in (400, 20, 500):
        compiled(*_queries_keys_values(2, 2, tokens, 16, dtype=torch.bfloat16))
    assert len(graphs) == 1
    assert "scaled_dot_product_attention" in graphs[0]
