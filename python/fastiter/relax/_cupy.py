"""CuPy's matrices: their conversion for the solvers on tensors, and their refusal elsewhere."""

from __future__ import annotations

from typing import Any

from .._backend import BackendError, is_cupy


def parts_of(A: Any) -> Any:
    """Return a CuPy sparse matrix as (indptr, indices, data, shape), anything else unchanged."""
    if not hasattr(A, "tocsr"):
        return A
    rows = A.tocsr()
    return rows.indptr, rows.indices, rows.data, tuple(rows.shape)


def refuse_cupy(function: str, A: object) -> None:
    """Refuse a CuPy matrix in functions that do not forward it."""
    if is_cupy(A):
        raise BackendError(
            f"{function}: A must be NumPy's or SciPy's, got {type(A).__qualname__} of CuPy, which the functions that "
            "solve take, and fastiter.torch.relax.Relaxation as a tensor"
        )
