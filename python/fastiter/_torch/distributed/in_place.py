"""Kernels that read slices of tensors and write slices of results and gradients in place, without autograd graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..ops import empty
from ..sequences import Sequences

#: The tensors of a call, None for those that are absent; the order is the same in a call with graphs.
Optional: TypeAlias = "Sequence[Tensor | None]"


class Forward(NamedTuple):
    """The forward pass of a part of a call: tensors, initial state, division into sequences, results to fill.

    Attributes
    ----------
    saves : bool
        Whether to return also the tensors that the backward pass reads.
    """

    tensors: Optional
    state: Sequence[Tensor] | None
    cut: Sequences
    results: Sequence[Tensor]
    saves: bool


class Backward(NamedTuple):
    """The backward pass of a part of a call, which writes the gradients of its tensors, except those that are None.

    ``saved`` are the tensors returned by the forward pass, ``d_results`` and ``d_last`` the cotangents.
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
        Returns the final states, and the tensors saved for the backward pass.
    backward : callable
        Returns the gradients of the initial state.
    forgets : callable, optional
        Estimates from the tensors the number of steps after which the initial state no longer influences the last bit,
        or infinity; None if rounding errors persist over any number of steps.
    last : callable, optional
        Returns the final states alone, and ``backward`` without gradients of tensors those of the initial states, both
        in much less time than with results: the first rank can then begin with them. None if that is not faster.
    wide : int
        Bytes of a step in the smallest chunks that are as fast as whole rows.
    """

    results: Callable[[Optional], list[Tensor]]
    forward: Callable[[Forward], tuple[list[Tensor], list[Tensor]]]
    backward: Callable[[Backward], list[Tensor]]
    forgets: Callable[[Optional], float] | None = None
    last: Callable[[Forward], list[Tensor]] | None = None
    wide: int = 0


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
    """Return the number of steps after which the product of factors (B, T, ...) is below the last bit everywhere.

    The geometric mean over the given steps estimates that over all steps; a quarter more bits allow for elements that
    are far smaller than others.
    """
    if factors.numel() == 0:
        return math.inf
    rate = float(-factors.double().log2().mean(1).max())
    return -1.25 * math.log2(torch.finfo(dtype).eps) / rate if rate > 0 else math.inf
