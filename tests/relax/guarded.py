"""Relaxation with every vector between two inaccessible guard pages: run by test_isa.py."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fastiter.relax import Relaxation, Stencil, chebyshev
from tests.relax.cases import DTYPES, csr, matrix_for, order_for, vectors
from tests.support.cases import Array
from tests.support.guarded import copies

SIZES = (1, 7, 8, 9, 33)


def sweeps_of(A: Array, dtype: str) -> list[Relaxation]:
    n, sparse = len(A), csr(A)
    orders = [order_for(order, n) for order in ("natural", "color", "cluster", "array")]
    made = [Relaxation(sparse, "ssor", omega=1.2, order=order) for order in orders]
    made += [Relaxation(given, "jacobi") for given in (sparse, A)]
    made += [Relaxation(A, "ssor"), Relaxation(sparse, "kaczmarz")]
    return made + [Relaxation(sparse, "block_gauss_seidel", block_size=size) for size in (1, 3, 4)]


def call(sweeps: Relaxation, x: Any, b: Any, at_end: bool) -> None:
    x, b = copies(x, at_end), copies(b, at_end)
    sweeps.sweep(x, b, 2)
    sweeps.residual(x, b)
    sweeps.solve(b, x, max_steps=2)


if __name__ == "__main__":
    for n, dtype, at_end in itertools.product(SIZES, DTYPES, (False, True)):
        A = matrix_for("color", n, dtype)
        for sweeps, k in itertools.product(sweeps_of(A, dtype), (None, 1, 3, 8)):
            shape = (n,) if k is None else (n, k)
            call(sweeps, vectors(shape, dtype, 1), vectors(shape, dtype, 2), at_end)
        b = copies(vectors(n, dtype, 1), at_end)
        chebyshev(csr(A), b, copies(vectors(n, dtype, 2), at_end), bounds=(0.5, 1.5), max_steps=3)
    for grid, dtype, at_end in itertools.product(((1, 1), (3, 17), (9, 70), (2, 3, 33)), DTYPES[:2], (False, True)):
        stencil = Stencil(grid, np.array([9.0, *[-1.0] * (2 * len(grid))], dtype))
        for method, order in (("sor", "natural"), ("ssor", "red-black"), ("jacobi", "natural")):
            call(Relaxation(stencil, method, order=order), vectors(grid, dtype, 1), vectors(grid, dtype, 2), at_end)
    assert not np.isnan(b).any()
    print("done")
