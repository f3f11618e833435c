"""k-NN agrees with a plain implementation, whatever the chunks, and ties are decided in one way."""

from __future__ import annotations

import math
import tracemalloc
from collections import defaultdict

import numpy as np
import pytest
import torch

from radio.tasks.knn import Neighbors, classify, nearest_neighbors, vote


def plain_knn(queries, database, labels, k, temperature):
    """What the papers say, in float64, one query and one row at a time."""
    results = []
    for query in queries.astype(np.float64):
        similarities = [
            float(query @ row / np.linalg.norm(query) / np.linalg.norm(row))
            for row in database.astype(np.float64)
        ]
        best = sorted(range(len(database)), key=lambda i: (-similarities[i], i))[:k]
        votes: dict[int, float] = defaultdict(float)
        for i in best:
            votes[int(labels[i])] += math.exp(similarities[i] / temperature)
        total = sum(votes.values())
        ranked = sorted(votes, key=lambda label: (-votes[label], label))
        results.append((best, ranked, [votes[label] / total for label in ranked]))
    return results


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    centers = random.normal(size=(7, 16))
    labels = random.integers(0, 7, size=300)
    database = (centers[labels] + random.normal(size=(300, 16))).astype(np.float32)
    truth = random.integers(0, 7, size=40)
    queries = (centers[truth] + random.normal(size=(40, 16))).astype(np.float32)
    return (
        torch.from_numpy(queries),
        torch.from_numpy(database),
        torch.from_numpy(labels),
        torch.from_numpy(truth),
    )


@pytest.mark.parametrize("k", [1, 20, 300])
@pytest.mark.parametrize("chunk_size", [7, 100, 1000])
def test_agrees_with_a_plain_implementation(data, k, chunk_size):
    queries, database, labels, _ = data
    expected = plain_knn(queries.numpy(), database.numpy(), labels.numpy(), k, 0.07)
    neighbors = nearest_neighbors(queries, database, k, chunk_size=chunk_size, query_size=11)
    result = classify(queries, database, labels, k=k, chunk_size=chunk_size, query_size=11, top=7)
    for row, (best, ranked, shares) in enumerate(expected):
        assert neighbors.indices[row].tolist() == best
        n = len(ranked)
        assert result.classes[row, :n].tolist() == ranked
        np.testing.assert_allclose(result.scores[row, :n], shares, rtol=1e-4, atol=1e-7)
        assert not result.scores[row, n:].any()


def test_finds_the_classes(data):
    queries, database, labels, truth = data
    result = classify(queries, database, labels)
    assert (result.classes[:, 0] == truth).float().mean() > 0.9
    assert (result.scores[:, 0] >= result.scores[:, 1]).all()


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 100])
def test_equal_similarities_are_ordered_by_row_number(chunk_size):
    """Ten rows, only two directions: every similarity is one of two values, in every chunking."""
    database = torch.eye(2)[torch.tensor([0, 1, 1, 0, 1, 1, 1, 0, 1, 1])] * torch.arange(1, 11)[:, None]
    neighbors = nearest_neighbors(torch.eye(2), database, k=5, chunk_size=chunk_size)
    assert neighbors.indices.tolist() == [[0, 3, 7, 1, 2], [1, 2, 4, 5, 6]]
    assert neighbors.similarity.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_equal_votes_go_to_the_lower_class():
    neighbors = Neighbors(torch.full((1, 4), 0.5), torch.arange(4)[None])
    assert vote(neighbors, torch.tensor([3, 1, 1, 3]), 5).classes[0, :2].tolist() == [1, 3]


def test_a_memory_mapped_database_and_an_iterable_of_chunks(data, tmp_path):
    queries, database, _, _ = data
    np.save(tmp_path / "features.npy", database.numpy().astype(np.float16))
    half = torch.from_numpy(np.load(tmp_path / "features.npy"))
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    expected = nearest_neighbors(queries, half, 20)
    for source in (mapped, half.split(77), (chunk.numpy() for chunk in half.split(41))):
        found = nearest_neighbors(queries, source, 20, chunk_size=64)
        assert torch.equal(found.indices, expected.indices)
        torch.testing.assert_close(found.similarity, expected.similarity)


def test_memory_stays_at_one_chunk(tmp_path):
    """A database of 48 MB in chunks of 1 MB: NumPy and Python never hold more than a few chunks of it."""
    database = np.lib.format.open_memmap(
        tmp_path / "features.npy", mode="w+", dtype=np.float32, shape=(48 * 1024, 256)
    )
    database[:] = 1
    database.flush()
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    tracemalloc.start()
    nearest_neighbors(torch.ones(2, 256), mapped, 20, chunk_size=1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


def test_fewer_rows_than_k(data):
    queries, database, _, _ = data
    assert nearest_neighbors(queries, database[:5], k=20).indices.shape == (40, 5)


def test_wrong_arguments_say_what_is_allowed(data):
    queries, database, labels, _ = data
    with pytest.raises(ValueError, match=r"at least 1"):
        nearest_neighbors(queries, database, k=0)
    with pytest.raises(ValueError, match=r"empty"):
        nearest_neighbors(queries, database[:0])
    with pytest.raises(ValueError, match=r"database is .*16.* queries are .*8"):
        nearest_neighbors(queries[:, :8], database)
    with pytest.raises(ValueError, match=r"300 rows.*299 labels"):
        classify(queries, database, labels[:-1])
    with pytest.raises(ValueError, match=r"\[0, 3\)"):
        classify(queries, database, labels, num_classes=3)
    with pytest.raises(ValueError, match=r"temperature"):
        classify(queries, database, labels, temperature=0)
