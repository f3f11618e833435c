"""Teachers whose features a model is compared with: saved ones, and vision transformers of timm."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from radio.data.tensor_files import load_tensors
from radio.download import check_hub
from radio.files import open_regular
from radio.images import resize_image

Grid = tuple[int, int]
"""Patches down and across."""

Teacher = Callable[[Tensor, Grid], Tensor]
"""Pixels (3, H, W) in [0, 1] and the student's grid to the teacher's features (C, h, w), of that grid or another."""

DINOV2_GIANT = "vit_giant_patch14_reg4_dinov2"
"""The DINOv2 teacher of the released models, by timm's name."""


class TimmTeacher:
    """A vision transformer of timm as a teacher.

    It sees every image at the size where its grid is the student's, so that nothing is resampled.

    Args:
        architecture: timm's name.
        weights: A local file of weights (safetensors, or torch without code); None to let timm download them.
        device: Where it runs.

    Raises:
        OSError: The weights cannot be read, or downloaded (then a `DownloadError`).
        ValueError: timm has no such model or no weights of it, or the weights are not a file of tensors, or are
            another model's.
    """

    def __init__(
        self,
        architecture: str = DINOV2_GIANT,
        weights: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        timm = import_module("timm")  # here, because importing it takes longer than loading a model

        if not timm.is_model(architecture):
            raise ValueError(f"timm has no model {architecture!r}; see timm.list_models('*dinov2*')")
        if weights is None:
            _check_hub(timm, architecture)
        overlay = None if weights is None else {"state_dict": _read_weights(weights)}
        try:
            self.model = timm.create_model(
                architecture,
                pretrained=True,
                pretrained_cfg_overlay=overlay,
                dynamic_img_size=True,
                num_classes=0,
            )
        except RuntimeError as error:
            if weights is None:
                raise
            raise ValueError(f"the weights in {weights} are not those of {architecture}: {error}") from error
        self.model.eval().requires_grad_(False).to(device)
        self.patch_size = int(self.model.patch_embed.patch_size[0])
        self.device = torch.device(device)
        self._mean = torch.tensor(self.model.pretrained_cfg["mean"], device=self.device)[:, None, None]
        self._std = torch.tensor(self.model.pretrained_cfg["std"], device=self.device)[:, None, None]

    @torch.no_grad()
    def __call__(self, pixels: Tensor, grid: Grid) -> Tensor:
        """Pixels (3, H, W) in [0, 1] to patch tokens after the final norm, (C, *grid)."""
        size = grid[0] * self.patch_size, grid[1] * self.patch_size
        resized = resize_image(pixels, size, self.patch_size).to(self.device)
        tokens = self.model.forward_features(((resized - self._mean) / self._std)[None])
        return tokens[0, self.model.num_prefix_tokens :].T.unflatten(1, grid)


def _check_hub(timm: ModuleType, architecture: str) -> None:
    published = timm.get_pretrained_cfg(architecture)
    if published is None or not published.has_weights:
        raise ValueError(
            f"nobody published weights of {architecture} for timm; give a file of them as weights"
        )
    repository = published.hf_hub_id
    message = (
        f"the weights of {architecture} are not in the cache and the Hub cannot be reached; download them from "
        f"https://huggingface.co/{repository} on a machine with a connection, and give that file as weights"
    )
    if repository:
        check_hub(repository, ["model.safetensors", "pytorch_model.bin"], message)


def saved_teacher(path: str | Path) -> dict[str, Tensor]:
    """A teacher's features from a file.

    Args:
        path: A safetensors file with one tensor (C, h, w) for each image, named as the image is.

    Returns:
        Features by image name.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a file.
    """
    features = load_tensors(path)
    for name, tensor in features.items():
        if tensor.ndim != 3:
            raise ValueError(f"{path}: expected features (C, h, w) for {name!r}, got {tuple(tensor.shape)}")
    return features


def _read_weights(path: str | Path) -> dict[str, Tensor]:
    if Path(path).suffix == ".safetensors":
        return load_tensors(path)
    open_regular(path).close()
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} is not a torch file of tensors") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} does not hold tensors by name")
    return weights
