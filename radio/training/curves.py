"""Curves: one CSV file, a row for each number, and TensorBoard's files where asked for."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from radio.files import atomic_write
from radio.optional import require

FIELDS = ("step", "stage", "teacher", "resolution", "measure", "value")


class Curves:
    """Writes numbers as a run goes on.

    Args:
        folder: Of the run.
        step: The step that the run goes on from; rows of later ones, from before it was stopped, are dropped.
        tensorboard: Whether to write TensorBoard's files too.
        active: False in processes that do not write.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool, active: bool) -> None:
        self.path = folder / "curves.csv"
        self.active = active
        self.board: Any = None
        if not active:
            return
        kept = [row for row in read_curves(self.path) if 0 <= _step(row) <= step] if step else []
        with atomic_write(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(kept)
        if tensorboard:
            require("tensorboard", "training")
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, stage: int, values: dict[tuple[str, int, str], float]) -> None:
        """Write numbers of a step: by teacher (or an empty name), resolution (or 0) and measure."""
        if not self.active:
            return
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file)
            for (teacher, resolution, measure), value in values.items():
                writer.writerow([step, stage, teacher, resolution or "", measure, f"{value:.6g}"])
        if self.board is not None:
            for (teacher, resolution, measure), value in values.items():
                parts = [part for part in (measure, teacher, str(resolution or "")) if part]
                self.board.add_scalar("/".join(parts), value, step)

    def close(self) -> None:
        """Let TensorBoard write what it holds."""
        if self.board is not None:
            self.board.close()


def read_curves(path: str | Path) -> list[dict[str, str]]:
    """The rows of a curves file; none if there is no such file."""
    if not Path(path).exists():
        return []
    with open(path, newline="", errors="replace") as file:
        return list(csv.DictReader(file))


def _step(row: dict[str, str]) -> int:
    """The step of a row; -1 for one that is cut off, as a kill or a full disk leaves it."""
    whole = bool(row.get("value")) and (row.get("step") or "").isdecimal()
    return int(row["step"]) if whole else -1
