"""Under which prefix of the tensors' names a RADIO model lies.

Training tools and larger models put their own names before those of the model: ``module.``, ``_orig_mod.``,
``student.model.``, ``vision_model.radio_model.``. They are taken off only where what remains is a whole RADIO model
and the only one; the module that is filled afterwards takes exactly its own tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from radio.checkpoints.guard import brief, listing
from radio.errors import CheckpointError

logger = logging.getLogger(__name__)

_MARKS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
"""What torch.compile, FSDP, activation checkpointing and DeepSpeed put in, anywhere in a name."""

_WRAPPERS = frozenset({"module", "model", "student", "backbone", "base_model", "radio", "radio_model"}) | {
    *("net", "network", "encoder", "image_encoder", "vit"),
    *("vision_model", "vision_tower", "vision_encoder", "visual"),
}
"""Names that people and tools give a model inside a larger module. They come before other names, such as those of
averaged copies."""

_TEACHERS = frozenset({"target", "target_encoder", "momentum_encoder"})

_BACKBONES = ("base_model", "model")
"""The backbone's name inside a model: in released torch files, and here."""

_ANCHORS = ("patch_generator.pos_embed", "inner.patch_generator.pos_embed")
"""Only RADIO has these inside its backbone."""

_COMMON_ANCHORS = ("patch_embed.proj.weight", "patch_embed.conv_down.0.conv.weight")
"""Other models have these too, so an input conditioner must be beside the backbone."""

_NATIVE_ANCHOR = "embeddings.cls_register_token"
"""A tensor of transformers' ``RadioModel``, which has no name for its backbone."""

_CONDITIONER = "input_conditioner.norm_mean"


def take_model(stored: Mapping[str, Tensor], source: str | Path, anywhere: bool = False) -> dict[str, Tensor]:
    """The tensors of the one RADIO model among those stored, without what was put before their names.

    Args:
        stored: Tensors under the names in the file.
        source: The file, for messages.
        anywhere: Whether it may lie under any prefix, because the file describes it as a part of a larger model.

    Returns:
        The model's tensors; all of them as they are if no prefix has to be taken off.

    Raises:
        CheckpointError: It is not clear which tensors are the model's.
    """
    tensors = _without_marks(stored, source)
    _refuse_adapters(tensors, source)
    roots = find_roots(tensors, anywhere)
    if len(roots) > 1:
        raise CheckpointError(
            f"{source} holds several RADIO models, under {listing(map(repr, sorted(roots)), 6)}; save the one that you "
            "want in a file of its own"
        )
    if not roots:
        _explain(tensors, source)
        return tensors
    [(root, (backbone, plain))] = roots.items()
    found = {name: value for name, value in tensors.items() if name.startswith(root)}
    if len(found) < len(tensors):
        logger.log(
            logging.INFO if anywhere else logging.WARNING,
            "%s: took the %d tensors under %r; the other %d are not the model's",
            source,
            len(found),
            root,
            len(tensors) - len(found),
        )
    names = {n: plain + n.removeprefix(backbone) if n.startswith(backbone) else n for n in found}
    return _renamed(names, found, root, source)


def find_roots(names: Iterable[str], anywhere: bool = False) -> dict[str, tuple[str, str]]:
    """The prefixes under which whole RADIO models lie, each with that of its backbone, as stored and without wrappers.

    Args:
        names: All names.
        anywhere: Whether all models count. Otherwise one that lies under no prefix is the only one; then come those
            under names of wrappers; then those under any other names, but for teachers, which are not what was trained.
    """
    names = set(names)
    roots: dict[str, tuple[str, str]] = {}
    for name in names:
        found = _root_of(name, names)
        if found is not None:
            roots[found[0]] = found[1:]
    if "" in roots:
        return {"": roots[""]}
    if anywhere:
        return roots
    wrapped = {root: found for root, found in roots.items() if _WRAPPERS.issuperset(_parts(root))}
    return wrapped or {
        root: found for root, found in roots.items() if not any(is_teacher(part) for part in _parts(root))
    }


def is_teacher(name: str) -> bool:
    """Whether a part of a name says that a model is a teacher of the one that was trained."""
    return "teacher" in name.lower() or name in _TEACHERS


def _parts(root: str) -> list[str]:
    return root.removesuffix(".").split(".")


def _root_of(name: str, names: set[str]) -> tuple[str, str, str] | None:
    """The prefixes of a model and of its backbone, if this is the tensor that gives one away."""
    if name == _NATIVE_ANCHOR or name.endswith(f".{_NATIVE_ANCHOR}"):
        root = name.removesuffix(_NATIVE_ANCHOR)
        return root, root, root
    for anchor in (*_ANCHORS, *_COMMON_ANCHORS):
        if not name.endswith(f".{anchor}"):
            continue
        backbone = name.removesuffix(anchor)
        parts = backbone.split(".")[:-1]
        while len(parts) > 1 and parts[-1] == "module":
            parts.pop()
        root = "".join(f"{part}." for part in parts[:-1])
        if parts[-1] in _BACKBONES and (anchor in _ANCHORS or root + _CONDITIONER in names):
            return root, backbone, f"{root}{parts[-1]}."
    return None


def _without_marks(stored: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    plain = {name: ".".join(part for part in name.split(".") if part not in _MARKS) for name in stored}
    return _renamed(plain, stored, "", source)


def _renamed(
    names: Mapping[str, str], tensors: Mapping[str, Tensor], root: str, source: str | Path
) -> dict[str, Tensor]:
    """The tensors under their new names, without the root before these."""
    renamed: dict[str, Tensor] = {}
    for old, new in names.items():
        new = new.removeprefix(root)
        if new in renamed:
            raise CheckpointError(
                f"{source}: {brief(old)} and another tensor are both {brief(new)} without the prefixes of wrappers"
            )
        renamed[new] = tensors[old]
    return renamed


def _refuse_adapters(names: Iterable[str], source: str | Path) -> None:
    """Refuse weights that are not merged with what was trained beside them.

    Raises:
        CheckpointError: They are not.
    """
    if any(".lora_A." in name or ".lora_B." in name for name in names):
        raise CheckpointError(
            f"{source} holds LoRA adapters beside the weights; merge them (with peft: model.merge_and_unload()) and "
            "save the state dict of the merged model"
        )


def _explain(names: Iterable[str], source: str | Path) -> None:
    """Say so if this is something that looks much like a model but is none.

    Raises:
        CheckpointError: It does.
    """
    names = set(names)
    others = find_roots(names, anywhere=True)
    if others:
        raise CheckpointError(
            f"{source} holds a RADIO model under {listing(map(repr, sorted(others)), 6)}, which does not say that it "
            "is the one to use; save its state dict in a file of its own"
        )
    refuse_vit_alone(names, source)


def refuse_vit_alone(names: Iterable[str], source: str | Path) -> None:
    """Refuse the state dict of a model's backbone.

    Raises:
        CheckpointError: It is one.
    """
    bare = sorted(
        name.removesuffix("patch_generator.pos_embed")
        for name in names
        if name.endswith("patch_generator.pos_embed")
    )
    if bare:
        raise CheckpointError(
            f"{source} holds the ViT alone ({brief(bare[0] + 'patch_generator.pos_embed')}), without the input "
            "conditioner and the rest of the model; save model.state_dict() of the whole model, or load the model that "
            "it was trained from and call model.model.load_state_dict(...)"
        )
