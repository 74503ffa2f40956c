"""Differentiable functions of tensors, each defined by two ops: one that computes it, and one for its gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .autograd import applied, called, differentiable_once, one_by_one
from .autograd_twice import Replay, differentiable
from .op import Op
from .ops import grad_enabled, transformed

Gradients = Sequence[Tensor | None]


def needs_autograd(tensors: Sequence[Any]) -> bool:
    """Return whether to call the autograd function: for gradients, and under forward mode, where it raises."""
    if grad_enabled():
        for x in tensors:
            if x is not None and x.requires_grad:
                return True
    return transformed() or forward_ad._current_level >= 0


class _Layout(NamedTuple):
    """The positions of what an autograd function saves, and of what its backward pass reads.

    Attributes
    ----------
    leading : int
        The number of differentiated arguments, which come first.
    nothing, others : tuple
        None for each differentiated argument, and for each other one.
    options : slice
        The arguments that are not tensors and that the backward op reads; like `saved`, it counts the name, too.
    saved : sequence of int
        The saved tensors among the name, the arguments and the outputs: the first ``before`` precede the gradients in
        the backward op's call, and the others, which are not differentiated, follow the options.
    before : int
        The number of these.
    varying : int
        The number of outputs with a gradient in the backward op's call, which come first.
    constant : int
        The first output without any gradient; those between are stand-ins.
    replayed : sequence of int
        The saved tensors from which the outputs can be computed again.
    stand_ins : sequence of (int, int)
        Outputs and the arguments for which they stand in.
    """

    leading: int
    nothing: tuple[None, ...]
    others: tuple[None, ...]
    options: slice
    saved: Sequence[int]
    before: int
    varying: int
    constant: int
    replayed: Sequence[int]
    stand_ins: Sequence[tuple[int, int]]


def _layout(call: type[Any], backward: type[Any], outputs: Sequence[str], stand_ins: Mapping[str, str]) -> _Layout:
    """Return the layout for the calls of a forward and a backward op, and the names of the outputs."""
    read: tuple[str, ...] = backward._fields  # type: ignore[attr-defined]
    kinds = {name: kind.__forward_arg__ for name, kind in call.__annotations__.items() if name != "save"}
    names, is_tensor = tuple(kinds), [kind in ("Tensor", "Tensor | None") for kind in kinds.values()]
    count = is_tensor.index(False) if False in is_tensor else len(names)
    options = [name for name, tensor in zip(names, is_tensor, strict=True) if not tensor and name in read]
    before = [name for name in (*names[:count], *outputs) if name in read]
    varying = [f"d{name}" for name in outputs if f"d{name}" in read]
    after = [name for name, tensor in zip(names[count:], is_tensor[count:], strict=True) if tensor and name in read]
    expected = (*before, *varying, *options, *after, "requested")
    if read != expected:
        raise TypeError(f"{backward.__name__} must have the fields {', '.join(expected)}, got {', '.join(read)}")
    every, own = ("name", *names, *outputs), {argument: output for output, argument in stand_ins.items()}
    leading = [own.get(name, name) for name in names[:count]]
    return _Layout(
        count,
        (None,) * count,
        (None,) * (len(names) - count),
        slice(count + 1, count + 1 + len(options)),
        [every.index(name) for name in (*before, *after)],
        len(before),
        len(varying),
        len(varying) + len(stand_ins),
        [before.index(name) for name in leading] if {*leading} <= {*before} else [],
        [(outputs.index(output), names.index(argument)) for output, argument in stand_ins.items()],
    )


class Differentiable:
    """A function of the arguments of a forward op, differentiable by a backward op.

    The function is differentiated in the leading tensors of the forward op's call. The fields of the backward op's call
    are, in this order and by these names, those of these that it reads: the differentiated arguments; the outputs; the
    gradients of outputs, with the prefix "d"; the arguments that are no tensors; the other tensors; and ``requested``,
    with a bit for each differentiated argument. The backward op returns the requested gradients in the order of the
    arguments.

    Parameters
    ----------
    name : str
        The name of the public function, for error messages.
    forward : Op
        If the last field of its call is ``save``, it is no argument of the function, but says whether to return the
        outputs that only the backward op reads, too.
    backward : Op
        The op for the gradients.
    outputs : str
        The names of the forward op's outputs: those with a gradient in the backward op's call, stand-ins, others.
    replay : Replay, optional
        The function in torch's operations, for second derivatives, which are refused without it. Its inputs are the
        differentiated arguments, all of which the backward op's call then has, and its constants the other tensors.
    stand_ins : mapping of str to str, optional
        Outputs and the arguments whose gradients equal theirs: a replay reads the output in place of the argument.
    """

    def __init__(
        self,
        name: str,
        forward: Op[Any, list[Tensor]],
        backward: Op[Any, list[Tensor]],
        outputs: str,
        replay: Replay | None = None,
        stand_ins: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.forward, self.backward, self.replay = name, forward, backward, replay
        self.calls = forward.call, backward.call
        self.layout = _layout(*self.calls, outputs.split(), stand_ins or {})
        saves = next(reversed(forward.call.__annotations__)) == "save"
        self.saving: tuple[bool, ...] = (True,) if saves else ()
        self.discarding: tuple[bool, ...] = (False,) if saves else ()
        title = "".join(part.title() for part in name.split("_"))
        self.function = type(title, (_Function if replay is None else _Twice,), {"__module__": __name__})
        _DEFINED[name] = self

    def __call__(self, *arguments: Any) -> Sequence[Tensor]:
        """Return the outputs, with a graph if a gradient may be needed."""
        if needs_autograd(arguments[: self.layout.leading]):
            outputs: Sequence[Tensor] = applied(self.function, self.name, *arguments)
            return outputs
        return self.forward(self.calls[0](*arguments, *self.discarding))

    def gradients(self, ctx: Any, cotangents: Gradients) -> Gradients:
        """Return the gradients of all arguments of the autograd function, the first of which is the name."""
        layout, needs = self.layout, ctx.needs_input_grad
        varying = cotangents[: layout.varying]
        result: Gradients = layout.nothing
        for g in varying:
            if g is not None:
                result = self._gradients(ctx, varying, needs[1 : layout.leading + 1])
                break
        for output, argument in layout.stand_ins:
            result = _with_sum(result, argument, cotangents[output])
        return (None, *result, *layout.others)

    def _gradients(self, ctx: Any, varying: Gradients, needs: Sequence[bool]) -> Gradients:
        layout, saved, requested = self.layout, ctx.saved_tensors, 0
        for place, need in enumerate(needs):
            requested |= need << place
        absent = layout.varying - len(varying)  # outputs that were not requested
        before, after = saved[: layout.before], saved[layout.before :]
        call = self.calls[1](*before, *varying, *(None,) * absent, *ctx.options, *after, requested)
        if self.replay is None:
            results = iter(self.backward(call))  # gradients are disabled
            return [next(results) if need else None for need in needs]
        with torch.no_grad():
            results = iter(self.backward(call))
        gradients: list[Tensor | None] = [next(results) if need else None for need in needs]
        return differentiable(self.replay, gradients, [before[i] for i in layout.replayed], after, varying)


def _with_sum(gradients: Gradients, place: int, added: Tensor | None) -> Gradients:
    """Return the gradients with a term added to one of them."""
    if added is None:
        return gradients
    own = gradients[place]
    return [*gradients[:place], added if own is None else own + added, *gradients[place + 1 :]]


#: The functions by name: torch.compile can trace an autograd function that looks its definition up in a global variable
_DEFINED: dict[str, Differentiable] = {}


class _Function(torch.autograd.Function):
    """Map the name of a differentiable function, and its arguments, to its outputs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, *arguments: Any) -> tuple[Tensor, ...]:
        function = _DEFINED[name]
        return tuple(function.forward(function.calls[0](*arguments, *function.saving)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        layout, every = _DEFINED[inputs[0]].layout, (*inputs, *output)
        ctx.save_for_backward(*map(every.__getitem__, layout.saved))
        ctx.function, ctx.options, ctx.called = inputs[0], inputs[layout.options], called()
        if len(output) > layout.constant:
            ctx.mark_non_differentiable(*output[layout.constant :])
        ctx.set_materialize_grads(False)

    @staticmethod
    @differentiable_once(lambda ctx: ctx.function)
    def backward(ctx: Any, *cotangents: Tensor | None) -> Gradients:
        return _DEFINED[ctx.function].gradients(ctx, cotangents)


class _Twice(_Function):
    """The same, differentiable to any order by a replay."""

    @staticmethod
    @one_by_one
    def backward(ctx: Any, *cotangents: Tensor | None) -> Gradients:
        return _DEFINED[ctx.function].gradients(ctx, cotangents)
