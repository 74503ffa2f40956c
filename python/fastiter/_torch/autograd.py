"""Helpers for the autograd functions of all families: refusing second derivatives, and batched gradients."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from .._suggest import refuse_unknown
from .ops import are_ordinary, unwatched

F = TypeVar("F", bound=Callable[..., Any])
_CALL = threading.local()  # function: the name of the public function in progress, if it calls others


def names_errors(function: F) -> F:
    """Let errors of backward passes name this public function instead of those that it calls."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if is_compiling() or called() is not None:
            return function(*args, **options)
        _CALL.function = function.__name__
        try:
            return function(*args, **options)
        except TypeError:
            refuse_unknown(function, options)
            raise
        finally:
            _CALL.function = None

    return cast(F, call)


def called() -> str | None:
    """Return the name of the public function that the user has called, None outside of :func:`names_errors`.

    It is None while compiling, where second derivatives are not refused by name.
    """
    function: str | None = None if is_compiling() else getattr(_CALL, "function", None)
    return function


class _Once(torch.autograd.Function):
    """Return the first ``count`` tensors; differentiating through them raises, with the name of the function."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple([x.detach() for x in tensors[:count]])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.function = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        raise RuntimeError(f"{ctx.function}: the gradient has no derivative, as kernels cannot be differentiated twice")


def applied(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """Return ``function.apply(*arguments)`` for a function with ``setup_context``.

    Only transforms and forward-mode differentiation need a separate ``setup_context``. Without them, an equal function
    is called in whose forward pass it runs: torch takes half the time for that, which small calls are bound by.
    """
    is_plain = unwatched() and forward_ad._current_level < 0
    return applied_directly(_in_one_pass(function), *arguments) if is_plain else function.apply(*arguments)


def applied_directly(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """Return ``function.apply(*arguments)`` for a call that is not watched (:func:`unwatched`).

    torch checks in Python whether an argument is a wrapper that a transform has left behind, which plain tensors are
    not: for them only what torch does after this check is called.
    """
    return (_unchecked(function) if are_ordinary(arguments) else function.apply)(*arguments)


@functools.cache
def _unchecked(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    above: Any = super(torch.autograd.Function, function)
    apply: Callable[..., Any] = above.apply
    return apply


@functools.cache
def _in_one_pass(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    of_both: Any = function

    def forward(ctx: Any, *arguments: Any) -> Any:
        output = of_both.forward(*arguments)
        of_both.setup_context(ctx, arguments, output)
        return output

    passes = {"forward": staticmethod(forward), "backward": staticmethod(of_both.backward)}
    return type(function.__name__, (torch.autograd.Function,), {**passes, "__module__": function.__module__})


_is_batch = torch._C._functorch.is_legacy_batchedtensor
_DEEPEST = 4  # maximum number of nested batches


def one_by_one(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``backward`` of an autograd function with support for batched gradients, by a loop over the batch.

    torch.autograd.grad creates such a batch with ``is_grads_batched``, torch.autograd.functional with ``vectorize``:
    a wrapper tensor without memory, which the kernels cannot read.
    """

    @functools.wraps(backward)
    def call(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if not is_compiling():
            for g in gradients:
                if g is not None and _is_batch(g):
                    return _of_a_batch(functools.partial(backward, ctx), gradients, _DEEPEST)
        results: tuple[Tensor | None, ...] = backward(ctx, *gradients)
        return results

    return call


def _of_a_batch(call: Callable[..., Any], gradients: Sequence[Tensor | None], level: int) -> tuple[Tensor | None, ...]:
    """Call once per slice of the tensors batched at this vmap level and at the levels around it."""
    if level == 0:
        with _outside_vmap():
            results: tuple[Tensor | None, ...] = call(*gradients)
            return results
    counts = [_count_in_batch(g, level) for g in gradients if g is not None]
    count = max(counts, default=-1)
    if count < 0:
        return _of_a_batch(call, gradients, level - 1)
    batches = [None if g is None else torch._remove_batch_dim(g, level, count, 0) for g in gradients]
    calls = [_of_a_batch(call, [None if b is None else b[i] for b in batches], level - 1) for i in range(count)]
    every = (None if parts[0] is None else torch.stack(parts) for parts in zip(*calls, strict=True))
    return tuple(None if x is None else torch._add_batch_dim(x, 0, level) for x in every)


def _count_in_batch(g: Tensor, level: int) -> int:
    """Return the batch size of g at a vmap level, -1 if it is not batched there."""
    one, other = (torch._remove_batch_dim(g, level, n, 0).shape[0] for n in (1, 2))
    return int(one) if one == other else -1  # torch expands an unbatched g to any requested size


@contextmanager
def _outside_vmap() -> Iterator[None]:
    """Lift torch's restrictions on code under vmap, such as on drawing random numbers."""
    level = torch._C._vmapmode_increment_nesting()  # torch has no function that only returns the level
    for _ in range(level):
        torch._C._vmapmode_decrement_nesting()
    try:
        yield
    finally:
        for _ in range(level - 1):
            torch._C._vmapmode_increment_nesting()


def differentiable_once(function: str | Callable[[Any], str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that makes ``backward`` of an autograd function raise when it is differentiated.

    ``function`` is the name of the public function for the message, or a callable that returns it from the context. The
    attribute ``called`` of a context, what :func:`called` returned in the forward pass, takes precedence unless None.
    torch's own once_differentiable raises only if the incoming gradients require grad, and only on paths to leaves, so
    it would silently drop a gradient penalty.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        batched = one_by_one(backward)

        @functools.wraps(backward)
        def call(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
            results: tuple[Tensor | None, ...]
            if not torch.is_grad_enabled():
                results = batched(ctx, *gradients)
                return results
            with torch.no_grad():
                results = batched(ctx, *gradients)
            if is_compiling():
                return results
            depends_on = [x for x in (*gradients, *ctx.saved_tensors) if x is not None and x.requires_grad]
            present = [x for x in results if x is not None]
            name = getattr(ctx, "called", None) or (function if isinstance(function, str) else function(ctx))
            refusing = iter(_Once.apply(name, len(present), *present, *depends_on))
            return tuple(None if x is None else next(refusing) for x in results)

        return call

    return decorate
