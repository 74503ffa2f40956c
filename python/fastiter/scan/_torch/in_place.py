"""The scans' kernels on slices of tensors, for sequences whose steps are sharded over ranks."""

from __future__ import annotations

from functools import partial
from typing import cast

from torch import Tensor

from ..._torch.distributed.in_place import Backward, Forward, Kernels, Optional, sampled, steps_to_forget
from ..._torch.ops import empty, empty_steps
from .ops import (
    Scan,
    ScanBackward,
    ScanForward,
    backward_into,
    carried,
    empty_factors_gradient,
    forward_into,
    forward_twice,
    last_state,
)

#: Bytes of a page, within which hardware prefetchers read ahead: beside narrower parts of rows they read what follows.
_WIDE = 4096


def kernels(scan: Scan, reverse: bool) -> Kernels:
    """Return the kernels of a scan; their tensors are x and the factors, with both axes B and T."""
    both = partial(_forward, scan, reverse), partial(_backward, scan, reverse)
    if scan.blocks:  # nearly all memory traffic is that of the matrices
        return Kernels(_results, *both)
    return Kernels(_results, *both, _forgets, partial(_last, reverse), _WIDE)


def _both(tensors: Optional) -> tuple[Tensor, Tensor]:
    return cast("tuple[Tensor, Tensor]", tuple(tensors))


def _results(tensors: Optional) -> list[Tensor]:
    x, _ = _both(tensors)
    return [empty_steps(x, x.shape)]


def _forward(scan: Scan, reverse: bool, call: Forward) -> tuple[list[Tensor], list[Tensor]]:
    x, a = _both(call.tensors)
    (h,), state = call.results, None if call.state is None else call.state[0]
    forward = ScanForward(a, x, state, reverse, *call.cut)
    if not (call.saves and a.requires_grad):
        return [forward_into(scan, forward, h)], []
    # The gradient of a needs a copy of h, as users may write to h.
    copy = empty(h, h.shape)
    if not scan.blocks:
        return [forward_twice(forward, h, copy)], [copy]
    last = forward_into(scan, forward, h)
    return [last], [copy.copy_(h)]


def _last(reverse: bool, call: Forward) -> list[Tensor]:
    x, a = _both(call.tensors)
    state = None if call.state is None else call.state[0]
    return [last_state(ScanForward(a, x, state, reverse, *call.cut))]


def _backward(scan: Scan, reverse: bool, call: Backward) -> list[Tensor]:
    x, a = _both(call.tensors)
    (dh,), (dlast,), (dx, da) = call.d_results, call.d_last, call.gradients
    shaped = a.new_empty(()).expand(x.shape) if dh is None else dh
    h = call.saved[0] if call.saved else shaped  # without a gradient of a only the shape is used
    state = None if call.state is None else call.state[0]
    needs = (dx is not None, da is not None, True)
    backward = ScanBackward(a, h, state, dh, dlast, reverse, *call.cut, *needs)
    own = da if da is None or da.dtype == dlast.dtype or a.shape[:2] == h.shape[:2] else empty_factors_gradient(a, h)
    dstate = backward_into(scan, backward, dx, own)
    if da is not None and own is not None and own is not da:
        da.copy_(own)
    return [dstate]


def _forgets(tensors: Optional) -> float:
    _, a = _both(tensors)
    return steps_to_forget(sampled(a).abs(), carried(a.dtype))
