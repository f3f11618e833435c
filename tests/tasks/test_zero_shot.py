"""Zero-shot classes: the right mean over templates, ranks with scores, a cache that knows when it is stale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

import radio
from radio.data.batches import image_batches
from radio.data.labeled import ImageFolder
from radio.tasks import zero_shot
from radio.tasks.zero_shot import Accuracy, ZeroShotClassifier, class_embeddings, count_correct, evaluate

CLASSES = ["cat", "dog", "coffee cup"]
TEMPLATES = ["a photo of a {}.", "a drawing of the {}.", "{}"]


@pytest.fixture(scope="module")
def model(reference, text_towers):
    return radio.load_model(
        reference / "v2_5" / "checkpoint.pth.tar",
        adaptors=["clip", "siglip", "sam"],
        text_weights={"clip": text_towers["clip"], "siglip": text_towers["siglip"]},
        device="cpu",
    )


@pytest.mark.parametrize(("name", "dim"), [("clip", 40), ("siglip", 36)])
def test_a_class_is_the_mean_of_its_sentences(model, name, dim):
    adaptor = model.adaptors[name]
    embeddings = class_embeddings(adaptor, CLASSES, TEMPLATES, batch_size=4)
    assert embeddings.shape == (3, dim) and embeddings.dtype == torch.float32
    for row, label in zip(embeddings, CLASSES, strict=True):
        sentences = [template.replace("{}", label) for template in TEMPLATES]
        parts = torch.nn.functional.normalize(adaptor.encode_text(sentences), dim=-1)
        expected = parts.mean(dim=0) / parts.mean(dim=0).norm()
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)


def test_equals_open_clips_own_classifier(text_towers, model):
    import open_clip

    clip = open_clip.create_model(f"local-dir:{text_towers['clip']}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{text_towers['clip']}")
    expected = open_clip.build_zero_shot_classifier(clip, tokenizer, CLASSES, TEMPLATES).T
    torch.testing.assert_close(
        class_embeddings(model.adaptors["clip"], CLASSES, TEMPLATES), expected, rtol=1e-5, atol=1e-5
    )


def test_imagenet_words_are_open_clips():
    classes = zero_shot.imagenet_classes()
    assert len(classes) == 1000
    assert classes[0] == "tench"
    assert len(zero_shot.imagenet_templates("openai")) == 80
    assert len(zero_shot.imagenet_templates("simple")) == 7
    assert all(template.count("{}") == 1 for template in zero_shot.imagenet_templates())
    with pytest.raises(ValueError, match="'openai' and 'simple'"):
        zero_shot.imagenet_templates("best")


def test_ranks_and_scores():
    classifier = ZeroShotClassifier(["a", "b", "c"], torch.eye(3), logit_scale=10.0)
    summary = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    first, second = classifier.rank(summary, k=2)
    assert [ranked.label for ranked in first] == ["b", "a"]
    assert [ranked.similarity for ranked in first] == pytest.approx([0.8, 0.6])
    total = math.exp(8) + math.exp(6) + 1
    assert [ranked.probability for ranked in first] == pytest.approx(
        [math.exp(8) / total, math.exp(6) / total]
    )
    assert [ranked.label for ranked in second] == ["c", "a"], (
        "equal similarities keep the order of the classes"
    )
    assert classifier.top(summary, 3).tolist() == [[1, 0, 2], [2, 0, 1]]
    torch.testing.assert_close(classifier.probabilities(summary).sum(dim=-1), torch.ones(2))


def test_counts_top1_and_top5():
    classifier = ZeroShotClassifier(list("abcdefg"), torch.eye(7))
    summary = torch.tensor([[7.0, 6, 5, 4, 3, 2, 1]]).repeat(4, 1)
    assert count_correct(classifier, summary, torch.tensor([0, 4, 5, 0])) == Accuracy(
        top1=2, top5=3, images=4
    )
    assert Accuracy(1, 2, 3) + Accuracy(4, 5, 6) == Accuracy(5, 7, 9)


def test_the_teachers_logit_scale_is_used(model):
    classifier = ZeroShotClassifier.build(model.adaptors["clip"], CLASSES)
    assert classifier.logit_scale == pytest.approx(math.exp(2.5))
    assert ZeroShotClassifier.build(model.adaptors["clip"], CLASSES, logit_scale=7.0).logit_scale == 7.0


def test_cache_is_used_and_keyed_by_all_that_matters(model, tmp_path, monkeypatch):
    adaptor = model.adaptors["clip"]
    first = class_embeddings(adaptor, CLASSES, TEMPLATES, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1, "one file, no partial ones"
    with monkeypatch.context() as patch:
        patch.setattr(type(adaptor), "encode_text", lambda *_, **__: pytest.fail("the text tower ran again"))
        assert torch.equal(class_embeddings(adaptor, CLASSES, TEMPLATES, cache_dir=tmp_path), first)
    class_embeddings(adaptor, CLASSES[::-1], TEMPLATES, cache_dir=tmp_path)
    class_embeddings(adaptor, CLASSES, TEMPLATES[:1], cache_dir=tmp_path)
    other = class_embeddings(model.adaptors["siglip"], CLASSES, TEMPLATES, cache_dir=tmp_path)
    assert other.shape == (3, 36)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_cache_file_is_made_again(model, tmp_path, caplog):
    adaptor = model.adaptors["clip"]
    first = class_embeddings(adaptor, CLASSES, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert torch.equal(class_embeddings(adaptor, CLASSES, cache_dir=tmp_path), first)
    assert "damaged cache file" in caplog.text
    caplog.clear()
    assert torch.equal(class_embeddings(adaptor, CLASSES, cache_dir=tmp_path), first)
    assert not caplog.text


def test_an_interrupted_write_leaves_nothing_behind(model, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        class_embeddings(model.adaptors["clip"], CLASSES, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_evaluate_equals_one_image_after_another(model, tmp_path):
    random = np.random.default_rng(0)
    for label in CLASSES:
        (tmp_path / label).mkdir()
        for i in range(4):
            pixels = random.integers(0, 256, size=(random.integers(40, 90), random.integers(40, 90), 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / label / f"{i}.png")
    folder = ImageFolder(tmp_path)
    assert folder.classes == ("cat", "coffee cup", "dog") and len(folder) == 12
    classifier = ZeroShotClassifier.build(model.adaptors["clip"], folder.classes)
    together = evaluate(
        model, "clip", classifier, image_batches(model, folder, range(12), 64, 5), folder.labels
    )
    total = Accuracy(0, 0, 0)
    for position in range(12):
        total = total + evaluate(
            model, "clip", classifier, image_batches(model, folder, [position], 64, 1), folder.labels
        )
    assert together == total
    assert together.images == 12 and together.top5 == 12


def test_wrong_arguments_say_what_is_allowed(model):
    clip = model.adaptors["clip"]
    with pytest.raises(ValueError, match=r"'a photo' has no \{\}"):
        class_embeddings(clip, CLASSES, ["a photo"])
    with pytest.raises(ValueError, match="at least one class"):
        class_embeddings(clip, [])
    with pytest.raises(ValueError, match="not one string"):
        class_embeddings(clip, "cat")
    with pytest.raises(ValueError, match="'sam' has no text tower"):
        class_embeddings(model.adaptors["sam"], CLASSES)
    with pytest.raises(ValueError, match=r"\(B, 40\).*same teacher"):
        ZeroShotClassifier.build(clip, CLASSES).similarity(torch.zeros(1, 36))
