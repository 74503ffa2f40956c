"""Arguments that fastiter.relax.compat refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from fastiter.relax import Batch
from fastiter.relax import compat as ours
from tests.relax.cases import csr, random_matrix

MATRIX = csr(random_matrix(6, "float64"))


def out_of_range(kind: str = "csr") -> Any:
    """Return a matrix with a column index far out of range."""
    A = csr(random_matrix(6, "float64", 1.0)).asformat(kind)
    if kind == "coo":
        A.coords[1][3] = 2**30
    else:
        A.indices[A.indptr[1]] = 2**30
    return A


LISTS = np.array([0, 1, 2]), np.array([0, 3])
REFUSED: list[tuple[type[Exception], str, Any]] = [
    *(
        (ValueError, rf"{name}: x and b must have shape .* to go with A, got \(6,\) and \({size},\)", call)
        for size in (1, 7)
        for name, call in (
            ("gauss_seidel_nr", lambda x, b, size=size: ours.gauss_seidel_nr(MATRIX, x, np.ones(size))),
            ("jacobi_ne", lambda x, b, size=size: ours.jacobi_ne(MATRIX, x, np.ones(size))),
            ("polynomial", lambda x, b, size=size: ours.polynomial(MATRIX, x, np.ones(size), [1.0])),
        )
    ),
    *(
        (
            TypeError,
            f"polynomial: coefficients must be a list of numbers, got {type(y).__name__}",
            lambda x, b, y=y: ours.polynomial(MATRIX, x, b, y),
        )
        for y in (1.0, None, "1", ["a"])
    ),
    (TypeError, "sor: sweep must be a str, got list", lambda x, b: ours.sor(MATRIX, x, b, 1.0, sweep=["forward"])),
    (
        ValueError,
        "sor: sweep must be 'forward', 'backward' or 'symmetric', got 'up'",
        lambda x, b: ours.sor(MATRIX, x, b, 1.0, sweep="up"),
    ),
    (
        ValueError,
        "schwarz: sweep must be 'forward', 'backward' or 'symmetric', got 'up'",
        lambda x, b: ours.schwarz(MATRIX, x, b, sweep="up"),
    ),
    *(
        (ValueError, rf"{name}: A must have columns from 0 to 5, got another in row 1", call)
        for name, call in (
            ("jacobi_ne", lambda x, b: ours.jacobi_ne(out_of_range(), x, b)),
            ("gauss_seidel_nr", lambda x, b: ours.gauss_seidel_nr(out_of_range(), x, b)),
            ("polynomial", lambda x, b: ours.polynomial(out_of_range(), x, b, [1.0])),
            ("sor", lambda x, b: ours.sor(out_of_range(), x, b, 1.0)),
        )
    ),
    *(
        (ValueError, "A must have (rows|columns) from 0 to [25], got another in (column|entry|row of blocks)", call)
        for call in (
            lambda x, b: ours.jacobi_ne(out_of_range("csc"), x, b),
            lambda x, b: ours.polynomial(out_of_range("bsr"), x, b, [1.0]),
            lambda x, b: ours.gauss_seidel(out_of_range("csc"), x, b),
            lambda x, b: ours.gauss_seidel(out_of_range("coo"), x, b),
        )
    ),
    (
        TypeError,
        "sor: A must be a sparse matrix or a NumPy array, got .*Batch",
        lambda x, b: ours.sor(Batch(MATRIX, MATRIX.data[None]), x, b, 1.0),
    ),
    *(
        (
            TypeError,
            rf"{call.__name__}: x must .* \(x.astype\(float\) does\), as it is updated in place, got int64",
            lambda x, b, call=call: call(MATRIX, x.astype(int), b),
        )
        for call in (ours.gauss_seidel, ours.jacobi, ours.jacobi_ne, ours.gauss_seidel_nr, ours.schwarz)
    ),
    (
        TypeError,
        "jacobi: omega must be a real number if A is real, got complex",
        lambda x, b: ours.jacobi(MATRIX, x, b, omega=1 - 1j),
    ),
    (
        ValueError,
        "jacobi: omega must be finite, got",
        lambda x, b: ours.jacobi(MATRIX * (1 + 0j), x + 0j, b + 0j, omega=complex(1, np.inf)),
    ),
    (
        TypeError,
        "gauss_seidel: x and b must be NumPy arrays, got list and numpy.ndarray",
        lambda x, b: ours.gauss_seidel(MATRIX, [0.0] * 6, b),
    ),
    (
        TypeError,
        "jacobi_ne: b must have dtype float64 like x, got float32",
        lambda x, b: ours.jacobi_ne(MATRIX, x, b.astype("float32")),
    ),
    (
        TypeError,
        "schwarz: x and b must have dtype float64 to go with A, got complex128",
        lambda x, b: ours.schwarz(MATRIX, x * 1j, b * 1j),
    ),
    (
        ValueError,
        r"schwarz: x and b must have shape \(6,\) or \(6, k\) to go with A, got \(5,\) and \(6,\)",
        lambda x, b: ours.schwarz(MATRIX, x[:5], b),
    ),
    (
        ValueError,
        "jacobi_indexed: x must be writable, got a read-only array",
        lambda x, b: ours.jacobi_indexed(MATRIX, np.broadcast_to(0.0, (6,)), b, [0]),
    ),
    (
        ValueError,
        "gauss_seidel_indexed: indices must be from 0 to 5, got 0 to 6",
        lambda x, b: ours.gauss_seidel_indexed(MATRIX, x, b, [0, 6]),
    ),
    (
        TypeError,
        r"cf_jacobi: Fpts must be a list of ints, got list of dtype float64 and shape \(1,\)",
        lambda x, b: ours.cf_jacobi(MATRIX, x, b, [0], [0.5]),
    ),
    (
        ValueError,
        "jacobi_indexed: indices must be from 0 to 1, got 2 to 2",
        lambda x, b: ours.jacobi_indexed(MATRIX.tobsr((3, 3)), x, b, [2]),
    ),
    (
        ValueError,
        r"jacobi_indexed: A must have square blocks, got blocks of shape \(3, 2\)",
        lambda x, b: ours.jacobi_indexed(MATRIX.tobsr((3, 2)), x, b, [1]),
    ),
    (
        ValueError,
        "fc_jacobi: c_iterations must be at least 0, got -1",
        lambda x, b: ours.fc_jacobi(MATRIX, x, b, [0], [1], c_iterations=-1),
    ),
    (
        ValueError,
        "fc_block_jacobi: omega must be finite and above 0, got -1",
        lambda x, b: ours.fc_block_jacobi(MATRIX, x, b, [0], [1], omega=-1),
    ),
    (
        ValueError,
        "block_jacobi: blocksize must be at most 64, got 65",
        lambda x, b: ours.block_jacobi(MATRIX, x, b, blocksize=65),
    ),
    (
        ValueError,
        "polynomial: coefficients must not be empty, got none",
        lambda x, b: ours.polynomial(MATRIX, x, b, []),
    ),
    (
        ValueError,
        "schwarz: subdomain and subdomain_ptr must both be given or both be None, got one of them",
        lambda x, b: ours.schwarz(MATRIX, x, b, subdomain=LISTS[0]),
    ),
    (
        ValueError,
        "schwarz: inv_subblock and inv_subblock_ptr must both be given or both be None, got one of them",
        lambda x, b: ours.schwarz(MATRIX, x, b, 1, *LISTS, inv_subblock=np.ones(9)),
    ),
    (
        ValueError,
        "schwarz: inv_subblock must be None if subdomain is None, got ndarray",
        lambda x, b: ours.schwarz(MATRIX, x, b, inv_subblock=np.ones(9), inv_subblock_ptr=np.array([0, 9])),
    ),
    (
        ValueError,
        r"schwarz: subdomain_ptr must have an entry and not decrease, got \[3 0\]",
        lambda x, b: ours.schwarz(MATRIX, x, b, 1, LISTS[0], LISTS[1][::-1]),
    ),
    (
        ValueError,
        r"schwarz: inv_subblock_ptr must grow by the square of each subdomain's size, got \[0 8\]",
        lambda x, b: ours.schwarz(MATRIX, x, b, 1, *LISTS, np.ones(9), np.array([0, 8])),
    ),
    (
        TypeError,
        "schwarz: inv_subblock must have dtype float64 like A, got int64",
        lambda x, b: ours.schwarz(MATRIX, x, b, 1, *LISTS, np.ones(9, np.int64), np.array([0, 9])),
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), REFUSED, ids=[message for _, message, _ in REFUSED])
def test_refused(error: type[Exception], message: str, call: Any) -> None:
    with pytest.raises(error, match=message):
        call(np.zeros(6), np.ones(6))
