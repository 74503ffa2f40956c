"""Calls of linear_scan and block_scan on the ranks of a group."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

import fastiter.torch
from fastiter.scan._torch import in_place
from fastiter.torch import distributed
from tests.distributed.compare import Case, Expected

T = 23


def linear(dtype: torch.dtype, batch: int = 2, shape: tuple[int, ...] | None = None, rows: int | None = None) -> Case:
    a = torch.randn(shape or (batch, T, 70), dtype=dtype)
    x, state = torch.randn(batch, T, 70, dtype=dtype), torch.randn(rows or batch, 70, dtype=dtype)
    tensors = {"a": a, "x": x, "state": state}
    return Case(distributed.linear_scan, fastiter.torch.linear_scan, tensors, frozenset({"a", "x"}), 4)


def block(dtype: torch.dtype, batch: int = 2, shape: tuple[int, ...] | None = None, rows: int | None = None) -> Case:
    A = torch.randn(shape or (batch, T, 5, 3, 3), dtype=dtype) / 2
    x, state = torch.randn(batch, T, 5, 3, dtype=dtype), torch.randn(rows or batch, 5, 3, dtype=dtype)
    tensors = {"A": A, "x": x, "state": state}
    return Case(distributed.block_scan, fastiter.torch.block_scan, tensors, frozenset({"A", "x"}), 10)


def shards(size: int) -> Iterator[list[int]]:
    """Yield ends of shards: almost even ones, one with all steps, and random ones, some of them empty."""
    yield [T * r // size for r in range(size + 1)]
    yield [0] * size + [T]
    yield [0, *sorted(torch.randint(0, T + 1, (size - 1,)).tolist()), T]
    yield [0, *[11] * (size - 1), T]


def cuts(batch: int) -> Iterator[dict[str, Any]]:
    """Yield divisions into sequences; packed ones cross borders, start and end on them, and are empty."""
    yield {}
    yield {"reset": torch.rand(batch, T) < 0.1}
    yield {"reset": torch.arange(T) == 12}
    yield {"lengths": torch.randint(0, T + 1, (batch,))}
    if batch == 1:
        yield {"cu_seqlens": torch.tensor([0, 0, 3, 11, 11, 12, 20, T, T])}
        yield {"cu_seqlens": [0, T]}
        yield {"cu_seqlens": [0, 1, T], "reset": torch.rand(1, T) < 0.05}


def equal_one_process() -> int:
    """Run both exchanges in both directions, for every division into shards and sequences."""
    size, done = dist.get_world_size(), 0
    for make in (linear, block):
        for batch in (1, 3):
            for at, how in enumerate(cuts(batch)):
                rows = len(how["cu_seqlens"]) - 1 if "cu_seqlens" in how else None
                expected = Expected(make(torch.float64, batch, rows=rows), how | {"reverse": bool(at % 2)})
                for ends in list(shards(size))[at % 2 :: 1 if size == 2 else 2]:
                    expected.compare(ends, {"exchange": "pipeline"}, exact=True)
                    expected.compare(ends, {"exchange": "scan"}, exact=size < 3)
                    done += 2
    return done


def speculation() -> list[list[int]]:
    """Run shards speculatively, without waiting for their state, for factors that forget it and factors that do not.

    Returns the number of steps that this rank's kernels computed for each of these, forward and backward.
    """
    size, width = dist.get_world_size(), 6
    steps = 4500 * size
    ends = [0, *(4500 * r + 7 for r in range(1, size)), steps]
    forgets, x, state = torch.rand(2, steps, width), torch.randn(2, steps, width), torch.randn(2, width)
    endless = torch.cat([torch.ones(2, steps, 1), forgets[..., 1:]], -1)
    counts: list[list[int]] = []
    for a, how in (
        (forgets, {}),
        (endless, {}),
        (forgets, {"reverse": True}),
        (endless, {"reverse": True, "reset": torch.rand(2, steps) < 0.001}),
        (forgets[0, 0], {}),
        (forgets[:1], {"reset": torch.rand(steps) < 0.001}),
        (forgets[:, :1], {}),
        (forgets[..., :1], {"reverse": True}),
    ):
        tensors = {name: y.double() for name, y in (("a", a), ("x", x), ("state", state))}
        case = Case(distributed.linear_scan, fastiter.torch.linear_scan, tensors, frozenset({"a", "x"}), 4)
        expected = Expected(case, how)
        exact = a.dim() == 3 and a.shape[1] == steps and a.shape[2] == width and a.shape[0] == 2
        for exchange in ("speculative", "auto"):
            counts.append([0, 0])
            with (
                mock.patch.object(in_place, "_forward", _counting(in_place._forward, counts[-1], 0)),
                mock.patch.object(in_place, "_last", _counting(in_place._last, counts[-1], 0)),
                mock.patch.object(in_place, "_backward", _counting(in_place._backward, counts[-1], 1)),
            ):
                expected.compare(ends, {"exchange": exchange}, exact=exact)
    return counts[:4]


def _counting(function: Any, counts: list[int], place: int) -> Any:
    def call(*arguments: Any) -> Any:
        counts[place] += arguments[-1].tensors[0].shape[1]
        return function(*arguments)

    return call


def dtypes_and_broadcasts() -> None:
    size = dist.get_world_size()
    ends = next(shards(size))
    for dtype in (torch.float32, torch.complex64, torch.complex128):
        for make in (linear, block):
            expected = Expected(make(dtype), {})
            expected.compare(ends, {"exchange": "pipeline"}, exact=True)
            expected.compare(ends, {"exchange": "scan"})
    shapes: list[tuple[int, ...]] = [(70,), (1, T, 70), (2, 1, 70), (2, T, 1)]
    for case in (*(linear(torch.float64, shape=shape) for shape in shapes), block(torch.float64, shape=(5, 3, 3))):
        expected = Expected(case, {"reverse": True})
        for exchange in ("pipeline", "scan"):
            expected.compare(ends, {"exchange": exchange})
    expected = Expected(linear(torch.float64), {})
    for chunks in (1, 2, 100):
        expected.compare(ends, {"exchange": "pipeline", "chunks": chunks}, exact=True)


def gradients_by_differences(exchange: str) -> float:
    """Return the relative difference of the gradient in a direction of all arguments from a difference quotient.

    The loss is the sum of a smooth function of all ranks' results. The central difference with step s has an error of
    s^2 times the third derivative plus eps / s; with s = 1e-4, both are far below 1e-5 here.
    """
    rank, generator = dist.get_rank(), torch.Generator().manual_seed(dist.get_rank())
    a, x = (torch.rand(2, 4 + rank, 40, dtype=torch.float64, generator=generator) for _ in range(2))
    state = torch.ones(2, 40, dtype=torch.float64)
    inputs = [a, x, state]
    along = [torch.randn(y.shape, dtype=y.dtype, generator=generator) for y in inputs[:2]]
    along.append(torch.linspace(-1, 1, 80, dtype=torch.float64).view(2, 40))

    def loss(*given: torch.Tensor) -> torch.Tensor:
        h, last = distributed.linear_scan(*given, exchange=exchange)  # type: ignore[arg-type]
        return h.sin().sum() + last.cos().sum()

    def total(y: torch.Tensor) -> float:
        y = y.detach().clone()
        dist.all_reduce(y)
        return float(y)

    leaves = [y.clone().requires_grad_() for y in inputs]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    slope = total(torch.stack([(g * d).sum() for g, d in zip(gradients, along, strict=True)]).sum())
    ahead, behind = (total(loss(*(y + s * d for y, d in zip(inputs, along, strict=True)))) for s in (1e-4, -1e-4))
    return abs((ahead - behind) / 2e-4 - slope) / abs(slope)


def no_sequences() -> None:
    """Run without rows, channels or packed sequences: results and gradients are empty."""
    exchanges: tuple[Any, ...] = ("pipeline", "scan")
    for shape, bounds in (((1, 0, 64), [0]), ((0, 3, 64), None), ((1, 3, 0), None)):
        for exchange in exchanges:
            a, x = torch.rand(shape, requires_grad=True), torch.rand(shape, requires_grad=True)
            h, last = distributed.linear_scan(a, x, cu_seqlens=bounds, exchange=exchange)
            (h.sum() + last.sum()).backward()
            assert h.shape == shape and last.shape == (0 if bounds else shape[0], shape[2])
            assert a.grad is not None and x.grad is not None and a.grad.shape == x.grad.shape == shape


def traffic(steps: int, exchange: str) -> tuple[int, int]:
    """Return the bytes that this rank sends in both passes, and the rounds in which it waits in the forward pass."""
    a, x = torch.rand(2, steps, 64), torch.rand(2, steps, 64, requires_grad=True)
    with distributed.record_traffic() as sent:
        h, last = distributed.linear_scan(a, x, exchange=exchange, chunks=2)  # type: ignore[arg-type]
        rounds = sent.rounds
        (h.sum() + last.sum()).backward()
    return sent.bytes, rounds


def rounds_without_steps(batch: int, exchange: Any) -> int:
    """Return the number of rounds of this rank in both passes of a call without steps."""
    a, x = torch.rand(batch, 0, 512), torch.rand(batch, 0, 512, requires_grad=True)
    state = torch.rand(batch, 512, requires_grad=True)
    with distributed.record_traffic() as sent:
        h, last = distributed.linear_scan(a, x, state, exchange=exchange)
        (h.sum() + last.sum()).backward()
    last = last.detach()
    dist.all_reduce(last)
    assert torch.equal(last, state.detach() * 1.0) or dist.get_rank() > 0
    return sent.rounds


def refused(name: str) -> None:
    """Call with a mistake on rank 1, or on all ranks."""
    other = dist.get_rank() == 1
    a, x, state = torch.rand(1, 4, 64), torch.rand(1, 4, 64), torch.rand(1, 64)
    calls: dict[str, Any] = {
        "dtype": lambda: distributed.linear_scan(a.double(), x.double()) if other else distributed.linear_scan(a, x),
        "width": lambda: distributed.linear_scan(a[..., : 64 - other], x[..., : 64 - other]),
        "state": lambda: distributed.linear_scan(a, x, state if other else None),
        "exchange": lambda: distributed.linear_scan(a, x, exchange="scan" if other else "pipeline"),
        "function": lambda: (
            distributed.block_scan(torch.rand(4, 4, 4), x.unflatten(2, (4, 16))[..., :4])
            if other
            else distributed.linear_scan(a, x)
        ),
        "packed": lambda: distributed.linear_scan(a, x, cu_seqlens=[0, 2 + other, 8]),
        "grad": lambda: distributed.linear_scan(a, x) if other else torch.no_grad()(distributed.linear_scan)(a, x),
        "one rank": lambda: distributed.linear_scan(a, x[0] if other else x),
        "one list": lambda: distributed.linear_scan(a, x, reset=[True] * 4 if other else None),  # type: ignore[arg-type]
        "total": lambda: distributed.linear_scan(a, x, cu_seqlens=[0, 4]),
        "lengths": lambda: distributed.linear_scan(a, x, lengths=[9]),
        "rows": lambda: distributed.linear_scan(a, x, state, cu_seqlens=[0, 4, 8]),
        "word": lambda: distributed.linear_scan(a, x, exchange="ring"),  # type: ignore[arg-type]
        "lengths beside": lambda: distributed.linear_scan(a, x, lengths=[3], exchange="speculative"),
        "blocks": lambda: distributed.block_scan(
            torch.rand(4, 4, 4), x.unflatten(2, (4, 16))[..., :4], exchange="speculative"
        ),
        "chunks": lambda: distributed.linear_scan(a, x, chunks=0),
        "reset": lambda: distributed.linear_scan(a, x, reset=torch.zeros(5, dtype=torch.bool)),
    }
    calls[name]()


def contracts() -> None:
    """Check gradients that only one rank needs, infinities before a reset, and the refusal of second derivatives."""
    rank = dist.get_rank()
    exchanges: tuple[Any, ...] = ("pipeline", "scan")
    for exchange in exchanges:
        a, x = torch.full((1, 3, 64), 2.0), torch.ones(1, 3, 64, requires_grad=rank == 0)
        h, _ = distributed.linear_scan(a, x, exchange=exchange)
        assert h.requires_grad
        h.sum().backward()
        steps = 3 * dist.get_world_size()
        if rank == 0:  # the sum of the powers of two up to the number of steps that follow
            expected = 2.0 ** torch.arange(steps, steps - 3, -1) - 1
            assert x.grad is not None and torch.equal(x.grad, expected.view(1, 3, 1).expand(1, 3, 64))
        x = torch.full((1, 3, 64), torch.inf if rank == 0 else 1.0)
        reset = torch.tensor([rank == 1, False, False])
        h, _ = distributed.linear_scan(a, x, exchange=exchange, reset=reset)
        assert h.isfinite().all() if rank else h.isinf().all()
        x = torch.ones(1, 3, 64, dtype=torch.float64, requires_grad=True)
        h, _ = distributed.linear_scan(a.double(), x, exchange=exchange)
        (g,) = torch.autograd.grad(h.sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match=r"^linear_scan: the gradient has no derivative"):
            g.sum().backward()


def tensors_left() -> int:
    """Return the number of tensors left after a forward and a backward pass, without Python's garbage collector."""

    def both() -> None:
        a, x = torch.rand(2, 5, 64, requires_grad=True), torch.rand(2, 5, 64, requires_grad=True)
        h, last = distributed.linear_scan(a, x)
        (h.sum() + last.sum()).backward()

    both()
    gc.collect()
    gc.disable()
    before = sum(type(x) is torch.Tensor for x in gc.get_objects())
    both()
    for _ in range(100):  # a thread of the process group may hold the last message for a moment; a cycle stays
        left = sum(type(x) is torch.Tensor for x in gc.get_objects()) - before
        if left == 0:
            break
        time.sleep(0.05)
    return left
