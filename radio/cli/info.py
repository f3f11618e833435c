"""``radio info``: what a version, a file or a folder is, without loading its weights."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radio.cli.common import format_bytes, format_count, print_table, show
from radio.cli.options import add_json, add_model
from radio.wording import counted

_BUFFERS = (".running_mean", ".running_var", ".relative_coords_table")
"""Tensors that are no parameters: statistics of batch normalization, and a table that follows from its shape."""

if TYPE_CHECKING:
    from radio.catalog import Release
    from radio.checkpoints import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_model(parser, also_positional=True)
    parser.add_argument("--download", action="store_true", help="fetch the weights if they are not here yet")
    parser.add_argument("--tensors", action="store_true", help="also list every tensor")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Describe a model."""
    from radio.catalog import find_release
    from radio.demo import DEMO_NAME
    from radio.download import DownloadOptions
    from radio.errors import DownloadError
    from radio.opening import open_checkpoint

    release = find_release(args.model)
    try:
        checkpoint = open_checkpoint(args.model, DownloadOptions(local_files_only=not args.download))
        description = describe_checkpoint(checkpoint, with_tensors=args.tensors)
    except DownloadError as error:
        if args.download:
            raise
        if args.model == DEMO_NAME:
            description = describe_absent_demo()
        elif release is None:
            raise DownloadError(
                f"{args.model} is not on this machine; 'radio info {args.model} --download' fetches it"
            ) from error
        else:
            description = describe_release(release)
    if args.json:
        print(json.dumps(description, indent=2, default=str))
    else:
        _print(description)


def describe_absent_demo() -> dict[str, Any]:
    """What is known of the demonstration backbone before it is on this machine."""
    from radio.demo import DEMO_LICENSE, DEMO_NAME, DEMO_NOTICE

    return {
        "version": DEMO_NAME,
        "weights": _absent(DEMO_NAME),
        "license": DEMO_LICENSE,
        "notice": DEMO_NOTICE,
    }


def _absent(version: str) -> str:
    return f"not on this machine ('radio info {version} --download' fetches them)"


def describe_release(release: Release) -> dict[str, Any]:
    """What the catalog knows of a version whose weights are not on this machine."""
    return {
        "version": release.version,
        "weights": _absent(release.version),
        "license": release.license,
        "parameters": release.parameters,
        "patch_size": release.patch_size,
        "preferred_resolution": list(release.preferred_resolution),
        "max_resolution": release.max_resolution,
        "adaptors": list(release.adaptors),
    }


def describe_checkpoint(checkpoint: Checkpoint, with_tensors: bool = False) -> dict[str, Any]:
    """What a checkpoint is: its description, the sizes of its parts and, if asked for, its tensors."""
    from radio.demo import DEMO_LICENSE, DEMO_NAME, DEMO_NOTICE

    config, release = checkpoint.config, checkpoint.release
    sizes = Counter[str]()
    dtypes = Counter[str]()
    for name, tensor in checkpoint.tensors.items():
        part = ".".join(name.split(".")[:2]) if name.startswith("adaptors.") else name.split(".")[0]
        if not name.endswith(_BUFFERS):
            sizes["backbone" if part == "model" else part] += prod(tensor.shape)
        dtypes[str(tensor.dtype).removeprefix("torch.")] += prod(tensor.shape)
    description: dict[str, Any] = {
        "version": config.version or "unknown (a checkpoint does not have to say)",
        "weights": str(checkpoint.path),
        "file_size": sum(file.stat().st_size for file in _files(checkpoint.path)),
        "layout": "Hub folder" if _is_hub(checkpoint.path) else "torch file",
        "license": release.license if release else "unknown",
        "parameters": sizes["backbone"],
        "parameters_by_part": dict(sizes),
        "stored_as": dict(dtypes),
        "config": asdict(config),
        "summary_dim": config.summary_dim,
        "trained_with_windows": release.vitdet if release else None,
    }
    if config.version == DEMO_NAME:
        description |= {"license": DEMO_LICENSE, "notice": DEMO_NOTICE}
    if with_tensors:
        description["tensors"] = {
            name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for name, value in checkpoint.tensors.items()
        }
    return description


def _is_hub(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".safetensors"


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


def _print(description: dict[str, Any]) -> None:
    if "preferred_resolution" not in description and "config" not in description:
        print_table([(name, description[name]) for name in ("version", "weights", "license", "notice")])
        return
    if "config" not in description:
        height, width = description["preferred_resolution"]
        print_table(
            [
                ("version", description["version"]),
                ("weights", description["weights"]),
                ("license", description["license"]),
                ("parameters", format_count(description["parameters"])),
                ("patch", f"{description['patch_size']} pixels"),
                ("resolution", f"best {height}x{width}, largest side {description['max_resolution']}"),
                ("adaptors", ", ".join(description["adaptors"]) or "none"),
            ]
        )
        return
    config = description["config"]
    height, width = config["preferred_resolution"]
    tokens = (
        f"{counted(config['num_cls_tokens'], 'class token')}, {counted(config['num_registers'], 'register')}"
    )
    teachers = f" ({', '.join(config['summary_names'])})" if config["summary_names"] else ""
    rows = [
        ("version", description["version"]),
        ("weights", description["weights"]),
        ("layout", f"{description['layout']}, {format_bytes(description['file_size'])}"),
        ("license", description["license"]),
        *([("notice", description["notice"])] if "notice" in description else []),
        ("architecture", f"{config['architecture']}: {_layers(config)}"),
        ("parameters", f"{format_count(description['parameters'])} (backbone)"),
        (
            "stored as",
            ", ".join(f"{dtype} ({format_count(n)})" for dtype, n in description["stored_as"].items()),
        ),
        ("computes in", config["dtype"]),
        ("patch", _patch(config)),
        ("resolution", f"best {height}x{width}, largest side {config['max_resolution']}"),
        ("prefix tokens", tokens),
        ("summary", f"{description['summary_dim']} numbers{teachers}"),
        _attention(config, description["trained_with_windows"]),
    ]
    rows += [("adaptor", _adaptor(adaptor)) for adaptor in config["adaptors"]] or [("adaptors", "none")]
    print_table(rows)
    for name, tensor in description.get("tensors", {}).items():
        show(f"{name}  {'x'.join(map(str, tensor['shape'])) or 'scalar'}  {tensor['dtype']}")


def _layers(config: dict[str, Any]) -> str:
    """What the backbone is made of."""
    if eradio := config["eradio"]:
        levels = eradio["attention_levels"]
        blocks, heads = ([level[name] for level in levels] for name in ("depth", "num_heads"))
        return (
            f"2 convolutional levels, then {blocks[0]} + {blocks[1]} attention blocks of {heads[0]} and {heads[1]} "
            f"heads; widths {eradio['dim']} to {8 * eradio['dim']}, output {config['embed_dim']}"
        )
    layers = f"{counted(config['depth'], 'block')}, width {config['embed_dim']}, {counted(config['num_heads'], 'head')}"
    layers += f", MLP {config['mlp_dim']}"
    if radio1d := config["radio1d"]:
        merges, splits = (
            ", ".join(map(str, radio1d[name])) for name in ("downscale_levels", "decoder_upscale_levels")
        )
        layers += f"; merges before block {merges}"
        layers += f"; decoder of {counted(radio1d['decoder_depth'], 'block')}, splits before block {splits}"
    return layers


def _patch(config: dict[str, Any]) -> str:
    side = config["patch_size"]
    if config["eradio"]:
        return f"{side} pixels; sides are multiples of {2 * side}"
    return f"{side} pixels; position embeddings {config['grid_size']}x{config['grid_size']}"


def _attention(config: dict[str, Any], trained_with_windows: bool | None) -> tuple[str, str]:
    """What can be chosen about which tokens see each other, or which output a model gives."""
    if eradio := config["eradio"]:
        sides = sorted({level["window_size"] for level in eradio["attention_levels"]})
        chosen = eradio["window_size"]
        stored = f"{' and '.join(map(str, sides))} positions in the file"
        return "windows", f"{chosen}; {stored}" if chosen else stored
    if radio1d := config["radio1d"]:
        return "outputs", radio1d["neck_name"] or "encoder, decoder"
    return "ViTDet", _vitdet(config, trained_with_windows)


def _vitdet(config: dict[str, Any], trained: bool | None) -> str:
    window = config["vitdet_window_size"]
    if trained is False and not window:
        return "not trained with windows"
    if config["vitdet_num_windowed"]:
        schedule = f"{config['vitdet_num_windowed']} windowed blocks between global ones"
    else:
        schedule = f"{config['vitdet_num_global'] or 4} global blocks"
    return f"{f'windows of {window} patches' if window else 'off by default'}; schedule: {schedule}"


def _adaptor(adaptor: dict[str, Any]) -> str:
    summary, feature = adaptor["summary"]["output_dim"], adaptor["feature"]["output_dim"]
    finer = adaptor["feature"]["upsample_factor"]
    return (
        f"{adaptor['name']}: summary {summary}, features {feature}{f', {finer}x finer' if finer > 1 else ''}"
    )
