"""Small files that ask for much: refused in time and memory that do not depend on what they claim."""

from __future__ import annotations

import codecs
import json
import shutil
import time
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory import PeakMemory
from safetensors.torch import load_file, save_file

from radio import CheckpointError, load_model
from radio.checkpoints import read_checkpoint, read_content
from radio.cli import main

LONGEST = 5.0
MOST_MEMORY = 200 * 2**20


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


class Builds:
    """An object whose pickle calls a function and gives the result a state."""

    def __init__(self, function: Any, args: tuple, state: Any) -> None:
        self.call = (function, args, state)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.fixture
def good(reference) -> Path:
    return reference / "v2_5" / "checkpoint.pth.tar"


@pytest.fixture
def content(good) -> dict[str, Any]:
    return read_content(good)


def refused(path: Path, message: str | None = None) -> str:
    """The error's text; loading ends soon, in little memory, with few printable words."""
    started = time.process_time()
    with PeakMemory() as used, pytest.raises(CheckpointError, match=message) as error:
        load_model(path, device="cpu")
    assert time.process_time() - started < LONGEST
    assert used.peak < MOST_MEMORY
    text = str(error.value)
    assert len(text) < 2000 and text.isprintable()
    return text


def encoded(times: int) -> Any:
    value: Any = "x" * 1000
    for _ in range(times):
        value = Calls(codecs.encode, value, "hex")
    return value


COLLIDING = [index * (2**61 - 1) for index in range(3000)]

ASKS = {
    "bytearray": lambda: Calls(bytearray, 10**9),
    "bytearray of a list": lambda: Calls(bytearray, [0] * 10),
    "bytes of a size": lambda: Calls(bytes, 10**9),
    "numpy text": lambda: Calls(np.float64(0).__reduce__()[0], np.dtype("S200000000"), b"x"),
    "numpy dtype": lambda: Calls(np.dtype, "S2000000000", False, True),
    "numpy record": lambda: np.dtype([("a", "f8", (10**6,))]),
    "numpy array": lambda: np.zeros(3),
    "nested hex": lambda: encoded(30),
    "hex": lambda: Calls(codecs.encode, "x" * 1000, "hex"),
    "punycode": lambda: Calls(codecs.encode, "\u00fc" * 100_000, "punycode"),
    "idna": lambda: Calls(codecs.encode, "\u00fc" * 50, "idna"),
    "zlib": lambda: Calls(codecs.encode, "x" * 50, "zlib"),
    "long latin1": lambda: b"\xff" * 10_000,
    "size of a bytearray": lambda: Calls(torch.Size, Calls(bytearray, 3 * 10**7)),
    "size of a list": lambda: Calls(torch.Size, [1] * 100),
    "long size": lambda: torch.Size([1] * 100),
    "uninitialized tensor": lambda: Calls(torch.FloatTensor, 64),
    "uninitialized half": lambda: Calls(torch.HalfTensor, 10**9),
    "tensor of a size": lambda: Calls(torch.Tensor, 10**9),
    "storage of a size": lambda: Calls(torch.FloatStorage, 64),
    "untyped storage": lambda: Calls(torch.UntypedStorage, 10**9),
    "parameter of nothing": lambda: Calls(torch.nn.Parameter, 64),
    "complex": lambda: Calls(complex, 1.0, 2.0),
    "counter": lambda: Counter("abc"),
    "set of colliding numbers": lambda: set(COLLIDING),
    "dict of colliding numbers": lambda: dict.fromkeys(COLLIDING),
    "dict of tuples": lambda: {(1, 2): 3},
    "ordered dict of pairs": lambda: Calls(OrderedDict, [[1, 2]]),
    "namespace of values": lambda: Calls(Namespace, 1),
    "state of a set": lambda: Builds(set, ([],), {"a": 1}),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "without data": lambda: torch.zeros(3, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "path of many parts": lambda: Calls(Path("/a").__class__, *["a"] * 1000),
    "deep": lambda: deep(1000),
    "wide": lambda: [0] * 200_000,
    "shared": lambda: shared(30),
    "itself": lambda: itself(),
    "enormous number": lambda: 2**1000,
    "slice": lambda: slice(10**9),
    "range": lambda: range(10**9),
}


def deep(levels: int) -> Any:
    """Lists in lists, without the recursion of Python's own pickler."""
    value: list = []
    for _ in range(min(levels, 200)):
        value = [value]
    return value


def shared(levels: int) -> Any:
    """A value that is written in few bytes, and has 10 ** levels parts."""
    value: list = [0]
    for _ in range(levels):
        value = [value] * 10
    return Namespace(x=value)


def itself() -> Any:
    value: list = []
    value.append(value)
    return value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ASKS)
@pytest.mark.parametrize("place", ["args", "state_dict"])
def test_what_no_checkpoint_asks_for_is_refused(content, tmp_path, name, place):
    if place == "args":
        content["args"].extra = ASKS[name]()
    else:
        content["state_dict"]["base_model.extra"] = ASKS[name]()
    path = tmp_path / "hostile.pth.tar"
    torch.save(content, path)
    assert path.stat().st_size < 4 * 2**20
    refused(path)


@pytest.mark.parametrize("field", ["model", "dtype", "teachers", "model_kwargs", "spectral_reparam"])
def test_messages_about_shared_values_are_short(content, tmp_path, field, capsys):
    setattr(content["args"], field, shared(30))
    path = tmp_path / "shared.pth.tar"
    torch.save(content, path)
    refused(path, "more than 100000 values")
    for arguments in (["info", str(path)], ["convert", str(path), str(tmp_path / "out")]):
        started = time.process_time()
        assert main(arguments) == 1
        assert time.process_time() - started < LONGEST
        assert len(capsys.readouterr().err) < 2000
    assert not (tmp_path / "out").exists()


ESCAPES = "\x1b]0;owned\x07\x1b[31m\u202e\u200b" + "x" * 10_000


@pytest.mark.parametrize("place", ["model", "teacher", "tensor", "key", "dtype", "adaptor"])
def test_messages_have_no_escape_codes(content, tmp_path, place):
    if place == "model":
        content["args"].model = ESCAPES
    elif place == "teacher":
        content["args"].teachers[0]["name"] = ESCAPES
    elif place == "tensor":
        content["state_dict"][f"base_model.{ESCAPES[:100]}"] = torch.zeros(1)
    elif place == "adaptor":
        content["state_dict"][f"_heads.{ESCAPES[:100]}.fc1.weight"] = torch.zeros(1)
    elif place == "dtype":
        content["args"].dtype = ESCAPES
    else:
        content = {ESCAPES: 1}
    torch.save(content, tmp_path / "codes.pth.tar")
    refused(tmp_path / "codes.pth.tar")


def test_escape_codes_in_the_name_of_a_file_never_reach_the_terminal(good, tmp_path, capsys):
    folder = tmp_path / ESCAPES[:20]
    folder.mkdir()
    weights = Path(shutil.copy(good, folder / f"{ESCAPES[:20]}.pth.tar"))
    (folder / f"{ESCAPES[:21]}.pth.tar").write_text("junk")
    assert main(["info", str(weights)]) == 0
    assert main(["info", str(folder)]) == 1
    assert main(["info", str(folder / f"{ESCAPES[:21]}.pth.tar")]) == 1
    assert main(["info", "x" * 100_000]) == 1
    assert main(["convert", str(weights), str(folder / "out")]) == 0
    assert main(["convert", str(weights), str(folder / "out")]) == 1
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").isprintable() and len(err) < 5000


def test_escape_codes_in_a_config_never_reach_the_terminal(reference, tmp_path, capsys):
    folder = Path(shutil.copytree(reference / "hf_repo", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["args"]["teachers"][0]["type"] = ESCAPES[:50]
    config["note"] = ESCAPES
    state = load_file(folder / "model.safetensors")
    save_file({**state, f"radio_model.{ESCAPES[:50]}": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["info", str(folder), "--tensors"]) == 0
    assert capsys.readouterr().out.replace("\n", "").isprintable()
    config["version"] = ESCAPES[:50]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "version must be a printable name")


def _record(path: Path, name: str, data: bytes, out: Path) -> None:
    """A copy of a torch file with another record in place of one."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, data if entry.filename.endswith(name) else old.read(entry))


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_tensor_lies_over_a_record_of_its_own_length(content, tmp_path, length):
    state = {"base_model.patch_generator.pos_embed": torch.zeros(1, 16, 64), **content["state_dict"]}
    torch.save({**content, "state_dict": state}, tmp_path / "good.pth.tar")
    _record(tmp_path / "good.pth.tar", "/data/0", bytes(length), tmp_path / "short.pth.tar")
    refused(tmp_path / "short.pth.tar", "more than the file holds or less|damaged")


def test_two_thousand_tiny_adaptors_take_twice_as_long_as_one_thousand(content, tmp_path):
    """Not four times: reading, describing and building are linear in the number of adaptors."""
    head = {
        name.removeprefix("_heads.0."): value
        for name, value in content["state_dict"].items()
        if name.startswith("_heads.0.")
    }
    feature = {
        name.removeprefix("_feature_projections.0."): value
        for name, value in content["state_dict"].items()
        if name.startswith("_feature_projections.0.")
    }
    assert head and feature

    def seconds(count: int) -> float:
        teachers = [{"name": f"t{i}", "type": "x"} for i in range(count)]
        content["args"].teachers, content["args"].cls_token_per_teacher = teachers, False
        state = {n: v for n, v in content["state_dict"].items() if not n.startswith(("_heads", "_feature"))}
        for i in range(count):
            state |= {f"_heads.{i}.{name}": value for name, value in head.items()}
            state |= {f"_feature_projections.{i}.{name}": value for name, value in feature.items()}
        path = tmp_path / f"{count}.pth.tar"
        torch.save({**content, "state_dict": state}, path)
        best = []
        for _ in range(2):
            started = time.process_time()
            assert len(read_checkpoint(path, mmap=True).config.adaptors) == count
            best.append(time.process_time() - started)
        return min(best)

    assert seconds(1000) < 3.5 * seconds(500)


def test_a_summary_of_millions_of_zeros(reference, tmp_path):
    folder = Path(shutil.copytree(reference / "hf_repo", tmp_path / "model"))
    state = load_file(folder / "model.safetensors")
    state["radio_model.summary_idxs"] = torch.zeros(3_000_000, dtype=torch.int64)
    save_file(state, folder / "model.safetensors")
    refused(folder, "takes 3000000 class tokens")


NAMES = [
    *(
        "backbone",
        "training",
        "_modules",
        "_parameters",
        "_buffers",
        "forward",
        "to",
        "eval",
        "train",
        "type",
    ),
    *(
        "keys",
        "values",
        "items",
        "pop",
        "update",
        "clear",
        "register_module",
        "__class__",
        "__init__",
        "half",
    ),
    *(
        "_forward_hooks",
        "call_super_init",
        "dump_patches",
        "T_destination",
        "a\nb",
        "\x1b[31m",
        "x" * 200,
        " ",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_adaptors_whose_names_no_module_can_have(content, tmp_path, name):
    """Refused at load, or a model of which every call works."""
    content["args"].teachers[0]["name"] = name
    path = tmp_path / "named.pth.tar"
    torch.save(content, path)
    try:
        model = load_model(path, device="cpu", adaptors=[name])
    except CheckpointError as error:
        assert "printable name" in str(error) or "cannot be the name of an adaptor" in str(error)
        assert len(str(error)) < 1000 and str(error).isprintable()
    else:
        assert name == "T_destination"
        assert set(model(torch.rand(1, 3, 64, 64))) == {"backbone", name}


@pytest.mark.parametrize("name", ["a.b", ""])
def test_adaptors_with_dots_or_without_a_name(content, tmp_path, name):
    content["args"].teachers[0]["name"] = name
    torch.save(content, tmp_path / "named.pth.tar")
    refused(tmp_path / "named.pth.tar")


def _with_pickle(path: Path, data: bytes, out: Path) -> Path:
    _record(path, "data.pkl", data, out)
    return out


DEEP = b")" + b"\x85" * 900_000
SHARED = b"))\x86q\x00" + b"h\x00h\x00\x86q\x00" * 40
"""Tuples in tuples: far too deep to be hashed, or the same ones again and again; the second leaves others below it."""


@pytest.mark.parametrize("place", ["numpy type", "flag", "argument", "record"])
@pytest.mark.parametrize("value", [DEEP, b"(" + SHARED + b"t"], ids=["deep", "shared"])
def test_tuples_in_tuples_where_a_word_or_a_number_is_expected(good, tmp_path, value, place):
    word, byte = b"X\x02\0\0\0f8", b"X\x07\0\0\0storage"
    calls = {
        "numpy type": b"cnumpy\ndtype\n" + value + b"\x89\x88\x87R",
        "flag": b"cnumpy\ndtype\n" + word + value + b"\x88\x87R",
        "argument": b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNN" + value + b"tR",
        "record": b"(" + byte + b"ctorch\nFloatStorage\n" + value + word + b"K\x01tQ",
    }
    refused(_with_pickle(good, b"\x80\x02" + calls[place] + b".", tmp_path / "hostile.pth.tar"))


def test_no_teachers_in_a_file_that_has_a_class_token_for_each(content, tmp_path):
    content["args"].teachers = []
    content["state_dict"] = {
        name: value
        for name, value in content["state_dict"].items()
        if not name.startswith(("_heads", "_feature_p"))
    }
    torch.save(content, tmp_path / "none.pth.tar")
    refused(tmp_path / "none.pth.tar", "lists no teachers")


def test_heads_of_another_width(content, tmp_path):
    """Loads in itself, and would fail in every call."""
    name = next(n for n in content["state_dict"] if n.startswith("_heads.0") and n.endswith("fc1.weight"))
    old = content["state_dict"][name]
    content["state_dict"][name] = torch.zeros(old.shape[0], 32)
    torch.save(content, tmp_path / "width.pth.tar")
    refused(tmp_path / "width.pth.tar", "takes tokens of width 32, the backbone gives 64")


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "x" * 5000, "", ".safetensors", "..", "a\0b",
             "model.bin", "-o.safetensors", None, 3, ["a"]]
)  # fmt: skip
def test_names_of_shards_stay_in_their_folder(reference, tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(reference / "hf_repo" / "config.json", folder)
    shutil.copy(reference / "hf_repo" / "model.safetensors", tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refused(folder, "no name of a weights file in the same folder")


@pytest.mark.parametrize(
    "text", ["[" * 10**6, '{"args": ' * 2000, '{"a": ' + "9" * 5000 + "}", "{}", "\0", '"a"']
)
def test_configs_that_are_hard_to_read(reference, tmp_path, text):
    folder = Path(shutil.copytree(reference / "hf_repo", tmp_path / "model"))
    (folder / "config.json").write_text(text)
    refused(folder)


def test_a_config_of_many_values(reference, tmp_path):
    folder = Path(shutil.copytree(reference / "hf_repo", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["args"]["extra"] = [[]] * 500_000
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "more than 100000 values")
