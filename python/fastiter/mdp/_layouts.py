"""Conversion of transition probabilities and rewards in arrays and matrices to rows of one CSR matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from .._check import FLOATS, check_entries, integers, refuse_mask, type_name

Array = npt.NDArray[Any]


class Rows(NamedTuple):
    """One row per state and action: the rows of state s are row[s] .. row[s + 1], and similarly for their entries.

    With ``pair`` these rows are pairs that share the rows of P: pair i has the entries of row pair[i].
    """

    row: Array
    entry: Array
    next: Array
    weight: Array
    reward: Array
    #: The number of each row's action; None: its position within the state
    label: Array | None = None
    #: Whether the episode ends with each entry, so that the value of its next state does not count; None: with none
    ends: Array | None = None
    #: The row of P of each pair; None: each has its own
    pair: Array | None = None

    @property
    def states(self) -> int:
        return len(self.row) - 1

    @property
    def height(self) -> int:
        """The number of rows of P."""
        return len(self.entry) - 1

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arguments of the kernels."""
        own = self.row, self.entry, self.next, self.weight, self.reward
        return own if self.pair is None else (*own, self.pair, self.height)

    @property
    def is_over(self) -> Array:
        """Whether nothing follows in each state: it has rows, and all of them earn nothing and have no entries."""
        goes_on = (np.diff(self.entry) > 0) | (self.reward != 0)
        owner = np.repeat(np.arange(self.states), np.diff(self.row))
        result: Array = (np.bincount(owner, weights=goes_on, minlength=self.states) == 0) & (np.diff(self.row) > 0)
        return result

    def at(self, pairs: Array) -> Array:
        """Return the rows of P of some pairs."""
        return pairs if self.pair is None else self.pair[pairs]

    @property
    def matrix(self) -> Sparse:
        """The rows of P."""
        return Sparse(self.entry, self.next, self.weight, self.states)

    def kept(self, keep: Array) -> Rows:
        """Return the pairs where ``keep`` is true, with the rows of P that they use."""
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep, dtype=np.int64)])
        label = None if self.label is None else self.label[keep]
        fewer = self._replace(row=before[self.row], reward=self.reward[keep], label=label)
        if self.pair is not None:
            return fewer._replace(pair=self.pair[keep]).compact()[0]
        rows = keep_rows(self.matrix, keep)
        return fewer._replace(entry=rows.start, next=rows.column, weight=rows.value)

    def compact(self, each: Array | None = None) -> tuple[Rows, Array | None]:
        """Return the same pairs without rows of P that none uses, and ``each``, numbers of the rows of P, likewise.

        Where no row is shared, each pair has its own.
        """
        if self.pair is None:
            return self, each
        is_used = np.zeros(self.height, np.bool_)
        is_used[self.pair] = True
        is_shared = int(is_used.sum()) < len(self.pair)
        used = np.flatnonzero(is_used) if is_shared else self.pair
        pair = (np.cumsum(is_used) - 1)[self.pair].astype(np.int32) if is_shared else None
        if np.array_equal(used, np.arange(self.height)):
            return self._replace(pair=pair), each
        rows, each = permuted_rows(self.matrix, used), None if each is None else each[used]
        return self._replace(entry=rows.start, next=rows.column, weight=rows.value, pair=pair), each


class Sparse(NamedTuple):
    """A CSR matrix; entries of a row need not be sorted."""

    start: Array
    column: Array
    value: Array
    columns: int

    @property
    def rows(self) -> int:
        return len(self.start) - 1


def plain(function: str, name: str, x: Any) -> Any:
    """Return an array of floats, a Sparse, or a list of these, from arrays, tensors and sparse matrices."""
    refuse_mask(function, name, x)
    if type(x) is list or type(x) is tuple:
        is_matrix = [hasattr(one, "shape") and len(one.shape) == 2 for one in x]
        return [plain(function, f"{name}[{k}]", one) for k, one in enumerate(x)] if is_matrix and all(is_matrix) else x
    if type(x).__module__.partition(".")[0] == "torch":
        x = _from_tensor(function, name, x)
    elif hasattr(x, "tocsr"):
        if getattr(x, "ndim", 2) == 2:
            x = x.tocsr()
            x = Sparse(x.indptr, x.indices, x.data, int(x.shape[1]))
    elif hasattr(x, "to_numpy"):
        x = x.to_numpy()
    if isinstance(x, Sparse):
        if x.start[0] != 0 or (np.diff(x.start) < 0).any() or not x.start[-1] <= len(x.column) == len(x.value):
            raise ValueError(f"{function}: {name} must have row pointers that rise from 0 to its entries, got others")
        return x._replace(
            start=np.ascontiguousarray(x.start, np.int64),
            column=_narrow(function, name, x.column),
            value=_floats(function, name, x.value),
        )
    return _floats(function, name, x) if isinstance(x, np.ndarray) else x


def _from_tensor(function: str, name: str, x: Any) -> Any:
    if x.device.type != "cpu":
        raise TypeError(f"{function}: {name} must be on the CPU, got a tensor on {x.device}")
    x = x.detach()
    layout = str(x.layout)
    if layout == "torch.strided":
        return x.numpy()
    if layout != "torch.sparse_csr":
        x = x.to_sparse_csr()
    return Sparse(x.crow_indices().numpy(), x.col_indices().numpy(), x.values().numpy(), int(x.shape[1]))


def _narrow(function: str, name: str, column: Array) -> Array:
    narrow = np.ascontiguousarray(column, np.int32)
    if narrow.dtype != column.dtype and not np.array_equal(narrow, column):
        raise ValueError(f"{function}: {name} must have columns below 2**31, got {column.max()}")
    return narrow


def _floats(function: str, name: str, x: Array) -> Array:
    if x.dtype.kind in "biu":
        x = x.astype(np.float64)
    if x.dtype.name not in FLOATS or not x.dtype.isnative:
        raise TypeError(f"{function}: {name} must be float32 or float64, got dtype {x.dtype}")
    return np.ascontiguousarray(x)


def starts(counts: Array) -> Array:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _dense_rows(matrix: Array) -> Sparse:
    """Return the nonzero entries of a dense matrix; NaN and negative ones are kept for the check."""
    row, column = np.nonzero(matrix)
    start = starts(np.bincount(row, minlength=len(matrix)))
    return Sparse(start, column.astype(np.int32), np.ascontiguousarray(matrix[row, column]), matrix.shape[1])


def _sparse(function: str, name: str, matrix: Any) -> Sparse:
    if isinstance(matrix, Sparse):
        return matrix
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2:
        raise TypeError(f"{function}: {name} must be a matrix, got {type_name(matrix)}")
    return _dense_rows(matrix)


def _on_entries(rows: Sparse, R: Array | Sparse) -> Array:
    """Return R(row, next) at the entries of a matrix; duplicates in a sparse R are summed, absent entries are 0."""
    row = np.repeat(np.arange(rows.rows), np.diff(rows.start))
    if not isinstance(R, Sparse):
        return R[row, rows.column]
    keys, wanted = np.repeat(np.arange(R.rows), np.diff(R.start)) * R.columns + R.column, row * R.columns + rows.column
    unique, place = np.unique(keys, return_inverse=True)
    sums = np.bincount(place.ravel(), weights=R.value, minlength=len(unique))
    at = np.minimum(np.searchsorted(unique, wanted), max(len(unique) - 1, 0))
    if len(unique) == 0:
        return np.zeros(len(wanted))
    return np.where(unique[at] == wanted, sums[at], 0.0)


def _expected(rows: Sparse, R: Array | Sparse) -> Array:
    """Return the sum over next of P(row, next) R(row, next) for each row."""
    row = np.repeat(np.arange(rows.rows), np.diff(rows.start))
    return np.bincount(row, weights=rows.value.astype(np.float64) * _on_entries(rows, R), minlength=rows.rows)


def _shape(x: Any) -> Any:
    return (x.rows, x.columns) if isinstance(x, Sparse) else getattr(x, "shape", type_name(x))


def wrong_rewards(function: str, expected: str, R: Any) -> NoReturn:
    got = f"a list of {len(R)}" if isinstance(R, list) else _shape(R)
    raise ValueError(f"{function}: R must have shape {expected} to go with P, got {got}")


def _as_array(function: str, R: Any) -> Any:
    """Return nested lists of numbers as an array."""
    is_list = isinstance(R, (list, tuple)) and not isinstance(R, Sparse)
    if is_list and not any(getattr(r, "shape", ()) or isinstance(r, Sparse) for r in R):
        try:
            return np.array(R, np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"{function}: R must be numbers, got a ragged or other sequence") from None
    return R


def _rows_of_all(flat: Sparse, reward: Array, states: int, actions: int, impossible: float) -> Rows:
    """Return the rows of states that all have the same actions, without rows whose reward is ``impossible``."""
    reward = reward.astype(flat.value.dtype)
    possible = reward != impossible
    if possible.all():
        return Rows(np.arange(states + 1, dtype=np.int64) * actions, flat.start, flat.column, flat.value, reward)
    reached = keep_rows(flat, possible)
    counts = possible.reshape(states, actions).sum(axis=1)
    label = np.flatnonzero(possible) % max(actions, 1)
    return Rows(starts(counts), reached.start, reached.column, reached.value, reward[possible], label)


def keep_rows(rows: Sparse, keep: Array) -> Sparse:
    """Return the rows of a matrix where ``keep`` is true."""
    counts = np.diff(rows.start)
    entries = np.repeat(keep, counts)
    return Sparse(starts(counts[keep]), rows.column[entries], rows.value[entries], rows.columns)


def cube(function: str, P: Array, R: Any, is_part: bool, impossible: float) -> Rows:
    S, A, columns = P.shape
    if columns != S and not is_part:
        if columns == A:  # one matrix (S, S) after the other
            return by_action(function, list(P), R, is_part, impossible)
        raise ValueError(f"{function}: P must have shape (S, A, S) or (A, S, S), got {P.shape}")
    flat = _dense_rows(P.reshape(S * A, columns))
    R = _as_array(function, R)
    if isinstance(R, np.ndarray) and R.shape == P.shape:
        reward = _expected(flat, R.reshape(S * A, columns))
    else:
        reward = _state_rewards(function, R, S, A, f"({S},), ({S}, {A}) or {P.shape}")
    return _rows_of_all(flat, reward, S, A, impossible)


def _state_rewards(function: str, R: Any, S: int, A: int, expected: str) -> Array:
    """Return R (S,) or (S, A) for each of the S A rows."""
    if isinstance(R, np.ndarray) and R.shape == (S, A):
        return R.reshape(-1)
    if isinstance(R, np.ndarray) and R.shape == (S,):
        return np.repeat(R, A)
    wrong_rewards(function, expected, R)


def by_action(function: str, P: Sequence[Any], R: Any, is_part: bool, impossible: float) -> Rows:
    matrices = [_sparse(function, f"P[{a}]", matrix) for a, matrix in enumerate(P)]
    S, A = matrices[0].rows, len(matrices)
    shape = S, matrices[0].columns if is_part else S
    for a, matrix in enumerate(matrices):
        if (matrix.rows, matrix.columns) != shape:
            got, name = (matrix.rows, matrix.columns), "(n, S)" if is_part else "(S, S)"
            raise ValueError(f"{function}: P[{a}] must have shape {name} = {shape} like P[0], got {got}")
        if matrix.value.dtype != matrices[0].value.dtype:
            first, other = matrices[0].value.dtype, matrix.value.dtype
            raise TypeError(f"{function}: P[{a}] must have dtype {first} like P[0], got {other}")
    R = _as_array(function, R)
    expected = f"({S},), ({S}, {A}) or {(A, *shape)}"
    if (isinstance(R, np.ndarray) and R.shape == (A, *shape)) or (isinstance(R, list) and len(R) == A):
        rewards = [plain(function, f"R[{a}]", R[a]) for a in range(A)]
        if any(_shape(one) != shape for one in rewards):
            wrong_rewards(function, expected, R)
        reward = np.stack([_expected(m, r) for m, r in zip(matrices, rewards, strict=True)], axis=1).reshape(-1)
    else:
        reward = _state_rewards(function, R, S, A, expected)
    return _rows_of_all(_interleaved(matrices), reward, S, A, impossible)


def _interleaved(matrices: Sequence[Sparse]) -> Sparse:
    """Return the matrix whose row s A + a is row s of matrix a."""
    S, A = matrices[0].rows, len(matrices)
    counts = np.stack([np.diff(m.start) for m in matrices], axis=1)
    start = starts(counts.reshape(-1))
    column, value = np.empty(start[-1], np.int32), np.empty(start[-1], matrices[0].value.dtype)
    for a, m in enumerate(matrices):
        place = np.repeat(start[:-1].reshape(S, A)[:, a] - m.start[:-1], counts[:, a]) + np.arange(m.start[-1])
        column[place], value[place] = m.column[: m.start[-1]], m.value[: m.start[-1]]
    return Sparse(start, column, value, matrices[0].columns)


def pairs(function: str, P: Any, R: Any, states: Any, actions: Any, shared: Any = None) -> Rows:
    """Return the rows of a matrix, by state and then by action; ``shared``: the row of each pair."""
    rows = _sparse(function, "P", P)
    owner = integers(function, "states", states)
    pair = None if shared is None else integers(function, "rows", shared)
    if pair is None and owner.shape != (rows.rows,):
        raise ValueError(f"{function}: states must have shape (rows,) = ({rows.rows},) to go with P, got {owner.shape}")
    if pair is not None and (owner.ndim != 1 or pair.shape != owner.shape):
        raise ValueError(f"{function}: rows must have the shape of states, {owner.shape}, got {pair.shape}")
    label = None if actions is None else integers(function, "actions", actions)
    if label is not None and label.shape != owner.shape:
        raise ValueError(f"{function}: actions must have shape {owner.shape} like states, got {label.shape}")
    if label is not None:
        check_entries(function, "actions", label, label >= 0, "be at least 0")
    outside = (owner < 0) | (owner >= rows.columns)
    if outside.any():
        at = int(np.argmax(outside))
        raise ValueError(f"{function}: states must be from 0 to {rows.columns - 1}, got {owner[at]} in row {at}")
    if pair is not None:
        _check_shared(function, pair, rows.rows, owner, label)
    reward = _pair_rewards(function, R, rows, pair).astype(rows.value.dtype, copy=False)
    if (np.diff(owner) < 0).any() or (label is not None and _falls(owner, label)):
        by = np.lexsort((label, owner)) if label is not None else np.argsort(owner, kind="stable")
        reward, owner = reward[by], owner[by]
        rows, pair = (permuted_rows(rows, by), None) if pair is None else (rows, pair[by])
        label = None if label is None else label[by]
    if label is not None:
        _refuse_twins(function, owner, label)
    counts = np.bincount(owner, minlength=rows.columns)
    found = Rows(starts(counts), rows.start, rows.column, rows.value, np.ascontiguousarray(reward), label)
    return found if pair is None else found._replace(pair=pair.astype(np.int32))


def _check_shared(function: str, pair: Array, count: int, owner: Array, label: Array | None) -> None:
    outside = (pair < 0) | (pair >= count)
    if outside.any():
        i = int(np.argmax(outside))
        action = "" if label is None else f", action {label[i]}"
        where = f"state {owner[i]}{action} (pair {i})"
        raise ValueError(f"{function}: rows must be rows of P, from 0 to {count - 1}, got {pair[i]} in {where}")


def _pair_rewards(function: str, R: Any, rows: Sparse, pair: Array | None) -> Array:
    """Return the reward of each row, or of each pair of those that share rows."""
    R = _as_array(function, R)
    if pair is not None:
        if not isinstance(R, np.ndarray) or R.shape != pair.shape:
            wrong_rewards(function, f"{pair.shape}, one for each of the rows=,", R)
        return R
    if _shape(R) == (rows.rows, rows.columns):
        return _expected(rows, R)
    if isinstance(R, np.ndarray) and R.shape == (rows.rows,):
        return R
    wrong_rewards(function, f"({rows.rows},) or ({rows.rows}, {rows.columns})", R)


def _falls(owner: Array, label: Array) -> bool:
    return bool(((np.diff(owner) == 0) & (np.diff(label) < 0)).any())


def _refuse_twins(function: str, owner: Array, label: Array) -> None:
    """Refuse two rows for one action of a state; both arrays are sorted."""
    same = (owner[1:] == owner[:-1]) & (label[1:] == label[:-1])
    if same.any():
        at = int(np.argmax(same))
        got = f"state {owner[at]}, action {label[at]} more than once"
        raise ValueError(f"{function}: states and actions must be different pairs, got {got}")


def stacked_rows(matrices: Sequence[Sparse]) -> Sparse:
    """Return the rows of several matrices, one after the other."""
    offsets = np.cumsum([0, *(int(m.start[-1]) for m in matrices)])
    start = [m.start[:-1] + offset for m, offset in zip(matrices, offsets[:-1], strict=True)]
    column = np.concatenate([m.column[: m.start[-1]] for m in matrices])
    value = np.concatenate([m.value[: m.start[-1]] for m in matrices])
    return Sparse(np.concatenate([*start, offsets[-1:]]), column, value, matrices[0].columns)


def permuted_rows(rows: Sparse, by: Array) -> Sparse:
    """Return the rows of a matrix with the indices ``by``; a row may occur several times."""
    counts = np.diff(rows.start)[by]
    start = starts(counts)
    place = np.repeat(rows.start[:-1][by] - start[:-1], counts) + np.arange(start[-1])
    return Sparse(start, rows.column[place], rows.value[place], rows.columns)
