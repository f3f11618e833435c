"""The forward pass of two checkouts of this library, call by call in turns: what a change costs or gains.

    git worktree add ../before COMMIT
    python benchmarks/checkouts.py ../before .
    python benchmarks/checkouts.py ../before . --threads 2 --dtype bfloat16

Each checkout runs in a process of its own, with the same weights, images and thread count, and both must give the
same summary to the last bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS = {"224": 41, "512": 15, "packed 32-128": 21, "packed 224-384": 9}

WORKER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import torch
from radio.config import RadioConfig
from radio.model import RADIOModel

torch.set_num_threads(int(sys.argv[2]))
model = RADIOModel(RadioConfig(
    architecture="vit_base_patch16_224", layout="cpe", embed_dim=768, depth=12, num_heads=12, mlp_dim=3072,
    patch_size=16, grid_size=128, num_cls_tokens=4, num_registers=4, summary_idxs=(0, 1, 2),
    summary_names=("a", "b", "c"),
))
generator = torch.Generator().manual_seed(0)
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.02, generator=generator)
model.input_conditioner.norm_mean.fill_(0.5)
model.input_conditioner.norm_std.fill_(0.25)
model.eval().to(getattr(torch, sys.argv[3]))
image = lambda height, width: torch.rand(3, height, width, generator=generator)
inputs = {
    "224": image(224, 224)[None],
    "512": image(512, 512)[None],
    "packed 32-128": [image(side, side) for side in (32, 64, 128, 96) * 4],
    "packed 224-384": [image(*size) for size in ((224, 224), (384, 256), (256, 384), (320, 320))],
}
for line in sys.stdin:
    x = inputs[line.strip()]
    with torch.inference_mode():
        start = time.perf_counter()
        output = model(x)
        seconds = time.perf_counter() - start
    first = output[0] if isinstance(output, list) else output
    print(json.dumps([seconds, float(first.summary.double().sum())]), flush=True)
"""


def main() -> None:
    """Print one row for each input: milliseconds of both, and the median ratio of neighboring calls."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder.resolve()), str(args.threads), args.dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for folder in (args.before, args.after)
    ]
    print(f"{args.dtype}, {args.threads} thread(s)\n\n| input | before, ms | after, ms | after / before |")
    print("|---|---|---|---|")
    for name, rounds in ROUNDS.items():
        warm = [ask(worker, name) for worker in workers]
        if warm[0][1] != warm[1][1]:
            sys.exit(f"{name}: the two checkouts give different summaries")
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                times[which].append(ask(workers[which], name)[0])
        ratio = statistics.median(after / before for before, after in zip(*times, strict=True))
        print(
            f"| {name} px | {1e3 * min(times[0]):.1f} | {1e3 * min(times[1]):.1f} | {ratio:.3f} |", flush=True
        )
    for worker in workers:
        worker.terminate()


def ask(worker: subprocess.Popen[str], name: str) -> tuple[float, float]:
    """Run one input once: seconds, and the sum of the summary."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{name}\n")
    worker.stdin.flush()
    return tuple(json.loads(worker.stdout.readline()))


if __name__ == "__main__":
    main()
