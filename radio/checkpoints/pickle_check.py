"""The pickle of a torch file, walked opcode by opcode before anything in it is built.

``torch.load(weights_only=True)`` keeps code from running, but not a small file from asking for gigabytes, or for
tensors over memory that nobody wrote. So every call that the pickle wants is compared here with a short list of calls
and of the arguments that ``torch.save`` gives them. The walk builds nothing and takes time in proportion to the pickle.
"""

from __future__ import annotations

import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from radio.checkpoints.guard import brief, short_reason
from radio.errors import CheckpointError

LONGEST_PICKLE = 16 * 2**20
_MOST_OPCODES = 1_000_000
_MOST_DIMENSIONS = 16
_MOST_PATH_PARTS, _LONGEST_PATH = 128, 4096
_LONGEST_BYTES = 64
_LARGEST_SET = 1000
_LARGEST_KEY = 2**31
"""Strings are hashed at random and small integers spread; other keys can be chosen so that a dict becomes slow."""


@dataclass(frozen=True)
class _Global:
    """A name that the pickle takes from a module."""

    name: str


@dataclass
class _Object:
    """Something that reading the pickle would make.

    Attributes:
        kind: What it is, e.g. ``"list"`` or ``"tensor"``.
        size: Elements of a list; numbers in a storage.
        hashable: Whether all elements of a list are strings or small integers.
    """

    kind: str
    size: int = 0
    hashable: bool = True


_DTYPES = {str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)}
_STORAGES = {
    f"torch.{name}": dtype.itemsize for dtype, name in torch.storage._dtype_to_storage_type_map().items()
}
_BYTE_STORAGES = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
_PATHS = re.compile(r"pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path")
_NUMPY_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _are_counts(value: Any) -> bool:
    return type(value) is tuple and len(value) <= _MOST_DIMENSIONS and all(map(_is_count, value))


def _is(value: Any, *kinds: str) -> bool:
    return isinstance(value, _Object) and value.kind in kinds


def _is_key(value: Any) -> bool:
    """Whether a value may be a key of a dict or an element of a set."""
    return (
        value is None or isinstance(value, (str, bool)) or (type(value) is int and abs(value) < _LARGEST_KEY)
    )


def _tensor(args: tuple) -> _Object | None:
    """``_rebuild_tensor(storage, offset, size, stride, ...)`` within its storage."""
    if len(args) < 4 or not _is(args[0], "storage") or not _is_count(args[1]):
        return None
    storage, offset, size, stride = args[:4]
    if not _are_counts(size) or not _are_counts(stride) or len(size) != len(stride):
        return None
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.size:
        raise CheckpointError(
            f"a tensor claims shape {brief(list(size))} from number {offset} on, more than the file holds"
        )
    return _Object("tensor")


def _tensor_v2(args: tuple) -> _Object | None:
    fits = len(args) in (6, 7) and isinstance(args[4], bool) and _is(args[5], "OrderedDict")
    return _tensor(args) if fits and args[6:] in ((), (None,)) else None


def _tensor_v3(args: tuple) -> _Object | None:
    fits = len(args) == 7 and isinstance(args[4], bool) and _is(args[5], "OrderedDict")
    if not fits or not isinstance(args[6], _Global) or args[6].name not in _DTYPES:
        return None
    itemsize = getattr(torch, args[6].name.removeprefix("torch.")).itemsize
    storage = args[0]
    if not _is(storage, "storage"):
        return None
    return _tensor((_Object("storage", storage.size // itemsize), *args[1:]))


def _parameter(args: tuple) -> _Object | None:
    fits = len(args) == 3 and _is(args[0], "tensor") and isinstance(args[1], bool)
    return _Object("tensor") if fits and _is(args[2], "OrderedDict") else None


def _numpy_type(args: tuple) -> _Object | None:
    # The type of every part is looked at first: to hash or compare tuples in tuples can take for ever.
    fits = len(args) == 3 and isinstance(args[0], str) and args[0] in _NUMPY_TYPES
    fits = fits and all(isinstance(flag, int) and flag in (0, 1) for flag in args[1:])
    return _Object("numpy type") if fits else None


def _numpy_scalar(args: tuple) -> _Object | None:
    fits = len(args) == 2 and _is(args[0], "numpy type") and _is(args[1], "bytes")
    return _Object("number") if fits else None


def _bytes(args: tuple) -> _Object | None:
    fits = len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1"
    return _Object("bytes") if fits and len(args[0]) <= _LONGEST_BYTES else None


def _path(args: tuple) -> _Object | None:
    fits = len(args) <= _MOST_PATH_PARTS and all(isinstance(part, str) for part in args)
    return _Object("path") if fits and sum(map(len, args)) <= _LONGEST_PATH else None


def _set(args: tuple) -> _Object | None:
    fits = len(args) == 1 and _is(args[0], "list") and args[0].hashable and args[0].size <= _LARGEST_SET
    return _Object("set") if fits else None


def _size(args: tuple) -> _Object | None:
    return _Object("size") if len(args) == 1 and _are_counts(args[0]) else None


def _device(args: tuple) -> _Object | None:
    fits = len(args) in (1, 2) and isinstance(args[0], str) and len(args[0]) < 32
    return _Object("device") if fits and all(map(_is_count, args[1:])) else None


def _without_arguments(kind: str) -> Callable[[tuple], _Object | None]:
    return lambda args: None if args else _Object(kind)


_CALLS: dict[str, Callable[[tuple], _Object | None]] = {
    "torch._utils._rebuild_tensor": lambda args: _tensor(args) if len(args) == 4 else None,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _without_arguments("OrderedDict"),
    "argparse.Namespace": _without_arguments("Namespace"),
    "builtins.set": _set,
    "_codecs.encode": _bytes,
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
"""Every call that a file may ask for. Each gives what the call makes, or None when `torch.save` writes no such call."""

_NOT_DENSE = re.compile(
    r"torch\._utils\._rebuild_(sparse|meta|nested|q|device|wrapper|xla).*|torch\._tensor\._rebuild_from_type_v2"
)


def check_pickle(data: bytes, records: Mapping[str, int], source: str) -> None:
    """Walk a pickle.

    Args:
        data: The pickle.
        records: The number of bytes of every record in the same file that a tensor may lie over, by key.
        source: Path of the file, for messages.

    Raises:
        CheckpointError: It asks for more than tensors over whole records and plain values, it is damaged, or it is
            longer than any RADIO checkpoint's.
    """
    if len(data) > LONGEST_PICKLE:
        raise CheckpointError(
            f"{source} describes itself in {len(data)} bytes, which no RADIO checkpoint does"
        )
    walk = _Walk(records)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number >= _MOST_OPCODES:
                raise CheckpointError("it lists more values than any RADIO checkpoint")
            walk.step(opcode.name, argument)
    except CheckpointError as error:
        raise CheckpointError(f"{source} cannot be read safely: {error}; refused") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source} is damaged ({short_reason(error)}); download it again") from error


class _Walk:
    """A machine that follows a pickle with placeholders in place of objects."""

    def __init__(self, records: Mapping[str, int]) -> None:
        self._records = records
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one opcode."""
        stack = self._stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _MAKES:
            stack.append(_Object(_MAKES[name]))
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _TUPLES:
            length = _TUPLES[name]
            items = tuple(stack[len(stack) - length :]) if len(stack) >= length else self._underflow()
            del stack[len(stack) - length :]
            stack.append(items)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._marked.append(stack)
            self._stack = []
        elif name == "TUPLE":
            items = tuple(self._since_mark())
            self._stack.append(items)
        elif name == "GLOBAL":
            stack.append(self._global(argument))
        elif name in ("REDUCE", "NEWOBJ"):
            args, function = stack.pop(), stack.pop()
            stack.append(self._call(function, args, name == "NEWOBJ"))
        elif name == "BUILD":
            state = stack.pop()
            self._build(stack[-1], state)
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "APPEND":
            item = stack.pop()
            self._extend(stack[-1], [item])
        elif name == "APPENDS":
            items_of_list = self._since_mark()
            self._extend(self._stack[-1], items_of_list)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._update(stack[-1], [key, value])
        elif name == "SETITEMS":
            pairs = self._since_mark()
            self._update(self._stack[-1], pairs)
        elif name not in ("PROTO", "STOP"):
            raise CheckpointError(f"it has the opcode {name}, which torch.save never writes")

    def _underflow(self) -> tuple:
        raise ValueError("the pickle takes more values than it holds")

    def _since_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marked.pop()
        return items

    def _global(self, argument: str) -> _Global:
        module, _, name = argument.partition(" ")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        name = f"{module}.{name}"
        known = name in _CALLS or name in _DTYPES or name in _STORAGES or name in _BYTE_STORAGES
        if not known and not _PATHS.fullmatch(name):
            if _NOT_DENSE.fullmatch(name):
                raise CheckpointError(
                    "it holds a tensor that is not a plain dense tensor (sparse, quantized, nested, without data, or "
                    "with attributes)"
                )
            whole = name.startswith(("radio.", "torch.nn.modules.", "timm.", "__main__."))
            instead = (
                "; it seems to hold a whole model or its config as a Python object: save "
                "{'state_dict': model.state_dict(), 'config': model.config.to_dict()} instead"
            )
            raise CheckpointError(
                f"it wants to use {brief(name)} while it is read, which no RADIO checkpoint needs"
                f"{instead if whole else ''}"
            )
        return _Global(name)

    def _call(self, function: Any, args: Any, as_class: bool) -> _Object:
        name = function.name if isinstance(function, _Global) else "something that is no function"
        check = _path if _PATHS.fullmatch(name) else _CALLS.get(name)
        made = None
        if check is not None and type(args) is tuple and (not as_class or name == "argparse.Namespace"):
            made = check(args)
        if made is None:
            raise CheckpointError(f"it calls {brief(name)} in a way that torch.save never does")
        return made

    def _build(self, target: Any, state: Any) -> None:
        if _is(target, "Namespace", "OrderedDict") and _is(state, "dict"):
            return
        layout = ("<", ">", "|", "=")
        if (
            _is(target, "numpy type")
            and type(state) is tuple
            and len(state) == 8
            and state[0] in (3, 4)
            and state[1] in layout
            and state[2:5] == (None, None, None)
            and state[5:] == (-1, -1, 0)
        ):
            return
        raise CheckpointError("it changes an object in a way that torch.save never does")

    def _storage(self, key: Any) -> _Object:
        """A tensor's memory: one record of this file, all of it."""
        if type(key) is not tuple or len(key) != 5 or key[0] != "storage" or not isinstance(key[1], _Global):
            raise CheckpointError("it refers to something that is no record of a tensor")
        _, storage_type, record, location, count = key
        itemsize = 1 if storage_type.name in _BYTE_STORAGES else _STORAGES.get(storage_type.name)
        if itemsize is None or not isinstance(record, str) or not isinstance(location, str):
            raise CheckpointError("it refers to something that is no record of a tensor")
        if record not in self._records:
            raise CheckpointError(f"it refers to the record {brief(record)}, which it does not hold")
        if not _is_count(count) or count * itemsize != self._records[record]:
            raise CheckpointError(
                f"it claims {brief(count)} numbers of {itemsize} bytes in the record {brief(record)} of "
                f"{self._records[record]} bytes, more than the file holds or less"
            )
        return _Object("storage", count)

    def _extend(self, target: Any, items: list[Any]) -> None:
        if not _is(target, "list"):
            raise CheckpointError("it appends to something that is no list")
        target.size += len(items)
        target.hashable = target.hashable and all(map(_is_key, items))

    def _update(self, target: Any, pairs: list[Any]) -> None:
        if not _is(target, "dict", "OrderedDict") or len(pairs) % 2:
            raise CheckpointError("it sets items of something that is no dict")
        if not all(map(_is_key, pairs[::2])):
            raise CheckpointError("it has a dict whose keys are neither strings nor small numbers")


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MAKES = {"EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_SET": "set"}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
