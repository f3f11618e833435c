"""Loading a ViT-B from a file: `load_model` against building a module and copying the weights into it.

    python benchmarks/load.py            # random ViT-B files of 197 and 393 MB, two minutes
    python benchmarks/load.py --quick    # a tiny model, seconds

"Build and copy" is what loading was before: `torch.load` without memory mapping, a module with random initial
weights, `load_state_dict`. Every measurement is a process of its own, after the imports. The files are in the page
cache (warm); a cold file costs the same disk reads in every way, but with `mmap=True` only once weights are used:
"first use" reads every weight once.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import safetensors.torch
import torch
from timing import (
    forget_peak,
    in_fresh_process,
    print_header,
    print_row,
    print_table,
    ratios,
    resident_bytes,
    spread,
)
from torch import Tensor, nn

from radio import RadioConfig, load_model
from radio.checkpoints import read_checkpoint
from radio.modeling.network import RADIONetwork

TEACHERS = ("clip", "siglip2-g", "dino_v2", "sam")
WEIGHTS = "model.safetensors"
FULL, QUICK = (768, 12, 2048), (192, 2, 256)
"""Width, blocks, and the largest side in pixels that the position embeddings are made for."""

CASES = (("bfloat16", ("bfloat16", "float32")), ("float32", ("float32",)))
QUICK_CASES = (("bfloat16", ("bfloat16",)),)
"""The dtype of the file, and the dtypes to load it as."""


def random_state(width: int, depth: int, side: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """A C-RADIOv3 backbone with random weights, under the released names."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_generator.embedder.weight": (width, 768),
        "patch_generator.pos_embed": (1, (side // 16) ** 2, width),
        "patch_generator.cls_token.token": (8, width),
    }
    for i in range(depth):
        layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        layers |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, (outputs, inputs) in layers.items():
            shapes[f"blocks.{i}.{name}.weight"] = (outputs, inputs)
            shapes[f"blocks.{i}.{name}.bias"] = (outputs,)
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
        shapes |= {f"blocks.{i}.{scale}.grandma": (width,) for scale in ("ls1", "ls2")}
    state = {f"base_model.{name}": (torch.randn(shape) * 0.02).to(dtype) for name, shape in shapes.items()}
    pixel = {"input_conditioner.norm_mean": 0.45, "input_conditioner.norm_std": 0.27}
    return state | {name: torch.full((3, 1, 1), value).to(dtype) for name, value in pixel.items()}


def write_file(path: Path, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """A torch file in the released layout."""
    width, depth, side = size
    args = Namespace(
        model="vit_base_patch16_v2_224",
        model_kwargs={"embed_dim": width, "depth": depth, "num_heads": width // 64, "init_values": 1e-5},
        input_size=[3, 224, 224],
        teachers=[{"name": name, "use_summary": name != "sam"} for name in TEACHERS],
        cpe_max_size=side,
        cls_token_per_teacher=True,
        register_multiple=8,
        dtype=str(dtype).removeprefix("torch."),
    )
    torch.save({"args": args, "state_dict": random_state(width, depth, side, dtype)}, path)


def build_and_copy(path: Path, config: RadioConfig, dtype: torch.dtype) -> RADIONetwork:
    """Read everything, initialize a module of the same shape at random, copy."""
    if path.is_dir():
        content = safetensors.torch.load((path / WEIGHTS).read_bytes())
        stored = {name.removeprefix("radio_model."): value for name, value in content.items()}
        stored.pop("summary_idxs")
        stored = {
            name: value for name, value in stored.items() if ".layer_scale" not in name
        }  # transformers' names
    else:
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=False)["state_dict"]
        stored = {
            name.replace("base_model.", "model.").replace(".grandma", ".gamma"): value
            for name, value in content.items()
        }
    model = RADIONetwork(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "token")):
            nn.init.trunc_normal_(parameter, std=0.02)
    model.load_state_dict(stored)
    return model.to(dtype).eval()


def file_bytes(path: Path) -> int:
    """Size of the weights file."""
    return (path / WEIGHTS if path.is_dir() else path).stat().st_size


def warm(path: Path) -> None:
    """Bring the file into the page cache."""
    with (path / WEIGHTS if path.is_dir() else path).open("rb") as file:
        while file.read(2**24):
            pass


def measure(path: Path, way: str, dtype: str) -> dict[str, float]:
    """Time and peak memory of one load in this process.

    Returns:
        ``seconds`` to the model; ``use``: seconds to read every weight once after that; ``peak``: peak memory in bytes
        up to and including that use, less what the process used before.
    """
    config = read_checkpoint(path, mmap=True).config
    warm(path)
    forget_peak()
    before = resident_bytes("VmRSS")
    start = time.perf_counter()
    model: RADIONetwork
    if way in ("radio", "mapped"):
        model = load_model(path, device="cpu", dtype=dtype, mmap=way == "mapped")
    else:
        model = build_and_copy(path, config, getattr(torch, dtype))
    loaded = time.perf_counter()
    with torch.inference_mode():
        for tensor in model.state_dict().values():
            tensor.view(-1).view(torch.uint8)[::4096].sum()
    used = time.perf_counter()
    peak = resident_bytes("VmHWM") - before
    return {"seconds": loaded - start, "use": used - loaded, "peak": peak}


def compare(path: Path, layout: str, stored: str, dtype: str, rounds: int) -> None:
    """Time both ways in turn, each time in a fresh process, and print a row."""
    found: dict[str, list[dict[str, float]]] = {"radio": [], "mapped": [], "copy": []}
    for _ in range(rounds):
        for way, results in found.items():
            arguments = ["--measure", way, "--path", str(path), "--dtype", dtype]
            results.append(in_fresh_process("load.py", *arguments))
    ours, mapped, theirs = ([r["seconds"] for r in results] for results in found.values())
    size = file_bytes(path)
    print_row(
        [
            layout,
            f"{stored}, {size / 1e6:.0f} MB",
            dtype,
            f"{1000 * spread(ours).median:.0f}",
            f"{1000 * spread(mapped).median:.0f}",
            f"{1000 * spread([r['use'] for r in found['mapped']]).median:.0f}",
            f"{1000 * spread(theirs).median:.0f}",
            str(ratios(theirs, ours)),
            str(ratios(theirs, mapped)),
            " / ".join(
                f"{spread([r['peak'] / size for r in results]).median:.2f}" for results in found.values()
            ),
        ]
    )


def main() -> None:
    """Run the comparison, or one measurement of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--measure", choices=["radio", "mapped", "copy"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(json.dumps(measure(args.path, args.measure, args.dtype)))
        return
    print_header()
    header = ["layout", "stored as", "model's dtype", "load_model, ms", "mmap=True, ms", "its first use, ms"]
    header += [
        "build and copy, ms",
        "times faster",
        "mmap=True: times faster",
        "peak memory / file, all three",
    ]
    print_table("Loading a ViT-B, warm page cache", header)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for stored, dtypes in QUICK_CASES if args.quick else CASES:
            path = Path(folder, f"{stored}.pth.tar")
            write_file(path, QUICK if args.quick else FULL, getattr(torch, stored))
            hub = Path(folder, stored)
            load_model(path, device="cpu").save_pretrained(hub)
            for layout, place in ((".pth.tar", path), ("Hub folder", hub)):
                for dtype in dtypes:
                    compare(place, layout, stored, dtype, 1 if args.quick else args.rounds)


if __name__ == "__main__":
    main()
