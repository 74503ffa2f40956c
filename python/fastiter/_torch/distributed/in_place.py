"""Kernels that read parts of tensors and write parts of results and gradients in place, without autograd's graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..ops import empty
from ..sequences import Sequences

#: The tensors of a call, None for those that are not given; a call with graphs has the same order.
Optional: TypeAlias = "Sequence[Tensor | None]"


class Forward(NamedTuple):
    """A part of a call: tensors, initial state and division into sequences; kernels write its results.

    Attributes
    ----------
    saves : bool
        Whether to return what the backward pass reads, too.
    """

    tensors: Optional
    state: Sequence[Tensor] | None
    cut: Sequences
    results: Sequence[Tensor]
    saves: bool


class Backward(NamedTuple):
    """The backward pass of a part of a call, which writes gradients of its tensors but for those that are None.

    ``saved`` is what the forward pass has returned, ``d_results`` and ``d_last`` are the cotangents.
    """

    tensors: Optional
    state: Sequence[Tensor] | None
    cut: Sequences
    saved: Sequence[Tensor]
    d_results: Optional
    d_last: Sequence[Tensor]
    gradients: Optional


class Kernels(NamedTuple):
    """The kernels of a family.

    Attributes
    ----------
    results : callable
        Allocates the results of a call with these tensors.
    forward : callable
        Returns the final states, and what is saved for the backward pass.
    backward : callable
        Returns the gradients of the initial state.
    forgets : callable, optional
        Estimates from the tensors after how many steps the state before them has no influence on the last bit, or
        infinity; None where rounding errors live on for as long as there are steps.
    """

    results: Callable[[Optional], list[Tensor]]
    forward: Callable[[Forward], tuple[list[Tensor], list[Tensor]]]
    backward: Callable[[Backward], list[Tensor]]
    forgets: Callable[[Optional], float] | None = None


def gradient_like(x: Tensor | None) -> Any:
    """Allocate the gradient of a tensor that requires one."""
    return empty(x, x.shape) if x is not None and x.requires_grad else None


#: Steps in a sample of a tensor
_SAMPLE = 64


def sampled(x: Tensor) -> Tensor:
    """Return some steps of a tensor (B, T, ...), evenly spaced."""
    steps = x.shape[1]
    if steps <= _SAMPLE:
        return x.detach()
    return x.detach()[:, :: steps // _SAMPLE]


def steps_to_forget(factors: Tensor, dtype: torch.dtype) -> float:
    """Return after how many steps the product of factors (B, T, ...) falls below the last bit everywhere.

    The geometric mean of the steps that are given is taken for that of all; a fourth of the bits more are for numbers
    that are far smaller than others.
    """
    if factors.numel() == 0:
        return math.inf
    rate = float(-factors.double().log2().mean(1).max())
    return -1.25 * math.log2(torch.finfo(dtype).eps) / rate if rate > 0 else math.inf
