"""Calls of the GPU implementations of the recurrent cells on tensors of any device, and the specification of these."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastiter.reference import rnn as reference
from fastiter.rnn._torch import ops
from fastiter.rnn._torch._gpu import kernels as gpu
from fastiter.rnn._torch.ops import RnnBackward, RnnForward
from tests.rnn.calls import options
from tests.support.cases import Array, rnn_inputs

Arrays = tuple[Array, ...]


class Case(NamedTuple):
    """A cell, its arguments as stored in a dtype, and cotangents of everything that it returns."""

    cell: str
    activation: str
    inputs: tuple[Tensor, Tensor, Tensor | None, list[Tensor]]
    dlast: list[Tensor | None]
    dstates: list[Tensor | None]

    @property
    def name(self) -> str:
        return f"{self.cell}_{self.activation}" if self.activation else self.cell


def make(
    cell: str,
    activation: str,
    sizes: tuple[int, int, int, int],
    dtype: torch.dtype,
    device: str,
    *,
    bare: bool = False,
    sequences: int | None = None,
) -> Case:
    """Return a random case; ``bare``: no bias or initial state, cotangent of h only; ``sequences``: of cu_seqlens."""
    B, T, N, D = sizes
    drawn, rows = rnn_inputs(cell, B, T, N, D, np.float64), sequences or B
    rng = np.random.default_rng(7)
    wide = torch.float32 if dtype.itemsize == 2 else dtype

    def tensor(x: Array, k: int = 0) -> Tensor:
        return torch.from_numpy(np.array(x)).to(device, wide if k else dtype)

    state = [tensor(s, k) for k, s in enumerate(rnn_inputs(cell, rows, 1, N, D, np.float64).state)]
    dlast: list[Tensor | None] = [tensor(rng.standard_normal((rows, N, D)), k) for k in range(len(state))]
    dstates: list[Tensor | None] = [tensor(rng.standard_normal((B, T, N, D)), k) for k in range(len(state))]
    if bare:
        inputs = (tensor(drawn.wx), tensor(drawn.r), None, [])
        return Case(cell, activation, inputs, [None] * len(state), [dstates[0], *[None] * (len(state) - 1)])
    return Case(cell, activation, (tensor(drawn.wx), tensor(drawn.r), tensor(drawn.b), state), dlast, dstates)


def array(x: Tensor) -> Array:
    return x.detach().cpu().double().numpy()


def specified(case: Case, clip_grad: float | None = None, **how: Any) -> tuple[Arrays, Arrays]:
    """Return (h, *final states, *other states of all steps), (dwx, dr, db, *dstate), in float64."""
    wx, r, b, state = case.inputs
    given = [array(wx), array(r), None if b is None else array(b), [array(s) for s in state] or None]
    how = options(case.activation, **{key: np.array(x) if key == "reset" else x for key, x in how.items()})
    h, last, states = getattr(reference, case.cell)(*given, **how)
    dstates = [np.zeros_like(h) if d is None else array(d) for d in case.dstates]
    dlast = [np.zeros_like(last[0]) if d is None else array(d) for d in case.dlast]
    dwx, dr, db, dstate = reference.backward(case.cell, *given, None, dlast, dstates, clip_grad=clip_grad, **how)
    return (h, *last, *states[1:]), (dwx, dr, db, *dstate)


def run(
    case: Case,
    reverse: bool = False,
    lengths: list[int] | None = None,
    cu_seqlens: list[int] | None = None,
    reset: list[list[bool]] | None = None,
    clip_state: float | None = None,
    clip_grad: float | None = None,
    checkpoint: int = 0,
    *,
    forward: dict[str, Any],
    backward: dict[str, Any],
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the same from the GPU implementations; ``forward`` and ``backward`` are their extra arguments."""
    wx, r, b, state = case.inputs
    whole, starts = (None if x is None else torch.tensor(x) for x in (lengths, cu_seqlens))
    dropped = None if reset is None else torch.tensor(reset, device=wx.device)
    how = (starts, dropped, clip_state, clip_grad, checkpoint)
    outputs = gpu.forward(RnnForward(case.name, wx, r, b, state, reverse, whole, None, True, True, *how), **forward)
    count = len(case.dlast)
    others = 0 if checkpoint else count - 1
    kept = outputs[2 * count :] if checkpoint else outputs[1 + count :]
    given = (case.name, r, state, [outputs[0], *kept[:others]], kept[others:], case.dstates, case.dlast)
    gradients = gpu.backward(RnnBackward(*given, reverse, whole, None, True, True, True, *how, wx, b), **backward)
    return outputs[: 2 * count], gradients


def assert_close(actual: list[Tensor], expected: Arrays, length: int, width: int, name: str) -> None:
    """Within eps (8 + sqrt(length) + sqrt(width)) of the largest element: see `tolerance` in cases.py; eps is h's."""
    bound = torch.finfo(actual[0].dtype).eps * (8 + math.sqrt(length) + math.sqrt(width))
    assert len(actual) == len(expected), name
    for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == e.shape, f"{name}[{k}]: {a.shape}, expected {e.shape}"
        error = np.max(np.abs(array(a) - e), initial=0) if np.isfinite(array(a)).all() else np.inf
        assert error <= bound * np.max(np.abs(e), initial=0), f"{name}[{k}]: off by {error:.3g}"


def check(case: Case, *, forward: dict[str, Any], backward: dict[str, Any], checkpoint: int = 0, **how: Any) -> None:
    """Compare values and gradients with the specification."""
    B, T, *_, D = case.inputs[0].shape
    outputs, gradients = run(case, **how, checkpoint=checkpoint, forward=forward, backward=backward)
    values, expected = specified(case, **how)
    assert_close(outputs, values, T, D, "output")
    assert_close(gradients, expected, B * T, D, "gradient")


#: Resets at the first, inner and padded steps of rows of 5 steps, and clip bounds that some values exceed.
RESET = [[True, False, False, True, False], [False] * 5, [True] * 5, [False, True, True, False, False]]
CLIPS = {"clip_state": 0.25, "clip_grad": 0.4}
OPTIONS: list[dict[str, Any]] = [
    {"lengths": [2, 5, 0, 4], "reset": RESET, **CLIPS},
    {"reverse": True, "lengths": [2, 5, 0, 4], "reset": RESET, **CLIPS},
]
#: Options for one row of 9 steps cut into sequences
CUT: list[dict[str, Any]] = [
    {"cu_seqlens": [0, 4, 4, 9], "reset": [[False, True, False, False, True, False, False, True, False]], **CLIPS},
    {"cu_seqlens": [0, 1, 6, 9], "reverse": True},
]


def check_options(
    cell: str, activation: str, device: str, *, forward: dict[str, Any], backward: dict[str, Any], width: int = 19
) -> None:
    """Compare clips, resets and concatenated sequences with the specification."""
    told: dict[str, Any] = {"forward": forward, "backward": backward}
    for how in OPTIONS:
        check(make(cell, activation, (4, 5, 1, width), torch.float32, device), **how, **told)
    for how in CUT:
        check(make(cell, activation, (1, 9, 1, width), torch.float32, device, sequences=3), **how, **told)


def check_packed(
    cell: str, reverse: bool, device: str, *, forward: dict[str, Any], backward: dict[str, Any], width: int = 19
) -> None:
    """Compare the data of a PackedSequence with the CPU's result."""
    batch_sizes = torch.tensor([4, 3, 3, 1])
    wx = make(cell, "", (11, 1, 1, width), torch.float32, "cpu").inputs[0][:, 0]
    _, r, b, state = make(cell, "", (4, 1, 1, width), torch.float32, "cpu").inputs
    assert b is not None
    where, packing, count = (reverse, None, batch_sizes), (True, True), len(state)
    expected = ops.forward(RnnForward(cell, wx, r, b, state, *where, *packing))
    flows = [torch.cos(torch.arange(x.numel()) + 1.0 * k).view(x.shape) for k, x in enumerate(expected[: 2 * count])]
    dstates, dlast = [flows[0], *flows[1 + count :]], flows[1 : 1 + count]
    states, saved = [expected[0], *expected[1 + count : 2 * count]], expected[2 * count :]
    needs = (True, True, True)
    expected += ops.backward(RnnBackward(cell, r, state, states, saved, dstates, dlast, *where, *needs))

    def there(tensors: list[Tensor]) -> list[Tensor]:
        return [x.to(device) for x in tensors]

    (wx, r, b), state = there([wx, r, b]), there(state)
    actual = gpu.forward(RnnForward(cell, wx, r, b, state, *where, *packing), **forward)
    given = there(states), there(saved), there(dstates), there(dlast)
    actual += gpu.backward(RnnBackward(cell, r, state, *given, *where, *needs), **backward)
    for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
        torch.testing.assert_close(a.cpu(), e, atol=3e-5, rtol=1e-5, msg=lambda text, k=k: f"[{k}]: {text}")
