"""A whole ViT in PyTorch eager, compiled by Inductor with frozen weights, and in OpenVINO, in turns.

    python benchmarks/freezing.py --threads 1 --dtype float32     # some minutes
    python benchmarks/freezing.py --quick                         # a tiny model, half a minute

Freezing makes the weights constants of the compiled code, which packs them in advance; one size per compilation.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from tempfile import TemporaryDirectory

import torch
from peers import SIZES, random_model, runtime_model
from timing import CLOCKS, interleaved, print_header, print_row, print_table, ratios, spread
from torch._inductor import config as inductor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B", choices=SIZES)
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 512], metavar="PX")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    args = parser.parse_args()
    if args.quick:
        args.model, args.sides, args.rounds = "tiny", [64], 2
    torch.set_num_threads(args.threads)
    model = random_model(SIZES[args.model]).to(getattr(torch, args.dtype))
    with TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        openvino = runtime_model(model, "openvino")
    print_header()
    print_table(
        f"{args.model}, {args.dtype}, one image", ["px", "", "ms", "eager / this", "this / OpenVINO", "apart"]
    )
    for side in args.sides:
        x = torch.rand(1, 3, side, side, dtype=model.dtype)
        with torch.inference_mode():
            measure(model, openvino, x, args.rounds)


def measure(model: torch.nn.Module, openvino: torch.nn.Module, x: torch.Tensor, rounds: int) -> None:
    """A row for each of the three."""
    torch.compiler.reset()
    frozen = torch.compile(model, fullgraph=True, dynamic=False)
    calls: dict[str, Callable[[], object]] = {
        "eager": lambda: model(x),
        "Inductor, frozen": lambda: frozen(x),
        "OpenVINO": lambda: openvino(x),
    }
    expected = model(x).features.float()
    with inductor.patch(freezing=True):
        found = {"eager": model(x), "Inductor, frozen": frozen(x), "OpenVINO": openvino(x)}
        seconds = interleaved(calls, rounds, CLOCKS["wall"])
    for name, values in seconds.items():
        apart = (found[name].features.float() - expected).abs().max() / expected.abs().max()
        print_row(
            [
                str(x.shape[-1]),
                name,
                f"{1000 * spread(values).median:.0f}",
                str(ratios(seconds["eager"], values)),
                str(ratios(values, seconds["OpenVINO"])),
                f"{float(apart):.1g}",
            ]
        )


if __name__ == "__main__":
    main()
