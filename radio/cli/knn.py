"""``radio knn``: classify images by their nearest neighbors among labeled ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radio.cli.common import (
    find_images,
    find_labeled,
    load_chosen_model,
    print_table,
    progress,
    show,
    without_unreadable,
)
from radio.cli.options import (
    add_batch_size,
    add_execution,
    add_json,
    add_model,
    add_size,
    add_skip_unreadable,
    positive_int,
)
from radio.wording import counted

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
    add_model(parser)
    add_size(parser)
    parser.add_argument("--k", type=positive_int, default=20, help="neighbors that vote (default: 20)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the votes (default: 0.07)")
    parser.add_argument(
        "--top", type=positive_int, default=5, metavar="N", help="classes to show (default: 5)"
    )
    add_batch_size(parser, 16)
    add_skip_unreadable(parser)
    add_json(parser)
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Print the accuracy, class by class, or the classes of every image, best first."""
    import torch

    from radio.tasks.knn import classify

    train = find_labeled(args.train, args)
    val = find_labeled(args.val, args) if _has_class_folders(args.val) else None
    if val is not None and val.classes != train.classes:
        raise ValueError(f"{args.train} and {args.val} must have the same class folders")
    paths = without_unreadable(find_images([args.val]), args) if val is None else val.paths
    model = load_chosen_model(args, adaptors=[])
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

    from radio.data.batches import image_batches
    from radio.tasks.knn import write_summaries

    out = np.empty((len(paths), model.summary_dim), dtype=np.float32)
    positions = progress(range(len(paths)), len(paths), what)
    write_summaries(model, image_batches(model, paths, positions, args.size, args.batch_size), out)
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
        show(image)
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
    print(f"\n{counted(len(truth), 'image')}, k = {args.k}: top-1 {top1:.2%}, top-5 {top5:.2%}")
