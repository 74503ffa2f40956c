"""The private ops of Hopfield networks: their calls, and their CPU implementations, which call the kernels.

All tensors have the leading axes (batch, head). Forward returns the states, whether each query converged, its updates
and its last change; with ``save``, also the states before and after each update, and the largest product and the
inverse sum of each softmax.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._solution import ConvergenceError, warn
from ..._torch.op import Op
from ..._torch.ops import contiguous, empty, unit_stride

FUNCTION = "hopfield_update"


class HopfieldForward(NamedTuple):
    """A call of the forward op; ``report``: "", or "warn" or "throw" if the op itself reports a failure to converge."""

    state: Tensor
    stored: Tensor
    beta: Tensor
    bias: Tensor | None
    stops: bool
    rtol: float
    atol: float
    max_steps: int
    save: bool
    report: str


class HopfieldBackward(NamedTuple):
    """A call of the backward op through all updates: inputs, tensors saved by the forward op, and the gradient."""

    stored: Tensor
    beta: Tensor
    bias: Tensor | None
    steps: Tensor
    states: Tensor
    largest: Tensor
    inverse: Tensor
    dvalue: Tensor


class HopfieldAdjoint(NamedTuple):
    """A call of the backward op at fixed points."""

    value: Tensor
    stored: Tensor
    beta: Tensor
    bias: Tensor | None
    dvalue: Tensor
    rtol: float
    throw: bool


def _bits(x: Tensor) -> int:
    return 8 * x.element_size()


def _shape(state: Tensor, stored: Tensor) -> tuple[int, int, int, int, int]:
    batch, heads, L, D = state.shape
    return batch, heads, L, stored.shape[2], D


def _arrays(stored: Tensor, beta: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    resolved = None if bias is None else bias.resolve_neg()
    return unit_stride(stored), contiguous(beta), resolved


def forward_outputs(call: HopfieldForward) -> list[Tensor]:
    """Allocate the outputs."""
    x, queries = call.state, call.state.shape[:3]
    outputs = [empty(x, x.shape), x.new_empty(queries, dtype=torch.bool), x.new_empty(queries, dtype=torch.int64)]
    outputs.append(x.new_empty(queries))
    if call.save:
        saved = (empty(x, (call.max_steps, *queries)) for _ in range(2))
        outputs += [empty(x, (call.max_steps + 1, *x.shape)), *saved]
    return outputs


def _forward(call: HopfieldForward) -> list[Tensor]:
    outputs = forward_outputs(call)
    limits = (call.stops, call.rtol, call.atol, call.max_steps)
    saved = (outputs[4], outputs[5], outputs[6]) if call.save else (None, None, None)
    _core.fixedpoint.hopfield_update(
        _bits(call.state),
        _shape(call.state, call.stored),
        _arrays(call.stored, call.beta, call.bias),
        unit_stride(call.state),
        limits,
        (outputs[0], outputs[1], outputs[2], outputs[3]),
        saved,
    )
    report_forward(call, outputs)
    return outputs


def report_forward(call: HopfieldForward, outputs: list[Tensor]) -> None:
    """Report queries that have not converged, if the op itself has to do so."""
    if call.report:
        lost = int((~outputs[1]).sum())
        report(f"every query must converge, got {lost} of {outputs[1].numel()} that did not", lost > 0, call.report)


def report(message: str, failed: bool, action: str) -> None:
    """Warn or raise if a solution has not converged."""
    if failed and action == "throw":
        raise ConvergenceError(f"{FUNCTION}: {message}")
    if failed:
        warn(f"{FUNCTION}: {message}")


def _gradients(call: HopfieldBackward) -> list[Tensor]:
    return [empty(call.stored, x.shape) for x in (call.dvalue, call.stored, call.beta)]


def _backward(call: HopfieldBackward) -> list[Tensor]:
    gradients = _gradients(call)
    gradients[0].copy_(call.dvalue)  # the kernel updates it in place to the gradient of the state
    saved = (contiguous(call.states), contiguous(call.largest), contiguous(call.inverse), contiguous(call.steps))
    _core.fixedpoint.hopfield_gradient(
        _bits(call.stored),
        _shape(call.dvalue, call.stored),
        _arrays(call.stored, call.beta, call.bias),
        saved,
        call.largest.shape[0],
        (gradients[0], gradients[1], gradients[2]),
    )
    return gradients


def _adjoint_outputs(call: HopfieldAdjoint) -> list[Tensor]:
    result = [empty(call.stored, x.shape) for x in (call.stored, call.beta)]
    return [*result, call.value.new_empty(call.value.shape[:3])]


def _adjoint(call: HopfieldAdjoint) -> list[Tensor]:
    outputs = _adjoint_outputs(call)
    max_steps = 4 * call.value.shape[3] + 100  # in exact arithmetic, conjugate gradients end after D steps
    _core.fixedpoint.hopfield_adjoint(
        _bits(call.stored),
        _shape(call.value, call.stored),
        _arrays(call.stored, call.beta, call.bias),
        contiguous(call.value),
        contiguous(call.dvalue),
        call.rtol,
        max_steps,
        (outputs[0], outputs[1], outputs[2]),
    )
    report_adjoint(call, outputs)
    return outputs


def report_adjoint(call: HopfieldAdjoint, outputs: list[Tensor]) -> None:
    """Report systems of the gradient that have not been solved."""
    lost = int((~(outputs[2] <= call.rtol)).sum())
    wanted = f"the gradient's systems must be solved to rtol {call.rtol:.2g}"
    message = f"{wanted}, got {lost} of {outputs[2].numel()} that were not"
    report(message, lost > 0, "throw" if call.throw else "warn")


hopfield_fwd = Op("_hopfield_fwd", HopfieldForward, _forward, forward_outputs)
hopfield_bwd = Op("_hopfield_bwd", HopfieldBackward, _backward, _gradients)
hopfield_adjoint = Op("_hopfield_adjoint", HopfieldAdjoint, _adjoint, _adjoint_outputs)
