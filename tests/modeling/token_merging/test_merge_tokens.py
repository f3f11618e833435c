"""Token merging against a slow reference with explicit loops, and its promises to users."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from radio.modeling.token_merging import InNetworkMerging, MergePlan, TokenMerging, merge_tokens
from radio.modeling.token_merging.counts import resolve
from radio.modeling.token_merging.in_network import TokenState
from radio.modeling.token_merging.matching import split_grid


def reference_assignment(
    metric: list[list[float]],
    grid: tuple[int, int],
    keep: int,
    stride: tuple[int, int],
    order: str = "raster",
) -> list[int]:
    """The merged token of every token, one step at a time."""
    height, width = grid
    destinations, sources = [], []
    for row in range(height):
        for column in range(width):
            is_corner = row % stride[0] == 0 and column % stride[1] == 0
            (destinations if is_corner else sources).append(row * width + column)

    def cosine(a: int, b: int) -> float:
        dot = sum(x * y for x, y in zip(metric[a], metric[b], strict=True))
        norms = math.sqrt(sum(x * x for x in metric[a])) * math.sqrt(sum(x * x for x in metric[b]))
        return dot / norms if norms > 0 else 0.0

    pairs = []
    for source in sources:
        best, best_similarity = destinations[0], -math.inf
        for destination in destinations:
            similarity = cosine(source, destination)
            if similarity > best_similarity:
                best, best_similarity = destination, similarity
        pairs.append((-best_similarity, source, best))
    pairs.sort()
    removed = height * width - keep
    into = {source: destination for _, source, destination in pairs[:removed]}
    unmerged = [source for _, source, _ in pairs[removed:]]
    representatives = unmerged + destinations
    if order == "raster":
        representatives = sorted(representatives)
    number = {token: i for i, token in enumerate(representatives)}
    return [number[into.get(token, token)] for token in range(height * width)]


def reference_reduce(x: Tensor, assignment: list[int], sizes: list[float], keep: int, mode: str) -> Tensor:
    """(L, C) -> (K, C), group by group."""
    rows = []
    for group in range(keep):
        members = [token for token, number in enumerate(assignment) if number == group]
        if mode == "max":
            rows.append(torch.stack([x[token] for token in members]).max(dim=0).values)
        else:
            weights = [sizes[token] if mode == "mean" else 1.0 for token in members]
            total = sum(weight * x[token] for weight, token in zip(weights, members, strict=True))
            rows.append(total / sum(weights) if mode == "mean" else total)
    return torch.stack(rows)


def random_features(batch: int, length: int, channels: int = 5, seed: int = 0, ties: bool = False) -> Tensor:
    """Random float64 features; with ties, only axis-aligned vectors, whose cosines are exactly -1, 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    if not ties:
        return torch.randn(batch, length, channels, generator=generator, dtype=torch.float64)
    axis = torch.randint(channels, (batch, length), generator=generator)
    scale = torch.tensor([-2.0, 1.0, 4.0], dtype=torch.float64)[
        torch.randint(3, (batch, length, 1), generator=generator)
    ]
    return torch.nn.functional.one_hot(axis, channels) * scale


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_agrees_with_reference(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    stride = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    length = height * width
    fewest = math.ceil(height / stride[0]) * math.ceil(width / stride[1])
    keep = data.draw(st.integers(fewest, length))
    order = data.draw(st.sampled_from(["raster", "classic"]))
    mode = data.draw(st.sampled_from(["mean", "sum", "max"]))
    seed = data.draw(st.integers(0, 10_000))
    features = random_features(2, length, seed=seed, ties=data.draw(st.booleans()))
    sizes = torch.randint(1, 9, (2, length)) if data.draw(st.booleans()) else None

    merged = merge_tokens(
        features, (height, width), keep=keep, stride=stride, mode=mode, order=order, sizes=sizes
    )

    grid = torch.tensor([[i // width, i % width] for i in range(length)], dtype=torch.float32)
    for image in range(2):
        expected = reference_assignment(features[image].tolist(), (height, width), keep, stride, order)
        assert merged.plan.assignment[image].tolist() == expected
        weights = [1.0] * length if sizes is None else sizes[image].tolist()
        reduced = reference_reduce(features[image], expected, weights, keep, mode)
        torch.testing.assert_close(merged.features[image], reduced, rtol=1e-6, atol=1e-6)
        centroids = reference_reduce(grid, expected, weights, keep, "mean")
        torch.testing.assert_close(merged.positions[image], centroids)
        group_sizes = [
            sum(w for w, g in zip(weights, expected, strict=True) if g == group) for group in range(keep)
        ]
        assert merged.sizes[image].tolist() == group_sizes
        spread = torch.stack([reduced[group] for group in expected])
        torch.testing.assert_close(merged.plan.unmerge(merged.features)[image], spread, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    features = random_features(1, 42, channels=16).to(dtype)
    merged = merge_tokens(features, (6, 7), ratio=0.64, stride=(2, 2))
    assert merged.features.dtype == dtype
    assert merged.features.shape == (1, 42 - 27, 16)
    assert merged.sizes.dtype == merged.positions.dtype == torch.float32
    expected = reference_assignment(features[0].tolist(), (6, 7), 15, (2, 2))
    assert merged.plan.assignment[0].tolist() == expected
    reduced = reference_reduce(features[0].float(), expected, [1.0] * 42, 15, "mean")
    torch.testing.assert_close(merged.features[0], reduced.to(dtype))


def test_half_precision_sums_do_not_saturate_or_drift() -> None:
    features = torch.full((1, 4096, 1), 3.0, dtype=torch.bfloat16)
    merged = merge_tokens(features, (64, 64), keep=1)
    assert merged.features.item() == 3.0
    assert merged.plan.reduce(features, "sum").item() == 12288.0


def test_autocast_does_not_change_the_matching() -> None:
    features = random_features(1, 64, channels=32).float()
    plain = merge_tokens(features, (8, 8), keep=20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = merge_tokens(features, (8, 8), keep=20)
    assert torch.equal(plain.plan.assignment, cast.plan.assignment)
    assert torch.equal(plain.features, cast.features)


@pytest.mark.parametrize("order", ["raster", "classic"])
def test_nothing_merged_is_the_identity(order: str) -> None:
    features = random_features(2, 30).float()
    merged = merge_tokens(features, (5, 6), r=0, order=order, sizes=torch.full((2, 30), 3))
    assert torch.equal(merged.plan.unmerge(merged.features), features)
    assert torch.equal(merged.sizes, torch.full((2, 30), 3.0))
    if order == "raster":
        assert torch.equal(merged.features, features)


def test_unmerged_tokens_come_out_untouched_and_reducing_again_changes_nothing() -> None:
    features = random_features(2, 64).float()
    merged = merge_tokens(features, (8, 8), keep=40)
    alone = merged.sizes.gather(1, merged.plan.assignment) == 1
    spread = merged.plan.unmerge(merged.features)
    assert alone.any() and not alone.all()
    assert torch.equal(spread[alone], features[alone])
    torch.testing.assert_close(merged.plan.reduce(spread), merged.features)


def test_identical_neighbors_merge_without_loss() -> None:
    cells = random_features(1, 12, channels=8).float().reshape(1, 3, 4, 8)
    features = cells.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).flatten(1, 2)
    merged = merge_tokens(features, (6, 8), keep=12, stride=(2, 2))
    torch.testing.assert_close(merged.features, cells.flatten(1, 2))
    torch.testing.assert_close(merged.plan.unmerge(merged.features), features)
    assert merged.sizes.tolist() == [[4.0] * 12]
    rows, columns = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    expected = torch.stack((2 * rows + 0.5, 2 * columns + 0.5), dim=-1).flatten(0, 1)
    torch.testing.assert_close(merged.positions[0], expected)


def test_merging_twice_weighs_by_sizes() -> None:
    features = random_features(1, 64, channels=3)
    first = merge_tokens(features, (8, 8), keep=32)
    second = merge_tokens(first.features, (4, 8), keep=1, sizes=first.sizes)
    torch.testing.assert_close(second.features[0, 0], features[0].mean(dim=0), rtol=1e-6, atol=1e-6)
    assert second.sizes.item() == 64


def test_raster_order_follows_the_representatives() -> None:
    features = random_features(1, 64)
    merged = merge_tokens(features, (8, 8), keep=64 - 10)
    single = merged.sizes[0] == 1
    indices = (merged.positions[0, single] @ torch.tensor([8.0, 1.0])).tolist()
    assert indices == sorted(indices)


def test_metric_decides_and_features_are_merged() -> None:
    features, metric = random_features(1, 36), random_features(1, 36, channels=2, seed=1)
    by_metric = merge_tokens(features, (6, 6), keep=12, metric=metric)
    expected = merge_tokens(metric, (6, 6), keep=12).plan
    assert torch.equal(by_metric.plan.assignment, expected.assignment)
    assert not torch.equal(expected.assignment, merge_tokens(features, (6, 6), keep=12).plan.assignment)
    torch.testing.assert_close(by_metric.features, expected.reduce(features))


def test_reduce_takes_any_trailing_shape_and_integers() -> None:
    plan = merge_tokens(random_features(2, 36), (6, 6), keep=12).plan
    labels = torch.arange(72).reshape(2, 36)
    top = plan.reduce(labels, "max")
    assert top.shape == (2, 12) and top.dtype == torch.int64
    for image in range(2):
        for token in range(12):
            assert top[image, token] == labels[image][plan.assignment[image] == token].max()
    assert plan.reduce(labels, "sum").sum() == labels.sum()
    assert plan.reduce(torch.rand(2, 36, 3, 4)).shape == (2, 12, 3, 4)
    assert plan.unmerge(torch.rand(2, 12, 3, 4)).shape == (2, 36, 3, 4)
    assert plan.unmerge(top).shape == (2, 36)
    with pytest.raises(ValueError, match="floating-point"):
        plan.reduce(labels)
    with pytest.raises(ValueError, match=r"\(2, 36, \.\.\.\)"):
        plan.reduce(torch.rand(2, 12, 3))
    with pytest.raises(ValueError, match=r"\(2, 12, \.\.\.\)"):
        plan.unmerge(torch.rand(2, 36, 3))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_random_destinations_lie_one_in_each_cell(
    height: int, width: int, sy: int, sx: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    split = split_grid((height, width), (sy, sx), torch.device("cpu"), True, generator)
    cells = [(i // width // sy, i % width // sx) for i in split.destinations.tolist()]
    assert cells == [(y, x) for y in range(math.ceil(height / sy)) for x in range(math.ceil(width / sx))]
    assert sorted(split.destinations.tolist() + split.sources.tolist()) == list(range(height * width))


def test_random_destinations_repeat_with_the_generator() -> None:
    features = random_features(1, 144)
    runs = [
        merge_tokens(
            features,
            (12, 12),
            keep=36,
            random_destinations=True,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0].plan.assignment, runs[1].plan.assignment)
    assert not torch.equal(runs[0].plan.assignment, runs[2].plan.assignment)


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_gradients(mode: str) -> None:
    features = random_features(2, 20, channels=3).requires_grad_()
    metric = features.detach().clone()

    def merged_and_back(x: Tensor) -> tuple[Tensor, Tensor]:
        merged = merge_tokens(x, (4, 5), keep=8, metric=metric, mode=mode)
        return merged.features, merged.plan.unmerge(merged.features)

    assert torch.autograd.gradcheck(merged_and_back, (features,))
    merge_tokens(features, (4, 5), keep=8).features.sum().backward()
    assert features.grad is not None and bool(features.grad.abs().gt(0).all())


@pytest.mark.parametrize("order", ["raster", "classic"])
def test_compiles_without_graph_breaks(order: str) -> None:
    features = random_features(2, 63, channels=8).float()
    merging = TokenMerging(keep=24, order=order)
    compiled = torch.compile(lambda x: merging(x, (7, 9)), fullgraph=True, backend="aot_eager")
    result, expected = compiled(features), merging(features, (7, 9))
    assert torch.equal(result.plan.assignment, expected.plan.assignment)
    torch.testing.assert_close(result.features, expected.features)
    torch.testing.assert_close(result.positions, expected.positions)


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    features = random_features(2, 63, channels=8, ties=True).float()
    compiled = torch.compile(lambda x: merge_tokens(x, (7, 9), ratio=0.6), fullgraph=True)
    result, expected = compiled(features), merge_tokens(features, (7, 9), ratio=0.6)
    assert torch.equal(result.plan.assignment, expected.plan.assignment)
    torch.testing.assert_close(result.features, expected.features)


def test_counts() -> None:
    features = torch.randn(1, 48 * 48, 4)
    assert merge_tokens(features, (48, 48), ratio=0.64).features.shape[1] == 2304 - round(0.64 * 2304)
    assert merge_tokens(features, (48, 48), r=100).features.shape[1] == 2204
    assert merge_tokens(features, (48, 48), keep=196).features.shape[1] == 196
    assert merge_tokens(features, (48, 48), keep=1).sizes.tolist() == [[2304.0]]


@pytest.mark.parametrize(
    ("keep", "stride"), [(1536, 2), (829, 3), (576, 3), (196, 5), (2, 48), (1, 48), (2304, 2)]
)
def test_stride_is_chosen_with_room_for_sources_that_stay(keep: int, stride: int) -> None:
    assert resolve((48, 48), keep, None, None, None) == (keep, (stride, stride))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({}, "exactly one of keep .*got none"),
        ({"keep": 4, "ratio": 0.5}, "exactly one of keep .*keep=4, ratio=0.5"),
        ({"keep": 0}, "at least one token stays"),
        ({"keep": 9.0}, "whole number"),
        ({"ratio": 1.0}, "below 1"),
        ({"r": -1}, "at least 0"),
        ({"keep": 65}, "at most keep=64"),
        ({"r": 64}, "remove at most 63"),
        ({"keep": 15, "stride": (2, 2)}, r"smallest with this stride is keep=16, r=48.*stride=\(3, 3\)"),
        ({"ratio": 0.8, "stride": (2, 2)}, r"ratio=0.8 leaves 13.*keep=16"),
        ({"keep": 15, "stride": (0, 2)}, "both whole numbers of at least 1"),
        ({"keep": 15, "stride": 2}, r"stride=2 is impossible: give \(rows, columns\)"),
        ({"keep": 15, "stride": (2.0, 2)}, r"stride=\(2.0, 2\) is impossible"),
        ({"keep": 32, "mode": "median"}, "allowed: mean, sum, max"),
        ({"keep": 32, "order": "spiral"}, "allowed: raster, classic"),
    ],
)
def test_impossible_requests_say_what_is_possible(request_: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        merge_tokens(torch.randn(1, 64, 4), (8, 8), **request_)


def test_wrong_shapes_are_refused() -> None:
    features = torch.randn(1, 64, 4)
    with pytest.raises(ValueError, match="grid 8x9 has 72 places, but the features have 64"):
        merge_tokens(features, (8, 9), keep=32)
    with pytest.raises(ValueError, match=r"flatten\(2\)"):
        merge_tokens(torch.randn(1, 4, 8, 8), (8, 8), keep=32)
    with pytest.raises(ValueError, match="metric must be"):
        merge_tokens(features, (8, 8), keep=32, metric=torch.randn(1, 63, 4))
    with pytest.raises(ValueError, match="sizes must be"):
        merge_tokens(features, (8, 8), keep=32, sizes=torch.ones(1, 63))
    with pytest.raises(ValueError, match="exactly one"):
        TokenMerging()


def reference_network_step(
    x: Tensor, keys: Tensor, sizes: list[float], groups: list[list[int]], r: int
) -> tuple[Tensor, list[float], list[list[int]]]:
    """One in-network merge of a single image without prefix tokens, group by group."""
    mean_keys = sum(keys[head] for head in range(keys.shape[0])) / keys.shape[0]
    keep = len(sizes) - min(r, len(sizes) // 2)
    assignment = reference_assignment(mean_keys.tolist(), (1, len(sizes)), keep, (1, 2))
    merged = reference_reduce(x, assignment, sizes, keep, "mean")
    new_sizes, new_groups = [0.0] * keep, [[] for _ in range(keep)]
    for token, number in enumerate(assignment):
        new_sizes[number] += sizes[token]
        new_groups[number] += groups[token]
    return merged, new_sizes, new_groups


@pytest.mark.parametrize("r", [0, 3, 1000])
def test_merging_block_after_block_agrees_with_reference(r: int) -> None:
    prefix, length = 2, 35
    x = torch.cat((random_features(1, prefix), random_features(1, length, seed=1)), dim=1)
    state = TokenState.start(1, (5, 7), x.device)
    expected = x[0, prefix:]
    sizes, groups = [1.0] * length, [[token] for token in range(length)]
    for block in range(4):
        generator = torch.Generator().manual_seed(block)
        keys = torch.randn(1, 3, x.shape[1], 4, dtype=torch.float64, generator=generator)
        expected, sizes, groups = reference_network_step(expected, keys[0, :, prefix:], sizes, groups, r)
        before = x[:, :prefix]
        x, state = state.merge(x, keys, prefix, r)
        assert torch.equal(x[:, :prefix], before)
        torch.testing.assert_close(x[0, prefix:], expected, rtol=1e-6, atol=1e-6)
        assert state.sizes[0].tolist() == sizes
    plan = state.plan()
    assert isinstance(plan, MergePlan) and plan.grid == (5, 7)
    for number, members in enumerate(groups):
        assert (plan.assignment[0] == number).nonzero().flatten().tolist() == sorted(members)


def test_attention_bias_makes_a_merged_token_count_as_its_patches() -> None:
    queries, keys, values = (torch.randn(1, 1, n, 8) for n in (3, 5, 5))
    repeats = torch.tensor([2, 1, 4])
    sizes = repeats[None].float()
    state = TokenState(torch.zeros(1, 7, dtype=torch.int64), sizes, (1, 7))
    bias = state.attention_bias(2, torch.float32)
    assert bias.shape == (1, 1, 1, 5) and bias[..., :2].eq(0).all()
    biased = torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=bias.expand(1, 1, 3, 5)
    )
    count = torch.cat((torch.ones(2, dtype=torch.int64), repeats))
    repeated = torch.nn.functional.scaled_dot_product_attention(
        queries, keys.repeat_interleave(count, dim=2), values.repeat_interleave(count, dim=2)
    )
    torch.testing.assert_close(biased, repeated)


def test_in_network_schedule() -> None:
    assert InNetworkMerging(r=3).schedule(4) == (3, 3, 3, 3)
    assert InNetworkMerging(r=[1, 0, 2]).schedule(3) == (1, 0, 2)
    with pytest.raises(ValueError, match="lists 3 blocks, but the network has 4"):
        InNetworkMerging(r=[1, 0, 2]).schedule(4)
    with pytest.raises(ValueError, match="at least 0"):
        InNetworkMerging(r=-1)


def test_at_most_leaves_small_grids_as_they_are() -> None:
    features = torch.randn(1, 48, 16, generator=torch.Generator().manual_seed(0))
    merging = TokenMerging(at_most=20)
    assert merging(features, (6, 8)).features.shape == (1, 20, 16)
    small = merging(features[:, :12], (3, 4))
    assert torch.equal(small.features, features[:, :12])
    assert small.sizes.tolist() == [[1.0] * 12]
    exact = merge_tokens(features, (6, 8), keep=20)
    assert torch.equal(merge_tokens(features, (6, 8), at_most=20).features, exact.features)
    with pytest.raises(ValueError, match="exactly one of keep .*at_most.*got keep=3, at_most=4"):
        TokenMerging(keep=3, at_most=4)
    with pytest.raises(ValueError, match="at_most=0 is impossible"):
        TokenMerging(at_most=0)
