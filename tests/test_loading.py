"""load_model: names, choices, dtypes and what goes wrong."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from radio import CheckpointError, DownloadError, RADIOModel, load_model
from radio.checkpoints import read_checkpoint, read_content


@pytest.fixture
def path(reference):
    return reference / "v2_5" / "checkpoint.pth.tar"


def test_path_as_string_and_as_path_object(path):
    assert torch.equal(
        load_model(path, device="cpu").state_dict()["model.patch_generator.pos_embed"],
        load_model(str(path), device="cpu").state_dict()["model.patch_generator.pos_embed"],
    )


def test_device_and_dtype(path):
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    assert load_model(path).device.type == (accelerator or torch.device("cpu")).type
    assert load_model(path, dtype=torch.float16, device="cpu").dtype == torch.float16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version_or_path": "radio_v2.5-x"}, "unknown version 'radio_v2.5-x'; released: radio_v2.5-b"),
        ({"version_or_path": ""}, "empty version"),
        ({"eradio_window_size": 8}, "eradio_window_size is for E-RADIO, and 'vit_base_patch16_224' is none"),
        ({"neck_name": "decoder"}, "neck_name is for RADIO1D, and 'vit_base_patch16_224' is none"),
        ({"version_or_path": "./nowhere.pth.tar"}, "no file or folder"),
        ({"adaptors": ["clip", "blip"]}, "unknown adaptor 'blip'.*has: clip, siglip, dino_v2, sam"),
        ({"dtype": "int8"}, "unknown dtype 'int8'; allowed: auto, float32"),
        ({"dtype": torch.int8}, "floating-point"),
        ({"device": "banana"}, "device 'banana' cannot be used here.*'cpu' always works"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"device": None}, "device 'None' cannot be used here"),
        ({"version_or_path": "https://huggingface.co/nvidia/RADIO"}, "is an address; give a version"),
        ({"vitdet_window_size": 0}, "at least 1 patch"),
        (
            {"vitdet_window_size": 129},
            "windows of 2064 pixels, but the largest image .* has 2048; at most 128",
        ),
        ({"vitdet_window_size": 2, "vitdet_num_global": 0}, "vitdet_num_global must be at least 1"),
        ({"text_weights": {"siglip": "x"}, "adaptors": ["clip"]}, "not among the loaded adaptors"),
    ],
)
def test_bad_arguments(path, options, message):
    with pytest.raises(ValueError, match=message):
        load_model(**{"version_or_path": path, "device": "cpu", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vitdet_window_size": "8"}, "vitdet_window_size must be a whole number, got '8'"),
        ({"vitdet_window_size": 8.0}, "vitdet_window_size must be a whole number"),
        ({"vitdet_num_global": True}, "vitdet_num_global must be a whole number"),
        ({"pos_embed_align_corners": "yes"}, "pos_embed_align_corners must be True or False, got 'yes'"),
    ],
)
def test_arguments_of_the_wrong_type(path, options, message):
    with pytest.raises(TypeError, match=message):
        load_model(path, device="cpu", **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", torch.float64, "float64"])
def test_every_dtype_survives_saving(path, tmp_path, dtype):
    model = load_model(path, device="cpu", dtype=dtype)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert again.dtype == model.dtype
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_repository_without_adaptor_tensors_says_where_they_are(reference, tmp_path):
    model = load_model(reference / "hf_repo", device="cpu")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds no adaptor tensors.*load_model\('radio_v2.5-b'"):
        load_model(tmp_path, adaptors="clip", device="cpu")


def test_align_corners_is_the_versions_and_can_be_overridden(reference, path):
    assert read_checkpoint(path).config.pos_embed_align_corners is False
    assert read_checkpoint(reference / "hf_repo").config.pos_embed_align_corners is True
    chosen = load_model(reference / "hf_repo", device="cpu", pos_embed_align_corners=False)
    assert chosen.backbone.patch_generator.align_corners is False


def test_save_and_load_keeps_choices_and_bits(reference, tmp_path):
    model = load_model(
        reference / "hf_repo",
        adaptors=["siglip"],
        device="cpu",
        dtype="bfloat16",
        vitdet_window_size=2,
        vitdet_num_windowed=5,
        pos_embed_align_corners=False,
    )
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, adaptors=["siglip"], device="cpu")
    assert again.config == model.config.__class__(**{**model.config.__dict__, **_saved_fields(again)})
    assert (again.dtype, again.window_size, again.config.vitdet_num_windowed) == (torch.bfloat16, 2, 5)
    assert again.config.pos_embed_align_corners is False
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    x = torch.rand(1, 3, 64, 96)
    assert torch.equal(model(x)["siglip"].features, again(x)["siglip"].features)


def _saved_fields(model) -> dict:
    return {"dtype": "bfloat16", "adaptors": model.config.adaptors}


def test_windows_warn_where_a_version_was_not_trained_with_them(reference, tmp_path, caplog):
    import json
    import shutil

    shutil.copytree(reference / "hf_repo", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["version"] = "c-radio_v3-b"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        load_model(tmp_path / "model", device="cpu", vitdet_window_size=2)
    assert "not trained with ViTDet" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory map")
@pytest.mark.parametrize("name", ["v2_5/checkpoint.pth.tar", "hf_repo/model.safetensors"])
def test_weights_are_mapped_from_the_file(reference, name):
    """With mmap=True a float32 file becomes a float32 model without a copy; by default nothing lies in the file."""
    file = reference / name
    mapped = load_model(file, device="cpu", mmap=True)
    own = load_model(file, device="cpu"), read_content(file)["state_dict"], read_checkpoint(file).tensors
    in_file = _in_file(file)
    assert all(map(in_file, mapped.parameters()))
    assert not any(map(in_file, [*own[0].parameters(), *own[1].values(), *own[2].values()]))


def _in_file(file: Path):
    """A function that says whether a tensor lies in the mapped file."""
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(file)):
            start, end = line.split()[0].split("-")
            mapped.append(range(int(start, 16), int(end, 16)))
    return lambda tensor: any(tensor.data_ptr() in span for span in mapped)


def test_a_folder_that_is_no_repository(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_model(tmp_path, device="cpu")


def test_importing_the_package_is_cheap(reference):
    """`import radio` brings in no torch; loading a model brings in nothing that only other tasks need."""
    code = (
        "import sys, radio; assert 'torch' not in sys.modules; "
        f"radio.load_model({str(reference / 'v2_5' / 'checkpoint.pth.tar')!r}, adaptors=['clip']); "
        "heavy = {'timm', 'torchvision', 'open_clip', 'transformers', 'datasets', 'matplotlib', 'torch._dynamo'}; "
        "print(heavy & set(sys.modules)); assert not heavy & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("CLIP", "did you mean 'clip'"),
        ("dinov2", "did you mean 'dino_v2'"),
        ("siglp", "did you mean 'siglip'"),
        ("clip,sam", "several are a list"),
    ],
)
def test_misspelled_adaptors_are_answered(given, answer, reference):
    with pytest.raises(ValueError, match=f"unknown adaptor '{given}'; .* has: clip, .*{answer}"):
        load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors=given, device="cpu")


def test_misspelled_repositories_are_answered():
    with pytest.raises(DownloadError, match=r"nvidia/RADIO-XL .* did you mean '"):
        load_model("nvidia/RADIO-XL", local_files_only=True)


def test_words_of_other_libraries(reference):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    model = load_model(path, "", "cpu", "bf16", trust_remote_code=True)
    assert model.dtype == torch.bfloat16 and not model.adaptors


def test_folders_without_a_config_are_answered(reference, tmp_path):
    def message() -> str:
        with pytest.raises(CheckpointError) as error:
            load_model(tmp_path, device="cpu")
        return str(error.value)

    assert "give a folder with config.json" in message()
    inside = tmp_path / "snapshots" / "1234"
    inside.mkdir(parents=True)
    config = (reference / "hf_repo" / "config.json").read_bytes()
    (inside / "config.json").write_bytes(config)
    assert f"give the folder that has one: {inside}" in message()
    (tmp_path / "mine.safetensors").write_bytes(b"")
    assert "put the one that belongs to mine.safetensors beside it" in message()
    (tmp_path / "mine.pth").write_bytes(b"")
    assert "give the path of a file in it: mine.pth" in message()


def test_a_folder_of_adapters_is_answered(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"adapters of peft.*PeftModel.from_pretrained\(model, folder\)"
    ):
        load_model(tmp_path, device="cpu")


def test_arguments_of_transformers(reference):
    """`from_pretrained` as code for transformers' AutoModel calls it."""
    folder = reference / "hf_repo"
    model = RADIOModel.from_pretrained(
        folder,
        torch_dtype=torch.bfloat16,
        device_map="cpu",
        low_cpu_mem_usage=True,
        attn_implementation="sdpa",
        trust_remote_code=True,
        force_download=False,
    )
    assert (model.dtype, model.device.type) == (torch.bfloat16, "cpu")
    for placement in ("auto", {"": "cpu"}, torch.device("cpu")):
        model = load_model(folder, device_map=placement, torch_dtype="auto")
        assert model.dtype == torch.float32
    model = RADIOModel.from_pretrained(reference, subfolder="hf_repo", device="cpu", dtype="half")
    assert model.dtype == torch.float16
    for options, message in (
        ({"device_map": {"model": "cpu", "adaptors": "disk"}}, "in parts.*accelerate.dispatch_model"),
        ({"device_map": 7}, "the device '7' cannot be used here"),
        ({"output_loading_info": True}, "output_loading_info=True is not supported"),
    ):
        with pytest.raises(ValueError, match=message):
            RADIOModel.from_pretrained(folder, **options)
    with pytest.raises(TypeError, match=r"no argument 'torch_dtypes'; .* did you mean 'dtype'"):
        RADIOModel.from_pretrained(folder, torch_dtypes="float16")


def test_arguments_of_save_pretrained_in_transformers(path, tmp_path):
    model = load_model(path, device="cpu")
    model.save_pretrained(tmp_path / "model", safe_serialization=True, max_shard_size="5GB")
    assert load_model(tmp_path / "model", device="cpu").patch_size == 16
    with pytest.raises(ValueError, match="safetensors only"):
        model.save_pretrained(tmp_path / "other", safe_serialization=False)
    assert not (tmp_path / "other").exists()


def test_a_tower_in_a_subfolder_of_a_repository(reference, tmp_path):
    """As vision-language models keep it, from the layout of huggingface_hub's cache."""
    repository, commit = tmp_path / "models--owner--vlm", 40 * "a"
    tower = repository / "snapshots" / commit / "vision_tower"
    shutil.copytree(reference / "hf_repo", tower)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    options = {"cache_dir": tmp_path, "local_files_only": True, "device": "cpu"}
    model = load_model("owner/vlm", subfolder="vision_tower", **options)
    assert model.checkpoint_path == tower
    with pytest.raises(DownloadError, match=r"tower/config\.json of the Hugging Face repository owner/vlm"):
        load_model("owner/vlm", subfolder="tower", **options)
    with pytest.raises(ValueError, match="'radio_v2.5-l' is a version"):
        load_model("radio_v2.5-l", subfolder="vision_tower", **options)
