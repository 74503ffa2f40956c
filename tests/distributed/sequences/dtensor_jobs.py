"""Functions on DTensors against the same functions on whole tensors: results, placements and all gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

import fastiter.torch as ft
from tests.distributed.compare import flat

F64 = torch.float64
#: Sizes by the letters of shapes: B rows, T steps, G gates, N heads, H heads of keys, M factors, D, K and V widths
SIZES = {"B": 4, "T": 5, "N": 4, "M": 2, "D": 3, "K": 3, "V": 2, "1": 1, "2": 2, "3": 3, "4": 4}


class Case(NamedTuple):
    """A call: tensors by their axes, and options. ``results`` has the axes of the results in their order."""

    function: Callable[..., Any]
    axes: dict[str, str]
    results: Sequence[str]
    how: Mapping[str, Any] = MappingProxyType({})
    #: Axes of q and k with their own heads
    key: str = "N"


def cases() -> Iterator[Case]:
    for name, gates, parts in (("lstm", "4", 2), ("gru", "3", 1), ("elman", "1", 1), ("slstm", "4", 4)):
        axes = {"wx": f"BT{gates}ND", "r": f"{gates}NDD", "b": f"{gates}ND"}
        axes |= {f"state{k}": "BND" for k in range(parts)}
        results = ["BTND", *["BND"] * parts]
        yield Case(getattr(ft, name), axes, results)
        yield Case(getattr(ft, name), {"wx": axes["wx"], "r": axes["r"]}, results, {"reverse": True})
    lstm = {"wx": "BT4ND", "r": "4NDD"}
    every = ["BTND", "BND", "BND", "BTND", "BTND"]
    yield Case(ft.lstm, lstm, every, {"return_all_states": True, "lengths": [5, 0, 3, 1], "clip_grad": 0.5})
    yield Case(ft.lstm, lstm, ["BTND", "BND", "BND"], {"lengths": "DTensor", "checkpoint": 2, "reset": "DTensor"})
    packed = {"wx": "1T4ND", "r": "4NDD"}
    yield Case(ft.lstm, packed, ["1TND", "3ND", "3ND"], {"cu_seqlens": [0, 2, 2, 5]})
    delta = {"q": "BTNK", "k": "BTNK", "v": "BTNV", "beta": "BTN", "state": "BNKV", "decay": "BTN"}
    yield Case(ft.delta_scan, delta, ["BTNV", "BNKV"])
    factors = {"q": "BTNK", "k": "BTMNK", "v": "BTMNV", "beta": "BTMN"}
    yield Case(ft.delta_scan, factors, ["BTNV", "BNKV"], {"method": "chunk", "chunk": 3, "reverse": True})
    attention = {"q": "BTNK", "k": "BTNK", "v": "BTNV"}
    yield Case(ft.ssm.linear_attention, attention | {"log_decay": "N", "bonus": "NK"}, ["BTNV", "BNKV"])
    for key in "12":
        shared = {"q": f"BT{key}K", "k": f"BT{key}K", "v": "BTNV"}
        more = {"decay": "BTNK", "state": "BNKV"}
        yield Case(ft.ssm.linear_attention, shared | more, ["BTNV", "BNKV"], {"scale": 0.5}, key=key)
        both = {"i": "BTN", "f": "BTN"}
        yield Case(ft.ssm.mlstm, shared | both, ["BTNV", "BNKV", "BNK", "BN"], key=key)
        ssd = {"x": "BTND", "dt": "BTN", "A": "N", "B": f"BT{key}K", "C": f"BT{key}K", "D": "N", "z": "BTND"}
        yield Case(ft.ssm.ssd, ssd | {"dt_bias": "N"}, ["BTND", "BNDK"], {"dt_softplus": True}, key=key)
    states = {"state0": "BNKV", "state1": "BNK", "state2": "BN"}
    yield Case(ft.ssm.mlstm, attention | {"i": "BTN", "f": "BTN"} | states, ["BTNV", "BNKV", "BNK", "BN"])
    low = attention | {"a": "BTNK", "b": "BTNK", "log_decay": "BTN"}
    yield Case(ft.ssm.dplr_delta_rule, low, ["BTNV", "BNKV"])


def _called(case: Case, tensors: dict[str, Tensor], how: dict[str, Any]) -> list[Tensor]:
    """Call with the parts of a state, whose names end with their position, as a tuple."""
    given: dict[str, Any] = {}
    for name, x in tensors.items():
        whole = name.rstrip("0123456789")
        given[whole] = x if whole == name else (*given.get(whole, ()), x)
    return flat(case.function(**given, **how))


def _placement(kind: str, axes: str, key: str) -> Placement:
    """Return the placement of a tensor on one axis of a mesh that shards heads, rows or nothing."""
    letters = {"heads": "N", "rows": "B"}.get(kind, "-")
    at = axes.find(letters)
    if at < 0 and kind == "heads" and key == "2" and axes[2:3] == key and len(axes) == 4:
        at = 2
    return Replicate() if at < 0 else Shard(at)


#: Placements by the kind of each axis of the mesh; "first" shards the heads of only one tensor, which the others must
#: follow, and "partial" adds zeros to the first.
SCHEMES = {1: ["heads", "first", "rows", "replicated", "partial"], 2: ["rows heads", "heads heads", "replicated first"]}


class One(NamedTuple):
    """A case in one process: arguments, results, the weights of a loss and its gradients by name."""

    case: Case
    tensors: dict[str, Tensor]
    how: dict[str, Any]
    integers: dict[str, Tensor]
    results: list[Tensor]
    weights: list[Tensor]
    gradients: dict[str, Tensor]

    @staticmethod
    def of(case: Case) -> One:
        tensors = {name: _random(axes) for name, axes in case.axes.items()}
        how = {name: x for name, x in case.how.items() if x != "DTensor"}
        every = {"lengths": torch.tensor([5, 0, 3, 1]), "reset": torch.rand(4, 5) < 0.3}
        integers = {name: every[name] for name in case.how if name not in how}
        leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
        results = _called(case, leaves, how | integers)
        weights = [torch.randn_like(x) for x in results]
        gradients = torch.autograd.grad(results, list(leaves.values()), weights)
        found = dict(zip(leaves, gradients, strict=True))
        return One(case, tensors, how, integers, [x.detach() for x in results], weights, found)


def compared(shape: tuple[int, ...]) -> tuple[int, float]:
    """Return the number of calls that were compared on a mesh, and the largest difference relative to one process."""
    mesh, worst, count = init_device_mesh("cpu", shape), 0.0, 0
    for case in cases():
        one = One.of(case)
        for scheme in SCHEMES[len(shape)]:
            kinds = scheme.split()
            if "rows" in kinds and "cu_seqlens" in one.how:
                continue  # refused
            if case.key == "2" and (scheme == "heads heads" or shape == (3,)):
                continue  # refused: a boundary between ranks would divide heads that share keys
            worst = max(worst, _compare(one, mesh, kinds))
            count += 1
    return count, worst


def _random(axes: str) -> Tensor:
    x = torch.randn([SIZES[letter] for letter in axes], dtype=F64)
    return x.sigmoid() if axes in ("BTN", "BTNK") else x  # decays, among others, so that no state grows


def _distributed(one: One, mesh: DeviceMesh, kinds: list[str]) -> dict[str, Any]:
    """Return the tensors of a case as leaves."""
    case, leaves = one.case, dict[str, Any]()
    leader = next(name for name, axes in case.axes.items() if "N" in axes)
    for name, axes in case.axes.items():
        of = [("heads" if name == leader else "none") if kind == "first" else kind for kind in kinds]
        placements, x = [_placement(kind, axes, case.key) for kind in of], one.tensors[name]
        if "partial" in kinds and name == next(iter(case.axes)):
            leaf = DTensor.from_local(x if dist.get_rank() == 0 else torch.zeros_like(x), mesh, [Partial()])
        else:
            leaf = distribute_tensor(x, mesh, placements)
        leaves[name] = leaf.requires_grad_()
    return leaves


def _compare(one: One, mesh: DeviceMesh, kinds: list[str]) -> float:
    case, leaves = one.case, _distributed(one, mesh, kinds)
    said = f"{case.function.__name__} {case.axes} {case.how} {kinds}"
    by_row = [Shard(0) if kind == "rows" else Replicate() for kind in kinds]
    integers = {name: distribute_tensor(x, mesh, by_row) for name, x in one.integers.items()}
    found: Any = _called(case, leaves, one.how | integers)
    worst = 0.0
    for x, y, axes in zip(found, one.results, case.results, strict=True):
        placements = [_placement("heads" if kind == "first" else kind, axes, "") for kind in kinds]
        assert isinstance(x, DTensor) and list(x.placements) == placements, f"{said}: {x.placements}"
        assert x.shape == y.shape and x.stride() == y.stride(), f"{said}: {x.shape} {x.stride()}"
        worst = max(worst, _difference(x, y))
    weights = [distribute_tensor(w, mesh, x.placements) for w, x in zip(one.weights, found, strict=True)]
    gradients: Sequence[Any] = torch.autograd.grad(found, list(leaves.values()), weights)
    for (name, leaf), g in zip(leaves.items(), gradients, strict=True):
        expected = [Replicate() if isinstance(p, Partial) else p for p in leaf.placements]
        assert list(g.placements) == expected, f"{said}: gradient of {name} is {g.placements}"
        worst = max(worst, _difference(g, one.gradients[name]))
        assert worst < 1e-12, f"{said}: {name} is off by {worst}"
    return worst


def _difference(x: Any, y: Tensor) -> float:
    whole = x.detach().full_tensor()
    assert whole.shape == y.shape
    return float((whole - y).abs().max() / y.abs().max()) if y.any() else float(whole.any())


def refused() -> dict[str, str]:
    """Return the errors of calls on two ranks, by the kind of mistake."""
    mesh, other = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",)), init_device_mesh("cpu", (1, 2))
    wx, r = torch.randn(2, 5, 4, 6, 3), torch.randn(4, 6, 3, 3)
    heads, weights = distribute_tensor(wx, mesh, [Shard(3)]), distribute_tensor(r, mesh, [Shard(1)])
    rows, replicated = distribute_tensor(wx, mesh, [Shard(0)]), distribute_tensor(wx, mesh, [Replicate()])
    keys = distribute_tensor(torch.randn(2, 5, 3, 4), mesh, [Replicate()])
    q = heads[:, :, 0]
    own = wx[:, :, :, : 4 - 2 * dist.get_rank()]
    uneven = DTensor.from_local(own, mesh, [Shard(3)], shape=wx.shape, stride=wx.stride())
    alone = DeviceMesh("cpu", [0])
    packed = distribute_tensor(wx[:1], mesh, [Shard(0)])
    calls: dict[str, Callable[[], Any]] = {
        "steps": lambda: ft.lstm(distribute_tensor(wx, mesh, [Shard(1)]), weights),
        "units": lambda: ft.lstm(heads, distribute_tensor(r, mesh, [Shard(2)])),
        "rows and heads": lambda: ft.lstm(rows, weights),
        "another mesh": lambda: ft.lstm(heads, distribute_tensor(r, other, [Replicate(), Shard(1)])),
        "a plain tensor": lambda: ft.lstm(heads, r),
        "a plain state": lambda: ft.lstm(heads, weights, None, [torch.zeros(2, 6, 3), torch.zeros(2, 6, 3)]),
        "another shape": lambda: ft.lstm(heads, distribute_tensor(r[:, :5], mesh, [Shard(1)])),
        "out": lambda: ft.lstm(heads, weights, out=torch.empty(2, 5, 6, 3)),
        "shared keys": lambda: ft.ssm.linear_attention(keys, keys, heads[:, :, 0]),
        "other shards": lambda: ft.lstm(uneven, weights),
        "packed rows": lambda: ft.lstm(packed, distribute_tensor(r, mesh, [Replicate()]), cu_seqlens=[0, 5]),
        "lengths": lambda: ft.lstm(replicated, weights, lengths=torch.tensor([5, 2])),
        "wrong lengths": lambda: ft.delta_scan(q, q, q, heads[:, :, 0, :, 0], lengths=[7, 0]),
    }
    if dist.get_rank() == 1:
        calls["a mesh of others"] = lambda: ft.lstm(*(distribute_tensor(x, alone, [Replicate()]) for x in (wx, r)))
    by_rank = heads if dist.get_rank() == 0 else replicated
    calls["other placements on another rank"] = lambda: ft.lstm(by_rank, weights)
    found = {}
    for name, call in calls.items():
        if name.startswith("other placements"):
            dist.set_debug_level(dist.DebugLevel.DETAIL)  # type: ignore[attr-defined]  # as TORCH_DISTRIBUTED_DEBUG=DETAIL does
        try:
            call()
            found[name] = "no error"
        except (TypeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def differentiated_twice() -> float | str:
    """Return the largest relative difference of second derivatives from those of one process, or their error."""
    mesh = init_device_mesh("cpu", (2,))
    wx, r = torch.randn(2, 3, 4, 3, 2, dtype=F64), torch.randn(4, 3, 2, 2, dtype=F64)

    def second(wx: Any, r: Any) -> tuple[Tensor, ...]:
        h, _ = ft.lstm(wx.requires_grad_(), r.requires_grad_())
        first = torch.autograd.grad(h.square().sum(), (wx, r), create_graph=True)
        return torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), (wx, r))

    one = second(wx.clone(), r.clone())
    try:
        every = second(distribute_tensor(wx, mesh, [Shard(3)]), distribute_tensor(r, mesh, [Replicate()]))
    except RuntimeError as error:
        return str(error)
    return max(_difference(x, y) for x, y in zip(every, one, strict=True))
