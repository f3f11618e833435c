"""What every process does at every step, worked out before a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from radio.training.data import Draw
from radio.training.objective import Objective
from radio.training.partition import Group, assign, teacher_weights
from radio.training.recipe import Recipe
from radio.training.schedules import draw_size, draw_window


@dataclass(frozen=True)
class Step:
    """One step of one process.

    Attributes:
        number: Of the step, from 0 over all stages.
        stage: Number of the stage.
        within: Number of the step in its stage.
        student_side: Side at which the student sees images, in pixels.
        window: Side of its ViTDet windows in patches, or None.
        draws: Which images, and at which side they are read.
        weights: Factor of every teacher's loss here; 0 for one that this process does not run.
    """

    number: int
    stage: int
    within: int
    student_side: int
    window: int | None
    draws: tuple[Draw, ...]
    weights: dict[str, float]


def plan_steps(
    recipe: Recipe,
    objectives: Sequence[Objective],
    patch_size: int,
    shift: int,
    rank: int,
    world_size: int,
    start: int = 0,
) -> list[Step]:
    """The steps of one process, from step `start` on.

    Images are numbered through over steps and groups, so that every image is read once an epoch whatever the number of
    processes, and a process's own are every n-th of its group's.

    Raises:
        ValueError: The processes or a batch cannot be shared out.
    """
    steps: list[Step] = []
    number = first = 0
    for index, stage in enumerate(recipe.stages):
        groups = [Group(tuple(g.sizes), g.batch_size, tuple(g.teachers), g.processes) for g in stage.parts]
        members = assign(groups, world_size)
        mine = members[rank]
        count = members.count(mine)
        place = members[:rank].count(mine)
        before = sum(group.batch_size for group in groups[:mine])
        group = groups[mine]
        weights = teacher_weights(groups, world_size, rank, [objective.name for objective in objectives])
        for within in range(stage.steps):
            if number >= start:
                size = draw_size(group.sizes, recipe.seed + mine, number)
                window, size = draw_window(
                    stage.windows, round(size / patch_size) * patch_size, patch_size, recipe.seed, number
                )
                running = [each for each in objectives if weights[each.name]]
                side = max([size + shift * patch_size, *(each.side(size) for each in running)])
                numbers = range(first + before + place, first + before + group.batch_size, count)
                draws = tuple(Draw(each, side) for each in numbers)
                steps.append(Step(number, index, within, size, window, draws, weights))
            number += 1
            first += sum(each.batch_size for each in groups)
    return steps
