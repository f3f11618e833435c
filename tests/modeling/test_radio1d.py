"""RADIO1D: elastic tokens, necks, what the decoder makes of few, and what the architecture cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from radio import load_model
from radio.modeling.outputs import RadioOutput
from radio.modeling.token_merging import InNetworkMerging, TokenMerging


@pytest.fixture(scope="module")
def path(reference: Path) -> Path:
    return reference / "radio1d" / "checkpoint.pth.tar"


@pytest.fixture(scope="module")
def both(path: Path):
    return load_model(path, device="cpu")


@pytest.fixture(scope="module")
def encoder(path: Path):
    return load_model(path, device="cpu", neck_name="encoder")


@pytest.fixture(scope="module")
def decoder(path: Path):
    return load_model(path, device="cpu", neck_name="decoder")


def _image(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_what_it_says_of_itself(both, reference):
    assert (both.patch_size, both.min_resolution_step, both.embed_dim, both.summary_dim) == (16, 16, 32, 64)
    assert (both.num_cls_tokens, both.num_summary_tokens) == (3, 8)
    assert [block.attn.num_heads for block in both.blocks] == [4, 4, 4, 8, 8]
    released = load_model(reference / "radio1d_hf", device="cpu")
    assert (released.num_cls_tokens, released.num_summary_tokens) == (4, 10)
    assert list(released(_image(1, 64, 64))) == ["encoder", "decoder"]


def test_both_outputs_come_from_one_pass(both, encoder, decoder):
    x = _image(2, 80, 112)
    outputs = both(x, num_tokens=5)
    assert list(outputs) == ["encoder", "decoder"]
    assert all(isinstance(output, RadioOutput) for output in outputs.values())
    for alone, name in ((encoder, "encoder"), (decoder, "decoder")):
        for actual, expected in zip(alone(x, num_tokens=5), outputs[name], strict=True):
            assert torch.equal(actual, expected)
    assert outputs["encoder"].features.shape == (2, 5, 64)
    assert outputs["decoder"].features.shape == (2, 5 * 7, 32)


def test_the_decoder_does_not_run_for_the_encoders_output(path):
    model = load_model(path, device="cpu", neck_name="encoder")
    del model.backbone.decoder
    assert model(_image(1, 64, 64)).features.shape == (1, 4, 64)


@pytest.mark.parametrize(
    ("size", "available"), [((64, 64), 4), ((112, 144), 15), ((48, 80), 3), ((16, 48), 0)]
)
def test_how_many_tokens_there_are(encoder, size, available):
    """A quarter of the patches, rounded down: fewer than the merged grid of an odd one has."""
    x = _image(1, *size)
    everything = encoder(x).features
    assert everything.shape == (1, available, 64)
    for asked in (0, 1, 2, available, available + 100):
        some = encoder(x, num_tokens=asked).features
        assert torch.equal(some, everything[:, :asked])


def test_no_tokens_leave_what_was_learned(decoder):
    first, second = (decoder(x, num_tokens=0).features for x in (_image(1, 64, 96), 1 - _image(1, 64, 96)))
    assert torch.equal(first, second)


def test_progressive_reduction_is_no_prefix(reference):
    model = load_model(
        reference / "radio1d_progressive" / "checkpoint.pth.tar", device="cpu", neck_name="encoder"
    )
    x = _image(1, 128, 128)
    few, many = model(x, num_tokens=2).features, model(x).features
    assert few.shape == (1, 2, 64)
    assert not torch.allclose(few, many[:, :2])
    with pytest.raises(ValueError, match="intermediates_only=True"):
        model.forward_intermediates(x, 2, output_fmt="NLC")


@pytest.mark.parametrize(
    ("given", "error"), [(-1, ValueError), (2.0, TypeError), (True, TypeError), ("4", TypeError)]
)
def test_numbers_of_tokens_that_make_no_sense(both, given, error):
    with pytest.raises(error, match="num_tokens must be"):
        both(_image(1, 64, 64), num_tokens=given)


def test_other_models_have_no_necks_and_no_tokens(reference):
    path = reference / "v2_5" / "checkpoint.pth.tar"
    with pytest.raises(
        ValueError, match="is how many condensed tokens a RADIO1D model keeps, and this is a ViT"
    ):
        load_model(path, device="cpu")(_image(1, 64, 64), num_tokens=4)


def test_an_unknown_neck(path):
    with pytest.raises(ValueError, match="unknown neck_name 'middle'; allowed: encoder, decoder"):
        load_model(path, neck_name="middle")


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("both", lambda m, x: m(x, feature_fmt="NCHW"), "neck_name='decoder'"),
        ("encoder", lambda m, x: m(x, feature_fmt="NCHW"), "neck_name='decoder'"),
        ("both", lambda m, x: m(x, merge=TokenMerging(keep=2)), "num_tokens says how many"),
        ("decoder", lambda m, x: m(x, tome=InNetworkMerging(r=1)), "num_tokens says how many it keeps"),
        ("decoder", lambda m, x: m.forward_intermediates(x, 2, aggregation="dense"), "aggregation='sparse'"),
    ],
)
def test_what_it_cannot_do(request, name, call, message):
    with pytest.raises(ValueError, match=message):
        call(request.getfixturevalue(name), _image(1, 64, 64))


def test_vitdet_windows_are_refused(path):
    with pytest.raises(ValueError, match="vitdet_window_size is for ViTs"):
        load_model(path, vitdet_window_size=2)


def test_decoded_features_merge(decoder):
    assert decoder(_image(1, 128, 128), merge=TokenMerging(keep=16)).features.shape == (1, 16, 32)


def test_adaptors_read_the_decoder(path):
    x = _image(1, 64, 96)
    with pytest.raises(ValueError, match="adaptors read what RADIO1D's decoder gives"):
        load_model(path, adaptors=["dino_v3"], device="cpu", neck_name="encoder")
    alone = load_model(path, adaptors=["dino_v3"], device="cpu", neck_name="decoder")(x)
    outputs = load_model(path, adaptors=["dino_v3"], device="cpu")(x)
    assert isinstance(outputs["encoder"], RadioOutput)
    assert torch.equal(outputs["decoder"]["dino_v3"].features, alone["dino_v3"].features)


def test_images_of_different_sizes(both):
    images = [_image(1, 64, 96)[0], _image(1, 80, 48)[0]]
    for image, output in zip(images, both(images, num_tokens=3), strict=True):
        alone = both(image[None], num_tokens=3)
        assert all(torch.equal(output[name].features, alone[name].features) for name in output)


def test_encode(both, encoder, photos):
    image = both.encode(photos[0], size=128, num_tokens=6, feature_fmt="NCHW")
    assert image.condensed.features.shape == (1, 6, 64)
    assert image.features.shape == (1, 32, *image.grid)
    assert image.summary_by_teacher["dino_v3"].shape == (1, 32)
    first, second = encoder.encode(photos[:2], size="long:128", num_tokens=6)
    assert first.features.shape == second.features.shape == (1, 6, 64)
    assert first.summary_by_teacher["dino_v3"].shape == (1, 64)
    assert first.condensed is None


def test_adaptors_through_encode(path, photos):
    model = load_model(path, adaptors=["sam3"], device="cpu")
    image = model.encode(photos[0], size=128, feature_fmt="NCHW")
    assert image.adaptors["sam3"].features.shape[-2:] == image.grid
    assert image.condensed.features.ndim == 3


def test_intermediates_with_the_final_output(both, decoder):
    x = _image(1, 64, 96)
    final, layers = decoder.forward_intermediates(x, [0, -1], return_prefix_tokens=True)
    assert torch.equal(final.features, decoder(x, feature_fmt="NCHW").features)
    assert [layer.features.shape[1:] for layer in layers] == [(32, 4, 6), (64, 2, 3)]
    assert [layer.summary.shape for layer in layers] == [(1, 64), (1, 128)]
    final, _ = both.forward_intermediates(x, 1, output_fmt="NLC")
    assert list(final) == ["encoder", "decoder"]
    stopped = both.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)
    assert torch.equal(stopped[0], both.forward_intermediates(x, [1], intermediates_only=True)[0])


def test_the_norm_of_intermediates(reference):
    model = load_model(reference / "radio1d_progressive" / "checkpoint.pth.tar", device="cpu")
    x = _image(1, 128, 128)
    normed = model.forward_intermediates(x, 1, norm=True, intermediates_only=True, output_fmt="NLC")[0]
    plain = model.forward_intermediates(x, 1, intermediates_only=True, output_fmt="NLC")[0]
    torch.testing.assert_close(normed, model.backbone.norm(plain))
    with pytest.raises(
        ValueError, match="needs blocks of width 64, from block 3 on; one that was taken is 32"
    ):
        model.forward_intermediates(x, [2], norm=True, intermediates_only=True)


@pytest.mark.parametrize("name", ["radio1d", "radio1d_progressive", "radio1d_hf"])
@pytest.mark.parametrize("neck", [None, "encoder", "decoder"])
def test_saving(reference, tmp_path, name, neck):
    source = reference / name
    model = load_model(
        source if name.endswith("hf") else source / "checkpoint.pth.tar", device="cpu", neck_name=neck
    )
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert again.config.radio1d == model.config.radio1d
    assert again.config.final_norm == model.config.final_norm
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    x = _image(1, 80, 112)
    first, second = model(x, num_tokens=3), again(x, num_tokens=3)
    pairs = zip(first.values(), second.values(), strict=True) if neck is None else [(first, second)]
    for one, other in pairs:
        torch.testing.assert_close(one.features, other.features)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 6e-2), ("float16", 1e-2), ("float64", 1e-5)])
def test_dtypes(path, both, dtype, tolerance):
    x = _image(2, 96, 64)
    outputs = load_model(path, device="cpu", dtype=dtype)(x)
    for name, expected in both(x).items():
        assert str(outputs[name].features.dtype) == f"torch.{dtype}"
        for actual, reference in zip(outputs[name], expected, strict=True):
            assert (actual.float() - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_weight(path, checkpointing):
    model = load_model(path, device="cpu").train().requires_grad_(True)
    model.set_grad_checkpointing(checkpointing)
    outputs = model(_image(2, 64, 96), num_tokens=4)
    sum(tensor.square().sum() for output in outputs.values() for tensor in output).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_one_graph(both):
    compiled = torch.compile(both, fullgraph=True, dynamic=False, backend="eager")
    x = _image(1, 80, 96)
    with torch.inference_mode():
        actual, expected = compiled(x, num_tokens=5), both(x, num_tokens=5)
    for name in expected:
        torch.testing.assert_close(actual[name].features, expected[name].features)
