"""Problems of the family bcd, in the forms of the library and of the specification."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from fastiter.bcd import LeastSquares, Logistic, Quadratic, Softmax, reference

Array = npt.NDArray[Any]
LOSSES = ("squares", "logistic", "softmax", "quadratic")
#: The separable parts: l1, l2, lower, upper
PARTS: dict[str, dict[str, Any]] = {
    "smooth": {"l2": 0.5},
    "l1": {"l1": 0.7},
    "box": {"lower": -0.05, "upper": 0.1},
    "l1 and half-line": {"l1": 0.3, "lower": 0.0},
}
_UPDATES = ("gradient", "matrix", "newton")
#: Triples in which each loss, each part and each update meet each of the others, by a Latin square
PAIRS = [
    (loss, part, _UPDATES[(i + j) % 4 if (i + j) % 4 < 3 else i % 3])
    for (i, loss), (j, part) in itertools.product(enumerate(LOSSES), enumerate(PARTS))
]


def data(n: int, m: int, seed: int = 0, dtype: Any = np.float64, density: float = 1.0) -> tuple[Array, Array]:
    """Return normally distributed data, some of it 0, and targets."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, m)) * (rng.random((n, m)) < density)
    return A.astype(dtype), (A[:, : min(m, 3)].sum(axis=1) + rng.standard_normal(n)).astype(dtype)


def make(loss: str, A: Any, b: Array, **parts: Any) -> Any:
    """Return a problem with targets derived from b; a quadratic has A' A + I."""
    if loss == "squares":
        return LeastSquares(A, b, **parts)
    if loss == "logistic":
        return Logistic(A, (b > 0).astype(np.int64), **parts)
    if loss == "softmax":
        return Softmax(A, np.digitize(b, (-0.5, 0.5)), 3, **parts)
    Q = A.T @ A
    return Quadratic(
        (Q + sp.eye_array(Q.shape[0], dtype=Q.dtype)).tocsr() if sp.issparse(Q) else Q + np.eye(len(Q), dtype=Q.dtype),
        A.T @ b,
        **parts,
    )


def specified(
    loss: str, A: Array, b: Array, l1: float = 0, l2: float = 0, lower: float = -np.inf, upper: float = np.inf
) -> Any:
    """Return the same problem for the specification."""
    A, b = A.astype(np.float64), b.astype(np.float64)
    k = 3 if loss == "softmax" else 1
    vectors: Any = [np.full(A.shape[1] * k, float(x)) for x in (l1, l2, lower, upper)]
    if loss == "quadratic":
        return reference.Problem(loss, A.T @ A + np.eye(A.shape[1]), A.T @ b, *vectors)
    targets = {"squares": b, "logistic": (b > 0).astype(float), "softmax": np.digitize(b, (-0.5, 0.5)).astype(float)}
    made: Any = reference.Problem  # mypy cannot count the unpacked vectors
    return made(loss, A, targets[loss], *vectors, k)
