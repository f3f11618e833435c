"""Coordinates, prompts in batches, masks of everything, and names, where the right answer is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sam_folders import sam3_folder
from torch.testing import assert_close

import radio
from radio.drawing.masks import draw_masks
from radio.drawing.segmentation import palette
from radio.errors import CheckpointError
from radio.tasks.promptable import (
    AutomaticOptions,
    Masks,
    Prompt,
    PromptableSegmenter,
    load_mask_decoder,
    name_masks,
)
from radio.tasks.promptable.automatic import stability
from radio.tasks.promptable.canvas import place
from radio.tasks.promptable.naming import mask_embeddings
from radio.tasks.zero_shot import ZeroShotClassifier


class KnownObjects:
    """A decoder that knows which object lies where: a map of numbers over the square, 128 x 128, four pixels a cell.

    Of the three masks of a point, the object at the point gets the highest score, the whole square the next.
    """

    adaptor_name, feature_dim, grid, side, keeps_aspect, threshold = "sam", 48, 8, 128, True, 0.0

    def __init__(self, objects: torch.Tensor) -> None:
        self.objects = objects

    def embed(self, features):
        return None

    def decode(self, embedding, points, labels, boxes, several):
        center = boxes.view(-1, 2, 2).mean(dim=1) if points is None else points[:, 0]
        column, row = (center / 4).long().unbind(dim=1)
        its_object = (self.objects == self.objects[row, column][:, None, None]) * 20.0 - 10
        everything, nothing = torch.full_like(its_object, 10), torch.full_like(its_object, -10)
        logits, scores = torch.stack([everything, its_object, nothing], 1), torch.tensor([0.9, 0.99, 0.1])
        chosen = slice(None) if several else slice(1, 2)
        return logits[:, chosen], scores.expand(len(center), 3)[:, chosen]


@pytest.fixture
def known(model):
    """An image of 75 x 150 pixels lies on 64 x 128 of the square: four objects beside each other there."""
    objects = torch.full((32, 32), 9)
    objects[:16] = torch.arange(32) // 8
    return PromptableSegmenter(model, KnownObjects(objects), batch_size=5)


def test_a_mask_is_where_the_object_is(known):
    image = known.embed(torch.zeros(1, 48, 8, 8), (75, 150))
    assert image.canvas.content == (64, 128)
    masks = known.predict(
        image, [Prompt(points=[(10, 10)]), Prompt(box=(76, 5, 112, 70)), Prompt([(149, 74)])]
    )
    assert masks.mask.shape == (3, 75, 150) and masks.prompt.tolist() == [0, 1, 2]
    assert_close(masks.score, torch.full((3,), 0.99))
    borders = 150 / 4
    for mask, number in zip(masks.mask, [0, 2, 3], strict=True):
        columns = torch.arange(150) + 0.5
        inside = (columns > number * borders + 3) & (columns < (number + 1) * borders - 3)
        outside = (columns < number * borders - 3) | (columns > (number + 1) * borders + 3)
        assert mask[:, inside].all() and not mask[:, outside].any()
    assert (masks.area - 75 * 150 / 4).abs().max() < 75 * 2
    left, top, right, bottom = masks.box[1].tolist()
    assert abs(left - 75) <= 2 and top == 0 and abs(right - 112) <= 2 and bottom == 74


def test_several_masks_come_best_first(known):
    image = known.embed(torch.zeros(1, 48, 8, 8), (75, 150))
    masks = known.predict(image, [Prompt(points=[(10, 10)]), Prompt(points=[(140, 10)])], several=True)
    assert masks.prompt.tolist() == [0, 0, 0, 1, 1, 1]
    assert_close(masks.score, torch.tensor([0.99, 0.9, 0.1] * 2))
    assert masks.area[1] == 75 * 150 and masks.area[2] == 0 and masks.box[2].tolist() == [0, 0, 0, 0]


def test_everything_finds_every_object_once(known):
    image = known.embed(torch.zeros(1, 48, 8, 8), (75, 150))
    masks = known.everything(image, AutomaticOptions(points_per_side=6, least_score=0.95))
    assert len(masks) == 4 and masks.mask.sum(dim=0).float().mean() == pytest.approx(1, abs=0.05)
    with_the_whole = known.everything(image, AutomaticOptions(points_per_side=6, least_score=0.5))
    assert len(with_the_whole) == 5 and with_the_whole.area.tolist()[-1] == 75 * 150
    assert len(known.everything(image, AutomaticOptions(6, least_area=5000))) == 1
    nothing = known.everything(image, AutomaticOptions(6, least_score=1.0))
    assert nothing.mask.shape == (0, 75, 150) and nothing.box.shape == (0, 4)


def test_stability_compares_two_thresholds():
    logits = torch.tensor([[[3.0, 2.0, 0.5, -0.5, -3.0]], [[-9.0] * 5]])
    assert_close(stability(logits, 0.0), torch.tensor([2 / 4, 0]))


def test_prompts_do_not_depend_on_their_neighbors(model, sam, photo):
    """Prompts of all forms in one call, in batches of two, against each alone."""
    segmenter = PromptableSegmenter.from_pretrained(model, sam, batch_size=2)
    image = segmenter.encode(photo)
    prompts = [
        Prompt([(10, 10)]), Prompt([(10, 10), (100, 50)]), Prompt(box=(3, 4, 80, 70)), Prompt([(90, 20)]),
        Prompt([(40, 30)], [0], (3, 4, 80, 70)), Prompt([(149, 89)]),
    ]  # fmt: skip
    together = segmenter.predict(image, prompts)
    for i, prompt in enumerate(prompts):
        alone = segmenter.predict(image, prompt)
        assert (alone.mask[0] != together.mask[i]).float().mean() < 1e-3
        assert_close(alone.score[0], together.score[i], rtol=1e-4, atol=1e-4)


def test_encode_runs_the_model_once_on_the_square(model, sam, photo):
    segmenter = PromptableSegmenter.from_pretrained(model, sam)
    image = segmenter.encode(photo)
    pixels = F.interpolate(
        radio.images.load_image(photo)[None], (77, 128), mode="bicubic", antialias=True
    ).clamp(0, 1)
    mean = model.input_conditioner.norm_mean[None]
    square = mean.expand(1, 3, 128, 128).clone()
    square[:, :, :77] = pixels
    with torch.no_grad():
        expected = model(square, feature_fmt="NCHW")
    assert_close(image.encoding.adaptors["sam"].features, expected["sam"].features, rtol=1e-4, atol=1e-4)
    assert_close(image.encoding.adaptors["clip"].summary, expected["clip"].summary, rtol=1e-4, atol=1e-4)
    assert_close(image.embedding, segmenter.decoder.embed(expected["sam"].features), rtol=1e-4, atol=1e-3)


def test_a_finer_adaptor_runs_at_a_smaller_size(reference, sam, photo):
    fine = radio.load_model(reference / "upsample" / "checkpoint.pth.tar", adaptors=["sam"], device="cpu")
    image = PromptableSegmenter.from_pretrained(fine, sam).encode(photo)
    assert image.encoding.adaptors["sam"].features.shape == (1, 48, 8, 8)
    assert image.encoding.features.shape[-2:] == (4, 4)


def test_sam3_takes_the_place_in_a_model_of_another_family(reference, tmp_path, photo):
    """RADIO1D gives two outputs; the decoder's features are the map."""
    path = reference / "radio1d" / "checkpoint.pth.tar"
    model = radio.load_model(path, adaptors=["sam3"], device="cpu")
    width = model.config.adaptor("sam3").feature.output_dim
    segmenter = PromptableSegmenter.from_pretrained(model, sam3_folder(tmp_path / "sam3", width))
    image = segmenter.encode(photo)
    side = 8 * model.patch_size
    assert image.encoding.image_size == (side, side), (
        "the side at which the patches are SAM 3's, not SAM 3's own"
    )
    assert segmenter.predict(image, Prompt([(5, 5)])).mask.shape == (1, 90, 150)


def test_masks_get_the_names_of_what_they_show(model, known):
    """Red left, blue right; the labels are what the model makes of images that are wholly red or blue."""
    clip = model.adaptors["clip"]
    plain = {}
    for name, color in {"red": (220, 30, 30), "blue": (20, 40, 200), "green": (20, 180, 60)}.items():
        whole = known.encode(Image.new("RGB", (150, 150), color))
        everywhere = Masks(torch.ones(1, 150, 150, dtype=torch.bool), torch.ones(1), torch.zeros(1))
        plain[name] = mask_embeddings(clip, whole, everywhere)[0]
    classifier = ZeroShotClassifier(list(plain), torch.stack(list(plain.values())))
    both = Image.new("RGB", (150, 150), (220, 30, 30))
    both.paste((20, 40, 200), (75, 0, 150, 150))
    image = known.encode(both)
    halves = torch.zeros(3, 150, 150, dtype=torch.bool)
    halves[0, :, :75], halves[1, :, 75:] = True, True
    masks = Masks(halves, torch.ones(3), torch.arange(3))
    names = name_masks(clip, image, masks, classifier, top=2)
    assert [one[0].label for one in names[:2]] == ["red", "blue"]
    assert len(names[0]) == 2 and names[2] == [], "an empty mask has no name"
    with pytest.raises(ValueError, match=r"use segmenter\.encode"):
        name_masks(clip, known.embed(torch.zeros(1, 48, 8, 8), (150, 150)), masks, classifier)


def test_names_come_from_patches_without_the_feature_normalizer(reference, photo):
    path = reference / "normalizers" / "checkpoint.pth.tar"
    model = radio.load_model(path, adaptors=["clip", "sam"], device="cpu")
    width = model.config.adaptor("sam").feature.output_dim
    decoder = KnownObjects(torch.zeros(32, 32))
    decoder.feature_dim = width
    segmenter = PromptableSegmenter(model, decoder)
    image = segmenter.encode(photo)
    square = image.canvas.draw(
        radio.images.load_image(photo), segmenter._side, model.input_conditioner.norm_mean
    )
    with torch.no_grad():
        [expected] = model.forward_intermediates(
            square[None], indices=[-1], norm=True, intermediates_only=True, norm_alpha_scheme="none"
        )
    assert_close(image.patches, expected, rtol=1e-3, atol=1e-3)


def test_a_picture_shows_masks_and_what_pointed_at_them():
    masks = torch.zeros(2, 60, 100, dtype=torch.bool)
    masks[0], masks[1, 20:40, 20:40] = True, True
    photo = Image.new("RGB", (100, 60), (100, 100, 100))
    picture = draw_masks(photo, masks, ["all", "part"], 1.0, [(80, 30, 1)], [(60, 5, 95, 55)])
    assert picture.getpixel((10, 10)) == palette(2)[0]
    assert picture.getpixel((30, 30)) == palette(2)[1], "the smaller one on top"
    assert picture.getpixel((80, 30)) == (255, 255, 255) == picture.getpixel((60, 30))
    assert picture.height > 60
    assert draw_masks(photo, masks[:0], []).size == (100, 60)
    with pytest.raises(ValueError, match="100 with 1 names"):
        draw_masks(photo, masks, ["all"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a point or a box"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "1 point but 2 labels"),
        ({"points": [(1, 2)], "labels": [2]}, "a label is 1"),
        ({"points": [(1, 2, 3)]}, "a point is x and y"),
        ({"box": (5, 5, 5, 9)}, "left, top, right and bottom"),
    ],
)
def test_prompts_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        Prompt(**arguments)


def test_wrong_uses_say_what_to_do(model, known, reference, sam, sam3, tmp_path):
    image = known.embed(torch.zeros(1, 48, 8, 8), (75, 150))
    with pytest.raises(ValueError, match="150, 3 lies outside of the image of 150 x 75"):
        known.predict(image, Prompt([(150, 3)]))
    with pytest.raises(ValueError, match="box .* lies outside"):
        known.predict(image, Prompt(box=(1, 1, 151, 3)))
    with pytest.raises(ValueError, match="there is no prompt"):
        known.predict(image, [])
    with pytest.raises(ValueError, match=r"expected features \(1, 48, 8, 8\) before the neck"):
        known.embed(torch.zeros(1, 16, 8, 8), (75, 150))
    with pytest.raises(ValueError, match=r"load it with adaptors=\['sam3'\]"):
        PromptableSegmenter.from_pretrained(model, sam3)
    with pytest.raises(ValueError, match="points_per_side"):
        AutomaticOptions(points_per_side=0)
    windowed = radio.load_model(
        reference / "v2_5" / "checkpoint.pth.tar", adaptors=["sam"], device="cpu", vitdet_window_size=6
    )
    with pytest.raises(ValueError, match="at 128 x 128 pixels, but its sides are multiples of 96"):
        PromptableSegmenter.from_pretrained(windowed, sam)
    bare = radio.load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors=["clip"], device="cpu")
    with pytest.raises(ValueError, match=r"load it with one of adaptors=\['sam', 'sam3'\]"):
        PromptableSegmenter.from_pretrained(bare)
    other = radio.load_model(reference / "eradio" / "checkpoint.pth.tar", adaptors=["sam"], device="cpu")
    with pytest.raises(ValueError, match="features of 28 channels, but this decoder's neck takes 48"):
        PromptableSegmenter.from_pretrained(other, sam)


def test_damaged_folders_are_refused(sam, tmp_path):
    folder = tmp_path / "sam"
    folder.mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_mask_decoder(folder)
    (folder / "config.json").write_text((sam / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load_mask_decoder(folder)
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="damaged"):
        load_mask_decoder(folder)
    (folder / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(CheckpointError, match="'clip' model; expected sam"):
        load_mask_decoder(folder)
    (folder / "model.safetensors").write_bytes((sam / "model.safetensors").read_bytes())
    text = (sam / "config.json").read_text().replace('"iou_head_hidden_dim": 16', '"iou_head_hidden_dim": 24')
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"misshapen: mask_decoder\.iou_prediction_head"):
        load_mask_decoder(folder)


def test_the_long_side_fills_the_square():
    assert place(400, 600, 1024, True).content == (683, 1024)
    assert place(2000, 3, 1024, True).content == (1024, 2)
    assert place(5000, 1, 1024, True).content == (1024, 1)
