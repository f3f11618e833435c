"""What makes no sense in a recipe, found before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from radio.modeling.adaptors import TAKEN_NAMES

if TYPE_CHECKING:
    from radio.training.recipe import Recipe, StageRecipe

_LONGEST_NAME = 100
_LARGEST_SEED = 2**62


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe that cannot work.

    Raises:
        ValueError: The message names the field, its value and what is allowed.
    """
    _check_teachers(recipe)
    _check_numbers(recipe)
    _check_stages(recipe)
    _check_choices(recipe)


def _check_teachers(recipe: Recipe) -> None:
    names = [teacher.name for teacher in recipe.teachers]
    if not names or not recipe.stages:
        raise ValueError("a recipe needs at least one teacher and one stage")
    if len(set(names)) < len(names):
        raise ValueError(f"teachers must have different names, got {', '.join(names)}")
    for number, teacher in enumerate(recipe.teachers):
        name = teacher.name
        fits = name.strip() and name.isprintable() and "." not in name and len(name) <= _LONGEST_NAME
        if not fits or name in TAKEN_NAMES:
            raise ValueError(
                f"teachers[{number}].name cannot be {name!r}: it becomes the name of an adaptor, without dots and not "
                "that of something else in a model"
            )
        _at_least(f"teachers[{number}].", teacher, summary_weight=0, feature_weight=0, shift=0)
        if teacher.mosaic and teacher.use_summary:
            raise ValueError(
                f"teacher {teacher.name!r}: a mosaic has one summary for many images; set use_summary = false"
            )
        if teacher.mosaic and teacher.shift:
            raise ValueError(f"teacher {teacher.name!r}: mosaic and shift cannot be used together")
        if teacher.kind == "cached" and (recipe.data.augmentation != "none" or teacher.shift):
            raise ValueError(
                f'teacher {teacher.name!r} is cached: set data.augmentation = "none" and shift = 0'
            )


def _check_numbers(recipe: Recipe) -> None:
    student, data, optimizer, evaluation = recipe.student, recipe.data, recipe.optimizer, recipe.evaluation
    _at_least("student.", student, width=1, depth=0, heads=1, patch_size=1, head_width=1)
    _above_zero("student.", student, "mlp_ratio")
    _at_least("student.", student, max_size=student.patch_size)
    if student.head_images == 1 or student.head_images < 0:
        raise ValueError(f"student.head_images must be 0 or at least 2, got {student.head_images}")
    if student.start == "scratch" and student.width % student.heads:
        raise ValueError(
            f"student.width must be a multiple of heads, got {student.width} and {student.heads}"
        )
    _at_least("data.", data, workers=0)
    if not 0 < data.crop_scale <= 1:
        raise ValueError(f"data.crop_scale must be above 0 and at most 1, got {data.crop_scale}")
    _above_zero("optimizer.", optimizer, "rate", "clip")
    _at_least("optimizer.", optimizer, weight_decay=0, warmup=0)
    if optimizer.trunk_rate is not None:
        _at_least("optimizer.", optimizer, trunk_rate=0)
    if optimizer.token_rate is not None:
        _at_least("optimizer.", optimizer, token_rate=0)
    _at_least("evaluation.", evaluation, every=0, size=0, k=1)
    if evaluation.every and evaluation.labeled is None:
        raise ValueError(
            "evaluation.every needs evaluation.labeled, a folder with a subfolder of images per class"
        )
    _at_least("", recipe, checkpoint_every=1, log_every=1)
    if recipe.divergence <= 1:
        raise ValueError(f"divergence must be above 1, got {recipe.divergence}")
    if abs(recipe.seed) > _LARGEST_SEED:
        raise ValueError(f"seed must be from -{_LARGEST_SEED} to {_LARGEST_SEED}, got {recipe.seed}")
    if not 0 <= recipe.loss.teacher_dropout < 1:
        raise ValueError(f"loss.teacher_dropout must be in [0, 1), got {recipe.loss.teacher_dropout}")


def _check_stages(recipe: Recipe) -> None:
    if recipe.stages[0].statistics_steps < 1:
        raise ValueError("the first stage needs statistics_steps of at least 1, to balance the teachers")
    names = [teacher.name for teacher in recipe.teachers]
    for number, stage in enumerate(recipe.stages):
        where = f"stages[{number}]"
        if stage.steps < 1:
            raise ValueError(f"{where}.steps must be at least 1, got {stage.steps}")
        _at_least(f"{where}.", stage, statistics_steps=0, freeze_steps=0)
        if stage.statistics_steps > stage.steps:
            raise ValueError(
                f"{where}.statistics_steps must be at most its {stage.steps} steps, got {stage.statistics_steps}"
            )
        if bool(stage.groups) == bool(stage.sizes and stage.batch_size):
            raise ValueError(f"{where} needs sizes and batch_size, or groups instead")
        for group in stage.parts:
            if not group.sizes or min(group.sizes) < recipe.student.patch_size or group.batch_size < 1:
                raise ValueError(f"{where}: sizes must be at least one patch and batches at least one image")
            if group.processes < 1:
                raise ValueError(f"{where}: a group needs at least one process, got {group.processes}")
            unknown = [name for name in group.teachers if name not in names]
            if unknown:
                raise ValueError(
                    f"{where}: unknown teacher {unknown[0]!r} in a group; teachers: {', '.join(names)}"
                )
        if recipe.student.start == "scratch":  # else the start says how large a patch is
            _check_patches(where, recipe, stage)
    for name in names:
        if not any(not group.teachers or name in group.teachers for group in recipe.stages[0].parts):
            raise ValueError(
                f"no group of the first stage runs the teacher {name!r}; add it to one, so that it is balanced, or "
                "take it out of the recipe (later stages may leave it out)"
            )


def _check_patches(where: str, recipe: Recipe, stage: StageRecipe) -> None:
    patch = recipe.student.patch_size
    sizes = [size for group in stage.parts for size in group.sizes]
    for size in sizes:
        if size % patch:
            raise ValueError(
                f"{where}: size {size} is no multiple of student.patch_size {patch}; nearest: "
                f"{round(size / patch) * patch}"
            )
    for window in stage.windows:
        if not 1 <= window <= max(sizes) // patch:
            raise ValueError(
                f"{where}.windows must be from 1 to {max(sizes) // patch}, the patches of the largest size, "
                f"got {window}"
            )
    shift = max(teacher.shift for teacher in recipe.teachers)
    if shift >= min(sizes) // patch:
        raise ValueError(
            f"a teacher's shift of {shift} leaves nothing in common on {min(sizes)} px of {where}; give at most "
            f"{min(sizes) // patch - 1}"
        )


def _check_choices(recipe: Recipe) -> None:
    if not recipe.output.strip():
        raise ValueError("output is empty; give the folder of the run")
    sources = [recipe.data.folder, recipe.data.webdataset, recipe.data.dataset]
    if "" in sources:
        raise ValueError("data.folder, webdataset and dataset must not be empty")
    if sum(source is not None for source in sources) != 1:
        raise ValueError("data needs one of folder, webdataset and dataset")
    choices = {
        "data.augmentation": (recipe.data.augmentation, ("crop", "none")),
        "loss.summary": (recipe.loss.summary, ("cosine", "angle")),
        "loss.features": (recipe.loss.features, ("mse", "cosine_smooth_l1")),
        "optimizer.name": (recipe.optimizer.name, ("adamw", "lamb")),
        "precision": (recipe.precision, ("float32", "bfloat16")),
        "parallel": (recipe.parallel, ("ddp", "fsdp2")),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"unknown {name} {value!r}; allowed: {', '.join(allowed)}")


def _at_least(where: str, part: Any, **least: float) -> None:
    for name, lowest in least.items():
        value = getattr(part, name)
        if value < lowest:
            raise ValueError(f"{where}{name} must be at least {lowest}, got {value}")


def _above_zero(where: str, part: Any, *names: str) -> None:
    for name in names:
        value = getattr(part, name)
        if value <= 0:
            raise ValueError(f"{where}{name} must be above 0, got {value}")
