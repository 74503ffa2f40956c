"""The private op for one step of a selective scan, which updates its states in place."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._check import overlaps_itself
from ..._torch.op import Changed, Op, count_change
from ..._torch.ops import contiguous, unwatched
from ..._torch.out import may_share_memory
from .ops import computed, plain


class SelectiveStep(NamedTuple):
    """The arguments of the op, which updates the states and returns the output."""

    state: Changed
    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    softplus: bool
    rows: Tensor | None


def check_rows(
    rows: Tensor,
    count: int,
    function: str = "selective_state_update",
    name: str = "state_batch_indices",
    state: str = "state",
) -> None:
    """Check the row indices of the states, which are unknown while tracing."""
    used = rows[rows >= 0]
    if used.numel() and int(used.max()) >= count:
        raise ValueError(
            f"{function}: {name} must be below the number of rows of {state}, {count}, got {int(used.max())}"
        )
    if used.numel() != used.unique().numel():
        raise ValueError(f"{function}: {name} must have each row of {state} at most once, got one twice")


def _step(call: SelectiveStep) -> Tensor:
    state, x, rows = call.state, call.x, call.rows
    if rows is not None:
        rows = contiguous(rows)
        check_rows(rows, state.shape[0])
    if overlaps_itself(state.shape, state.stride(), 1):
        got = f"strides {state.stride()}"
        raise ValueError(f"selective_state_update: state must have one place for each element, got {got}")
    for name, y in zip(call._fields[1:9], call[1:9], strict=True):
        if y is not None and may_share_memory(state, y):
            got = f"the memory of {name}"
            raise ValueError(f"selective_state_update: state must not share memory with the inputs, got {got}")
    out = torch.empty(x.shape, dtype=x.dtype)
    if out.numel() == 0:
        return out
    memory = state if state.stride(-1) == 1 and not state.is_neg() else contiguous(state)
    A = call.A.to(computed(x.dtype)).resolve_neg()
    A = A if A.stride(-1) in (0, 1) else A.contiguous()
    inputs = (plain(x), plain(call.dt), A, *[plain(y) for y in call[4:9]])
    _core.ssm.state_update(inputs, memory, rows, call.softplus, out)
    if memory is not state:
        state.copy_(memory)
    return out


def _output(call: SelectiveStep) -> Tensor:
    return call.x.new_empty(call.x.shape)


selective_step = Op("_selective_step", SelectiveStep, _step, _output)


def plain_step(state: Tensor, inputs: tuple[Any, ...], softplus: bool) -> Tensor | None:
    """Run a step on plain tensors without checks in Python, which take longer than the step; return None for others."""
    if not unwatched():
        return None
    out: Tensor | None = _core.ssm.state_update_tensors(state, inputs, softplus)
    if out is not None:
        count_change(state)
    return out
