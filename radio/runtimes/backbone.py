"""The backbone of a model that runs elsewhere than in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from radio.modeling.layout import TokenLayout
from radio.modeling.protocol import Collector, Option, ReadOut
from radio.modeling.token_merging.block_merger import BlockMerger
from radio.modeling.windows import Windows
from radio.runtimes.protocol import Graph, Runtime


@dataclass(frozen=True)
class GraphOutput:
    """One output of a graph: a `ReadOut` without its tokens.

    Attributes:
        name, on_grid: As there.
        prefix: Number of prefix tokens.
    """

    name: str
    on_grid: bool
    prefix: int


class RuntimeBackbone(nn.Module):
    """A backbone whose weights and arithmetic are a runtime's. Inference only.

    Args:
        runtime: The runtime.
        graph: The graph, opened.
        outputs: What it gives.
        windows: The ViTDet windows that are in it.
        patch_size: Side of a patch, in pixels.
        dtype: What it computes in, and the dtype of its tokens.
        digest: A hash of its weights.
        refused: What the backbone cannot do in PyTorch either.

    Attributes:
        anchor: A parameter without elements. It has the dtype and device of the model, which much code asks of its
            parameters.
        digest: The hash of the weights, (32,) uint8, so that it is part of the model's state as weights would be.
    """

    digest: Tensor
    packs = False
    patch_generator = None
    grad_checkpointing = False

    def __init__(
        self,
        runtime: Runtime,
        graph: Graph,
        outputs: Sequence[GraphOutput],
        windows: Windows | None,
        patch_size: int,
        dtype: torch.dtype,
        digest: str,
        refused: Mapping[Option, str],
    ) -> None:
        super().__init__()
        self.runtime = runtime.name
        self.refuses: Mapping[Option, str] = {**_refusals(runtime), **refused}
        self.anchor = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
        self.register_buffer("digest", torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8))
        self._title = runtime.title
        self._graph = graph
        self._outputs = outputs
        self._windows = windows
        self._patch_size = patch_size

    def read(
        self,
        x: Tensor | Sequence[Tensor],
        windows: Windows | None = None,
        collector: Collector | None = None,
        merger: BlockMerger | None = None,
        num_tokens: int | None = None,
    ) -> Sequence[ReadOut]:
        """Run a batch, as `radio.modeling.protocol.BackboneProtocol` says.

        Raises:
            RuntimeError: Gradients are asked for, or ``torch.compile`` is at work.
            ValueError: The ViTDet windows are not those that the model was loaded with.
        """
        assert isinstance(x, Tensor) and collector is None and merger is None and num_tokens is None
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"{self._title} computes the backbone, so there is nothing to compile; {_REMEDY}"
            )
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"{self._title} computes no gradients; {_REMEDY}, or call it under torch.no_grad()"
            )
        if windows != self._windows:
            raise ValueError(
                f"the graph in {self._title} has the ViTDet windows that the model was loaded with; to change them "
                "load it again with another vitdet_window_size"
            )
        grid = (x.shape[-2] // self._patch_size, x.shape[-1] // self._patch_size)
        read_outs = []
        results = self._graph(x.detach().float().contiguous())
        for output, tokens in zip(self._outputs, results, strict=True):
            places = grid if output.on_grid else (1, tokens.shape[1] - output.prefix)
            layout = TokenLayout(
                output.prefix, [places], windows.side if windows and output.on_grid else None
            )
            read_outs.append(ReadOut(tokens.to(x.dtype), layout, output.name, output.on_grid))
        return read_outs

    def normalize_layer(self, tokens: Tensor) -> Tensor:
        """There are no intermediate blocks, so this is never called."""
        raise NotImplementedError(self.refuses["layers"])

    def extra_repr(self) -> str:
        """The runtime, as part of the model's representation."""
        return f"runtime={self.runtime!r}"

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(f"a backbone outside PyTorch has no {name!r}; {_REMEDY}") from None

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a model that runs in {self._title} cannot be copied or pickled; load it again, which takes the graph "
            "from the cache"
        )


_REMEDY = "load the model with runtime='pytorch'"


def _refusals(runtime: Runtime) -> dict[Option, str]:
    """What PyTorch alone can do, and what to do instead."""
    reasons: dict[Option, str] = {
        "layers": "gives no intermediate layers",
        "tome": "cannot merge tokens inside the network (tome=); merge= works, or",
        "num_tokens": "keeps all condensed tokens (num_tokens=)",
        "attention_maps": "gives no attention maps",
        "blocks": "has no blocks to change",
        "video": "is for inference, where a video mode changes nothing",
        "quantization": "has no weights that PyTorch could quantize",
        "training": "is for inference and cannot be trained",
        "moving": "stays on the CPU and in its dtype",
        "saving": "has no weights to write",
    }
    return {
        option: f"a model that runs in {runtime.title} {reason}{'' if reason.endswith('or') else ';'} {_REMEDY}"
        for option, reason in reasons.items()
    }
