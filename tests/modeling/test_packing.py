"""Images of different sizes in one pass: every image's result equals running it alone."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from radio import RADIOModel, RadioOutput, load_model
from radio.modeling import inputs
from radio.modeling.inputs import divide_into_passes
from radio.modeling.kernels import variable_length
from radio.modeling.kernels.variable_length import VariableLengthAttention
from radio.modeling.token_merging import InNetworkMerging, TokenMerging

SIZES = [(64, 96), (96, 64), (256, 256), (32, 32), (272, 304), (32, 32)]


def _load(reference, name: str = "v2_5", **options) -> RADIOModel:
    return load_model(reference / name / "checkpoint.pth.tar", device="cpu", **options)


def _images(sizes=SIZES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, height, width, generator=generator) for height, width in sizes]


def _tensors(value) -> list[torch.Tensor]:
    """All tensors of a nested output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [tensor for part in parts for tensor in _tensors(part)]


def _assert_same(packed, alone, tolerance: float = 1e-5) -> None:
    packed, alone = _tensors(packed), _tensors(alone)
    assert len(packed) == len(alone) > 0
    for actual, expected in zip(packed, alone, strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="backbone"),
        pytest.param({"adaptors": ["clip", "siglip", "dino_v2", "sam"]}, id="adaptors"),
        pytest.param({"pos_embed_align_corners": False}, id="align_corners"),
        pytest.param({"vitdet_window_size": 2}, id="windows"),
        pytest.param(
            {"vitdet_window_size": 2, "vitdet_num_windowed": 2, "adaptors": ["sam"]}, id="windows-adaptors"
        ),
    ],
)
@pytest.mark.parametrize("feature_fmt", ["NLC", "NCHW"])
@torch.inference_mode()
def test_each_result_equals_the_image_alone(reference, options, feature_fmt):
    model = _load(reference, **options)
    sizes = [(h // 32 * 32, w // 32 * 32) for h, w in SIZES]
    images = _images(sizes)
    packed = model(images, feature_fmt=feature_fmt)
    assert len(packed) == len(images)
    for output, image in zip(packed, images, strict=True):
        _assert_same(output, model(image[None], feature_fmt=feature_fmt))


@pytest.mark.parametrize(
    ("name", "adaptors", "step"),
    [
        ("upsample", ["clip", "sam"], 16),
        ("dinov2_giant", ["clip", "sam"], 14),
        ("no_cpe_patch14", ["clip"], 14),
        ("normalizers", ["clip"], 16),
        ("single_cls_mlp_v1", ["clip"], 16),
        ("layer_scale_norm", ["clip"], 16),
        ("mlpnorm", ["clip"], 16),
        ("token_slots", ["siglip", "sam"], 16),
    ],
)
@pytest.mark.parametrize("window", [None, 2])
@torch.inference_mode()
def test_every_layout(reference, name, adaptors, step, window):
    model = _load(reference, name, adaptors=adaptors, vitdet_window_size=window)
    images = _images([(4 * step, 6 * step), (6 * step, 4 * step), (2 * step, 2 * step)])
    for output, image in zip(model(images), images, strict=True):
        _assert_same(output, model(image[None]))


@torch.inference_mode()
def test_attention_heads_stay_within_their_image(reference):
    """An attention head's blocks see the patches of one image only."""
    from dataclasses import replace

    from radio.modeling.network import RADIONetwork

    config = _load(reference, adaptors=["sam"]).config
    sam = config.adaptor("sam")
    feature = replace(sam.feature, kind="attn", attn_hidden_dim=32, attn_qkv_bias=True)
    config = replace(config, adaptors=(replace(sam, feature=feature),))
    torch.manual_seed(0)
    with torch.device("meta"):
        network = RADIONetwork(config, ["sam"])
    network = network.to_empty(device="cpu").eval()
    for tensor in network.state_dict().values():
        tensor.normal_(1, 0.2)
    images = _images()
    for output, image in zip(network(images), images, strict=True):
        _assert_same(output, network(image[None]))


@pytest.mark.parametrize("sizes", ["square", "landscape_portrait"])
def test_reference_outputs(reference, sizes):
    """Packed images have the outputs of the public code, which ran them one size at a time."""
    names = {
        "square": ["square", "landscape"],
        "landscape_portrait": ["portrait", "beyond_grid", "landscape"],
    }[sizes]
    tensors = load_file(reference / "v2_5" / "cases.safetensors")
    assert set(names) <= {
        case["name"] for case in json.loads((reference / "v2_5" / "cases.json").read_text())
    }
    model = _load(reference, pos_embed_align_corners=False)
    with torch.inference_mode():
        outputs = model([tensors[f"{name}.input"][:1] for name in names])
    for name, output in zip(names, outputs, strict=True):
        for field in ("summary", "features"):
            expected = tensors[f"{name}.output.{field}"][:1]
            assert (getattr(output, field) - expected).abs().max() <= 2e-5 * expected.abs().max()


INTERMEDIATES = [
    {"indices": [2, 5, -1]},
    {"indices": 3, "return_prefix_tokens": True, "output_fmt": "NLC"},
    {"indices": [1, 4], "intermediates_only": True, "stop_early": True},
    {"indices": [3, 5], "aggregation": "dense", "norm": True},
    {"indices": [3, 5], "aggregation": "dense", "norm_alpha_scheme": "pre-alpha"},
]


@pytest.mark.parametrize("arguments", INTERMEDIATES)
@pytest.mark.parametrize("name", ["v2_5", "normalizers", "normalizer_shared_rotation", "dinov2_giant"])
@torch.inference_mode()
def test_intermediates(reference, name, arguments):
    model = _load(reference, name, adaptors=["clip"])
    step = model.patch_size
    images = _images([(4 * step, 6 * step), (2 * step, 2 * step), (6 * step, 4 * step)])
    packed = model.forward_intermediates(images, **arguments)
    assert len(packed) == len(images)
    for output, image in zip(packed, images, strict=True):
        _assert_same(output, model.forward_intermediates(image[None], **arguments))


@torch.inference_mode()
def test_intermediates_with_windows_and_merging(reference):
    model = _load(reference, vitdet_window_size=2)
    images = _images([(64, 96), (96, 64)])
    arguments = {"indices": [0, 3, 11], "output_fmt": "NLC", "merge": TokenMerging(keep=8)}
    packed = model.forward_intermediates(images, **arguments)
    for (final, intermediates), image in zip(packed, images, strict=True):
        alone_final, alone = model.forward_intermediates(image[None], **arguments)
        assert final.features.shape == (1, 8, 64)
        _assert_same([final.features, final.summary], [alone_final.features, alone_final.summary])
        _assert_same([each.features for each in intermediates], [each.features for each in alone])


def test_gradients_equal_those_of_the_images_alone(reference):
    model = _load(reference, adaptors=["clip"])
    images = _images([(64, 96), (32, 32)])
    weight = model.blocks[3].attn.qkv.weight

    def gradient(outputs: list[dict[str, RadioOutput]]) -> torch.Tensor:
        loss = sum(
            output["clip"].summary.square().sum() + output["backbone"].features.sum() for output in outputs
        )
        return torch.autograd.grad(loss, weight)[0]

    _assert_same(gradient(model(images)), gradient([model(image[None]) for image in images]), 1e-4)


def test_training_draws_a_position_crop_per_image(reference):
    model = _load(reference).train()
    image = _images([(64, 96)])[0]
    torch.manual_seed(0)
    first, second = model([image, image])
    assert not torch.allclose(first.features, second.features)
    torch.manual_seed(0)
    _assert_same(first, model(image[None]))


@torch.inference_mode()
def test_half_precision(reference):
    model = _load(reference, dtype="bfloat16", adaptors=["clip"])
    images = _images()
    for output, image in zip(model(images), images, strict=True):
        _assert_same(output, model(image[None]), 5e-2)


@torch.inference_mode()
def test_batch_axis_is_optional_and_inputs_stay_untouched(reference):
    model = _load(reference)
    images = _images()
    copies = [image.clone() for image in images]
    _assert_same(model([image[None] for image in images]), model(images), 0)
    assert all(torch.equal(image, copy) for image, copy in zip(images, copies, strict=True))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "empty"),
        (["photo.jpg"], TypeError, "encode"),
        ([torch.rand(2, 3, 32, 32)], ValueError, r"\(3, H, W\) or \(1, 3, H, W\)"),
        (
            [torch.rand(3, 32, 32), torch.rand(3, 30, 32)],
            ValueError,
            "nearest supported resolution is 32 x 32",
        ),
        ([torch.zeros(3, 32, 32, dtype=torch.uint8)], TypeError, "255"),
    ],
)
def test_bad_lists(reference, images, error, message):
    with pytest.raises(error, match=message):
        _load(reference)(images)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([10], [1]),
        ([2000, 2000, 2000], [2, 1]),
        ([9000, 10, 10], [1, 2]),
        ([10, 9000, 10], [1, 1, 1]),
        ([1024] * 9, [4, 4, 1]),
    ],
)
def test_a_cpu_runs_rows_of_limited_length(lengths, expected):
    vit_b_bfloat16 = 4 * 768 * 2
    passes = divide_into_passes(lengths, vit_b_bfloat16, torch.device("cpu"))
    assert [len(lengths[pack]) for pack in passes] == expected
    assert [length for pack in passes for length in lengths[pack]] == lengths
    assert divide_into_passes(lengths, vit_b_bfloat16, torch.device("cuda")) == [slice(0, len(lengths))]


@torch.inference_mode()
def test_several_rows_keep_the_order(reference, monkeypatch):
    model = _load(reference, adaptors=["clip"])
    images = _images()
    tome = InNetworkMerging(r=2, expand=False)
    expected, expected_intermediates = model(images), model.forward_intermediates(images, [2, 5])
    merged = [model(image[None], tome=tome) for image in images]
    monkeypatch.setattr(inputs, "_CPU_PASS_BYTES", 60 * 4 * model.embed_dim * 4)
    _assert_same(model(images), expected)
    _assert_same(model.forward_intermediates(images, [2, 5]), expected_intermediates)
    for packed, alone in zip(model(images, tome=tome), merged, strict=True):
        for name in ("backbone", "clip"):
            _assert_same(
                (packed[name].summary, packed[name].features), (alone[name].summary, alone[name].features)
            )


def _segment_by_segment(q, k, v, lengths):
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], dim=2)


@pytest.mark.parametrize("lengths", [[5], [3, 7], [4, 4, 4], [2, 5, 5, 1, 1]])
def test_segments(lengths):
    q, k, v = torch.rand(3, 1, 2, sum(lengths), 8, generator=torch.Generator().manual_seed(0))
    expected = _segment_by_segment(q, k, v, lengths)
    torch.testing.assert_close(VariableLengthAttention(lengths)(q, k, v), expected)


def _variable_length_attention(q, k, v, boundaries_q, boundaries_k, longest_q, longest_k):
    """What `torch.nn.attention.varlen.varlen_attn` computes, (N, heads, head_dim), in plain PyTorch."""
    assert boundaries_q.dtype == boundaries_k.dtype == torch.int32
    starts = boundaries_q.tolist()
    assert longest_q == longest_k == max(end - start for start, end in pairwise(starts))
    lengths = [end - start for start, end in pairwise(starts)]
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
    return _segment_by_segment(q, k, v, lengths)[0].transpose(0, 1)


def test_variable_length_kernel_gets_the_right_layout(reference, monkeypatch):
    """The path that a GPU takes, with the kernel's contract computed on the CPU."""
    pytest.importorskip("torch.nn.attention.varlen", reason="this PyTorch has no such kernel")
    model = _load(reference, adaptors=["clip"])
    images = _images()
    with torch.inference_mode():
        expected = model(images)
        monkeypatch.setattr(variable_length, "has_variable_length_kernel", lambda q: True)
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _variable_length_attention)
        _assert_same(model(images), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@torch.inference_mode()
def test_variable_length_kernel_on_a_gpu():
    lengths = [300, 17, 300, 1000]
    q, k, v = torch.randn(3, 1, 4, sum(lengths), 64, device="cuda", dtype=torch.bfloat16)
    assert variable_length.has_variable_length_kernel(q)
    expected = _segment_by_segment(q.float(), k.float(), v.float(), lengths)
    torch.testing.assert_close(
        VariableLengthAttention(lengths)(q, k, v).float(), expected, atol=2e-2, rtol=2e-2
    )


def test_the_kernel_is_for_gpus_in_half_precision():
    assert not variable_length.has_variable_length_kernel(torch.zeros(1, 2, 4, 64))
    assert not variable_length.has_variable_length_kernel(torch.zeros(1, 2, 4, 64, dtype=torch.bfloat16))
