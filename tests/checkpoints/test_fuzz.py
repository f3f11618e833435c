"""Files and configs of every wrong kind: our own errors or a model, never code, a hang, a crash or runaway memory."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
import time
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import PeakMemory, needs_proc
from released import VERSIONS, Version, make_checkpoint
from safetensors.torch import load_file, save, save_file
from watching import watched

from radio import RadioError, load_model
from radio.checkpoints import read_content

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
)
LONGEST = 5.0


def fuzz(examples: int):
    """Settings for a bounded, repeatable search."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, reference) -> Path:
    """A small good torch file and a small good repository, to be copied and spoiled."""
    root = tmp_path_factory.mktemp("fuzz")
    version = Version("vit_base_patch16_v2_224", VERSIONS["radio_v2.5-b"].teachers[:2], registers=1)
    make_checkpoint(root / "good.pth.tar", version, small=True, dtype=torch.float32)
    shutil.copytree(reference / "hf_repo", root / "repo", ignore=shutil.ignore_patterns("cases.*"))
    return root


FAMILIES = ("eradio", "radio1d_progressive")


@pytest.fixture(scope="module")
def families(reference) -> dict[str, dict]:
    """The content of small good files of the other families."""
    return {name: read_content(reference / name / "checkpoint.pth.tar") for name in FAMILIES}


def _attempt(path: Path) -> str:
    """Load it; the only outcomes are a model whose weights can be read, and our own errors, in bounded time."""
    before = time.monotonic()
    with watched(*FORBIDDEN) as seen:
        try:
            model = load_model(
                path, device="cpu", dtype=random.Random(str(path)).choice(["auto", "bfloat16"])
            )
            total = sum(float(value.float().abs().sum()) for value in model.state_dict().values())
            outcome = f"a model ({total})"
        except RadioError as error:
            assert len(str(error)) < 20_000
            outcome = str(error)
    assert seen == [], f"loading did {seen}"
    assert time.monotonic() - before < LONGEST
    with contextlib.suppress(RadioError):
        read_content(path)
    return outcome


NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([0, -1, 1, 2, 10**9, 10**18, 2**63, -(2**63), 10**300]),
    st.floats(),
)
JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        NUMBERS,
        st.text(max_size=8),
        st.sampled_from(["vit_base_patch16_224", "float16"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
ARGS = (
    *(
        "model",
        "model_kwargs",
        "in_chans",
        "input_size",
        "gp",
        "teachers",
        "cpe_max_size",
        "cls_token_per_teacher",
    ),
    *("mlp_version", "spectral_reparam", "dtype", "register_multiple", "cpe_num_registers", "model_norm"),
)
CONFIG = (
    *(
        "args",
        "version",
        "patch_size",
        "max_resolution",
        "preferred_resolution",
        "adaptor_names",
        "adaptor_configs",
    ),
    *("vitdet_window_size", "vitdet_num_global", "vitdet_num_windowed", "pos_embed_align_corners", "dtype"),
    *("feature_normalizer_config", "inter_feature_normalizer_config", "auto_map"),
)
NESTED = (
    *(
        ("model_kwargs", name)
        for name in ("embed_dim", "depth", "num_heads", "init_values", "img_size", "scaled_ln")
    ),
    *(
        ("teachers", name)
        for name in ("name", "type", "model", "use_summary", "token_slot", "fd_upsample_factor")
    ),
)


@st.composite
def spoiled_args(draw: st.DrawFn, good: dict[str, Any]) -> dict[str, Any]:
    """Good arguments with up to three fields dropped or replaced, at the top or inside."""
    args = json.loads(json.dumps(good, default=str))
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            args[draw(st.sampled_from(ARGS))] = draw(JUNK)
        elif draw(st.booleans()):
            args.pop(draw(st.sampled_from(ARGS)), None)
        else:
            field, name = draw(st.sampled_from(NESTED))
            inside = args.get(field)
            if isinstance(inside, list) and inside:
                inside = inside[draw(st.integers(0, len(inside) - 1))]
            if isinstance(inside, dict):
                inside[name] = draw(JUNK)
    return args


@fuzz(60)
@given(data=st.data())
def test_arguments_of_torch_files(workshop: Path, data: st.DataObject) -> None:
    content = read_content(workshop / "good.pth.tar")
    args = data.draw(spoiled_args(vars(content["args"])))
    content["args"] = Namespace(**args) if data.draw(st.booleans()) else args
    path = workshop / "spoiled.pth.tar"
    path.unlink(missing_ok=True)
    torch.save(content, path)
    _attempt(path)


@fuzz(150)
@given(data=st.data())
def test_configs_of_repositories(workshop: Path, data: st.DataObject) -> None:
    config = json.loads((workshop / "repo" / "config.json").read_text())
    config["args"] = data.draw(spoiled_args(config["args"]))
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from(CONFIG))
        if data.draw(st.booleans()):
            config[name] = data.draw(JUNK)
        else:
            config.pop(name, None)
    _attempt(_repository(workshop, config=json.dumps(config).encode()))


@fuzz(100)
@given(
    config=st.one_of(
        JUNK, st.dictionaries(st.sampled_from(CONFIG), JUNK), st.fixed_dictionaries({"args": JUNK})
    )
)
def test_configs_made_of_junk(workshop: Path, config: Any) -> None:
    _attempt(_repository(workshop, config=json.dumps(config).encode()))


def _repository(workshop: Path, **files: bytes) -> Path:
    """A repository with the good files, but for those given."""
    folder = workshop / "spoiled"
    folder.mkdir(exist_ok=True)
    for name, key in (("config.json", "config"), ("model.safetensors", "weights")):
        (folder / name).unlink(missing_ok=True)
        if key in files:
            (folder / name).write_bytes(files[key])
        else:
            (folder / name).hardlink_to(workshop / "repo" / name)
    return folder


SHAPES = st.one_of(
    st.lists(st.integers(0, 70), max_size=4),
    st.sampled_from([[2**20, 2**20], [2**62], [0], [1] * 20, [64, 1, 64]]),
)
DTYPES = st.sampled_from(
    [
        *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.complex64),
        *(torch.int64, torch.uint8, torch.bool),
    ]
)


@fuzz(60)
@given(data=st.data())
def test_tensors_of_any_name_shape_and_type(workshop: Path, data: st.DataObject) -> None:
    """Tensors are replaced, renamed and dropped; those of a terabyte are views of one number."""
    content = read_content(workshop / "good.pth.tar")
    state = dict(content["state_dict"])
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(sorted(state)))
        action = data.draw(st.sampled_from(["replace", "drop", "rename"]))
        if action == "replace":
            shape, dtype = data.draw(SHAPES), data.draw(DTYPES)
            state[name] = torch.zeros((), dtype=dtype).expand(shape)
        elif action == "rename":
            state[name.replace(*data.draw(st.sampled_from(RENAMES)))] = state.pop(name)
        else:
            del state[name]
    content["state_dict"] = state
    path = workshop / "spoiled.pth.tar"
    path.unlink(missing_ok=True)
    torch.save(content, path)
    _attempt(path)


@fuzz(25)
@given(data=st.data())
def test_tensors_of_the_other_families(
    workshop: Path, families: dict[str, dict], data: st.DataObject
) -> None:
    content = dict(families[data.draw(st.sampled_from(FAMILIES))])
    state = content["state_dict"] = dict(content["state_dict"])
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(state)))
        action = data.draw(st.sampled_from(["replace", "replace", "drop", "rename"]))
        if action == "replace":
            shape, dtype = data.draw(SHAPES), data.draw(DTYPES)
            state[name] = torch.zeros((), dtype=dtype).expand(shape)
        elif action == "rename":
            state[name.replace(*data.draw(st.sampled_from(FAMILY_RENAMES)))] = state.pop(name)
        else:
            del state[name]
    path = workshop / "family.pth.tar"
    path.unlink(missing_ok=True)
    torch.save(content, path)
    _attempt(path)


FAMILY_RENAMES = [
    *(("blocks.0", "blocks.x"), ("blocks.1", "blocks.99999999999999999999"), ("levels.2", "levels.-1")),
    *(("attention_blocks.0", "attention_blocks.7"), ("pre_conv", "downsample_op"), ("m.0", "m.9")),
    *(
        ("downscale_blocks.0", "downscale_blocks.²"),
        ("decoder.", ""),
        ("neck_features_proj.1", "neck_features_proj."),
    ),
]


@fuzz(25)
@given(data=st.data())
def test_arguments_of_the_other_families(
    workshop: Path, families: dict[str, dict], data: st.DataObject
) -> None:
    content = dict(families[data.draw(st.sampled_from(FAMILIES))])
    args = Namespace()
    vars(args).update(vars(content["args"]))
    kwargs = dict(args.model_kwargs)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(FAMILY_KWARGS))
        kwargs[name] = data.draw(st.one_of(JUNK, NUMBERS, st.lists(NUMBERS, max_size=3)))
    args.model_kwargs = data.draw(st.sampled_from([kwargs, kwargs, kwargs, None, [], "x"]))
    content["args"] = args
    path = workshop / "family.pth.tar"
    path.unlink(missing_ok=True)
    torch.save(content, path)
    _attempt(path)


FAMILY_KWARGS = (
    *(
        "num_heads",
        "num_cls_tokens",
        "num_registers",
        "register_multiple",
        "downscale_levels",
        "cpe_max_size",
    ),
    *("decoder_upscale_levels", "progressive_reduction", "use_shift", "qk_norm", "embed_dim"),
)

RENAMES = [
    *(("blocks.0", "blocks.x"), ("blocks.1", "blocks.99999999999999999999"), ("blocks.2", "blocks.-1")),
    *(("base_model.", "base_model.inner."), ("base_model.", ""), ("base_model.", "module.base_model.")),
    *(("weight", "parametrizations.weight.original"), ("weight", "parametrizations.weight.0._u")),
    *(
        ("_heads.0", "_heads.-1"),
        ("_heads.1", "_heads." + "9" * 5000),
        ("_heads.0", "_heads.²"),
        ("_heads.0", "_heads."),
    ),
    *(("_heads.0.fc1", "_heads.0.mlp.fc1"), (".", ".."), ("_feature_projections.", "_heads.")),
]


@fuzz(120)
@given(data=st.data())
def test_headers_of_safetensors(workshop: Path, data: st.DataObject) -> None:
    good = (workshop / "repo" / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", good[:8])
    header = json.loads(good[8 : 8 + length])
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(header)))
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", None]))
        values = data.draw(
            st.one_of(JUNK, st.lists(NUMBERS, max_size=4), st.sampled_from(["F64", "I8", "BOOL", "F8_E4M3"]))
        )
        if field is None:
            header[name] = values
        elif isinstance(header[name], dict):
            header[name][field] = values
    text = json.dumps(header).encode()
    claimed = data.draw(st.sampled_from([len(text), len(text), len(text), 0, 2**40, 2**64 - 1]))
    weights = struct.pack("<Q", claimed) + text + good[8 + length :]
    _attempt(_repository(workshop, weights=weights))


def _safetensors_writes(dtype: torch.dtype) -> bool:
    """Older versions of safetensors do not know complex numbers."""
    try:
        save({"x": torch.zeros(1, dtype=dtype)})
    except KeyError:
        return False
    return True


@fuzz(40)
@given(data=st.data())
def test_safetensors_of_any_name_shape_and_type(workshop: Path, data: st.DataObject) -> None:
    state = load_file(workshop / "repo" / "model.safetensors")
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(state)))
        shape = data.draw(st.lists(st.integers(0, 9), max_size=4))
        state[name] = torch.zeros(shape, dtype=data.draw(DTYPES.filter(_safetensors_writes)))
    folder = _repository(workshop)
    (folder / "model.safetensors").unlink()
    save_file(state, folder / "model.safetensors")
    _attempt(folder)


def _damaged(good: bytes, regions: list[tuple[int, int]], seed: int) -> bytes:
    """The file cut short, or with bits flipped, bytes replaced or bytes missing in one of its regions."""
    chance = random.Random(seed)
    if chance.random() < 0.15:
        return good[: chance.randrange(len(good))]
    data = bytearray(good)
    low, high = chance.choice(regions)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        at = chance.randrange(low, min(high, len(data)))
        kind = chance.random()
        if kind < 0.6:
            data[at] ^= 1 << chance.randrange(8)
        elif kind < 0.9:
            data[at] = chance.randrange(256)
        else:
            del data[at : at + chance.randrange(1, 9)]
    return bytes(data)


def test_damaged_torch_files(workshop):
    """Most of the damage goes where it hurts: the pickle, and the zip archive's own records."""
    good = (workshop / "good.pth.tar").read_bytes()
    with zipfile.ZipFile(workshop / "good.pth.tar") as archive:
        entries = archive.infolist()
        directory = archive.start_dir
    pickle = next(entry for entry in entries if entry.filename.endswith("data.pkl"))
    regions = [(pickle.header_offset, pickle.header_offset + pickle.file_size + 200)] * 4
    regions += [(directory, len(good))] * 2
    regions += [(entry.header_offset, entry.header_offset + 120) for entry in entries[1:40:10]]
    outcomes = []
    for seed in range(150):
        path = workshop / "damaged.pth.tar"
        path.unlink(missing_ok=True)
        path.write_bytes(_damaged(good, regions, seed))
        outcomes.append(_attempt(path))
    assert sum(not outcome.startswith("a model") for outcome in outcomes) > 50


@pytest.mark.parametrize("key", ["config", "weights"])
def test_damaged_repositories(workshop, key):
    good = (workshop / "repo" / {"config": "config.json", "weights": "model.safetensors"}[key]).read_bytes()
    header = struct.unpack("<Q", good[:8])[0] + 8 if key == "weights" else len(good)
    regions = [(0, header)] * 4 + [(0, 16)]
    for seed in range(150):
        _attempt(_repository(workshop, **{key: _damaged(good, regions, seed)}))


@fuzz(150)
@given(
    name=st.one_of(
        st.text(),
        st.text("./~-_aA1", min_size=1),
        st.sampled_from(["a" * 5000, "a/" * 5000, "~nobody/a", "\0"]),
    )
)
def test_names_of_any_kind(workshop: Path, name: str) -> None:
    """What is no version, no path and no repository is the caller's mistake, and is told so."""
    with pytest.raises((ValueError, RadioError)):
        load_model(name, local_files_only=True, cache_dir=workshop / "cache")


@needs_proc
def test_memory_is_bounded(workshop):
    """Claims of terabytes cost nothing: neither in a header, nor as a view of one number, nor in a config."""
    content = read_content(workshop / "good.pth.tar")
    content["state_dict"]["base_model.blocks.0.mlp.fc1.weight"] = torch.zeros(1).expand(2**20, 2**20)
    torch.save(content, workshop / "terabyte.pth.tar")
    config = json.loads((workshop / "repo" / "config.json").read_text())
    config["args"]["model_kwargs"] = {"depth": 10**9, "embed_dim": 10**9, "num_heads": 10**9}
    config["adaptor_configs"]["clip"]["feature"]["upsample_factor"] = 10**9
    with PeakMemory() as used:
        assert "more than the file holds" in _attempt(workshop / "terabyte.pth.tar")
        assert "cannot have 1000000000 heads" in _attempt(
            _repository(workshop, config=json.dumps(config).encode())
        )
        config["args"]["model_kwargs"]["num_heads"] = 2
        assert "not a multiple" in _attempt(_repository(workshop, config=json.dumps(config).encode()))
        assert "not valid JSON" in _attempt(_repository(workshop, config=b'{"args":' + b"[" * 10**6))
        assert "damaged" in _attempt(_repository(workshop, weights=struct.pack("<Q", 2**40) + b"{}"))
    assert used.peak < 100 * 2**20


def test_an_enormous_config_is_not_even_read(workshop):
    folder = _repository(workshop, config=b"")
    with (folder / "config.json").open("wb") as file:
        file.write(b"{")
        file.truncate(2**36)
    assert "larger than" in _attempt(folder)
