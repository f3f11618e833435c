"""Text towers are downloaded once, when they are first used, and no more of them than the text half needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import hub_server
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
SIGLIP2 = "google/siglip2-giant-opt-patch16-384/resolve/main/"
CODE = """
from radio.text import text_encoder_for
encoder = text_encoder_for({"name": "siglip2-g", "type": "siglip2", "model": "siglip2-g-384"})
print(encoder.encode_text(["a cat"]).sum().item())
"""


@pytest.fixture(scope="module")
def sharded(text_towers, tmp_path_factory) -> Path:
    """The tiny SigLIP 2 model in two files, as large models are: text and logit values in one, vision in the other."""
    folder = tmp_path_factory.mktemp("sharded") / "siglip2"
    shutil.copytree(text_towers["siglip2-g"], folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {
        name: "model-00002-of-00002.safetensors"
        if name.startswith("vision_model")
        else "model-00001-of-00002.safetensors"
        for name in tensors
    }
    for file in set(shards.values()):
        save_file({name: value for name, value in tensors.items() if shards[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return folder


SIGLIP_CODE = """
from radio.text import text_encoder_for
encoder = text_encoder_for({"name": "siglip", "type": "open_clip", "model": "ViT-SO400M-14-SigLIP-384",
                            "pretrained": "webli"})
print(encoder.tokenizer(["a cat"]).tolist())
"""
NO_NETWORK = """
import time
from radio import DownloadError
from radio.text import text_encoder_for
for teacher in (
    {"name": "clip", "type": "open_clip", "model": "ViT-H-14-378-quickgelu", "pretrained": "dfn5b"},
    {"name": "siglip", "type": "open_clip", "model": "ViT-SO400M-14-SigLIP-384", "pretrained": "webli"},
    {"name": "siglip2-g", "type": "siglip2", "model": "siglip2-g-384"},
):
    started = time.monotonic()
    try:
        text_encoder_for(teacher).encode_text(["a cat"])
    except DownloadError as error:
        print(teacher["name"], time.monotonic() - started < 15, "text_weights" in str(error))
"""


def _run(home: Path, code: str = CODE, **settings: str) -> subprocess.CompletedProcess[str]:
    """In a new process, since huggingface_hub reads its settings when it is imported."""
    environment = {"HF_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **settings}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_siglip2_comes_from_its_repository_without_the_vision_file(sharded, text_towers, tmp_path):
    from radio.text import text_encoder_for

    teacher = {"name": "siglip2-g", "type": "siglip2", "model": "siglip2-g-384"}
    expected = text_encoder_for(teacher, text_towers["siglip2-g"]).encode_text(["a cat"]).sum().item()
    files = {SIGLIP2 + path.name: path for path in sharded.iterdir()}
    with hub_server(files) as (address, requests):
        first = _run(tmp_path, HF_ENDPOINT=address)
    assert float(first.stdout) == pytest.approx(expected, rel=1e-5), first.stderr
    fetched = {path.split("?")[0].rsplit("/", 1)[1] for method, path, _ in requests if method == "GET"}
    assert "model-00001-of-00002.safetensors" in fetched
    assert "model-00002-of-00002.safetensors" not in fetched
    offline = _run(tmp_path, HF_HUB_OFFLINE="1")
    assert float(offline.stdout) == pytest.approx(expected, rel=1e-5), offline.stderr


def test_the_tokenizer_of_siglip_is_downloaded_once(text_towers, tmp_path):
    folder = text_towers["siglip"]
    repository = "timm/ViT-B-16-SigLIP/resolve/main/"
    with hub_server({repository + path.name: path for path in folder.iterdir()}) as (address, requests):
        first = _run(tmp_path, SIGLIP_CODE, HF_ENDPOINT=address)
    assert json.loads(first.stdout)[0][:2] != [0, 0], first.stderr
    fetched = {path.split("?")[0].rsplit("/", 1)[1] for method, path, _ in requests if method == "GET"}
    assert {"tokenizer.json", "tokenizer_config.json"} <= fetched
    assert not any(name.endswith(".safetensors") for name in fetched)
    for settings in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        again = _run(tmp_path, SIGLIP_CODE, **settings)
        assert again.stdout == first.stdout, again.stderr


def test_without_a_network_every_tower_says_soon_what_to_do(tmp_path):
    result = _run(tmp_path, NO_NETWORK, HF_ENDPOINT="http://127.0.0.1:9")
    lines = [f"{name} True True" for name in ("clip", "siglip", "siglip2-g")]
    assert result.stdout.splitlines() == lines, result.stderr


def test_a_local_folder_in_several_files(sharded, text_towers):
    from radio.text import text_encoder_for

    teacher = {"name": "siglip2-g", "type": "siglip2", "model": "siglip2-g-384"}
    whole, parts = text_encoder_for(teacher, text_towers["siglip2-g"]), text_encoder_for(teacher, sharded)
    assert (whole.encode_text(["a cat"]) == parts.encode_text(["a cat"])).all()
    assert whole.logit_scale == parts.logit_scale and whole.logit_bias == parts.logit_bias


def test_a_folder_with_missing_tensors_says_which(text_towers, tmp_path):
    from radio.errors import CheckpointError
    from radio.text import text_encoder_for

    folder = tmp_path / "siglip2"
    shutil.copytree(text_towers["siglip2-g"], folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("text_model.head.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    teacher = {"name": "siglip2-g", "type": "siglip2", "model": "siglip2-g-384"}
    with pytest.raises(CheckpointError, match=r"do not fit the model: missing: head\.weight"):
        text_encoder_for(teacher, folder).encode_text(["a cat"])
