"""Newton's method on the steps of all ranks together, for the cells with diagonal weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import fastiter.torch
from fastiter.torch import distributed
from tests.distributed.compare import shard_of, summed
from tests.distributed.sequences.cell_jobs import PARTS, state, tensors

T = 19


def _divisions() -> list[dict[str, Any]]:
    packed = {"cu_seqlens": [0, 0, 4, 9, 9, 17, T]}
    return [
        {},
        {"reset": torch.rand(3, T) < 0.1, "reverse": True},
        {"lengths": torch.tensor([T, 0, 8])},
        {"lengths": torch.tensor([8, T, 0]), "reverse": True, "reset": torch.rand(T) < 0.2},
        packed,
        packed | {"reverse": True, "reset": torch.rand(1, T) < 0.1},
    ]


def _leaves(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.clone().requires_grad_() for name, x in given.items()}


def _gradients(function: Any, given: dict[str, Tensor], how: dict[str, Any], weights: list[Tensor]) -> list[Tensor]:
    """Return the states of all steps, the final states and the gradients of all arguments."""
    leaves = _leaves(given)
    parts = tuple(x for name, x in leaves.items() if name.startswith("state"))
    rest = {name: x for name, x in leaves.items() if not name.startswith("state")}
    found = function(**rest, state=parts or None, **how)
    outputs = [found[0], *found[1]]
    sum((x * w).sum() for x, w in zip(outputs, weights, strict=True)).backward()
    return [*(x.detach() for x in outputs), *(x.grad for x in leaves.values() if x.grad is not None)]


def equal_one_process(name: str, precision: str, exchange: str) -> int:
    """Results and gradients are those of the loop in one process within the tolerance; also for ragged shards."""
    size, done, dtype = dist.get_world_size(), 0, getattr(torch, precision)
    for at, how in enumerate(_divisions()):
        batch, rows = (1, 6) if "cu_seqlens" in how else (3, 3)
        given = tensors(name, batch)
        given |= {f"state {i}": x for i, x in enumerate(state(name, rows))} if at % 3 else {}
        given = {key: x.to(dtype) for key, x in given.items()}
        parts = [torch.randn(rows, 70, dtype=dtype) for _ in range(PARTS[name])]
        weights = [torch.randn(batch, T, 70, dtype=dtype), *parts]
        one = _gradients(getattr(fastiter.torch, name), given, how, weights)
        for ends in ([T * r // size for r in range(size + 1)], [0, *[9] * (size - 1), T]):
            cut = dict(how)
            if "reset" in how:
                reset = how["reset"]
                cut["reset"] = shard_of(reset.expand(batch, T), ends)
            local = given | {"wx": shard_of(given["wx"], ends)}
            own = [shard_of(weights[0], ends), *weights[1:]]
            found = _gradients(getattr(distributed, name), local, cut | {"exchange": exchange}, own)
            _compare(one, found, ends, PARTS[name], f"{name}, {how}, {ends}")
            done += 1
    return done


def _compare(one: list[Tensor], found: list[Tensor], ends: list[int], parts: int, said: str) -> None:
    sharded = (0, 1 + parts)  # the output and the gradient of wx
    sums = iter(summed([x for at, x in enumerate(found) if at not in sharded]))
    largest = max(1.0, float(torch.cat([x.flatten() for x in one[: 1 + parts]]).abs().max()))
    # By default a state of size s may be off by 64 eps (1 + s) at each of the T steps.
    bound = T * 64 * torch.finfo(one[0].dtype).eps * (1 + largest)
    for at, y in enumerate(one):
        x, y = (found[at], shard_of(y, ends)) if at in sharded else (next(sums), y)
        # A gradient is a sum of products of numbers of at most 1 with factors that change by a few times the states'
        # error.
        scale = 1.0 if at <= parts else 4 * (1 + float(one[1 + parts].abs().sum()))
        error = float((x - y).abs().max()) if x.numel() else 0.0
        assert error <= bound * scale, f"{said}: {at}: {error} > {bound * scale}"


def borders() -> tuple[list[int], int, int]:
    """Return the iterations for the states at the borders, and the rounds and bytes of a call."""
    wx, a = torch.randn(2, 400, 3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    with distributed.record_traffic() as sent:
        found = distributed.paragru(wx, a, exchange="shooting", return_info=True)
    return found.info.steps.tolist(), sent.rounds, sent.bytes


def iterations(name: str) -> tuple[list[int], list[int], list[int], int]:
    """Return the iterations on all ranks, on a single rank, and of solve_recurrence in one process, and the rounds."""
    solo = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
    size, given = dist.get_world_size(), tensors(name, 3)
    function = getattr(distributed, name)
    alone = function(**given, exchange="scan", group=solo, return_info=True).info
    local = given | {"wx": shard_of(given["wx"], [T * r // size for r in range(size + 1)])}
    with distributed.record_traffic() as sent:
        found = function(**local, exchange="scan", return_info=True).info
    assert int(found.fallbacks.sum()) == 0 and found.method == "newton"
    cell = _gru if name == "paragru" else _lstm
    first = torch.zeros(3, 70, dtype=torch.float64)
    start = first if name == "paragru" else (first, first)
    options: dict[str, Any] = {"method": "newton", "damping": 0.0, "window": T, "jacobian": "auto"}
    weights = {name: x for name, x in given.items() if name != "wx"}
    one = fastiter.torch.solve_recurrence(cell, given["wx"], weights, state=start, **options)
    return found.steps.tolist(), alone.steps.tolist(), one.steps.flatten().tolist(), sent.rounds


def _gru(h: Tensor, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    z, r = (torch.sigmoid(w["a"][g] * h + x[:, g]) for g in (0, 1))
    return z * torch.tanh(w["a"][2] * h * r + x[:, 2]) + (1 - z) * h


def _lstm(s: tuple[Tensor, Tensor], x: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    (h, c), a, p = s, w["a"], w["p"]
    f = torch.sigmoid(a[0] * h + x[:, 0] + p[0] * c)
    c = f * c + (1 - f) * torch.tanh(a[2] * h + x[:, 2])
    return torch.sigmoid(a[1] * h + x[:, 1] + p[1] * c) * torch.tanh(c), c


def lost(exchange: Any, most: int | None) -> tuple[bool, list[int], list[int]]:
    """Return whether a call that does not converge has the bits of the loop, and its counts."""
    size, steps = dist.get_world_size(), 300
    wx, a = 3 * torch.randn(2, steps, 3, 8, dtype=torch.float64), torch.full((3, 8), 30.0, dtype=torch.float64)
    if most is not None:
        a = a / 30
    h, (last,) = fastiter.torch.paragru(wx, a)
    ends = [steps * r // size for r in range(size + 1)]
    how: dict[str, Any] = {"exchange": exchange, "max_steps": most}
    found = distributed.paragru(shard_of(wx, ends), a, return_info=True, **how)
    same = torch.equal(found.output, shard_of(h, ends)) and torch.equal(summed(list(found.state))[0], last)
    return same, found.info.steps.tolist(), found.info.fallbacks.tolist()


def refused() -> list[str]:
    """Return the errors of inconsistent options, given on one rank or on all."""
    given = tensors("paragru", 1)
    calls: list[dict[str, Any]] = [
        {"exchange": "scan", "method": "sequential"},
        {"exchange": "scan", "window": 8},
        {"return_info": True},
        {"exchange": "scan", "return_info": 1},
        {"exchange": "scan" if dist.get_rank() else "pipeline"},
        {"exchange": "scan", "rtol": -1.0},
        {"exchange": "ring"},
    ]
    found = []
    function: Any = distributed.paragru
    for how in calls:
        try:
            function(**given, **how)
        except (TypeError, ValueError) as error:
            found.append(str(error))
    return found
