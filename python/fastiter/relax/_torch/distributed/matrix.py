"""A square sparse matrix whose rows are divided among the ranks of a process group."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .... import _core
from ...._check import type_name
from ...._torch.distributed.collectives import Ranks
from ...._torch.distributed.halo import Halo
from ...._torch.ops import check_tensors, contiguous
from .entries import DTYPES, Entries, Ownership, check_columns, checked_ownership, read_entries, version_of
from .partition import even
from .parts import Local, Product, divide

Array = npt.NDArray[Any]
#: Elements of a vector per chunk, so that they are still in the cache for the next operation
CHUNK = 16_384


class RowMatrix:
    """This rank's rows of a square sparse matrix, for :func:`solve`.

    The rows are divided into P parts, and contiguous blocks of parts are assigned to the ranks: rank r of R has the
    parts P r // R to P (r + 1) // R - 1. Its vectors hold the rows of its parts, part after part; ``rows`` are their
    numbers. Results depend on the parts but not on the ranks, bit for bit, so that one process with all parts
    reproduces P ranks with one part each.

    Parameters
    ----------
    A : (n_local, n)
        This rank's rows, in the order of ``rows``, with global column numbers: a sparse tensor, whose values may
        require a gradient, a sparse matrix of SciPy, or ``(crow, col, values)`` as in torch.sparse_csr_tensor. float32
        or float64, on the CPU, without zeros on the diagonal.
    owner : (n,) of int, optional
        The part of each row, as from :func:`partition`, the same on every rank.
    offsets : (P + 1,) of int, optional
        In place of ``owner``: part p has the rows offsets[p] to offsets[p + 1] - 1. If both are None, each rank has one
        part, and the ranks' rows are consecutive.
    parts : int, optional
        The number P of parts; by default one more than the highest part that owns a row.
    group : ProcessGroup or DeviceMesh, optional
        The ranks; a mesh has one axis. The default group if None.

    Attributes
    ----------
    n : int
        The number of rows of all ranks.
    parts : int
        The number P of parts.
    rows : (n_local,)
        The numbers of this rank's rows.
    dtype : torch.dtype
        The dtype of the values.
    values : (entries,)
        The values of this rank's entries, in the order of A.
    group : ProcessGroup
        The group.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, on every rank; also if the ranks' values of a shared argument differ, or if
        a row has no owner or two.
    RuntimeError
        If torch.distributed is not initialized; its subclass CommunicationError if a rank does not respond.

    See Also
    --------
    partition : Assigns rows to parts.
    solve : Solves systems with it.

    Examples
    --------
    >>> import scipy.sparse
    >>> from fastiter.torch import distributed
    >>> def product(x):  # on each rank: 100 rows of the Laplacian of all ranks' points, and their x
    ...     rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    ...     laplacian = scipy.sparse.diags_array([-1.0, 2, -1], offsets=[-1, 0, 1], shape=(100 * size, 100 * size))
    ...     return distributed.RowMatrix(laplacian.tocsr()[100 * rank : 100 * rank + 100]) @ x
    """

    def __init__(
        self, A: Any, *, owner: Any = None, offsets: Any = None, parts: int | None = None, group: Any = None
    ) -> None:
        self._build("RowMatrix", group, lambda ranks: _own_rows("RowMatrix", ranks, A, (owner, offsets, parts)))

    @classmethod
    def from_global(cls, A: Any, owner: Any = None, *, parts: int | None = None, group: Any = None) -> RowMatrix:
        """Return this rank's rows of a matrix that every rank has.

        Parameters
        ----------
        A : (n, n)
            As for :class:`RowMatrix`, but all rows.
        owner : (n,) of int, optional
            The part of each row; by default ``parts`` parts of consecutive rows, whose sizes differ by at most one.
        parts : int, optional
            The number of parts; by default the number of ranks, or one more than the highest part in ``owner``.
        group : ProcessGroup or DeviceMesh, optional
            The ranks.

        Returns
        -------
        RowMatrix
            The matrix.
        """
        result = object.__new__(cls)
        function = "RowMatrix.from_global"
        result._build(function, group, lambda ranks: _rows_of_all(function, ranks, A, owner, parts))
        return result

    def _build(
        self, function: str, group: Any, read: Callable[[Ranks], tuple[Entries, Ownership | None, dict[str, str]]]
    ) -> None:
        """Read the arguments, compare them among the ranks, divide the rows and create the halo."""
        self._ranks = ranks = Ranks(function, group)
        entries: Entries | None = None
        ownership: Ownership | None = None
        shared: dict[str, str] = {}
        failure: Exception | None = None
        try:
            entries, ownership, shared = read(ranks)
        except (TypeError, ValueError, RuntimeError) as error:
            failure = error
        rows = 0 if entries is None else entries.rows
        needs_grad = entries is not None and entries.values.requires_grad
        steps = ranks.agree({"function": function} | shared, rows, needs_grad, failure).steps
        if ownership is None:
            ownership = Ownership(ranks.size, np.concatenate([np.zeros(1, np.int64), np.cumsum(steps)]))
        assert entries is not None  # for the type checker: agree has raised
        self._entries, self._ownership = entries, ownership
        self._mine = ownership.parts_of(ranks.rank, ranks.size)
        try:
            local = self._divided(function)
        except ValueError as error:
            failure = error
        ranks.agree({"the number of rows": str(ownership.n)}, 0, False, failure)
        self._set(local)

    def _divided(self, function: str) -> Local:
        entries, ownership, mine = self._entries, self._ownership, self._mine
        expected = int(ownership.offsets[mine.stop] - ownership.offsets[mine.start])
        if entries.rows != expected:
            got = f"{entries.rows} on rank {self._ranks.rank}"
            raise ValueError(f"{function}: A must have the {expected} rows of the rank's parts, got {got}")
        check_columns(function, entries, ownership.n)
        return divide(function, entries, ownership, mine)

    def _set(self, local: Local) -> None:
        ranks, ownership = self._ranks, self._ownership
        self.n, self.parts, self.group = ownership.n, ownership.parts, ranks.group
        self.values, self.dtype = self._entries.values, self._entries.values.dtype
        self.rows = torch.from_numpy(ownership.rows_of(self._mine))
        self._parts = local.parts
        self._version = version_of(self._entries)
        self._numpy_dtype = self.values.detach().numpy().dtype
        self._product = Product(local.parts, self._numpy_dtype)
        self._pieces: dict[int, list[tuple[int, slice]]] = {}
        self._cache: dict[Any, Any] = {}  # objects that solvers prepare once: preconditioners, the transposed matrix
        self._ghosts = local.ghosts
        firsts = [int(ownership.offsets[ownership.parts_of(rank, ranks.size).start]) for rank in range(ranks.size)]
        ends = np.searchsorted(local.ghosts, [*firsts, ownership.n])
        needed = [local.ghosts[a:b] - first for a, b, first in zip(ends, ends[1:], firsts, strict=False)]
        self._halo = Halo(ranks, [torch.from_numpy(x) for x in needed])
        self._zeros = torch.empty(0, 0, dtype=self.dtype)

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        of = f"{len(self.rows)} of {self.n} rows, {len(self.values)} entries, {self.dtype}"
        return f"RowMatrix({of}, parts {self._mine.start} to {self._mine.stop - 1} of {self.parts})"

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n_local, n) of this rank's rows."""
        return (len(self.rows), self.n)

    def __matmul__(self, x: Tensor) -> Tensor:
        """Return this rank's rows of A x from its rows of x, (n_local,) or (n_local, k); every rank calls it."""
        function = "RowMatrix.__matmul__"
        failure = None
        try:
            self._check_vector(function, "x", x)
        except (TypeError, ValueError, RuntimeError) as error:
            failure = error
        shape = "" if failure else f"(n_local{', k' if x.dim() > 1 else ''}), k = {x.shape[1:].numel()}"
        self._ranks_for(function).agree({"function": "a product", "the shape of x": shape}, 0, False, failure)
        return -self._residual(columns(x), None).view(x.shape)

    def _ranks_for(self, function: str) -> Ranks:
        """Return the ranks, whose errors name this function from now on."""
        self._ranks.function = function
        return self._ranks

    def _check_vector(self, function: str, name: str, x: object) -> None:
        """Refuse anything but this rank's rows of one or several vectors, without a gradient."""
        if version_of(self._entries) != self._version:
            raise ValueError(f"{function}: A must be made from values that stay as they are, got some written to since")
        check_tensors(function, (name,), (x,), DTYPES)
        assert isinstance(x, Tensor)
        if x.dtype != self.dtype:
            raise TypeError(f"{function}: {name} must have dtype {self.dtype} like A, got {x.dtype}")
        if x.dim() not in (1, 2) or len(x) != len(self.rows):
            expected = f"({len(self.rows)},) or ({len(self.rows)}, k)"
            raise ValueError(f"{function}: {name} must have shape {expected} to go with A, got {tuple(x.shape)}")
        if torch.is_grad_enabled() and x.requires_grad and function == "RowMatrix.__matmul__":
            raise ValueError(f"{function}: {name} must not require a gradient (solve has gradients), got one that does")

    def _residual(self, x: Tensor, b: Tensor | None, out: Tensor | None = None) -> Tensor:
        """Return b - A x, or -A x, for contiguous x and b (n_local, k): one round, overlapped with computation.

        It is written to ``out`` if given, as allocating new memory would take as long as the product.
        """
        ghosts = x.new_empty(self._halo.size, x.shape[1])
        wait = self._halo.start(x, ghosts)
        r = torch.empty_like(x) if out is None else out
        if b is None:
            if self._zeros.shape != x.shape:
                self._zeros = torch.zeros_like(x)
            b = self._zeros
        arrays = x.numpy(), b.numpy(), r.numpy()
        self._product.inside(*arrays)
        wait()
        self._product.subtract_border(arrays[0], ghosts.numpy(), arrays[2])
        return r

    def _minus_product(self, x: Array, out: Array | None = None) -> Array:
        """Return -A x for x (n_local, k), contiguous, in ``out`` if given."""
        into = None if out is None else torch.from_numpy(out)
        return self._residual(torch.from_numpy(x), None, into).numpy()

    def _chunks(self, k: int) -> list[tuple[int, slice]]:
        """Return the parts' indices and rows in chunks of k columns that fit into a core's cache."""
        if k not in self._pieces:
            step = max(1, CHUNK // k)
            self._pieces[k] = [
                (index, slice(first, min(first + step, part.last)))
                for index, part in enumerate(self._parts)
                for first in range(part.first, part.last, step)
            ]
        return self._pieces[k]

    def _random(self, count: int) -> Array:
        """Return vectors (n_local, count) of random numbers, which depend only on the part."""
        drawn = [
            np.random.default_rng([part.number, part.own.n]).standard_normal((part.own.n, count))
            for part in self._parts
        ]
        return np.concatenate([np.zeros((0, count)), *drawn]).astype(self._numpy_dtype)

    def _dots(self, pairs: Sequence[tuple[Array, Array]]) -> Array:
        """Return the products (pairs, k) of vectors (n_local, k) in float64, in one round for all."""
        return self._summed(self._partial(pairs))

    def _partial(self, pairs: Sequence[tuple[Array, Array]]) -> Array:
        """Return the sums (parts, pairs, k) of u v over the rows of each part of this rank, in float64."""
        k = pairs[0][0].shape[1]
        result = np.zeros((len(self._parts), len(pairs), k))
        buffer = flat(np.empty((CHUNK // k + 1, k)))
        every = [(flat(u), flat(v)) for u, v in pairs]
        for index, rows in self._chunks(k):
            product = buffer[: rows.stop - rows.start]
            for at, (u, v) in enumerate(every):
                np.multiply(u[rows], v[rows], out=product)
                result[index, at] += product.sum(axis=0)
        return result

    def _summed(self, partial: Array) -> Array:
        """Return the sum of each rank's partial results (parts, ...) over all parts, in the order of the parts."""
        every = self._gathered(partial)
        return np.asarray(np.add.reduce(every.reshape(len(every), -1), axis=0)).reshape(partial.shape[1:])

    def _gathered(self, own: Array) -> Array:
        """Gather the float64 arrays (...) of all parts into (P, ...): one round."""
        counts = [len(self._ownership.parts_of(rank, self._ranks.size)) for rank in range(self._ranks.size)]
        padded = np.zeros((max(counts), *own.shape[1:]))
        padded[: len(own)] = own
        every = self._ranks.all_gather(torch.from_numpy(padded))
        return np.concatenate([x.numpy()[:number] for x, number in zip(every, counts, strict=True)])


def flat(x: Array) -> Array:
    """Return x (n, 1) as (n,), on which NumPy is faster, and other x unchanged."""
    return x[:, 0] if x.shape[1] == 1 else x


def columns(x: Tensor) -> Tensor:
    """Return x (n_local,) or (n_local, k) as contiguous columns (n_local, k), without its graph."""
    return contiguous(x.detach() if x.dim() > 1 else x.detach().unsqueeze(1))


def _own_rows(
    function: str, ranks: Ranks, A: Any, division: tuple[Any, Any, Any]
) -> tuple[Entries, Ownership | None, dict[str, str]]:
    """Read the rows of this rank, the ownership, and the values that must agree on all ranks."""
    ownership = checked_ownership(function, *division)
    entries = read_entries(function, A)
    received = (
        "owner" if division[0] is not None else "offsets" if division[1] is not None else "neither owner nor offsets"
    )
    shared = {"the dtype of A": str(entries.values.dtype), "the kind of ownership": received}
    if entries.columns is not None:
        shared["the number of columns of A"] = str(entries.columns)
    return entries, ownership, shared | _described(ownership)


def _described(ownership: Ownership | None) -> dict[str, str]:
    if ownership is None:
        return {}
    result = {"the number of parts": str(ownership.parts), "offsets": _digest(ownership.offsets)}
    return result if ownership.place is None else result | {"owner": _digest(ownership.place)}


def _digest(x: Array) -> str:
    return f"an array with the digest {hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=8).hexdigest()}"


def _rows_of_all(
    function: str, ranks: Ranks, A: Any, owner: Any, parts: int | None
) -> tuple[Entries, Ownership, dict[str, str]]:
    """Read a matrix that every rank has, and take the rows of this rank."""
    every = read_entries(function, A)
    check_columns(function, every, every.rows)
    if owner is None:
        if parts is not None and (isinstance(parts, bool) or not isinstance(parts, int) or parts < 1):
            raise ValueError(f"{function}: parts must be an int of at least 1 or None, got {type_name(parts)} {parts}")
        ownership = Ownership.of_offsets(function, even(every.rows, ranks.size if parts is None else parts))
    else:
        result = checked_ownership(function, owner, None, parts)
        assert result is not None
        ownership = result
    if ownership.n != every.rows:
        raise ValueError(f"{function}: owner must have shape ({every.rows},) to go with A, got ({ownership.n},)")
    value = np.ascontiguousarray(every.values.detach().numpy())
    arrays = every.start, np.ascontiguousarray(every.column), value
    prints = [f"{_core.relax.fingerprint(x, x.nbytes):x}" for x in arrays]
    shared = {"the dtype of A": str(every.values.dtype), "A": f"a matrix with the fingerprints {', '.join(prints)}"}
    mine = ownership.rows_of(ownership.parts_of(ranks.rank, ranks.size))
    return every.of(mine), ownership, shared | _described(ownership)
