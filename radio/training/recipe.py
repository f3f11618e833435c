"""The recipe of a run: what a TOML file or a few lines of Python say."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from radio.files import open_regular
from radio.training.recipe_check import check_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Part = TypeVar("Part")


@dataclass(frozen=True)
class TeacherRecipe:
    """One teacher.

    Attributes:
        name: Of its adaptor in the student.
        kind: ``"timm"``, ``"open_clip"``, ``"sam"``, ``"radio"``, ``"onnx"`` or ``"cached"``.
        model: What the kind knows it by.
        license: Of its weights, for the student's card.
        options: Other arguments of the kind.
        use_summary: Whether its summary is taught; it then has a share of the student's summary.
        summary_weight, feature_weight: Factors of its losses.
        standardization: How its features are balanced; see `Standardization`.
        mosaic: Lay several student views on one canvas of the teacher's size. Only with ``use_summary = false``.
        shift: Largest random offset of its crop in strides, for shift equivariance; 0 for none.
    """

    name: str
    kind: str
    model: str
    license: str = "unknown"
    options: dict[str, Any] = field(default_factory=dict)
    use_summary: bool = True
    summary_weight: float = 1.0
    feature_weight: float = 1.0
    standardization: str = "phi-s"
    mosaic: bool = False
    shift: int = 0


@dataclass(frozen=True)
class StudentRecipe:
    """The student: this library's ViT with cropped position embeddings.

    Attributes:
        start: ``"scratch"``, ``"timm:NAME"``, or what `radio.load_model` takes. Given a start, its width, heads, patch
            size and grid are the student's, and the first `depth` of its blocks.
        weights: A local file for ``"timm:NAME"``.
        architecture: A name for the file.
        width, depth, heads, mlp_ratio: Of the ViT. A depth of 0 takes all blocks of the start.
        patch_size: In pixels.
        max_size: Side of the largest square image that the position grid has a place for each patch of, in pixels.
        head_width: Width inside the heads.
        head_images: Over so many first images the tokens that heads read are standardized before the first step; 0
            leaves them as they are. Heads on a trained start then learn several times faster.
        layer_scale: Scale each branch per channel.
        spectral: Reparametrize linear layers of the trunk by their largest singular value.
    """

    start: str = "scratch"
    weights: str | None = None
    architecture: str = "vit_student"
    width: int = 384
    depth: int = 0
    heads: int = 6
    mlp_ratio: float = 4.0
    patch_size: int = 16
    max_size: int = 512
    head_width: int = 768
    head_images: int = 0
    layer_scale: bool = True
    spectral: bool = False


@dataclass(frozen=True)
class GroupRecipe:
    """Processes with their own resolution, batch and teachers; see `radio.training.partition.Group`.

    The first stage has every teacher, to balance it. A later one may leave a teacher out.
    """

    sizes: list[int]
    batch_size: int
    teachers: list[str] = field(default_factory=list)
    processes: int = 1


@dataclass(frozen=True)
class StageRecipe:
    """One stage: the learning rate starts anew.

    Attributes:
        steps: How many.
        batch_size: Images a step, in all processes together.
        sizes: Student image sizes to draw from, in pixels.
        groups: Instead of these two, partitioned processes.
        windows: Sides of ViTDet windows to draw from, in patches; none if empty.
        statistics_steps: Over so many first steps the teachers' statistics are taken. Needed in the first stage.
        freeze_steps: For so many first steps only the heads learn.
    """

    steps: int
    batch_size: int = 0
    sizes: list[int] = field(default_factory=list)
    groups: list[GroupRecipe] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    statistics_steps: int = 0
    freeze_steps: int = 0

    @property
    def parts(self) -> list[GroupRecipe]:
        """The groups; one of all processes for a stage that is not partitioned."""
        return self.groups or [GroupRecipe(self.sizes, self.batch_size)]


@dataclass(frozen=True)
class DataRecipe:
    """Where images come from: one of the first three.

    Attributes:
        folder: Of images, searched recursively.
        webdataset: Tar files, as a pattern such as ``"shards/*.tar"``.
        dataset: A name for the ``datasets`` library, with a column ``image``; and its split.
        augmentation: ``"crop"`` for random crops and flips, ``"none"`` for the center square.
        crop_scale: Smallest share of an image's area that a random crop has.
        workers: Processes that read images; 0 reads in the training process.
        license: For the student's card.
    """

    folder: str | None = None
    webdataset: str | None = None
    dataset: str | None = None
    split: str = "train"
    augmentation: str = "crop"
    crop_scale: float = 0.3
    workers: int = 0
    license: str = "unknown"


@dataclass(frozen=True)
class LossRecipe:
    """The losses.

    Attributes:
        summary: ``"cosine"`` (AM-RADIO, RADIOv2.5) or ``"angle"`` (C-RADIOv4).
        features: ``"mse"`` (RADIOv2.5) or ``"cosine_smooth_l1"`` (AM-RADIO).
        ada_loss: Weight each loss by the inverse of its moving average.
        teacher_dropout: Probability to leave a teacher out of a step.
    """

    summary: str = "cosine"
    features: str = "mse"
    ada_loss: bool = False
    teacher_dropout: float = 0.0


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer.

    Attributes:
        name: ``"adamw"`` or ``"lamb"``.
        rate: Peak learning rate.
        trunk_rate: Of the trunk, if it differs.
        token_rate: Of the trunk's class tokens and registers, if it differs from the trunk's.
        weight_decay: Of matrices.
        warmup: Steps of a stage over which the rate rises.
        clip: Largest norm of the gradient.
    """

    name: str = "adamw"
    rate: float = 1e-3
    trunk_rate: float | None = None
    token_rate: float | None = None
    weight_decay: float = 0.02
    warmup: int = 0
    clip: float = 1.0


@dataclass(frozen=True)
class EvaluationRecipe:
    """Evaluation in the loop.

    Attributes:
        labeled: Folder with one subfolder of images per class, for leave-one-out k-NN.
        every: Steps between evaluations; 0 for none.
        size: Side of images, in pixels; the middle one of the stage's sizes if 0.
        k: Neighbors that vote.
    """

    labeled: str | None = None
    every: int = 0
    size: int = 0
    k: int = 5


@dataclass(frozen=True)
class Recipe:
    """A run.

    Attributes:
        output: Folder for the checkpoint, the curves and the model.
        teachers, student, data, stages, loss, optimizer, evaluation: The parts.
        seed: All chance follows from it and from the step.
        device: ``"auto"`` or a torch device.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast of the student and of teachers that PyTorch runs.
        parallel: ``"ddp"`` or ``"fsdp2"``, among the processes that torchrun starts.
        gradient_checkpointing: Compute activations of blocks again in the backward pass, to save memory.
        checkpoint_every, log_every: In steps.
        tensorboard: Write curves for TensorBoard too.
        divergence: Stop when the moving average of the loss is so many times its best value.
    """

    output: str
    teachers: list[TeacherRecipe]
    stages: list[StageRecipe]
    student: StudentRecipe = field(default_factory=StudentRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    parallel: str = "ddp"
    gradient_checkpointing: bool = False
    checkpoint_every: int = 100
    log_every: int = 10
    tensorboard: bool = False
    divergence: float = 10.0

    def __post_init__(self) -> None:
        check_recipe(self)


def read_recipe(source: Recipe | str | Path | Mapping[str, Any]) -> Recipe:
    """A recipe from a TOML file, from a dict, or as it is.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not TOML, or a field is unknown, missing, of another type or makes no sense; the message
            names it and what is allowed.
    """
    if isinstance(source, Recipe):
        return source
    if isinstance(source, Mapping):
        return _build(Recipe, source, "")
    try:
        with open_regular(source) as file:
            content = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not a TOML file: {error}") from error
    return _build(Recipe, content, "")


def _build(kind: type[Part], content: Any, where: str) -> Part:
    """A dataclass from a table, strictly."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{where.rstrip('.')} must be a table, got {content!r}")
    hints = get_type_hints(kind)
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in content:
        if name not in fields:
            raise ValueError(
                f"unknown field {where + name!r}; allowed: {', '.join(where + f for f in fields)}"
            )
    for name, each in fields.items():
        required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if required and name not in content:
            raise ValueError(f"the recipe lacks {where + name!r}")
    return kind(**{name: _value(hints[name], value, where + name) for name, value in content.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where + ".")
    origin = get_origin(hint)
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, got {value!r}")
        [inner] = get_args(hint)
        return [_value(inner, item, f"{where}[{number}]") for number, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be a table, got {value!r}")
        return dict(value)
    allowed = get_args(hint) if origin in (UnionType, Union) else (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number, got {value}")
    if type(value) not in allowed and not (value is None and type(None) in allowed):
        names = " or ".join(each.__name__ for each in allowed if each is not type(None))
        raise ValueError(f"{where} must be of type {names}, got {value!r}")
    return value
