"""``radio index``: the results of ``radio extract`` as an index to search in."""

from __future__ import annotations

import argparse
import json

from radio.cli.common import show
from radio.cli.options import add_json, add_output
from radio.wording import counted

_DEFAULT = "radio.lancedb"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", metavar="FOLDER", help="what 'radio extract' wrote: a folder or an address")
    add_output(
        parser, f"where the index goes (default: {_DEFAULT})", required=False, metavar="INDEX", type=str
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--approximate",
        action="store_const",
        const=True,
        help="add an approximate index, whatever the number of rows (default: from 20,000 rows on)",
    )
    kind.add_argument(
        "--exact",
        dest="approximate",
        action="store_const",
        const=False,
        help="add none: every search looks at every row",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Build the index and tell what it has."""
    from radio.search import build_index

    index = build_index(args.folder, args.output or _DEFAULT, args.approximate)
    approximate = index.approximate
    if args.json:
        facts = {
            "index": index.place,
            "rows": len(index),
            "vectors": index.vectors,
            "approximate": approximate,
        }
        print(json.dumps(facts, indent=2))
        return
    kind = "approximate" if approximate else "exact"
    show(f"wrote {index.place}: {counted(len(index), 'image')}, {kind} search by {', '.join(index.vectors)}")
