"""docs/training.md: its snippets run, its commands are commands, its recipes are recipes, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import torch
from training_runs import KnownTeacher

import radio.training
from radio.cli import _parser
from radio.training.teachers import KINDS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```py\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_recipe_in_python_is_one() -> None:
    [call] = re.findall(r"\ndistill\((.*)\)\nmodel", SNIPPETS[0], flags=re.DOTALL)
    recipe = radio.training.read_recipe(eval(f"({call})"))
    assert recipe.teachers[0].name == "dino" and recipe.output == "runs/mine"


def test_the_parts_work_as_shown() -> None:
    teacher = KnownTeacher(1.0, size=1024, stride=16)
    names: dict = {
        "features": torch.randn(2, 50, 16),
        "mask": torch.rand(2, 50) < 0.9,
        "head": torch.nn.Module(),
        "views": torch.rand(16, 3, 256, 256),
        "sam": lambda canvases: teacher(canvases).features,
    }
    names["head"].final = torch.nn.Sequential(torch.nn.Identity(), torch.nn.GELU(), torch.nn.Linear(8, 16))
    exec(SNIPPETS[1], names)
    assert len(names["canvases"]) == 1 and len(names["maps"]) == 16
    assert names["target"].shape == (2, 50, 16)


def test_the_commands_are_understood() -> None:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)).replace("\\\n", " ")
    found = set()
    for line in blocks.splitlines():
        if "radio " in line and not line.startswith(("pip", "#")):
            words = shlex.split(line, comments=True)
            words = words[words.index("radio") + 1 :]
            _parser(words).parse_args(words)
            found.add(words[0])
    assert found == {"train", "evaluate"}


def test_links_and_kinds() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    for kind in KINDS:
        assert f"| `{kind}` |" in PAGE
    for file in re.findall(r"`(\w+\.py)` \|", PAGE):
        assert (ROOT / "radio" / "training" / file).is_file(), file
