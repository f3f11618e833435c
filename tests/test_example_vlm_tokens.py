"""The example that puts merged tokens in front of a language model."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from radio import load_model
from radio.modeling.token_merging import TokenMerging

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "tests" / "reference" / "v2_5" / "checkpoint.pth.tar"


@pytest.fixture(scope="module")
def example() -> dict:
    return runpy.run_path(str(ROOT / "examples" / "vlm_tokens.py"))


@pytest.fixture(scope="module")
def encodings(photos: list[Path]) -> list:
    model = load_model(CHECKPOINT, device="cpu")
    merges = [TokenMerging(keep=12), TokenMerging(keep=30)]
    return model.encode(photos[:2], size="short:96", merge=merges)


def test_padding_does_not_change_what_the_language_model_says(example: dict, encodings: list) -> None:
    language_model = example["tiny_language_model"]()
    projector = example["Projector"](64, 128)
    question = "What is it?"
    with torch.inference_mode():
        inputs = example["language_inputs"](language_model, projector, encodings, question)
        assert inputs["attention_mask"].sum(dim=1).tolist() == [12 + 11, 30 + 11]
        together = language_model(**inputs).logits[:, -1]
        answers = language_model.generate(**inputs, max_new_tokens=4, do_sample=False)
        for i, encoding in enumerate(encodings):
            single = example["language_inputs"](language_model, projector, [encoding], question)
            assert single["inputs_embeds"].shape[1] == encoding.features.shape[1] + len(question)
            torch.testing.assert_close(
                together[i], language_model(**single).logits[0, -1], rtol=1e-4, atol=1e-5
            )
            alone = language_model.generate(**single, max_new_tokens=4, do_sample=False)
            assert torch.equal(answers[i], alone[0])


def test_the_projector_learns_and_knows_where_tokens_lie(example: dict, encodings: list) -> None:
    language_model = example["tiny_language_model"]()
    projector = example["Projector"](64, 128)
    example_inputs = example["language_inputs"](language_model, projector, encodings, "?")
    language_model(**example_inputs).logits[:, -1].logsumexp(dim=1).sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in projector.parameters())

    features, places = torch.randn(1, 64).expand(3, 64), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 1.0]])
    embedded = projector(features, places)
    assert torch.pdist(embedded).min() > 0.1


def test_picture_paints_every_region_in_its_mean_color(example: dict, encodings: list, photos: list) -> None:
    cell, gap = 8, 4
    encoding = encodings[0]
    rows, columns = encoding.grid
    picture = np.array(example["paint"](photos[0], encoding, cell=cell, gap=gap)).astype(float)
    assert picture.shape == (rows * cell + 2 * gap, 2 * columns * cell + 3 * gap, 3)
    photo = picture[gap:-gap, gap : gap + columns * cell]
    painted = picture[gap:-gap, 2 * gap + columns * cell : -gap]
    assignment = (
        encoding.backbone.plan.assignment.reshape(rows, columns).numpy().repeat(cell, 0).repeat(cell, 1)
    )
    inside = np.zeros(assignment.shape, dtype=bool)
    inside[1:, 1:] = (assignment[1:, 1:] == assignment[:-1, 1:]) & (assignment[1:, 1:] == assignment[1:, :-1])
    for token in range(12):
        region = assignment == token
        np.testing.assert_allclose(
            painted[region & inside],
            np.broadcast_to(photo[region].mean(axis=0), (int((region & inside).sum()), 3)),
            atol=0.51,
        )


def test_script_runs(
    tmp_path: Path, photos: list[Path], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "tokens.png"
    arguments = [str(photos[0]), "--model", str(CHECKPOINT), "--size", "short:96", "--picture", str(target)]
    monkeypatch.setattr(sys, "argv", ["vlm_tokens.py", *arguments, "--device", "cpu"])
    runpy.run_path(str(ROOT / "examples" / "vlm_tokens.py"), run_name="__main__")
    assert "36 patches -> 13 tokens" in capsys.readouterr().out
    assert Image.open(target).size == (2 * 6 * 24 + 3 * 24, 6 * 24 + 2 * 24)
