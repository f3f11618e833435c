"""Frozen dataclasses as plain dicts that JSON can hold, and back, strictly."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Dataclass = TypeVar("Dataclass")


def to_plain(value: Any, where: str = "") -> Any:
    """A dataclass as dicts, lists, strings, numbers, booleans and None; nothing is shared with the original.

    Raises:
        TypeError: A value is none of these; the message names its field.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name), _inside(where, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"the keys of {where} must be texts")
        return {key: to_plain(item, _inside(where, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def from_plain(cls: type[Dataclass], content: Any, where: str = "") -> Dataclass:
    """The dataclass that `to_plain` made a dict of. Fields that have a default may be left out.

    Raises:
        ValueError: A field is unknown or missing, or its value is not of its type; the message names it.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{where or cls.__name__} must be a dict, got {_brief(content)}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    unknown = [key for key in content if key not in known]
    if unknown:
        raise ValueError(f"{where or cls.__name__} has no field {_brief(unknown[0])}")
    kinds = get_type_hints(cls)
    values = {}
    for name, f in known.items():
        if name in content:
            values[name] = _typed(kinds[name], content[name], _inside(where, name))
        elif f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"the field {_inside(where, name)} is missing")
    return cls(**values)


def _typed(kind: Any, value: Any, where: str) -> Any:
    """A plain value as the annotation of its field says."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _typed_union(arguments, value, where)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ValueError(f"{where} must be one of {', '.join(arguments)}, got {_brief(value)}")
        return value
    if origin is tuple:
        return _typed_tuple(arguments, value, where)
    if origin is not None:  # Mapping[str, Any]
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be a dict, got {_brief(value)}")
        try:
            return to_plain(value, where)
        except TypeError as error:
            raise ValueError(str(error)) from error
    if is_dataclass(kind):
        return from_plain(kind, value, where)  # type: ignore[arg-type]
    if type(value) is not kind:
        raise ValueError(f"{where} must be of type {kind.__name__}, got {_brief(value)}")
    return value


def _typed_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds[:-1]:
        try:
            return _typed(kind, value, where)
        except ValueError:
            continue
    return _typed(kinds[-1], value, where)


def _typed_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} must be a list, got {_brief(value)}")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{where} must have {len(kinds)} values, got {len(value)}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_typed(kind, item, f"{where}[{i}]") for i, (kind, item) in pairs)


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _brief(value: Any) -> str:
    """A value as a short text, however large or deep it is."""
    if isinstance(value, (str, float, bool)) or value is None:
        text = repr(value if not isinstance(value, str) else value[:80])
    elif isinstance(value, int) and value.bit_length() <= 128:
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    return text
