"""Scripts as users of the public hub code write them, through the real torch.hub.load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import nn

from radio import CheckpointError, load_model

ENTRY_POINTS = [
    "radio_model",
    "radio_v2_5_b",
    "radio_v2_5_g",
    "radio_v2_5_h",
    "radio_v2_5_h_norm",
    "radio_v2_5_l",
]


@pytest.fixture(scope="module")
def checkpoint(reference) -> str:
    return str(reference / "v2_5" / "checkpoint.pth.tar")


def hub_load(version: str, **kwargs):
    return torch.hub.load(str(ROOT), "radio_model", source="local", version=version, progress=True, **kwargs)


@pytest.fixture(scope="module")
def image(photos) -> torch.Tensor:
    """A photograph as in the public README: uint8 to float, divided by 255, resized to a supported size."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(photos[0]).convert("RGB").resize((250, 170)))
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1).to(dtype=torch.float32)
    x.div_(255.0)
    return x.unsqueeze(0)


def test_regular_use(checkpoint, image):
    model = hub_load(checkpoint)
    model.cpu().eval()

    nearest_res = model.get_nearest_supported_resolution(*image.shape[-2:])
    x = F.interpolate(image, nearest_res, mode="bilinear", align_corners=False)
    assert tuple(nearest_res) == (176, 256)
    assert (nearest_res.height, nearest_res.width) == (176, 256)

    with torch.no_grad():
        summary, spatial_features = model(x)
    assert summary.shape == (1, 3 * 64)
    assert spatial_features.shape == (1, 11 * 16, 64)

    with torch.no_grad():
        summary_again, nchw = model(x, feature_fmt="NCHW")
    assert torch.equal(summary, summary_again)
    by_hand = spatial_features.reshape(
        1, x.shape[-2] // model.patch_size, x.shape[-1] // model.patch_size, -1
    )
    assert torch.equal(nchw, by_hand.permute(0, 3, 1, 2))

    output = model(x)
    assert output.summary.shape == summary.shape
    assert output[1].shape == spatial_features.shape
    assert output.to(torch.float16).features.dtype == torch.float16


def test_autocast(checkpoint, image):
    model = hub_load(checkpoint).eval()
    x = F.interpolate(image, (64, 96))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        summary, features = model(x)
    with torch.no_grad():
        expected_summary, expected_features = model(x)
    assert (summary.float() - expected_summary).abs().max() < 6e-2 * expected_summary.abs().max()
    assert (features.float() - expected_features).abs().max() < 6e-2 * expected_features.abs().max()


def test_external_preprocessor(checkpoint, image):
    model = hub_load(checkpoint).eval()
    x = F.interpolate(image, (64, 96))
    with torch.no_grad():
        expected, _ = model(x)
        preprocessor = model.make_preprocessor_external()
        summary, _ = model(preprocessor(x))
        assert isinstance(model.input_conditioner, nn.Identity)
    assert torch.equal(summary, expected)
    assert preprocessor.norm_mean.shape == preprocessor.norm_std.shape == (3, 1, 1)


def test_adaptors_with_text(checkpoint, image, text_towers):
    names = ["clip", "siglip", "dino_v2", "sam"]
    model = hub_load(
        checkpoint, adaptor_names=names, text_weights={n: text_towers[n] for n in ("clip", "siglip")}
    )
    model.eval()
    x = F.interpolate(image, (64, 96))
    with torch.no_grad():
        output = model(x)
    assert list(output) == ["backbone", *names]
    bb_summary, bb_features = output["backbone"]
    assert bb_summary.shape == (1, 192)
    assert bb_features.shape == (1, 24, 64)
    sam_features = output["sam"].features
    assert sam_features.dtype == torch.float32
    with torch.no_grad():
        nchw = model(x, feature_fmt="NCHW")["sam"].features
    assert torch.equal(nchw.flatten(2).transpose(1, 2), sam_features)

    vis_output = output["clip"]
    clip_model = model.adaptors["clip"]
    text_input = ["A photo of a cat", "A photo of a dog"]
    text_tokens = clip_model.tokenizer(text_input).to(x.device)
    text_embeds = clip_model.encode_text(text_tokens, normalize=True)
    similarity = F.normalize(vis_output.summary, dim=-1) @ text_embeds.T
    assert similarity.shape == (1, 2)
    assert text_embeds.norm(dim=-1).allclose(torch.ones(2), atol=1e-5)
    assert (similarity[0, 0] - similarity[0, 1]).abs() > 1e-6

    with torch.no_grad():
        head = clip_model.head_mlp(bb_summary[:, 64 * clip_model.head_idx : 64 * (clip_model.head_idx + 1)])
        features = clip_model.feat_mlp(bb_features)
    assert torch.allclose(head, vis_output.summary, atol=1e-5)
    assert torch.allclose(features, vis_output.features, atol=1e-5)

    model.adaptors = None
    with torch.no_grad():
        summary, features = model(x)
    assert torch.equal(summary, bb_summary)


@pytest.mark.parametrize("names", ["clip", ["clip"], ("clip",)])
def test_adaptor_names_as_a_text_or_a_list(checkpoint, names):
    assert list(hub_load(checkpoint, adaptor_names=names).adaptors) == ["clip"]


def test_vitdet(checkpoint, image):
    model = hub_load(checkpoint, vitdet_window_size=4).eval()
    assert (model.window_size, model.min_resolution_step) == (4, 64)
    nearest_res = model.get_nearest_supported_resolution(*image.shape[-2:])
    assert tuple(nearest_res) == (192, 256)
    x = F.interpolate(image, nearest_res)
    with torch.no_grad():
        _, features = model(x)
        _, everywhere = hub_load(checkpoint)(x)
    assert features.shape == everywhere.shape == (1, 12 * 16, 64)
    assert not torch.allclose(features, everywhere, atol=1e-3)


def test_intermediates(checkpoint, image):
    model = hub_load(checkpoint).eval()
    x = F.interpolate(image, (64, 96))
    with torch.no_grad():
        outputs = model.forward_intermediates(
            x, indices=[3, 7, 11], return_prefix_tokens=True, intermediates_only=True, output_fmt="NCHW"
        )
        assert [tuple(features.shape) for _, features in outputs] == [(1, 64, 4, 6)] * 3
        assert [tuple(summary.shape) for summary, _ in outputs] == [(1, 192)] * 3
        final, features = model.forward_intermediates(x, indices=[-1], norm=False, stop_early=False)
        assert torch.equal(features[0], model(x, feature_fmt="NCHW").features)
        assert torch.equal(final.features, features[0])
        dense = model.forward_intermediates(x, indices=[5, 11], intermediates_only=True, aggregation="dense")
        assert len(dense) == 2


def test_video_mode(checkpoint):
    """While training, the frames of a clip share one random crop of the position embeddings."""
    model = hub_load(checkpoint).train()
    frame = torch.rand(1, 3, 64, 64)
    with model.cpe_video_mode(t=3):
        _, features = model(frame.expand(6, -1, -1, -1))
    assert torch.allclose(features[0], features[2], atol=1e-5)
    assert not torch.allclose(features[0], features[3], atol=1e-3)


def test_attributes(checkpoint):
    model = hub_load(checkpoint)
    assert (model.patch_size, model.max_resolution, model.window_size) == (16, 2048, None)
    assert (model.preferred_resolution.height, model.preferred_resolution.width) == (768, 768)
    assert (model.embed_dim, model.summary_dim) == (64, 192)
    assert (model._patch_size, model._max_resolution, model._window_size) == (16, 2048, None)
    assert tuple(model.get_nearest_supported_resolution(torch.tensor(500), torch.tensor(700))) == (496, 704)
    assert (model.num_summary_tokens, model.num_cls_tokens) == (8, 4)
    assert len(model.blocks) == 12
    assert model.switch_to_deploy() is None
    assert not model.training
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


class SimilarityAttention(nn.Module):
    """What open-vocabulary segmentation puts in place of the last attention: keys that look for similar keys."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = attention.num_heads, attention.qkv, attention.proj
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = (
            self.qkv(x)
            .reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
            .permute(2, 0, 3, 1, 4)
        )
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        scores = (k @ k.transpose(-2, -1)) * k.shape[-1] ** -0.5
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, tokens, width))


def test_the_last_attention_can_be_replaced(checkpoint, image):
    model = hub_load(checkpoint).eval()
    x = F.interpolate(image, (64, 96))
    with torch.no_grad():
        _, before = model(x)
        taken: list[torch.Tensor] = []
        handle = model.model.blocks[-1].register_forward_pre_hook(lambda _, args: taken.append(args[0]))
        model(x)
        handle.remove()
        block = model.model.blocks[-1]
        block.attn = SimilarityAttention(block.attn)
        _, after = model(x)
        tokens = taken[0] + block.attn(block.norm1(taken[0]))
        tokens = tokens + block.mlp(block.norm2(tokens))
    assert torch.allclose(after, tokens[:, model.num_summary_tokens :], atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)


class OpenAttention(nn.Module):
    """Hands on whatever it gets."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: torch.Tensor, **options) -> torch.Tensor:
        return self.attention(x, **options)


def test_an_attention_that_hands_on_takes_packed_images(checkpoint):
    model = hub_load(checkpoint).eval()
    images = [torch.rand(3, 64, 96), torch.rand(3, 32, 32)]
    with torch.no_grad():
        expected = model(images)
        block = model.model.blocks[-1]
        block.attn = OpenAttention(block.attn)
        for one, other in zip(model(images), expected, strict=True):
            assert torch.equal(one.features, other.features)


def test_an_adaptor_that_was_not_built_is_answered(checkpoint):
    adaptors = hub_load(checkpoint, adaptor_names=["clip"]).adaptors
    with pytest.raises(KeyError, match=r"no adaptor 'siglip' \(built: clip\); name it in adaptors="):
        adaptors["siglip"]
    assert "siglip" not in adaptors


@pytest.mark.parametrize("replaced", ["attn", "block"])
def test_forward_can_be_replaced_on_the_instance(checkpoint, replaced):
    """Some code assigns its own `forward(x)`; it is called with the tokens alone."""
    model = hub_load(checkpoint).eval()
    block = model.model.blocks[-1]
    target = block.attn if replaced == "attn" else block
    target.forward = lambda x: torch.zeros_like(x)
    with torch.no_grad():
        _, features = model(torch.rand(1, 3, 64, 64))
    assert (features.abs().max() == 0) == (replaced == "block")


def test_return_checkpoint(checkpoint):
    model, content = hub_load(checkpoint, return_checkpoint=True)
    assert content["args"].model == "vit_base_patch16_224"
    assert [teacher["name"] for teacher in content["args"].teachers] == ["clip", "siglip", "dino_v2", "sam"]
    stored = content["state_dict"]["base_model.blocks.0.attn.qkv.weight"]
    assert torch.equal(stored, model.state_dict()["model.blocks.0.attn.qkv.weight"])


def test_a_repository_folder_as_version(reference):
    model = hub_load(str(reference / "hf_repo"), adaptor_names=["clip"])
    assert model(torch.rand(1, 3, 64, 64))["clip"].summary.shape == (1, 40)


def test_fine_tuned_weights_travel_both_ways(checkpoint):
    """State dicts use the released names, so that weights saved by the public code load and the other way round."""
    model, content = hub_load(checkpoint, return_checkpoint=True)
    backbone = {
        name.removeprefix("base_model."): value * 2
        for name, value in content["state_dict"].items()
        if name.startswith("base_model.")
    }
    result = model.model.load_state_dict(backbone)
    assert result.missing_keys == result.unexpected_keys == []
    assert torch.equal(
        model.model.state_dict()["patch_generator.pos_embed"], backbone["patch_generator.pos_embed"]
    )


def _listed(page_section: str, owner: str) -> list[str]:
    """Names that a list of docs/migrating.md promises, such as `model.patch_size`."""
    text = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    section = (
        text.split("## What code may rely on")[1].split(page_section)[1].split("\n\n- ")[1].split("\n\n")[0]
    )
    return [name for name in re.findall(r"`([\w.]+)`", section) if name.startswith(owner)]


@pytest.mark.parametrize(
    ("section", "owner", "count"),
    [
        ("The model:", "model.", 25),
        ("An adaptor,", "adaptor.", 6),
        ("The backbone", "vit.", 25),
        ("Blocks and their", "block.", 20),
        ("State-dict names", "", 12),
    ],
)
def test_what_code_may_rely_on(checkpoint, text_towers, section, owner, count):
    """Every name that the page lists is there."""
    model = hub_load(checkpoint, adaptor_names=["clip"], text_weights=text_towers["clip"])
    names = _listed(section, owner)
    assert len(names) >= count
    stored = model.state_dict()
    given = {
        "model": model,
        "adaptor": model.adaptors["clip"],
        "vit": model.model,
        "block": model.model.blocks[-1],
    }
    for name in names:
        if owner:
            eval(name, given)
        else:
            assert name in stored


def test_the_page_on_migrating_runs(checkpoint, text_towers, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    code = code.replace("radio_v2.5-l", checkpoint).replace("photo.jpg", "examples/images/coffee.jpg")
    names: dict = {}
    exec(code, names)
    assert names["output"]["clip"].summary.shape == (1, 40)
    assert names["clip_features"].shape == (1, 25 * 38, 48)


def test_without_a_version_it_is_that_of_the_public_code(monkeypatch):
    import hubconf
    from radio import loading

    asked = []

    def load(version, **options):
        asked.append(version)
        raise InterruptedError

    monkeypatch.setattr(loading, "load_model", load)
    for options in ({}, {"version": ""}, {"version": None}):
        with pytest.raises(InterruptedError):
            hubconf.radio_model(**options)
    assert asked == ["c-radio_v4-h"] * 3


def test_arguments_that_say_what_happens_anyway(checkpoint):
    from hubconf import radio_model

    model = radio_model(
        checkpoint, True, None, None, support_packing=True, return_summary=True, return_spatial_features=True
    )
    also = radio_model(checkpoint, skip_validation=True, trust_repo=True, force_reload=True, pretrained=True)
    assert len(model(torch.rand(1, 3, 32, 32))) == 2 and also.patch_size == 16
    with pytest.raises(ValueError, match="return_summary=False is not supported: a call always returns it"):
        radio_model(checkpoint, return_summary=False)


@pytest.mark.parametrize(
    ("misspelled", "meant"),
    [("adaptor_name", "adaptor_names"), ("vitdet_windowsize", "vitdet_window_size"), ("Version", "version")],
)
def test_misspelled_arguments_are_answered(checkpoint, misspelled, meant):
    with pytest.raises(TypeError, match=f"no argument '{misspelled}'; it has: .*; did you mean '{meant}'"):
        hub_load(checkpoint, **{misspelled: 4})
    with pytest.raises(TypeError, match=r"load_model has no argument 'adaptor_names'.* mean 'adaptors'"):
        load_model(checkpoint, adaptor_names="clip")


def test_a_configuration_of_their_own(checkpoint, image):
    """Vision towers of LLaVA put a transformers configuration on the model, and a final norm of their own."""
    model = hub_load(checkpoint, adaptor_names="clip").eval()
    x = F.interpolate(image, (64, 96))
    with torch.no_grad():
        expected = model(x)
        model.config = types.SimpleNamespace(hidden_size=model.embed_dim, model_type="radio_vision_model")
        assert torch.equal(model(x)["clip"].features, expected["clip"].features)
        assert model.encode(x[0]).grid == (4, 6)
        assert (model.config.hidden_size, model.patch_size, model.summary_dim) == (64, 16, 192)
        model.model.norm = nn.LayerNorm(64, elementwise_affine=False)
        assert model(x)["backbone"].features.mean(dim=-1).abs().max() < 1e-5


def test_a_model_inside_the_classes_of_the_hub(checkpoint):
    """`model.radio_model` is the model itself, and no part of it."""
    model = hub_load(checkpoint)
    assert model.radio_model is model
    assert not [name for name in model.state_dict() if "radio_model" in name]
    model.radio_model.make_preprocessor_external()
    assert isinstance(model.input_conditioner, nn.Identity)


def test_tokens_are_counted_as_in_the_public_code(checkpoint, reference):
    generator = hub_load(checkpoint).model.patch_generator
    assert (generator.cls_token.num_tokens, generator.cls_token.num_registers, generator.num_skip) == (
        4,
        4,
        8,
    )
    plain = hub_load(str(reference / "no_cpe_patch14" / "checkpoint.pth.tar")).model
    assert plain.patch_generator is None
    assert plain.patch_embed.patch_size[0] == 14


def test_the_backbone_step_by_step(checkpoint, image):
    """Code that runs timm's forward_features by its parts."""
    model = hub_load(checkpoint).eval()
    vit, x = model.model, model.input_conditioner(F.interpolate(image, (64, 96)))
    with torch.no_grad():
        tokens = vit.norm_pre(vit.patch_drop(vit.patch_generator(x)))
        for block in vit.blocks:
            tokens = block(tokens)
        tokens = vit.head(vit.head_drop(vit.fc_norm(vit.norm(tokens))))
        torch.testing.assert_close(tokens, vit.forward_features(x), rtol=0, atol=0)


def test_hooks_see_all_tokens(checkpoint, image):
    model, seen = hub_load(checkpoint).eval(), []
    handle = model.model.blocks[5].register_forward_hook(lambda _, __, tokens: seen.append(tokens))
    with torch.no_grad():
        model(F.interpolate(image, (64, 96)))
        handle.remove()
        layer = model.forward_intermediates(
            F.interpolate(image, (64, 96)), [5], intermediates_only=True, output_fmt="NLC"
        )
    assert seen[0].shape == (1, 8 + 24, 64)
    assert torch.equal(seen[0][:, 8:], layer[0])


def test_summary_from_chosen_class_tokens(checkpoint, image):
    model = hub_load(checkpoint).eval()
    x = F.interpolate(image, (64, 96))
    with torch.no_grad():
        summary, features = model(x)
        assert model.summary_idxs.tolist() == [0, 1, 2]
        model.summary_idxs = torch.tensor([1])
        chosen, same = model(x)
    assert torch.equal(chosen, summary[:, 64:128])
    assert torch.equal(same, features)
    assert model.summary_dim == 64
    for one in (2, torch.tensor(2), torch.tensor([False, False, True, False])):
        model.summary_idxs = one
        assert model.summary_idxs.tolist() == [2]


def test_state_dicts_of_the_public_code_have_the_summary_too(checkpoint):
    model = hub_load(checkpoint)
    state = {**model.state_dict(), "summary_idxs": torch.tensor([2, 0])}
    assert not any(model.load_state_dict(state))
    assert model.summary_idxs.tolist() == [2, 0]
    outer = nn.ModuleDict({"backbone": hub_load(checkpoint)})
    outer.load_state_dict({f"backbone.{name}": value for name, value in state.items()})
    assert outer["backbone"].summary_dim == 2 * 64


def test_a_chosen_summary_is_saved_with_the_weights(checkpoint, image, tmp_path):
    """As the buffer of the public code; where nothing was chosen, the config says it."""
    model, x = hub_load(checkpoint).eval(), F.interpolate(image, (64, 96))
    assert "summary_idxs" not in model.state_dict()
    model.summary_idxs = torch.tensor([2, 0])
    state = model.state_dict()
    assert state["summary_idxs"].tolist() == [2, 0]
    again = hub_load(checkpoint)
    assert not any(again.load_state_dict(state))
    assert torch.equal(again(x).summary, model(x).summary)
    for change in (lambda name, v: (name, v), lambda name, v: (f"module.{name}", v.half())):
        renamed = dict(change(name, value) for name, value in state.items())
        torch.save({"state_dict": renamed, "config": model.config.to_dict()}, tmp_path / "mine.pth")
        loaded = load_model(tmp_path / "mine.pth", device="cpu", dtype="float32")
        assert loaded.config.summary_idxs == (2, 0) and loaded.config.summary_names == ("dino_v2", "clip")
        assert torch.allclose(loaded(x).summary, model(x).summary, rtol=0, atol=0.02)
    model.save_pretrained(tmp_path / "folder")
    assert torch.equal(load_model(tmp_path / "folder", device="cpu")(x).summary, model(x).summary)
    torch.save(
        {"state_dict": {**state, "summary_idxs": torch.tensor([9])}, "config": model.config.to_dict()},
        tmp_path / "bad.pth",
    )
    with pytest.raises(CheckpointError, match=r"class tokens \(9\), but there are 4"):
        load_model(tmp_path / "bad.pth", device="cpu")


def test_unknown_versions_list_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown version 'radio_v9'; released: radio_v2\.5-b"):
        hub_load("radio_v9")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """The archive of this working tree as GitHub would hand it out."""
    folder = tmp_path_factory.mktemp("archive")
    found = subprocess.run(
        ["git", "rev-parse", "--git-path", "objects"], cwd=ROOT, capture_output=True, text=True
    )
    if found.returncode:
        pytest.skip("this is not a git checkout, so what torch.hub would fetch is unknown")
    (folder / "objects").mkdir()
    environment = {
        **os.environ,
        "GIT_INDEX_FILE": str(folder / "index"),
        "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(ROOT / found.stdout.strip()),
    }

    def git(*arguments: str) -> str:
        run = subprocess.run(
            ["git", *arguments], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        return run.stdout.strip()

    git("add", "--all")
    git("archive", "--output", str(folder / "radio.tar"), git("write-tree"))
    return folder / "radio.tar"


def test_torch_hub_downloads_little(archive):
    assert archive.stat().st_size < 3_000_000
    with tarfile.open(archive) as content:
        names = content.getnames()
    assert {"hubconf.py", "radio_vision.py", "radio/loading.py", "LICENSE", "NOTICE", "README.md"} <= set(
        names
    )
    assert not [name for name in names if name.startswith(("tests", "benchmarks", ".ci"))]


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory, archive) -> Path:
    """A hub cache that already holds this repository, as torch.hub would have fetched it."""
    cache = tmp_path_factory.mktemp("hub")
    with tarfile.open(archive) as content:
        content.extractall(cache / "NVlabs_RADIO_main", filter="data")
    return cache


SCRIPT = """
import os, sys
import torch

torch.hub.set_dir(os.environ["HUB"])
repo, options = "NVlabs/RADIO:main", dict(trust_repo=True, skip_validation=True)
print(sorted(torch.hub.list(repo, **options)))
print("version" in torch.hub.help(repo, "radio_model", **options))

model = torch.hub.load(repo, "radio_model", version=os.environ["CHECKPOINT"], progress=True, adaptor_names="clip",
                       text_weights=os.environ["TEXT"], **options)
assert sys.modules["radio"].__file__.startswith(os.environ["HUB"]), sys.modules["radio"].__file__
x = torch.rand(1, 3, 64, 96)
with torch.no_grad():
    output = model(x)
    tokens = model.adaptors["clip"].tokenizer(["a cat", "a dog"])
    text = model.adaptors["clip"].encode_text(tokens)
print([tuple(part.shape) for part in (*output["backbone"], *output["clip"], text)])
with torch.no_grad():
    print(len(model.forward_intermediates(x, indices=[1, 3], intermediates_only=True)))
model.save_pretrained(os.environ["SAVED"])
again = torch.hub.load(repo, "radio_model", version=os.environ["SAVED"], adaptor_names="clip", **options)
with torch.no_grad():
    print(torch.equal(again(x)["clip"].features, output["clip"].features))
"""


def test_from_the_hub_cache(hub_cache, checkpoint, text_towers, tmp_path):
    """In a fresh process, elsewhere, where this library is not installed: only what torch.hub fetched is there."""
    environment = {
        **os.environ,
        "HUB": str(hub_cache),
        "CHECKPOINT": checkpoint,
        "TEXT": str(text_towers["clip"]),
    }
    environment |= {"SAVED": str(tmp_path / "saved"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines == [
        str(ENTRY_POINTS),
        "True",
        str([(1, 192), (1, 24, 64), (1, 40), (1, 24, 48), (2, 40)]),
        "2",
        "True",
    ]


def test_the_hub_can_tell_which_packages_are_missing():
    """torch.hub checks `dependencies` before it calls an entry point: each must be importable, and nothing optional."""
    from importlib.util import find_spec

    import hubconf

    assert all(find_spec(name) for name in hubconf.dependencies)
    assert not {"open_clip", "transformers", "matplotlib", "av"} & set(hubconf.dependencies)


OTHER = """
import os, sys, torch

sys.path.insert(0, os.environ["OTHER"])
import radio
sys.path.pop(0)
try:
    torch.hub.load(os.environ["REPO"], "radio_model", source="local", version="radio_v2.5-b")
except ImportError as error:
    print(error)
"""


def test_another_package_of_that_name_is_named(hub_cache, tmp_path):
    """The public hub code, or an internet radio player, came first in this process."""
    (tmp_path / "other" / "radio").mkdir(parents=True)
    (tmp_path / "other" / "radio" / "__init__.py").write_text("stations = []\n")
    environment = {
        **os.environ,
        "OTHER": str(tmp_path / "other"),
        "REPO": str(hub_cache / "NVlabs_RADIO_main"),
    }
    run = subprocess.run(
        [sys.executable, "-c", OTHER], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "another package called 'radio' comes first in this process" in run.stdout, run.stderr
    assert str(tmp_path / "other" / "radio") in run.stdout
    command = "import sys, radio_vision; sys.argv = ['radio', 'models']; radio_vision.main()"
    environment["PYTHONPATH"] = os.pathsep.join([environment["OTHER"], str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "another package called 'radio'" in run.stderr and "processes of their own" in run.stderr


def test_other_families(reference):
    x = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        eradio = hub_load(str(reference / "eradio" / "checkpoint.pth.tar"), eradio_window_size="optimal")
        assert eradio(x, feature_fmt="NCHW").features.shape[-2:] == (6, 8)
        by_hand = hub_load(str(reference / "eradio" / "checkpoint.pth.tar"))
        by_hand.model.set_optimal_window_size(x.shape[2:])  # as the public README has it
        assert torch.equal(by_hand(x).features, eradio(x).features)
        path = str(reference / "radio1d" / "checkpoint.pth.tar")
        assert list(hub_load(path)(x, num_tokens=5)) == ["encoder", "decoder"]
        assert hub_load(path, neck_name="encoder")(x, num_tokens=5).features.shape[1] == 5
        with pytest.raises(ValueError, match="encoder.*decoder"):
            hub_load(path, neck_name="middle")
