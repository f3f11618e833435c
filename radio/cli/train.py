"""``radio train``: distil teachers into a student, after a recipe."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from radio.cli.common import check_folder_name, print_result
from radio.cli.options import add_json, add_output, positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="see docs/training.md")
    add_output(parser, "folder of the run, instead of the recipe's", required=False, type=str)
    parser.add_argument(
        "--stop-after",
        type=positive_int,
        metavar="N",
        help="stop after step N; the same command goes on from there",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Train; a run that was stopped goes on."""
    import dataclasses

    from radio.training import distill, read_recipe

    if args.output is not None:
        check_folder_name(args.output)
    recipe = read_recipe(args.recipe)
    if args.output is not None:
        recipe = dataclasses.replace(recipe, output=args.output)
    distill(recipe, stop_after=args.stop_after)
    if os.environ.get("RANK", "0") != "0":  # the first of torchrun's processes speaks for all
        return
    folder = Path(recipe.output)
    written = {"model": folder / "model", "curves": folder / "curves.csv"}
    print_result(args, written, [f"wrote {path}" for path in written.values()])
