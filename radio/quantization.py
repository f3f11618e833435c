"""Lower precision: int8 weights in the linear layers of the blocks, through torchao."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

from torch import nn

from radio.modeling.network import RADIONetwork
from radio.optional import require

Mode = Literal["int8_weight_only", "int8_dynamic"]
Network = TypeVar("Network", bound=RADIONetwork)

_CONFIGS = {
    "int8_weight_only": "Int8WeightOnlyConfig",
    "int8_dynamic": "Int8DynamicActivationInt8WeightConfig",
}


def quantize(model: Network, mode: Mode = "int8_weight_only") -> Network:
    """Quantize the linear layers of the transformer blocks to int8, in place, on a CPU or a GPU.

    They hold nearly all of the weights. The patch projection, the norms, the position embeddings, the normalizers and
    the adaptor heads keep their dtype: they are small, and errors there go straight into the outputs.

    Args:
        model: A float model; move it to its device and dtype first. Quantize for inference only, and save before:
            a quantized model cannot be trained or written with ``save_pretrained``.
        mode: ``"int8_weight_only"`` stores weights in int8, one scale per output channel, and computes in the model's
            dtype: half the memory of bfloat16. ``"int8_dynamic"`` also rounds activations to int8, one scale per
            token, so that the products run on int8 hardware; together with ``torch.compile`` it is the fast one.

    Returns:
        The model.

    Raises:
        ValueError: An unknown mode, a model in training mode, or one that is quantized already.
        MissingExtraError: torchao is not installed.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}; allowed: {', '.join(get_args(Mode))}")
    if model.training:
        raise ValueError(
            "the model is in training mode; quantization is for inference: call model.eval() first"
        )
    if is_quantized(model):
        raise ValueError("the model is quantized already; load it again to quantize it in another way")
    model.require(quantization=True)
    torchao = require("torchao.quantization", "quantize")
    torchao.quantize_(model.blocks, getattr(torchao, _CONFIGS[mode])(), filter_fn=_is_linear)
    return model


def is_quantized(model: RADIONetwork) -> bool:
    """Whether `quantize` was applied to the model."""
    weights = (module.weight for module in model.backbone.modules() if isinstance(module, nn.Linear))
    return any(type(weight) is not nn.Parameter for weight in weights)


def _is_linear(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear)
