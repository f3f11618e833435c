"""k-NN classification with the backbone's summaries: how good the features are without any training.

    python examples/knn_classification.py --train imagenet/train --val imagenet/val --features /scratch/features
    torchrun --nproc-per-node 8 examples/knn_classification.py --train ... --val ... --features ...

Summaries are written to memory-mapped files, so that the 1.3 million of ImageNet's training set never have to be in
memory together, and a second run finds them there: under a name that changes with all that they depend on (weights,
dtype, windows, size, and the list of files with their sizes and times).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import radio
from radio.data.batches import image_batches
from radio.data.labeled import ImageFolder
from radio.distributed import Processes, processes
from radio.tasks.knn import classify, write_summaries


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
        database = summaries(model, train, cache_file("train", model, train, arguments), world, arguments)
        queries = summaries(model, val, cache_file("val", model, val, arguments), world, arguments)
        mine = list(world.positions(len(val)))
        result = classify(
            torch.from_numpy(np.array(queries[mine])).to(world.device),
            database,
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


def cache_file(
    split: str, model: radio.RADIOModel, images: ImageFolder, arguments: argparse.Namespace
) -> Path:
    """Where the summaries are kept. Whatever changes them changes the name."""
    weights = model.checkpoint_path
    files = sorted(weights.iterdir()) if weights.is_dir() else [weights]
    settings = [str(model.dtype), model.window_size, arguments.resolution]
    key = json.dumps(
        [settings, [identity(file) for file in files], [identity(path) for path in images.paths]]
    )
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return arguments.features / f"{weights.name.split('.')[0]}-{split}-{digest}.npy"


def identity(path: Path) -> tuple[str, int, int]:
    """A file's place, size and time of change."""
    found = path.stat()
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def summaries(
    model: radio.RADIOModel, images: ImageFolder, path: Path, world: Processes, arguments: argparse.Namespace
) -> np.ndarray:
    """The summaries of all images, (N, D) in half precision; all processes write one memory-mapped file."""
    shape = (len(images), model.summary_dim)
    if path.is_file():
        return np.load(path, mmap_mode="r")
    part = path.with_suffix(".part")
    if world.is_first:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(part, "w+", np.float16, shape)
    world.wait()
    hidden = None if world.is_first else True  # None: shown on a terminal only
    positions = tqdm(world.positions(len(images)), desc=path.stem, disable=hidden)
    out = np.lib.format.open_memmap(part, "r+")
    loaded = image_batches(
        model, images, positions, arguments.resolution, arguments.batch_size, arguments.workers
    )
    write_summaries(model, loaded, out)
    out.flush()
    world.wait()
    if world.is_first:
        part.rename(path)
    world.wait()
    return np.load(path, mmap_mode="r")


if __name__ == "__main__":
    main()
