"""What int8 costs and gains: graphs of OpenVINO and ONNX Runtime in int8 against float32, on photographs.

    python benchmarks/runtimes.py --model demo-vit-s --photographs FOLDER
    python benchmarks/runtimes.py --quick        # a tiny model, the photographs of examples/images

The first photographs calibrate, the others are compared. Needs ``pip install '.[int8,onnxruntime]'``.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import interleaved, print_header, print_row, print_table, ratios, spread
from torch import Tensor

from radio import load_model

ROOT = Path(__file__).resolve().parent.parent
NEIGHBORS = 5


def build(model: str, runtimes: list[str], calibration: list[Path]) -> dict[str, Any]:
    """The subjects; the first is what the others are compared with."""
    subjects: dict[str, Any] = {"PyTorch float32": load_model(model, device="cpu", dtype="float32")}
    for runtime in runtimes:
        subjects[f"{runtime} float32"] = load_model(model, runtime=runtime, dtype="float32")  # type: ignore[arg-type]
        if runtime == "openvino":
            subjects["openvino bfloat16"] = load_model(model, runtime="openvino", dtype="bfloat16")
        subjects[f"{runtime} int8"] = load_model(
            model,
            runtime=runtime,  # type: ignore[arg-type]
            dtype="float32",
            calibration=calibration,
        )
    return subjects


def compare(subjects: dict[str, Any], photographs: list[Path], side: int, rounds: int, few: int) -> None:
    """Cosine similarities to the first subject, agreement of nearest neighbors, and times in turns."""
    encoded = {name: _encode(model, photographs, side) for name, model in subjects.items()}
    (truth_summary, truth_features), *_ = encoded.values()
    x = torch.stack([subjects["PyTorch float32"].resize(photographs[0], f"crop:{side}x{side}")])
    with torch.inference_mode():
        calls = {name: (lambda model=model: model(x)) for name, model in subjects.items()}
        seconds = interleaved(calls, rounds, time.perf_counter)
    for name, (summary, features) in encoded.items():
        similar = F.cosine_similarity(summary, truth_summary, dim=-1)
        patches = torch.stack(
            [F.cosine_similarity(a, b, dim=-1).mean() for a, b in zip(features, truth_features, strict=True)]
        )
        runtime = name.split()[0]
        peer = f"{runtime} float32" if f"{runtime} float32" in seconds else "PyTorch float32"
        print_row(
            [
                name,
                str(side),
                f"{similar.mean():.5f} ({similar.min():.5f})",
                f"{patches.mean():.5f} ({patches.min():.5f})",
                f"{100 * _agreement(summary, truth_summary, few):.0f} %",
                f"{1000 * spread(seconds[name]).median:.0f}",
                str(ratios(seconds[peer], seconds[name])),
            ]
        )


def _encode(model: Any, photographs: list[Path], side: int) -> tuple[Tensor, list[Tensor]]:
    encodings = [model.encode(path, size=f"crop:{side}x{side}") for path in photographs]
    return torch.cat([each.summary.float() for each in encodings]), [
        each.features[0].float() for each in encodings
    ]


def _agreement(summary: Tensor, truth: Tensor, few: int) -> float:
    """Share of each photograph's nearest ones among the others that are the same."""
    nearest = []
    for vectors in (summary, truth):
        similarities = F.normalize(vectors, dim=-1) @ F.normalize(vectors, dim=-1).T
        nearest.append(similarities.fill_diagonal_(-2).topk(min(few, len(vectors) - 1)).indices)
    same = [
        len(set(a.tolist()) & set(b.tolist())) / len(a) for a, b in zip(nearest[0], nearest[1], strict=True)
    ]
    return sum(same) / len(same)


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model and few photographs")
    parser.add_argument("--model", default="demo-vit-s")
    parser.add_argument("--photographs", type=Path, default=ROOT / "examples" / "images")
    parser.add_argument("--calibrate", type=int, default=48, help="how many photographs calibrate")
    parser.add_argument("--compare", type=int, default=24, help="how many photographs are compared")
    parser.add_argument("--sides", nargs="+", type=int, default=[224, 518, 1022])
    parser.add_argument("--runtimes", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    if args.quick:
        args.model = str(ROOT / "tests" / "reference" / "v2_5" / "checkpoint.pth.tar")
        args.calibrate, args.sides, args.rounds = 2, [64], 2
    torch.set_num_threads(args.threads)
    photographs = sorted(args.photographs.glob("*.jpg"))
    if len(photographs) < 3:
        parser.error(f"{args.photographs} has {len(photographs)} .jpg files, and at least 3 are needed")
    calibration = photographs[: min(args.calibrate, len(photographs) // 2)]
    compared = photographs[len(calibration) :][: args.compare]
    subjects = build(args.model, args.runtimes, calibration)
    print_header()
    columns = ["", "px", "cos summary (least)", "cos features (least)", "same 5 nearest", "ms"]
    print_table(f"{args.model}, {len(compared)} photographs", [*columns, "float32 there / this"])
    for side in args.sides:
        compare(subjects, compared, side, args.rounds, NEIGHBORS)


if __name__ == "__main__":
    main()
