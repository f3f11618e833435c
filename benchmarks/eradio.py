"""E-RADIO's forward pass on a CPU: what the memory format, folded batch norms, bfloat16 and a graph runtime give.

    python benchmarks/eradio.py                          # the released size, 512 px; a markdown table
    python benchmarks/eradio.py --side 224 --rounds 5 --threads 1
    python benchmarks/eradio.py --windows                # which side of the windows costs what, over sizes of images
    python benchmarks/eradio.py --tiny --side 64         # a tiny model, to test the script

Weights are random, which changes no time. Every subject is a variant of one model and shares its weights as far as it
can; they take turns, and a row's ratio is taken round by round against the first one, the model as it is loaded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from timing import CLOCKS, Clock, interleaved, print_header, print_row, print_table, ratios, spread
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from radio import RadioConfig
from radio.config import ERadioConfig, ERadioLevelConfig
from radio.modeling.eradio.convolutions import ConvBN
from radio.modeling.network import RADIONetwork

WINDOW_SIDES = (224, 256, 384, 512, 544, 608, 736, 768, 928, 992, 1024)


def description(tiny: bool) -> RadioConfig:
    """The released structure, or the same with few and narrow layers."""
    if tiny:
        levels = (ERadioLevelConfig(1, (2, 1), 2, 128, 64, 4), ERadioLevelConfig(1, (1,), 4, 256, 64, 4))
        eradio, width = ERadioConfig(6, 8, (1, 1), levels), 48
    else:
        levels = (
            ERadioLevelConfig(5, (2, 1), 8, 3072, 512, 16),
            ERadioLevelConfig(5, (1,), 16, 6144, 512, 16),
        )
        eradio, width = ERadioConfig(64, 192, (3, 3), levels), 1536
    return RadioConfig(
        architecture="eradio",
        layout="eradio",
        embed_dim=width,
        depth=0,
        num_heads=0,
        mlp_dim=0,
        patch_size=16,
        grid_size=0,
        num_cls_tokens=0,
        num_registers=0,
        summary_pool="mean",
        eradio=eradio,
    )


def random_model(config: RadioConfig) -> RADIONetwork:
    """A model of random weights, in eval mode."""
    torch.manual_seed(0)
    model = RADIONetwork(config).eval()
    for buffer in (model.input_conditioner.norm_mean, model.input_conditioner.norm_std):
        buffer.data.fill_(0.5)
    return model


def sharing(model: RADIONetwork, config: RadioConfig | None = None) -> RADIONetwork:
    """Another model with the same weights in the same memory."""
    with torch.device("meta"):
        other = RADIONetwork(config or model.config)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


def folded(model: RADIONetwork) -> RADIONetwork:
    """The model with every batch norm after a convolution folded into it."""
    other = sharing(model)
    for module in other.modules():
        if isinstance(module, ConvBN):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
    return other


def in_onnx_runtime(model: RADIONetwork, x: Tensor, folder: Path) -> Callable[[], object]:
    """A call of the exported model in ONNX Runtime, at the size of x."""
    import onnxruntime

    from radio.export import export_model

    export_model(model, folder / "eradio.onnx", size=(x.shape[-2], x.shape[-1]), batch=x.shape[0])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        str(folder / "eradio.onnx"), options, providers=["CPUExecutionProvider"]
    )
    pixels = x.numpy()
    return lambda: session.run(None, {"pixels": pixels})


def compare(model: RADIONetwork, side: int, rounds: int, skip: list[str], folder: Path, clock: Clock) -> None:
    """Print how long each variant takes, as a table."""
    x = torch.rand(1, 3, side, side)
    last = {"memory_format": torch.channels_last}
    variants: dict[str, Callable[[], RADIONetwork]] = {
        "as loaded": lambda: model,
        "channels_last": lambda: sharing(model).to(**last),
        "folded batch norms": lambda: folded(model),
        "folded, channels_last": lambda: folded(model).to(**last),
        "bfloat16": lambda: sharing(model).bfloat16(),
        "bfloat16, folded, channels_last": lambda: folded(model).bfloat16().to(**last),
    }
    calls: dict[str, Callable[[], object]] = {}
    for name, make in variants.items():
        if name in skip:
            continue
        variant = make()
        given = x.to(**last) if "channels_last" in name else x
        calls[name] = lambda variant=variant, given=given: variant(given)
    if "ONNX Runtime" not in skip:
        calls["ONNX Runtime"] = in_onnx_runtime(model, x, folder)
    with torch.inference_mode():
        seconds = interleaved(calls, rounds, clock)
    print_table(f"E-RADIO, {side} px, one image", ("subject", "ms", "of the time as loaded"))
    for name, values in seconds.items():
        milliseconds = spread([1000 * value for value in values])
        ratio = ratios(values, seconds["as loaded"])
        print_row(
            (name, f"{milliseconds.median:.0f} ({milliseconds.low:.0f}–{milliseconds.high:.0f})", str(ratio))
        )


def windows(model: RADIONetwork, rounds: int, sides: tuple[int, ...], clock: Clock) -> None:
    """Print what each choice of the windows' side costs at each size, as a table."""
    from radio.modeling.eradio.windows import balanced_window, optimal_window

    assert model.config.eradio is not None
    stored = model.config.eradio.attention_levels[0].window_size
    choices = {"file": None, "optimal": "optimal", "balanced": "balanced"}
    models = {
        name: sharing(model, replace(model.config, eradio=replace(model.config.eradio, window_size=window)))
        for name, window in choices.items()
    }
    print_table(
        "Side of the windows", ("px", "file", "optimal", "balanced", "file: ms", "optimal", "balanced")
    )
    for side in sides:
        x = torch.rand(1, 3, side, side)
        calls = {name: lambda m=m, x=x: m(x) for name, m in models.items()}
        with torch.inference_mode():
            seconds = interleaved(calls, rounds, clock)
        chosen = (stored, optimal_window(side, side), balanced_window(side, side))
        others = [str(ratios(seconds[name], seconds["file"])) for name in ("optimal", "balanced")]
        print_row((str(side), *map(str, chosen), f"{1000 * spread(seconds['file']).median:.0f}", *others))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=512, help="of the image, in pixels (default: 512)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: as PyTorch has it")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="CPU seconds on a machine that others use too"
    )
    parser.add_argument("--skip", action="append", default=[], help="leave a subject out; may be repeated")
    parser.add_argument("--windows", action="store_true", help="compare sides of the windows instead")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to test the script")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print_header()
    model = random_model(description(args.tiny))
    if args.windows:
        windows(model, args.rounds, (64, 96) if args.tiny else WINDOW_SIDES, CLOCKS[args.clock])
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(model, args.side, args.rounds, args.skip, Path(folder), CLOCKS[args.clock])


if __name__ == "__main__":
    main()
