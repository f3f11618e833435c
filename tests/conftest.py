"""Fixtures that every test file may use."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference() -> Path:
    """The reference checkpoints with their inputs and true outputs."""
    return ROOT / "tests" / "reference"


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Real photographs, in a fixed order."""
    return sorted((ROOT / "examples" / "images").glob("*.jpg"))
