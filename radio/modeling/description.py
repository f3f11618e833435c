"""What a model says of itself: its sizes, and which images it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from radio.config import RadioConfig
from radio.modeling.outputs import Resolution
from radio.modeling.placement import compute_device


class DescribedModel(nn.Module):
    """The properties of a model that follow from its description.

    Attributes:
        config: What shapes the model. It is read once; code that keeps a configuration of its own there may do so.
        window_size: Side of the ViTDet windows in patches, or None.
    """

    config: RadioConfig
    _config: RadioConfig
    window_size: int | None
    _summary_idxs: tuple[int, ...]

    @property
    def backbone(self) -> Any:
        """The backbone itself, whatever the layout: a `radio.modeling.protocol.BackboneProtocol`."""
        raise NotImplementedError

    def require(self, **asked: bool) -> None:
        """Make sure that the backbone can do what is asked for.

        Args:
            asked: For each `radio.modeling.protocol.Option` whether it is asked for.

        Raises:
            ValueError: It cannot; the message says why, and what to do instead.
        """
        for option, wanted in asked.items():
            if wanted and option in self.backbone.refuses:
                raise ValueError(self.backbone.refuses[option])

    def train(self, mode: bool = True) -> Self:
        """Switch training mode on or off.

        Raises:
            ValueError: The backbone is for inference only.
        """
        self.require(training=mode)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What ``to``, ``cuda``, ``half`` and the like do with every tensor; refused as a whole, or done as a whole."""
        if "moving" in self.backbone.refuses:
            self.require(moving=self._would_move(fn))
        return super()._apply(fn, recurse)

    def _would_move(self, fn: Callable[[Tensor], Tensor]) -> bool:
        """Whether a conversion changes the device or the dtype, tried on an empty tensor."""
        try:
            moved = fn(torch.empty(0, dtype=self.dtype, device=self.device))
        except (AssertionError, RuntimeError):  # the device is not here
            return True
        return (moved.device, moved.dtype) != (self.device, self.dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are; for weights that accelerate keeps elsewhere, where they are computed with."""
        return compute_device(self)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    @property
    def patch_size(self) -> int:
        """Side P of a patch, in pixels."""
        return self._config.patch_size

    @property
    def _patch_size(self) -> int:
        """`patch_size` under the name that some integrations read; the same for the three that follow."""
        return self.patch_size

    @property
    def _max_resolution(self) -> int:
        return self.max_resolution

    @property
    def _preferred_resolution(self) -> Resolution:
        return self.preferred_resolution

    @property
    def _window_size(self) -> int | None:
        return self.window_size

    @property
    def radio_model(self) -> DescribedModel:
        """This model, under the name that it has inside the classes of the Hub repositories' own code."""
        return self

    @property
    def embed_dim(self) -> int:
        """Width C of the spatial features."""
        return self._config.embed_dim

    @property
    def summary_dim(self) -> int:
        """Width of the summary."""
        return (
            self.embed_dim
            if self._config.summary_pool == "mean"
            else self.embed_dim * len(self._summary_idxs)
        )

    @property
    def summary_idxs(self) -> Tensor:
        """The class tokens that make the summary, (n) int64. Set it to numbers of class tokens to choose others, or to
        a boolean tensor with one value for each; None chooses all."""
        return torch.tensor(self._summary_idxs)

    @summary_idxs.setter
    def summary_idxs(self, numbers: Tensor | Sequence[int] | int | None) -> None:
        if isinstance(numbers, int):
            numbers = (numbers,)
        elif isinstance(numbers, Tensor):
            numbers = numbers.nonzero().flatten() if numbers.dtype == torch.bool else numbers.flatten()
        chosen = range(self.num_cls_tokens) if numbers is None else numbers
        idxs = tuple(int(number) for number in chosen)
        count = max(self.num_cls_tokens, 1)
        if not idxs or not all(0 <= number < count for number in idxs):
            raise ValueError(f"summary_idxs must number class tokens from 0 to {count - 1}, got {list(idxs)}")
        self._summary_idxs = idxs

    @property
    def num_summary_tokens(self) -> int:
        """Number T of prefix tokens (class tokens and registers) before the patches."""
        return self._config.num_prefix_tokens

    @property
    def num_cls_tokens(self) -> int:
        """Number of class tokens."""
        return self._config.num_cls_tokens

    @property
    def max_resolution(self) -> int:
        """Largest side of an image, in pixels, that the version was made for."""
        return self._config.max_resolution

    @property
    def preferred_resolution(self) -> Resolution:
        """The resolution at which the version works best."""
        return Resolution(*self._config.preferred_resolution)

    @property
    def min_resolution_step(self) -> int:
        """Height and width must be multiples of this: P, or P times the ViTDet window; 32 for E-RADIO."""
        return self._config.resolution_step * (self.window_size or 1)

    def get_nearest_supported_resolution(self, height: int, width: int) -> Resolution:
        """The closest height and width, in pixels, that the model accepts.

        Halfway between two, it is the even multiple of the step, as in the public code.
        """
        step = self.min_resolution_step
        return Resolution(*(max(round(float(side) / step), 1) * step for side in (height, width)))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Give PyTorch's `state_dict` what this module itself holds: ``summary_idxs``, as in the public code, where
        others were chosen than the config has."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._summary_idxs != self._config.summary_idxs:
            destination[f"{prefix}summary_idxs"] = torch.tensor(self._summary_idxs, device=self.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Take what PyTorch's `load_state_dict` found for this module.

        State dicts of the public code have ``summary_idxs`` among their tensors, which sets it here too.
        """
        chosen = state_dict.pop(f"{prefix}summary_idxs", None)
        if chosen is not None:
            self.summary_idxs = chosen
        super()._load_from_state_dict(state_dict, prefix, *others)

    def split_summary(self, summary: Tensor) -> dict[str, Tensor]:
        """The part of a backbone summary (B, n·C) that belongs to each of its n teachers, (B, C) each."""
        known = dict(zip(self._config.summary_idxs, self._config.summary_names or ("summary",), strict=True))
        names = [known.get(number, f"token {number}") for number in self._summary_idxs]
        return dict(zip(names, summary.chunk(len(names), dim=-1), strict=True))


def weights_digest(model: nn.Module) -> str:
    """A hash of all weights: names, shapes, dtypes and values."""
    return tensors_digest(model.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of tensors: names, shapes, dtypes and values."""
    result = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        result.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        result.update(flat.view(torch.uint8).numpy().data)
    return result.hexdigest()
