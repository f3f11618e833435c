"""What describes the model: found in a ``config.json`` of a repository or of a larger model, or in a torch file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from radio.checkpoints.guard import listing
from radio.errors import CheckpointError

Kind = Literal["own", "repository", "transformers"]

_OWN = frozenset({"architecture", "layout", "embed_dim", "grid_size"})
_OF_PREPROCESSOR = ("norm_mean", "norm_std")
"""What larger models say beside the description of their tower."""

_DEEPEST = 4


@dataclass(frozen=True)
class Description:
    """A dict that describes a model.

    Attributes:
        kind: ``"own"`` (`RadioConfig.to_dict`), ``"repository"`` (has ``args``, as in Hub repositories), or
            ``"transformers"`` (the fields of transformers' ``RadioConfig``).
        fields: The dict.
        nested: Whether it describes a part of a larger model.
    """

    kind: Kind
    fields: Mapping[str, Any]
    nested: bool = False


def find_description(content: Mapping[str, Any], source: str) -> Description | None:
    """The one description of a RADIO model in plain fields: they are it, or it lies somewhere inside.

    Raises:
        CheckpointError: There are several.
    """
    kind = _kind(content)
    if kind is not None:
        return Description(kind, content)
    found = dict(_inside(content, "", _DEEPEST))
    if len(found) > 1:
        raise CheckpointError(
            f"{source} describes several RADIO models, in {listing(map(repr, found), 6)}; write a config.json with the "
            "fields of the one that you want"
        )
    for fields in found.values():
        kind = _kind(fields)
        if kind is not None:
            dtype = fields.get("dtype") or content.get("dtype") or content.get("torch_dtype")
            around = {name: content[name] for name in _OF_PREPROCESSOR if name in content}
            return Description(kind, {**around, **fields, "dtype": dtype}, nested=True)
        return Description("repository", {"args": fields})
    return None


def _kind(fields: Mapping[str, Any]) -> Kind | None:
    if is_own(fields):
        return "own"
    if isinstance(fields.get("args"), Mapping):
        return "repository"
    return "transformers" if fields.get("model_type") == "radio" else None


def _inside(fields: Mapping[str, Any], where: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The descriptions inside, each with its place. Nothing is looked for inside a description."""
    for name, value in fields.items():
        if not isinstance(value, Mapping) or not depth:
            continue
        place = f"{where}.{name}" if where else name
        args = value.get("args")
        whole = isinstance(args, Mapping) and isinstance(args.get("model"), str)
        if whole or _kind(value) in ("own", "transformers") or is_arguments(value):
            yield place, value
        else:
            yield from _inside(value, place, depth - 1)


def is_arguments(fields: Mapping[str, Any]) -> bool:
    """Whether these are the training arguments of a RADIO model, rather than those of some other program."""
    return isinstance(fields.get("model"), str) and not {"teachers", "cpe_max_size"}.isdisjoint(fields)


def is_own(fields: Any) -> bool:
    """Whether these are the fields of `RadioConfig.to_dict`."""
    return isinstance(fields, Mapping) and _OWN.issubset(fields)
