"""The ``radio`` command. A command's module is imported only when that command is asked for."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from radio import __version__
from radio.errors import RadioError, printable

COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("models", "radio.cli.models", "list the released versions"),
    ("info", "radio.cli.info", "describe a version, a file or a folder"),
    ("features", "radio.cli.features", "write the summary and the spatial features of images"),
    ("extract", "radio.cli.extract", "write the features of a whole data set as Parquet shards, resumably"),
    ("index", "radio.cli.index", "make an index to search in from what extract wrote"),
    ("search", "radio.cli.search", "find the images of an index that are like an image or fit a text"),
    ("zeroshot", "radio.cli.zeroshot", "find the labels that fit images best"),
    ("segment", "radio.cli.segment", "give every pixel of an image a label"),
    ("masks", "radio.cli.masks", "cut out what you point at, or everything, with SAM's decoder"),
    ("pca", "radio.cli.pca", "show spatial features of images or of a video as colors"),
    ("similar", "radio.cli.similar", "show which patches are like a given one, or what it attends to"),
    ("match", "radio.cli.match", "show which patches of two photographs belong together"),
    ("propagate", "radio.cli.propagate", "carry a mask of a video's first frame through the video"),
    ("view", "radio.cli.view", "open a local page that shows what a model sees in photographs"),
    ("knn", "radio.cli.knn", "classify images by their nearest neighbors among labeled ones"),
    ("probe", "radio.cli.probe", "train heads on frozen features, use them, and measure them"),
    ("train", "radio.cli.train", "distil teachers into a student, after a recipe"),
    ("evaluate", "radio.cli.evaluate", "measure a backbone: k-NN, linear probe, over resolutions"),
    (
        "evaluate segmentation",
        "radio.cli.evaluate_segmentation",
        "measure labels for every pixel: mIoU on a data set",
    ),
    (
        "evaluate stability",
        "radio.cli.evaluate_stability",
        "measure how stable features are over frames of videos",
    ),
    ("convert", "radio.cli.convert", "convert a checkpoint of any layout to config.json + model.safetensors"),
    ("bench", "radio.cli.bench", "how fast a model is here, in every runtime and dtype"),
    ("export", "radio.cli.export", "write a file of ONNX, OpenVINO or torch.export"),
    ("doctor", "radio.cli.doctor", "check versions, devices, the cache and offline settings"),
)
"""Name, module and one-line help of each command. A module has ``add_arguments(parser)`` and ``run(args)``. A name
may be two words: what follows ``evaluate`` is a model, unless it is one of these."""

_BY_SIGNAL = 128
_CLOSED_PIPE = 141
_LONGEST_MESSAGE = 2000
_SIGNALS = ("SIGTERM", "SIGHUP", "SIGINT")
_SAME_SIGNAL = 2.0
"""Seconds."""


class Stopped(BaseException):
    """A signal asked the command to end.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Signals that would end the process at once raise `Stopped`, so that temporary files are removed on the way out.

    SIGINT raises KeyboardInterrupt, as always. What comes soon after the first signal says the same again, as when a
    terminal and a parent process both send one, and does not disturb the removal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return

    last = -math.inf

    def stop(number: int, frame: object) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _SAME_SIGNAL:
            last = now
            raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    usual = (signal.SIG_DFL, signal.default_int_handler)
    changed = [number for number, handler in before.items() if handler in usual]  # not under nohup
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``radio`` command.

    Args:
        argv: The arguments after ``radio``; those of the process if None.

    Returns:
        The exit code: 0, or 1 for a failure, which is told in one line on stderr.

    Raises:
        SystemExit: With code 2 for wrong usage, and 0 after ``--help`` and ``--version``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser(arguments).parse_args(arguments)
    with _stopped_by_signals(), warnings.catch_warnings():
        warnings.showwarning = partial(_show_warning, args.command)
        # Pillow's, of a limit that is not ours and without the file's name.
        warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
        return _run(args)


def _show_warning(command: str, message: Warning | str, *_: object, **__: object) -> None:
    """One line, as errors are shown, without the place in the code."""
    print(f"radio {command}: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _run(args: argparse.Namespace) -> int:
    try:
        args.run(args)
        sys.stdout.flush()
    except Stopped as stopped:
        print("radio: interrupted", file=sys.stderr)
        return _BY_SIGNAL + stopped.number
    except KeyboardInterrupt:
        print("radio: interrupted", file=sys.stderr)
        return _BY_SIGNAL + signal.SIGINT
    except BrokenPipeError:
        # Whoever reads our output has seen enough. Python must not try to flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE
    except Exception as error:  # the edge of the program: every failure becomes one line
        if args.debug:
            traceback.print_exc()
        else:
            print(
                f"radio {args.command}: error: {printable(_message(error), _LONGEST_MESSAGE)}",
                file=sys.stderr,
            )
        return 1
    return 0


class _Parser(argparse.ArgumentParser):
    """Takes the two words of a command's name as one."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(None if args is None else _joined(args), namespace)


def _joined(arguments: Sequence[str]) -> list[str]:
    words = list(arguments)
    first = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    name = " ".join(words[first : first + 2])
    if " " in name and name in (command for command, _, _ in COMMANDS):
        words[first : first + 2] = [name]
    return words


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="radio",
        description="RADIO vision backbones: summary and spatial features of images.",
        epilog="'radio COMMAND --help' tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"radio {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )
    words = _joined(arguments)
    for name, module_name, summary in COMMANDS:
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        if name in words:
            module = import_module(module_name)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _message(error: Exception) -> str:
    """One line. Errors that are not meant for the user keep their type's name."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"cannot use {str(error.filename2 or error.filename)!r}: {error.strerror}; give another path"
    text = " ".join(str(error).split())
    if isinstance(error, RadioError | ValueError | OSError | ImportError) and text:
        return text
    return f"{type(error).__name__}: {text} (--debug shows the traceback)"
