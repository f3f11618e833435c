"""A model survives whatever happens to the file it was loaded from, in a process of its own that a signal may kill."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("v2_5/checkpoint.pth.tar", "hf_repo/model.safetensors", "hf_repo")

CODE = """
import os, shutil, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from radio import load_model
from radio.checkpoints import read_checkpoint, read_content

path, change = Path(sys.argv[1]), sys.argv[2]
file = path / "model.safetensors" if path.is_dir() else path
model = load_model(path, device="cpu")
content, checkpoint = read_content(path), read_checkpoint(path)
x = torch.rand(1, 3, 64, 64)

def numbers():
    everything = [*content["state_dict"].values(), *checkpoint.tensors.values(), *model.state_dict().values()]
    with torch.no_grad():
        return [model(x).features.clone(), *(value.clone() for value in everything)]

before = numbers()
if change == "saved over" and file.suffix == ".tar":
    torch.save({**content, "state_dict": model.state_dict()}, file)
elif change == "saved over":
    state = {name: value * 0 for name, value in load_file(file).items()}
    file.write_bytes(b"")
    save_file(state, file)
elif change == "truncated":
    os.truncate(file, 100)
elif change == "emptied":
    file.write_bytes(b"")
elif change == "deleted":
    file.unlink()
elif change == "copied over":
    with file.open("r+b") as there:
        there.write(bytes(file.stat().st_size))
elif change == "replaced":
    model.save_pretrained(file.parent)
assert all(torch.equal(old, new) for old, new in zip(before, numbers(), strict=True))
print("the same")
"""


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "change", ["saved over", "truncated", "emptied", "deleted", "copied over", "replaced"]
)
def test_a_model_outlives_its_file(reference, tmp_path, source, change):
    if change in ("emptied", "replaced") and source == "hf_repo":
        pytest.skip("the same as for its weights file")
    folder = tmp_path / "model"
    shutil.copytree(reference / Path(source).parts[0], folder, ignore=shutil.ignore_patterns("cases.*"))
    path = folder.joinpath(*Path(source).parts[1:])
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(path), change],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "the same", (result.returncode, result.stderr[-2000:])
