"""Valid and damaged matrices and lists of integers at the entries of the library.

Validity is decided here, by loops over Python's integers, and the library has to agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

import fastiter
from fastiter import relax, ssm
from fastiter.relax import compat
from tests.public.pick import Pick
from tests.public.texts import Accepted

EDGES = (-(2**63), -(2**31), -1, 0, 1, 2, 7, 2**31 - 1, 2**31, 2**32, 2**62)


def refused(call: Callable[[], Any], functions: Sequence[str], is_right: bool | None, what: Callable[[], str]) -> bool:
    """Return whether a call refuses its arguments, in one sentence.

    is_right: whether they are valid, None if that is open. Invalid arguments must be refused, valid ones must not be.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # about convergence, which two sweeps do not reach
            call()
    except (TypeError, ValueError) as error:
        message = str(error)
        if "\n" in message or message.partition(": ")[0] not in functions:
            raise Accepted(f"{what()} is refused by {message!r}") from None
        if is_right is True:
            raise Accepted(f"{what()} is right, and refused by {message!r}") from None
        return True
    if is_right is False:
        raise Accepted(f"{what()} is wrong, and accepted")
    return False


# ---- Lists of integers ----------------------------------------------------------------------------------------------

B, T, D = 3, 6, 4
A_STEPS, X = np.full((B, T, D), 0.5), np.ones((B, T, D))
PACKED = np.ones((1, T, D))
WX, R = np.ones((B, T, 3, 1, D)), np.full((3, 1, D, D), 0.1)
WEIGHT = np.ones((D, 3))


def listed(pick: Pick, values: list[int]) -> Any:
    """Return the integers with one or two of them replaced, cut or added, as a list or an array of some dtype."""
    for _ in range(pick.integer(0, 2)):
        at = pick.integer(0, len(values))
        change = pick.integer(0, 2)
        put = [] if change == 0 else [pick.one_of(EDGES)]
        values = values[:at] + put + values[at + (change != 2) :]
    dtype = pick.one_of((None, np.int64, np.int32, np.uint64, np.int16))
    if dtype is None or any(not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max for value in values):
        return values
    return np.array(values, dtype)


def bounds(pick: Pick) -> bool:
    """Pack sequences with cu_seqlens."""
    found = listed(pick, [0, *sorted(pick.integer(0, T) for _ in range(pick.integer(0, 3))), T])
    numbers = [int(value) for value in found]
    is_right = bool(numbers) and numbers[0] == 0 and numbers[-1] == T and numbers == sorted(numbers)
    name, call = pick.one_of(
        (
            ("linear_scan", lambda: fastiter.linear_scan(PACKED / 2, PACKED, cu_seqlens=found)),
            ("gru", lambda: fastiter.gru(WX[:1], R, cu_seqlens=found)),
            ("causal_conv1d", lambda: ssm.causal_conv1d(PACKED.swapaxes(1, 2), WEIGHT, cu_seqlens=found)),
            ("causal_conv1d_varlen_states", lambda: ssm.causal_conv1d_varlen_states(PACKED[0], found, 3)),
        )
    )
    return refused(call, (name,), is_right, lambda: f"{name} of cu_seqlens {found!r}")


def lengths(pick: Pick) -> bool:
    """Cut rows by lengths."""
    found = listed(pick, [pick.integer(0, T) for _ in range(B)])
    is_right = len(found) == B and all(0 <= int(value) <= T for value in found)
    name, call = pick.one_of(
        (
            ("linear_scan", lambda: fastiter.linear_scan(A_STEPS, X, lengths=found)),
            ("gru", lambda: fastiter.gru(WX, R, lengths=found)),
            ("causal_conv1d", lambda: ssm.causal_conv1d(X.swapaxes(1, 2), WEIGHT, lengths=found)),
        )
    )
    return refused(call, (name,), is_right, lambda: f"{name} of lengths {found!r}")


def rows_of_states(pick: Pick) -> bool:
    """Choose rows of a cache, each at most once; negative numbers are padding."""
    found = listed(pick, sorted(range(B), key=lambda _: pick.integer(0, 9)))
    numbers = [int(value) for value in found if int(value) >= 0]
    is_right = len(found) == B and all(value < B for value in numbers) and len(set(numbers)) == len(numbers)
    state = np.zeros((B, D, 3))
    call = lambda: ssm.causal_conv1d_update(X[:, 0], state, WEIGHT, conv_state_indices=found)  # noqa: E731
    return refused(call, ("causal_conv1d_update",), is_right, lambda: f"conv_state_indices {found!r}")


N = 6
MATRIX = 4 * np.eye(N) - np.eye(N, k=1) - np.eye(N, k=-1)
SPARSE = sp.csr_array(MATRIX)
ONES = np.ones(N)


def permutations(pick: Pick) -> bool:
    """Relax rows in a given order."""
    found = listed(pick, sorted(range(N), key=lambda _: pick.integer(0, 99)))
    is_right = sorted(int(value) for value in found) == list(range(N))
    A, method = pick.one_of((MATRIX, SPARSE)), pick.one_of(("sor", "kaczmarz", "gauss_seidel"))
    call = lambda: relax.Relaxation(A, method, order=found)  # type: ignore[arg-type]  # noqa: E731
    return refused(call, ("Relaxation",), is_right, lambda: f"{method} in the order {found!r}")


def points(pick: Pick) -> bool:
    """List rows, and subdomains, for PyAMG's functions."""
    found = listed(pick, [pick.integer(0, N - 1) for _ in range(pick.integer(0, 4))])
    in_range = all(0 <= int(value) < N for value in found)
    if pick.flag():
        call: Callable[[], Any] = lambda: compat.jacobi_indexed(SPARSE, np.zeros(N), ONES, found)  # noqa: E731
        return refused(call, ("jacobi_indexed",), in_range, lambda: f"jacobi_indexed of {found!r}")
    first = listed(pick, [0, *sorted(pick.integer(0, len(found)) for _ in range(2)), len(found)])
    starts = [int(value) for value in first]
    is_right = in_range and starts == sorted(starts) and bool(starts) and starts[0] >= 0 and starts[-1] <= len(found)
    call = lambda: compat.schwarz(SPARSE, np.zeros(N), ONES, subdomain=found, subdomain_ptr=first)  # noqa: E731
    return refused(call, ("schwarz",), is_right, lambda: f"schwarz of {found!r}, {first!r}")


# ---- Sparse matrices ------------------------------------------------------------------------------------------------


def pattern(pick: Pick, n: int) -> Any:
    """Return a symmetric matrix with a full, dominant diagonal, as CSR."""
    links = pick.generator().random((n, n)) < 0.3
    A = np.where(links | links.T, -1.0, 0.0)
    np.fill_diagonal(A, 0)
    np.fill_diagonal(A, 1 - A.sum(axis=1))
    return sp.csr_array(A)


def colours(pick: Pick) -> bool:
    """Request two colours, which are sufficient if no cycle of links is odd."""
    A = pattern(pick, pick.integer(1, 7))
    is_right = is_bipartite(A.toarray() != 0)
    call = lambda: relax.Relaxation(A, "sor", order="red-black")  # noqa: E731
    found = refused(call, ("Relaxation",), is_right, lambda: f"red-black for\n{A.toarray()}")
    most = int((A.toarray() != 0).sum(axis=1).max())  # the maximum number of links of a row, plus one
    if relax.Relaxation(A, "sor", order="color").colors > most:
        raise Accepted(f"more than {most} colours for\n{A.toarray()}")
    return found


def is_bipartite(links: Any) -> bool:
    """Return whether two colours suffice for the rows, with no link between rows of one colour."""
    colour: dict[int, int] = {}
    for start in range(len(links)):
        waiting = [] if start in colour else [start]
        colour.setdefault(start, 0)
        while waiting:
            row = waiting.pop()
            for other in map(int, np.flatnonzero(links[row])):
                if other not in colour:
                    colour[other] = 1 - colour[row]
                    waiting.append(other)
                elif other != row and colour[other] == colour[row]:
                    return False
    return True


CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "gauss_seidel": lambda A, x, b: relax.gauss_seidel(A, b, x, max_steps=2),
    "jacobi": lambda A, x, b: relax.jacobi(A, b, x, max_steps=2),
    "kaczmarz": lambda A, x, b: relax.kaczmarz(A, b, x, max_steps=2),
    "sor": lambda A, x, b: relax.sor(A, b, x, omega=1.2, order="cluster", max_steps=2),
    "polynomial": lambda A, x, b: compat.polynomial(A, x, b, [0.1]),
    "jacobi_ne": lambda A, x, b: compat.jacobi_ne(A, x, b),
    "gauss_seidel_ne": lambda A, x, b: compat.gauss_seidel_ne(A, x, b),
    "gauss_seidel_nr": lambda A, x, b: compat.gauss_seidel_nr(A, x, b),
    "schwarz": lambda A, x, b: compat.schwarz(A, x, b),
    "block_jacobi": lambda A, x, b: compat.block_jacobi(A, x, b, blocksize=2),
}


def matrices(pick: Pick) -> bool:
    """Relax with a matrix that has invalid arrays, in some format."""
    n = pick.integer(1, 4) * 2
    A = pattern(pick, n)
    form = pick.one_of(("csr", "csc", "bsr", "coo"))
    A = A.tobsr((2, 2)) if form == "bsr" else A.asformat(form)
    if pick.flag():
        A = A.astype(pick.one_of((np.float32, np.complex128)))
    for _ in range(pick.integer(0, 2)):
        damage(pick, A)
    # A matrix with a valid pattern may still be refused for its values, such as a zero on the diagonal.
    is_right = None if follows(A) and bool(np.isfinite(A.data).all()) else False
    name = pick.one_of(tuple(CALLS))
    x, b = np.zeros(n, A.dtype), np.ones(n, A.dtype)
    return refused(lambda: CALLS[name](A, x, b), (name,), is_right, lambda: f"{name} of {described(A)}")


def damage(pick: Pick, A: Any) -> None:
    """Change a number, or the length, of one of the arrays of a matrix."""
    names = ("row", "col", "data") if A.format == "coo" else ("indptr", "indices", "data")
    name = pick.one_of(names)
    if name in ("row", "col"):
        arrays = [np.array(index) for index in A.coords]
        arrays[name == "col"] = changed(pick, arrays[name == "col"])
        A.coords = tuple(arrays)
    else:
        setattr(A, name, changed(pick, getattr(A, name)))


def changed(pick: Pick, array: Any) -> Any:
    """Return an array with one number replaced, removed or added."""
    if not len(array) or pick.integer(0, 3) == 0:
        return array[: max(len(array) - 1, 0)] if pick.flag() else np.concatenate([array, array[-1:]])
    array = np.array(array)
    edges = (np.nan, np.inf, 0.0) if array.dtype.kind in "fc" else (-1, 0, 1, 3, 8, 2**31 - 1, -(2**31))
    array.flat[pick.integer(0, array.size - 1)] = pick.one_of(edges)
    return array


def follows(A: Any) -> bool:
    """Return whether the pattern of a matrix is within the bounds of its arrays and shape."""
    if A.format == "coo":
        lengths = {len(A.data), *map(len, A.coords)}
        ends = zip(A.coords, A.shape, strict=True)
        return len(lengths) == 1 and all(0 <= int(i) < end for index, end in ends for i in index)
    height, width = A.blocksize if A.format == "bsr" else (1, 1)
    rows, columns = A.shape[0] // height, A.shape[1] // width
    lines, end = (columns, rows) if A.format == "csc" else (rows, columns)
    start = [int(i) for i in A.indptr]
    return (
        len(A.data) == len(A.indices)
        and len(start) == lines + 1
        and start[0] == 0
        and start == sorted(start)
        and start[-1] <= len(A.indices)
        and all(0 <= int(i) < end for i in A.indices)
    )


def described(A: Any) -> str:
    """Return the arrays of a matrix in one line."""
    arrays = (*A.coords, A.data) if A.format == "coo" else (A.indptr, A.indices, A.data.ravel())
    return f"{A.format} {A.shape} {[array.tolist() for array in arrays]}"
