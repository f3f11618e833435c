"""Torch files that are not what they should be: refused, named, and never run."""

from __future__ import annotations

import argparse
import builtins
import fractions
import os
import pathlib
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from released import VERSIONS, make_checkpoint

from radio import CheckpointError, load_model
from radio.checkpoints import read_checkpoint, read_content


@pytest.fixture
def content(tmp_path) -> dict:
    """The content of a small RADIOv2.5-B checkpoint, to be spoiled."""
    return make_checkpoint(
        tmp_path / "good.pth.tar", VERSIONS["radio_v2.5-b"], small=True, dtype=torch.float32
    )


@pytest.fixture
def good(content, tmp_path) -> Path:
    return tmp_path / "good.pth.tar"


def _save(content: object, good: Path) -> Path:
    path = good.with_name("spoiled.pth.tar")
    torch.save(content, path)
    return path


def _write(data: bytes, good: Path) -> Path:
    path = good.with_name("spoiled.pth.tar")
    path.write_bytes(data)
    return path


def test_the_small_checkpoint_is_good(good):
    model = load_model(good, adaptors=["clip"], device="cpu")
    assert model(torch.rand(1, 3, 32, 48))["clip"].summary.shape == (1, 40)


def test_threads_may_read_at_the_same_time(good):
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(read_content, [good] * 200))
    assert all(content["args"].model == "vit_base_patch16_224" for content in contents)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; download it again"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"\n  <html>", "is a web page"),
        (b"\xef\xbb\xbf\r\n<html>", "is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"\x00" * 4096, "not a zip-format torch file"),
        (b"PK\x03\x04" + b"\x00" * 4096, "was cut short"),
        (pickle.dumps({"state_dict": {}}), "not a zip-format torch file.*torch.save"),
    ],
)
def test_wrong_files(good, data, message):
    path = _write(data, good)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.99, 0.9999])
def test_truncated_files(good, keep):
    data = good.read_bytes()
    with pytest.raises(CheckpointError, match=r"cut short.*download it again"):
        load_model(_write(data[: int(len(data) * keep)], good))


def test_a_missing_file_and_something_that_is_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="no file or folder"):
        read_checkpoint(tmp_path / "nowhere.pth.tar")
    if not hasattr(os, "mkfifo"):
        return
    os.mkfifo(tmp_path / "pipe.pth.tar")
    with pytest.raises(CheckpointError, match="no file or folder"):
        read_checkpoint(tmp_path / "pipe.pth.tar")


def test_a_plain_zip_archive(good):
    path = good.with_name("photos.pth.tar")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.txt", "not weights")
    with pytest.raises(CheckpointError, match="damaged or not a torch checkpoint"):
        load_model(path)


def test_compressed_entries_are_refused(good):
    """They could unpack to any size."""
    path = good.with_name("bomb.pth.tar")
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.infolist():
            archive.writestr(entry.filename, source.read(entry))
    with pytest.raises(CheckpointError, match="compressed entries"):
        load_model(path)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_refused(good):
    path = good.with_name("script.pth.tar")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.rand(1, 2)), path)
    with pytest.raises(CheckpointError):
        load_model(path)


class _Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, "(posix|nt).system"),
        (builtins.eval, "(builtins|__builtin__).eval"),
        (builtins.exec, "(builtins|__builtin__).exec"),
        (pathlib.Path.touch, "getattr"),
        (torch.hub.load, "torch.hub.load"),
        (np.load, "numpy.load"),
        (fractions.Fraction, "fractions.Fraction"),
    ],
)
@pytest.mark.parametrize("place", ["args", "state_dict", "epoch"])
def test_code_is_never_run(content, good, tmp_path, function, named, place):
    """A pickle that names anything but what released files need is refused, and the error says what it named."""
    mark = tmp_path / "ran"
    commands = {
        os.system: f"touch {mark}",
        builtins.eval: f"open({str(mark)!r}, 'w')",
        builtins.exec: f"open({str(mark)!r}, 'w')",
        pathlib.Path.touch: mark,
    }
    payload = _Calls(function, commands.get(function, "1"))
    if place == "args":
        content["args"].payload = payload
    elif place == "state_dict":
        content["state_dict"]["payload"] = payload
    else:
        content["epoch"] = payload
    path = _save(content, good)
    for read in (load_model, read_checkpoint, read_content):
        with pytest.raises(CheckpointError, match=rf"wants to use .*{named}.*refused"):
            read(path)
    assert not mark.exists()


def test_custom_classes_are_refused(content, good):
    content["args"].teacher = fractions.Fraction(1, 3)
    with pytest.raises(CheckpointError, match=r"fractions\.Fraction"):
        load_model(_save(content, good))


def test_everything_that_released_files_hold_is_read(content, good):
    """Paths, numpy numbers, sizes, dtypes and nested namespaces occur among the training arguments."""
    content["args"].output = pathlib.PurePosixPath("/runs/1")
    content["args"].local = Path("/runs/2")
    content["args"].best = np.float64(0.5)
    content["args"].steps = np.int64(7)
    content["args"].sizes = torch.Size([3, 4])
    content["args"].dtype = torch.bfloat16
    content["args"].nested = argparse.Namespace(lr=1e-3)
    content["args"].names = {"clip", "sam"}
    path = _save(content, good)
    args = read_content(path)["args"]
    assert str(args.output) == "/runs/1"
    assert str(args.local) == "/runs/2"
    assert (args.best, args.steps, args.sizes, args.nested.lr) == (0.5, 7, (3, 4), 1e-3)
    assert load_model(path, device="cpu").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.pop("args"), "nothing that describes the model.*config.json"),
        (lambda c: c.pop("state_dict"), "needs 'args' and 'state_dict'"),
        (lambda c: c.update(args=[1]), "'args' is a list"),
        (lambda c: c.update(state_dict=[torch.zeros(1)]), "must map names to tensors"),
        (lambda c: c["state_dict"].update({"x": 1}), "must map names to tensors"),
        (lambda c: c["state_dict"].update({1: torch.zeros(1)}), "must map names to tensors"),
        (
            lambda c: vars(c["args"]).update(model="resnet50", model_kwargs=None),
            "unknown architecture 'resnet50'; supported: vit_base",
        ),
        (lambda c: vars(c["args"]).update(model="eradio"), "patch_embed.conv_down.0.conv.weight' is missing"),
        (
            lambda c: vars(c["args"]).update(model="radio1d_huge_patch16_224"),
            "has no cpe_max_size; a RADIO1D without CPE",
        ),
        (lambda c: vars(c["args"]).update(model=None), "must name an architecture"),
        (lambda c: vars(c["args"]).pop("model"), "must name an architecture"),
        (
            lambda c: vars(c["args"]).update(dtype="int8"),
            "dtype 'int8' is not one of bfloat16, float16, float32",
        ),
        (
            lambda c: vars(c["args"]).update(dtype=torch.float8_e4m3fn),
            "dtype 'torch.float8_e4m3fn' is not one of",
        ),
        (lambda c: vars(c["args"]).update(teachers="clip"), "'teachers' must be a list of dicts"),
        (lambda c: vars(c["args"]).update(teachers=[{"type": "clip"}]), "each with a 'name'"),
        (
            lambda c: c["args"].model_kwargs.update(num_heads=-4),
            "num_heads must be a whole number of at least 1",
        ),
        (lambda c: c["args"].model_kwargs.update(num_heads=4.5), "num_heads must be a whole number"),
        (lambda c: c["args"].model_kwargs.update(num_heads=7), "cannot have 7 heads"),
        (lambda c: c["args"].teachers[0].update(token_slot=9), "adaptor 'clip' reads class token 9 of 4"),
        (lambda c: c["args"].teachers[0].update(fd_upsample_factor=7), "not a multiple of 7 x 7"),
        (lambda c: c["args"].teachers.pop(), "belongs to no teacher.*'clip'"),
        (lambda c: vars(c["args"]).update(spectral_reparam={"eps": "x"}), None),
    ],
)
def test_wrong_content(content, good, spoil, message):
    spoil(content)
    path = _save(content, good)
    if message is None:
        load_model(path, device="cpu")
        return
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(path, device="cpu")
    assert str(path) in str(error.value)


_FC1 = "base_model.blocks.2.mlp.fc1.weight"


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop(_FC1), "missing: model.blocks.2.mlp.fc1.weight$"),
        (lambda s: s.update({"base_model.blocks.2.extra": torch.zeros(1)}), "surplus: model.blocks.2.extra$"),
        (lambda s: s.update({"optimizer.step": torch.zeros(1)}), "surplus: optimizer.step$"),
        (
            lambda s: s.update({_FC1: torch.zeros(256, 65)}),
            r"misshapen: model.blocks.2.mlp.fc1.weight is \(256, 65\), expected \(256, 64\)$",
        ),
        (
            lambda s: s.update({_FC1: torch.zeros(256, 64, dtype=torch.int64)}),
            "not floating-point: .*fc1.* torch.int64",
        ),
        (
            lambda s: s.update({_FC1: torch.zeros(256, 64, dtype=torch.complex64)}),
            "not floating-point: .*complex64",
        ),
        (lambda s: s.update({_FC1: torch.zeros(256, 64).to_sparse()}), "not a plain dense tensor"),
        (lambda s: s.update({_FC1: torch.zeros(256, 64, device="meta")}), "not a plain dense tensor"),
        (lambda s: [s.pop(n) for n in list(s) if "blocks.1." in n], r"blocks are missing.*\[0, 2, 3\]"),
        (lambda s: [s.pop(n) for n in list(s) if "patch_generator" in n], "does not hold a RADIO backbone"),
        (lambda s: s.pop("input_conditioner.norm_std"), "missing: input_conditioner.norm_std"),
        (lambda s: s.update({_FC1: torch.zeros(1, 1).expand(2**20, 2**20)}), "more than the file holds"),
        (lambda s: s.update({_FC1: torch.zeros(1).expand(0)}), "misshapen"),
        (lambda s: setattr(s[_FC1], "detach", "not a method"), "not a plain dense tensor"),
    ],
)
def test_wrong_tensors_are_named(content, good, spoil, message):
    spoil(content["state_dict"])
    with pytest.raises(CheckpointError, match=message):
        load_model(_save(content, good), device="cpu")


def test_long_lists_of_wrong_tensors_are_cut_short(content, good):
    content["state_dict"].update({f"extra.{i}": torch.zeros(1) for i in range(50)})
    with pytest.raises(CheckpointError, match=r"extra\.7 and 42 more"):
        load_model(_save(content, good), device="cpu")


def test_many_tensors_may_not_share_a_little_storage(content, good):
    """Each would fit the file; together, converted to another dtype, they would need memory without end."""
    shared = torch.zeros(1000, 1000)
    content["state_dict"].update({f"base_model.blocks.{i}.mlp.fc1.weight": shared for i in range(4, 100)})
    with pytest.raises(CheckpointError, match=r"claims \d+ bytes of weights in a file of"):
        load_model(_save(content, good), device="cpu")


def test_parameters_that_want_gradients_are_taken_as_plain_tensors(content, good):
    content["state_dict"] = {name: torch.nn.Parameter(value) for name, value in content["state_dict"].items()}
    path = _save(content, good)
    for dtype in ("float32", "bfloat16"):
        model = load_model(path, device="cpu", dtype=dtype)
        assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())
        assert not model.input_conditioner.norm_mean.requires_grad


def test_errors_stay_short_whatever_the_content(content, good):
    """Lists that hold each other thirty deep would print for ever."""
    bomb: list = []
    for _ in range(30):
        bomb = [bomb] * 10
    for name in ("model", "dtype"):
        before = getattr(content["args"], name, None)
        setattr(content["args"], name, bomb)
        with pytest.raises(CheckpointError) as error:
            load_model(_save(content, good), device="cpu")
        assert len(str(error.value)) < 1000
        setattr(content["args"], name, before)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["state_dict"].update({"x" * 10**6: torch.zeros(1)}),
        lambda c: c["state_dict"].update({"_heads." + "x" * 10**6: torch.zeros(1)}),
        lambda c: c["state_dict"].update({"x" * 10**6: torch.zeros(1).expand(9)}),
        lambda c: c.update({"args": None, "x" * 10**6: 1}),
        lambda c: vars(c["args"]).update(model="e-radio" * 10**6),
        lambda c: vars(c["args"]).update(dtype="x" * 10**6),
        lambda c: c["args"].teachers[0].update(name="x" * 10**6, token_slot=-1),
        lambda c: c["args"].teachers[0].update(fd_upsample_factor=10**4000),
    ],
)
def test_errors_stay_short_whatever_the_names(content, good, spoil):
    spoil(content)
    with pytest.raises(CheckpointError) as error:
        load_model(_save(content, good), device="cpu")
    assert len(str(error.value)) < 1500


def test_the_file_is_only_read(good):
    before = good.read_bytes()
    model = load_model(good, device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert good.read_bytes() == before
