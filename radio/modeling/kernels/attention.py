"""Attention among tokens, and which kernel computes it."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.modeling.kernels.convolution import multiply
from radio.modeling.kernels.cpu import (
    has_slow_bfloat16_attention,
    has_slow_float32_products,
    may_choose_kernel,
)

_BY_HEAD_FROM = 2**17
"""Scores of a head from which matrix products pay: 362 tokens of one image."""

_SCORES_AT_ONCE = 2**23
"""Scores in memory at a time: 16 MiB, and as much for what softmax makes of them."""

_CONVOLVE_FROM = 512
"""Tokens of an image from which convolutions pay, with a single thread."""

_CONVOLVED_AT_ONCE = 2**21
"""Scores in memory at a time, which the processor's caches hold: 8 MiB."""


class Attend(Protocol):
    """How queries, keys and values (B, heads, N, head_dim) become attended values of the same shape."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


def attend_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All N tokens of an image see each other."""
    if is_faster_by_head(q, k, v):
        return attend_by_head(q, k, v)
    if is_faster_by_convolution(q, k, v):
        return attend_by_convolution(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def is_faster_by_head(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `attend_by_head` is faster than PyTorch's fused kernel for queries (B, heads, N, head_dim).

    That is bfloat16 on some CPUs; see `has_slow_bfloat16_attention`.
    """
    if q.dtype != torch.bfloat16 or not may_choose_kernel(q, k, v):
        return False
    return q.shape[0] * q.shape[2] ** 2 >= _BY_HEAD_FROM and has_slow_bfloat16_attention()


def attend_by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as matrix products, one head and a limited number of scores at a time.

    The scores are rounded to the dtype of the queries, which the fused kernels do not do.

    Args:
        q, k, v: (B, heads, N, head_dim).

    Returns:
        (B, heads, N, head_dim).
    """
    batch, heads, tokens, width = q.shape
    images = max(1, _SCORES_AT_ONCE // tokens**2)
    pieces = math.ceil(tokens**2 / _SCORES_AT_ONCE)
    scale = width**-0.5
    unused = q.new_empty(())
    attended = q.new_empty(batch, tokens, heads, width)
    for some_q, some_k, some_v, result in zip(*(t.split(images) for t in (q, k, v, attended)), strict=True):
        for head in range(heads):
            keys, values = some_k[:, head].transpose(1, 2), some_v[:, head]
            rows = zip(some_q[:, head].chunk(pieces, 1), result[:, :, head].chunk(pieces, 1), strict=True)
            for queries, place in rows:
                # Scaled before they are rounded, which a product with scaled queries is not.
                scores = torch.baddbmm(unused, queries, keys, beta=0, alpha=scale)
                place.copy_(scores.softmax(-1) @ values)
    return attended.transpose(1, 2)


def is_faster_by_convolution(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `attend_by_convolution` is faster than PyTorch's fused kernel for queries (B, heads, N, head_dim).

    That is float32 with a single thread on some CPUs; see `has_slow_float32_products`. Of several threads each computes
    heads of its own in the fused kernel, which is faster than all of them at one head.
    """
    if q.dtype != torch.float32 or not may_choose_kernel(q, k, v):
        return False
    return q.shape[2] >= _CONVOLVE_FROM and torch.get_num_threads() == 1 and has_slow_float32_products()


def attend_by_convolution(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as convolutions, one head of one image and a limited number of scores at a time.

    Args:
        q, k, v: (B, heads, N, head_dim).

    Returns:
        (B, heads, N, head_dim).
    """
    batch, heads, tokens, width = q.shape
    pieces = math.ceil(tokens**2 / _CONVOLVED_AT_ONCE)
    attended = q.new_empty(batch, tokens, heads, width)
    for image in range(batch):
        for head in range(heads):
            keys, values = k[image, head].contiguous(), v[image, head].T.contiguous()
            queries = q[image, head] * width**-0.5
            rows = zip(queries.chunk(pieces), attended[image, :, head].chunk(pieces), strict=True)
            for some, place in rows:
                place.copy_(multiply(multiply(some, keys).softmax(-1), values))
    return attended.transpose(1, 2)
