"""``radio search``: the images of an index that are most like an image or a text."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radio.cli.common import print_table
from radio.cli.options import add_adaptor, add_json, add_output, one_adaptor, positive_int
from radio.files import Outputs

if TYPE_CHECKING:
    from radio.model import RADIOModel
    from radio.search import Match, SearchIndex

_DEFAULT = "radio.lancedb"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--image", type=Path, metavar="IMAGE", help="find images like this one")
    query.add_argument(
        "--text", metavar="TEXT", help="find images that fit this text, such as 'a red bicycle'"
    )
    parser.add_argument(
        "--index", default=_DEFAULT, metavar="INDEX", help=f"what 'radio index' wrote (default: {_DEFAULT})"
    )
    parser.add_argument(
        "--top", type=positive_int, default=10, metavar="N", help="matches to show (default: 10)"
    )
    parser.add_argument(
        "--where",
        metavar="SQL",
        help="only among rows that meet this condition, e.g. \"width > 1000 and path like '%%/cats/%%'\"",
    )
    parser.add_argument(
        "--exact", action="store_true", help="look at every row, also in an approximate index"
    )
    add_output(parser, "also draw the matches on a sheet, such as sheet.png", required=False, metavar="SHEET")
    add_json(parser)
    model = parser.add_argument_group("model")
    model.add_argument(
        "-m", "--model", metavar="MODEL", help="if the one that the images were extracted with has moved"
    )
    add_adaptor(
        model, "search in this teacher's space (default: the summary; for texts the one that has text)"
    )
    model.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1, ..."
    )
    model.add_argument("--text-weights", type=Path, metavar="PATH", help="local weights of the text tower")


def run(args: argparse.Namespace) -> None:
    """Search, and show the matches."""
    from radio.drawing.pictures import check_picture_name, save_picture
    from radio.search import SearchIndex, contact_sheet

    outputs = Outputs([args.image])
    if args.output is not None:
        check_picture_name(args.output)
        outputs.check(args.output)
    index = SearchIndex(args.index)
    column, vector = _query(args, index)
    matches = index.search(vector, args.top, column, args.where, args.exact)
    if args.output is not None:
        outputs.add_inputs(*(match.path for match in matches))
        picture = contact_sheet(
            matches, args.text or args.image.name, index.description["options"]["image_column"]
        )
        save_picture(picture, args.output, outputs)
    _show(args, column, matches)


def _query(args: argparse.Namespace, index: SearchIndex) -> tuple[str, Any]:
    """The column to search in, and the vector to search for."""
    from radio.encoding import Encoding
    from radio.images import load_image

    name = one_adaptor(args)
    if name is not None and name not in index.vectors:
        raise ValueError(
            f"unknown adaptor {name!r}; the index has: {', '.join(list(index.vectors)[1:]) or 'none'}"
        )
    if args.image is not None:
        load_image(args.image)  # so that a bad query fails before a model is loaded
    model = _load(args, index, name)
    if args.text is not None:
        name = name or _with_text(model)
        adaptor: Any = dict(model.adaptors or {})[name]
        return name, adaptor.encode_text([args.text])[0]
    encoding = model.encode(args.image, size=index.size)
    assert isinstance(encoding, Encoding)
    return (name, encoding.adaptors[name].summary[0]) if name else ("summary", encoding.summary[0])


def _load(args: argparse.Namespace, index: SearchIndex, name: str | None) -> RADIOModel:
    """The model that the images were extracted with.

    Raises:
        ValueError: The weights are others, so that nothing found would mean anything.
    """
    from radio import load_model
    from radio.extraction.plan import describe_model

    facts = index.description["model"]
    source = args.model or index.description["source"]
    weights = None if args.text is None else args.text_weights
    model = load_model(
        source,
        adaptors=facts["adaptors"],
        device=args.device,
        dtype=facts["dtype"],
        vitdet_window_size=facts["vitdet_window_size"],
        eradio_window_size=facts["eradio_window_size"],
        neck_name=facts["neck_name"],
        runtime=facts.get("runtime", "auto"),
        text_weights={name: weights} if name and weights else weights,
    )
    if describe_model(model) != facts:
        raise ValueError(
            f"the images were extracted with other weights than those of {source}; give -m MODEL"
        )
    return model


def _with_text(model: RADIOModel) -> str:
    named = dict(model.adaptors or {})
    found = [name for name, adaptor in named.items() if getattr(adaptor, "text", None) is not None]
    if not found:
        raise ValueError(
            f"texts need an adaptor with a text tower; the index has: {', '.join(named) or 'no adaptor'}. Extract "
            "again with one, e.g. --adaptor siglip2-g"
        )
    return found[0]


def _show(args: argparse.Namespace, column: str, matches: list[Match]) -> None:
    if args.json:
        rows = [{"id": match.id, "path": match.path, "score": match.score, **match.row} for match in matches]
        print(json.dumps({"column": column, "matches": rows}, indent=2))
        return
    if not matches:
        print("nothing was found")
        return
    print_table(
        [[f"{rank:4d}", f"{match.score:7.4f}", match.path] for rank, match in enumerate(matches, start=1)],
        header=["rank", " cosine", "image"],
    )
