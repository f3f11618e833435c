"""One grammar for all commands: an option has one name, one set of values and one meaning, wherever it is."""

from __future__ import annotations

import argparse
from importlib import import_module

import pytest

from radio.cli import COMMANDS

RUN_A_MODEL = {
    "extract",
    "features",
    "zeroshot",
    "segment",
    "masks",
    "pca",
    "similar",
    "match",
    "propagate",
    "knn",
    "export",
    "probe train",
    "evaluate segmentation",
    "evaluate stability",
    "view",
}
USE_A_PROBE = {"probe predict", "probe evaluate"}
READ_IMAGES = RUN_A_MODEL - {"export", "match", "propagate", "evaluate segmentation", "evaluate stability"}
WRITE_FILES = {
    "extract",
    "features",
    "segment",
    "masks",
    "pca",
    "similar",
    "match",
    "propagate",
    "convert",
    "export",
}

SHARED = {
    "--model": {"info", "convert", "evaluate", "search"} | RUN_A_MODEL | USE_A_PROBE,
    "--device": {"bench", "evaluate", "search"} | RUN_A_MODEL | USE_A_PROBE,
    "--dtype": RUN_A_MODEL,
    "--runtime": RUN_A_MODEL - {"export"},
    "--vitdet-window-size": {"bench"} | RUN_A_MODEL,
    "--size": USE_A_PROBE | RUN_A_MODEL - {"masks", "view"},
    "--adaptor": {"evaluate", "search"} | RUN_A_MODEL - {"knn"},
    "--feature-fmt": {"features", "export"},
    "--output": {"train", "index", "search", "probe train", "probe predict"} | WRITE_FILES,
    "--skip-unreadable": {"evaluate", "probe evaluate"} | READ_IMAGES - {"segment", "masks"},
    "--batch-size": {
        "extract",
        "features",
        "pca",
        "propagate",
        "knn",
        "probe train",
        "probe evaluate",
        "evaluate stability",
    },
    "--json": {name for name, _, _ in COMMANDS if name != "probe"} | {"probe train"} | USE_A_PROBE,
    "--template": {"zeroshot", "segment", "masks", "evaluate segmentation"},
    "--refine": {"segment", "evaluate segmentation"},
    "--labels": {"zeroshot", "segment", "masks"},
    "--text-weights": {"zeroshot", "segment", "masks", "search", "evaluate segmentation", "view"},
    "--smooth": {"pca", "similar"},
    "--foreground": {"pca", "match"},
}
"""Which commands have which shared option."""


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    """By name; the commands of a command, such as ``probe train``, in place of it."""
    found = {}
    for name, module, _ in COMMANDS:
        parser = argparse.ArgumentParser(prog=name)
        import_module(module).add_arguments(parser)
        inner = [each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
        found |= {f"{name} {word}": each for word, each in inner[0].items()} if inner else {name: parser}
    return found


def _option(parser: argparse.ArgumentParser, name: str) -> argparse.Action | None:
    return next((action for action in parser._actions if name in action.option_strings), None)


@pytest.mark.parametrize("name", SHARED)
def test_an_option_is_where_it_makes_sense_and_the_same_everywhere(name, parsers):
    found = {command: _option(parser, name) for command, parser in parsers.items()}
    assert {command for command, action in found.items() if action} == SHARED[name]
    if name == "--model":
        assert found.pop("view").nargs is None  # repeated: a page offers several models
    actions = [action for action in found.values() if action]
    first = actions[0]
    for action in actions[1:]:
        assert type(action) is type(first) and action.nargs == first.nargs
        assert action.choices == first.choices and action.dest == first.dest
        short = [text for text in first.option_strings if not text.startswith("--")]
        assert [text for text in action.option_strings if not text.startswith("--")] == short
        if name != "--output":  # a folder to be made is told from a file by its last "/", which a Path drops
            assert action.type == first.type
        if name not in ("--output", "--labels"):
            assert action.metavar == first.metavar


def test_no_option_of_another_name_means_the_same(parsers):
    """Names that were in use once, or that people mix up."""
    strangers = {
        "--adaptors",
        "--format",
        "--resolution",
        "--out",
        "--window-size",
        "--precision",
        "--batch_size",
    }
    for command, parser in parsers.items():
        assert not strangers & set(parser._option_string_actions), command


def test_every_option_explains_itself(parsers):
    for command, parser in parsers.items():
        for action in parser._actions:
            assert action.help, f"{command} {action.option_strings or action.dest} has no help"


@pytest.mark.parametrize("command", sorted(RUN_A_MODEL))
@pytest.mark.parametrize(
    ("text", "name"),
    [("fp16", "float16"), ("float16", "float16"), ("bf16", "bfloat16"), ("bfloat16", "bfloat16"),
     ("fp32", "float32"), ("float32", "float32"), ("auto", "auto")],
)  # fmt: skip
def test_dtypes_have_their_short_names(command, text, name, parsers):
    action = _option(parsers[command], "--dtype")
    assert action is not None and action.type(text) == name


def test_an_unknown_dtype_is_answered_with_the_list(parsers, capsys):
    words = ["a.jpg", "-m", "x", "-o", "y", "--dtype", "int8"]
    with pytest.raises(SystemExit):
        parsers["features"].parse_args(words)
    assert "float16 (fp16)" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["info", "convert", "export"])
def test_the_model_stands_alone_or_behind_m(command, parsers):
    rest = {"info": [], "convert": ["-o", "out"], "export": ["-o", "out"]}[command]
    for words in (["x"], ["-m", "x"], ["--model", "x"]):
        assert parsers[command].parse_args([*words, *rest]).model == "x"
    for words in ([], ["x", "-m", "y"]):
        with pytest.raises(SystemExit):
            parsers[command].parse_args([*words, *rest])


def test_convert_takes_its_folder_either_way(parsers):
    for words in (["x", "out"], ["x", "-o", "out"], ["-m", "x", "--output", "out"]):
        assert str(parsers["convert"].parse_args(words).output) == "out"
    with pytest.raises(SystemExit):
        parsers["convert"].parse_args(["x"])


def test_a_model_need_not_be_named_where_one_can_be_taken(parsers):
    optional = {
        name for name, parser in parsers.items() if (o := _option(parser, "--model")) and not o.required
    }
    others = {
        "info",
        "convert",
        "export",
        "evaluate",
        "search",
    } | USE_A_PROBE  # which have another way to name one
    assert optional - others == {
        "features", "extract", "pca", "similar", "match", "propagate", "zeroshot", "segment",
        "view",
    }  # fmt: skip


def test_adaptors_are_repeated(parsers):
    words = ["a.jpg", "-m", "x", "-o", "y", "--adaptor", "clip", "--adaptor", "sam"]
    assert parsers["features"].parse_args(words).adaptor == ["clip", "sam"]
