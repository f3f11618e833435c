"""``radio knn``: classify images by their nearest neighbors among labelled ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radio.cli.common import add_model_arguments, find_images, load, positive, print_table, progress

if TYPE_CHECKING:
    import numpy as np

    from radio.model import RADIOModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "train", type=Path, metavar="TRAIN", help="folder with one subfolder of images per class"
    )
    parser.add_argument(
        "val",
        type=Path,
        metavar="VAL",
        help="such a folder, to measure the accuracy; or images, to classify them",
    )
    add_model_arguments(parser, adaptors=False)
    parser.add_argument("--size", default="224", help="short side, or crop:224x224, … (default: 224)")
    parser.add_argument("--k", type=positive, default=20, help="neighbors that vote (default: 20)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the votes (default: 0.07)")
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="classes to show (default: 5)")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Print the accuracy, class by class, or the classes of every image, best first."""
    import torch

    from radio.data.labelled import ImageFolder
    from radio.tasks.knn import classify

    train = ImageFolder(args.train)
    val = ImageFolder(args.val) if _has_class_folders(args.val) else None
    paths = find_images([args.val]) if val is None else val.paths
    if val is not None and val.classes != train.classes:
        raise ValueError(f"{args.train} and {args.val} must have the same class folders")
    model = load(args, adaptors=[])
    database = _summaries(model, train.paths, args, "TRAIN")
    queries = torch.from_numpy(_summaries(model, paths, args, "VAL")).to(model.device)
    labels = torch.tensor(train.labels)
    votes = classify(
        queries, database, labels, len(train.classes), args.k, args.temperature, max(args.top, 5)
    )
    if val is None:
        _show_images(paths, train.classes, votes, args)
    else:
        _show_accuracy(val, votes.classes.cpu(), args)


def _has_class_folders(path: Path) -> bool:
    return path.is_dir() and any(entry.is_dir() for entry in path.iterdir())


def _summaries(model: RADIOModel, paths: Sequence[Path], args: argparse.Namespace, what: str) -> np.ndarray:
    import numpy as np

    from radio.data.labelled import batches
    from radio.tasks.knn import write_summaries

    out = np.empty((len(paths), model.summary_dim), dtype=np.float32)
    positions = progress(range(len(paths)), len(paths), what)
    write_summaries(
        model, batches(paths, positions, args.size, model.min_resolution_step, args.batch_size), out
    )
    return out


def _show_images(paths: Sequence[Path], classes: Sequence[str], votes: Any, args: argparse.Namespace) -> None:
    found = [
        (str(path), [(classes[i], score) for i, score in zip(numbers, scores, strict=True)][: args.top])
        for path, numbers, scores in zip(paths, votes.classes.tolist(), votes.scores.tolist(), strict=True)
    ]
    if args.json:
        images = [
            {"image": image, "classes": [{"class": name, "score": score} for name, score in ranked]}
            for image, ranked in found
        ]
        print(json.dumps({"k": args.k, "images": images}, indent=2))
        return
    for image, ranked in found:
        print(image)
        rows = [[f"{rank:4d}", name, f"{score:6.1%}"] for rank, (name, score) in enumerate(ranked, start=1)]
        print_table(rows, header=["rank", "class", " votes"])
        print()


def _show_accuracy(val: Any, predicted: Any, args: argparse.Namespace) -> None:
    import torch

    truth = torch.tensor(val.labels)
    hits = predicted == truth[:, None]
    top1, top5 = hits[:, 0].float().mean().item(), hits[:, :5].any(dim=1).float().mean().item()
    classes = [
        {"class": name, "images": int((truth == i).sum()), "top1": hits[truth == i, 0].float().mean().item()}
        for i, name in enumerate(val.classes)
        if (truth == i).any()
    ]
    classes.sort(key=lambda row: -row["top1"])
    if args.json:
        print(
            json.dumps(
                {"k": args.k, "images": len(truth), "top1": top1, "top5": top5, "classes": classes}, indent=2
            )
        )
        return
    rows = [[row["class"], f"{row['images']:6d}", f"{row['top1']:6.1%}"] for row in classes]
    print_table(rows, header=["class", "images", " top-1"])
    print(f"\n{len(truth)} images, k = {args.k}: top-1 {top1:.2%}, top-5 {top5:.2%}")
