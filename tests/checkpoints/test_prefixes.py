"""Prefixes of training tools before the names of tensors: taken off where one whole model remains, never guessed."""

from __future__ import annotations

import copy
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from radio import CheckpointError, RADIOModel, load_model
from radio.checkpoints import read_checkpoint, read_content

X = torch.rand(1, 3, 96, 64)


@pytest.fixture(scope="module")
def model(reference: Path) -> RADIOModel:
    return load_model(reference / "v2_5" / "checkpoint.pth.tar", adaptors="clip", device="cpu")


@pytest.fixture(scope="module")
def content(reference: Path) -> dict[str, Any]:
    return read_content(reference / "v2_5" / "checkpoint.pth.tar")


def _save(path: Path, model: RADIOModel, state: dict[str, torch.Tensor], **others: Any) -> Path:
    torch.save({"state_dict": state, "config": model.config.to_dict(), **others}, path)
    return path


def _assert_same(path: Path, model: RADIOModel) -> None:
    again = load_model(path, adaptors="clip", device="cpu")
    assert torch.equal(again(X)["clip"].summary, model(X)["clip"].summary)
    assert torch.equal(again(X)["backbone"].features, model(X)["backbone"].features)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "model.",
        "student.",
        "backbone.",
        "base_model.",
        "_forward_module.",
        "_fsdp_wrapped_module.",
        "radio_model.",
        "module.module.",
        "_orig_mod.module.",
        "_forward_module.student._orig_mod.model.",
        "model.backbone.radio_model.",
        "base_model.model.",
        "vision_model.",
        "feature_extractor.",
        "backbone.0.",
        "averaged_model.module.",
    ],
)
def test_prefixes_of_wrappers(prefix, model, content, tmp_path):
    """Before the released names, described by ``args``; and before those of this library, described by ``config``."""
    state = {prefix + name: value for name, value in content["state_dict"].items()}
    torch.save({**content, "state_dict": state}, tmp_path / "released.pth")
    _save(tmp_path / "own.pth", model, {prefix + name: value for name, value in model.state_dict().items()})
    read = [read_checkpoint(tmp_path / name).tensors for name in ("released.pth", "own.pth")]
    assert all(torch.equal(tensors[n], v) for tensors in read for n, v in model.state_dict().items())
    if prefix == "_forward_module.student._orig_mod.model.":
        _assert_same(tmp_path / "released.pth", model)
        _assert_same(tmp_path / "own.pth", model)


class _Module(nn.Module):
    """A module of a training program: the model, and what else it has parameters for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.student = model
        self.projection = nn.Linear(4, 4)


def test_state_dicts_of_real_wrappers(model, tmp_path, caplog):
    """torch.compile of the whole and of a part, an averaged model, and a module with a head of its own."""
    inner = copy.deepcopy(model)
    inner.model = nn.DataParallel(inner.model)  # type: ignore[assignment]
    wrapped = {
        "compiled": torch.compile(model),
        "averaged": torch.optim.swa_utils.AveragedModel(model),
        "module": _Module(torch.compile(copy.deepcopy(model))),
        "backbone_alone": inner,
    }
    for name, module in wrapped.items():
        assert not module.state_dict().keys() <= model.state_dict().keys()
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            _assert_same(_save(tmp_path / f"{name}.pth", model, module.state_dict()), model)
        if name == "module":
            assert "tensors under 'student.'; the other 2 are not the model's" in caplog.text


def test_marks_inside_the_names(model, tmp_path):
    """Activation checkpointing and FSDP wrap single blocks."""
    marks = ("_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
    state = {
        name.replace("attn.", f"{marks[0]}attn.").replace("blocks.1.", f"blocks.1.{marks[1]}"): value
        for name, value in model.state_dict().items()
    }
    _assert_same(_save(tmp_path / "file.pth", model, state), model)


def test_a_lightning_checkpoint(model, content, tmp_path):
    """``state_dict`` of the LightningModule and ``hyper_parameters``, with the description at one of many places."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()} | {
        "head.weight": torch.rand(2, 2)
    }
    others = {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.5.0",
        "loops": {},
        "callbacks": {},
    }
    args = content["args"]
    for number, found in enumerate(
        (
            {"config": model.config.to_dict()},
            {"lr": 1e-4, "radio": {"config": model.config.to_dict()}},
            {"args": args, "lr": 1e-4},
            {**vars(args), "lr": 1e-4},
            Namespace(**vars(args)),
        )
    ):
        path = tmp_path / f"{number}.ckpt"
        torch.save({"state_dict": state, "hyper_parameters": found, **others}, path)
        _assert_same(path, model)


@pytest.mark.parametrize(
    "key", ["model", "model_state_dict", "module", "student", "model_ema", "params", "my_weights"]
)
def test_other_names_of_the_state_dict(key, model, tmp_path):
    path = tmp_path / "file.pth"
    extra = {"optimizer": {"state": {}, "param_groups": []}, "teacher": {"weight": torch.rand(2)}}
    torch.save({key: model.state_dict(), "config": model.config.to_dict(), **extra}, path)
    _assert_same(path, model)


def test_averages_come_before_what_they_are_averages_of(model, tmp_path):
    other = {name: value + 1 for name, value in model.state_dict().items()}
    for name in ("model_ema", "ema"):
        averaged = {f"module.{n}": v for n, v in model.state_dict().items()}
        content = {"model": other, name: averaged, "config": model.config.to_dict()}
        torch.save(content, tmp_path / "file.pth")
        _assert_same(tmp_path / "file.pth", model)
    content = {"model": averaged, "ema": {"decay": torch.ones(1)}, "config": model.config.to_dict()}
    torch.save(content, tmp_path / "file.pth")
    _assert_same(tmp_path / "file.pth", model)


def test_a_teacher_alone_is_not_what_was_trained(model, tmp_path):
    torch.save({"teacher": model.state_dict(), "config": model.config.to_dict()}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="not a RADIO checkpoint"):
        load_model(tmp_path / "file.pth", device="cpu")


@pytest.mark.parametrize("what", [lambda m: m, lambda m: {"state_dict": m.state_dict(), "config": m.config}])
def test_pickled_objects_are_refused_with_what_to_save_instead(what, model, tmp_path):
    torch.save(what(model), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"save \{'state_dict': model\.state_dict\(\), 'config'"):
        load_model(tmp_path / "file.pth", device="cpu")


def test_teachers_and_averages_beside_the_student(model, tmp_path):
    """A teacher is not what was trained, even if it is a RADIO model too."""
    state = model.state_dict()
    both = {f"student.{n}": v for n, v in state.items()} | {f"teacher.{n}": v + 1 for n, v in state.items()}
    _assert_same(_save(tmp_path / "file.pth", model, both), model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {f"teacher.{n}": v for n, v in s.items()},
            r"under 'teacher.', which does not say that it is",
        ),
        (
            lambda s: {f"{p}.{n}": v for n, v in s.items() for p in ("student", "backbone")},
            r"several RADIO models, under 'backbone.', 'student.'",
        ),
        (
            lambda s: {f"{p}.{n}": v for n, v in s.items() for p in ("left_eye", "right_eye")},
            r"several RADIO models, under 'left_eye.', 'right_eye.'",
        ),
        (lambda s: {n.removeprefix("model."): v for n, v in s.items()}, "the ViT alone"),
        (
            lambda s: {n if "blocks.2" in n else f"module.{n}": v for n, v in s.items()},
            r"blocks are missing|says depth",
        ),
        (
            lambda s: {f"module.{n}": v for n, v in s.items() if "norm_std" not in n},
            r"missing: input_conditioner",
        ),
        (lambda s: {**s, "head.weight": torch.rand(2, 2)}, "surplus: head.weight"),
        (
            lambda s: {**s, "_orig_mod.input_conditioner.norm_mean": torch.ones(3, 1, 1)},
            "another tensor are both",
        ),
        (
            lambda s: (
                {n.replace("base_model", "x"): v for n, v in s.items()}
                | {"model.blocks.0.attn.qkv.lora_A.default.weight": torch.rand(2, 2)}
            ),
            "merge_and_unload",
        ),
        (
            lambda s: (
                {f"x.{n}": v for n, v in s.items()}
                | {"x.model.blocks.0.attn.qkv.lora_A.default.weight": torch.rand(2)}
            ),
            "merge_and_unload",
        ),
    ],
    ids=[
        "teacher",
        "two",
        "two_unknown",
        "bare",
        "mixed",
        "incomplete",
        "surplus",
        "collision",
        "lora",
        "peft",
    ],
)
def test_nothing_is_guessed(change, message, model, tmp_path):
    path = _save(tmp_path / "file.pth", model, change(model.state_dict()))
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(path, device="cpu")
    assert len(str(error.value)) < 1500


def test_a_student_of_another_kind_beside_a_radio_teacher(model, tmp_path):
    """A plain ViT that learned from RADIO is not RADIO."""
    state = {f"teacher.{n}": v for n, v in model.state_dict().items()}
    state |= {
        "student.model.patch_embed.proj.weight": torch.rand(8, 3, 16, 16),
        "student.model.cls_token": torch.rand(1),
    }
    with pytest.raises(CheckpointError, match="'teacher.'"):
        load_model(_save(tmp_path / "file.pth", model, state), device="cpu")
