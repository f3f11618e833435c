"""``radio train``: distil teachers into a student, after a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from radio.cli.common import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="see docs/training.md")
    parser.add_argument("-o", "--output", type=Path, help="folder of the run, instead of the recipe's")
    parser.add_argument(
        "--stop-after",
        type=positive,
        metavar="N",
        help="stop after step N; the same command goes on from there",
    )


def run(args: argparse.Namespace) -> None:
    """Train; a run that was stopped goes on."""
    import dataclasses

    from radio.training import distill, read_recipe

    recipe = read_recipe(args.recipe)
    if args.output is not None:
        recipe = dataclasses.replace(recipe, output=str(args.output))
    distill(recipe, stop_after=args.stop_after)
    print(f"wrote {Path(recipe.output) / 'model'}")
    print(f"wrote {Path(recipe.output) / 'curves.csv'}")
