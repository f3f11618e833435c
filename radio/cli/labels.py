"""What the commands that take labels in words share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radio.cli.common import choose_model, load_chosen_model
from radio.cli.options import add_adaptor, one_adaptor

if TYPE_CHECKING:
    from radio.model import RADIOModel

DEFAULT_WITH_TEXT = "c-radio_v3-b; without a connection a version with text that is in the cache"
_PREFERRED = ("siglip2-g", "siglip", "clip")


def add_label_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--labels``, ``--labels-file``, and what `add_text_arguments` does."""
    group = parser.add_argument_group("labels")
    source = group.add_mutually_exclusive_group(required=required)
    source.add_argument("--labels", metavar="A,B,…", help="the labels, with commas between them")
    source.add_argument(
        "--labels-file", type=Path, metavar="FILE", help="a text file with one label per line"
    )
    add_text_arguments(group)


def add_text_arguments(group: Any) -> None:
    """Add ``--template``, ``--template-set``, ``--adaptor`` and ``--text-weights``."""
    group.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="sentence with {} for the label (default: 'a photo of a {}.'); may be repeated, then the mean is used",
    )
    group.add_argument(
        "--template-set",
        choices=("openai", "simple"),
        help="open_clip's sentences for ImageNet in place of --template: 80, or 7",
    )
    add_adaptor(
        group,
        f"a text-aligned adaptor, one for all labels (default: the first of {', '.join(_PREFERRED)} that the model "
        "has)",
    )
    group.add_argument(
        "--text-weights",
        type=Path,
        metavar="PATH",
        help="local weights of the text tower, instead of a download",
    )


def read_labels(args: argparse.Namespace) -> list[str]:
    """The labels that the user gave, in that order.

    Raises:
        ValueError: There are none, or one is given twice.
        OSError: The file cannot be read.
    """
    lines = (
        args.labels.split(",")
        if args.labels_file is None
        else args.labels_file.read_text("utf-8").splitlines()
    )
    labels = [line.strip() for line in lines if line.strip()]
    if not labels:
        raise ValueError("no labels were given")
    twice = [label for i, label in enumerate(labels) if label in labels[:i]]
    if twice:
        raise ValueError(f"label {twice[0]!r} is given twice")
    return labels


def read_templates(args: argparse.Namespace) -> Sequence[str]:
    """The sentences that the user chose, or the one that is used by default.

    Raises:
        ValueError: Both kinds were given.
        MissingExtraError: The set is open_clip's, which is not installed.
    """
    from radio.tasks.zero_shot import PHOTO_TEMPLATES, imagenet_templates

    if args.template_set is None:
        return args.template or PHOTO_TEMPLATES
    if args.template:
        raise ValueError("give --template or --template-set, not both")
    return imagenet_templates(args.template_set)


def load_with_text(args: argparse.Namespace) -> tuple[RADIOModel, str]:
    """Load the model with its text-aligned adaptor.

    Returns:
        The model and the adaptor's name.

    Raises:
        ValueError: The model has no text-aligned adaptor.
    """
    model = choose_model(args, with_text=True)
    name = one_adaptor(args) or choose_text_adaptor(model)
    return load_chosen_model(args, adaptors=[name], text_weights=args.text_weights), name


def choose_text_adaptor(model: str) -> str:
    """The text-aligned adaptor that is used if none is asked for.

    Raises:
        ValueError: The model has none.
    """
    from radio.opening import open_checkpoint

    adaptors = open_checkpoint(model).config.adaptors
    names = [adaptor.name for adaptor in adaptors if adaptor.has_text]
    if not names:
        raise ValueError(
            f"{model} has no text-aligned adaptor (it has: {', '.join(a.name for a in adaptors) or 'no adaptors'}); "
            "words need a model with text, such as c-radio_v3-b"
        )
    return next((name for name in _PREFERRED if name in names), names[0])
