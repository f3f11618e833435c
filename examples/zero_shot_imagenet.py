"""Zero-shot classification of a folder of images (or a data set of the `datasets` library) with a text-aligned adaptor.

One resolution:
    python examples/zero_shot_imagenet.py --dataset /data/imagenet/val --adaptor-name siglip --resolution 512

The resolutions of the tech report's tables, on eight GPUs:
    torchrun --nproc-per-node 8 examples/zero_shot_imagenet.py --dataset /data/imagenet/val --sweep --csv table.csv

A folder has one subfolder per class. With 1000 of them they are taken for ImageNet's, in the order of their WordNet
ids, and get open_clip's names; otherwise the subfolders' own names are used.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from pathlib import Path

from tqdm import tqdm

import radio
from radio.data.batches import image_batches
from radio.data.labeled import HubImages, ImageFolder
from radio.distributed import processes
from radio.files import atomic_write
from radio.tasks.zero_shot import (
    Accuracy,
    ZeroShotClassifier,
    default_cache_dir,
    evaluate,
    imagenet_templates,
    names_of_folders,
)

SWEEP = (224, 256, 336, 384, 432, 512, 640, 768, 896, 1024)
COLUMNS = ("model", "adaptor", "resolution", "vitdet_window_size", "images", "top1", "top5")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="radio_v2.5-h", help="version, Hub repository or local path")
    parser.add_argument(
        "--dataset", required=True, help="folder of class folders, or a name that `datasets` knows"
    )
    parser.add_argument("--split", default="validation", help="split of a `datasets` data set")
    parser.add_argument("--adaptor-name", default="siglip", help="clip, siglip, siglip2-g (default: siglip)")
    parser.add_argument("--text-weights", help="local weights of the text tower")
    parser.add_argument("--templates", choices=("openai", "simple"), default="openai")
    parser.add_argument(
        "--resolution",
        type=int,
        nargs="+",
        help="one number: short side, aspect ratio kept; two: height and width of a center crop",
    )
    parser.add_argument("--resolutions", type=int, nargs="+", help="several short sides, one after the other")
    parser.add_argument("--sweep", action="store_true", help=f"short sides {', '.join(map(str, SWEEP))}")
    parser.add_argument("--vitdet-window-size", type=int, help="side of the ViTDet windows, in patches")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=8, help="threads that read images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--csv", type=Path, help="write the table here as well")
    return parser.parse_args()


def sizes(arguments: argparse.Namespace, preferred: int) -> list[str]:
    """The sizes to run: a short side, or height and width of a center crop."""
    if arguments.sweep:
        return [f"short:{side}" for side in SWEEP]
    if arguments.resolutions:
        return [f"short:{side}" for side in arguments.resolutions]
    if len(arguments.resolution or ()) == 2:
        return [f"crop:{arguments.resolution[0]}x{arguments.resolution[1]}"]
    return [f"short:{side}" for side in arguments.resolution or (preferred,)]


def main() -> None:
    arguments = parse_arguments()
    is_folder = Path(arguments.dataset).is_dir()
    dataset = ImageFolder(arguments.dataset) if is_folder else HubImages(arguments.dataset, arguments.split)
    rows = []
    with processes(arguments.device) as world:
        model = radio.load_model(
            arguments.model,
            adaptors=[arguments.adaptor_name],
            text_weights=arguments.text_weights,
            vitdet_window_size=arguments.vitdet_window_size,
            device=world.device,
            dtype=arguments.dtype,
        )
        classifier = ZeroShotClassifier.build(
            model.adaptors[arguments.adaptor_name],
            names_of_folders(dataset.classes),
            imagenet_templates(arguments.templates),
            cache_dir=default_cache_dir(),
        )
        for size in sizes(arguments, model.preferred_resolution.height):
            hidden = None if world.is_first else True  # None: shown on a terminal only
            positions = tqdm(world.positions(len(dataset)), desc=f"images at {size}", disable=hidden)
            loaded = image_batches(model, dataset, positions, size, arguments.batch_size, arguments.workers)
            counts = evaluate(model, arguments.adaptor_name, classifier, loaded, dataset.labels)
            total = Accuracy(*world.sum(counts))
            rows.append(
                {
                    "model": arguments.model,
                    "adaptor": arguments.adaptor_name,
                    "resolution": size.removeprefix("short:"),
                    "vitdet_window_size": arguments.vitdet_window_size or "",
                    "images": total.images,
                    "top1": f"{100 * total.top1 / total.images:.3f}",
                    "top5": f"{100 * total.top5 / total.images:.3f}",
                }
            )
            if world.is_first:
                write(sys.stdout, rows[-1:], header=len(rows) == 1)
        if world.is_first and arguments.csv:
            with atomic_write(arguments.csv) as temporary, temporary.open("w", newline="") as file:
                write(file, rows, header=True)


def write(file, rows: list[dict], header: bool) -> None:
    writer = csv.DictWriter(file, COLUMNS)
    if header:
        writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
