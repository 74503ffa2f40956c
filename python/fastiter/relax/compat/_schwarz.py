"""The functions of pyamg.relaxation.relaxation that relax lists of rows: Schwarz, indexed, C and F points.

All of them update x_S <- x_S + omega B_S (b - A x)_S for lists S of rows, each with a matrix B_S: the inverse of A_SS,
of its diagonal, or one from the caller; one list after the other (multiplicative), or all from the same x (Jacobi). The
caller's blocks are assumed to be inverses, as in PyAMG: x_S <- (1 - omega) x_S + omega B_S (b_S - sum of A_ST x_T).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ... import _core
from .._docs import SWEEPS
from .._sweeps import vectors
from .._sweeps.matrix import NUMBERS, Csr
from ._cache import CachedMatrix, check_shapes, check_sweep, fingerprint, in_place, whole_numbers

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Lists:
    """Lists of rows of A, row[first[s] : first[s + 1]], each with a matrix B by rows at inverse[first_inverse[s]]."""

    A: Csr
    first: Array
    row: Array
    first_inverse: Array
    inverse: Array
    is_apart: bool = False  # A has no entries within a list: x_S <- (1 - omega) x_S + omega B_S (b - A x)_S

    @classmethod
    def of(cls, A: Csr, first: Array, row: Array, inverse: Array, *, is_apart: bool = False) -> Lists:
        """Return lists whose matrices are stored one after the other, in the dtype of sums."""
        return cls(A, first, row.astype(np.int32), squares_before(first), in_sums(inverse.ravel()), is_apart)


def squares_before(first: Array) -> Array:
    """Return the offset of each list's square matrix, and the end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.square(np.diff(first)))])


def in_sums(x: Array) -> Array:
    """Return ``x`` in the dtype of sums."""
    return np.ascontiguousarray(x, np.complex128 if x.dtype.kind == "c" else np.float64)


def relax_lists(
    function: str, lists: Lists, x: Array, b: Array, omega: float = 1.0, *, backward: bool = False, jacobi: bool = False
) -> None:
    """Relax all lists once, in place; x and b are contiguous."""
    A = lists.A
    numbers = NUMBERS.get((A.value.dtype.name, x.dtype.name))
    if numbers is None:
        raise TypeError(f"{function}: x and b must have dtype {A.value.dtype} to go with A, got {x.dtype}")
    check_shapes(function, A.n, x, b)
    if x.size == 0:
        return
    parameters, count, weight = x.copy() if jacobi else x, len(lists.first) - 1, 1 - omega if lists.is_apart else 1.0
    pointers: tuple[Array | int, Array | int] = (lists.first, lists.first_inverse)
    if len(lists.row) == len(lists.inverse) == count:  # each list is one row
        pointers = (0, 0)
    parts = (pointers[0], lists.row, pointers[1], lists.inverse)
    k = vectors.width(x)
    _core.relax.schwarz(
        numbers, A.start, A.column, A.value, count, *parts, parameters, x, b, k, weight, omega, backward
    )


def points(cached: CachedMatrix, rows: Array) -> Lists:
    """Return each row as a separate list, with 1 / a_ii, or with 0 if a_ii is 0: such a row is skipped."""

    def make() -> Lists:
        diagonal = in_sums(cached.get("diagonal", lambda: diagonal_of(cached.csr()))[rows])
        inverse = np.divide(1, diagonal, out=np.zeros_like(diagonal), where=diagonal != 0)
        return Lists.of(cached.csr(), np.arange(len(rows) + 1), rows, inverse)

    return cached.get(("points", fingerprint(rows)), make)


def diagonal_of(A: Csr) -> Array:
    row, result = np.repeat(np.arange(A.n), np.diff(A.start)), np.zeros(A.n, A.value.dtype)
    on = row == A.column
    result[row[on]] = A.value[on]
    return result


def diagonal_blocks(cached: CachedMatrix, size: int) -> Array:
    """Return the diagonal blocks of A, (n / size, size, size); the last may be padded with the identity."""

    def make() -> Array:
        A, count = cached.csr(), -(-cached.A.shape[0] // size)
        row = np.repeat(np.arange(A.n), np.diff(A.start))
        inside = row // size == A.column // size
        result, padding = np.zeros((count, size, size), A.value.dtype), np.arange(A.n, count * size) % size
        result[row[inside] // size, row[inside] % size, A.column[inside] % size] = A.value[inside]
        result[-1:, padding, padding] = 1
        return result

    return cached.get(("diagonal blocks", size), make)


def inverse_blocks(cached: CachedMatrix, size: int, Dinv: Array | None) -> Array:
    """Return ``Dinv``, checked, or the inverses of the diagonal blocks, pseudo-inverses of the singular ones."""
    blocks = diagonal_blocks(cached, size)
    if Dinv is not None:
        if np.shape(Dinv) != blocks.shape:
            raise ValueError(f"{cached.function}: Dinv must have shape {blocks.shape}, got {np.shape(Dinv)}")
        return np.asarray(Dinv)
    values = np.linalg.svd(in_sums(blocks), compute_uv=False)
    singular = values.min(axis=1, initial=np.inf) <= values.max(axis=1, initial=0) * size * 2.0**-52
    result = np.empty_like(in_sums(blocks))
    result[~singular] = np.linalg.inv(in_sums(blocks[~singular]))
    result[singular] = np.linalg.pinv(in_sums(blocks[singular]), rcond=pseudo_inverse_cut(blocks.dtype))
    return result


def pseudo_inverse_cut(dtype: np.dtype[Any]) -> float:
    """PyAMG's limit: singular values below this fraction of the largest are treated as 0."""
    return float(1e3 * np.finfo(np.float32).eps if dtype.char in "fF" else 1e6 * np.finfo(np.float64).eps)


def is_inverse(cached: CachedMatrix, size: int, Dinv: Array) -> bool:
    """Return whether ``Dinv`` holds the inverses of the diagonal blocks of A, up to rounding."""
    blocks = diagonal_blocks(cached, size)
    inverse = inverse_blocks(cached, size, Dinv)
    near = 1e3 * size * float(np.finfo(blocks.dtype).eps)

    def make() -> bool:
        product = in_sums(inverse) @ in_sums(blocks)
        return bool((np.abs(product - np.eye(size)) <= near).all())

    return cached.get(("is inverse", size, fingerprint(inverse)), make)


def in_blocks(cached: CachedMatrix, size: int, blocks: Array, Dinv: Array | None) -> Lists:
    """Return the rows of each of ``blocks``, with its block of ``Dinv`` or the inverse of its diagonal block."""

    def make() -> Lists:
        inverse = inverse_blocks(cached, size, Dinv)
        rows = blocks[:, None] * size + np.arange(size)
        is_there = rows < cached.A.shape[0]  # the last block may have fewer rows
        first = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_there.sum(axis=1))])
        own = inverse[blocks][is_there[:, :, None] & is_there[:, None, :]]
        return Lists.of(cached.get(("apart", size), apart), first, rows[is_there], own, is_apart=True)

    def apart() -> Csr:
        A = cached.csr()
        row = np.repeat(np.arange(A.n), np.diff(A.start))
        outside = row // size != A.column // size
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row[outside], minlength=A.n))])
        return Csr(A.columns, start, A.column[outside], A.value[outside])

    parameters = None if Dinv is None else fingerprint(inverse_blocks(cached, size, Dinv))
    return cached.get(("blocks", size, fingerprint(blocks), parameters), make)


@SWEEPS
def schwarz(
    A: Any,
    x: Array,
    b: Array,
    iterations: int = 1,
    subdomain: Array | None = None,
    subdomain_ptr: Array | None = None,
    inv_subblock: Array | None = None,
    inv_subblock_ptr: Array | None = None,
    sweep: Literal["forward", "backward", "symmetric"] = "forward",
) -> None:
    """x_S <- x_S + A_SS^-1 (b - A x)_S for one subdomain S after the other, in place; they may overlap.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(iterations)s
    subdomain, subdomain_ptr : arrays of int, optional
        The rows of S are subdomain[subdomain_ptr[i] : subdomain_ptr[i + 1]]. None: for each row of A, the columns of
        its entries.
    inv_subblock, inv_subblock_ptr : arrays, optional
        A_SS^-1 by rows: inv_subblock[inv_subblock_ptr[i] : inv_subblock_ptr[i + 1]]. None: pseudo-inverses, computed in
        the first call and cached as long as the values of A are unchanged.
    %(sweep)s

    %(raises)s

    See Also
    --------
    schwarz_parameters : Returns the arguments that are None by default.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> from fastiter.relax.compat import schwarz
    >>> A = scipy.sparse.csr_array(np.array([[4.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 4.0]]))
    >>> x = np.zeros(3)
    >>> schwarz(A, x, np.array([3.0, 2.0, 3.0]))  # the subdomain of the second row has all rows
    >>> x
    array([1., 1., 1.])
    """
    halves, count = check_sweep("schwarz", sweep), vectors.count("schwarz", "iterations", iterations)
    parameters = (subdomain, subdomain_ptr, inv_subblock, inv_subblock_ptr)
    cached = CachedMatrix("schwarz", A)

    def make() -> Lists:
        rows, first, inverse, first_inverse = _parameters(cached, *parameters)
        pointers = np.ascontiguousarray(first, np.int64), np.ascontiguousarray(first_inverse, np.int64)
        return Lists(cached.csr(), pointers[0], np.ascontiguousarray(rows, np.int32), pointers[1], in_sums(inverse))

    lists = cached.get(("schwarz", *(None if x is None else fingerprint(np.asarray(x)) for x in parameters)), make)

    def relax(x: Array, b: Array) -> None:
        for backward in halves * count:
            relax_lists("schwarz", lists, x, b, backward=backward)

    in_place("schwarz", x, b, relax)


@SWEEPS
def schwarz_parameters(
    A: Any,
    subdomain: Array | None = None,
    subdomain_ptr: Array | None = None,
    inv_subblock: Array | None = None,
    inv_subblock_ptr: Array | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Return subdomain, subdomain_ptr, inv_subblock and inv_subblock_ptr of :func:`schwarz` with None filled in.

    They are also stored in the attribute A.schwarz_parameters of a sparse A; unlike PyAMG's, they are updated when A
    changes.

    Parameters
    ----------
    %(A)s
    subdomain, subdomain_ptr, inv_subblock, inv_subblock_ptr : arrays, optional
        As for :func:`schwarz`.

    Returns
    -------
    subdomain, subdomain_ptr, inv_subblock, inv_subblock_ptr : arrays
        The same, without None.

    %(raises)s

    See Also
    --------
    schwarz : The sweeps.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> from fastiter.relax.compat import schwarz_parameters
    >>> A = scipy.sparse.csr_array(np.array([[2.0, 0.0], [0.0, 4.0]]))
    >>> subdomain, subdomain_ptr, inv_subblock, inv_subblock_ptr = schwarz_parameters(A)
    >>> subdomain, subdomain_ptr, inv_subblock, inv_subblock_ptr
    (array([0, 1], dtype=int32), array([0, 1, 2], dtype=int32), array([0.5 , 0.25]), array([0, 1, 2], dtype=int32))
    """
    parameters = (subdomain, subdomain_ptr, inv_subblock, inv_subblock_ptr)
    result = _parameters(CachedMatrix("schwarz_parameters", A), *parameters)
    if not isinstance(A, np.ndarray):
        A.schwarz_parameters = result
    return result


def _parameters(
    cached: CachedMatrix, rows: Array | None, first: Array | None, inverse: Array | None, first_inverse: Array | None
) -> tuple[Array, Array, Array, Array]:
    function, A, csr = cached.function, cached.A, cached.csr()
    if (rows is None) != (first is None):
        raise ValueError(f"{function}: subdomain and subdomain_ptr must both be given or both be None, got one of them")
    if (inverse is None) != (first_inverse is None):
        raise ValueError(
            f"{function}: inv_subblock and inv_subblock_ptr must both be given or both be None, got one of them"
        )
    if rows is None and inverse is not None:
        raise ValueError(f"{function}: inv_subblock must be None if subdomain is None, got {type(inverse).__name__}")
    index = getattr(getattr(A, "indices", None), "dtype", np.dtype(np.int32))
    if rows is None or first is None:
        rows, first = csr.column.astype(index), csr.start.astype(index)
        own: Any = None
    else:
        rows, first, own = np.asarray(rows), np.asarray(first), fingerprint(rows) + fingerprint(first)
        _check_lists(function, csr.n, rows, first)
    if inverse is None or first_inverse is None:
        offsets = np.asarray(first, np.int64)
        dtype = np.dtype(A.dtype)
        inverse = cached.get(("subblocks", own), lambda: _inverses(csr, np.asarray(rows), offsets, dtype))
        first_inverse = squares_before(offsets).astype(index)
    else:
        inverse, first_inverse = np.asarray(inverse).ravel(), np.asarray(first_inverse)
        _check_inverses(function, A, first, inverse, first_inverse)
    return rows, first, inverse, first_inverse


def _check_lists(function: str, n: int, rows: Array, first: Array) -> None:
    whole_numbers(function, "subdomain", rows, n)
    whole_numbers(function, "subdomain_ptr", first, len(rows) + 1)
    if len(first) == 0 or (np.diff(first.astype(np.int64)) < 0).any():
        raise ValueError(f"{function}: subdomain_ptr must have an entry and not decrease, got {first}")


def _check_inverses(function: str, A: Any, first: Array, inverse: Array, first_inverse: Array) -> None:
    whole_numbers(function, "inv_subblock_ptr", first_inverse, len(inverse) + 1)
    sizes = np.square(np.diff(first.astype(np.int64)))
    if len(first_inverse) != len(first) or (np.diff(first_inverse.astype(np.int64)) != sizes).any():
        raise ValueError(
            f"{function}: inv_subblock_ptr must grow by the square of each subdomain's size, got {first_inverse}"
        )
    if inverse.dtype != A.dtype:
        raise TypeError(f"{function}: inv_subblock must have dtype {A.dtype} like A, got {inverse.dtype}")


def _inverses(A: Csr, rows: Array, first: Array, dtype: np.dtype[Any]) -> Array:
    """Return the pseudo-inverses of all A_SS, by rows, in one array of ``dtype``, with PyAMG's singular value limit."""
    key = np.repeat(np.arange(A.n), np.diff(A.start)) * A.n + A.column  # increasing, as columns are sorted
    sizes, to = np.diff(first), squares_before(first)
    result = np.zeros(to[-1], dtype)
    cut = pseudo_inverse_cut(dtype)
    for size in np.unique(sizes[sizes > 0]).tolist():
        which = np.flatnonzero(sizes == size)
        own = rows[first[which][:, None] + np.arange(size)].astype(np.int64)
        wanted = own[:, :, None] * A.n + own[:, None, :]
        at = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        blocks = np.where(key[at] == wanted, A.value[at], 0)
        inverse = np.linalg.pinv(in_sums(blocks), rcond=cut)
        result[to[which][:, None] + np.arange(size * size)] = inverse.reshape(len(which), -1)
    return result
