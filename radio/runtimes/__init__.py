"""The backbone through OpenVINO or ONNX Runtime, in place of PyTorch: `radio.load_model` with ``runtime=``.

A runtime computes the part of the network that takes the time: normalized images in, final tokens out. Everything
before and after it stays as it is.
"""

from radio.runtimes.building import build_on_runtime
from radio.runtimes.choosing import RUNTIMES, RuntimeName, choose_runtime, runtime_device, runtime_dtype

__all__ = [
    "RUNTIMES",
    "RuntimeName",
    "build_on_runtime",
    "choose_runtime",
    "runtime_device",
    "runtime_dtype",
]
