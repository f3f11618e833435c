"""`radio masks`, as a user types it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sam_folders import sam3_detector_folder, sam_folder

import radio
from radio.cli import main
from radio.tasks.promptable import Prompt, PromptableSegmenter


@pytest.fixture(scope="module")
def sam(tmp_path_factory) -> Path:
    return sam_folder(tmp_path_factory.mktemp("sam") / "sam")


@pytest.fixture
def arguments(reference: Path, sam: Path, tmp_path: Path) -> list[str]:
    noise = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    model = str(reference / "v2_5" / "checkpoint.pth.tar")
    return [
        "masks", str(tmp_path / "photo.png"), "-m", model, "--sam", str(sam), "-o", str(tmp_path / "out.png"),
        "--device", "cpu",
    ]  # fmt: skip


def test_points_and_boxes(arguments, reference, sam, tmp_path, capsys):
    asked = ["--point", "20,30", "--point", "70,10;80,20;!5,5", "--box", "10,10,60,50"]
    assert main([*arguments, *asked, "--masks", str(tmp_path / "masks"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    model = radio.load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors=["sam"], device="cpu")
    segmenter = PromptableSegmenter.from_pretrained(model, sam)
    prompts = [
        Prompt([(20, 30)]), Prompt([(70, 10), (80, 20), (5, 5)], [1, 1, 0]), Prompt(box=(10, 10, 60, 50))
    ]  # fmt: skip
    expected = segmenter.predict(segmenter.encode(tmp_path / "photo.png"), prompts)
    assert [mask["prompt"] for mask in printed["masks"]] == [0, 1, 2]
    for i, mask in enumerate(printed["masks"]):
        assert mask["score"] == pytest.approx(expected.score[i].item(), rel=1e-3)
        written = np.array(Image.open(tmp_path / "masks" / f"{i:04d}.png")) == 255
        assert written.shape == (60, 100) and written.sum() == mask["area"]
        assert (written != expected.mask[i].numpy()).mean() < 1e-3
    assert Image.open(tmp_path / "out.png").width >= 100


def test_everything_with_names(arguments, text_towers, capsys):
    asked = ["--everything", "--points-per-side", "4", "--least-score", "-100", "--least-stability", "0"]
    asked += ["--labels", "cat,dog", "--adaptor", "clip", "--text-weights", str(text_towers["clip"])]
    assert main([*arguments, *asked]) == 0
    header, *rows, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["mask", "prompt", "score", "area", "box", "label"]
    assert rows and last.startswith("wrote ")
    assert all(re.search(r"\s\d+,\d+,\d+,\d+\s+(cat|dog)?$", row + " " * (row[-1].isdigit())) for row in rows)


def test_no_mask_is_no_error(arguments, capsys, tmp_path):
    assert main([*arguments, "--everything", "--points-per-side", "2", "--least-score", "1e6"]) == 0
    assert "lower --least-score" in capsys.readouterr().out
    assert Image.open(tmp_path / "out.png").size == (100, 60)


def test_concepts(arguments, reference, tmp_path, capsys):
    path = reference / "radio1d" / "checkpoint.pth.tar"
    model = radio.load_model(path, adaptors=["sam3"], device="cpu")
    sam3 = sam3_detector_folder(tmp_path / "sam3", model.config.adaptor("sam3").feature.output_dim)
    arguments[3], arguments[5] = str(path), str(sam3)
    words = ["red cup", "cat"]
    segmenter = PromptableSegmenter.from_pretrained(model, sam3, concepts=True)
    expected = segmenter.concepts(segmenter.encode(tmp_path / "photo.png"), words, least_score=0.0)
    asked = ["--concept", "red cup", "--concept", "cat"]
    assert main([*arguments, *asked, "--least-score", "0", "--json"]) == 0
    masks = json.loads(capsys.readouterr().out)["masks"]
    assert [mask["concept"] for mask in masks] == [words[number] for number in expected.prompt]
    assert [mask["score"] for mask in masks] == pytest.approx(expected.score.tolist(), rel=1e-3)
    assert Image.open(tmp_path / "out.png").height > 60, "a legend says what each is"
    assert main([*arguments, *asked, "--least-score", "0.999"]) == 0
    assert "found no red cup and no cat; lower --least-score" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "say what: --point"),
        (["--concept", "cat", "--everything"], "or --concept WORDS"),
        (["--concept", "cat"], "load it with adaptors=['sam3']"),
        (["--everything", "--point", "1,2"], "say what: --point"),
        (["--point", "100,2"], "lies outside of the image of 100 x 60"),
        (["--box", "9,9,3,20"], "left, top, right and bottom"),
    ],
)
def test_wrong_prompts_write_nothing(arguments, asked, message, tmp_path, capsys):
    assert main([*arguments, *asked]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("asked", [["--point", "1"], ["--point", "1,2;"], ["--box", "1,2,3"]])
def test_what_is_no_point_or_box(arguments, asked, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, *asked])
    assert "in pixels, as" in capsys.readouterr().err


def test_a_model_without_sam_says_so(arguments, reference, capsys):
    arguments[3] = str(reference / "no_cpe_patch14" / "checkpoint.pth.tar")
    assert main([*arguments, "--point", "1,1"]) == 1
    assert "place of SAM's image encoder, sam or sam3 (it has: clip, dino_v2)" in capsys.readouterr().err
