"""Words: given SAM 3's own encoder output, the path from features to masks is that of transformers' detector."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from hub_server import hub_server
from sam_folders import published_sam3_folder, sam3_detector_folder, sam3_folder
from torch.testing import assert_close

import radio
from radio.errors import CheckpointError
from radio.tasks.promptable import Prompt, PromptableSegmenter, load_concept_detector, load_mask_decoder

WORDS = ["red cup", "cat", "the astronaut of the rocket"]
SIZE = (90, 150)


@pytest.fixture(scope="module")
def folders(sam3, tmp_path_factory):
    """The detector as `Sam3Model` saves it, and together with the tracker as it is published."""
    alone = sam3_detector_folder(tmp_path_factory.mktemp("concepts") / "detector")
    return {"alone": alone, "published": published_sam3_folder(alone.parent / "published", sam3, alone)}


@pytest.fixture(scope="module")
def model(reference):
    return radio.load_model(reference / "radio1d" / "checkpoint.pth.tar", adaptors=["sam3"], device="cpu")


@pytest.fixture(scope="module")
def fitting(model, tmp_path_factory):
    """A detector for features as wide as the model's, and a file with tracker and detector."""
    width = model.config.adaptor("sam3").feature.output_dim
    folder = tmp_path_factory.mktemp("fitting")
    alone = sam3_detector_folder(folder / "detector", width)
    both = published_sam3_folder(folder / "published", sam3_folder(folder / "tracker", width), alone)
    return {"alone": alone, "published": both}


@pytest.mark.parametrize("kind", ["alone", "published"])
def test_logits_scores_and_masks_are_those_of_sam3(kind, folders):
    original = transformers.Sam3Model.from_pretrained(folders[kind]).eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folders["alone"])
    detector = load_concept_detector(folders[kind])
    pixels = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = original.vision_encoder.backbone(pixels).last_hidden_state.mT.unflatten(2, (8, 8))
    embedding = detector.embed(features)
    for words in WORDS:
        # As Sam3Processor does it: padded to 32 tokens.
        inputs = tokenizer(
            [words], return_tensors="pt", padding="max_length", max_length=32, return_attention_mask=True
        )
        with torch.no_grad():
            expected = original(pixels, **inputs)
        logits, scores = detector.detect(embedding, words)
        probability = expected.pred_logits.sigmoid() * expected.presence_logits.sigmoid()
        assert_close(logits, expected.pred_masks[0], rtol=1e-5, atol=1e-5)
        assert_close(scores, probability[0], rtol=1e-5, atol=1e-5)


def test_kept_masks_are_those_of_the_processor(fitting, model):
    original = transformers.Sam3Model.from_pretrained(fitting["alone"]).eval()
    segmenter = PromptableSegmenter.from_pretrained(model, fitting["alone"], concepts=True)
    detector = segmenter.detector
    width = detector.feature_dim
    features = torch.randn(1, width, 8, 8, generator=torch.Generator().manual_seed(0))
    image = segmenter.embed(features, SIZE)
    scores = torch.cat([detector.detect(image.concept_embedding, words)[1] for words in WORDS])
    least = float(scores.median()) + 1e-6
    masks = segmenter.concepts(image, WORDS, least)
    through = transformers.models.sam3.image_processing_sam3.Sam3ImageProcessor()
    start = 0
    for number, words in enumerate(WORDS):
        tokens = torch.tensor([detector.tokenizer.encode(words).ids])
        with torch.no_grad():
            output = original(
                vision_embeds=detector.embed(features),
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
            )
        [kept] = through.post_process_instance_segmentation(output, least, 0.5, [SIZE])
        order = kept["scores"].argsort(descending=True, stable=True)
        mine = slice(start, start + len(order))
        assert_close(masks.score[mine], kept["scores"][order], rtol=1e-5, atol=1e-5)
        assert torch.equal(masks.mask[mine], kept["masks"][order].bool())
        assert masks.prompt[mine].tolist() == [number] * len(order)
        start += len(order)
    assert start == len(masks) == (scores > least).sum() and 0 < masks.mask.float().mean() < 1


def test_one_pass_serves_words_points_and_everything_else(model, fitting, photo, monkeypatch):
    segmenter = PromptableSegmenter.from_pretrained(model, fitting["published"], concepts=True)
    image = segmenter.encode(photo)
    monkeypatch.setattr(type(model), "forward", None)  # whatever follows does without the model
    together = segmenter.concepts(image, WORDS, least_score=0.0)
    assert together.mask.shape == (60, *SIZE) and together.prompt.unique().tolist() == [0, 1, 2]
    for number, words in enumerate(WORDS):
        alone = segmenter.concepts(image, words, least_score=0.0)
        assert torch.equal(alone.mask, together.mask[together.prompt == number])
    assert not torch.equal(together.score[:20], together.score[20:40]), "words make a difference"
    assert len(segmenter.concepts(image, WORDS, least_score=1.0)) == 0
    assert segmenter.concepts(image, WORDS, least_score=1.0).box.shape == (0, 4)
    assert segmenter.predict(image, Prompt([(5, 5)])).mask.shape == (1, *SIZE)


def test_wrong_uses_say_what_to_do(model, fitting, folders, sam, sam3, reference, photo):
    segmenter = PromptableSegmenter.from_pretrained(model, fitting["alone"], concepts=True)
    image = segmenter.encode(photo)
    for nothing in ([], [""], "  ", ["cat", " "]):
        with pytest.raises(ValueError, match="short noun phrases"):
            segmenter.concepts(image, nothing)
    with pytest.raises(ValueError, match=r"tokens, of which SAM 3 takes up to 32"):
        segmenter.concepts(image, "cat dog " * 20)
    with pytest.raises(ValueError, match=r"detector alone.*use concepts\(\)"):
        segmenter.predict(image, Prompt([(5, 5)]))
    with pytest.raises(ValueError, match="detector alone"):
        segmenter.everything(image)
    with pytest.raises(CheckpointError, match="load it with concepts=True"):
        load_mask_decoder(fitting["alone"])
    with pytest.raises(CheckpointError, match="'sam3_tracker', which takes no words"):
        load_concept_detector(sam3)
    with pytest.raises(CheckpointError, match="'sam', which takes no words"):
        PromptableSegmenter.from_pretrained(model, sam, concepts=True)
    older = radio.load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors=["sam"], device="cpu")
    with pytest.raises(ValueError, match=r"load it with adaptors=\['sam3'\]"):
        PromptableSegmenter.from_pretrained(older, concepts=True)
    points = PromptableSegmenter.from_pretrained(older, sam)
    with pytest.raises(ValueError, match="words need SAM 3's detector"):
        points.concepts(points.embed(torch.zeros(1, 48, 8, 8), SIZE), "cat")
    with pytest.raises(ValueError, match="not of the same SAM 3"):
        PromptableSegmenter(model, load_mask_decoder(sam), detector=load_concept_detector(folders["alone"]))
    with pytest.raises(ValueError, match="neither a mask decoder nor"):
        PromptableSegmenter(model, None)


def test_damaged_folders_are_refused(folders, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(folders["alone"], folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is no tokenizer that can be read"):
        load_concept_detector(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        load_concept_detector(folder)
    shutil.copy(folders["alone"] / "tokenizer.json", folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = 20
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="of which the text encoder knows 20"):
        load_concept_detector(folder)
    config["text_config"]["vocab_size"] = 200
    config["detr_decoder_config"]["num_queries"] = 24
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"misshapen: detr_decoder\.query_embed"):
        load_concept_detector(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "sam3_video"}))
    with pytest.raises(CheckpointError, match="detector_config"):
        load_concept_detector(folder)


@pytest.mark.slow
def test_a_repository_is_downloaded_with_its_tokenizer(folders, tmp_path):
    files = {f"facebook/sam3/resolve/main/{path.name}": path for path in folders["published"].iterdir()}
    code = (
        "from radio.tasks.promptable import load_concept_detector, load_mask_decoder\n"
        "print(load_concept_detector('facebook/sam3').grid, load_mask_decoder('facebook/sam3').grid)"
    )
    settings = {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    with hub_server(files) as (address, _):
        online = {**os.environ, **settings, "HF_ENDPOINT": address}
        first = subprocess.run([sys.executable, "-c", code], env=online, capture_output=True, text=True)
    assert first.stdout.strip() == "8 8", first.stderr
    offline = {**os.environ, **settings, "HF_HUB_OFFLINE": "1"}
    again = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True)
    assert again.stdout.strip() == "8 8", again.stderr
