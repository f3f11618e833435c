"""k-NN classification with the backbone's summaries: how good the features are without any training.

    python examples/knn_classification.py --train imagenet/train --val imagenet/val --features /scratch/features
    torchrun --nproc-per-node 8 examples/knn_classification.py --train ... --val ... --features ...

Summaries are written to files (`radio.extraction`, the ``extract`` extra) and read a part at a time, so that the 1.3
million of ImageNet's training set never have to be in memory together. A second run finds them there, under a name that
changes with all that they depend on: weights, dtype, windows, size, and the list of files with their sizes and times. A
run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import radio
from radio.data.labeled import ImageFolder
from radio.distributed import processes
from radio.extraction.cache import cached_features
from radio.tasks.knn import classify


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="radio_v2.5-h", help="version, Hub repository or local path")
    parser.add_argument("--train", required=True, help="folder of class folders: the database")
    parser.add_argument("--val", required=True, help="folder of class folders: the queries")
    parser.add_argument("--features", type=Path, required=True, help="folder for the summaries")
    parser.add_argument("--resolution", default="224", help="short side, or crop:HEIGHTxWIDTH (default: 224)")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.07)
    parser.add_argument("--vitdet-window-size", type=int, help="side of the ViTDet windows, in patches")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=8, help="threads that read images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    train, val = ImageFolder(arguments.train), ImageFolder(arguments.val)
    if train.classes != val.classes:
        raise SystemExit("the two folders must have the same class folders")

    with processes(arguments.device) as world:
        model = radio.load_model(
            arguments.model,
            vitdet_window_size=arguments.vitdet_window_size,
            device=world.device,
            dtype=arguments.dtype,
        )
        database, queries = (
            cached_features(
                model,
                images.paths,
                arguments.features,
                arguments.resolution,
                summary_dtype="float16",
                processes=world,
                batch_size=arguments.batch_size,
                workers=arguments.workers,
            )
            for images in (train, val)
        )
        database.require_all()
        queries.require_all()
        mine = list(world.positions(len(val)))
        result = classify(
            queries.vectors()[mine].to(world.device),
            database.chunks(),
            torch.tensor(train.labels),
            num_classes=len(train.classes),
            k=arguments.k,
            temperature=arguments.temperature,
        )
        hits = result.classes.cpu() == torch.tensor(val.labels)[mine, None]
        top1, top5 = world.sum([int(hits[:, 0].sum()), int(hits.sum())])
        if world.is_first:
            accuracy = {"top1": round(100 * top1 / len(val), 3), "top5": round(100 * top5 / len(val), 3)}
            print(json.dumps({"model": arguments.model, "k": arguments.k, "images": len(val), **accuracy}))


if __name__ == "__main__":
    main()
