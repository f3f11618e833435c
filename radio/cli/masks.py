"""``radio masks``: masks of what a user points at or names, or of everything."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radio.cli.common import load_chosen_model, print_result, table_lines
from radio.cli.labels import add_label_arguments, choose_text_adaptor, read_labels, read_templates
from radio.cli.options import add_execution, add_json, add_model, add_output, one_adaptor, positive_int
from radio.files import Outputs

if TYPE_CHECKING:
    from radio.tasks.promptable import Masks, Prompt

_EPILOG = """\
The model's sam adaptor takes the place of SAM's image encoder; --sam says where the rest of SAM comes from. The image
is encoded once, whatever the number of prompts. With --labels (or --labels-file) a text-aligned adaptor of the same
pass names every mask.

  radio masks photo.jpg -m radio_v2.5-l --point 120,80 --point 300,200 -o masks.png
  radio masks photo.jpg -m radio_v2.5-l --point '120,80;!150,90' --box 20,30,200,180 -o masks.png
  radio masks photo.jpg -m c-radio_v4-h --concept 'red cup' --concept spoon -o masks.png
  radio masks photo.jpg -m radio_v2.5-l --everything --labels cat,sofa,wall -o masks.png --json
"""
_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    add_output(parser, "where the picture goes", metavar="PICTURE")
    add_model(parser)
    parser.add_argument(
        "--sam",
        metavar="SAM",
        help="a SAM or SAM 3 as transformers has it, as a local folder or a Hugging Face repository (default: what "
        "the model's adaptor was trained for, facebook/sam-vit-huge or facebook/sam3)",
    )
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--point",
        type=_points,
        action="append",
        default=[],
        metavar="X,Y[;X,Y...]",
        help="a pixel of an object, or several of the same one; !X,Y is not of it; may be repeated, once an object",
    )
    prompts.add_argument(
        "--box",
        type=_box,
        action="append",
        default=[],
        metavar="X0,Y0,X1,Y1",
        help="left, top, right and bottom of a box around an object; may be repeated",
    )
    prompts.add_argument(
        "--concept",
        action="append",
        default=[],
        metavar="WORDS",
        help="every instance of what a short noun phrase says, as 'red cup'; for SAM 3; may be repeated",
    )
    prompts.add_argument(
        "--everything", action="store_true", help="masks of everything, from a grid of points"
    )
    prompts.add_argument(
        "--several", action="store_true", help="all three masks of a prompt (whole, part, part of a part)"
    )
    chosen = parser.add_argument_group("which masks of everything are kept")
    chosen.add_argument(
        "--points-per-side", type=positive_int, default=32, metavar="N", help="of the grid (default: 32)"
    )
    chosen.add_argument(
        "--least-score",
        type=float,
        metavar="SCORE",
        help="predicted IoU (default: 0.88); of concepts, the probability (default: 0.5)",
    )
    chosen.add_argument(
        "--least-stability",
        type=float,
        default=0.95,
        metavar="S",
        help="see the documentation (default: 0.95)",
    )
    chosen.add_argument(
        "--most-overlap", type=float, default=0.7, metavar="IOU", help="of boxes (default: 0.7)"
    )
    chosen.add_argument(
        "--least-area", type=positive_int, default=1, metavar="PIXELS", help="of a mask (default: 1)"
    )
    add_label_arguments(parser, required=False)
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="write every mask as a PNG (0 and 255) to this folder too",
    )
    parser.add_argument("--opacity", type=float, default=0.55, help="of the colors, 0 to 1 (default: 0.55)")
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Write the picture and print every mask's score, area, box and name."""
    from radio.drawing.masks import draw_masks
    from radio.drawing.pictures import check_picture_name, save_picture
    from radio.images import load_image
    from radio.tasks.promptable import PromptableSegmenter

    prompts = _prompts(args)
    labels = read_labels(args) if args.labels is not None or args.labels_file is not None else []
    check_picture_name(args.output)
    outputs = Outputs([args.image, args.labels_file, args.model, args.text_weights, args.sam])
    outputs.check(args.output)
    pixels = load_image(args.image)
    text = (one_adaptor(args) or choose_text_adaptor(args.model)) if labels else None
    model = load_chosen_model(
        args,
        adaptors=[_sam_adaptor(args.model), *([text] if text else [])],
        text_weights=args.text_weights if text else None,
    )
    outputs.add_inputs(model.checkpoint_path)
    segmenter = PromptableSegmenter.from_pretrained(model, args.sam, concepts=bool(args.concept))
    image = segmenter.encode(pixels)
    if args.concept:
        least = 0.5 if args.least_score is None else args.least_score
        masks = segmenter.concepts(image, args.concept, least)
    elif args.everything:
        masks = segmenter.everything(image, _options(args))
    else:
        masks = segmenter.predict(image, prompts, args.several)
    found = _described(masks, args.concept)
    if text:
        _name(found, model, text, image, masks, labels, read_templates(args))
    picture = draw_masks(
        pixels,
        masks.mask,
        [
            ": ".join([str(i), *(one[key] for key in ("concept", "label") if key in one)])
            for i, one in enumerate(found)
        ],
        args.opacity,
        [(x, y, label) for prompt in prompts for (x, y), label in _points_of(prompt)],
        [prompt.box for prompt in prompts if prompt.box],
    )
    save_picture(picture, args.output, outputs)
    if args.masks is not None:
        _write_masks(masks, args.masks, outputs)
    rows = [
        [str(i), *(_shown(one[key]) for key in found[0] if key != "similarity")]
        for i, one in enumerate(found)
    ]
    header = ["mask", *(key for key in found[0] if key != "similarity")] if found else None
    lines = table_lines(rows, header) if rows else [f"{_none_found(args)}; lower --least-score"]
    print_result(args, {"output": args.output, "masks": found}, [*lines, f"wrote {args.output}"])


def _none_found(args: argparse.Namespace) -> str:
    return (
        f"found no {' and no '.join(args.concept)}" if args.concept else "no mask is sure and stable enough"
    )


def _described(masks: Masks, concepts: Sequence[str]) -> list[dict[str, Any]]:
    columns = zip(
        masks.prompt.tolist(), masks.score.tolist(), masks.area.tolist(), masks.box.tolist(), strict=True
    )
    found: list[dict[str, Any]] = [
        {"prompt": p, "score": score, "area": area, "box": box} for p, score, area, box in columns
    ]
    return [{**one, "concept": concepts[one["prompt"]]} for one in found] if concepts else found


def _name(
    found: list[dict[str, Any]],
    model: Any,
    text: str,
    image: Any,
    masks: Masks,
    labels: list[str],
    templates: Sequence[str],
) -> None:
    from radio.tasks.promptable import name_masks
    from radio.tasks.zero_shot import ZeroShotClassifier, get_adaptor

    adaptor = get_adaptor(model, text)
    classifier = ZeroShotClassifier.build(adaptor, labels, templates)
    for one, ranked in zip(found, name_masks(adaptor, image, masks, classifier), strict=True):
        if ranked:
            one["label"], one["similarity"] = ranked[0].label, ranked[0].similarity
        else:
            one["label"], one["similarity"] = "", 0.0


def _write_masks(masks: Masks, folder: Path, outputs: Outputs) -> None:
    from PIL import Image

    from radio.drawing.pictures import save_picture

    for i, mask in enumerate(masks.mask.cpu()):
        save_picture(Image.fromarray((mask.byte() * 255).numpy()), folder / f"{i:04d}.png", outputs)


def _prompts(args: argparse.Namespace) -> list[Prompt]:
    from radio.tasks.promptable import Prompt

    if [bool(args.point or args.box), args.everything, bool(args.concept)].count(True) != 1:
        raise ValueError(
            "say what: --point X,Y and --box X0,Y0,X1,Y1, each as often as you like, or --concept WORDS as often as "
            "you like, or --everything"
        )
    points = [Prompt([(x, y) for x, y, _ in one], [label for _, _, label in one]) for one in args.point]
    return [*points, *(Prompt(box=box) for box in args.box)]


def _points_of(prompt: Prompt) -> list[tuple[tuple[float, float], int]]:
    return list(zip(prompt.points, prompt.labels or [1] * len(prompt.points), strict=True))


def _options(args: argparse.Namespace) -> Any:
    from radio.tasks.promptable import AutomaticOptions

    least = 0.88 if args.least_score is None else args.least_score
    return AutomaticOptions(
        args.points_per_side, least, args.least_stability, args.most_overlap, args.least_area
    )


def _sam_adaptor(model: str) -> str:
    from radio.opening import open_checkpoint
    from radio.tasks.promptable.weights import DEFAULT_REPOSITORIES

    names = [adaptor.name for adaptor in open_checkpoint(model).config.adaptors]
    found = next((name for name in names if name in DEFAULT_REPOSITORIES), None)
    if found is None:
        raise ValueError(
            f"{model} has no adaptor that takes the place of SAM's image encoder, {' or '.join(DEFAULT_REPOSITORIES)} "
            f"(it has: {', '.join(names) or 'no adaptors'})"
        )
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _points(text: str) -> list[tuple[float, float, int]]:
    found = [re.fullmatch(rf"\s*(!?){_NUMBER},{_NUMBER}", part) for part in text.split(";")]
    if not all(found):
        raise argparse.ArgumentTypeError(
            f"expected X,Y in pixels, as 120,80, or several as '120,80;140,90;!200,90', got {text!r}"
        )
    return [(float(one[2]), float(one[3]), 0 if one[1] else 1) for one in found if one]


def _box(text: str) -> tuple[float, float, float, float]:
    found = re.fullmatch(",".join([_NUMBER] * 4), text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected X0,Y0,X1,Y1 in pixels, as 20,30,200,180, got {text!r}")
    left, top, right, bottom = map(float, found.groups())
    return left, top, right, bottom
