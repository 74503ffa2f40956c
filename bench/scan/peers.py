"""The peers that compute h[t] = a[t] h[t-1] + x[t], forward and backward, on arrays (B, T, D).

Each may also use time-major arrays, (T, B, D), if that saves it a transposition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bench.harness.contest import Absent, Entrant, Results, Work, leaves, torch_entrant
from bench.harness.peers import absent, compile_once_for_all_threads, jax_on, load
from bench.scan.cases import loop_over_unbound_steps

MAMBAPY, SCAN, ASSOCIATIVE = "mambapy pscan", "torch scan", "torch associative_scan"
JAX_SCAN, JAX_ASSOCIATIVE, LOOP = "jax.lax.scan", "jax.lax.associative_scan", "loop over unbound steps"
HIGHER_ORDER = "torch._higher_order_ops"
TIME_FIRST = "time first"

# ---- On torch -------------------------------------------------------------------------------------------------------


def time_first(work: Work) -> Work:
    """The same task with arrays (T, B, D)."""

    def turned(tensor: Tensor) -> Tensor:
        return tensor.detach().transpose(0, 1).contiguous()

    inputs = leaves(**{name: turned(value) for name, value in work.inputs.items()})
    return replace(work, inputs=inputs, cotangent=turned(work.cotangent))


def turned_back(results: Results) -> Results:
    return {name: value.transpose(0, 1) for name, value in results.items()}


def in_both_layouts(name: str, function: Callable[[Tensor, Tensor, int], Tensor], work: Work) -> list[Entrant]:
    """The peer in both layouts; `function` takes the time axis."""
    other = torch_entrant(name, lambda a, x: function(a, x, 0), time_first(work), TIME_FIRST)
    return [
        torch_entrant(name, lambda a, x: function(a, x, 1), work),
        replace(other, results=lambda: turned_back(other.results())),
    ]


def mambapy_entrants(work: Work) -> list[Entrant | Absent]:
    module = load("mambapy.pscan")
    if module is None:
        return [absent(MAMBAPY, "mambapy")]
    return [torch_entrant(MAMBAPY, lambda a, x: module.pscan(a.unsqueeze(3), x.unsqueeze(3)).squeeze(3), work)]


def combine(first: tuple[Any, Any], second: tuple[Any, Any]) -> tuple[Any, Any]:
    """Compose two steps of the recurrence, for torch tensors and jax arrays alike."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def torch_scan(module: ModuleType, a: Tensor, x: Tensor, axis: int) -> Tensor:
    def step(h: Tensor, now: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h = now[0] * h + now[1]
        return h, h.clone()

    steps = a.movedim(axis, 0), x.movedim(axis, 0)
    every_h: Tensor = module.scan(step, torch.zeros_like(steps[1][0]), steps, dim=0)[1]
    return every_h.movedim(0, axis)


def torch_associative_scan(module: ModuleType, a: Tensor, x: Tensor, axis: int) -> Tensor:
    every_h: Tensor = module.associative_scan(combine, (a, x), axis, combine_mode="generic")[1]
    return every_h


def higher_order_entrants(work: Work, compiled: bool) -> list[Entrant | Absent]:
    scan, associative = load(f"{HIGHER_ORDER}.scan"), load(f"{HIGHER_ORDER}.associative_scan")
    if scan is None or associative is None:
        return [Absent(SCAN, "not in this torch"), Absent(ASSOCIATIVE, "not in this torch")]
    entrants = [
        *in_both_layouts(SCAN, partial(torch_scan, scan), work),
        *in_both_layouts(ASSOCIATIVE, partial(torch_associative_scan, associative), work),
    ]
    if compiled:
        compile_once_for_all_threads()
        function = torch.compile(lambda a, x: torch_associative_scan(associative, a, x, 1))
        entrants.append(torch_entrant(ASSOCIATIVE, function, work, "compiled"))
    return list(entrants)


def torch_entrants(work: Work, compiled: bool) -> list[Entrant | Absent]:
    """Entrants for any number of threads."""
    return [
        *mambapy_entrants(work),
        *higher_order_entrants(work, compiled),
        *in_both_layouts(LOOP, loop_over_unbound_steps, work),
    ]


# ---- On jax ---------------------------------------------------------------------------------------------------------


def jax_scan(jax: ModuleType, a: Any, x: Any, axis: int) -> Any:
    def step(h: Any, now: tuple[Any, Any]) -> tuple[Any, Any]:
        h = now[0] * h + now[1]
        return h, h

    moveaxis, zeros_like = jax.numpy.moveaxis, jax.numpy.zeros_like
    steps = moveaxis(a, axis, 0), moveaxis(x, axis, 0)
    return moveaxis(jax.lax.scan(step, zeros_like(steps[1][0]), steps)[1], 0, axis)


def jax_associative_scan(jax: ModuleType, a: Any, x: Any, axis: int) -> Any:
    return jax.lax.associative_scan(combine, (a, x), axis=axis)[1]


def jax_entrant(jax: ModuleType, name: str, function: Callable[..., Any], work: Work, axis: int) -> Entrant:
    turned = work if axis == 1 else time_first(work)
    arrays = [jax.numpy.asarray(t.detach().numpy()) for t in (*turned.inputs.values(), turned.cotangent)]

    @jax.jit  # type: ignore[untyped-decorator]
    def both(a: Any, x: Any, cotangent: Any) -> tuple[Any, ...]:
        h, backward = jax.vjp(lambda a, x: function(jax, a, x, axis), a, x)
        return (h, *backward(cotangent))

    def call() -> Any:
        return jax.block_until_ready(both(*arrays))

    def results() -> Results:
        names = ["h", *(f"d{name}" for name in work.inputs)]
        outputs = dict(zip(names, (torch.utils.dlpack.from_dlpack(array) for array in call()), strict=True))
        return outputs if axis == 1 else turned_back(outputs)

    return Entrant(name, call, results, "" if axis == 1 else TIME_FIRST, fixed_threads=True)


def jax_entrants(work: Work, threads: int) -> list[Entrant | Absent]:
    """The jax peers for this number of threads; a call for another number invalidates them."""
    jax = jax_on(threads)
    if jax is None:
        return [absent(JAX_SCAN, "jax"), absent(JAX_ASSOCIATIVE, "jax")]
    functions = {JAX_SCAN: jax_scan, JAX_ASSOCIATIVE: jax_associative_scan}
    return [jax_entrant(jax, name, function, work, axis) for name, function in functions.items() for axis in (1, 0)]
