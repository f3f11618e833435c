"""Hadamard matrices: orthogonal, every entry of the same magnitude.

Constructions: Sylvester (1867) for powers of two; Paley (1933), I and II, from the quadratic characters of finite
fields; Kronecker products of those. PHI-S (arXiv 2410.01680, section 2.4) rotates by one of them, so that every
channel gets the same share of every principal direction.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Signs = NDArray[np.int8]
"""A matrix of +1 and -1."""


def hadamard(n: int, dtype: torch.dtype | None = None) -> Tensor:
    """An orthonormal Hadamard matrix.

    Args:
        n: The order: 1, 2 or a multiple of 4 that Sylvester's and Paley's constructions and their products reach.
        dtype: Floating point; torch's default dtype if None.

    Returns:
        (n, n), entries ±1/sqrt(n), with ``H @ H.T`` the identity.

    Raises:
        TypeError: The order is not a whole number.
        ValueError: No Hadamard matrix of this order exists, or none of these constructions gives one.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"the order of a Hadamard matrix is a whole number, got {n!r}")
    if n < 1 or (n > 2 and n % 4):
        raise ValueError(
            f"there is no Hadamard matrix of order {n}; the order must be 1, 2 or a multiple of 4"
        )
    signs = _construct(n)
    if signs is None:
        raise ValueError(
            f"no Hadamard matrix of order {n} is known from Sylvester's or Paley's construction or their products; "
            f"the nearest orders that are: {', '.join(map(str, _neighbors(n)))}"
        )
    return torch.from_numpy(signs).to(torch.float64).mul_(n**-0.5).to(dtype or torch.get_default_dtype())


def has_hadamard(n: int) -> bool:
    """Whether `hadamard` gives a matrix of this order."""
    return n in (1, 2) or (n > 0 and n % 4 == 0 and _plan(n) is not None)


@cache
def _plan(n: int) -> tuple[str, int] | None:
    """How a matrix of order n is made, and the size of the field or the order of the left factor."""
    if n & (n - 1) == 0:
        return "sylvester", n
    if n % 4:
        return None
    if (n - 1) % 4 == 3 and _prime_power(n - 1):
        return "paley I", n - 1
    if (n // 2 - 1) % 4 == 1 and _prime_power(n // 2 - 1):
        return "paley II", n // 2 - 1
    for left in range(2, int(n**0.5) + 1):
        if n % left == 0 and _plan(left) and _plan(n // left):
            return "product", left
    return None


def _construct(n: int) -> Signs | None:
    plan = _plan(n)
    if plan is None:
        return None
    kind, size = plan
    if kind == "sylvester":
        return _sylvester(size)
    if kind == "paley I":
        return _paley_one(size)
    if kind == "paley II":
        return _paley_two(size)
    left, right = _construct(size), _construct(n // size)
    assert left is not None and right is not None
    return np.kron(left, right)


def _sylvester(n: int) -> Signs:
    signs: Signs = np.ones((1, 1), dtype=np.int8)
    while len(signs) < n:
        signs = np.block([[signs, signs], [signs, -signs]])
    return signs


def _paley_one(q: int) -> Signs:
    """Order q + 1 for q ≡ 3 (mod 4): identity plus a skew-symmetric conference matrix."""
    conference = _conference(q)
    conference[1:, 0] = -1
    return conference + np.eye(q + 1, dtype=np.int8)


def _paley_two(q: int) -> Signs:
    """Order 2(q + 1) for q ≡ 1 (mod 4): 2 x 2 blocks in place of a symmetric conference matrix's entries."""
    conference = _conference(q)
    zero = np.array([[1, -1], [-1, -1]], dtype=np.int8)
    one = np.array([[1, 1], [1, -1]], dtype=np.int8)
    return np.kron(conference, one) + np.kron(np.eye(q + 1, dtype=np.int8), zero)


def _conference(q: int) -> Signs:
    """Quadratic characters of all differences of the field of q elements, bordered by ones."""
    elements, squares = _field(q)
    prime = _prime_power(q)
    assert prime is not None
    places = prime ** np.arange(elements.shape[1])
    character = np.full(q, -1, dtype=np.int8)
    character[squares @ places] = 1
    character[0] = 0
    matrix = np.ones((q + 1, q + 1), dtype=np.int8)
    matrix[0, 0] = 0
    for row, element in enumerate(elements):
        matrix[row + 1, 1:] = character[(elements - element) % prime @ places]
    return matrix


def _field(q: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All elements of the finite field of q = p^k elements as polynomials (q, k), and their squares."""
    prime = _prime_power(q)
    assert prime is not None
    degree = round(np.log(q) / np.log(prime))
    elements = np.arange(q)[:, None] // prime ** np.arange(degree) % prime
    modulus = _irreducible(prime, degree)
    squares = np.zeros((q, 2 * degree - 1), dtype=np.int64)
    for i, j in product(range(degree), repeat=2):
        squares[:, i + j] += elements[:, i] * elements[:, j]
    for top in range(2 * degree - 2, degree - 1, -1):
        squares[:, top - degree : top] -= squares[:, top : top + 1] * modulus
        squares %= prime
    return elements, squares[:, :degree] % prime


def _irreducible(prime: int, degree: int) -> NDArray[np.int64]:
    """Lower coefficients of a monic polynomial of that degree that no smaller one divides."""
    for lower in product(range(prime), repeat=degree):
        polynomial = (*lower, 1)
        divisors = ((*part, 1) for d in range(1, degree // 2 + 1) for part in product(range(prime), repeat=d))
        if not any(_divides(divisor, polynomial, prime) for divisor in divisors):
            return np.array(lower, dtype=np.int64)
    raise AssertionError("every finite field has an irreducible polynomial of every degree")


def _divides(divisor: tuple[int, ...], polynomial: tuple[int, ...], prime: int) -> bool:
    rest = list(polynomial)
    while len(rest) >= len(divisor):
        lead = rest.pop()
        for i, coefficient in enumerate(divisor[:-1]):
            place = len(rest) - len(divisor) + 1 + i
            rest[place] = (rest[place] - lead * coefficient) % prime
    return not any(rest)


@cache
def _prime_power(q: int) -> int | None:
    """The prime that q is a power of, or None."""
    if q < 2:
        return None
    prime = next((p for p in range(2, int(q**0.5) + 1) if q % p == 0), q)
    while q % prime == 0:
        q //= prime
    return prime if q == 1 else None


def _neighbors(n: int) -> tuple[int, int]:
    below = next(m for m in range(n - 1, 0, -1) if has_hadamard(m))
    above = next(m for m in range(n + 1, 4 * n) if has_hadamard(m))
    return below, above
