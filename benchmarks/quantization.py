"""int8 weights: speed, memory of the weights, and how far the outputs turn away from float32. A markdown table.

    python benchmarks/quantization.py                        # ViT-B with random weights at 512 px
    python benchmarks/quantization.py --checkpoint radio_v2.5-l --adaptors clip
    python benchmarks/quantization.py --device cuda --compile
    python benchmarks/quantization.py --quick                # a tiny model, seconds

Cosine similarities are the smallest over all summaries, and the smallest and the mean over all patches. Random weights
say what a rounding costs a network of that shape, not what it costs a trained one: use --checkpoint for that.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peers import SIZES, random_model
from timing import CLOCKS, interleaved, print_header, print_row, print_table, ratios, spread
from torch import Tensor, nn

from radio import RadioOutput, load_model
from radio.quantization import quantize

PHOTOS = sorted((Path(__file__).parent.parent / "examples" / "images").glob("*.jpg"))


def photographs(side: int) -> Tensor:
    """Real photographs as one batch (B, 3, side, side) in [0, 1]."""
    import numpy as np
    from PIL import Image

    images = [np.asarray(Image.open(path).convert("RGB").resize((side, side))) for path in PHOTOS]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def megabytes(model: nn.Module) -> float:
    """Size of the weights, int8 ones with their scales."""

    def stored(weight: Tensor) -> int:
        parts = [weight.qdata, weight.scale] if hasattr(weight, "qdata") else [weight]
        return sum(part.numel() * part.element_size() for part in parts)

    return sum(stored(weight) for weight in model.parameters()) / 1e6


def backbone(output: Any) -> RadioOutput:
    """The backbone's part of an output with or without adaptors."""
    return output["backbone"] if isinstance(output, dict) else output


def similarity(output: RadioOutput, reference: RadioOutput) -> list[str]:
    """Smallest cosine similarity of a summary, then smallest and mean of a patch."""
    summary, features = (
        F.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in zip(output, reference, strict=True)
    )
    return [f"{summary.min():.5f}", f"{features.min():.5f}", f"{features.mean():.5f}"]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B", choices=SIZES)
    parser.add_argument("--checkpoint", help="a released version or a file, instead of random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--compile", action="store_true", help="compile every variant")
    parser.add_argument("--quick", action="store_true", help="a tiny model and a small image")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.quick:
        args.model, args.side, args.rounds = "tiny", 128, 1
    device = torch.device(args.device)
    if args.checkpoint:
        exact = load_model(args.checkpoint, device=device, dtype="float32")
    else:
        exact = random_model(SIZES[args.model]).to(device)
    models: dict[str, Any] = {"float32": exact, "bfloat16": copy.deepcopy(exact).to(torch.bfloat16)}
    for mode in ("int8_weight_only", "int8_dynamic"):
        for dtype in ("float32", "bfloat16"):
            models[f"{mode}, {dtype}"] = quantize(copy.deepcopy(models[dtype]), mode)
    images = photographs(args.side).to(device)
    reference = backbone(exact(images))
    quality = {name: similarity(backbone(model(images)), reference) for name, model in models.items()}
    runners = {name: torch.compile(model) if args.compile else model for name, model in models.items()}

    def run(model: Any) -> None:
        model(images[:1])
        if device.type == "cuda":
            torch.cuda.synchronize()

    calls = {name: lambda model=model: run(model) for name, model in runners.items()}
    seconds = interleaved(calls, args.rounds, CLOCKS[args.clock])

    print_header()
    what = args.checkpoint or f"{args.model} with random weights"
    how = "compiled" if args.compile else "eager"
    print_table(
        f"{what}, one image of {args.side} px, {how}, {args.clock} clock",
        [
            "weights",
            "seconds",
            "time over bfloat16",
            "weights, MB",
            "cos summary",
            "cos patch, least",
            "cos patch, mean",
        ],
    )
    for name, model in models.items():
        timed = [str(spread(seconds[name])), str(ratios(seconds[name], seconds["bfloat16"]))]
        print_row([name, *timed, f"{megabytes(model):.0f}", *quality[name]])


if __name__ == "__main__":
    main()
