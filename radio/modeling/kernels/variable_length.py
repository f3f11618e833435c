"""Attention within segments of a row: sequences of different lengths, one after the other in one batch entry."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import accumulate, groupby

import torch
from einops import rearrange
from torch import Tensor

from radio.modeling.kernels.attention import Attend, attend_all

_IN_THIS_PYTORCH = find_spec("torch.nn.attention.varlen") is not None


def attention_within(lengths: Sequence[int]) -> Attend:
    """Attention among the tokens of each segment; for a single segment that is `attend_all` itself."""
    return attend_all if len(lengths) == 1 else VariableLengthAttention(lengths)


class VariableLengthAttention:
    """Tokens attend within their own segment of a row.

    Attributes:
        lengths: Length of each segment.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = tuple(lengths)
        self._runs = [(length, len(list(run))) for length, run in groupby(self.lengths)]
        self._boundaries: Tensor | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend within each segment.

        A GPU does it in one kernel for segments of any lengths, in half precision and without gradients.
        Otherwise each run of segments of equal length is one batch of `attend_all`.

        Args:
            q, k, v: (1, heads, sum of lengths, head_dim).

        Returns:
            (1, heads, sum of lengths, head_dim).
        """
        if has_variable_length_kernel(q):
            return self._attend_at_once(q, k, v)
        sizes = [length * count for length, count in self._runs]
        runs = zip(self._runs, *(tensor.split(sizes, dim=2) for tensor in (q, k, v)), strict=True)
        attended = [_attend_equal(length, *run) for (length, _), *run in runs]
        return torch.cat(attended, dim=1).transpose(1, 2)

    def _attend_at_once(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Imported here because it brings the compiler with it, which takes longer than loading a model.
        from torch.nn.attention.varlen import varlen_attn

        if self._boundaries is None:
            boundaries = torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32)
            self._boundaries = boundaries.to(q.device, non_blocking=True)
        longest = max(self.lengths)
        q, k, v = (rearrange(tensor, "1 heads n d -> n heads d") for tensor in (q, k, v))
        attended = varlen_attn(q, k, v, self._boundaries, self._boundaries, longest, longest)
        assert isinstance(attended, Tensor)
        return rearrange(attended, "n heads d -> 1 heads n d")


def has_variable_length_kernel(q: Tensor) -> bool:
    """Whether PyTorch attends within segments of different lengths in one kernel for queries like these.

    That is flash attention of newer versions of PyTorch: NVIDIA GPUs since Ampere, float16 or bfloat16, heads of a
    width that is a multiple of 8 and at most 256. It is used without gradients only.
    """
    if (
        not _IN_THIS_PYTORCH
        or not q.is_cuda
        or torch.version.hip is not None
        or q.dtype not in (torch.float16, torch.bfloat16)
    ):
        return False
    if torch.is_grad_enabled() and q.requires_grad:
        return False
    if q.shape[-1] % 8 or q.shape[-1] > 256 or not torch.backends.cuda.flash_sdp_enabled():
        return False
    return torch.cuda.get_device_capability(q.device) >= (8, 0)


def _attend_equal(length: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention within segments of one length: (1, heads, N, head_dim) to (1, N, heads, head_dim)."""
    if q.shape[2] == length:
        return attend_all(q, k, v).transpose(1, 2)
    q, k, v = (rearrange(tensor, "1 heads (s n) d -> s heads n d", n=length) for tensor in (q, k, v))
    return rearrange(attend_all(q, k, v), "s heads n d -> 1 (s n) heads d")
