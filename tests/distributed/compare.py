"""Compares a function on sharded steps with the same function in one process: results, final states, all gradients.

The recurrences and their gradients are polynomials in the arguments. With absolute values in place of the arguments,
each is the sum of the absolute values of its monomials; if a monomial undergoes at most n roundings, the error is at
most gamma_n = n eps / (1 - n eps) times this sum, and two ways of computing it differ by at most twice as much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Case(NamedTuple):
    """A call: the two functions, tensors by name, those with a time axis, and those whose sign makes sums positive.

    ``roundings`` is the number of roundings of a monomial per step, ``states`` the name of the initial state, ``bits``
    the values that have the same bits if the arithmetic of every step is that of one process.
    """

    sharded: Callable[..., Any]
    single: Callable[..., Any]
    tensors: dict[str, Tensor]
    timed: frozenset[str]
    roundings: int
    negative: frozenset[str] = frozenset()
    states: str = "state"
    bits: Literal["all", "results", "none"] = "all"


class Values(NamedTuple):
    """Results for each step, final states and gradients by name."""

    results: list[Tensor]
    last: list[Tensor]
    gradients: dict[str, Tensor]


def flat(x: Any) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else [y for part in x for y in flat(part)]


def values(function: Callable[..., Any], tensors: Mapping[str, Any], weights: Sequence[Tensor], **how: Any) -> Values:
    """Make the call, and also return the gradients of the sum of weighted results."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}
    results, last = function(**leaves, **how)
    every = [*flat(results), *flat(last)]
    loss = sum((x * w.to(x.dtype)).sum().real for x, w in zip(every, weights, strict=True))
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    count = len(flat(results))
    found = [x.detach() for x in every]
    return Values(found[:count], found[count:], dict(zip(leaves, gradients, strict=True)))


def has_steps(x: Tensor, ends: Sequence[int]) -> bool:
    return x.dim() > 1 and x.shape[1] == ends[-1]


def shard_of(x: Tensor, ends: Sequence[int]) -> Tensor:
    rank = dist.get_rank()
    return x[:, ends[rank] : ends[rank + 1]] if has_steps(x, ends) else x


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums over the ranks, by one collective for all tensors with the dtype of the first."""
    every = torch.cat([x.reshape(-1) for x in tensors])
    dist.all_reduce(every)
    return [x.view_as(y) for x, y in zip(every.split([y.numel() for y in tensors]), tensors, strict=True)]


class Expected:
    """The values of one process for a call with options, and their tolerances."""

    def __init__(self, case: Case, how: Mapping[str, Any]) -> None:
        self.case, self.how = case, dict(how)
        with torch.no_grad():
            results, last = case.single(**case.tensors, **how)
        every = [*flat(results), *flat(last)]
        random = torch.Generator().manual_seed(len(every))
        self.weights = [torch.randn(x.shape, dtype=torch.float64, generator=random).to(x.dtype) for x in every]
        self.values = values(case.single, case.tensors, self.weights, **how)
        positive = {n: -x.abs() if n in case.negative else x.abs() for n, x in case.tensors.items()}
        positive = {n: x.to(case.tensors[n].dtype) for n, x in positive.items()}
        sums = values(case.single, positive, [w.abs() for w in self.weights], **how)
        steps = next(x.shape[1] for n, x in case.tensors.items() if n in case.timed and x.dim() > 1)
        dtype = every[0].dtype
        eps = torch.finfo(dtype).eps * (4 if dtype.is_complex else 1)  # for a complex product
        n = case.roundings * (steps + 4 * dist.get_world_size()) * eps  # 4 roundings for each combination of maps
        assert n < 0.5
        bound = 2 * n / (1 - n)
        self.bounds = Values(
            [bound * x.abs() for x in sums.results],
            [bound * x.abs() for x in sums.last],
            {name: bound * x.abs() for name, x in sums.gradients.items()},
        )

    def compare(self, ends: Sequence[int], only: Mapping[str, Any], *, exact: bool = False) -> None:
        """Check this rank's shard, the steps ends[rank] to ends[rank + 1].

        ``only`` has options of the sharded function. ``exact``: the same bits are expected, except in sums over ranks.
        """
        case, one, bounds = self.case, self.values, self.bounds
        exact, same_gradients = exact and case.bits != "none", exact and case.bits == "all"
        count, rank = len(one.results), dist.get_rank()
        local = {name: shard_of(x, ends) if name in case.timed else x for name, x in case.tensors.items()}
        cut = dict(self.how)
        if cut.get("reset") is not None:
            cut["reset"] = cut["reset"][..., ends[rank] : ends[rank + 1]]
        own_weights = [*(shard_of(w, ends) for w in self.weights[:count]), *self.weights[count:]]
        found = values(case.sharded, local, own_weights, **cut, **only)
        said = f"{case.single.__name__}, {dist.get_world_size()} ranks, shards {list(ends)}, {self.how}, {dict(only)}"
        for x, y, b in zip(found.results, one.results, bounds.results, strict=True):
            _check(x, shard_of(y, ends), shard_of(b, ends), exact, f"result: {said}")
        shared = [name for name in one.gradients if not (name in case.timed and has_steps(one.gradients[name], ends))]
        sums = summed([*found.last, *(found.gradients[name] for name in shared)])
        for x, y, b in zip(sums[: len(found.last)], one.last, bounds.last, strict=True):
            _check(x, y, b, exact, f"final state: {said}")
        for name, x in (found.gradients | dict(zip(shared, sums[len(found.last) :], strict=True))).items():
            y, b = one.gradients[name], bounds.gradients[name]
            if name in shared:
                _check(x, y, b, same_gradients and name == case.states, f"gradient of {name}: {said}")
            else:
                _check(x, shard_of(y, ends), shard_of(b, ends), same_gradients, f"gradient of {name}: {said}")


def _check(x: Tensor, y: Tensor, bound: Tensor, exact: bool, said: str) -> None:
    assert x.shape == y.shape and x.dtype == y.dtype, f"{said}: {x.shape} {x.dtype} for {y.shape} {y.dtype}"
    if exact:
        assert torch.equal(x, y), f"{said}: other bits, by {(x - y).abs().max()}"
        return
    beyond = (x - y).abs() > bound
    assert not beyond.any(), f"{said}: off by {(x - y).abs()[beyond].max()}, at most {bound[beyond].min()} allowed"
