"""The teachers that a checkpoint's arguments list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radio.checkpoints.plain import short_name
from radio.errors import CheckpointError


def read_teachers(args: Mapping[str, Any], source: str | Path) -> list[dict[str, Any]]:
    """The teachers' entries, in order; none when the arguments do not list any.

    Raises:
        CheckpointError: The field is not a list of dicts with names.
    """
    teachers = args.get("teachers") or []
    if not isinstance(teachers, (list, tuple)) or not all(
        isinstance(teacher, Mapping) and isinstance(teacher.get("name"), str) for teacher in teachers
    ):
        raise CheckpointError(f"{source}: 'teachers' must be a list of dicts, each with a 'name'")
    for teacher in teachers:
        short_name(teacher["name"], "a teacher's name", str(source))
    return [dict(teacher) for teacher in teachers]
