"""Train your own RADIO: multi-teacher distillation, after the papers. Needs the ``training`` extra.

>>> from radio.training import distill
>>> distill("recipe.toml")

Every part also works by itself: Hadamard matrices, PHI-S, mosaics, losses, schedules, teachers, evaluation.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "hadamard": "hadamard_matrix",
    "RunningStatistics": "statistics",
    "Standardization": "standardization",
    "PHIStandardization": "standardization",
    "Mosaic": "mosaic",
    "Recipe": "recipe",
    "read_recipe": "recipe",
    "distill": "distillation",
    "TrainingDivergedError": "distillation",
}

__all__ = [
    "Mosaic",
    "PHIStandardization",
    "Recipe",
    "RunningStatistics",
    "Standardization",
    "TrainingDivergedError",
    "distill",
    "hadamard",
    "read_recipe",
]

if TYPE_CHECKING:
    from radio.training.distillation import TrainingDivergedError, distill
    from radio.training.hadamard_matrix import hadamard
    from radio.training.mosaic import Mosaic
    from radio.training.recipe import Recipe, read_recipe
    from radio.training.standardization import PHIStandardization, Standardization
    from radio.training.statistics import RunningStatistics


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'radio.training' has no attribute {name!r}")
    return getattr(import_module(f"radio.training.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
