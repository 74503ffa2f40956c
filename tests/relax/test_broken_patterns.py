"""Sparse matrices with invalid arrays: each is refused before scipy or a kernel uses its indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from fastiter import relax
from fastiter.relax import compat
from tests.relax.cases import csr
from tests.support.pairs import pairs

FULL = np.ones((6, 6)) + 9 * np.eye(6)
FORMS = ("csr", "csc", "bsr")
DAMAGE: dict[str, Callable[[Any], None]] = {
    "one pointer too few": lambda A: setattr(A, "indptr", A.indptr[:-1]),
    "one pointer too many": lambda A: setattr(A, "indptr", np.append(A.indptr, A.indptr[-1])),
    "no pointers": lambda A: setattr(A, "indptr", A.indptr[:0]),
    "a pointer that falls": lambda A: A.indptr.__setitem__(-1, 1),
    "a negative pointer": lambda A: A.indptr.__setitem__(0, -1),
    "a pointer too far": lambda A: A.indptr.__setitem__(-1, 2**30),
    "an index too far": lambda A: A.indices.__setitem__(3, 2**30),
    "a negative index": lambda A: A.indices.__setitem__(3, -1),
    "indices that are floats": lambda A: setattr(A, "indices", A.indices.astype(np.float64)),
    "pointers that are floats": lambda A: setattr(A, "indptr", A.indptr.astype(np.float64)),
    "indices with two axes": lambda A: setattr(A, "indices", A.indices[:, None]),
    "one value too few": lambda A: setattr(A, "data", A.data[:-1]),
}
Call = Callable[[Any, Any, Any], Any]
CALLS: dict[str, Call] = {
    "sor": lambda A, x, b: relax.sor(A, b, x),
    "block_jacobi": lambda A, x, b: relax.block_jacobi(A, b, x, block_size=1),
    "kaczmarz": lambda A, x, b: relax.kaczmarz(A, b, x),
    "Batch": lambda A, x, b: relax.Batch(A, np.ones((1, 36))),
    "compat.jacobi": lambda A, x, b: compat.jacobi(A, x, b),
    "compat.jacobi_ne": lambda A, x, b: compat.jacobi_ne(A, x, b),
    "compat.polynomial": lambda A, x, b: compat.polynomial(A, x, b, [1.0]),
    "compat.gauss_seidel_nr": lambda A, x, b: compat.gauss_seidel_nr(A, x, b, Dinv=np.ones(6)),
    "compat.gauss_seidel_ne": lambda A, x, b: compat.gauss_seidel_ne(A, x, b, Dinv=np.ones(6)),
    "compat.block_gauss_seidel": lambda A, x, b: compat.block_gauss_seidel(A, x, b, blocksize=2),
    "compat.schwarz": lambda A, x, b: compat.schwarz(A, x, b),
}


@pairs
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_pattern_is_refused(damage: str, name: str, dtype: str) -> None:
    """Only the functions of compat accept complex64, which scipy converts for them."""
    if dtype == "complex64" and not name.startswith("compat."):
        return
    for form in FORMS:
        A = csr(FULL).astype(dtype)
        A = A.tobsr((1, 1)) if form == "bsr" else A.asformat(form)
        DAMAGE[damage](A)
        x, b = np.ones(6, A.dtype), np.ones(6, A.dtype)
        with pytest.raises(ValueError, match=r"^\w+: (A|pattern) must ") as raised:
            CALLS[name](A, x, b)
        assert str(raised.value).startswith(name.removeprefix("compat.") + ": ")
        assert (x == 1).all()


def test_missing_coordinates_are_refused() -> None:
    A = csr(FULL).tocoo()
    A.coords = (A.coords[0][:-2], A.coords[1])
    message = r"^sor: A must have a row and a column for each value, got \[34, 36\]$"
    with pytest.raises(ValueError, match=message):
        relax.sor(A, np.ones(6))
