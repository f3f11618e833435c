"""Open-vocabulary segmentation measured where the right answer is known: fields of plain colors."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from segmentation_sets import COLORS, ade20k_folder, fields, plain_folder, voc_folder

import radio
from radio.cli import main
from radio.data.segmentation import segmentation_folder
from radio.drawing.segmentation import draw_segmentation
from radio.errors import ImageError
from radio.tasks.segmentation import (
    UNKNOWN,
    LabelEmbeddings,
    SegmentOptions,
    best_names,
    label_embeddings,
    patch_embeddings,
    patch_similarity,
    segment,
    segment_with,
)
from radio.tasks.segmentation_evaluation import evaluate_segmentation, names_of
from radio.tasks.self_correlation import SelfCorrelation

OPTIONS = SegmentOptions(size=(128, 192), window=64, stride=32)


@pytest.fixture(scope="module")
def model(reference, text_towers):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    return radio.load_model(path, adaptors=["clip"], text_weights=text_towers["clip"], device="cpu")


@pytest.fixture(scope="module")
def colors(model) -> LabelEmbeddings:
    """Labels as an ideal text tower would give them: what the model makes of each color alone."""
    found = []
    for color in COLORS.values():
        image = torch.tensor(color).view(1, 3, 1, 1).expand(1, 3, 64, 64) / 255
        with torch.no_grad():
            found.append(patch_embeddings(model, "clip", image)[0].mean(dim=(1, 2)))
    return LabelEmbeddings(F.normalize(torch.stack(found), dim=-1), torch.arange(3))


def test_fields_of_color_are_found(model, colors, tmp_path):
    data = segmentation_folder(plain_folder(tmp_path), classes=list(COLORS))
    found = evaluate_segmentation(model, "clip", data, colors, OPTIONS)
    assert found["miou"] > 0.95 and found["pixel_accuracy"] > 0.95
    swapped = LabelEmbeddings(colors.embeddings[[1, 2, 0]], colors.owner)
    assert evaluate_segmentation(model, "clip", data, swapped, OPTIONS)["miou"] < 0.1


def test_the_measure_is_computed_over_all_pixels_together(model, colors, tmp_path):
    """By hand from the predictions: a class's pixels of all images, ignored ones left out, absent classes too."""
    data = segmentation_folder(plain_folder(tmp_path), classes=[*COLORS, "purple"])
    labels = LabelEmbeddings(torch.cat([colors.embeddings, -colors.embeddings[:1]]), torch.arange(4))
    found = evaluate_segmentation(model, "clip", data, labels, OPTIONS)
    predicted = torch.stack([segment_with(model, "clip", path, labels, OPTIONS).label for path in data.paths])
    truth = torch.stack([data.target(i) for i in range(3)])
    counted = truth != 255
    expected = {}
    for i, name in enumerate(data.classes):
        both = ((predicted == i) & (truth == i)).sum()
        either = (((predicted == i) | (truth == i)) & counted).sum()
        if either:
            expected[f"iou/{name}"] = float(both / either)
    assert {key: value for key, value in found.items() if "/" in key} == pytest.approx(expected)
    assert "iou/purple" not in found and found["miou"] == pytest.approx(
        sum(expected.values()) / len(expected)
    )
    assert found["pixel_accuracy"] == pytest.approx(float((predicted == truth)[counted].float().mean()))


def test_refinement_by_self_correlation_takes_noise_away(model, colors, tmp_path):
    """Noisy pixels: patches err on their own, and the mean over patches that look alike is right more often."""
    pixels = torch.from_numpy(fields(1)[0]).permute(2, 0, 1).float() / 255
    noisy = (pixels + 0.25 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))).clamp(
        0, 1
    )
    plain = patch_similarity(model, "clip", noisy, colors.embeddings)
    refined = patch_similarity(model, "clip", noisy, colors.embeddings, refine=SelfCorrelation(0.5, 0.1))
    truth = torch.from_numpy(fields(1)[1])[8::16, 8::16].long()
    margin = []
    for similarity in (plain, refined):
        right = similarity.gather(0, truth[None])[0]
        margin.append(float((similarity.argmax(dim=0) == truth).float().mean()))
        assert right.shape == (4, 6)
    assert margin[1] >= margin[0]
    inside = [float(each[:, truth == truth[0, 0]].std(dim=1).mean()) for each in (plain, refined)]
    assert inside[1] < inside[0]


def test_windows_are_refined_together(model, colors):
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    mean = patch_similarity(model, "clip", image, colors.embeddings, window=64, stride=32)
    lone = SelfCorrelation(threshold=1.0)
    found = patch_similarity(model, "clip", image, colors.embeddings, window=64, stride=32, refine=lone)
    torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-4)


def test_the_best_name_of_a_label_counts(model):
    similarity = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.3, 0.3]])
    found = best_names(similarity, torch.tensor([0, 0, 1]))
    assert found.tolist() == [[pytest.approx(0.5), pytest.approx(0.9)], [pytest.approx(0.3)] * 2]
    labels = label_embeddings(model.adaptors["clip"], ["cat", ("sky", "wall", "floor")], ["a {}.", "the {}."])
    assert labels.embeddings.shape == (4, 40) and labels.owner.tolist() == [0, 1, 1, 1]
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert segment(model, "clip", image, ["cat", ("sky", "wall")]).similarity.shape == (2, 64, 64)


def test_unsure_pixels_become_background(model, colors, tmp_path):
    image = plain_folder(tmp_path / "plain") / "images" / "0.png"
    sure = segment_with(model, "clip", image, colors, OPTIONS)
    share = (sure.similarity * 100).softmax(dim=0).amax(dim=0)
    least = float(share.median())
    found = segment_with(model, "clip", image, colors, SegmentOptions((128, 192), 64, 32, least_share=least))
    assert torch.equal(found.label, torch.where(share < least, UNKNOWN, sure.label))
    picture = draw_segmentation(Image.new("RGB", (96, 64)), found.label, list(COLORS), opacity=1.0)
    row, column = (found.label == UNKNOWN).nonzero()[0].tolist()
    assert picture.getpixel((column, row)) in ((0, 0, 0), (255, 255, 255)), "gray as the image, or a border"
    data = segmentation_folder(tmp_path / "plain", classes=["background", "green", "blue"])
    unsure = SegmentOptions((128, 192), 64, 32, least_share=least)
    measured = evaluate_segmentation(model, "clip", data, colors, unsure)
    predicted = torch.stack([segment_with(model, "clip", path, colors, unsure).label for path in data.paths])
    is_background = (predicted == 0) | (predicted == UNKNOWN)
    truth = torch.stack([data.target(i) for i in range(3)])
    either = ((truth == 0) | is_background) & (truth != 255)
    expected = ((truth == 0) & is_background).sum() / either.sum()
    assert measured["iou/background"] == pytest.approx(float(expected))


def test_names_and_background():
    assert names_of(["wall", "building, edifice"]) == [["wall"], ["building", "edifice"]]
    assert names_of(["background", "cat"], ["sky", "floor"]) == [["sky", "floor"], ["cat"]]
    with pytest.raises(ValueError, match="no class 'background'"):
        names_of(["cat"], ["sky"])


def test_wrong_uses_say_what_is_wrong(model, colors, tmp_path):
    data = segmentation_folder(plain_folder(tmp_path), classes=list(COLORS))
    with pytest.raises(ValueError, match="'background', which is no class"):
        evaluate_segmentation(model, "clip", data, colors, SegmentOptions(least_share=0.5))
    with pytest.raises(ValueError, match="3 classes, but the labels are 2"):
        evaluate_segmentation(model, "clip", data, LabelEmbeddings(colors.embeddings[:2], torch.arange(2)))
    with pytest.raises(ValueError, match=r"share in \[0, 1\]"):
        segment_with(model, "clip", data[0], colors, SegmentOptions(least_share=2.0))
    Image.new("RGB", (90, 64)).save(data.paths[0])
    with pytest.raises(ImageError, match="64 x 90 .* its mask 64 x 96"):
        evaluate_segmentation(model, "clip", data, colors, OPTIONS)


@pytest.mark.parametrize("layout", ["ade20k", "voc"])
def test_the_command(layout, reference, text_towers, tmp_path, capsys):
    folder = {"ade20k": ade20k_folder, "voc": voc_folder}[layout](tmp_path / "data")
    words = [
        "evaluate", "segmentation", "-m", str(reference / "v2_5" / "checkpoint.pth.tar"), "--dataset", str(folder),
        "--adaptor", "clip", "--text-weights", str(text_towers["clip"]), "--size", "64x96", "--window", "64",
        "--refine", "--template", "a {}.", "--device", "cpu",
    ]  # fmt: skip
    if layout == "voc":
        words += ["--background", "sky, wall", "--least-share", "0.05", "--limit", "1"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == (2 if layout == "ade20k" else 1) and found["adaptor"] == "clip"
    assert 0 <= found["miou"] <= 1 and 0 <= found["pixel_accuracy"] <= 1
    assert main(words) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert float(lines["miou"]) == pytest.approx(found["miou"], abs=1e-4)


def test_the_command_says_what_is_wrong(reference, tmp_path, capsys):
    words = ["evaluate", "segmentation", "-m", str(reference / "v2_5" / "checkpoint.pth.tar"), "--dataset"]
    assert main([*words, str(tmp_path)]) == 1
    assert "radio evaluate segmentation: error:" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "segmentation", "--help"])
    assert "usage: radio evaluate segmentation" in capsys.readouterr().out
