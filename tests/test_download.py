"""Downloads through the real huggingface_hub, from a Hub on this machine and without any."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hub_server import hub_server
from safetensors.torch import load_file, save_file

from radio import DownloadError
from radio.checkpoints import read_content
from radio.download import DownloadOptions, download_other

ROOT = Path(__file__).resolve().parent.parent
RELEASE = "nvidia/RADIO/resolve/main/radio-v2.5-b_half.pth.tar"


def _run(code: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process, since huggingface_hub reads its settings when it is imported."""
    settings = {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "2", **env}
    code = f"import logging; logging.basicConfig(); from radio import load_model\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True, cwd=ROOT
    )


def test_a_version_is_downloaded_once_and_its_license_shown_once(reference, tmp_path):
    code = "m = load_model('radio_v2.5-b', device='cpu'); print(m.config.version, m.config.pos_embed_align_corners)"
    with hub_server({RELEASE: reference / "v2_5" / "checkpoint.pth.tar"}) as (address, requests):
        first = _run(code, tmp_path, HF_ENDPOINT=address)
        assert first.returncode == 0, first.stderr
        assert first.stdout.strip() == "radio_v2.5-b True"
        assert first.stderr.count("NVIDIA Source Code License (non-commercial)") == 1
        assert sum(method == "GET" and path.endswith(".pth.tar") for method, path, _ in requests) == 1
        again = _run(code, tmp_path, HF_ENDPOINT=address)
        assert again.returncode == 0, again.stderr
        assert "License" not in again.stderr
        assert sum(method == "GET" and path.endswith(".pth.tar") for method, path, _ in requests) == 1
    offline = _run(code, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout.strip() == "radio_v2.5-b True", offline.stderr


def test_a_hub_repository_is_downloaded_whole(reference, tmp_path):
    files = {
        f"nvidia/RADIO-B/resolve/main/{name}": reference / "hf_repo" / name
        for name in ("config.json", "model.safetensors")
    }
    code = "print(load_model('nvidia/RADIO-B', adaptors='clip', device='cpu', progress=False).config.version)"
    with hub_server(files) as (address, _):
        result = _run(code, tmp_path, HF_ENDPOINT=address)
    assert result.stdout.strip() == "radio_v2.5-b", result.stderr
    assert "NVIDIA Source Code License" in result.stderr
    assert "%|" not in result.stderr


def test_offline_says_what_to_put_where(tmp_path):
    code = """
from radio import DownloadError
try:
    load_model('radio_v2.5-l', device='cpu')
except DownloadError as error:
    print(error)
"""
    result = _run(code, tmp_path, HF_HUB_OFFLINE="1")
    assert "radio-v2.5-l_half.pth.tar of the Hugging Face repository nvidia/RADIO" in result.stdout, (
        result.stderr
    )
    assert "pass its path" in result.stdout
    assert "hf download nvidia/RADIO radio-v2.5-l_half.pth.tar" in result.stdout


def test_offline_a_repository_of_several_files_is_asked_for_as_a_folder(tmp_path):
    with pytest.raises(DownloadError) as caught:
        download_other("facebook/sam3", DownloadOptions(cache_dir=str(tmp_path), local_files_only=True))
    assert "hf download facebook/sam3 --local-dir sam3" in str(caught.value)
    assert "pass its path instead of the name" in str(caught.value)


def test_local_files_only_and_cache_dir(tmp_path):
    code = (
        f"load_model('c-radio_v4-h', device='cpu', local_files_only=True, cache_dir={str(tmp_path / 'c')!r})"
    )
    result = _run(code, tmp_path)
    assert "DownloadError" in result.stderr
    assert "c-radio_v4-h_half.pth.tar" in result.stderr


def test_a_repository_in_shards_needs_no_network_again(reference, tmp_path):
    tensors = load_file(reference / "hf_repo" / "model.safetensors")
    shards = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(tensors)}
    folder = tmp_path / "shards"
    folder.mkdir()
    for file in set(shards.values()):
        save_file({name: tensors[name] for name in tensors if shards[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    shutil.copy(reference / "hf_repo" / "config.json", folder)
    files = {f"nvidia/RADIO-B/resolve/main/{path.name}": path for path in folder.iterdir()}
    code = "print(load_model('nvidia/RADIO-B', device='cpu').config.version)"
    with hub_server(files) as (address, _):
        assert _run(code, tmp_path, HF_ENDPOINT=address).stdout.strip() == "radio_v2.5-b"
    offline = _run(code, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout.strip() == "radio_v2.5-b", offline.stderr


def test_without_a_network_the_answer_comes_soon_and_in_one_line(tmp_path):
    command = "from radio.cli import main; raise SystemExit(main(['features', '.', '-o', 'x', '-m', 'radio_v2.5-b']))"
    (tmp_path / "a.png").touch()
    code = f"import os; os.chdir({str(tmp_path)!r}); {command}"
    started = time.monotonic()
    result = _run(code, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert time.monotonic() - started < 15
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "radio-v2.5-b_half.pth.tar" in result.stderr


def test_a_repository_without_the_file_is_named(tmp_path):
    with hub_server({}) as (address, _):
        result = _run("load_model('someone/other', device='cpu')", tmp_path, HF_ENDPOINT=address)
    assert "FileNotInRepositoryError" in result.stderr
    assert "someone/other has no file config.json" in result.stderr


def test_an_interrupted_download_resumes(reference, tmp_path):
    content = read_content(reference / "v2_5" / "checkpoint.pth.tar")
    file = tmp_path / "large.pth.tar"
    torch.save({**content, "something_else": torch.zeros(4_000_000)}, file)
    code = "print(load_model('radio_v2.5-b', device='cpu').embed_dim)"
    with hub_server({RELEASE: file}, cut_first_download_at=15_000_000) as (address, requests):
        result = _run(code, tmp_path, HF_ENDPOINT=address)
    assert result.stdout.strip() == "64", result.stderr
    first, second = [span for method, path, span in requests if method == "GET" and path.endswith(".pth.tar")]
    assert first == ""
    assert int(second.removeprefix("bytes=").split("-")[0]) > 1_000_000


def test_push_to_hub_uploads_what_save_pretrained_writes(reference, tmp_path):
    code = f"model = load_model({str(reference / 'hf_repo')!r}, adaptors=['clip'], device='cpu')\n" + (
        f"model.save_pretrained({str(tmp_path / 'saved')!r}); print(model.push_to_hub('me/mine', token='hf_x'))"
    )
    uploaded: dict[str, bytes] = {}
    with hub_server({}, uploaded=uploaded) as (address, _):
        result = _run(code, tmp_path / "home", HF_ENDPOINT=address)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().startswith("http")
    for name in ("config.json", "model.safetensors"):
        assert uploaded[name] == (tmp_path / "saved" / name).read_bytes()
