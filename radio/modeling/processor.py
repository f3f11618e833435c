"""What this machine's processor does badly with the kernels that PyTorch chooses by itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch


def has_slow_bfloat16_attention() -> bool:
    """Whether PyTorch's fused attention in bfloat16 is far slower than its matrix products in bfloat16.

    So it is on a CPU that multiplies bfloat16 (AVX-512 BF16) without a matrix unit (AMX).
    """
    able = _capabilities()
    return bool(able.get("avx512_bf16")) and not able.get("amx_bf16")


def has_slow_float32_products() -> bool:
    """Whether PyTorch's matrix products in float32 are far slower than its convolutions in float32.

    So it is on processors of AMD with AVX-512: products go through MKL, which does not use it there, and convolutions
    through oneDNN, which does. With a single thread PyTorch convolves with MKL as well.
    """
    able = _capabilities()
    return (
        str(able.get("cpu_name")).startswith("AMD")
        and bool(able.get("avx512_f"))
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.get_num_threads() > 1
    )


def may_choose_kernel(x: torch.Tensor) -> bool:
    """Whether the kernel for `x` is ours to choose: on a CPU, without gradients, not while a graph is traced.

    Ask this before the shape of `x`, so that a traced graph does not depend on it.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not (torch.is_grad_enabled() and x.requires_grad)


@cache
def _capabilities() -> Mapping[str, Any]:
    return torch.cpu.get_capabilities()
