"""The fuzz targets for some seconds, without coverage. `python tests/fuzz/checkpoints.py` searches for longer."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
LONGEST = 5.0


def _target(name: str) -> ModuleType:
    """A fuzz target, which is a script beside this file."""
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoints() -> ModuleType:
    return _target("checkpoints")


def test_good_inputs_are_models(checkpoints, tmp_path):
    workshop = checkpoints.Workshop(tmp_path)
    assert [checkpoints.run(workshop, seed) for seed in workshop.seeds()] == ["a model"] * 5


def test_a_plain_search(checkpoints, tmp_path):
    """Every part is reached behind its first line of defense: some inputs still load, and errors are of many kinds."""
    workshop = checkpoints.Workshop(tmp_path)
    outcomes = Counter[str]()
    for data, attempt in checkpoints.search(workshop, workshop.seeds(), inputs=200, seed=0):
        started = time.process_time()
        outcomes[attempt()[-60:]] += 1
        assert time.process_time() - started < LONGEST, data[:200]
    assert outcomes["a model"] > 3
    assert len(outcomes) > 20


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x01", b"\x02{}", b"\x03" + b"{" * 100_000, b"\x04" + b"[" * 100_000]
)
def test_inputs_that_were_found_before(checkpoints, tmp_path, data):
    assert checkpoints.run(checkpoints.Workshop(tmp_path), data) != "a model"
