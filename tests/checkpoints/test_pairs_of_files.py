"""config.json and model.safetensors belong together, or are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from radio import CheckpointError, load_model

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import os, sys
renames = 0
def stop(event, _):
    global renames
    if event == "os.rename":
        renames += 1
        if renames == int(sys.argv[1]):
            os._exit(9)  # as by SIGKILL: nothing is cleaned up
from radio import load_model
from radio.cli import main
sys.addaudithook(stop)
if sys.argv[2] == "convert":
    main(["convert", sys.argv[3], sys.argv[4], "--overwrite"])
else:
    load_model(sys.argv[3], device="cpu").save_pretrained(sys.argv[4])
"""


@pytest.fixture
def saved(reference, tmp_path) -> Path:
    """A folder that this library wrote."""
    load_model(reference / "hf_repo", device="cpu").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("way", ["convert", "save_pretrained"])
@pytest.mark.parametrize("source", ["saved", "others"])
@pytest.mark.parametrize("killed_at", [1, 2])
def test_a_save_that_is_killed_between_its_two_files(reference, tmp_path, saved, way, source, killed_at):
    """Before the first rename the folder is as it was; between the two it is refused."""
    folder = saved
    if source == "others":
        folder = Path(
            shutil.copytree(reference / "hf_repo", tmp_path / "o", ignore=shutil.ignore_patterns("c*s.*"))
        )
    before = load_model(folder, device="cpu").state_dict()
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(killed_at),
        way,
        str(reference / "v2_5" / "checkpoint.pth.tar"),
        str(folder),
    ]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 9
    if killed_at == 1:
        after = load_model(folder, device="cpu").state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    else:
        with pytest.raises(CheckpointError, match=r"do not belong together.*Save, convert or download both"):
            load_model(folder, device="cpu")
        with pytest.raises(CheckpointError, match="do not belong together"):
            load_model(folder / "model.safetensors", device="cpu")


def test_the_config_may_be_edited_by_hand(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"max_resolution": 1024}))
    assert load_model(saved, device="cpu").max_resolution == 1024


def test_weights_that_were_changed_on_purpose(saved):
    """Another program drops what it does not know from the header; the message says what to do."""
    state = load_file(saved / "model.safetensors")
    save_file({name: value.clone() for name, value in state.items()}, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="remove 'config_id' from config.json"):
        load_model(saved, device="cpu")
    config = json.loads((saved / "config.json").read_text())
    del config["config_id"]
    (saved / "config.json").write_text(json.dumps(config))
    load_model(saved, device="cpu")


def test_a_folder_written_twice_has_the_same_bytes(saved, tmp_path):
    for again in (tmp_path / str(number) for number in range(6)):
        load_model(saved, device="cpu").save_pretrained(again)
        for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
            assert (saved / name).read_bytes() == (again / name).read_bytes()


def test_a_full_disk_leaves_what_was_there(saved):
    """The largest size of a file stands in for a full disk."""
    code = f"""
import resource, signal
from radio import load_model
model = load_model({str(saved)!r}, device="cpu")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    model.save_pretrained({str(saved)!r})
except OSError as error:
    print("refused")
"""
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "refused", result.stderr[-2000:]
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_symbolic_links_are_replaced_not_written_through(saved, tmp_path, reference):
    """A cache of the Hub links to its files; saving over the links must not change the cache."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in saved.iterdir():
        (linked / file.name).symlink_to(file)
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu").save_pretrained(linked)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert not any(file.is_symlink() for file in linked.iterdir())
    load_model(linked, device="cpu")
