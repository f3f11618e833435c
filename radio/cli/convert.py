"""``radio convert``: a checkpoint of any layout to the Hub layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from radio.cli.common import check_folder_name, format_bytes, print_result
from radio.cli.options import add_json, add_model, add_output
from radio.files import Outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_model(parser, also_positional=True)
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument(
        "output", nargs="?", default=argparse.SUPPRESS, metavar="OUT", help="the folder to write"
    )
    add_output(either, "the same as OUT", required=False, type=str)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model that is in the folder already"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Convert a checkpoint with all of its adaptors, with the numbers as they are stored."""
    import torch

    from radio.checkpoints import write_hub_repo
    from radio.checkpoints.build import build_model
    from radio.modeling.network import RADIONetwork
    from radio.opening import open_checkpoint

    output = Path(args.output)
    check_folder_name(args.output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; give a folder")
    if (output / "config.json").exists() and not args.overwrite:
        raise ValueError(f"{output} already holds a model; give another folder, or --overwrite")
    outputs = Outputs([args.model])
    outputs.check(output / "config.json", output / "model.safetensors")
    checkpoint = open_checkpoint(args.model)
    outputs.add_inputs(checkpoint.path)
    outputs.check(output / "config.json", output / "model.safetensors")
    names = [adaptor.name for adaptor in checkpoint.config.adaptors]
    build_model(
        RADIONetwork, checkpoint, names, torch.device("meta"), torch.float32
    )  # refuses what does not fit
    write_hub_repo(output, checkpoint.config, checkpoint.tensors, outputs)
    written = (output / "model.safetensors").stat().st_size
    print_result(
        args,
        {"output": output, "tensors": len(checkpoint.tensors), "bytes": written, "adaptors": names},
        [
            f"wrote {output / 'config.json'}",
            f"wrote {output / 'model.safetensors'} ({len(checkpoint.tensors)} tensors, {format_bytes(written)})",
            f"adaptors: {', '.join(names) or 'none'}",
        ],
    )
