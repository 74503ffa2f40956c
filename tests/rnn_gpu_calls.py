"""Calls of the GPU implementations of the recurrent cells on tensors of any device, and the specification of these."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cases import Array, rnn_inputs
from fastiter.reference import rnn as reference
from fastiter.torch import _rnn_gpu, _rnn_op
from rnn_calls import options

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
    cell: str, activation: str, sizes: tuple[int, int, int, int], dtype: torch.dtype, device: str, *, bare: bool = False
) -> Case:
    """A random case; ``bare``: no bias, no initial state, and a cotangent of h alone."""
    B, T, N, D = sizes
    drawn = rnn_inputs(cell, B, T, N, D, np.float64)
    rng = np.random.default_rng(7)

    def tensor(x: Array) -> Tensor:
        return torch.from_numpy(np.array(x)).to(device, dtype)

    state = [tensor(s) for s in drawn.state]
    dlast: list[Tensor | None] = [tensor(rng.standard_normal((B, N, D))) for _ in state]
    dstates: list[Tensor | None] = [tensor(rng.standard_normal((B, T, N, D))) for _ in state]
    if bare:
        inputs = (tensor(drawn.wx), tensor(drawn.r), None, [])
        return Case(cell, activation, inputs, [None] * len(state), [dstates[0], *[None] * (len(state) - 1)])
    return Case(cell, activation, (tensor(drawn.wx), tensor(drawn.r), tensor(drawn.b), state), dlast, dstates)


def array(x: Tensor) -> Array:
    return x.detach().cpu().double().numpy()


def specified(case: Case, **how: Any) -> tuple[Arrays, Arrays]:
    """(h, *final states, *other states of all steps), (dwx, dr, db, *dstate), in float64."""
    wx, r, b, state = case.inputs
    given = [array(wx), array(r), None if b is None else array(b), [array(s) for s in state] or None]
    how = options(case.activation, **how)
    h, last, states = getattr(reference, case.cell)(*given, **how)
    dstates = [np.zeros_like(h) if d is None else array(d) for d in case.dstates]
    dlast = [np.zeros_like(last[0]) if d is None else array(d) for d in case.dlast]
    dwx, dr, db, dstate = reference.backward(case.cell, *given, None, dlast, dstates, **how)
    return (h, *last, *states[1:]), (dwx, dr, db, *dstate)


def run(
    case: Case,
    reverse: bool = False,
    lengths: list[int] | None = None,
    *,
    forward: dict[str, Any],
    backward: dict[str, Any],
) -> tuple[list[Tensor], list[Tensor]]:
    """The same of the GPU implementations; ``forward`` and ``backward``: what they are told besides."""
    wx, r, b, state = case.inputs
    whole = None if lengths is None else torch.tensor(lengths)
    outputs = _rnn_gpu.rnn_fwd(case.name, wx, r, b, state, reverse, whole, None, True, True, **forward)
    count = len(case.dlast)
    states, saved = [outputs[0], *outputs[1 + count : 2 * count]], outputs[2 * count :]
    flows = (case.dstates, case.dlast)
    gradients = _rnn_gpu.rnn_bwd(
        case.name, r, state, states, saved, *flows, reverse, whole, None, True, True, True, **backward
    )
    return outputs[: 2 * count], gradients


def assert_close(actual: list[Tensor], expected: Arrays, length: int, width: int, name: str) -> None:
    """Within eps (8 + sqrt(length) + sqrt(width)) of the largest element: see `tolerance` in cases.py."""
    assert len(actual) == len(expected), name
    for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == e.shape, f"{name}[{k}]: {a.shape}, expected {e.shape}"
        bound = torch.finfo(a.dtype).eps * (8 + math.sqrt(length) + math.sqrt(width))
        error = np.max(np.abs(array(a) - e), initial=0) if np.isfinite(array(a)).all() else np.inf
        assert error <= bound * np.max(np.abs(e), initial=0), f"{name}[{k}]: off by {error:.3g}"


def check(case: Case, reverse: bool = False, lengths: list[int] | None = None, **told: dict[str, Any]) -> None:
    """Compare values and gradients with the specification."""
    B, T, *_, D = case.inputs[0].shape
    outputs, gradients = run(case, reverse, lengths, **told)
    values, expected = specified(case, reverse=reverse, lengths=lengths)
    assert_close(outputs, values, T, D, "output")
    assert_close(gradients, expected, B * T, D, "gradient")


def check_packed(
    cell: str, reverse: bool, device: str, *, forward: dict[str, Any], backward: dict[str, Any], width: int = 19
) -> None:
    """Compare the data of a PackedSequence with what the CPU computes."""
    batch_sizes = torch.tensor([4, 3, 3, 1])
    wx = make(cell, "", (11, 1, 1, width), torch.float32, "cpu").inputs[0][:, 0]
    _, r, b, state = make(cell, "", (4, 1, 1, width), torch.float32, "cpu").inputs
    assert b is not None
    where, packing, count = (reverse, None, batch_sizes), (True, True), len(state)
    expected = _rnn_op._rnn_fwd(cell, wx, r, b, state, *where, *packing)
    flows = [torch.cos(torch.arange(x.numel()) + 1.0 * k).view(x.shape) for k, x in enumerate(expected[: 2 * count])]
    dstates, dlast = [flows[0], *flows[1 + count :]], flows[1 : 1 + count]
    states, saved = [expected[0], *expected[1 + count : 2 * count]], expected[2 * count :]
    needs = (True, True, True)
    expected += _rnn_op._rnn_bwd(cell, r, state, states, saved, dstates, dlast, *where, *needs)

    def there(tensors: list[Tensor]) -> list[Tensor]:
        return [x.to(device) for x in tensors]

    (wx, r, b), state = there([wx, r, b]), there(state)
    actual = _rnn_gpu.rnn_fwd(cell, wx, r, b, state, *where, *packing, **forward)
    given = there(states), there(saved), there(dstates), there(dlast)
    actual += _rnn_gpu.rnn_bwd(cell, r, state, *given, *where, *needs, **backward)
    for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
        torch.testing.assert_close(a.cpu(), e, atol=3e-5, rtol=1e-5, msg=lambda text, k=k: f"[{k}]: {text}")
