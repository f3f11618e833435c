"""docs/integrations.md: its snippets run, and torch.hub's options mean what the page says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
CHECKPOINT = str(ROOT / "tests" / "reference" / "v2_5" / "checkpoint.pth.tar")


def test_snippets_run() -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    code = code.replace(
        "pretrained=True,", f'pretrained=True, pretrained_cfg_overlay={{"file": {CHECKPOINT!r}}},'
    )
    code = code.replace('"OWNER/NAME"', f'{str(ROOT)!r}, source="local", model="radio_model"').replace(
        '"radio_model", version', "version"
    )
    names: dict = {}
    exec(code.replace("radio_v2.5-l", CHECKPOINT), names)
    assert [tuple(features.shape) for features in names["maps"]] == [(2, 64, 32, 32)] * 4
    assert set(names["model"].adaptors) == {"clip"}


def test_the_hub_knows_the_options() -> None:
    import inspect

    import torch

    known = inspect.signature(torch.hub.load).parameters
    for option in ("trust_repo", "force_reload", "skip_validation", "source"):
        assert option in known and f"`{option}=" in PAGE
