"""Weighted k-nearest-neighbor classification on summaries, exact and in chunks.

Source: Wu et al. 2018 (arXiv 1805.01978), section 3.4, with the settings of DINO (arXiv 2104.14294): cosine
similarity, k = 20, a vote of weight exp(similarity / 0.07).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from radio.data.batches import ImageBatch, Progress
from radio.modeling.network import RADIONetwork
from radio.wording import counted


class Neighbors(NamedTuple):
    """The nearest rows of a database, nearest first.

    Attributes:
        similarity: ``(Q, k)`` float32, cosine similarities.
        indices: ``(Q, k)`` int64, row numbers in the database.
    """

    similarity: Tensor
    indices: Tensor


class Vote(NamedTuple):
    """The classes that the neighbors vote for, best first.

    Attributes:
        classes: ``(Q, n)`` int64.
        scores: ``(Q, n)`` float32, each class's share of the votes.
    """

    classes: Tensor
    scores: Tensor


def nearest_neighbors(
    queries: Tensor,
    database: Any,
    k: int = 20,
    chunk_size: int = 8192,
    query_size: int = 1024,
    progress: Progress | None = None,
) -> Neighbors:
    """The k rows of the database with the largest cosine similarity to each query; exact.

    Only one chunk of the database, and its similarities to one block of queries, are in memory at a time
    (next to the queries themselves and the best k so far). Of equal similarities, the lower row number comes
    first.

    Args:
        queries: ``(Q, C)``, on the device where the search shall run.
        database: ``(N, C)``: a tensor, a NumPy array (memory-mapped, for one larger than memory), or an
            iterable of such chunks in order of their row numbers.
        k: How many neighbors; all rows when the database has fewer.
        chunk_size: Rows of a tensor or array that are read at a time; iterables bring their own chunks.
        query_size: Queries that are compared at a time.
        progress: Shows the progress over the chunks.

    Raises:
        ValueError: k below 1, an empty database, or widths that differ.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    queries = F.normalize(queries.float(), dim=-1)
    similarity = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    first = 0
    chunks: Iterable[Tensor] = _chunks(database, chunk_size)
    if progress is not None:
        chunks = progress(
            chunks, -(-len(database) // chunk_size) if hasattr(database, "shape") else 0, "database"
        )
    for chunk in chunks:
        if chunk.ndim != 2 or chunk.shape[1] != queries.shape[1]:
            raise ValueError(
                f"the database is {tuple(chunk.shape)} but the queries are {tuple(queries.shape)}"
            )
        chunk = F.normalize(chunk.to(queries.device).float(), dim=-1)
        rows = torch.arange(first, first + len(chunk), device=queries.device)
        parts = [
            _best(
                torch.cat([similarity[i : i + query_size], queries[i : i + query_size] @ chunk.T], dim=1),
                index[i : i + query_size],
                rows,
                k,
            )
            for i in range(0, len(queries), query_size)
        ]
        if parts:
            similarity = torch.cat([part.similarity for part in parts])
            index = torch.cat([part.indices for part in parts])
        first += len(chunk)
    if first == 0:
        raise ValueError("the database is empty")
    return Neighbors(similarity, index)


def leave_one_out(vectors: Tensor, k: int = 20) -> Neighbors:
    """The nearest neighbors of every row among all the others.

    Args:
        vectors: ``(N, C)``.
        k: As in `nearest_neighbors`.

    Raises:
        ValueError: k below 1, or fewer than two rows.
    """
    if len(vectors) < 2:
        raise ValueError(f"k-NN that leaves one out needs at least two vectors, got {len(vectors)}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    found = nearest_neighbors(vectors, vectors, k + 1)
    itself = found.indices == torch.arange(len(vectors), device=vectors.device)[:, None]
    itself[~itself.any(dim=1), -1] = True  # crowded out by equals of lower number: then the last one goes
    kept = found.indices.shape[1] - 1
    return Neighbors(found.similarity[~itself].reshape(-1, kept), found.indices[~itself].reshape(-1, kept))


def vote(
    neighbors: Neighbors, labels: Tensor, num_classes: int, temperature: float = 0.07, top: int = 5
) -> Vote:
    """Let the neighbors vote, each with weight exp(similarity / temperature).

    Args:
        labels: ``(N,)`` int64, the class of each row of the database.
        num_classes: How many classes there are.
        temperature: Smaller values give the nearest ones more weight.
        top: How many classes to return for each query.

    Returns:
        The best classes; of equal shares, the lower class number comes first.

    Raises:
        ValueError: A temperature that is not positive, or labels outside [0, num_classes).
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    labels = labels.to(neighbors.indices.device)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must lie in [0, {num_classes}), got {low} to {high}")
    shares = (neighbors.similarity.double() / temperature).softmax(dim=-1)
    totals = shares.new_zeros(len(shares), num_classes)
    totals.scatter_add_(1, labels[neighbors.indices], shares)
    ordered = totals.sort(dim=-1, descending=True, stable=True)
    return Vote(ordered.indices[:, :top], ordered.values[:, :top].float())


def classify(
    queries: Tensor,
    database: Any,
    labels: Tensor,
    num_classes: int | None = None,
    k: int = 20,
    temperature: float = 0.07,
    top: int = 5,
    chunk_size: int = 8192,
    query_size: int = 1024,
    progress: Progress | None = None,
) -> Vote:
    """Classify queries by their nearest neighbors: `nearest_neighbors`, then `vote`.

    Args:
        num_classes: One more than the largest label when ``None``.

    Raises:
        ValueError: As in `nearest_neighbors` and `vote`, or when there is not one label for each row.
    """
    if hasattr(database, "shape") and len(database) != len(labels):
        raise ValueError(
            f"{counted(len(database), 'row')} in the database but {counted(len(labels), 'label')}"
        )
    neighbors = nearest_neighbors(queries, database, k, chunk_size, query_size, progress)
    if num_classes is None:
        num_classes = int(labels.max()) + 1
    return vote(neighbors, labels, num_classes, temperature, top)


@torch.no_grad()
def write_summaries(model: RADIONetwork, batches: Iterable[ImageBatch], out: Any) -> None:
    """Run the backbone over images and keep their summaries.

    Args:
        batches: Images, from `radio.data.batches.image_batches`.
        out: ``(N, D)``, a NumPy array (memory-mapped, for one larger than memory); rows get the summaries of
            the images at these positions.
    """
    for batch in batches:
        output = model(batch.pixels.to(model.device))
        summary = output["backbone"].summary if isinstance(output, dict) else output.summary
        out[batch.positions] = summary.float().cpu().numpy()


def _chunks(database: Any, chunk_size: int) -> Iterator[Tensor]:
    whole = hasattr(database, "shape")
    parts = (database[i : i + chunk_size] for i in range(0, len(database), chunk_size)) if whole else database
    for chunk in parts:
        yield chunk if isinstance(chunk, Tensor) else torch.from_numpy(np.array(chunk))


def _best(similarity: Tensor, known: Tensor, rows: Tensor, k: int) -> Neighbors:
    """The best k columns of each row.

    The first columns are the best so far, `known`; the others are `rows` of the database. Columns with equal
    values are in the order of their row numbers, so "the leftmost first" is "the lowest
    number first".
    """
    k = min(k, similarity.shape[1])
    values, columns = similarity.topk(k, dim=1)
    crowded = (similarity >= values[:, -1:]).sum(dim=1) > k
    if crowded.any():
        columns[crowded] = similarity[crowded].sort(dim=1, descending=True, stable=True).indices[:, :k]
    columns = columns.sort(dim=1).values
    values, order = similarity.gather(1, columns).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    new = rows[(columns - known.shape[1]).clamp(min=0)]
    if known.shape[1] == 0:
        return Neighbors(values, new)
    old = known.gather(1, columns.clamp(max=known.shape[1] - 1))
    return Neighbors(values, torch.where(columns < known.shape[1], old, new))
