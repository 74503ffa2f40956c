"""Valid calls of block coordinate descent."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from fastiter import bcd
from tests.public.pick import Pick, subset
from tests.public.table import calls
from tests.scan.calls import REAL


def data(pick: Pick, n: int, m: int) -> Any:
    """Return a matrix, dense or sparse."""
    A = pick.normal(n, m, dtype=pick.one_of(REAL))
    return pick.one_of((A, sp.csr_array(A), sp.csc_array(A)))


def parts(pick: Pick, columns: int, samples: int | None) -> dict[str, Any]:
    vectors = {"l1": np.full(columns, 0.2), "l2": 0.1, "lower": -1.0, "upper": np.ones(columns)}
    return subset(pick, vectors if samples is None else {**vectors, "weights": np.ones(samples)})


@calls("fastiter.bcd.LeastSquares")
def squares(pick: Pick) -> dict[str, Any]:
    n, m = pick.integer(0, 5), pick.integer(0, 4)
    return {"A": data(pick, n, m), "b": pick.normal(n), **parts(pick, m, n)}


@calls("fastiter.bcd.Logistic")
def logistic(pick: Pick) -> dict[str, Any]:
    n, m = pick.integer(1, 5), pick.integer(0, 4)
    return {"A": data(pick, n, m), "y": np.arange(n) % 2, **parts(pick, m, n)}


@calls("fastiter.bcd.Softmax")
def softmax(pick: Pick) -> dict[str, Any]:
    n, m = pick.integer(1, 5), pick.integer(0, 4)
    return {"A": data(pick, n, m), "y": np.arange(n) % 3, **subset(pick, {"classes": 4}), **parts(pick, m, n)}


@calls("fastiter.bcd.Quadratic")
def quadratic(pick: Pick) -> dict[str, Any]:
    m, dtype = pick.integer(0, 5), pick.one_of(REAL)
    A = (2 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1)).astype(dtype)
    return {"A": pick.one_of((A, sp.csr_array(A))), "b": pick.normal(m), **parts(pick, m, None)}


@calls("fastiter.bcd.Blocks", run=lambda size, partition: repr(bcd.Blocks(size, partition)))
def blocks(pick: Pick) -> dict[str, Any]:
    return {"size": pick.integer(1, 9), "partition": pick.one_of(("order", "sort", "average", "variable"))}


@calls("fastiter.bcd.bcd", also=("Blocks",))
def descent(pick: Pick) -> dict[str, Any]:
    n, m = pick.integer(0, 5), pick.integer(1, 4)
    A = data(pick, n, m)
    limits = {"x0": np.zeros(m, A.dtype), "rtol": 1e-3, "check_every": 2, "rng": 1, "throw": False, "stop": "gap"}
    update = pick.one_of(("gradient", "matrix", "newton"))
    options = {"rule": pick.one_of(("cyclic", "random", "lipschitz", "gs", "gsq")), "update": update, "blocks": 2}
    return {
        "problem": bcd.LeastSquares(A, pick.normal(n), l1=0.1),
        **subset(pick, limits),
        **subset(pick, options),
        "max_steps": 9,
    }


@calls("fastiter.bcd.lasso_path")
def path(pick: Pick) -> dict[str, Any]:
    n, m = pick.integer(0, 5), pick.integer(0, 4)
    options = {"l2": 0.1, "nonnegative": True, "rtol": 1e-3, "max_steps": 9, "throw": False}
    return {"A": data(pick, n, m), "b": pick.normal(n), "l1": np.array([1.0, 0.3]), **subset(pick, options)}


@calls("fastiter.bcd.nnls", also=("LeastSquares", "bcd"))
def nonnegative(pick: Pick) -> dict[str, Any]:
    n, m = pick.integer(0, 5), pick.integer(0, 4)
    A = data(pick, n, m)
    options = {"x0": np.ones(m, A.dtype), "rtol": 1e-3, "throw": False}
    return {"A": A, "b": pick.normal(n), "max_steps": 9, **subset(pick, options)}


@calls("fastiter.bcd.forest_bcd")
def forest(pick: Pick) -> dict[str, Any]:
    n, dtype = pick.integer(1, 5), pick.one_of(REAL)
    A = sp.csr_array((4 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)).astype(dtype))
    options = {"x0": np.ones(n, dtype), "rtol": 1e-3, "check_every": 1, "throw": False}
    blocks = pick.one_of(("red-black", "trees", "greedy trees"))
    given = {"A": pick.one_of((A, A.tocsc())), "b": pick.normal(n), "blocks": blocks, **subset(pick, options)}
    return {**given, **({"order": np.arange(n)[::-1]} if blocks == "trees" else {}), "max_steps": 9}


@calls("fastiter.bcd.sketch_solve")
def sketch(pick: Pick) -> dict[str, Any]:
    n, m = pick.integer(0, 5), pick.integer(0, 4)
    A = data(pick, n, m)
    options = {"x0": np.ones(m, A.dtype), "size": 2, "rtol": 1e-3, "rng": 1, "throw": False}
    kind = pick.one_of(("kaczmarz", "block", "gaussian", "count"))
    return {"A": A, "b": pick.normal(n), "sketch": kind, **subset(pick, options), "max_steps": 9}
