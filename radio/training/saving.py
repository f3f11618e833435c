"""A run's checkpoint, and the model that comes out of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from radio.errors import CheckpointError
from radio.files import atomic_write, open_regular
from radio.images.opening import reason
from radio.model import RADIOModel
from radio.training.objective import Objective
from radio.training.recipe import Recipe
from radio.training.spectral import fold, reparametrize
from radio.wording import counted

CHECKPOINT = "checkpoint.pt"
WRITTEN = ("model/config.json", "model/model.safetensors", "model/README.md", CHECKPOINT, "curves.csv")
"""What a run writes into its folder."""


def fingerprint(recipe: Recipe, world_size: int) -> str:
    """What must be the same for a run to go on bit for bit."""
    fields = dataclasses.asdict(recipe)
    for name in ("output", "checkpoint_every", "log_every", "tensorboard", "device"):
        del fields[name]
    fields["processes"] = world_size
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def write_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Write a run's state, whole or not at all.

    Raises:
        OSError: It cannot be written; the last one stays.
    """
    try:
        with atomic_write(folder / CHECKPOINT) as temporary, open(temporary, "wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        raise OSError(
            f"cannot write {folder / CHECKPOINT}: {os.strerror(cause.errno)}; mend that and run the same command "
            "again: it goes on from the last checkpoint"
        ) from error


def read_checkpoint(folder: Path, recipe: Recipe, world_size: int) -> dict[str, Any] | None:
    """A run's state, or None if there is none. Nothing in the file is run.

    Raises:
        CheckpointError: It cannot be read.
        ValueError: It is of another recipe, or of another number of processes.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with open_regular(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError("it is no checkpoint of a run")
    except Exception as error:  # a damaged file can fail in any way
        why = reason(error).partition(". ")[0]
        raise CheckpointError(f"{path} is damaged; delete it to start again ({why})") from error
    if content.get("fingerprint") != fingerprint(recipe, world_size):
        raise ValueError(
            f"{path} is of a run with another recipe or number of processes; give another output folder, or delete it"
        )
    return content


@torch.no_grad()
def export_student(
    student: RADIOModel, state: dict[str, Any], objectives: Sequence[Objective], recipe: Recipe, step: int
) -> None:
    """Write the student as a folder that `load_model` opens, each feature head in its teacher's own space.

    Args:
        student: Its structure.
        state: Its weights, whole and on the CPU.
        objectives: With the balance to fold into the heads.
        recipe: Of the run; the folder is ``output/model``.
        step: After how many steps, for the card.
    """
    model = RADIOModel(student.config, [each.name for each in objectives])
    if recipe.student.spectral:
        reparametrize(model.backbone.blocks)
    model.load_state_dict(state)
    fold(model.eval().backbone.blocks)
    for objective in objectives:
        if objective.standardization.is_fitted:
            final = model.adaptors[objective.name].feat_mlp.final
            assert isinstance(final, nn.Sequential)
            last = final[2]
            assert isinstance(last, nn.Linear)
            folded = objective.standardization.fold_into(last)
            last.weight.copy_(folded.weight)
            last.bias.copy_(folded.bias)
    folder = Path(recipe.output) / "model"
    model.save_pretrained(folder)
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(_card(model, objectives, recipe, step), encoding="utf-8")


def _card(model: RADIOModel, objectives: Sequence[Objective], recipe: Recipe, step: int) -> str:
    config = model.config
    rows = [
        f"| {each.name} | {each.recipe.kind}: `{each.recipe.model}` | {each.recipe.license} | "
        f"{'yes' if each.recipe.use_summary else 'no'} | {each.teacher.feature_dim} | {each.recipe.standardization} |"
        for each in objectives
    ]
    sizes = sorted({s for stage in recipe.stages for g in stage.parts for s in g.sizes})
    planned = sum(stage.steps for stage in recipe.stages)
    source = recipe.data.folder or recipe.data.webdataset or recipe.data.dataset
    return "\n".join(
        [
            "---",
            "library_name: radio",
            "tags: [radio, distillation, feature-extraction]",
            "---",
            f"# {config.architecture}",
            "",
            f"A student of {counted(len(objectives), 'teacher')}, trained with `radio train` after the recipe of "
            f"RADIOv2.5 (arXiv 2412.07679): width {config.embed_dim}, {counted(config.depth, 'block')}, patch "
            f"{config.patch_size} px, started from {recipe.student.start}.",
            "",
            "The weights follow from those of the teachers and from the images; mind the licenses of all of them.",
            "",
            "| adaptor | teacher | license | summary | feature width | balanced by |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"- Images: `{source}`, license: {recipe.data.license}",
            f"- Steps: {step} of {planned}; student at {', '.join(map(str, sizes))} px",
            "",
        ]
    )
