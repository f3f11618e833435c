"""``radio view``: a local page that shows what a model sees in photographs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from radio.cli.common import choose_model, find_images, load_chosen_model, print_skipped, show
from radio.cli.options import add_adaptor, add_execution, add_json, add_model, add_skip_unreadable

if TYPE_CHECKING:
    from radio.model import RADIOModel
    from radio.viewer.photos import Photo

_EPILOG = """\
Opens a page in your browser. It shows a photograph with its features as colors, the patches that are like the one
under the pointer, the foreground, attention and merged tokens; two photographs with their matches; one photograph at
sizes from 224 to 1024; and, with an adaptor that knows words, labels in words.

The page is served to this computer only, and nothing leaves it. From another computer use a tunnel:
ssh -L 7234:127.0.0.1:7234 HOST. Ctrl-C ends it.
"""

_MOST_PHOTOS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE", help="photographs to start with, or folders of them"
    )
    add_model(parser, optional=True, several=True)
    add_adaptor(
        parser, "offer a teacher's space (clip, sam, ...) of the models that have it; may be repeated"
    )
    parser.add_argument(
        "--text-weights",
        type=Path,
        metavar="PATH",
        help="local weights of the text tower, instead of a download",
    )
    page = parser.add_argument_group("page")
    page.add_argument(
        "--port",
        type=_port,
        metavar="N",
        help="port on 127.0.0.1; 0 for one that is free (default: 7234, or one that is free)",
    )
    page.add_argument("--no-browser", action="store_true", help="only print the page's address")
    add_skip_unreadable(parser)
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    from radio.viewer.server import check_extra, listen, serve

    check_extra()

    def ready(address: str) -> None:
        line = f"viewer: {address}   (Ctrl-C ends it)"
        print(json.dumps({"address": address}) if args.json else line, flush=True)

    with listen(args.port) as place:
        photos = _photos(args)
        idle = serve(_models(args), photos, place, ready, browser=not args.no_browser)
    show("viewer: ended", sys.stderr)
    if not idle:  # Python would wait for the end of the pass, or abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _photos(args: argparse.Namespace) -> list[Photo]:
    from radio.errors import ImageError
    from radio.viewer.photos import read_photo

    paths = find_images(args.images)
    if len(paths) > _MOST_PHOTOS:
        show(f"radio view: showing the first {_MOST_PHOTOS} of {len(paths)} images", sys.stderr)
    photos = []
    for path in paths[:_MOST_PHOTOS]:
        try:
            photos.append(read_photo(path, path.name))
        except ImageError as error:
            if not args.skip_unreadable:
                raise
            print_skipped(args.command, error)
    return photos


def _models(args: argparse.Namespace) -> dict[str, RADIOModel]:
    """The models that were named, each with those of the adaptors that it has."""
    from radio.opening import open_checkpoint

    names = args.model or [choose_model(args)]
    missing = set(args.adaptor)
    models = {}
    for name in dict.fromkeys(names):
        has = {each.name: each for each in open_checkpoint(name).config.adaptors} if args.adaptor else {}
        chosen = [adaptor for adaptor in args.adaptor if adaptor in has]
        missing -= set(chosen)
        with_text = any(has[adaptor].has_text for adaptor in chosen)
        one = argparse.Namespace(**{**vars(args), "model": name})
        models[name] = load_chosen_model(
            one, adaptors=chosen, text_weights=args.text_weights if with_text else None
        )
    if missing:
        raise ValueError(
            f"no model has the adaptor {', '.join(sorted(missing))}; 'radio info MODEL' lists them"
        )
    return models


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)
