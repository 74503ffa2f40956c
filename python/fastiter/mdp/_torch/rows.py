"""Decision processes as tensors: dense, or a CSR matrix with one row per state and action."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._check import positive
from ..._torch.ops import CPU_AND_CUDA, check_tensors, checked_integers

DTYPES = (torch.float32, torch.float64)


class Rows(NamedTuple):
    """The rows of state s are row[s] .. row[s + 1]; their entries crow[j] .. crow[j + 1] of col and values.

    values (entries) or (B, entries), rewards (rows) or (B, rows), for B models with one sparsity pattern. With ``pair``
    the rows are pairs of a state and an action, and pair i has the entries of row pair[i].
    """

    row: Tensor
    crow: Tensor
    col: Tensor
    values: Tensor
    rewards: Tensor
    pair: Tensor | None = None

    @property
    def models(self) -> int | None:
        """The number of models; None for a single process."""
        return next((x.shape[0] for x in (self.values, self.rewards) if x.dim() == 2), None)

    def model(self, m: int) -> Rows:
        return self._replace(values=_of(self.values, m), rewards=_of(self.rewards, m))

    def detached(self) -> Rows:
        return Rows(*(None if x is None else x.detach() for x in self))  # type: ignore[arg-type]

    def at(self, pairs: Tensor) -> Tensor:
        """Return the rows of entries of some pairs."""
        return pairs if self.pair is None else self.pair[pairs]


def _of(x: Tensor, m: int) -> Tensor:
    return x[m] if x.dim() == 2 else x


def read(function: str, P: Any, R: Tensor, states: Any, shared: Any = None, name: str = "R") -> Rows:
    """Return P, dense or (crow, col, values), and R as rows on their device; raise for other shapes and types.

    ``name`` is that of R in messages.
    """
    if isinstance(P, tuple):
        return _sparse(function, P, R, (states, shared), name)
    for other, x in (("states", states), ("rows", shared)):
        if x is not None:
            raise TypeError(f"{function}: {other} must be None for dense P, got {type(x).__name__}")
    check_tensors(function, ("P", name), (P, R), DTYPES, CPU_AND_CUDA)
    if P.dim() not in (3, 4) or P.shape[-3] != P.shape[-1] or P.shape[-1] == 0:
        raise ValueError(f"{function}: P must have shape (S, A, S) or (B, S, A, S), got {tuple(P.shape)}")
    S, A = P.shape[-3:-1]
    if R.dim() not in (2, 3) or R.shape[-2:] != (S, A) or (R.dim() == 3 and P.dim() == 4 and len(R) != len(P)):
        expected = f"{(S, A)} or ({len(P) if P.dim() == 4 else 'B'}, {S}, {A})"
        raise ValueError(f"{function}: {name} must have shape {expected} to go with P, got {tuple(R.shape)}")
    whole = torch.arange(S, device=P.device)
    crow = torch.arange(S * A + 1, device=P.device) * S
    starts = torch.arange(S + 1, device=P.device) * A
    return Rows(starts, crow, whole.repeat(S * A), P.flatten(-3), R.flatten(-2))


def _sparse(function: str, P: tuple[Any, ...], R: Tensor, pairs: tuple[Any, Any], name: str) -> Rows:
    states, shared = pairs
    if len(P) != 3:
        raise TypeError(f"{function}: P must be a tensor or (crow, col, values), got {len(P)} parts")
    values = P[2]
    check_tensors(function, ("values", name), (values, R), DTYPES, CPU_AND_CUDA)
    device = values.device
    crow, col = (checked_integers(function, part, x, device) for part, x in zip(("crow", "col"), P[:2], strict=True))
    if states is None:
        raise TypeError(f"{function}: states must be the state of each row of P, got None")
    owner = checked_integers(function, "states", states, device)
    rows = crow.shape[0] - 1
    pair = None if shared is None else _shared(function, shared, rows, owner)
    rows = rows if pair is None else len(pair)
    if R.shape[-1:] != (rows,) or R.dim() > 2 or owner.shape != (rows,):
        got = f"{tuple(R.shape)} and {tuple(owner.shape)}"
        raise ValueError(f"{function}: {name} and states must have shape (rows,) = ({rows},) to go with P, got {got}")
    if R.dim() == values.dim() == 2 and len(R) != len(values):
        raise ValueError(f"{function}: {name} must have as many models as values, {len(values)}, got {len(R)}")
    if (owner.diff() < 0).any() or rows == 0 or owner[0] < 0:
        raise ValueError(f"{function}: states must rise from 0, got others")
    is_matrix = values.dim() in (1, 2) and col.shape == values.shape[-1:]
    if not is_matrix or crow[0] != 0 or crow[-1] != len(col) or (crow.diff() < 0).any():
        raise ValueError(f"{function}: crow must rise from 0 to the number of entries of col and values, got others")
    S = int(owner[-1]) + 1
    if len(col) and not 0 <= int(col.min()) <= int(col.max()) < S:
        raise ValueError(f"{function}: col must be from 0 to {S - 1}, got others")
    starts = torch.cat([owner.new_zeros(1), torch.bincount(owner, minlength=S).cumsum(0)])
    return Rows(starts.to(device), crow.to(device), col.to(device), values, R, pair)


def _shared(function: str, shared: Any, rows: int, owner: Tensor) -> Tensor:
    """Return the row of each pair."""
    if owner.device.type != "cpu":
        raise ValueError(f"{function}: rows must be None on a GPU, got the rows of {len(owner)} pairs")
    pair = checked_integers(function, "rows", shared, owner.device)
    if pair.shape != owner.shape:
        raise ValueError(
            f"{function}: rows must have the shape of states, {tuple(owner.shape)}, got {tuple(pair.shape)}"
        )
    outside = (pair < 0) | (pair >= rows)
    if outside.any():
        i = int(outside.int().argmax())
        where = f"state {int(owner[i])} (pair {i})"
        raise ValueError(f"{function}: rows must be rows of P, from 0 to {rows - 1}, got {int(pair[i])} in {where}")
    return pair


def discount_of(function: str, like: Tensor, gamma: Tensor | float, *, closed: bool = False) -> Tensor:
    """Return gamma as a tensor of one number on the device of ``like``; raise for others; ``closed``: it may be 1."""
    if isinstance(gamma, Tensor):
        if gamma.numel() != 1 or gamma.dtype != like.dtype or not (gamma.is_cpu or gamma.device == like.device):
            got = f"{gamma.dtype} of shape {tuple(gamma.shape)} on {gamma.device}"
            raise ValueError(f"{function}: gamma must be a number or a tensor of one in the dtype of P, got {got}")
        discount = gamma.reshape(())
    else:
        discount = torch.tensor(positive(function, "gamma", gamma), dtype=like.dtype, device="cpu")
    if not torch.compiler.is_compiling() and not (0 <= discount.item() < 1 or (closed and discount.item() == 1)):
        expected = "from 0 to 1" if closed else "at least 0 and below 1"
        raise ValueError(f"{function}: gamma must be {expected}, got {discount.item():g}")
    return discount.to(like.device)
