"""Steps of a student with cached teachers against a plain PyTorch loop; teacher passes; memory. Prints tables.

    python benchmarks/training.py                      # a ViT-S of 4 blocks at 224 px, two teachers
    python benchmarks/training.py --clock cpu          # on a machine that others use too
    python benchmarks/training.py --quick              # a tiny model, seconds
    python benchmarks/training.py --device cuda --depth 12 --batch 64 --precision bfloat16

Both loops run the same model, data, losses and optimizer, and take turns. Before anything is timed, one step of both
from the same weights is compared.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import (
    CLOCKS,
    forget_peak,
    in_fresh_process,
    interleaved,
    print_header,
    print_row,
    print_table,
    ratios,
    resident_bytes,
    spread,
)
from torch import Tensor, nn

from radio.distributed import Processes
from radio.training import read_recipe
from radio.training.data import Batch
from radio.training.distillation import Run
from radio.training.plan import Step
from radio.training.teachers import TeacherOutput

TEACHERS = {"dense": (384, 14), "classifier": (1280, 28)}
"""Two teachers, with the width and the stride of their features: those of the run in docs/training.md."""


class Remembered:
    """A teacher that gives the features of one batch, which it made once."""

    fixed = True

    def __init__(self, size: int, channels: int, stride: int, batch: int, device: str) -> None:
        generator = torch.Generator().manual_seed(channels)
        self.size, self.stride, self.summary_dim, self.feature_dim = size, stride, channels, channels
        side = size // self.stride
        self.output = TeacherOutput(
            torch.randn(batch, channels, generator=generator).to(device),
            torch.randn(batch, channels, side, side, generator=generator).to(device),
        )
        self.canvases = 0

    def __call__(self, pixels: Tensor, names: Sequence[str] = ()) -> TeacherOutput:
        self.canvases += len(pixels)
        return self.output


def make_run(args: argparse.Namespace, folder: Path, **changes: Any) -> tuple[Run, Step, Batch]:
    """A run, one of its steps, and a batch for it."""
    from PIL import Image

    Image.new("RGB", (args.side, args.side)).save(folder / "one.png")
    fields: dict[str, Any] = {
        "output": str(folder / "run"),
        "device": args.device,
        "precision": args.precision,
        "student": {
            "width": args.width,
            "depth": args.depth,
            "heads": args.width // 64,
            "patch_size": 14,
            "max_size": 518,
            "head_width": 512,
        },
        "teachers": [{"name": name, "kind": "remembered", "model": name} for name in TEACHERS],
        "data": {"folder": str(folder)},
        "stages": [{"steps": 1000, "batch_size": args.batch, "sizes": [args.side], "statistics_steps": 1}],
    }
    teachers = {
        name: Remembered(args.side, *shape, args.batch, args.device) for name, shape in TEACHERS.items()
    }
    run = Run(read_recipe(fields | changes), teachers, Processes(0, 1, torch.device(args.device)))
    for objective in run.objectives:
        target = objective.target(
            torch.zeros(args.batch, 3, args.side, args.side), [], args.side, torch.Generator()
        )
        objective.update(target)
        objective.fit()
    step = Step(5, 0, 5, args.side, None, (), dict.fromkeys(TEACHERS, 1.0))
    pixels = torch.rand(args.batch, 3, args.side, args.side, generator=torch.Generator().manual_seed(0))
    return run, step, Batch(pixels, [], 0)


class PlainLoop:
    """The same step, written out, with no statistics or schedules; targets are standardized before or in every step."""

    def __init__(self, run: Run, batch: Batch, args: argparse.Namespace, every_step: bool) -> None:
        self.student = copy.deepcopy(run.student)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-3, weight_decay=0.02)
        self.pixels, self.args = batch.pixels, args
        self.run = run
        self.goals = None if every_step else self.standardized()

    def standardized(self) -> dict[str, tuple[Tensor | None, Tensor]]:
        """Every teacher's summary and balanced features."""
        goals = {}
        for each in self.run.objectives:
            output = each.teacher(self.pixels)
            features = output.features.movedim(1, -1)
            balanced = each.standardization.standardize(features, torch.float32).movedim(-1, 1)
            goals[each.name] = (output.summary, balanced)
        return goals

    def __call__(self) -> float:
        """One step; its loss."""
        device, bfloat16 = torch.device(self.args.device), self.args.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            outputs = self.student(self.pixels.to(device), feature_fmt="NCHW")
        losses = []
        for name, (summary, features) in (self.goals or self.standardized()).items():
            ours = F.interpolate(outputs[name].features.float(), features.shape[2:], mode="bilinear")
            losses.append(F.mse_loss(ours, features))
            losses.append((1 - F.cosine_similarity(outputs[name].summary.float(), summary)).mean())
        loss = torch.stack(losses).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def overhead(args: argparse.Namespace) -> None:
    """Our step against the plain one."""
    with tempfile.TemporaryDirectory() as folder:
        run, step, batch = make_run(args, Path(folder))
        plain = PlainLoop(run, batch, args, every_step=False)
        standardizing = PlainLoop(run, batch, args, every_step=True)
        run.student.eval()  # no random positions, so that both can be compared
        plain.student.eval()
        ours = float(sum(run._step(step, batch).values()))
        theirs = plain()
        if abs(ours - theirs) > 1e-3 * abs(theirs):
            raise SystemExit(f"the two loops differ: a loss of {ours} against {theirs}")
        run.student.train()
        plain.student.train()
        standardizing.student.train()
        calls = {
            "radio": lambda: run._step(step, batch),
            "plain": plain,
            "plain, standardizing targets in every step": standardizing,
        }
        seconds = interleaved(calls, args.rounds, CLOCKS[args.clock])
    print_table("Steps with cached teachers", ["loop", "images/s", "time / plain loop"])
    for name, values in seconds.items():
        rate = spread([args.batch / value for value in values])
        print_row([name, str(rate), str(ratios(values, seconds["plain"]))])


def passes(args: argparse.Namespace) -> None:
    """How often a teacher of one fixed canvas runs, with mosaics and without."""
    print_table("Teacher passes for 32 images", ["view, px", "canvas, px", "k", "without", "with mosaic"])
    for canvas, stride, view in ((1024, 16, 432), (1024, 16, 256), (504, 14, 224), (504, 14, 112)):
        from radio.training import Mosaic

        mosaic = Mosaic(canvas, stride)
        canvases, _ = mosaic.compose(torch.zeros(32, 1, view // stride * stride, view // stride * stride))
        k = mosaic.tiles(view // stride * stride, view // stride * stride)[0]
        print_row([str(view), str(canvas), str(k), "32", str(len(canvases))])


def memory(args: argparse.Namespace) -> None:
    """Peak memory of three steps, with gradient checkpointing and without, each in a process of its own."""
    print_table("Memory of a step", ["gradient checkpointing", "peak, MB", "CPU s / step"])
    shape = [
        f"--{name}={getattr(args, name)}"
        for name in ("width", "depth", "side", "batch", "device", "precision")
    ]
    for name in ("no", "yes"):
        found = in_fresh_process("training.py", "--memory-of", name, "--threads", str(args.threads), *shape)
        print_row([name, f"{found['bytes'] / 1e6:.0f}", f"{found['seconds']:.2f}"])


def memory_of(args: argparse.Namespace) -> None:
    """Measure one of them, and print JSON."""
    with tempfile.TemporaryDirectory() as folder:
        run, step, batch = make_run(args, Path(folder), gradient_checkpointing=args.memory_of == "yes")
        cuda = args.device.startswith("cuda")
        forget_peak()
        before = 0 if cuda else resident_bytes("VmRSS")
        start = CLOCKS["cpu"]()
        for _ in range(3):
            run._step(step, batch)
        seconds = (CLOCKS["cpu"]() - start) / 3
        peak = torch.cuda.max_memory_allocated() if cuda else resident_bytes("VmHWM")
    print(json.dumps({"bytes": peak - before, "seconds": seconds}))


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--memory-of", choices=("no", "yes"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.width, args.depth, args.side, args.batch, args.rounds = 64, 2, 56, 2, 2
    if args.memory_of:
        memory_of(args)
        return
    print_header()
    overhead(args)
    passes(args)
    memory(args)


if __name__ == "__main__":
    main()
