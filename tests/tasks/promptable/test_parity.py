"""Given SAM's own encoder output, the path from features to masks is that of transformers' SAM, and SAM 3."""

from __future__ import annotations

import pytest
import torch
import transformers
from sam_folders import published_sam3_folder
from torch.testing import assert_close

from radio.tasks.promptable import AutomaticOptions, Prompt, PromptableSegmenter, load_mask_decoder
from radio.tasks.promptable.canvas import place
from radio.tasks.promptable.prompts import batches

PROMPTS = [
    Prompt(points=[(30, 40)]),
    Prompt(points=[(100.5, 80)]),
    Prompt(points=[(10, 20), (140, 60)], labels=[1, 0]),
    Prompt(box=(20, 10, 90, 70)),
    Prompt(points=[(60, 30)], box=(20, 10, 90, 70)),
]
SIZE = (90, 150)


def _processor():
    square = {"height": 128, "width": 128}
    through_pillow = getattr(transformers, "SamImageProcessorPil", transformers.SamImageProcessor)
    return transformers.SamProcessor(through_pillow(size={"longest_edge": 128}, pad_size=square))


@pytest.fixture(scope="module")
def original(sam):
    return transformers.SamModel.from_pretrained(sam).eval()


@pytest.fixture(scope="module")
def own(original, photo):
    """The pixels that SAM sees, and what its encoder gives before the neck, channels first."""
    pixels = _processor()(photo, return_tensors="pt")["pixel_values"]
    seen = []
    watch = original.vision_encoder.neck.register_forward_pre_hook(
        lambda neck, inputs: seen.append(inputs[0])
    )
    with torch.no_grad():
        original.vision_encoder(pixels)
    watch.remove()
    return pixels, seen[0].movedim(-1, 1)


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_scores_and_masks_are_those_of_sam(prompt, several, model, sam, original, own, photo):
    pixels, features = own
    segmenter = PromptableSegmenter.from_pretrained(model, sam)
    asked = {}
    if prompt.points:
        asked["input_points"] = [[[list(map(float, point)) for point in prompt.points]]]
        asked["input_labels"] = [[list(prompt.labels or [1] * len(prompt.points))]]
    if prompt.box:
        asked["input_boxes"] = [[list(map(float, prompt.box))]]
    processor = _processor()
    inputs = processor(photo, return_tensors="pt", **asked)
    three = several or prompt.is_ambiguous
    given = {name: value.float() for name, value in inputs.items() if name in ("input_points", "input_boxes")}
    with torch.no_grad():
        expected = original(pixels, **given, input_labels=inputs.get("input_labels"), multimask_output=three)
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    (full,) = processor.post_process_masks(expected.pred_masks, *sizes, binarize=False)

    image = segmenter.embed(features, SIZE)
    [batch] = batches([prompt], image.canvas, 64, torch.device("cpu"))
    logits, scores = segmenter.decoder.decode(image.embedding, batch.points, batch.labels, batch.boxes, three)
    assert_close(logits, expected.pred_masks[0], rtol=1e-5, atol=1e-5)
    assert_close(scores, expected.iou_scores[0], rtol=1e-5, atol=1e-5)
    assert_close(image.canvas.to_image(logits[0]), full[0], rtol=1e-5, atol=1e-4)

    masks = segmenter.predict(image, prompt, several)
    order = expected.iou_scores[0, 0].argsort(descending=True)[: None if several else 1]
    assert torch.equal(masks.mask, full[0][order] > 0)
    assert_close(masks.score, expected.iou_scores[0, 0][order], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(transformers.__version__ < "5", reason="its pipeline ends without an answer here")
def test_everything_is_what_the_mask_generation_pipeline_finds(model, sam, original, own, photo):
    pipeline = transformers.pipeline(
        "mask-generation", model=original, image_processor=_processor().image_processor, device="cpu"
    )
    expected = pipeline(
        photo, pred_iou_thresh=0.1, stability_score_thresh=0.52, crops_nms_thresh=1.0, points_per_crop=6
    )
    segmenter = PromptableSegmenter.from_pretrained(model, sam)
    masks = segmenter.everything(segmenter.embed(own[1], SIZE), AutomaticOptions(6, 0.1, 0.52, 1.0))
    assert 1 < len(masks) == len(expected["masks"]) < 36 * 3
    assert_close(masks.score, expected["scores"].float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(masks.mask, torch.stack([torch.as_tensor(mask) for mask in expected["masks"]]))


@pytest.mark.parametrize("published", [False, True])
def test_sam3_is_the_same_too(published, sam3, tmp_path):
    folder = published_sam3_folder(tmp_path / "published", sam3) if published else sam3
    original = transformers.Sam3TrackerModel.from_pretrained(folder).eval()
    decoder = load_mask_decoder(folder)
    pixels = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    canvas = place(*SIZE, decoder.side, decoder.keeps_aspect)
    with torch.no_grad():
        features = original.vision_encoder(pixels).last_hidden_state.mT.unflatten(2, (8, 8))
        maps = original.get_image_embeddings(pixels)
    embedding = decoder.embed(features)
    for found, expected in zip(embedding, maps, strict=True):
        assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for prompt in PROMPTS:
        [batch] = batches([prompt], canvas, 64, torch.device("cpu"))
        given = {
            "input_points": batch.points, "input_labels": batch.labels, "input_boxes": batch.boxes
        }  # fmt: skip
        with torch.no_grad():
            expected = original(
                pixels, **{name: value[None] for name, value in given.items() if value is not None}
            )
        logits, scores = decoder.decode(embedding, *given.values(), several=True)
        assert_close(logits, expected.pred_masks[0], rtol=1e-5, atol=1e-5)
        assert_close(scores, expected.iou_scores[0], rtol=1e-5, atol=1e-5)
    assert canvas.content == (112, 112), "SAM 3 stretches images to its square"
    assert_close(canvas.to_canvas(torch.tensor([75.0, 45.0])), torch.tensor([56.0, 56.0]))
