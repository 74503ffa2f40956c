"""Columns without their means, for an intercept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_ROWS = 256


def centred(X: Any, weights: Array | None) -> tuple[Any, Array]:
    """Return dense X minus its means, or sparse X as it is, and the means.

    A column that is constant but for the rounding error of its mean becomes 0: that error would serve as a column.
    """
    if weights is None:
        means = np.asarray(X.mean(axis=0, dtype=np.float64)).ravel()
    else:
        means = np.asarray(weights @ X, np.float64) / weights.sum()
    constant = _constant(X, means, weights)
    if hasattr(X, "tocsc"):
        if len(constant):
            X = X.copy()
            for j in constant:
                X.data[X.indptr[j] : X.indptr[j + 1]] = 0
        return X, means
    columns = np.empty(X.shape, X.dtype, order="F")
    step = len(X) if X.flags.f_contiguous else _ROWS
    for rows in range(0, len(X), step):  # blocks that fit the cache: another memory order makes long strides
        np.subtract(X[rows : rows + step], means, out=columns[rows : rows + step], casting="same_kind")
    columns[:, constant] = 0
    return columns, means


def _constant(X: Any, means: Array, weights: Array | None) -> Array:
    """Return the columns whose entries all are their mean but for its rounding error, n roundings at most."""
    n = X.shape[0]
    bound = n * np.finfo(np.float64).eps * np.abs(means)
    used = np.arange(n) if weights is None else np.flatnonzero(weights)
    if hasattr(X, "tocsc"):
        candidates = np.flatnonzero(np.diff(X.indptr) >= len(used))
    else:
        candidates = np.flatnonzero(np.abs(X[used[0]] - means) <= bound)
    entries = [X[:, [j]].toarray().ravel() if hasattr(X, "tocsc") else X[:, j] for j in candidates]
    is_constant = [
        bool((np.abs(x[used] - means[j]) <= bound[j]).all()) for j, x in zip(candidates, entries, strict=True)
    ]
    return candidates[np.array(is_constant, np.bool_)]
