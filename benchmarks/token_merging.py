"""What token merging costs, what it keeps, and what merging inside the network gains. Prints markdown tables.

    python benchmarks/token_merging.py                      # ViT-L with random weights, about ten minutes on a CPU
    python benchmarks/token_merging.py --quick              # a small model and small images, seconds
    python benchmarks/token_merging.py --model radio_v2.5-l # the real features

The comparison with tomesd needs ``pip install tomesd``; it is left out when that is missing.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from radio import RadioConfig, load_model
from radio.modeling.network import RADIONetwork
from radio.modeling.token_merging import InNetworkMerging, merge_tokens
from radio.modeling.token_merging.counts import default_stride

PHOTOS = sorted((Path(__file__).parent.parent / "examples" / "images").glob("*.jpg"))


@dataclass(frozen=True)
class Sizes:
    """How big everything is."""

    width: int
    depth: int
    heads: int
    merge_pixels: int
    tome_pixels: int
    tome_r: tuple[int, ...]
    repeats: int


FULL = Sizes(1024, 24, 16, merge_pixels=768, tome_pixels=512, tome_r=(8, 16, 24, 32), repeats=3)
QUICK = Sizes(192, 6, 3, merge_pixels=384, tome_pixels=256, tome_r=(8, 32), repeats=3)


def random_model(sizes: Sizes) -> RADIONetwork:
    """A ViT of that size with random weights."""
    config = RadioConfig(
        architecture="random",
        layout="cpe",
        embed_dim=sizes.width,
        depth=sizes.depth,
        num_heads=sizes.heads,
        mlp_dim=4 * sizes.width,
        patch_size=16,
        grid_size=128,
        num_cls_tokens=4,
        num_registers=4,
        summary_idxs=(0, 1, 2),
    )
    torch.manual_seed(0)
    model = RADIONetwork(config).eval().requires_grad_(False)
    for name, weight in model.backbone.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.trunc_normal_(weight, std=0.02)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(weight)
    model.input_conditioner.norm_mean.copy_(torch.tensor([0.481, 0.458, 0.408])[:, None, None])
    model.input_conditioner.norm_std.copy_(torch.tensor([0.269, 0.261, 0.276])[:, None, None])
    return model


def photo(path: Path, side: int) -> Tensor:
    """The middle of a photograph, (1, 3, side, side) in [0, 1]."""
    image = Image.open(path).convert("RGB")
    scale = side / min(image.size)
    image = image.resize([max(side, round(n * scale)) for n in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = np.array(image.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def seconds(
    calls: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """The fastest run of each call; they take turns, so that what else the machine does hits all alike."""
    fastest = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            fastest[name] = min(fastest[name], clock() - start)
    return fastest


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A markdown table."""
    print(f"\n### {title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")


def compare_time(model: RADIONetwork, sizes: Sizes, clock: Callable[[], float]) -> None:
    """Merging against the forward pass that precedes it, and against tomesd."""
    x = photo(PHOTOS[0], sizes.merge_pixels).to(model.device, model.dtype)
    features = model(x).features
    side = sizes.merge_pixels // model.patch_size
    removed, stride = round(0.64 * side * side), (2, 2)
    contenders: dict[str, Callable[[], object]] = {
        "merge_tokens, stride 2x2": lambda: merge_tokens(features, (side, side), r=removed, stride=stride),
        "merge_tokens, chosen stride": lambda: merge_tokens(features, (side, side), r=removed),
    }
    if find_spec("tomesd"):
        from tomesd.merge import bipartite_soft_matching_random2d

        def tomesd() -> Tensor:
            merge, _ = bipartite_soft_matching_random2d(features, side, side, 2, 2, removed, no_rand=True)
            return merge(features)

        merge, unmerge = bipartite_soft_matching_random2d(features, side, side, 2, 2, removed, no_rand=True)
        ours = merge_tokens(features, (side, side), r=removed, stride=stride)
        apart = (unmerge(merge(features)) - ours.plan.unmerge(ours.features)).abs().amax(dim=2)
        same = int((apart < 1e-3 * features.abs().max()).sum())
        contenders[f"tomesd, stride 2x2 (same result for {same} of {side * side} patches)"] = tomesd
    name = f"forward pass at {sizes.merge_pixels} px"
    forward = seconds({name: lambda: model(x)}, sizes.repeats, clock)[name]
    taken = {name: forward} | seconds(contenders, 20 * sizes.repeats, clock)
    rows = [[name, f"{1000 * t:.1f}", f"{100 * t / forward:.2f} %"] for name, t in taken.items()]
    title = f"Time to merge {side * side} tokens of width {features.shape[2]} to {side * side - removed}"
    print_table(title, ["what", "ms", "of the forward pass"], rows)


def lost(original: Tensor, restored: Tensor) -> float:
    """Share of the variance over the patches of an image that is gone; (1, L, C)."""
    spread = (original - original.mean(dim=1, keepdim=True)).square().sum()
    return float((original - restored).square().sum() / spread)


def pooled(features: Tensor, side: int, fewer: int) -> Tensor:
    """Average pooling to fewer x fewer tokens, each spread back over its cell."""
    grid = features.transpose(1, 2).unflatten(2, (side, side))
    return _flat(F.interpolate(F.adaptive_avg_pool2d(grid, fewer), size=(side, side), mode="nearest-exact"))


def resized(features: Tensor, side: int, fewer: int) -> Tensor:
    """Bilinear resizing (with antialiasing) to fewer x fewer tokens, and bilinearly back."""
    grid = features.transpose(1, 2).unflatten(2, (side, side))
    small = F.interpolate(grid, size=(fewer, fewer), mode="bilinear", antialias=True)
    return _flat(F.interpolate(small, size=(side, side), mode="bilinear"))


def _flat(grid: Tensor) -> Tensor:
    return grid.flatten(2).transpose(1, 2)


def compare_loss(model: RADIONetwork, sizes: Sizes, source: str) -> None:
    """What is lost when few tokens are spread back onto the grid."""
    photos = [photo(path, sizes.merge_pixels).to(model.device, model.dtype) for path in PHOTOS]
    patch = model.patch_size
    side = sizes.merge_pixels // patch
    sources = {
        source: [model(x).features.float() for x in photos],
        "normalized pixels of each patch": [
            _flat(F.pixel_unshuffle(model.input_conditioner(x).float(), patch)) for x in photos
        ],
    }

    def merged(features: Tensor, keep: int, stride: tuple[int, int] | None) -> Tensor:
        tokens = merge_tokens(features, (side, side), keep=keep, stride=stride)
        return tokens.plan.unmerge(tokens.features)

    for name, maps in sources.items():
        rows = []
        for fewer in (side // 2, side // 3, round(side / 3.43), side // 4):
            keep = fewer * fewer

            def average(restore: Callable[[Tensor], Tensor], maps: list[Tensor] = maps) -> str:
                return (
                    f"{100 * statistics.mean(lost(features, restore(features)) for features in maps):.1f} %"
                )

            label = f"{keep} ({side // fewer}x{side // fewer} cells)" if side % fewer == 0 else f"{keep}"
            smallest = next(s for s in range(2, side) if (-(-side // s)) ** 2 <= keep)
            chosen = default_stride((side, side), keep)[0]
            rows.append(
                [
                    label,
                    average(lambda f, keep=keep: merged(f, keep, None)) + f" (stride {chosen})",
                    average(lambda f, keep=keep, s=smallest: merged(f, keep, (s, s)))
                    + f" (stride {smallest})",
                    average(lambda f, fewer=fewer: pooled(f, side, fewer)),
                    average(lambda f, fewer=fewer: resized(f, side, fewer)),
                ]
            )
        header = ["tokens", "merged", "merged, smallest stride", "average of each cell", "bilinear resizing"]
        print_table(f"Variance lost of {side * side} tokens, spread back: {name}", header, rows)


def compare_tome(model: RADIONetwork, sizes: Sizes, clock: Callable[[], float]) -> None:
    """Merging inside the network: time for one photograph, and how far the outputs move on all of them."""
    photos = torch.cat([photo(path, sizes.tome_pixels) for path in PHOTOS]).to(model.device, model.dtype)
    x = photos[:1]
    plain = model(photos)
    total = plain.features.shape[1]
    apart = torch.pdist(plain.summary.float()).mean()
    variants = {r: InNetworkMerging(r=r) for r in sizes.tome_r}
    calls: dict[str, Callable[[], object]] = {"0": lambda: model(x)}
    calls |= {str(r): lambda tome=tome: model(x, tome=tome) for r, tome in variants.items()}
    taken = seconds(calls, sizes.repeats, clock)
    rows = [["0", str(total), f"{1000 * taken['0']:.0f}", "1.00x", "1.0000", "0 %", "1.0000"]]
    for r, tome in variants.items():
        output = model(photos, tome=tome)
        left = model(x, tome=InNetworkMerging(r=r, expand=False)).features.shape[1]
        cosine = F.cosine_similarity(output.summary.float(), plain.summary.float()).mean()
        moved = (output.summary.float() - plain.summary.float()).norm(dim=1).mean() / apart
        features = F.cosine_similarity(output.features.float(), plain.features.float(), dim=2).mean()
        speed = [f"{1000 * taken[str(r)]:.0f}", f"{taken['0'] / taken[str(r)]:.2f}x"]
        rows.append([str(r), str(left), *speed, f"{cosine:.4f}", f"{100 * moved:.1f} %", f"{features:.4f}"])
    header = ["r per block", "tokens at the end", "ms", "speed-up", "cosine of summary"]
    header += ["summary moved, of the distance between photographs", "cosine of features"]
    print_table(f"Merging inside the network at {sizes.tome_pixels} px", header, rows)


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="released version or path; random weights if left out")
    parser.add_argument("--quick", action="store_true", help="a small model and small images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--only", choices=("time", "loss", "tome"), help="one of the three comparisons")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="measure the CPU seconds of this process (the sum over its threads) instead of the clock, for a machine "
        "that others use as well; best with --threads 1",
    )
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    sizes = QUICK if args.quick else FULL
    if args.model is None:
        model = random_model(sizes).to(args.device, getattr(torch, args.dtype))
        source = f"features of a ViT of width {sizes.width} with random weights"
    else:
        model = load_model(args.model, device=args.device, dtype=args.dtype).requires_grad_(False)
        source = f"features of {args.model}"
    clock = time.process_time if args.cpu_time else time.perf_counter
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"CPU, {args.threads} threads"
    where += ", CPU time of the process" if args.cpu_time else ""
    print(
        f"{datetime.date.today()}, {where}, {args.dtype}, PyTorch {torch.__version__}, {platform.machine()}"
    )
    print(
        f"Model: {source.removeprefix('features of ')}; photographs: {', '.join(path.stem for path in PHOTOS)}"
    )
    with torch.inference_mode():
        if args.only in (None, "time"):
            compare_time(model, sizes, clock)
        if args.only in (None, "loss"):
            compare_loss(model, sizes, source)
        if args.only in (None, "tome"):
            compare_tome(model, sizes, clock)


if __name__ == "__main__":
    main()
