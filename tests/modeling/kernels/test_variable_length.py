"""The real variable-length attention operator takes what the packed pass gives it: tensors without data."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from radio import load_model

varlen = pytest.importorskip("torch.nn.attention.varlen", reason="this PyTorch has no such kernel")


def test_packed_pass_calls_the_operator_of_the_gpu(reference, monkeypatch):
    model = load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu", adaptors=["clip"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    calls = []
    operator = varlen.varlen_attn

    def watched(q, k, v, *boundaries):
        calls.append((q, *boundaries))
        return operator(q, k, v, *boundaries)

    monkeypatch.setattr(varlen, "varlen_attn", watched)
    with FakeTensorMode(), torch.inference_mode():
        weights = {
            name: torch.empty(value.shape, dtype=torch.bfloat16, device="cuda")
            for name, value in [*model.named_parameters(), *model.named_buffers()]
        }
        images = [torch.empty(3, h, w, device="cuda") for h, w in ((64, 96), (96, 64), (128, 128))]
        outputs = torch.func.functional_call(model, weights, (images,))
    assert [output["backbone"].features.shape for output in outputs] == [(1, n, 64) for n in (24, 24, 64)]
    assert all(value.is_cuda for output in outputs for part in output.values() for value in part)
    assert len(calls) == len(model.blocks)
    prefix = model.num_summary_tokens
    for q, starts, same_starts, longest, same_longest in calls:
        assert q.shape == (112 + 3 * prefix, model.blocks[0].attn.num_heads, model.blocks[0].attn.head_dim)
        assert q.stride(-1) == 1 and q.dtype == torch.bfloat16
        assert (
            starts is same_starts and starts.shape == (4,) and starts.dtype == torch.int32 and starts.is_cuda
        )
        assert longest == same_longest == 64 + prefix
