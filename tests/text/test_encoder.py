"""The text towers give what the libraries that define them give, and only the text half is ever loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_towers import open_clip_config, open_clip_folder

from radio.errors import CheckpointError, DownloadError, MissingExtraError
from radio.text import text_encoder_for
from radio.text.canonical import canonicalize

CLIP = {"name": "clip", "type": "open_clip", "model": "ViT-H-14-378-quickgelu", "pretrained": "dfn5b"}
SIGLIP = {"name": "siglip", "type": "open_clip", "model": "ViT-SO400M-14-SigLIP-384", "pretrained": "webli"}
SIGLIP2_G = {"name": "siglip2-g", "type": "siglip2", "model": "siglip2-g-384"}
SIGLIP2_SO = {"name": "siglip2-g", "type": "siglip2", "model": "siglip2-so400m"}
TEXTS = ["a photo of a cat", "A Photo, of the coffee_cup!", "", "astronaut " * 90]


def open_clip_reference(folder: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    import open_clip

    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        return tokens, model.encode_text(tokens)


@pytest.mark.parametrize(
    ("teacher", "name", "dim", "length"), [(CLIP, "clip", 40, 77), (SIGLIP, "siglip", 36, 64)]
)
def test_open_clip_towers_equal_the_library(text_towers, teacher, name, dim, length):
    encoder = text_encoder_for(teacher, text_towers[name])
    tokens, embeddings = open_clip_reference(text_towers[name], TEXTS)
    assert torch.equal(encoder.tokenizer(TEXTS), tokens)
    assert tokens.shape == (4, length) and tokens.dtype == torch.int64
    ours = encoder.encode_text(tokens)
    assert ours.shape == (4, dim) and ours.dtype == torch.float32
    torch.testing.assert_close(ours, embeddings, rtol=1e-5, atol=1e-5)
    assert torch.pdist(torch.nn.functional.normalize(ours, dim=-1)).min() > 1e-2


@pytest.mark.parametrize(
    ("teacher", "name", "kind"),
    [(SIGLIP2_G, "siglip2-g", "Siglip"), (SIGLIP2_SO, "siglip2-so400m", "Siglip2")],
)
def test_siglip2_towers_equal_transformers(text_towers, teacher, name, kind):
    import transformers

    folder = text_towers[name]
    encoder = text_encoder_for(teacher, folder)
    model = getattr(transformers, f"{kind}Model").from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    canonical = ["a photo of a cat", "a photo of the coffee cup", "", ("astronaut " * 90).strip()]
    tokens = tokenizer(
        canonical, padding="max_length", max_length=64, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        output = model.get_text_features(input_ids=tokens)
        expected = getattr(output, "pooler_output", output)  # the tensor itself before transformers 5
    assert torch.equal(encoder.tokenizer(TEXTS), tokens)
    torch.testing.assert_close(encoder.encode_text(TEXTS), expected, rtol=1e-5, atol=1e-5)


def test_siglip2_text_is_lower_case_without_punctuation_and_64_tokens_long(text_towers):
    encoder = text_encoder_for(SIGLIP2_G, text_towers["siglip2-g"])
    tokens = encoder.tokenizer(["A  photo, of a CAT!", "a photo of a cat", "cat " * 200])
    assert tokens.shape == (3, 64)
    assert torch.equal(tokens[0], tokens[1])
    assert tokens[0, -1] == 0, "short text is padded behind its end"
    assert tokens[2, -1] == 1, "long text is cut before its end-of-text token"
    assert canonicalize(" The_Dog's  (best) day. ") == "the dogs best day"


def test_texts_and_tokens_give_the_same_and_normalize_gives_length_one(text_towers):
    encoder = text_encoder_for(CLIP, text_towers["clip"])
    embeddings = encoder.encode_text(encoder.tokenizer(TEXTS))
    assert torch.equal(encoder.encode_text(TEXTS), embeddings)
    assert torch.equal(encoder.encode_text(TEXTS[0]), encoder.encode_text(TEXTS[:1]))
    normalized = encoder.encode_text(TEXTS, normalize=True)
    torch.testing.assert_close(normalized, embeddings / embeddings.norm(dim=-1, keepdim=True))


def test_quick_gelu_of_the_config_is_obeyed(tmp_path, text_towers):
    plain = tmp_path / "plain"
    plain.mkdir()
    config = {key: value for key, value in open_clip_config(40).items() if key != "quick_gelu"}
    (plain / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    (plain / "open_clip_model.safetensors").symlink_to(text_towers["clip"] / "open_clip_model.safetensors")
    quick = text_encoder_for(CLIP, text_towers["clip"]).encode_text(TEXTS)
    assert (quick - text_encoder_for(CLIP, plain).encode_text(TEXTS)).abs().max() > 1e-3


def test_quick_gelu_of_the_tag_is_obeyed(tmp_path):
    """dfn5b was trained with quick GELU, also when it is named with an architecture that does not say so."""
    import open_clip

    config = {key: value for key, value in open_clip_config(40).items() if key != "quick_gelu"}
    config["text_cfg"] = {**config["text_cfg"], "layers": 1}
    (tmp_path / "ViT-H-14-378.json").write_text(json.dumps(config))
    kept = open_clip.get_model_config("ViT-H-14-378")
    try:
        open_clip.add_model_config(tmp_path / "ViT-H-14-378.json")
        plain = open_clip.create_model("ViT-H-14-378").eval()
        quick = open_clip.create_model("ViT-H-14-378", force_quick_gelu=True).eval()
        quick.load_state_dict(plain.state_dict())
        save_file(plain.state_dict(), tmp_path / "dfn.safetensors")
        teacher = {**CLIP, "model": "ViT-H-14-378"}
        found = text_encoder_for(teacher, tmp_path / "dfn.safetensors").encode_text(TEXTS)
        tokens = open_clip.get_tokenizer("ViT-H-14-378")(TEXTS)
        with torch.no_grad():
            torch.testing.assert_close(found, quick.encode_text(tokens), rtol=1e-5, atol=1e-5)
            assert (found - plain.encode_text(tokens)).abs().max() > 1e-4
    finally:
        (tmp_path / "ViT-H-14-378.json").write_text(json.dumps(kept))
        open_clip.add_model_config(tmp_path / "ViT-H-14-378.json")


def test_weights_files_of_a_named_model_in_every_layout(tmp_path):
    """A file alone: the architecture comes from the teacher's model name, looked up in open_clip."""
    import open_clip

    (tmp_path / "radio-tiny-clip.json").write_text(json.dumps(open_clip_config(40)))
    open_clip.add_model_config(tmp_path / "radio-tiny-clip.json")
    torch.manual_seed(0)
    model = open_clip.create_model("radio-tiny-clip").eval()
    state = model.state_dict()
    custom_text = {
        name if name.startswith(("visual.", "logit_")) else f"text.{name}": value
        for name, value in state.items()
    }
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "training.pt"
    )
    torch.save(custom_text, tmp_path / "custom_text.bin")
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("radio-tiny-clip")(TEXTS))
    for name in ("weights.safetensors", "training.pt", "custom_text.bin"):
        encoder = text_encoder_for({**CLIP, "model": "radio-tiny-clip"}, tmp_path / name)
        torch.testing.assert_close(encoder.encode_text(TEXTS), expected, rtol=1e-5, atol=1e-5, msg=name)


def test_logit_scale_and_bias_come_from_the_teacher(text_towers):
    clip = text_encoder_for(CLIP, text_towers["clip"])
    assert clip.logit_scale == pytest.approx(torch.tensor(2.5).exp().item()) and clip.logit_bias == 0
    for teacher, name in [(SIGLIP, "siglip"), (SIGLIP2_G, "siglip2-g"), (SIGLIP2_SO, "siglip2-so400m")]:
        encoder = text_encoder_for(teacher, text_towers[name])
        assert encoder.logit_scale == pytest.approx(torch.tensor(2.5).exp().item()), name
        assert encoder.logit_bias == pytest.approx(-10), name


@pytest.mark.parametrize(
    ("teacher", "name"),
    [(CLIP, "clip"), (SIGLIP, "siglip"), (SIGLIP2_G, "siglip2-g"), (SIGLIP2_SO, "siglip2-so400m")],
)
def test_no_vision_tower_is_ever_made(text_towers, monkeypatch, teacher, name):
    """Every module that is made, and every parameter that is kept, belongs to the text half."""
    made: list[torch.nn.Module] = []
    original = torch.nn.Module.__init__

    def remember(self, *args, **kwargs):
        made.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__init__", remember)
    encoder = text_encoder_for(teacher, text_towers[name])
    encoder.encode_text(["a cat"])
    vision = [type(module).__name__ for module in made if "Vision" in type(module).__name__]
    assert made and not vision
    assert not any(isinstance(module, torch.nn.Conv2d) for module in made)
    file = text_towers[name] / (
        "model.safetensors" if name.startswith("siglip2") else "open_clip_model.safetensors"
    )
    theirs = {
        key: value
        for key, value in load_file(file).items()
        if not key.startswith(("visual.", "vision_model.", "logit_"))
    }
    kept = sum(parameter.numel() for parameter in encoder._tower.module.parameters())
    assert kept == sum(value.numel() for value in theirs.values())


def test_nothing_is_imported_before_first_use(text_towers):
    code = f"""
import sys
from radio.text import text_encoder_for
encoder = text_encoder_for({CLIP!r}, {str(text_towers["clip"])!r})
repr(encoder), encoder.identity
assert not [name for name in ("open_clip", "transformers", "timm", "huggingface_hub") if name in sys.modules]
encoder.tokenizer(["a cat"])
assert "open_clip" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_identity_changes_with_the_weights(tmp_path):
    folder = open_clip_folder(tmp_path / "tower", 8)
    before = text_encoder_for(CLIP, folder).identity
    assert before == text_encoder_for(CLIP, folder).identity
    assert before != text_encoder_for(CLIP).identity
    assert text_encoder_for(CLIP).identity != text_encoder_for(SIGLIP).identity
    state = load_file(folder / "open_clip_model.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, folder / "open_clip_model.safetensors")
    assert before != text_encoder_for(CLIP, folder).identity


def test_unknown_towers_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'sam'.*open_clip, siglip2"):
        text_encoder_for({"name": "sam", "type": "sam", "model": "vit-h"})
    with pytest.raises(ValueError, match=r"siglip2-g-384, siglip2-so400m"):
        text_encoder_for({**SIGLIP2_G, "model": "siglip2-xl"}).encode_text(["a cat"])
    with pytest.raises(CheckpointError, match=r"does not know the model 'ViT-Z'"):
        text_encoder_for({**CLIP, "model": "ViT-Z"}).encode_text(["a cat"])
    with pytest.raises(CheckpointError, match=r"no weights 'nope'.*dfn5b"):
        text_encoder_for({**CLIP, "pretrained": "nope"}).encode_text(["a cat"])


def test_wrong_local_files_are_named(tmp_path, text_towers):
    with pytest.raises(CheckpointError, match=r"missing.bin does not exist"):
        text_encoder_for(CLIP, tmp_path / "missing.bin")
    (tmp_path / "damaged.safetensors").write_bytes(b"not a file")
    with pytest.raises(CheckpointError, match=r"damaged.safetensors is damaged or not a safetensors"):
        text_encoder_for(CLIP, tmp_path / "damaged.safetensors").encode_text(["a cat"])
    save_file({"visual.conv1.weight": torch.zeros(2)}, tmp_path / "vision.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no text tower"):
        text_encoder_for(CLIP, tmp_path / "vision.safetensors").encode_text(["a cat"])
    other = text_towers["clip"] / "open_clip_model.safetensors"
    mismatch = r"do not fit the model: .*misshapen: positional_embedding is \(77, 32\), expected \(77, 384\)"
    with pytest.raises(CheckpointError, match=mismatch):
        text_encoder_for({**CLIP, "model": "ViT-S-32"}, other).encode_text(["a cat"])
    with pytest.raises(CheckpointError, match=r"open_clip_config.json"):
        text_encoder_for(CLIP, tmp_path).encode_text(["a cat"])
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json; a SigLIP 2 text tower is a folder"):
        text_encoder_for(SIGLIP2_G, tmp_path).encode_text(["a cat"])


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"state_dict": Path("/tmp"), "x": print}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil.pt cannot be read safely: it wants to use .*print"):
        text_encoder_for(CLIP, tmp_path / "evil.pt").encode_text(["a cat"])


@pytest.mark.parametrize(
    ("teacher", "repository"),
    [
        (CLIP, "https://huggingface.co/apple/DFN5B-CLIP-ViT-H-14-378"),
        (SIGLIP, "https://huggingface.co/timm/ViT-SO400M-14-SigLIP-384"),
        (SIGLIP2_G, "https://huggingface.co/google/siglip2-giant-opt-patch16-384"),
        (SIGLIP2_SO, "https://huggingface.co/google/siglip2-so400m-patch16-naflex"),
    ],
)
def test_offline_says_which_file_of_which_repository(tmp_path, monkeypatch, teacher, repository):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"text_weights") as failure:
        text_encoder_for(teacher).encode_text(torch.zeros(1, 64, dtype=torch.long))
    assert repository in str(failure.value)


def test_offline_tokenizer_says_which_files(tmp_path, monkeypatch, text_towers):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    alone = tmp_path / "siglip.safetensors"
    alone.symlink_to(text_towers["siglip"] / "open_clip_model.safetensors")
    with pytest.raises(DownloadError, match=r"tokenizer.json.*timm/ViT-B-16-SigLIP") as failure:
        text_encoder_for(SIGLIP, alone).tokenizer(["a cat"])
    assert "next to a local copy of the weights" in str(failure.value)


@pytest.mark.parametrize(("teacher", "package"), [(CLIP, "open_clip"), (SIGLIP2_G, "transformers")])
def test_a_missing_package_names_the_extra(text_towers, monkeypatch, teacher, package):
    monkeypatch.setitem(sys.modules, package, None)
    encoder = text_encoder_for(teacher, text_towers[teacher["name"]])
    with pytest.raises(MissingExtraError, match=r"pip install '.*\[text\]'"):
        encoder.encode_text(torch.zeros(1, 64, dtype=torch.long))


def test_tokens_must_be_whole_numbers(text_towers):
    encoder = text_encoder_for(CLIP, text_towers["clip"])
    with pytest.raises(ValueError, match=r"\(N, length\)"):
        encoder.encode_text(torch.zeros(77))
