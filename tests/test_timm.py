"""`radio.timm`: the released versions as models of timm, with the numbers of `load_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import timm.data
import torch
from PIL import Image
from released import ARCHITECTURES, VERSIONS, backbone_shapes
from torch import Tensor, nn

import radio.timm
from radio import RELEASES, load_model
from radio.architectures import release_config
from radio.modeling.network import RADIONetwork
from radio.timm.random_weights import random_network
from radio.timm.vit import RADIOViT

SUPPORTED = [release for release in RELEASES if release.family == "vit"]
CHECKPOINTS = [
    "v2_5",
    "normalizers",
    "layer_scale_norm",
    "no_cpe_patch14",
    "dinov2_giant",
    "single_cls_mlp_v1",
]


def _file(reference: Path, name: str = "v2_5") -> Path:
    return reference / name / "checkpoint.pth.tar"


def _create(path: Path, **options: Any) -> Any:
    overlay = {"file": str(path)}
    return timm.create_model("radio_v2_5_b", pretrained=True, pretrained_cfg_overlay=overlay, **options)


def _images(patch_size: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 5 * patch_size, 7 * patch_size, generator=torch.Generator().manual_seed(0))


def test_every_version_is_listed() -> None:
    names = timm.list_models("*radio*", module="timm")
    assert {radio.timm.timm_name(release) for release in SUPPORTED} <= set(names)
    assert "radio_v2_5_b" in timm.list_models(pretrained=True)
    assert timm.get_pretrained_cfg("c_radio_v4_so400m").hf_hub_id == "nvidia/C-RADIOv4-SO400M"


@pytest.mark.parametrize("release", SUPPORTED, ids=lambda release: release.version)
def test_random_models_have_the_released_shapes(release: Any) -> None:
    version = VERSIONS[release.version]
    with torch.device("meta"):
        network = RADIONetwork(release_config(release))
    built = {
        name: tuple(value.shape) for name, value in network.state_dict().items() if name.startswith("model.")
    }
    shapes = backbone_shapes(version, ARCHITECTURES[version.architecture], version.cpe_max_size)
    released = {
        name.replace("base_model.", "model.").replace("grandma", "gamma"): shape
        for name, shape in shapes.items()
        if name.startswith("base_model.") and "mask_token" not in name
    }
    assert built == released
    assert sum(parameter.numel() for parameter in network.parameters()) == release.parameters
    assert network.num_cls_tokens == version.num_cls_tokens
    assert network.summary_dim == version.num_summary_tokens * network.embed_dim


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_features_only_equals_load_model(reference: Path, name: str) -> None:
    model = load_model(_file(reference, name), device="cpu", dtype="float32")
    depth = len(model.blocks)
    backbone = _create(_file(reference, name), features_only=True, out_indices=[1, depth - 1])
    x = _images(model.patch_size)
    with torch.no_grad():
        maps = backbone(x)
        expected = model.forward_intermediates(x, indices=[1, depth - 1], intermediates_only=True)
    for found, wanted in zip(maps, expected, strict=True):
        assert found.shape == (2, model.embed_dim, 5, 7)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert backbone.feature_info.channels() == [model.embed_dim] * 2
    assert backbone.feature_info.reduction() == [model.patch_size] * 2


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_pooled_output_is_the_summary(reference: Path, name: str) -> None:
    model = load_model(_file(reference, name), device="cpu", dtype="float32")
    wrapped = _create(_file(reference, name))
    x = _images(model.patch_size)
    with torch.no_grad():
        summary, features = model(x)
        tokens = wrapped.forward_features(x)
        torch.testing.assert_close(wrapped(x), summary, rtol=0, atol=1e-6)
    torch.testing.assert_close(tokens[:, wrapped.num_prefix_tokens :], features, rtol=0, atol=1e-6)
    assert tokens.shape[-1] == wrapped.num_features == model.embed_dim
    assert wrapped.head_hidden_size == model.summary_dim
    assert not wrapped.training


def test_intermediates_with_prefix_tokens_norm_and_final_output(reference: Path) -> None:
    model = load_model(_file(reference, "layer_scale_norm"), device="cpu", dtype="float32")
    wrapped = _create(_file(reference, "layer_scale_norm"))
    x = _images(model.patch_size)
    with torch.no_grad():
        tokens, pairs = wrapped.forward_intermediates(
            x, indices=2, return_prefix_tokens=True, norm=True, output_fmt="NLC"
        )
        _, expected = model.forward_intermediates(x, indices=2, norm=True, output_fmt="NLC")
        torch.testing.assert_close(tokens, wrapped.forward_features(x))
    for (patches, prefix), wanted in zip(pairs, expected, strict=True):
        torch.testing.assert_close(patches, wanted, rtol=0, atol=1e-6)
        assert prefix.shape == (2, wrapped.num_prefix_tokens, model.embed_dim)


def test_unused_blocks_are_dropped(reference: Path) -> None:
    """A detector trains on several GPUs: a block without gradients would stop it."""
    backbone = _create(_file(reference), features_only=True, out_indices=[0, 1]).train()
    assert len(backbone.model.blocks) == 2
    sum(each.square().mean() for each in backbone(_images(16))).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_windows(reference: Path) -> None:
    model = load_model(_file(reference), device="cpu", dtype="float32", vitdet_window_size=2)
    backbone = _create(_file(reference), features_only=True, out_indices=[0, 3], vitdet_window_size=2)
    x = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        for found, wanted in zip(
            backbone(x),
            model.forward_intermediates(x, indices=[0, 3], intermediates_only=True),
            strict=True,
        ):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_classifier(reference: Path) -> None:
    model = _create(_file(reference), num_classes=7, drop_rate=0.5)
    x = _images(16)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.head_hidden_size)
    model.reset_classifier(3, "avg")
    assert model(x).shape == (2, 3) and model.get_classifier().in_features == model.num_features
    model.reset_classifier(0, "")
    assert model(x).shape == (2, model.num_prefix_tokens + 35, model.num_features)
    assert isinstance(model.get_classifier(), nn.Identity)
    with pytest.raises(ValueError, match="global_pool 'max'; allowed"):
        model.reset_classifier(3, "max")


def test_the_data_pipeline_does_not_normalize(reference: Path, photos: list[Path]) -> None:
    model = _create(_file(reference))
    settings = timm.data.resolve_model_data_config(model)
    assert settings["mean"] == (0.0, 0.0, 0.0) and settings["std"] == (1.0, 1.0, 1.0)
    assert settings["input_size"] == (3, 768, 768)
    with Image.open(photos[0]) as photo:
        pixels = timm.data.create_transform(**settings, is_training=False)(photo.convert("RGB"))
    assert pixels.shape == (3, 768, 768)
    assert 0 <= pixels.min() < 0.2 and 0.8 < pixels.max() <= 1


def test_layer_decay_and_weight_decay_know_the_parameters(reference: Path) -> None:
    from timm.optim import create_optimizer_v2

    for name in ("v2_5", "dinov2_giant", "no_cpe_patch14"):
        model = _create(_file(reference, name), num_classes=2)
        optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.5)
        scales = {group["lr_scale"] for group in optimizer.param_groups}
        assert len(scales) == len(model.blocks) + 2
        plain = {
            id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]
        }
        assert {id(model.get_parameter(n)) for n in model.no_weight_decay()} <= plain


def test_saved_weights_load_again(reference: Path, tmp_path: Path) -> None:
    model = _create(_file(reference), num_classes=4)
    torch.save(model.state_dict(), tmp_path / "tuned.pth")
    again = _create(_file(reference), num_classes=4, checkpoint_path=str(tmp_path / "tuned.pth"))
    x = _images(16)
    torch.testing.assert_close(again(x), model(x))
    with pytest.raises(RuntimeError, match=r"pretrained_cfg_overlay=\{'file'"):
        _create(_file(reference), checkpoint_path=str(_file(reference)))


def test_bad_requests_are_refused(reference: Path) -> None:
    with pytest.raises(ValueError, match="in_chans must be 3, got 1"):
        _create(_file(reference), in_chans=1)
    with pytest.raises(
        ValueError, match="multiples of 16, got 100 x 100; the nearest supported resolution is 96 x 96"
    ):
        _create(_file(reference), img_size=100)
    assert _create(_file(reference), img_size=(64, 96), dynamic_img_size=True).in_chans == 3
    with pytest.raises(ValueError, match="multiples of 16, got 100 x 64"):
        _create(_file(reference), features_only=True, out_indices=[0])(torch.rand(1, 3, 100, 64))
    with pytest.raises(TypeError, match="no_such_option"):
        _create(_file(reference), no_such_option=1)
    with pytest.raises(ValueError, match="indices"):
        _create(_file(reference), features_only=True, out_indices=[99])
    with pytest.raises(radio.CheckpointError, match="there is no file"):
        _create(Path("absent.pth.tar"))


def test_a_model_with_random_weights_is_finite() -> None:
    model = timm.create_model("radio_v2_5_b", num_classes=5, img_size=64)
    assert isinstance(model, RADIOViT)
    logits = model(torch.rand(1, 3, 64, 64))
    assert logits.shape == (1, 5) and logits.isfinite().all() and logits.std() > 0


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_random_weights_of_every_layout_are_finite(reference: Path, name: str) -> None:
    config = load_model(_file(reference, name), device="cpu").config
    network = random_network(config).eval()
    output = network(_images(network.patch_size))
    assert output.summary.isfinite().all() and output.features.isfinite().all()
    assert output.features.std() > 0


def test_training_options_of_frameworks(reference: Path) -> None:
    """Configurations of detectors give a drop path rate, and switch gradient checkpointing on."""
    model = _create(_file(reference), drop_path_rate=0.3)
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    model.set_grad_checkpointing()
    assert model.radio_model.is_gradient_checkpointing
    expected = _create(_file(reference))
    x = _images(16)
    torch.testing.assert_close(model(x), expected(x))
