"""Ray: each case in a process of its own, since Ray leaves threads behind that end the process that it ran in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("ray_cases.py")


@pytest.mark.parametrize(
    "name",
    [
        "test_a_node_killed_in_the_middle_loses_nothing",
        pytest.param("test_what_goes_wrong_in_a_node_is_told_in_a_line", marks=pytest.mark.slow),
        pytest.param("test_what_one_engine_began_the_other_ends", marks=pytest.mark.slow),
    ],
)
def test_ray(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{CASES}::{name}"]
    done = subprocess.run(command, cwd=CASES.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
