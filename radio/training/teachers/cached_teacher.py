"""A teacher whose features were computed once and lie on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from radio.files import atomic_write
from radio.training.teachers.protocol import Teacher, TeacherOutput


class CachedTeacher:
    """Features from a folder with one safetensors file for each image, named as the image is.

    ``radio features IMAGES -o FOLDER/ --feature-fmt NCHW --size crop:SxS`` writes such files, and `cache_features`
    for other teachers. Images must be shown as they were then: a recipe with cached teachers has
    ``augmentation = "none"``.

    Args:
        model: The folder.
        size: Side of the images, in pixels, for which they were made.
        summary: Whether to read the summary.
        device: Where features go.

    Raises:
        ValueError: There are no such files.
    """

    def __init__(
        self, model: str | Path, size: int, summary: bool = True, device: str | torch.device = "cpu"
    ) -> None:
        self.folder, self.size, self.fixed = Path(model), size, True
        self.device, self.summary = torch.device(device), summary
        first = next(iter(sorted(self.folder.glob("*.safetensors"))), None)
        if first is None:
            raise ValueError(f"{self.folder} has no .safetensors files; write them with 'radio features'")
        output = self([], [first.stem])
        self.feature_dim = output.features.shape[1]
        self.summary_dim = 0 if output.summary is None else output.summary.shape[1]
        self.stride = round(size / output.features.shape[2])

    def __call__(self, pixels: Tensor | Sequence[Tensor], names: Sequence[str] = ()) -> TeacherOutput:
        """See `Teacher`; only the names are used.

        Raises:
            ValueError: An image has no file, or its features are not a map.
        """
        features, summaries = [], []
        for name in names:
            path = self.folder / f"{Path(name).stem}.safetensors"
            if not path.is_file():
                raise ValueError(
                    f"{self.folder} has no features of {name!r}; write them with 'radio features'"
                )
            with safe_open(path, "pt") as file:
                features.append(file.get_tensor("features.0").float())
                if self.summary:
                    summaries.append(file.get_tensor("summary")[0].float())
            if features[-1].ndim != 3:
                raise ValueError(
                    f"{path} holds features {tuple(features[-1].shape)}; write them with --feature-fmt NCHW"
                )
        summary = torch.stack(summaries).to(self.device) if summaries else None
        return TeacherOutput(summary, torch.stack(features).to(self.device))


def cache_features(teacher: Teacher, images: Iterable[tuple[str, Tensor]], folder: str | Path) -> int:
    """Write a teacher's features once, in half precision, for `CachedTeacher`.

    Args:
        teacher: Any.
        images: Names and pixels (3, size, size) in [0, 1], as training will show them.
        folder: Made if it does not exist.

    Returns:
        How many were written.
    """
    count = 0
    for name, pixels in images:
        output = teacher(pixels[None], [name])
        tensors = {"features.0": output.features[0].half().contiguous().cpu()}
        if output.summary is not None:
            tensors["summary"] = output.summary.half().cpu()
        with atomic_write(Path(folder) / f"{Path(name).stem}.safetensors") as temporary:
            save_file(tensors, temporary)
        count += 1
    return count
