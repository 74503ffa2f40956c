"""Calls of delta_scan on tensors, with gradients, and the specification of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import fastiter.torch
from fastiter.reference import delta as reference
from tests.delta.calls import DeltaInputs
from tests.rnn.calls import cast

#: Order of the gradients: inputs by position, then decay.
NAMES = ("q", "k", "v", "beta", "state", "decay")


def tensor(x: Any) -> Any:
    return torch.from_numpy(np.array(x))


def leaves(inputs: DeltaInputs) -> list[Any]:
    return [tensor(x).requires_grad_() for x in inputs if x is not None]


def numpy(tensors: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(x.detach().numpy() for x in tensors)


def run(given: Sequence[Any], **how: Any) -> tuple[Any, Any]:
    for name in ("reset", "cu_seqlens"):
        if name in how:
            how[name] = tensor(how[name])
    return fastiter.torch.delta_scan(*given[:5], decay=given[5] if len(given) > 5 else None, **how)


def specified(inputs: DeltaInputs, do: Any, dlast: Any, **how: Any) -> tuple[Any, ...]:
    """Gradients of the specification in float64, rounded to the dtype of the inputs."""
    wide = DeltaInputs(*cast(tuple(inputs), np.float64))
    cotangents = cast((do, dlast), np.float64)
    dq, dk, dv, dbeta, ddecay, dh0 = reference.backward(*wide[:5], *cotangents, decay=wide.decay, **how)
    gradients = (dq, dk, dv, dbeta, dh0) if inputs.decay is None else (dq, dk, dv, dbeta, dh0, ddecay)
    rounded: tuple[Any, ...] = cast(gradients, inputs.q.dtype)
    return rounded


def backward(inputs: DeltaInputs, **how: Any) -> tuple[Any, ...]:
    given = leaves(inputs)
    outputs = run(given, **how)
    return numpy((*outputs, *torch.autograd.grad(outputs, given, [y.detach() for y in outputs])))
