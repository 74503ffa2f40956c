"""Gradients that can be differentiated again, although the kernels of a backward pass have no derivative of their own.

With ``create_graph``, the gradients become an autograd node whose backward pass recomputes the function in torch's own
operations (a replay) and differentiates that twice. Without ``create_graph`` there is no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .autograd import one_by_one
from .ops import transformed

#: (inputs, constants) -> outputs: the function in differentiable operations; inputs and constants may be None.
Replay = Callable[[Sequence[Any], Sequence[Any]], Sequence[Tensor]]
Gradients = list[Tensor | None]


def differentiable(
    replay: Replay,
    gradients: Sequence[Tensor | None],
    inputs: Sequence[Tensor | None],
    constants: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
) -> Gradients:
    """Return the gradients of ``inputs``, differentiable in inputs and cotangents if a graph is recorded.

    Parameters
    ----------
    replay : Replay
        The function in torch's operations. It must not close over tensors, as torch.func could not wrap those.
    gradients : sequence of Tensor or None
        The gradient of each input, computed by a kernel without a graph; None if not requested.
    inputs : sequence of Tensor or None
        The differentiated inputs.
    constants : sequence of Tensor or None
        Tensors without a gradient that the replay reads, such as lengths.
    cotangents : sequence of Tensor or None
        The incoming gradient of each output of the replay.
    """
    if not torch.is_grad_enabled() or is_compiling():
        return list(gradients)
    places = tuple(i for i, g in enumerate(gradients) if g is not None)
    present = [g for g in gradients if g is not None]
    counts = (len(inputs), len(constants))
    result = iter(_Gradients.apply(replay, places, counts, *present, *inputs, *constants, *cotangents))
    return [None if g is None else next(result) for g in gradients]


class _Gradients(torch.autograd.Function):
    """Map (gradients, inputs, constants, cotangents) to the gradients, unchanged."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        replay: Replay, places: tuple[int, ...], counts: tuple[int, int], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        return tuple([x.detach() for x in tensors[: len(places)] if x is not None])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.replay, ctx.places, ctx.counts, *tensors = inputs
        ctx.save_for_backward(*tensors[len(ctx.places) :])
        ctx.set_materialize_grads(False)

    @staticmethod
    @one_by_one
    def backward(ctx: Any, *weights: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, (count, constants) = ctx.saved_tensors, ctx.counts
        inputs, fixed, cotangents = saved[:count], saved[count : count + constants], saved[count + constants :]
        present = [(i, w) for i, w in zip(ctx.places, weights, strict=True) if w is not None]
        of_inputs, of_cotangents = _second(ctx.replay, present, inputs, fixed, cotangents)
        return (*[None] * (3 + len(weights)), *of_inputs, *[None] * constants, *of_cotangents)


def _second(
    replay: Replay,
    weights: list[tuple[int, Tensor]],
    inputs: Sequence[Tensor | None],
    constants: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
) -> tuple[Gradients, Gradients]:
    """Return the gradients, in inputs and cotangents, of the sum over (i, weight) of <weight, gradient of input i>."""
    both = [*inputs, *cotangents]
    derive = _by_transforms if transformed() else _by_autograd
    device = next(x.device.type for x in inputs if x is not None)
    with torch.autocast(device, enabled=False):
        gradients = derive(lambda xs: replay(xs, constants), weights, both, len(inputs))
    return gradients[: len(inputs)], gradients[len(inputs) :]


Run = Callable[[Sequence[Any]], Sequence[Tensor]]


def _by_autograd(run: Run, weights: list[tuple[int, Tensor]], both: Sequence[Tensor | None], count: int) -> Gradients:
    """Differentiate twice with torch.autograd; ``both`` contains the ``count`` inputs, then the cotangents."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views make the inputs independent of each other, even if one of them was computed from another.
        xs = [x.view_as(x) if x is not None and x.requires_grad else x for x in both]
        weights = [(i, w) for i, w in weights if _varies(xs[i])]
        pairs = zip(run(xs[:count]), xs[count:], strict=True)
        derived = [(y, c) for y, c in pairs if c is not None and y.requires_grad]
        first = _grad(derived, [xs[i] for i, _ in weights], again=True)
        roots = [(g, w) for g, (_, w) in zip(first, weights, strict=True) if g is not None and g.requires_grad]
        gradients = iter(_grad(roots, [x for x in xs if _varies(x)], again))
    return [next(gradients) if _varies(x) else None for x in xs]


def _grad(pairs: Sequence[tuple[Tensor, Tensor]], of: Sequence[Any], again: bool) -> Sequence[Tensor | None]:
    if not pairs or not of:
        return [None] * len(of)
    ys, dys = zip(*pairs, strict=True)
    return torch.autograd.grad(ys, of, dys, create_graph=again, allow_unused=True)


def _varies(x: Tensor | None) -> bool:
    return x is not None and x.requires_grad


def _by_transforms(run: Run, weights: list[tuple[int, Tensor]], both: Sequence[Tensor | None], count: int) -> Gradients:
    """Do the same with torch.func.vjp, as inside torch.func's transforms no tensor can be made to require grad."""
    places = [i for i, x in enumerate(both) if x is not None and (x.is_floating_point() or x.is_complex())]
    incoming = [j for j, c in enumerate(both[count:]) if c is not None]

    def gradients(*variables: Tensor) -> tuple[Tensor, ...]:
        xs = list(both)
        for i, x in zip(places, variables, strict=True):
            xs[i] = x

        def outputs(*some: Tensor) -> tuple[Tensor, ...]:
            ys = xs[:count]
            for (i, _), x in zip(weights, some, strict=True):
                ys[i] = x
            every = run(ys)
            return tuple([every[j] for j in incoming])

        pull = torch.func.vjp(outputs, *[xs[i] for i, _ in weights])[1]
        result: tuple[Tensor, ...] = pull(tuple([xs[count + j] for j in incoming]))
        return result

    if not weights or not incoming:
        return [None] * len(both)
    pull = torch.func.vjp(gradients, *[both[i] for i in places])[1]
    results = dict(zip(places, pull(tuple([w for _, w in weights])), strict=True))
    return [results.get(i) for i in range(len(both))]
