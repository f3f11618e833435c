"""Balancing teachers: standardize their features, train in that space, and fold the way back into the head.

PHI-S and the alternatives that it was compared with (arXiv 2410.01680, section 2). Each is an affine map
``y' = A (y - m)`` with the inverse ``y = B y' + m``.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from radio.training.hadamard_matrix import hadamard, has_hadamard
from radio.training.statistics import RunningStatistics

Kind = Literal["phi-s", "none", "scalar", "channel", "pca", "zca"]

_SMALLEST = 1e-10
"""Directions with less than this share of the largest variance count as having none."""


class Standardization:
    """An affine map of teacher features, from their mean and covariance.

    Args:
        kind: The way to balance (arXiv 2410.01680, section 2):

            - ``"phi-s"``: rotate to principal directions, spread them evenly over channels, divide by one scalar
            - ``"none"``: leave features as they are
            - ``"scalar"``: subtract the mean and divide by one scalar, the root of the mean variance
            - ``"channel"``: subtract the mean and divide every channel by its standard deviation
            - ``"pca"``, ``"zca"``: whiten; in principal directions, or rotated back to the channels
        channels: C; taken from the first update if None.

    Attributes:
        statistics: What was seen so far.
        scale: φ, the root of the mean variance over channels; 0.0 before `fit`.

    Raises:
        ValueError: There is no such kind.
    """

    def __init__(self, kind: Kind = "phi-s", channels: int | None = None) -> None:
        if kind not in _MAPS:
            raise ValueError(f"unknown standardization {kind!r}; allowed: {', '.join(_MAPS)}")
        self.kind = kind
        self.statistics = RunningStatistics(channels)
        self.scale = 0.0
        self._mean = self._forward = self._backward = torch.empty(0, dtype=torch.float64)
        self._placed: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` was called."""
        return self._mean.numel() > 0

    def update(self, features: Tensor, mask: Tensor | None = None) -> None:
        """Take teacher features into the statistics, before `fit`; any number of times.

        Args:
            features: (..., C), channels last, of any floating dtype; statistics are float64.
            mask: (...) bool, true at valid positions. Others may hold anything.

        Raises:
            ValueError: Shapes do not fit, or valid features are not finite.
        """
        self.statistics.update(features, mask)

    def fit(self, group: dist.ProcessGroup | None = None) -> Standardization:
        """Make the map from the statistics, over all processes where ``torch.distributed`` runs.

        All processes must call it then; every one gets the same map. It may be called again after more updates.

        Args:
            group: The processes that take part; all if None.

        Returns:
            Itself.

        Raises:
            ValueError: Fewer than two vectors were seen, or they are all the same.
        """
        statistics = self.statistics.over_processes(group)
        if statistics.count < 2:
            raise ValueError(
                f"{statistics.count} feature vectors are too few for statistics; update with more"
            )
        covariance = statistics.covariance
        scale = float(covariance.diagonal().mean().sqrt())
        if not scale > 0:
            raise ValueError("the teacher's features do not vary: all of the vectors seen are the same")
        forward, backward = _MAPS[self.kind](covariance.cpu(), scale)
        mean = torch.zeros_like(statistics.mean) if self.kind == "none" else statistics.mean
        maps = [mean.cpu(), forward, backward]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1:
            # Eigenvectors are free in their signs, and processors in their rounding: all take the first one's.
            dist.broadcast_object_list(maps, group=group, group_src=0)
        self.scale = scale
        self._mean, self._forward, self._backward = maps
        self._placed = {}
        return self

    def standardize(self, y: Tensor, compute_dtype: torch.dtype | None = None) -> Tensor:
        """Teacher features to the balanced space.

        Args:
            y: (..., C), channels last.
            compute_dtype: What the rotation is computed in; float64 on a CPU and at least float32 elsewhere if None.
                Training takes float32, which is much faster.

        Returns:
            (..., C) in the dtype of y.

        Raises:
            RuntimeError: `fit` was not called.
            ValueError: The number of channels differs.
        """
        mean, forward, _ = self._maps(y, compute_dtype)
        return ((y.to(mean.dtype) - mean) @ forward.T).to(y.dtype)

    def restore(self, y: Tensor) -> Tensor:
        """From the balanced space back to the teacher's own: the inverse of `standardize`.

        Raises:
            RuntimeError: `fit` was not called.
            ValueError: The number of channels differs.
        """
        mean, _, backward = self._maps(y, None)
        return (y.to(mean.dtype) @ backward.T + mean).to(y.dtype)

    @torch.no_grad()
    def fold_into(self, linear: nn.Linear) -> nn.Linear:
        """A linear layer that gives the teacher's own features, from one that was trained on balanced ones.

        Args:
            linear: The last layer of a feature head, with C outputs, with or without a bias.

        Returns:
            A new layer with a bias, of the same device and dtype; its outputs are `restore` of the given one's.

        Raises:
            RuntimeError: `fit` was not called.
            ValueError: The number of outputs is not C.
        """
        self._check(linear.out_features)
        mean, backward = self._mean, self._backward
        weight = linear.weight.detach().cpu().double()
        bias = torch.zeros(len(mean), dtype=torch.float64)
        if linear.bias is not None:
            bias = linear.bias.detach().cpu().double()
        folded = nn.Linear(
            linear.in_features, linear.out_features, device=linear.weight.device, dtype=linear.weight.dtype
        )
        folded.weight.copy_(backward @ weight)
        folded.bias.copy_(backward @ bias + mean)
        return folded.requires_grad_(linear.weight.requires_grad)

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` needs: the statistics, and the map once there is one."""
        return {
            **self.statistics.state_dict(),
            "scale": torch.tensor(self.scale, dtype=torch.float64),
            "map_mean": self._mean,
            "map_forward": self._forward,
            "map_backward": self._backward,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.statistics.load_state_dict(state)
        self.scale = float(state["scale"])
        self._mean, self._forward, self._backward = (
            state[name] for name in ("map_mean", "map_forward", "map_backward")
        )
        self._placed = {}

    def _check(self, channels: int) -> None:
        if not self.is_fitted:
            raise RuntimeError("not fitted yet: call update(features), then fit()")
        if channels != len(self._mean):
            raise ValueError(f"expected {len(self._mean)} channels, got {channels}")

    def _maps(self, y: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:
        self._check(y.shape[-1])
        device, wide = y.device, y.device.type == "cpu" or y.dtype == torch.float64
        dtype = dtype or (torch.float64 if wide else torch.float32)
        if (device, dtype) not in self._placed:
            maps = (self._mean, self._forward, self._backward)
            self._placed[device, dtype] = tuple(each.to(device, dtype) for each in maps)  # type: ignore[assignment]
        return self._placed[device, dtype]


class PHIStandardization(Standardization):
    """PHI-S: PCA, Hadamard, isotropic standardization (arXiv 2410.01680, section 2.4).

    ``y' = H Uᵀ (y - μ) / φ`` with the principal directions U, a Hadamard matrix H and φ² the mean variance. A rotation
    and one scalar, so that distances keep their proportions, and every channel of y' has variance 1.

    For a number of channels without a known Hadamard matrix, the discrete Hartley matrix takes its place, whose
    entries are nearly of one magnitude, turned a little so that every channel still has variance 1; a warning says so.

    Args:
        channels: C; taken from the first update if None.
    """

    def __init__(self, channels: int | None = None) -> None:
        super().__init__("phi-s", channels)

    def fit(self, group: dist.ProcessGroup | None = None) -> PHIStandardization:
        """As `Standardization.fit`."""
        super().fit(group)
        return self


def _eigen(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Variances in the principal directions, none negative, and the directions as columns."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    return values.clamp(min=0), vectors


def _phi_s(covariance: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    variances, directions = _eigen(covariance)
    n = len(variances)
    if has_hadamard(n):
        spread = hadamard(n, torch.float64)
    else:
        warnings.warn(
            f"no Hadamard matrix of order {n} is known; PHI-S uses the discrete Hartley matrix of that order instead, "
            "rotated so that every channel has the same variance",
            stacklevel=4,
        )
        spread = _equalize(_hartley(n), variances)
    rotation = spread @ directions.T
    return rotation / scale, rotation.T * scale


def _none(covariance: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    same = torch.eye(len(covariance), dtype=torch.float64)
    return same, same


def _scalar(covariance: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    same = torch.eye(len(covariance), dtype=torch.float64)
    return same / scale, same * scale


def _channel(covariance: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    inverse, root = _roots(covariance.diagonal())
    return inverse.diag(), root.diag()


def _pca(covariance: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    variances, directions = _eigen(covariance)
    inverse, root = _roots(variances)
    return inverse[:, None] * directions.T, directions * root


def _zca(covariance: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    variances, directions = _eigen(covariance)
    inverse, root = _roots(variances)
    return directions * inverse @ directions.T, directions * root @ directions.T


def _roots(variances: Tensor) -> tuple[Tensor, Tensor]:
    """1/σ and σ; both zero for a direction in which nothing varies, which has nothing to learn."""
    root = torch.where(variances > _SMALLEST * variances.max(), variances, torch.zeros_like(variances)).sqrt()
    return torch.where(root > 0, 1 / root, torch.zeros_like(root)), root


def _hartley(n: int) -> Tensor:
    """The orthonormal discrete Hartley matrix: cos + sin of 2πij/n (Bracewell 1983)."""
    i = torch.arange(n, dtype=torch.float64)
    angle = 2 * torch.pi * (torch.outer(i, i) % n) / n
    return (angle.cos() + angle.sin()) / n**0.5


def _equalize(rotation: Tensor, variances: Tensor) -> Tensor:
    """Turn pairs of rows until every row has the mean variance (the constructive proof of Schur and Horn's theorem)."""
    rotation = rotation.clone()
    goal = variances.mean()
    held = (rotation.square() * variances).sum(dim=1)
    for _ in range(len(variances) - 1):
        high, low = int(held.argmax()), int(held.argmin())
        if held[high] - goal <= 1e-15 * goal or goal - held[low] <= 1e-15 * goal:
            break
        p, q = rotation[high].clone(), rotation[low].clone()
        shared = (p * q * variances).sum()
        # tan of the angle at which the upper row has the mean variance: a root of a t² + 2 b t + c.
        a, b, c = held[low] - goal, shared, held[high] - goal
        tangent = (-b + (b * b - a * c).sqrt()) / a
        cosine = (1 + tangent * tangent).rsqrt()
        sine = tangent * cosine
        rotation[high], rotation[low] = cosine * p + sine * q, cosine * q - sine * p
        held[low], held[high] = held[high] + held[low] - goal, goal
    return rotation


_MAPS = {"phi-s": _phi_s, "none": _none, "scalar": _scalar, "channel": _channel, "pca": _pca, "zca": _zca}
