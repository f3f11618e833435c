"""RADIO1D's tokens against merged tokens of a ViT at equal count: the time of the whole forward pass. A markdown table.

    python benchmarks/radio1d.py                         # width 768, 12 blocks, 512 px
    python benchmarks/radio1d.py --width 48 --side 64 --tokens 4    # tiny, to test the script

Weights are random, which changes no time. The ViT has the RADIO1D model's initial width, depth and heads. What is left
of an image in so many tokens cannot be measured without released weights: a decoder of random weights restores nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from timing import CLOCKS, interleaved, print_header, print_row, print_table, ratios, spread

from radio import RadioConfig
from radio.config import Radio1DConfig
from radio.modeling.network import RADIONetwork
from radio.modeling.token_merging import TokenMerging


def random_model(config: RadioConfig) -> RADIONetwork:
    """A model of random weights, in eval mode."""
    torch.manual_seed(0)
    model = RADIONetwork(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    for buffer in (model.input_conditioner.norm_mean, model.input_conditioner.norm_std):
        buffer.data.fill_(0.5)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--side", type=int, default=512, help="of the image, in pixels (default: 512)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 64, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: as PyTorch has it")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="CPU seconds on a machine that others use too"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print_header()
    width, depth, grid = args.width, 12, args.side // 16
    vit = RadioConfig(
        architecture="random",
        layout="cpe",
        embed_dim=width,
        depth=depth,
        num_heads=max(width // 64, 1),
        mlp_dim=4 * width,
        patch_size=16,
        grid_size=grid,
        num_cls_tokens=4,
        num_registers=6,
    )
    parts = Radio1DConfig((9,), (4 * width, 8 * width), 4, (2,), (8 * width, 4 * width), grid // 2)
    one_d = replace(vit, layout="radio1d", radio1d=parts)
    models = {
        "ViT": random_model(vit),
        "encoder": random_model(replace(one_d, radio1d=replace(parts, neck_name="encoder"))),
        "decoder": random_model(replace(one_d, radio1d=replace(parts, neck_name="decoder"))),
    }
    x = torch.rand(1, 3, args.side, args.side)
    calls = {"ViT, all patches": lambda: models["ViT"](x)}
    for k in args.tokens:
        calls[f"ViT, {k} merged tokens"] = lambda k=k: models["ViT"](x, merge=TokenMerging(keep=k))
        calls[f"RADIO1D encoder, {k} tokens"] = lambda k=k: models["encoder"](x, num_tokens=k)
        calls[f"RADIO1D decoded from {k} tokens"] = lambda k=k: models["decoder"](x, num_tokens=k)
    with torch.inference_mode():
        seconds = interleaved(calls, args.rounds, CLOCKS[args.clock])
    print_table(
        f"{args.side} px, width {width}, {depth} blocks, one image, float32",
        ("subject", "ms", "of the ViT's time"),
    )
    for name, values in seconds.items():
        ratio = ratios(values, seconds["ViT, all patches"])
        print_row((name, f"{spread([1000 * value for value in values]).median:.0f}", str(ratio)))


if __name__ == "__main__":
    main()
