"""`distill`: several teachers into one student.

Sources: AM-RADIO (arXiv 2312.06709), PHI-S (2410.01680), RADIOv2.5 (2412.07679), C-RADIOv4 (2601.17237).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from radio.data.labeled import ImageFolder
from radio.distributed import Processes, processes
from radio.errors import RadioError
from radio.files import Outputs
from radio.model import RADIOModel
from radio.optional import require
from radio.training.curves import Curves
from radio.training.data import Batch, Draw, batches, open_images
from radio.training.losses import AdaLoss, drop_teachers
from radio.training.objective import Objective, cut_out
from radio.training.parallel import (
    average_by_key,
    mean_over_processes,
    restore_state,
    spread,
    whole_state,
)
from radio.training.plan import Step, plan_steps
from radio.training.recipe import Recipe, read_recipe
from radio.training.saving import WRITTEN, export_student, fingerprint, read_checkpoint, write_checkpoint
from radio.training.schedules import chance, cosine_rate
from radio.training.student import build_student, standardize_heads
from radio.training.teachers import Teacher, build_teacher

logger = logging.getLogger(__name__)


class TrainingDivergedError(RadioError, ArithmeticError):
    """The loss is not a number, or has grown far beyond its best value."""


def distill(
    recipe: Recipe | str | Path | Mapping[str, Any],
    teachers: Mapping[str, Teacher] | None = None,
    stop_after: int | None = None,
    progress: bool = True,
) -> RADIOModel:
    """Train a student, or go on with a run that was stopped: bit for bit as if it had not been.

    It runs in one process, or in those that ``torchrun`` starts. The recipe's output folder gets ``curves.csv``,
    ``checkpoint.pt`` and, in ``model/``, the student in the released layout with its adaptors and a card.

    Args:
        recipe: A `Recipe`, the path of a TOML file, or a dict of the same form.
        teachers: Models to use instead of building those that the recipe names, by name.
        stop_after: Stop after so many steps in all, with a checkpoint, as if there was no more time.
        progress: Show a progress bar, if stderr is a terminal.

    Returns:
        The student as it is after the last step, in eval mode, its heads in balanced space. `load_model` of the folder
        gives it with heads in the teachers' own spaces.

    Raises:
        OSError, ValueError: The recipe or something that it names cannot be used; the message says which.
        ImageError: Too many images in a row cannot be read. (A few bad ones are passed over and counted.)
        TrainingDivergedError: The loss is not a number, or diverges. The last checkpoint stays.
        MissingExtraError: A package that a teacher needs is not installed.
    """
    recipe = read_recipe(recipe)
    with processes(recipe.device) as group:
        return Run(recipe, teachers or {}, group).train(stop_after, progress)


class Run:
    """A run in one process.

    Args:
        recipe: What to do.
        teachers: Models by name, instead of building them.
        group: All processes.
    """

    def __init__(self, recipe: Recipe, teachers: Mapping[str, Teacher], group: Processes) -> None:
        self.recipe, self.processes, self.device = recipe, group, group.device
        self.folder = Path(recipe.output)
        models = [each.model for each in recipe.teachers if each.kind != "cached"]
        Outputs([recipe.student.start, *models]).check(*(self.folder / name for name in WRITTEN))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.saved = read_checkpoint(self.folder, recipe, group.size)
        self.images = open_images(recipe.data)
        if recipe.evaluation.every and recipe.evaluation.labeled is not None:
            ImageFolder(recipe.evaluation.labeled)  # so that a wrong folder is found now and not after hours
        built = {
            each.name: teachers[each.name]
            if each.name in teachers
            else build_teacher(each.kind, each.model, device=self.device, **each.options)
            for each in recipe.teachers
        }
        self.objectives = [Objective(each, built[each.name], recipe.loss) for each in recipe.teachers]
        named = {each.name: (each, built[each.name]) for each in recipe.teachers}
        self.student = build_student(recipe.student, named, recipe.seed).to(self.device)
        if recipe.student.head_images and not self.saved:
            standardize_heads(self.student, self._first_images(recipe.student.head_images))
        if recipe.gradient_checkpointing:
            _checkpoint_blocks(self.student)
        partitioned = any(stage.groups for stage in recipe.stages)
        unused = partitioned or recipe.loss.teacher_dropout > 0
        self.model = spread(self.student, group, recipe.parallel, unused)
        self.optimizer = _optimizer(self.student, recipe)
        self.shift = max(each.shift for each in recipe.teachers)
        self.ada = AdaLoss()
        self.average, self.best, self.skipped = 0.0, math.inf, 0
        self.unlogged: dict[tuple[str, int, str], list[float]] = {}
        self.start = self._restore() if self.saved else 0

    def _first_images(self, count: int) -> Tensor:
        """The first images of the run, the same in every process, at the middle one of the first sizes."""
        sizes, patch = sorted(self.recipe.stages[0].parts[0].sizes), self.student.patch_size
        side = max(1, round(sizes[len(sizes) // 2] / patch)) * patch
        plan = [[Draw(number, side) for number in range(count)]]
        return next(batches(self.images, self.recipe.data, self.recipe.seed, plan)).pixels.to(self.device)

    def train(self, stop_after: int | None, progress: bool) -> RADIOModel:
        """Run the steps that are left. See `distill`."""
        recipe, first = self.recipe, self.processes.is_first
        steps = plan_steps(
            recipe,
            self.objectives,
            self.student.patch_size,
            self.shift,
            self.processes.rank,
            self.processes.size,
            self.start,
        )
        total = self.start + len(steps)
        steps = steps[: max(0, (stop_after or total) - self.start)]
        curves = Curves(self.folder, self.start, recipe.tensorboard, first)
        bar = tqdm(
            total=total, initial=self.start, desc="distill", disable=None if progress and first else True
        )
        reader = batches(self.images, recipe.data, recipe.seed, [step.draws for step in steps])
        clock, done, logged = time.perf_counter(), self.start, self.start
        for step, batch in zip(steps, reader, strict=True):
            for key, value in self._step(step, batch).items():
                self.unlogged.setdefault(key, []).append(float(value))
            done = step.number + 1
            bar.update()
            if done % recipe.log_every == 0 or done == total:
                now = time.perf_counter()
                images = self.processes.sum([len(batch.pixels)])[0] * (done - logged)
                means = {key: sum(found) / len(found) for key, found in self.unlogged.items()}
                numbers = average_by_key(means)
                self.unlogged = {}
                numbers["", 0, "images_per_second"] = images / (now - clock)
                numbers["", 0, "rate"] = self._rate()
                numbers["", 0, "skipped_images"] = self.processes.sum([self.skipped])[0]
                curves.add(done, step.stage, numbers)
                bar.set_postfix(loss=f"{self.average:.3f}")
                clock, logged = now, done
            every = recipe.evaluation.every
            if every and (done % every == 0 or done == total):
                curves.add(done, step.stage, self._evaluate(step))
                clock, logged = time.perf_counter(), done
            if done % recipe.checkpoint_every == 0 or done == total or step is steps[-1]:
                self._save(done)
        bar.close()
        curves.close()
        self.student.window_size = None
        return self.student.eval()

    def _step(self, step: Step, batch: Batch) -> dict[tuple[str, int, str], Tensor]:
        """Learn from one batch; this process's losses by teacher, resolution and kind."""
        recipe, stage = self.recipe, self.recipe.stages[step.stage]
        self.skipped += batch.skipped
        generator = torch.Generator().manual_seed(chance(recipe.seed, step.number).getrandbits(63))
        pixels = batch.pixels.to(self.device, non_blocking=True)
        chosen = drop_teachers(
            [each.name for each in self.objectives],
            recipe.loss.teacher_dropout,
            chance(recipe.seed, step.number, 3).getrandbits(63),
        )
        settling = step.within < stage.statistics_steps
        running = [
            each for each in self.objectives if step.weights[each.name] and (chosen[each.name] or settling)
        ]
        with self._autocast():
            targets = {
                each.name: each.target(pixels, batch.names, step.student_side, generator) for each in running
            }
        if settling:
            self._take_statistics(targets, step.within + 1, stage.statistics_steps)
        self._set_rates(step)
        patch = self.student.patch_size
        seen_pixels, seen = cut_out(pixels, step.student_side, patch, self.shift, generator)
        self.student.window_size = step.window
        # All chance follows from the step, so that a run that goes on draws what it would have drawn.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self._seed(chance(recipe.seed, step.number, 4, self.processes.rank).getrandbits(63))
            with self._autocast():
                outputs = self.model(seen_pixels, feature_fmt="NCHW")
            losses = {
                (each.name, kind): value
                for each in running
                for kind, value in each.loss(outputs[each.name], seen, targets[each.name]).items()
            }
            weighted = [
                value * self.objective(name).weight(kind) * step.weights[name] * chosen[name]
                for (name, kind), value in losses.items()
            ]
            values = self._shared({key: value.detach() for key, value in losses.items()}, step)
            if recipe.loss.ada_loss:
                ada = {key: self.ada.weight(".".join(key), value) for key, value in values.items() if value}
                weighted = [loss * ada.get(key, 1.0) for loss, key in zip(weighted, losses, strict=True)]
            self._watch(values, step, settling)
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(weighted).sum().backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), recipe.optimizer.clip)
        self.optimizer.step()
        return {(name, step.student_side, kind): value.detach() for (name, kind), value in losses.items()}

    def objective(self, name: str) -> Objective:
        """The teacher of that name."""
        return next(each for each in self.objectives if each.name == name)

    def _take_statistics(self, targets: Mapping[str, Any], seen: int, last: int) -> None:
        """Update statistics; the balance is made anew at every doubling, and for good after the last step."""
        for each in self.objectives:
            if each.name in targets:
                each.update(targets[each.name])
            if seen & (seen - 1) == 0 or seen == last:
                each.fit()

    def _set_rates(self, step: Step) -> None:
        stage, recipe = self.recipe.stages[step.stage], self.recipe.optimizer
        factor = cosine_rate(step.within, stage.steps, recipe.warmup)
        trunk = recipe.rate if recipe.trunk_rate is None else recipe.trunk_rate
        token = trunk if recipe.token_rate is None else recipe.token_rate
        peaks = {"heads": recipe.rate, "trunk": trunk, "tokens": token}
        for group in self.optimizer.param_groups:
            frozen = group["part"] != "heads" and step.within < stage.freeze_steps
            group["lr"] = 0.0 if frozen else peaks[group["part"]] * factor

    def _rate(self) -> float:
        """The learning rate of the heads."""
        return max(group["lr"] for group in self.optimizer.param_groups if group["part"] == "heads")

    def _shared(self, losses: Mapping[tuple[str, str], Tensor], step: Step) -> dict[tuple[str, str], float]:
        """The losses of all processes together, in every one."""
        names = [(each.name, "features") for each in self.objectives]
        names += [(each.name, "summary") for each in self.objectives if each.recipe.use_summary]
        zero = torch.zeros((), device=self.device)
        stacked = torch.stack([losses.get(key, zero).float() * step.weights[key[0]] for key in names])
        mean = mean_over_processes(stacked)
        return dict(zip(names, mean.tolist(), strict=True))

    def _watch(self, values: Mapping[tuple[str, str], float], step: Step, settling: bool) -> None:
        """Stop where the loss is not a number, or has grown far beyond its best."""
        for (name, kind), value in values.items():
            if not math.isfinite(value):
                raise TrainingDivergedError(
                    f"the {kind} loss of teacher {name!r} is {value} at step {step.number + 1} "
                    f"({step.student_side} px, learning rate {self._rate():.2g}); "
                    "lower optimizer.rate, add warmup, or check that teacher; the last checkpoint is kept"
                )
        total = sum(values.values())
        if settling or step.within == 0:
            self.average, self.best = total, math.inf
            return
        self.average = 0.95 * self.average + 0.05 * total
        self.best = min(self.best, self.average)
        if self.average > self.recipe.divergence * self.best:
            raise TrainingDivergedError(
                f"the loss diverges: its average at step {step.number + 1} is {self.average:.3g}, "
                f"{self.average / self.best:.1f} times its best value {self.best:.3g}; lower optimizer.rate, or raise "
                "divergence in the recipe; the last checkpoint is kept"
            )

    def _seed(self, seed: int) -> None:
        """Seed the generators in use; `torch.manual_seed` takes longer, for those of every kind of device."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _autocast(self) -> Any:
        if self.recipe.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _save(self, done: int) -> None:
        weights, state = whole_state(self.model, self.optimizer)
        counts = self.processes.sum([self.skipped])[0]
        own = {"objectives": [each.state_dict() for each in self.objectives], "unlogged": self.unlogged}
        everyone: list[Any] = [own]
        if self.processes.size > 1:
            everyone = [None] * self.processes.size
            torch.distributed.all_gather_object(everyone, own)
        if self.processes.is_first:
            content = {
                "fingerprint": fingerprint(self.recipe, self.processes.size),
                "step": done,
                "images": len(self.images),
                "weights": weights,
                "optimizer": state,
                "processes": everyone,
                "ada": self.ada.averages,
                "watch": {"average": self.average, "best": self.best, "skipped": counts},
            }
            write_checkpoint(self.folder, content)
            export_student(self.student, weights, self.objectives, self.recipe, done)
        self.processes.wait()

    def _restore(self) -> int:
        assert self.saved is not None
        saved, self.saved = self.saved, None
        restore_state(self.model, self.optimizer, saved["weights"], saved["optimizer"])
        own = saved["processes"][self.processes.rank]
        self.unlogged = own["unlogged"]
        for each, state in zip(self.objectives, own["objectives"], strict=True):
            each.load_state_dict(state)
        self.ada.averages = saved["ada"]
        if saved.get("images", len(self.images)) != len(self.images):
            logger.warning(
                "there were %d images when this run began, and there are %d now: it goes on, but in another order",
                saved["images"],
                len(self.images),
            )
        watch = saved["watch"]
        self.average, self.best = watch["average"], watch["best"]
        self.skipped = watch["skipped"] if self.processes.is_first else 0
        return int(saved["step"])

    @torch.no_grad()
    def _evaluate(self, step: Step) -> dict[tuple[str, int, str], float]:
        """Leave-one-out k-NN of the student's summary."""
        from radio.training.evaluation import knn_accuracy, summarize

        recipe = self.recipe.evaluation
        if recipe.labeled is None:
            return {}
        size = recipe.size or step.student_side
        self.student.eval()
        self.student.window_size = None
        accuracy = knn_accuracy(summarize(self.student, recipe.labeled, size), k=recipe.k)
        self.student.train()
        return {("", size, "knn"): accuracy}


def _optimizer(student: RADIOModel, recipe: Recipe) -> torch.optim.Optimizer:
    """Matrices decay; norms, biases, tokens and positions do not. Heads, trunk and tokens have rates of their own."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            is_token = name.endswith(".token")
            part = "heads" if name.startswith("adaptors.") else "tokens" if is_token else "trunk"
            decays = parameter.ndim > 1 and not is_token and not name.endswith(".pos_embed")
            groups.setdefault((part, decays), []).append(parameter)
    given = [
        {"params": group, "part": part, "weight_decay": recipe.optimizer.weight_decay if decays else 0.0}
        for (part, decays), group in groups.items()
    ]
    if recipe.optimizer.name == "lamb":
        return require("timm.optim", "training").Lamb(given, lr=recipe.optimizer.rate)
    return torch.optim.AdamW(given, lr=recipe.optimizer.rate, fused=True)


def _checkpoint_blocks(student: RADIOModel) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    blocks = student.backbone.blocks
    for number in range(len(blocks)):
        blocks[number] = checkpoint_wrapper(blocks[number])
