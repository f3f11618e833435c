"""Text towers reach the adaptors of a model, and only those who use words pay for them."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import radio


@pytest.fixture
def checkpoint(reference: Path) -> Path:
    return reference / "v2_5" / "checkpoint.pth.tar"


def test_adaptors_encode_text_in_their_summary_space(checkpoint, text_towers):
    towers = {"clip": text_towers["clip"], "siglip": text_towers["siglip"]}
    model = radio.load_model(
        checkpoint, adaptors=["clip", "siglip", "sam"], text_weights=towers, device="cpu"
    )
    output = model(torch.rand(1, 3, 64, 64))
    for name, length in (("clip", 77), ("siglip", 64)):
        adaptor = model.adaptors[name]
        tokens = adaptor.tokenizer(["a cat", "a dog"])
        assert tokens.shape == (2, length)
        text = adaptor.encode_text(tokens, normalize=True)
        assert text.shape[1] == output[name].summary.shape[1]
        torch.testing.assert_close(text.norm(dim=-1), torch.ones(2))
        assert torch.equal(adaptor.encode_text(["a cat", "a dog"], normalize=True), text)
    assert [name for name, adaptor in model.adaptors.items() if adaptor.has_text] == ["clip", "siglip"]
    assert [name for name, adaptor in model.adaptors.items() if hasattr(adaptor, "encode_text")] == [
        "clip",
        "siglip",
    ]
    with pytest.raises(AttributeError, match=r"'sam'.*no text tower"):
        model.adaptors["sam"].encode_text(["a cat"])
    with pytest.raises(AttributeError, match=r"'sam'.*no text tower"):
        model.adaptors["sam"].tokenizer(["a cat"])


def test_a_siglip2_tower_for_an_adaptor_of_that_type(reference, text_towers):
    """The reference files have no siglip2 teacher; the tower itself is chosen by the teacher's type."""
    from dataclasses import replace

    from radio.checkpoints.build import build_model
    from radio.opening import open_checkpoint
    from radio.text import text_encoder_for

    checkpoint = open_checkpoint(reference / "v2_5" / "checkpoint.pth.tar")
    teacher = {"name": "siglip", "type": "siglip2", "model": "siglip2-g-384"}
    adaptors = tuple(
        replace(adaptor, teacher=teacher) if adaptor.name == "siglip" else adaptor
        for adaptor in checkpoint.config.adaptors
    )
    changed = replace(checkpoint, config=replace(checkpoint.config, adaptors=adaptors))
    model = build_model(radio.RADIOModel, changed, ["siglip"], torch.device("cpu"), torch.float32)
    adaptor = model.adaptors["siglip"]
    adaptor.text = text_encoder_for(adaptor.teacher, text_towers["siglip2-g"])
    assert adaptor.encode_text(["A cat!"]).shape == (1, 36)
    assert torch.equal(adaptor.tokenizer(["A cat!"]), adaptor.tokenizer(["a cat"]))


def test_one_path_belongs_to_one_adaptor(checkpoint, text_towers):
    model = radio.load_model(
        checkpoint, adaptors=["clip", "sam"], text_weights=text_towers["clip"], device="cpu"
    )
    assert model.adaptors["clip"].encode_text(["a cat"]).shape == (1, 40)
    with pytest.raises(ValueError, match=r"one path.*clip, siglip.*\{name: path\}"):
        radio.load_model(checkpoint, adaptors=["clip", "siglip"], text_weights=text_towers["clip"])
    with pytest.raises(ValueError, match=r"one path.*with text are: none"):
        radio.load_model(checkpoint, adaptors=["sam"], text_weights=text_towers["clip"])
    with pytest.raises(ValueError, match=r"'siglip'.*with text \(clip\)"):
        radio.load_model(checkpoint, adaptors=["clip"], text_weights={"siglip": text_towers["siglip"]})


def test_the_tower_is_not_part_of_the_models_state(checkpoint, text_towers):
    model = radio.load_model(checkpoint, adaptors=["clip"], text_weights=text_towers["clip"], device="cpu")
    before = set(model.state_dict())
    model.adaptors["clip"].encode_text(["a cat"])
    assert set(model.state_dict()) == before


def test_models_with_words_can_be_copied_and_pickled(checkpoint, text_towers):
    model = radio.load_model(checkpoint, adaptors=["clip"], text_weights=text_towers["clip"], device="cpu")
    text = model.adaptors["clip"].encode_text(["a cat"])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.adaptors["clip"].encode_text(["a cat"]), text)


def test_the_tower_follows_its_adaptors_device(checkpoint, text_towers):
    """`meta` stands in for an accelerator: what is asked for there is computed there."""
    model = radio.load_model(checkpoint, adaptors=["clip"], text_weights=text_towers["clip"], device="cpu")
    adaptor = model.adaptors["clip"]
    assert adaptor.encode_text(["a cat"]).device.type == "cpu"
    adaptor.to("meta")
    assert adaptor.encode_text(["a cat"]).device.type == "meta"


def test_vision_alone_never_imports_a_text_library(checkpoint):
    code = f"""
import sys, torch, radio
model = radio.load_model({str(checkpoint)!r}, adaptors=["clip", "siglip"], device="cpu")
model(torch.rand(1, 3, 64, 64))["clip"].summary
model.encode(torch.rand(3, 64, 64))
found = [name for name in ("open_clip", "transformers", "tokenizers") if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)
