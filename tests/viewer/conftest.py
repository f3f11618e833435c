"""What the tests of the viewer share: a tiny model and photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from radio import load_model
from radio.model import RADIOModel


@pytest.fixture(scope="package")
def tiny_model(reference: Path, text_towers: dict[str, Path]) -> RADIOModel[Any]:
    """A model with an adaptor that knows words and one that does not."""
    return load_model(
        reference / "v2_5" / "checkpoint.pth.tar",
        adaptors=["clip", "sam"],
        device="cpu",
        text_weights={"clip": text_towers["clip"]},
    )
