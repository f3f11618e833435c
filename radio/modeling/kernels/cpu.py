"""What this machine's processor does badly with the kernels that PyTorch chooses by itself."""

from __future__ import annotations

from typing import Any

import torch


def has_slow_bfloat16_attention() -> bool:
    """Whether PyTorch's fused attention in bfloat16 is far slower than its matrix products in bfloat16.

    So it is on a CPU that multiplies bfloat16 (AVX-512 BF16) without a matrix unit (AMX): products go through oneDNN,
    the products inside of attention do not. Measured on AMD's Zen 5.
    """
    able = cpu_abilities()
    return bool(able.get("avx512_bf16")) and not able.get("amx_bf16") and _uses_onednn()


def has_slow_float32_products() -> bool:
    """Whether PyTorch's matrix products in float32 are far slower than its convolutions in float32.

    So it is on processors of AMD with AVX-512: products go through MKL, which does not use it there, and convolutions
    through oneDNN, which does. Not so when the user allows float32 products in a lower precision. Measured on AMD's
    Zen 5.
    """
    able = cpu_abilities()
    return (
        str(able.get("cpu_name")).startswith("AMD")
        and bool(able.get("avx512_f"))
        and torch.backends.mkl.is_available()
        and _uses_onednn()
        and _multiplies_in_full_float32()
    )


def may_choose_kernel(*tensors: torch.Tensor) -> bool:
    """Whether the kernel for these is ours to choose: on a CPU, without gradients, not while a graph is traced.

    Ask this before the shapes, so that a traced graph does not depend on them.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    needs_gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not needs_gradients and all(tensor.device.type == "cpu" for tensor in tensors)


def cpu_abilities() -> dict[str, Any]:
    """What the processor can do. Empty where PyTorch is too old to tell, which keeps PyTorch's own kernels."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    return {} if tell is None else dict(tell())


def _multiplies_in_full_float32() -> bool:
    products = getattr(torch.backends.mkldnn, "matmul", None)
    if products is None:  # before PyTorch 2.9 there is one setting for all libraries
        return torch.get_float32_matmul_precision() == "highest"
    return products.fp32_precision in ("none", "ieee")


def _uses_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
