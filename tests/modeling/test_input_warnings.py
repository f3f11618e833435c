"""Pixels and modes that give plausible nonsense: one warning for each model, none while a graph is traced."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from radio import load_model


@pytest.fixture
def model(reference):
    return load_model(reference / "v2_5" / "checkpoint.pth.tar", device="cpu")


def _good() -> torch.Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (lambda x: x * 255, "divide pixels of 0 to 255 by 255"),
        (lambda x: (x - 0.45) / 0.225, "not normalized: the model does that itself"),
        (lambda x: x * 2 - 1, "not normalized"),
        (lambda x: x * 1.5, "scale them"),
        (lambda x: x * 1.3 - 0.15, r"bicubic resize overshoots, x\.clamp\(0, 1\)"),
        (lambda x: x / 255, "divided by 255 twice"),
        (lambda x: x / 0, "division by zero"),
    ],
)
@pytest.mark.parametrize("as_list", [False, True])
def test_wrong_pixels_are_said_once(model, change, advice, as_list):
    wrong = change(_good())
    with torch.inference_mode():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(_good())
            model(_good() * 1.01 - 0.005)  # what a resizing filter makes
        with pytest.warns(UserWarning, match=advice) as seen:
            model([wrong[0]] if as_list else wrong)
            model(wrong)
            model.forward_intermediates(wrong, indices=1)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match=advice):
        copy.deepcopy(model)(wrong)


def test_an_external_preprocessor_is_not_questioned(model):
    """What it gives is no image, and may have another dtype than the model."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = model(_good()).features
        conditioner = model.make_preprocessor_external()
        assert torch.equal(model(conditioner(_good())).features, expected)
        model.to(torch.bfloat16)
        assert model(conditioner(_good())).features.dtype == torch.bfloat16
        assert model([conditioner(_good())[0]])[0].features.dtype == torch.bfloat16


def test_traced_graphs_have_no_check(model):
    wrong = _good() * 255
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="the model takes pixels")
        torch.compile(model, backend="eager", fullgraph=True)(wrong)
        torch.func.vmap(lambda x: model(x[None]).summary[0], randomness="error")(wrong)
        torch.export.export(model, (wrong,))


def test_a_frozen_model_in_training_mode(model):
    """`detector.train()` reaches a frozen backbone too."""
    detector = torch.nn.ModuleDict({"backbone": model.requires_grad_(False)}).train()
    with pytest.warns(UserWarning, match=r"training mode without training: .* model\.eval\(\)") as seen:
        first = model(_good()).features
        second = model(_good()).features
    assert len(seen) == 1
    assert not torch.allclose(first, second)
    detector["backbone"].eval()
    assert torch.equal(model(_good()).features, model(_good()).features)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, x: model(x),  # the model is in eval mode, its backbone is not
        lambda model, x: model.model(x),
        lambda model, x: model.model.forward_features(x),
        lambda model, x: model.model.forward_intermediates(x, 1),
        lambda model, x: model.model.get_intermediate_layers(x, 1),
    ],
)
def test_a_backbone_that_was_taken_out(model, call):
    """Detectors take `model.model`, and their `train()` reaches that alone."""
    nn.ModuleDict({"backbone": model.model.requires_grad_(False)}).train()
    with pytest.warns(UserWarning, match="training mode without training") as seen:
        call(model.requires_grad_(False), _good())
        call(model, _good())
    assert len(seen) == 1 and seen[0].filename == __file__


def test_a_model_that_is_trained_is_not_warned(model, reference):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train()(_good())
        model.model.forward_features(_good())
        plain = load_model(reference / "no_cpe_patch14" / "checkpoint.pth.tar", device="cpu")
        plain.requires_grad_(False).train()(_good()[..., :56, :56])
