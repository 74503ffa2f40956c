"""The backward pass of a scan in differentiable operations, for second derivatives.

The backward kernel computes all of this in one pass, but has no derivative of its own. Here the backward pass is
composed of a scan in the other direction, with the factors of the next step, and elementwise products with its result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..._torch.launch import in_range
from .ops import Cut, Scan

Apply = Callable[[Scan, Tensor, Tensor, Tensor | None, Cut], tuple[Tensor, Tensor]]


def backward(
    scan: Scan,
    apply: Apply,
    a: Tensor,
    h: Tensor,
    state: Tensor | None,
    dh: Tensor | None,
    dlast: Tensor | None,
    cut: Cut,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dx, da and dstate, using ``apply``, the differentiable scan."""
    stored = h.dtype
    if stored == torch.bfloat16:
        a, h, dh = a.float(), h.float(), None if dh is None else dh.float()
    reverse, reset, lengths, cu_seqlens = cut
    ends = _Ends(h, cut)
    wide = a.expand(*h.shape[:2], *a.shape[2:])
    # Step t uses the factor of step t + 1; dlast is added to the last step with factor 1.
    after = _adjoint(scan, ends.from_next(wide))
    factors = after.index_put((ends.rows, ends.last), _identity(scan, a))
    flags = None
    if reset is not None:
        flags = ends.from_next(reset.expand(h.shape[:2])).index_put((ends.rows, ends.last), reset.new_zeros(()))
    dh = torch.zeros_like(h) if dh is None else dh
    dx, _ = apply(scan, factors, dh, dlast, (not reverse, flags, lengths, cu_seqlens))
    before = ends.from_before(h)
    if state is None:
        before = before.index_put((ends.rows, ends.first), h.new_zeros(()))
    else:
        before = before.index_put((ends.rows, ends.first), state[ends.sequences])
    # Both factors are masked, as 0 times infinity would be NaN.
    used = ends.valid if reset is None else ends.valid & ~reset
    used = used.reshape(*used.shape, *(1,) * (h.dim() - 2))
    da = _outer(scan, torch.where(used, dx, 0), torch.where(used, before, 0)).sum_to_size(a.shape)
    return dx.to(stored), da.to(stored), _first(scan, wide, dx, dlast, ends, reset)


class _Ends:
    """The first and the last step of every nonempty sequence, in the order of the scan."""

    def __init__(self, h: Tensor, cut: Cut) -> None:
        self.reverse, _, lengths, cu_seqlens = cut
        batch, time = h.shape[:2]
        lengths, cu_seqlens = in_range(lengths, cu_seqlens, time)
        if cu_seqlens is not None:
            start, stop = cu_seqlens[:-1], cu_seqlens[1:]
            row = torch.zeros_like(start)
        else:
            stop = torch.full((batch,), time, device="cpu") if lengths is None else lengths
            start, row = torch.zeros_like(stop), torch.arange(batch, device=stop.device)
        # Computed on the device of the lengths: lengths on the CPU need no synchronization, as only indices are copied.
        (having,) = torch.nonzero(stop > start, as_tuple=True)
        self.count = len(stop)
        ends = (start[having], stop[having] - 1)
        first, last = ends[::-1] if self.reverse else ends
        self.sequences, self.rows, self.first, self.last, stop = (
            x.to(h.device) for x in (having, row[having], first, last, stop)
        )
        steps = torch.arange(time, device=h.device)
        one_row = torch.ones(1, time, dtype=torch.bool, device=h.device)
        self.valid = one_row if cu_seqlens is not None else steps < stop[:, None]

    def from_before(self, x: Tensor) -> Tensor:
        """Shift x by one step: each step gets the value of the step before it."""
        return x.roll(-1 if self.reverse else 1, 1)

    def from_next(self, x: Tensor) -> Tensor:
        """Shift x by one step: each step gets the value of the step after it."""
        return x.roll(1 if self.reverse else -1, 1)


def _first(scan: Scan, wide: Tensor, dx: Tensor, dlast: Tensor | None, ends: _Ends, reset: Tensor | None) -> Tensor:
    """Return dstate: a^H l of the first step, or dlast for a sequence without steps."""
    at = (ends.rows, ends.first)
    l, a = dx[at], wide[at]
    if reset is not None:
        keeps = ~reset.expand(dx.shape[:2])[at]
        l, a = (torch.where(keeps.reshape(-1, *(1,) * (x.dim() - 1)), x, 0) for x in (l, a))
    nothing = dx.new_zeros(ends.count, *dx.shape[2:]) if dlast is None else dlast
    adjoint = (_adjoint(scan, a) @ l.unsqueeze(-1)).squeeze(-1) if scan.blocks else _adjoint(scan, a) * l
    return nothing.index_put((ends.sequences,), adjoint)


def _adjoint(scan: Scan, a: Tensor) -> Tensor:
    return a.mH if scan.blocks else a.conj()


def _identity(scan: Scan, a: Tensor) -> Tensor:
    return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) if scan.blocks else a.new_ones(())


def _outer(scan: Scan, l: Tensor, before: Tensor) -> Tensor:
    return l.unsqueeze(-1) * before.conj().unsqueeze(-2) if scan.blocks else before.conj() * l
