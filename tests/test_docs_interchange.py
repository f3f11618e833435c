"""docs/interchange.md: its snippets run, and its table of what transformers' class cannot hold is complete."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from radio import RELEASES
from radio.architectures import release_config
from radio.checkpoints.layouts.native import why_not_native
from radio.checkpoints.layouts.roots import _WRAPPERS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "interchange.md").read_text(encoding="utf-8")


def test_snippets_run(
    reference: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", minversion="5.24")
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos[0], "photo.jpg")
    vlm = tmp_path / "path" / "to" / "vlm"
    vlm.mkdir(parents=True)
    config = json.loads((reference / "hf_repo" / "config.json").read_text())
    tensors = load_file(reference / "hf_repo" / "model.safetensors")
    (vlm / "config.json").write_text(json.dumps({"vision_config": config}))
    placed = {f"vision_model.{name}": value for name, value in tensors.items()}
    save_file({**placed, "lm_head.weight": torch.rand(4, 4)}, vlm / "model.safetensors")

    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    names: dict = {}
    exec(code.replace("radio_v2.5-l", str(reference / "v2_5" / "checkpoint.pth.tar")), names)
    assert names["config"] == names["model"].config
    assert names["difference"] < 1e-4
    for other in ("same", "again"):
        state = names[other].state_dict()
        assert all(torch.equal(state[n], v) for n, v in names["model"].state_dict().items())
    assert names["tower"].config.version == "radio_v2.5-b"


def test_the_table_names_every_version_that_the_class_cannot_hold() -> None:
    rows = re.findall(r"^\| (?:another layout|a feature|norms).*$", PAGE, flags=re.MULTILINE)
    listed = set(re.findall(r"`((?:c-)?radio_v[^`]*)`", "\n".join(rows)))
    shapes = {release.version: release_config(release) for release in RELEASES if release.family == "vit"}
    assert listed == {version for version, shape in shapes.items() if why_not_native(shape)}


def test_the_wrappers_named_are_those_taken_off() -> None:
    [line] = [line for line in PAGE.split("\n- ") if line.startswith("**Wrappers.**")]
    named = re.findall(r"`([a-z_]+)\.`", line)
    assert "teacher" in named and "teacher" not in _WRAPPERS
    marks = {"_orig_mod", "_forward_module", "_fsdp_wrapped_module"}
    assert set(named) - {"teacher"} - marks <= _WRAPPERS
