"""``radio doctor``: what this machine has, for a report of a problem or a first look."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from radio.cli.common import format_bytes, print_table
from radio.cli.options import add_json
from radio.optional import install_command
from radio.wording import counted

_REQUIRED = ("torch", "timm", "einops", "huggingface_hub", "safetensors", "pillow", "numpy", "tqdm")
_EXTRAS = {
    "open_clip_torch": "text",
    "transformers": "text",
    "datasets": "datasets",
    "av": "video",
    "matplotlib": "plot",
    "pyarrow": "extract",
    "ray": "ray",
    "lancedb": "search",
    "starlette": "view",
    "uvicorn": "view",
    "onnx": "export",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torchao": "quantize",
    "accelerate": "finetune",
    "peft": "finetune",
}
_TIMEOUT = 3.0
_YES = {"1", "on", "yes", "true"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_json(parser)
    parser.add_argument("--offline", action="store_true", help="do not try to reach the Hugging Face Hub")


def run(args: argparse.Namespace) -> None:
    """Print what was found. Raises RuntimeError when a required package is missing."""
    report = {
        "versions": _versions(),
        "device": _device(),
        "cache": _cache(),
        "hub": _hub(try_it=not args.offline),
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        for title, rows in report.items():
            print(title)
            print_table([(f"  {name}", str(value)) for name, value in rows.items()])
    missing = [name for name in _REQUIRED if _installed(name) is None]
    if missing:
        raise ImportError(
            f"not installed: {', '.join(missing)}; install them with: pip install {' '.join(missing)}"
        )


def _versions() -> dict[str, str]:
    from radio import __version__

    found = {"radio": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in _REQUIRED:
        found[name] = _installed(name) or "MISSING"
    for name, extra in _EXTRAS.items():
        found[name] = _installed(name) or f"not installed (optional: {install_command(extra)})"
    if other := _installed("radio"):
        found["radio of PyPI"] = (
            f"{other}, installs a package of the same name: pip uninstall radio, then install radio-vision again"
        )
    return found


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> dict[str, str]:
    import torch

    from radio.devices import best_device

    found = {
        "cpu": f"{counted(os.cpu_count() or 1, 'core')}, {counted(torch.get_num_threads(), 'thread')} in use"
    }
    found["used by default"] = str(best_device())
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found[f"cuda:{number}"] = (
            f"{properties.name}, {format_bytes(properties.total_memory)}, "
            f"bfloat16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
        )
    return found


def _cache() -> dict[str, Any]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from radio.catalog import RELEASES
    from radio.download import is_cached

    folder = Path(HF_HUB_CACHE)
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return {
        "folder": str(folder),
        "free": format_bytes(shutil.disk_usage(existing).free),
        "writable": "yes" if os.access(existing, os.W_OK) else "no",
        "versions in it": ", ".join(r.version for r in RELEASES if is_cached(r)) or "none",
    }


def _hub(try_it: bool) -> dict[str, str]:
    from huggingface_hub import get_token
    from huggingface_hub.constants import ENDPOINT

    offline = os.environ.get("HF_HUB_OFFLINE", "")
    return {
        "endpoint": ENDPOINT,
        "HF_HUB_OFFLINE": offline or "not set",
        "token": "found" if get_token() else "none (the released weights need none)",
        "reachable": "not tried" if not try_it or offline.lower() in _YES else _reach(ENDPOINT),
    }


def _reach(endpoint: str) -> str:
    """Whether the Hub answers within a few seconds."""
    from huggingface_hub import get_session

    try:
        response = get_session().head(endpoint, timeout=_TIMEOUT)
    except Exception as error:  # whatever keeps it from answering is what the user wants to read
        return f"no ({type(error).__name__}: {' '.join(str(error).split())})"
    return f"yes (status {response.status_code})"
