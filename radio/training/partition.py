"""Partitioned processes: groups with their own image sizes, batch and teachers (RADIOv2.5, section 3.1).

No step then runs every teacher in every process. Gradients are averaged over all processes, and every teacher's loss
is weighted so that its expected gradient does not depend on the partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from radio.wording import counted


@dataclass(frozen=True)
class Group:
    """Processes that do the same.

    Attributes:
        sizes: Student image sizes to draw from, in pixels.
        batch_size: Images a step, in all of the group's processes together.
        teachers: Names of the teachers that it runs; all if empty.
        processes: How many processes, as a share of those of the other groups.
    """

    sizes: tuple[int, ...]
    batch_size: int
    teachers: tuple[str, ...] = ()
    processes: int = 1


def assign(groups: Sequence[Group], world_size: int) -> list[int]:
    """The number of the group of every process.

    Raises:
        ValueError: The processes cannot be shared out, or a group's batch cannot be among its processes.
    """
    shares = sum(group.processes for group in groups)
    if world_size % shares:
        raise ValueError(
            f"{counted(world_size, 'process', 'processes')} cannot be shared out as "
            f"{' : '.join(str(g.processes) for g in groups)}; start a multiple of {shares}"
        )
    found: list[int] = []
    for number, group in enumerate(groups):
        count = group.processes * world_size // shares
        if group.batch_size % count:
            raise ValueError(f"a batch of {group.batch_size} cannot be shared among {count} processes")
        found += [number] * count
    return found


def teacher_weights(
    groups: Sequence[Group], world_size: int, rank: int, teachers: Sequence[str]
) -> dict[str, float]:
    """The factor of every teacher's mean loss in this process, before gradients are averaged over all processes.

    With it, the averaged gradient is that of the mean loss over all images that any process showed the teacher.

    Returns:
        0 for a teacher that this process does not run.

    Raises:
        ValueError: A group names a teacher that is not there.
    """
    unknown = sorted({name for group in groups for name in group.teachers} - set(teachers))
    if unknown:
        raise ValueError(f"a group names the teacher {unknown[0]!r}; the teachers are {', '.join(teachers)}")
    members = assign(groups, world_size)
    local = [groups[number].batch_size // members.count(number) for number in members]
    weights = {}
    for name in teachers:
        runs = [not groups[number].teachers or name in groups[number].teachers for number in members]
        total = sum(images for images, run in zip(local, runs, strict=True) if run)
        weights[name] = world_size * local[rank] / total if runs[rank] else 0.0
    return weights
