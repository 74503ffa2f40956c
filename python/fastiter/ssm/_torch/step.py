"""The private op of one step of a selective scan, which changes its states in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import _core
from ..._check import overlaps_itself
from ..._torch.ops import LIBRARY, contiguous, needs_no_dispatch
from .ops import computed

_NAME = "_selective_step"
LIBRARY.define(
    f"{_NAME}(Tensor(a!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? dt_bias, bool softplus, Tensor? rows) -> Tensor"
)


def check_rows(
    rows: Tensor,
    count: int,
    function: str = "selective_state_update",
    name: str = "state_batch_indices",
    state: str = "state",
) -> None:
    """Check the rows of the states, which tracing does not know."""
    used = rows[rows >= 0]
    if used.numel() and int(used.max()) >= count:
        raise ValueError(
            f"{function}: {name} must be below the number of rows of {state}, {count}, got {int(used.max())}"
        )
    if used.numel() != used.unique().numel():
        raise ValueError(f"{function}: {name} must have each row of {state} at most once, got one twice")


def _plain(x: Tensor | None) -> Tensor | None:
    return x if x is None or not x.is_neg() else x.resolve_neg()


def _step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    rows: Tensor | None,
) -> Tensor:
    if rows is not None:
        rows = contiguous(rows)
        check_rows(rows, state.shape[0])
    if overlaps_itself(state.shape, state.stride(), 1):
        got = f"strides {state.stride()}"
        raise ValueError(f"selective_state_update: state must have one place for each element, got {got}")
    out = torch.empty(x.shape, dtype=x.dtype)
    if out.numel() == 0:
        return out
    kept = state if state.stride(-1) == 1 and not state.is_neg() else contiguous(state)
    A = A.to(computed(x.dtype)).resolve_neg()
    A = A if A.stride(-1) in (0, 1) else A.contiguous()
    B, C = (y[:, None] if y.dim() == 2 else y for y in (B, C))
    inputs = tuple([_plain(y) for y in (x, dt, A, B, C, D, z, dt_bias)])
    _core.ssm.state_update(inputs, kept, rows, softplus, out)
    if kept is not state:
        state.copy_(kept)
    return out


def _fake(state: Tensor, x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


LIBRARY.impl(_NAME, _step, "CPU")
torch.library.register_fake(f"fastiter::{_NAME}", _fake, lib=LIBRARY)
_OP: Any = torch.ops.fastiter._selective_step.default


def selective_step(state: Tensor, *arguments: Any) -> Tensor:
    """Change the states in place; return the output."""
    if not needs_no_dispatch((state, *arguments)):
        found: Tensor = _OP(state, *arguments)
        return found
    out = _step(state, *arguments)
    if not state.is_inference():
        torch.autograd.graph.increment_version(state)
    return out
