"""CuPy matrices and vectors: the solvers forward them to fastiter.torch, which has the GPU kernels."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from .._backend import BackendError
from .._cupy import is_cupy, through_torch

_Solver = TypeVar("_Solver", bound=Callable[..., Any])


def takes_cupy_systems(function: _Solver) -> _Solver:
    """Let a function solve(A, b, x0, ...) accept CuPy arrays and sparse matrices; its value is then a CuPy array."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if not any(map(is_cupy, (*args, *options.values()))):
            return function(*args, **options)
        given = signature.bind(*args, **options).arguments
        first = (given.pop("b"), given.pop("x0", None), _parts(given.pop("A")), function.__name__)
        return through_torch("fastiter.relax._torch.cupy", "solve", first, given, function.__name__)

    return cast(_Solver, call)


def _parts(A: Any) -> Any:
    """Return a CuPy sparse matrix as (shape, indptr, indices, data)."""
    if not hasattr(A, "tocsr"):
        return A
    rows = A.tocsr()
    return tuple(rows.shape), rows.indptr, rows.indices, rows.data


def refuse_cupy(function: str, A: object) -> None:
    """Refuse a CuPy matrix in functions that do not forward it."""
    if is_cupy(A):
        raise BackendError(
            f"{function}: A must be NumPy's or SciPy's, got {type(A).__qualname__} of CuPy, which the functions that "
            "solve take, and fastiter.torch.Relaxation as a tensor"
        )
