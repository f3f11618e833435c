"""Which runtime, on which device, in which dtype."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from radio.runtimes.onnx_runtime import OnnxRuntime
from radio.runtimes.openvino import OpenVino
from radio.runtimes.protocol import Runtime

RuntimeName = Literal["auto", "pytorch", "openvino", "onnxruntime"]

RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (OpenVino(), OnnxRuntime())}
"""Those beside PyTorch, by name."""


def choose_runtime(name: str) -> Runtime | None:
    """The runtime of a name; None for PyTorch, which ``"auto"`` is.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in get_args(RuntimeName):
        raise ValueError(f"unknown runtime {name!r}; allowed: {', '.join(get_args(RuntimeName))}")
    return RUNTIMES.get(name)


def runtime_device(runtime: Runtime, device: str | torch.device) -> torch.device:
    """Where a runtime's model is: the CPU.

    Raises:
        ValueError: Another device is asked for.
    """
    if str(device) not in ("auto", "cpu"):
        raise ValueError(
            f"runtime={runtime.name!r} runs on the CPU, not on {str(device)!r}; leave the device out, or load the "
            "model with runtime='pytorch'"
        )
    return torch.device("cpu")


def runtime_dtype(runtime: Runtime, dtype: str | torch.dtype, resolved: torch.dtype) -> torch.dtype:
    """What a runtime computes in.

    Args:
        runtime: The runtime.
        dtype: What was asked for; ``"auto"`` becomes float32 where the runtime lacks the checkpoint's own.
        resolved: The dtype that this is in PyTorch.

    Raises:
        ValueError: The runtime does not compute in it.
    """
    if resolved in runtime.dtypes:
        return resolved
    if dtype == "auto":
        return torch.float32
    names = [str(each).removeprefix("torch.") for each in runtime.dtypes]
    raise ValueError(
        f"runtime={runtime.name!r} computes in {' or '.join(names)}, not in {str(resolved).removeprefix('torch.')}; "
        "give one of these as dtype, or load the model with runtime='pytorch'"
    )
