"""What a probe is, in one frozen description: its head, the features that it is for, and how it was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from radio.files import open_regular
from radio.images import SizeSpec
from radio.model import RADIOModel
from radio.modeling.description import weights_digest

Task = Literal["linear", "knn", "segmentation", "depth"]
TASKS: tuple[Task, ...] = get_args(Task)
DENSE: tuple[Task, ...] = ("segmentation", "depth")
"""Those that work on spatial features; the others work on summaries."""

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "probe.safetensors"

_CHOICES = ("vitdet_window_size", "eradio_window_size", "neck_name")
_LARGEST_CONFIG = 16 * 2**20


@dataclass(frozen=True)
class ProbeConfig:
    """A probe without its numbers, as ``config.json`` has it.

    Attributes:
        task: ``linear`` or ``knn`` (classification by summary), ``segmentation`` or ``depth`` (by spatial features).
        channels: Length of the vectors that the head takes.
        classes: Names of the classes; none for depth.
        adaptor: Whose features these are; the backbone's own if None.
        size: The size at which images are run, as in `radio.images.target_size`.
        model: The model whose features these are: version, architecture, dtype, vitdet_window_size,
            eradio_window_size, neck_name, and weights (a hash of the backbone's).
        source: Where that model was loaded from.
        head: Other arguments of the head.
        training: How it was trained, for those who read it.
    """

    task: Task
    channels: int
    classes: tuple[str, ...] = ()
    adaptor: str | None = None
    size: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    head: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"radio_probe": FORMAT, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> tuple[ProbeConfig, str]:
        """A config from its file, and the hash of the weights that belong to it.

        Raises:
            OSError: There is no such file, or it cannot be read.
            ValueError: It is no config of a probe, or of a later version of this library.
        """
        if not path.exists():
            raise FileNotFoundError(
                f"there is no {path}; give a folder that 'radio probe train' or Probe.save wrote"
            )
        with open_regular(path) as file:
            content = file.read(_LARGEST_CONFIG + 1)
        try:
            values = json.loads(content) if len(content) <= _LARGEST_CONFIG else None
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if not isinstance(values, dict) or "radio_probe" not in values:
            raise ValueError(
                f"{path} does not describe a probe; give a folder that 'radio probe train' wrote"
            )
        if values["radio_probe"] != FORMAT:
            raise ValueError(
                f"{path} is of format {values['radio_probe']}; this version reads format {FORMAT}"
            )
        return cls._from_values(values, path), str(values.get("weights", ""))

    @classmethod
    def _from_values(cls, values: Mapping[str, Any], path: Path) -> ProbeConfig:
        missing = {"task", "channels"} - values.keys()
        if missing:
            raise ValueError(f"{path} has no {', '.join(sorted(missing))}")
        given = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        classes, channels = given.get("classes", ()), given["channels"]
        if given["task"] not in TASKS:
            raise ValueError(f"{path} has the task {given['task']!r}; there are {', '.join(TASKS)}")
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"{path}: channels must be a number above zero, got {channels!r}")
        if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"{path}: classes must be a list of names")
        for name in ("model", "head", "training"):
            if not isinstance(given.get(name, {}), dict):
                raise ValueError(f"{path}: {name} must be an object")
        return cls(**{**given, "classes": tuple(classes)})


def describe_backbone(model: RADIOModel) -> dict[str, Any]:
    """The facts of a model that its features depend on."""
    return {
        "version": model.config.version,
        "architecture": model.config.architecture,
        "dtype": str(model.dtype).removeprefix("torch."),
        **_choices(model),
        "weights": weights_digest(model.backbone),
        **({} if model.runtime == "pytorch" else {"runtime": model.runtime}),
    }


def refuse_crop(size: SizeSpec) -> None:
    """Refuse a size that cuts pixels off, where each gets an answer.

    Raises:
        ValueError: It does.
    """
    if isinstance(size, str) and size.strip().startswith("crop:"):
        raise ValueError(
            "every pixel gets an answer, so nothing is cropped; give a size such as 512 or 512x512"
        )


def load_options(config: ProbeConfig) -> dict[str, Any]:
    """The arguments of `radio.load_model` that give the model of a probe; its dtype is among them."""
    known = config.model
    return {
        "adaptors": [config.adaptor] if config.adaptor else [],
        "dtype": known.get("dtype", "auto"),
        **{name: known.get(name) for name in _CHOICES},
    }


def _choices(model: RADIOModel) -> dict[str, Any]:
    """What was chosen about a model when it was loaded."""
    config = model.config
    return {
        "vitdet_window_size": model.window_size,
        "eradio_window_size": config.eradio.window_size if config.eradio else None,
        "neck_name": config.radio1d.neck_name if config.radio1d else None,
    }


def check_backbone(config: ProbeConfig, model: RADIOModel) -> None:
    """Refuse a model whose features are others than those that a probe was trained on.

    Of a model in another dtype or runtime than the probe was trained with, the weights cannot be compared; all else is.

    Raises:
        ValueError: It is another model, was loaded without the adaptor, or has other windows.
    """
    known = config.model
    if config.adaptor is not None and config.adaptor not in dict(model.adaptors or {}):
        raise ValueError(
            f"the probe is for features of the adaptor {config.adaptor!r}; load the model with "
            f"adaptors=[{config.adaptor!r}]"
        )
    asked = {"version": model.config.version, "architecture": model.config.architecture, **_choices(model)}
    for name, now in asked.items():
        if known.get(name) != now:
            raise ValueError(f"the probe was trained on a model with {name} {known.get(name)!r}, not {now!r}")
    comparable = known.get("dtype") == str(model.dtype).removeprefix("torch.")
    comparable = comparable and known.get("runtime", "pytorch") == model.runtime
    if comparable and known.get("weights") != weights_digest(model.backbone):
        raise ValueError(
            "the probe was trained on features of a model with other weights; train it anew on these"
        )
