"""``radio models``: the released versions."""

from __future__ import annotations

import argparse
import json
from typing import Any

from radio.cli.common import format_count, print_table
from radio.cli.options import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_json(parser)
    parser.epilog = (
        "The size is the one at which a version works best, in pixels; 'max' is the largest side. "
        "'cached' tells whether the weights are in the local Hugging Face cache."
    )


def run(args: argparse.Namespace) -> None:
    """Print the released versions."""
    from radio.catalog import RELEASES
    from radio.download import is_cached

    if args.json:
        rows = [_as_json(release, is_cached(release)) for release in RELEASES]
        print(json.dumps(rows, indent=2))
        return
    print_table(
        [_as_row(release, is_cached(release)) for release in RELEASES],
        ("version", "parameters", "size", "max", "patch", "adaptors", "cached", "license of the weights"),
    )


def _as_row(release: Any, cached: bool) -> tuple[str, ...]:
    height, width = release.preferred_resolution
    return (
        release.version,
        format_count(release.parameters),
        f"{height}x{width}",
        str(release.max_resolution),
        str(release.patch_size),
        ", ".join(release.adaptors) or "-",
        "yes" if cached else "no",
        release.license,
    )


def _as_json(release: Any, cached: bool) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(release), "cached": cached}
