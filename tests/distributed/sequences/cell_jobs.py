"""Calls of the recurrent cells, with full and with diagonal weights, on the ranks of a group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import fastiter.torch
from fastiter.torch import distributed
from tests.distributed.compare import Values, flat, shard_of, summed, values

T, N, D = 19, 2, 6
GATES = {"lstm": 4, "gru": 3, "elman": 1, "slstm": 4, "paragru": 3, "paralstm": 3, "paraslstm": 4}
PARTS = {"lstm": 2, "gru": 1, "elman": 1, "slstm": 4, "paragru": 1, "paralstm": 2, "paraslstm": 4}
F64 = torch.float64


def tensors(name: str, batch: int) -> dict[str, Tensor]:
    """Return the arguments; weights are small, so that states stay of order one."""
    if name.startswith("para"):
        found = {"wx": torch.randn(batch, T, GATES[name], 70, dtype=F64), "a": torch.rand(GATES[name], 70, dtype=F64)}
        return found | ({"p": torch.rand(2, 70, dtype=F64)} if name == "paralstm" else {})
    return {
        "wx": torch.randn(batch, T, GATES[name], N, D, dtype=F64),
        "r": torch.randn(GATES[name], N, D, D, dtype=F64) / 4,
        "b": torch.randn(GATES[name], N, D, dtype=F64),
    }


def state(name: str, rows: int) -> list[Tensor]:
    shape = (rows, 70) if name.startswith("para") else (rows, N, D)
    return [torch.rand(shape, dtype=F64) + (i == 2) for i in range(PARTS[name])]  # a normalizer of at least one


def equal_one_process(name: str) -> int:
    """Results, final states and gradients of wx have the same bits; gradients of weights are sums in another order."""
    size, done = dist.get_world_size(), 0
    divisions: list[dict[str, Any]] = [
        {},
        {"reset": torch.rand(3, T) < 0.1},
        {"lengths": torch.tensor([T, 0, 8])},
        {"cu_seqlens": [0, 0, 4, 9, 9, 17, T]},
    ]
    for at, how in enumerate(divisions):
        batch, rows = (1, 6) if "cu_seqlens" in how else (3, 3)
        given, first = tensors(name, batch), state(name, rows)
        options = {"reverse": at % 2 == 1} | ({"method": "sequential"} if name.startswith("para") else {})
        for with_state in (True, False):
            one = _values(getattr(fastiter.torch, name), given, first if with_state else [], how | options, [0, T])
            for ends in ([T * r // size for r in range(size + 1)], [0, *[9] * (size - 1), T]):
                cut = dict(how)
                if "reset" in how:
                    cut["reset"] = shard_of(how["reset"], ends)
                local = given | {"wx": shard_of(given["wx"], ends)}
                function = getattr(distributed, name)
                found = _values(function, local, first if with_state else [], cut | options, ends)
                _compare(one, found, ends, f"{name}, {how}, {options}, {ends}, {with_state}")
                done += 1
    return done


def _values(
    function: Any, given: dict[str, Tensor], first: list[Tensor], how: dict[str, Any], ends: list[int]
) -> Values:
    parts = {f"state {i}": x for i, x in enumerate(first)}

    def call(**every: Any) -> Any:
        own = {name: x for name, x in every.items() if name in given or name in how}
        return function(**own, state=tuple(every[name] for name in parts) or None)

    with torch.no_grad():
        results, last = call(**given, **parts, **how)
    random = torch.Generator().manual_seed(7)
    weights = []
    for x, steps in [(flat(results)[0], ends[-1]), *((x, None) for x in last)]:
        shape = list(x.shape)
        shape[1] = steps or shape[1]
        w = torch.randn(shape, dtype=F64, generator=random)
        weights.append(w if steps is None or len(ends) == 2 else shard_of(w, ends))
    return values(call, given | parts, weights, **how)


def _compare(one: Values, found: Values, ends: list[int], said: str) -> None:
    assert torch.equal(found.results[0], shard_of(one.results[0], ends)), f"output: {said}"
    names = [name for name in one.gradients if name != "wx"]
    sums = summed([*found.last, *(found.gradients[name] for name in names)])
    for x, y in zip(sums, one.last, strict=False):
        assert torch.equal(x, y), f"final state: {said}"
    of_wx = one.gradients["wx"]
    assert torch.equal(found.gradients["wx"], shard_of(of_wx, ends)), f"gradient of wx: {said}"
    # The gradient of a weight is the sum over rows and steps of that of wx, or at most that, times a previous state.
    largest = max(1.0, *(float(x.abs().max()) for x in (*one.results, *one.last)))
    n = of_wx.shape[0] * of_wx.shape[1] * torch.finfo(F64).eps
    bound = 2 * n / (1 - n) * 4 * largest * float(of_wx.abs().sum())
    for name, x in zip(names, sums[len(one.last) :], strict=True):
        y = one.gradients[name]
        if name.startswith("state"):
            assert torch.equal(x, y), f"gradient of {name}: {said}"
        else:
            assert (x - y).abs().max() <= bound, f"gradient of {name}: {said}: {(x - y).abs().max()}"


def newton(name: str) -> float:
    """Return the largest difference of Newton's method on sharded steps from a loop in one process."""
    given = tensors(name, 2)
    rank, size = dist.get_rank(), dist.get_world_size()
    ends = [T * r // size for r in range(size + 1)]
    h, _ = getattr(fastiter.torch, name)(**given, method="sequential")
    local = given | {"wx": shard_of(given["wx"], ends)}
    found, _ = getattr(distributed, name)(**local, method="newton")
    return float((found - h[:, ends[rank] : ends[rank + 1]]).abs().max())


def chunks() -> list[int]:
    """Return the messages of the pipeline with chunks of heads, and with chunks of rows if there are more rows."""
    found = []
    for batch, most in ((1, None), (5, None), (5, 3), (5, 1)):
        given = tensors("lstm", batch)
        with distributed.record_traffic() as sent:
            distributed.lstm(given["wx"], given["r"], given["b"], chunks=most)
        found.append(sent.messages)
    return found


def refused(what: str) -> None:
    """Call with inconsistent arguments of packed sequences."""
    wx, r, steps = torch.randn(2, 3, 4, N, D), torch.randn(4, N, D, D), 3 * dist.get_world_size()
    calls: dict[str, Any] = {
        "type": lambda: distributed.lstm("wx", r, cu_seqlens=[0, steps]),  # type: ignore[arg-type]
        "rows": lambda: distributed.lstm(wx, r, cu_seqlens=[0, steps]),
        "both": lambda: distributed.lstm(wx[:1], r, cu_seqlens=[0, steps], lengths=[2]),
    }
    calls[what]()
