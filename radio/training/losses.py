"""The losses of the three recipes: AM-RADIO (2312.06709), RADIOv2.5 (2412.07679), C-RADIOv4 (2601.17237).

Summaries are (B, D), feature maps (B, C, h, w). Everything is computed in float32.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Summary loss of AM-RADIO and RADIOv2.5: the mean of 1 - cos(s, t) over the images."""
    return (1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)).mean()


def angles(a: Tensor, b: Tensor) -> Tensor:
    """Angles in radians between vectors (..., D), exact and with finite gradients where they are small (Kahan 2006)."""
    a, b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
    tiny = torch.finfo(torch.float32).tiny
    apart = ((a - b).square().sum(dim=-1) + tiny).sqrt()
    together = ((a + b).square().sum(dim=-1) + tiny).sqrt()
    return 2 * torch.atan2(apart, together)


def angle_loss(student: Tensor, teacher: Tensor, dispersion: float) -> Tensor:
    """Summary loss of C-RADIOv4: the mean squared angle, in units of the teacher's own dispersion."""
    return angles(student, teacher).square().mean() / dispersion


class Dispersion:
    """How far a teacher's summaries spread: the mean squared angle to their mean direction (C-RADIOv4).

    Args:
        most: How many summaries are kept to measure it, the first that come.
    """

    def __init__(self, most: int = 8192) -> None:
        self.most = most
        self.value = 0.0
        self._seen: list[Tensor] = []

    def update(self, summaries: Tensor) -> None:
        """Take in a teacher's summaries (B, D)."""
        room = self.most - sum(map(len, self._seen))
        if room > 0:
            self._seen.append(summaries[:room].detach().float().cpu())

    def fit(self) -> float:
        """Measure it, over all processes where ``torch.distributed`` runs.

        Raises:
            ValueError: There are no summaries, or they all point the same way.
        """
        seen = torch.cat(self._seen) if self._seen else torch.empty(0, 0)
        if dist.is_available() and dist.is_initialized():
            parts: list[Tensor] = [seen] * dist.get_world_size()
            dist.all_gather_object(parts, seen)
            seen = torch.cat([part for part in parts if len(part)] or [seen])
        if not len(seen):
            raise ValueError("no summaries to measure the dispersion of")
        direction = F.normalize(seen, dim=-1).mean(dim=0)
        self.value = float(angles(seen, direction.expand_as(seen)).square().mean())
        if not self.value > 1e-12:
            raise ValueError("the teacher's summaries all point the same way")
        return self.value

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` needs."""
        seen = torch.cat(self._seen) if self._seen else torch.empty(0, 0)
        return {"value": torch.tensor(self.value, dtype=torch.float64), "seen": seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.value = float(state["value"])
        self._seen = [state["seen"]] if len(state["seen"]) else []


def feature_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Feature loss of RADIOv2.5: mean squared error, in the balanced space.

    Args:
        student, teacher: (B, C, h, w) on one grid; see `radio.training.grids.match_grids`.
        mask: (B, h, w) bool; positions that count, all if None.

    Returns:
        The mean over positions and channels; 0 when no position counts.
    """
    if mask is None:
        return F.mse_loss(student.float(), teacher.float())
    return _masked_mean((student.float() - teacher.float()).square().mean(dim=1), mask)


def cosine_smooth_l1(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Feature loss of AM-RADIO: 0.9 (1 - cos) + 0.1 smooth-L1, the mean over positions. Arguments as `feature_mse`."""
    student, teacher = student.float(), teacher.float()
    cosine = 1 - F.cosine_similarity(student, teacher, dim=1)
    distance = F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=1)
    return _masked_mean(0.9 * cosine + 0.1 * distance, mask)


def _masked_mean(errors: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return errors.mean()
    return torch.where(mask, errors, torch.zeros_like(errors)).sum() / mask.sum().clamp(min=1)


class AdaLoss:
    """Weights of losses by their size (Hu et al. 2019), which AM-RADIO tried: 1 / EMA(loss).

    Args:
        momentum: Of the moving average.
    """

    def __init__(self, momentum: float = 0.99) -> None:
        self.momentum = momentum
        self.averages: dict[str, float] = {}

    def weight(self, name: str, loss: float) -> float:
        """The weight of a loss of that name, after taking in its value. The value must be the same in all processes."""
        before = self.averages.get(name, loss)
        self.averages[name] = self.momentum * before + (1 - self.momentum) * loss
        return 1 / max(self.averages[name], 1e-12)


def drop_teachers(names: Sequence[str], probability: float, seed: int) -> dict[str, float]:
    """Teacher dropout (PHI-S, section 3): which teachers a step uses, and the factors of their losses.

    Each is dropped with that probability, and the loss of one that stays is divided by the chance to stay, so that the
    expected gradient is that of all. A draw that would drop all is made again.

    Returns:
        A factor for each teacher, 0 for one that is dropped.

    Raises:
        ValueError: A probability outside of [0, 1).
    """
    if not 0 <= probability < 1:
        raise ValueError(f"the probability to drop a teacher must be in [0, 1), got {probability}")
    if probability == 0:
        return dict.fromkeys(names, 1.0)
    draw = random.Random(seed)
    stays = (1 - probability) / (1 - probability ** len(names))
    while True:
        factors = {name: 0.0 if draw.random() < probability else 1 / stays for name in names}
        if any(factors.values()):
            return factors
