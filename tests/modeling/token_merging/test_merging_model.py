"""Token merging through the model: `merge=` on the outputs, `tome=` inside the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import needs_new_compiler
from torch import Tensor

from radio import RADIOModel, RadioOutput, load_model
from radio.modeling.token_merging import InNetworkMerging, MergedTokens, TokenMerging, merge_tokens
from radio.modeling.token_merging.outputs import MergedRadioOutput


@pytest.fixture(scope="module")
def model() -> RADIOModel:
    return load_model(_checkpoint("v2_5"), device="cpu").requires_grad_(False)


def _checkpoint(case: str) -> Path:
    return Path(__file__).parents[2] / "reference" / case / "checkpoint.pth.tar"


def _images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_merges_the_features_and_nothing_else(model: RADIOModel) -> None:
    x = _images(2, 3, 96, 128)
    plain, merged = model(x), model(x, merge=TokenMerging(keep=20))
    assert isinstance(merged, MergedRadioOutput) and not isinstance(merged, RadioOutput)
    assert torch.equal(merged.summary, plain.summary)
    expected = merge_tokens(plain.features, (6, 8), keep=20)
    torch.testing.assert_close(merged.features, expected.features)
    assert torch.equal(merged.sizes, expected.sizes)
    assert torch.equal(merged.positions, expected.positions)
    assert merged.plan.grid == (6, 8)
    assert merged.plan.unmerge(merged.features).shape == plain.features.shape


def test_adaptors_share_the_plan_of_the_backbone() -> None:
    model = load_model(_checkpoint("v2_5"), adaptors=["clip", "sam"], device="cpu").requires_grad_(False)
    x = _images(1, 3, 64, 96)
    plain, merged = model(x), model(x, merge=TokenMerging(keep=10, mode="max"))
    assert list(merged) == ["backbone", "clip", "sam"]
    for name, output in merged.items():
        assert torch.equal(output.summary, plain[name].summary)
        assert torch.equal(output.plan.assignment, merged["backbone"].plan.assignment)
        torch.testing.assert_close(output.features, output.plan.reduce(plain[name].features, "max"))


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_upsampled_adaptor_maps_merge_with_their_patches(mode: str) -> None:
    folder = _checkpoint("upsample")
    adaptors = load_model(folder, device="cpu").config.adaptors
    name = next(adaptor.name for adaptor in adaptors if adaptor.feature.upsample_factor > 1)
    model = load_model(folder, adaptors=[name], device="cpu").requires_grad_(False)
    factor = model.adaptors[name].upsample_factor
    x = _images(1, 3, 3 * model.patch_size, 4 * model.patch_size)
    plain, merged = model(x)[name], model(x, merge=TokenMerging(keep=6, mode=mode))[name]
    fine = plain.features[0].reshape(3 * factor, 4 * factor, -1)
    for token in range(6):
        places = [
            fine[i // 4 * factor + dy, i % 4 * factor + dx]
            for i in range(12)
            if merged.plan.assignment[0, i] == token
            for dy in range(factor)
            for dx in range(factor)
        ]
        stacked = torch.stack(places)
        expected = stacked.amax(dim=0) if mode == "max" else getattr(stacked, mode)(dim=0)
        torch.testing.assert_close(merged.features[0, token], expected)
    assert torch.equal(merged.sizes.sum(dim=1), torch.tensor([12.0]))


def test_packed_images_each_have_their_own_merging(model: RADIOModel) -> None:
    images = [_images(3, 96, 64), _images(3, 48, 128, seed=1)]
    merges = [TokenMerging(keep=9), TokenMerging(ratio=0.5)]
    packed = model(images, merge=merges)
    assert [output.features.shape[1] for output in packed] == [9, 12]
    for image, merge, output in zip(images, merges, packed, strict=True):
        alone = model(image[None], merge=merge)
        assert torch.equal(output.plan.assignment, alone.plan.assignment)
        torch.testing.assert_close(output.features, alone.features, rtol=1e-4, atol=1e-5)
    assert [output.features.shape[1] for output in model(images, merge=TokenMerging(keep=8))] == [8, 8]
    with pytest.raises(ValueError, match="lists 1 TokenMerging for 2 images"):
        model(images, merge=merges[:1])


def test_intermediates_share_one_plan(model: RADIOModel) -> None:
    x = _images(1, 3, 96, 96)
    merge = TokenMerging(keep=12)
    options = {"indices": [3, -1], "output_fmt": "NLC"}
    _, plain = model.forward_intermediates(x, **options)
    final, layers = model.forward_intermediates(x, **options, merge=merge)
    assert torch.equal(final.plan.assignment, model(x, merge=merge).plan.assignment)
    for layer, full in zip(layers, plain, strict=True):
        assert isinstance(layer, MergedTokens)
        torch.testing.assert_close(layer.features, final.plan.reduce(full))

    only = model.forward_intermediates(
        x, **options, merge=merge, intermediates_only=True, return_prefix_tokens=True
    )
    expected = merge_tokens(plain[-1], (6, 6), keep=12).plan
    for layer, full in zip(only, plain, strict=True):
        assert isinstance(layer, MergedRadioOutput)
        torch.testing.assert_close(layer.features, expected.reduce(full))


def test_merging_goes_with_windows() -> None:
    model = load_model(_checkpoint("v2_5"), vitdet_window_size=2, device="cpu").requires_grad_(False)
    x = _images(1, 3, 96, 64)
    plan = model(x, merge=TokenMerging(keep=8)).plan
    torch.testing.assert_close(model(x, merge=TokenMerging(keep=8)).features, plan.reduce(model(x).features))
    with pytest.raises(ValueError, match="out of their ViTDet windows"):
        model(x, tome=InNetworkMerging(r=2))


def reference_tome(
    model: RADIOModel, image: Tensor, r: int, proportional: bool
) -> tuple[Tensor, list[list[int]]]:
    """In-network merging on one image (1, 3, H, W), token by token: final tokens and the patches of each."""
    x = model.backbone.embed(model.input_conditioner(image))[0]
    prefix = model.num_summary_tokens
    groups = [[i] for i in range(len(x) - prefix)]
    for block in model.blocks:
        q, k, v = (part[0] for part in block.attn.project(block.norm1(x[None])))
        # Proportional attention: a token that stands for n patches takes part n times.
        copies = [1] * prefix + [len(group) if proportional else 1 for group in groups]
        index = [token for token, n in enumerate(copies) for _ in range(n)]
        weights = (q @ k[:, index].transpose(1, 2) * block.attn.head_dim**-0.5).softmax(dim=-1)
        attended = (weights @ v[:, index]).transpose(0, 1).flatten(1)
        x = x + block.ls1(block.attn.proj(attended))

        keys = k.mean(dim=0)[prefix:]
        destinations, sources = range(0, len(groups), 2), range(1, len(groups), 2)
        best = []
        for source in sources:
            similarity = [torch.cosine_similarity(keys[source], keys[d], dim=0).item() for d in destinations]
            best.append((-max(similarity), source, destinations[similarity.index(max(similarity))]))
        into = {source: destination for _, source, destination in sorted(best)[:r]}
        tokens, merged_groups = list(x[:prefix]), []
        for token in range(len(groups)):
            if token in into:
                continue
            members = [token, *(source for source, destination in into.items() if destination == token)]
            counts = [len(groups[member]) for member in members]
            total = sum(n * x[prefix + member] for n, member in zip(counts, members, strict=True))
            tokens.append(total / sum(counts))
            merged_groups.append([patch for member in members for patch in groups[member]])
        x, groups = torch.stack(tokens), merged_groups
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return x, groups


@pytest.mark.parametrize("proportional", [True, False])
def test_in_network_merging_agrees_with_reference(model: RADIOModel, proportional: bool) -> None:
    x = _images(2, 3, 80, 96)
    tome = InNetworkMerging(r=2, proportional_attention=proportional)
    expanded = model(x, tome=tome)
    compact = model(x, tome=InNetworkMerging(r=2, proportional_attention=proportional, expand=False))
    assert isinstance(expanded, RadioOutput) and expanded.features.shape == (2, 30, model.embed_dim)
    assert isinstance(compact, MergedRadioOutput) and compact.features.shape == (
        2,
        30 - 12 * 2,
        model.embed_dim,
    )
    for i in range(2):
        tokens, groups = reference_tome(model, x[i : i + 1], 2, proportional)
        summary = tokens[list(model.config.summary_idxs)].flatten()
        torch.testing.assert_close(expanded.summary[i], summary, rtol=1e-3, atol=1e-4)
        features = tokens[model.num_summary_tokens :]
        torch.testing.assert_close(compact.features[i], features, rtol=1e-3, atol=1e-4)
        for token, patches in enumerate(groups):
            assert (compact.plan.assignment[i] == token).nonzero().flatten().tolist() == sorted(patches)
            for patch in patches:
                torch.testing.assert_close(expanded.features[i, patch], features[token], rtol=1e-3, atol=1e-4)


def test_in_network_merging_of_nothing_changes_nothing(model: RADIOModel) -> None:
    x = _images(1, 3, 64, 64)
    plain, merged = model(x), model(x, tome=InNetworkMerging(r=0))
    assert isinstance(merged, RadioOutput)
    torch.testing.assert_close(merged.features, plain.features)
    torch.testing.assert_close(merged.summary, plain.summary)


def test_in_network_merging_stops_at_one_token(model: RADIOModel) -> None:
    merged = model(_images(1, 3, 64, 64), tome=InNetworkMerging(r=1000, expand=False))
    assert merged.sizes.tolist() == [[16.0]]


def test_in_network_merging_with_intermediates_adaptors_and_merge() -> None:
    model = load_model(_checkpoint("v2_5"), adaptors=["clip"], device="cpu").requires_grad_(False)
    x = _images(1, 3, 64, 64)
    tome = InNetworkMerging(r=[1, 0] * 6)
    final, layers = model.forward_intermediates(x, [0, 11], output_fmt="NCHW", tome=tome)
    assert [tuple(layer.shape[-2:]) for layer in layers] == [(4, 4), (4, 4)]
    assert [len(layer[0].flatten(1).unique(dim=1).T) for layer in layers] == [15, 10]
    assert set(final) == {"backbone", "clip"}
    both = model(x, merge=TokenMerging(keep=5), tome=tome)
    assert both["clip"].features.shape[1] == 5


@pytest.mark.parametrize("proportional", [True, False])
def test_in_network_merging_of_packed_images_is_that_of_each_alone(proportional: bool) -> None:
    model = load_model(_checkpoint("v2_5"), adaptors=["clip"], device="cpu").requires_grad_(False)
    images = [_images(3, h, w, seed=h) for h, w in ((64, 96), (16, 16), (112, 48), (80, 80))]
    for expand in (True, False):
        tome = InNetworkMerging(r=3, proportional_attention=proportional, expand=expand)
        together = model(images, tome=tome)
        for image, output in zip(images, together, strict=True):
            alone = model(image[None], tome=tome)
            for name in ("backbone", "clip"):
                torch.testing.assert_close(output[name].summary, alone[name].summary, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(output[name].features, alone[name].features, rtol=1e-5, atol=1e-5)
            if not expand:
                ours, theirs = output["backbone"].plan, alone["backbone"].plan
                assert torch.equal(ours.assignment, theirs.assignment) and ours.grid == theirs.grid


def test_packed_intermediates_and_encode_merge_inside_the_network(model: RADIOModel) -> None:
    images = [_images(3, h, w, seed=w) for h, w in ((64, 96), (48, 48))]
    for expand in (True, False):
        tome = InNetworkMerging(r=1, expand=expand)
        together = model.forward_intermediates(images, [2, 11], output_fmt="NLC", tome=tome)
        for image, (final, layers), encoding in zip(
            images, together, model.encode(images, tome=tome), strict=True
        ):
            final_alone, layers_alone = model.forward_intermediates(
                image[None], [2, 11], output_fmt="NLC", tome=tome
            )
            torch.testing.assert_close(final.features, final_alone.features, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(encoding.features, final_alone.features, rtol=1e-5, atol=1e-5)
            for layer, alone in zip(layers, layers_alone, strict=True):
                pair = (layer, alone) if expand else (layer.features, alone.features)
                torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-5)
    batch = model.encode([images[0], images[0].flip(-1)], tome=InNetworkMerging(r=1, expand=False))
    assert [encoding.features.shape for encoding in batch] == [(1, 24 - 12, model.embed_dim)] * 2


@pytest.mark.parametrize(
    "options",
    [
        {"merge": TokenMerging(keep=6)},
        pytest.param({"tome": InNetworkMerging(r=1)}, marks=needs_new_compiler),
        pytest.param({"tome": InNetworkMerging(r=1, expand=False)}, marks=needs_new_compiler),
    ],
)
def test_forward_compiles_without_graph_breaks(model: RADIOModel, options: dict) -> None:
    x = _images(1, 3, 64, 64)
    compiled = torch.compile(lambda images: model(images, **options), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x).features, model(x, **options).features, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_inductor_merges_in_the_network_with_the_same_numbers(model: RADIOModel) -> None:
    """Later blocks weigh tokens by sizes of an earlier merge, so the compiler must keep these that long."""
    merging = InNetworkMerging(r=(2,) + (0,) * 11)
    x = _images(2, 3, 64, 64)
    compiled = torch.compile(lambda images: model(images, tome=merging), fullgraph=True)
    actual, expected = compiled(x), model(x, tome=merging)
    torch.testing.assert_close(actual.features, expected.features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual.summary, expected.summary, rtol=1e-5, atol=1e-5)


def test_merge_of_other_sizes_compiles_too(model: RADIOModel) -> None:
    merging = TokenMerging(ratio=0.5)
    compiled = torch.compile(
        lambda images: model(images, merge=merging), fullgraph=True, dynamic=True, backend="eager"
    )
    for x in (_images(2, 3, 64, 96), _images(3, 3, 128, 64)):
        torch.testing.assert_close(compiled(x), model(x, merge=merging), rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_image(model: RADIOModel) -> None:
    for options in ({"merge": TokenMerging(keep=6)}, {"tome": InNetworkMerging(r=1)}):
        x = _images(1, 3, 64, 64).requires_grad_()
        model(x, **options).features.square().sum().backward()
        assert x.grad is not None and bool(x.grad.abs().amax(dim=1).gt(0).all())


def test_combinations_without_meaning_are_refused(model: RADIOModel) -> None:
    x = _images(1, 3, 64, 64)
    with pytest.raises(ValueError, match="must be 'NLC', got 'NCHW'"):
        model(x, feature_fmt="NCHW", merge=TokenMerging(keep=6))
    with pytest.raises(ValueError, match="must be 'NLC', got 'NCHW'"):
        model(x, feature_fmt="NCHW", tome=InNetworkMerging(r=1, expand=False))
    with pytest.raises(ValueError, match="expand=True"):
        model(x, merge=TokenMerging(keep=6), tome=InNetworkMerging(r=1, expand=False))
    with pytest.raises(ValueError, match="the network has 12"):
        model(x, tome=InNetworkMerging(r=[1, 2]))
    with pytest.raises(TypeError, match="merge must be a TokenMerging"):
        model(x, merge=196)
    with pytest.raises(TypeError, match="needs a list of images"):
        model(x, merge=[TokenMerging(keep=6)])
    with pytest.raises(TypeError, match="tome must be an InNetworkMerging"):
        model(x, tome=8)
