"""Calls of the recurrences with a state of matrices on the ranks of a group: the delta rule and state-space models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

import fastiter.torch
from fastiter.torch import distributed
from tests.distributed.compare import Case, Expected, summed

T, N, K, V = 23, 3, 4, 5
F64 = torch.float64


def delta(batch: int, rows: int, factors: bool = False, decay: bool = True) -> Case:
    """With negative beta and v, all monomials of the matrices I - beta k k^T are positive."""
    step = (batch, T, 2, N) if factors else (batch, T, N)
    k = normalize(torch.randn(*step, K, dtype=F64), dim=-1)
    tensors = {
        "q": torch.randn(batch, T, N, K, dtype=F64),
        "k": k,
        "v": torch.randn(*step, V, dtype=F64),
        "beta": torch.rand(*step, dtype=F64),
        "state": torch.randn(rows, N, K, V, dtype=F64),
    }
    tensors |= {"decay": torch.rand(batch, T, N, dtype=F64)} if decay else {}

    def sequential(*args: Any, **how: Any) -> Any:
        return fastiter.torch.delta_scan(*args, method="sequential", **how)

    def sharded(*args: Any, **how: Any) -> Any:
        return distributed.delta_scan(*args, method="sequential", **how)

    timed = frozenset(tensors) - {"state"}
    return Case(sharded, sequential, tensors, timed, 8 * K, frozenset({"beta", "v"}), bits="results")


def attention(batch: int, rows: int, decay: str = "log_decay", shape: tuple[int, ...] = (N, K), keys: int = N) -> Case:
    given = torch.rand(*((batch, T) if len(shape) > 1 or shape == (N, 0) else ()), *shape, dtype=F64)
    tensors = {
        "q": torch.randn(batch, T, keys, K, dtype=F64),
        "k": torch.randn(batch, T, keys, K, dtype=F64),
        "v": torch.randn(batch, T, N, V, dtype=F64),
        decay: -given / 4 if decay == "log_decay" else given,
        "state": torch.randn(rows, N, K, V, dtype=F64),
    }
    timed = frozenset({"q", "k", "v"}) | ({decay} if len(shape) > 1 else set())
    both = distributed.linear_attention, fastiter.torch.ssm.linear_attention
    return Case(*both, tensors, timed, 8 * K, states="state")


def rwkv6(batch: int, rows: int) -> Case:
    case = attention(batch, rows, "decay")
    return case._replace(tensors=case.tensors | {"bonus": torch.randn(N, K, dtype=F64)})


def low_rank(batch: int, rows: int) -> Case:
    tensors = {name: torch.randn(batch, T, N, K, dtype=F64) for name in ("q", "k")}
    tensors["v"] = torch.randn(batch, T, N, V, dtype=F64)
    tensors |= {name: torch.randn(batch, T, N, K, dtype=F64) / 3 for name in ("a", "b")}
    tensors["decay"] = torch.rand(batch, T, N, K, dtype=F64)
    tensors["state"] = torch.randn(rows, N, K, V, dtype=F64)
    timed = frozenset(tensors) - {"state"}
    both = distributed.dplr_delta_rule, fastiter.torch.ssm.dplr_delta_rule
    return Case(*both, tensors, timed, 8 * K, states="state")


def mamba2(batch: int, rows: int, groups: int = 1) -> Case:
    tensors = {
        "x": torch.randn(batch, T, N, V, dtype=F64),
        "dt": torch.rand(batch, T, N, dtype=F64) / 4,
        "A": -torch.rand(N, dtype=F64),
        "B": torch.randn(batch, T, groups, K, dtype=F64),
        "C": torch.randn(batch, T, groups, K, dtype=F64),
        "D": torch.randn(N, dtype=F64),
        "z": torch.randn(batch, T, N, V, dtype=F64),
        "dt_bias": torch.rand(N, dtype=F64) / 4,
        "state": torch.randn(rows, N, V, K, dtype=F64),
    }
    timed = frozenset({"x", "dt", "B", "C", "z"})
    both = distributed.ssd, fastiter.torch.ssm.ssd  # the bits of torch's silu differ at the ends of its vectors
    return Case(*both, tensors, timed, 8 * K, states="state", bits="none")


def _time_last(function: Callable[..., Any], more: dict[str, Any]) -> Callable[..., Any]:
    """Return selective_scan with time as the second axis."""

    def call(**given: Any) -> Any:
        turned = {n: x.movedim(1, -1) if n in ("u", "delta", "z", "B", "C") else x for n, x in given.items()}
        out, last = function(**turned, **more)
        return out.movedim(-1, 1), last

    return call


def mamba(batch: int, rows: int, width: int = 40) -> Case:
    tensors = {
        "u": torch.randn(batch, T, width, dtype=F64),
        "delta": torch.rand(batch, T, width, dtype=F64) / 4,
        "A": -torch.rand(width, K, dtype=F64),
        "B": torch.randn(batch, T, K, dtype=F64),
        "C": torch.randn(batch, T, 1, K, dtype=F64),
        "D": torch.randn(width, dtype=F64),
        "z": torch.randn(batch, T, width, dtype=F64),
        "delta_bias": torch.rand(width, dtype=F64) / 4,
        "state": torch.randn(rows, width, K, dtype=F64),
    }
    timed = frozenset({"u", "delta", "B", "C", "z"})
    both = distributed.selective_scan, fastiter.torch.ssm.selective_scan
    functions = _time_last(both[0], {}), _time_last(both[1], {"return_last_state": True})
    return Case(*functions, tensors, timed, 8 * K, states="state", bits="none")


MAKERS: dict[str, list[Callable[[int, int], Case]]] = {
    "delta_scan": [
        delta,
        lambda batch, rows: delta(batch, rows, factors=True),
        lambda batch, rows: delta(batch, rows, decay=False),
    ],
    "linear_attention": [
        attention,
        lambda batch, rows: attention(batch, rows, "decay", (N,)),
        lambda batch, rows: attention(batch, rows, "log_decay", (N,)),
        lambda batch, rows: attention(batch, rows, keys=1),
        rwkv6,
    ],
    "dplr_delta_rule": [low_rank],
    "ssd": [mamba2, lambda batch, rows: mamba2(batch, rows, N)],
    "selective_scan": [mamba],
}


def shards(size: int) -> Iterator[list[int]]:
    yield [T * r // size for r in range(size + 1)]
    yield [0, *[11] * (size - 1), T]


def equal_one_process(name: str) -> int:
    """Run both exchanges, for rows with lengths and resets, and for packed sequences."""
    size, done = dist.get_world_size(), 0
    for maker in MAKERS[name]:
        for at, how in enumerate(
            [
                {"reset": torch.rand(2, T) < 0.05},
                {"lengths": torch.tensor([T, 9])},
                {"cu_seqlens": torch.tensor([0, 0, 3, 11, 11, 20, T])},
                {},
            ]
        ):
            batch, rows = (1, 6) if "cu_seqlens" in how else (2, 2)
            options: dict[str, Any] = how | ({"reverse": bool(at % 2)} if name == "delta_scan" else {})
            expected = Expected(maker(batch, rows), options)
            for ends in shards(size):
                expected.compare(ends, {"exchange": "pipeline"}, exact=True)
                expected.compare(ends, {"exchange": "scan"})
                done += 2
    return done


def mlstm() -> None:
    def case(batch: int, rows: int) -> Case:
        tensors: dict[str, Tensor] = {n: torch.randn(batch, T, N, K, dtype=F64) for n in ("q", "k")}
        tensors["v"] = torch.randn(batch, T, N, V, dtype=F64)
        tensors |= {n: torch.randn(batch, T, N, dtype=F64) for n in ("i", "f")}
        timed = frozenset(tensors)
        tensors |= {
            "C": torch.randn(rows, N, K, V, dtype=F64),
            "n": torch.randn(rows, N, K, dtype=F64),
            "m": torch.randn(rows, N, dtype=F64),
        }

        def of(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(C: Tensor, n: Tensor, m: Tensor, **given: Any) -> Any:
                return function(**given, state=(C, n, m))

            return call

        return Case(of(distributed.mlstm), of(fastiter.torch.ssm.mlstm), tensors, timed, 64 * K, bits="results")

    for how in ({}, {"lengths": torch.tensor([T, 9])}, {"cu_seqlens": [0, 3, 3, 20, T]}):
        batch, rows = (1, 4) if "cu_seqlens" in how else (2, 2)
        expected = Expected(case(batch, rows), how)
        for ends in shards(dist.get_world_size()):
            expected.compare(ends, {}, exact=True)


def traffic(steps: int, exchange: Any) -> list[int]:
    """Return the bytes that this rank sends in both passes of each family."""
    found = []
    q, k = torch.randn(2, 2, steps, N, K)
    v, beta, gates = torch.randn(2, steps, N, V), torch.rand(2, steps, N), torch.rand(2, steps, N, K)
    calls: list[Callable[..., Any]] = [
        lambda v: distributed.delta_scan(q, k, v, beta, exchange=exchange),
        lambda v: distributed.linear_attention(q, k, v, -gates, exchange=exchange),
        lambda v: distributed.dplr_delta_rule(q, k, v, k, -k, -gates, exchange=exchange),
        lambda v: distributed.ssd(v, beta, -torch.ones(N), q, k, exchange=exchange),
    ]
    for call in calls:
        with distributed.record_traffic() as sent:
            o, last = call(v.clone().requires_grad_())
            (o.sum() + last.sum()).backward()
        found.append(sent.bytes)
    return found


def sixteen_bits_and_chunks() -> None:
    """Run bfloat16 inputs with a float32 state, and the delta rule in chunks that end at the borders of shards."""
    rank, size = dist.get_rank(), dist.get_world_size()
    q, k, v = torch.randn(3, 1, 4 * size, N, K).bfloat16()
    mine = slice(4 * rank, 4 * rank + 4)
    o, last = fastiter.torch.ssm.linear_attention(q, k, v)
    found, state = distributed.linear_attention(q[:, mine], k[:, mine], v[:, mine])
    assert found.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert torch.equal(found, o[:, mine]) and (rank < size - 1 or torch.equal(state, last))
    steps = 32
    q, k, v = torch.randn(3, 1, steps * size, N, K, dtype=F64)
    k, beta = normalize(k, dim=-1), torch.rand(1, steps * size, N, dtype=F64)
    mine = slice(steps * rank, steps * (rank + 1))
    how: dict[str, Any] = {"method": "chunk", "chunk": 16}
    o, last = fastiter.torch.delta_scan(q, k, v, beta, **how)
    found, state = distributed.delta_scan(q[:, mine], k[:, mine], v[:, mine], beta[:, mine], **how)
    assert torch.equal(found, o[:, mine]) and (rank < size - 1 or torch.equal(state, last))


def packed_states_of_sixteen_bits(exchange: Any) -> None:
    """Compare initial states in bfloat16 and float32: border states and their gradients have the bits of float32."""
    size = dist.get_world_size()
    rank, steps = dist.get_rank(), 4 * size
    mine = slice(4 * rank, 4 * rank + 4)
    state = torch.randn(3, N, K, V).bfloat16()
    how: dict[str, Any] = {"cu_seqlens": [0, 1, steps - 1, steps]}
    tensors = [torch.randn(1, steps, N, K) for _ in range(2)] + [torch.randn(1, steps, N, V)]

    def run(function: Callable[..., Any], shard: slice, start: Tensor, **more: Any) -> list[Tensor]:
        leaves = [x[:, shard].clone().requires_grad_() for x in tensors]
        initial = start.clone().requires_grad_()
        o, last = function(*leaves, state=initial, **how, **more)
        gradients = torch.autograd.grad(o.square().sum() + last.sum(), [*leaves, initial])
        return [o.detach(), last.detach(), *gradients]

    found = run(distributed.linear_attention, mine, state, exchange=exchange)
    same = run(distributed.linear_attention, mine, state.float(), exchange=exchange)
    assert found[-1].dtype == torch.bfloat16 and torch.equal(found[-1], same[-1].bfloat16())
    assert all(torch.equal(x, y) for x, y in zip(found[:-1], same[:-1], strict=True))
    one = run(fastiter.torch.ssm.linear_attention, slice(None), state)
    torch.testing.assert_close(found[0], one[0][:, mine])
    torch.testing.assert_close(summed([found[1]])[0], one[1])
    for x, y in zip(found[2:-1], one[2:-1], strict=True):
        torch.testing.assert_close(x, y[:, mine])


def autocast() -> None:
    """Autocast, which computes matrix products in 16 bits, changes neither the messages of ranks nor gradients."""
    found = []
    q, v = torch.randn(2, 5, N, K), torch.randn(2, 5, N, V)
    k, beta = normalize(torch.randn(2, 5, N, K), dim=-1), torch.rand(2, 5, N)
    for enabled in (False, True):
        values = v.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            o, last = distributed.delta_scan(q, k, values, beta, exchange="scan")
            (o.sum() + last.sum()).backward()
        assert values.grad is not None
        found.append([o.detach(), last.detach(), values.grad])
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def refused(what: str) -> None:
    """Call with inconsistent shapes; messages quote the given ones."""
    q, v = torch.randn(1, 5, N, K), torch.randn(1, 5, N, V)
    steps = 5 * dist.get_world_size()
    calls: dict[str, Callable[[], Any]] = {
        "k": lambda: distributed.linear_attention(q, q[..., 1:], v),
        "packed k": lambda: distributed.linear_attention(q, q[..., 1:], v, cu_seqlens=[0, 3, steps]),
        "beta": lambda: distributed.delta_scan(q, q, v, v, lengths=[4]),
    }
    calls[what]()


def infinite_rates() -> None:
    """A rate of -inf forgets at each step; in a row without steps, the incoming state still passes through."""
    first = dist.get_rank() == 0
    for steps, lengths in ((0, None), (2, [2, 0])):
        u = torch.ones(2, 3, 2 if first else steps)
        A, B, state = torch.full((3, 1), -torch.inf), torch.ones(2, 1, u.shape[2]), torch.ones(2, 3, 1)
        state[1] = 2.0
        _, last = distributed.selective_scan(u, u, A, B, B, state=state, exchange="scan", lengths=lengths)
        expected = torch.ones(2, 3, 1)  # the input of the last step, if any
        expected[1] = 1.0 if lengths is None else 2.0
        assert torch.equal(summed([last])[0], expected)
