"""Mean and covariance of teacher features: in float64, over valid positions, merged over batches and processes.

Merging: Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

State = dict[str, Tensor]


class RunningStatistics:
    """Mean and covariance of everything that was seen so far.

    Attributes:
        count: Number of vectors seen.
        mean: (C,) float64.
        scatter: (C, C) float64: the sum of (y - mean)(y - mean)ᵀ.

    Args:
        channels: C; taken from the first update if None.
    """

    def __init__(self, channels: int | None = None) -> None:
        self.count = 0
        self.mean = torch.zeros(channels or 0, dtype=torch.float64)
        self.scatter = torch.zeros(channels or 0, channels or 0, dtype=torch.float64)

    @property
    def channels(self) -> int:
        """C, or 0 while it is not known."""
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """(C, C) float64, of the population: divided by the number of vectors.

        Raises:
            ValueError: Nothing was seen.
        """
        if not self.count:
            raise ValueError("no statistics yet: update them with features first")
        return self.scatter / self.count

    @torch.no_grad()
    def update(self, features: Tensor, mask: Tensor | None = None) -> None:
        """Take in vectors.

        Args:
            features: (..., C) of any floating dtype, on any device.
            mask: (...) bool, true where a vector is valid; all are if None. Vectors of padding may hold anything.

        Raises:
            ValueError: Shapes do not fit, or a valid vector is not finite.
        """
        vectors = _valid(features, mask)
        if self.channels and features.shape[-1] != self.channels:
            raise ValueError(f"expected features of {self.channels} channels, got {features.shape[-1]}")
        if not vectors.isfinite().all():
            raise ValueError("the features hold NaN or infinity; mask the positions that are not valid")
        if not len(vectors):
            return
        vectors = vectors.to(
            device=self.mean.device if self.count else vectors.device, dtype=_widest(vectors)
        )
        mean = vectors.mean(dim=0)
        centered = vectors - mean
        batch = RunningStatistics()
        batch.count, batch.mean, batch.scatter = len(vectors), mean, centered.T @ centered
        self.merge(batch)

    def merge(self, other: RunningStatistics) -> None:
        """Take in all that another one has seen (Chan et al. 1979).

        Raises:
            ValueError: They differ in channels.
        """
        if not other.count:
            return
        if not self.count:
            if self.channels and self.channels != other.channels:
                raise ValueError(f"expected statistics of {self.channels} channels, got {other.channels}")
            self.count, self.mean, self.scatter = other.count, other.mean.clone(), other.scatter.clone()
            return
        if self.channels != other.channels:
            raise ValueError(f"expected statistics of {self.channels} channels, got {other.channels}")
        total = self.count + other.count
        apart = other.mean.to(self.mean) - self.mean
        self.mean = self.mean + apart * (other.count / total)
        shift = torch.outer(apart, apart) * (self.count * other.count / total)
        self.scatter = self.scatter + other.scatter.to(self.scatter) + shift
        self.count = total

    def over_processes(self, group: dist.ProcessGroup | None = None) -> RunningStatistics:
        """The statistics of all processes together, the same in every one; this one is not changed.

        Without ``torch.distributed``, a copy of these. All processes of the group must call it.

        Args:
            group: Those that take part; all if None.
        """
        merged = RunningStatistics()
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
            merged.merge(self)
            return merged
        gathered: list[State] = [{}] * dist.get_world_size(group)
        dist.all_gather_object(
            gathered, {name: value.cpu() for name, value in self.state_dict().items()}, group
        )
        for state in gathered:
            part = RunningStatistics()
            part.load_state_dict(state)
            merged.merge(part)
        merged.mean, merged.scatter = merged.mean.to(self.mean.device), merged.scatter.to(self.mean.device)
        return merged

    def state_dict(self) -> State:
        """What `load_state_dict` needs."""
        return {"count": torch.tensor(self.count), "mean": self.mean, "scatter": self.scatter}

    def load_state_dict(self, state: State) -> None:
        """Go on from what another one has seen."""
        self.count, self.mean, self.scatter = int(state["count"]), state["mean"], state["scatter"]


def _valid(features: Tensor, mask: Tensor | None) -> Tensor:
    """The valid vectors (N, C)."""
    if features.ndim < 1 or not features.is_floating_point():
        raise ValueError(
            f"expected floating-point features (..., C), got {features.dtype} {tuple(features.shape)}"
        )
    flat = features.detach().reshape(-1, features.shape[-1])
    if mask is None:
        return flat
    if mask.shape != features.shape[:-1]:
        raise ValueError(
            f"the mask must be {tuple(features.shape[:-1])}, one value for each vector of the features "
            f"{tuple(features.shape)}; got {tuple(mask.shape)}"
        )
    return flat[mask.to(flat.device).reshape(-1).bool()]


def _widest(tensor: Tensor) -> torch.dtype:
    """float64, or float32 on an accelerator that has nothing wider."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
