"""Recurrent modules whose heads are divided over ranks: models in two dimensions, loading, states and errors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

import fastiter.torch as ft
from fastiter.torch.distributed import HeadParallel

F64 = torch.float64
KINDS = ("LSTM", "GRU", "RNN", "sLSTM")


class Model(nn.Module):
    """A recurrence and a linear layer; batches are (B, T, I)."""

    def __init__(self, kind: str, **how: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        directions = 2 if how.get("bidirectional") else 1
        self.rnn = getattr(ft.nn, kind)(6, 8, num_heads=4, batch_first=True, dtype=F64, **how)
        self.out = nn.Linear(8 * directions, 3, dtype=F64)

    def forward(self, x: Tensor, **cut: Any) -> Tensor:
        y: Tensor = self.out(self.rnn(x, **cut)[0])
        return y


def models() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in KINDS:
        yield kind, {}
        yield kind, {"bidirectional": True, "num_layers": 2}
        yield kind, {"num_layers": 2, "bias": False, "clip_grad": 0.1}


def trained() -> float:
    """Train with heads over one axis of a mesh and rows over the other; return the largest relative difference."""
    # The linear layer's local output is a view, about which FSDP2 warns.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "heads"))
    worst = 0.0
    for kind, how in models():
        one = Model(kind, **how)
        two: Any = copy.deepcopy(one)
        parallelize_module(two, mesh["heads"], {"rnn": HeadParallel(), "out": RowwiseParallel()})
        units = _units if kind == "RNN" else None  # its single gate is not an axis that can be sharded
        fully_shard(two, mesh=mesh["rows"], shard_placement_fn=units)
        x, lengths = torch.randn(4, 5, 6, dtype=F64), torch.tensor([5, 3, 4, 1])
        mine = slice(2 * mesh["rows"].get_local_rank(), 2 * mesh["rows"].get_local_rank() + 2)
        steps = [torch.optim.SGD(model.parameters(), 0.1) for model in (one, two)]
        for _ in range(2):
            y, z = one(x, lengths=lengths), two(x[mine], lengths=lengths[mine])
            worst = max(worst, _difference(z, y[mine]))
            for loss in (y.square().mean(), z.square().mean()):
                loss.backward()
            for p, q in zip(one.parameters(), two.parameters(), strict=True):
                worst = max(worst, _difference(q.grad.full_tensor().view(p.shape), p.grad))
            for step in steps:
                step.step()
                step.zero_grad()
    return worst


def _units(p: nn.Parameter) -> Shard | None:
    return Shard(2) if p.dim() > 2 else None


def _difference(x: Tensor, y: Tensor | None) -> float:
    assert y is not None and x.shape == y.shape
    return float((x.detach() - y.detach()).abs().max() / y.detach().abs().max())


def loaded() -> float:
    """Load the weights of an undivided module, and pass states in and out; return the largest relative difference."""
    mesh, worst = init_device_mesh("cpu", (2,)), 0.0
    for kind in KINDS:
        one = Model(kind, num_layers=2).rnn
        two = parallelize_module(copy.deepcopy(one), mesh, HeadParallel())
        every = copy.deepcopy(one)
        parallelize_module(every, mesh, HeadParallel(output_layouts=Replicate(), use_local_output=False))
        with torch.no_grad():
            for p in one.parameters():
                p.normal_()  # the same on both ranks
        for module in (two, every):
            module.load_state_dict(one.state_dict())
            assert all(isinstance(p, DTensor) and p.placements == (Shard(1),) for p in module.parameters())
        x = torch.randn(3, 5, 6, dtype=F64)
        y, state = one(x)
        again = one(x, state)[0]
        local, own = two(x[:, :5])
        z, whole = every(x)
        heads = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
        pairs = [(local, y[..., heads]), (two(x, own)[0], again[..., heads]), (z.full_tensor(), y)]
        pairs += [(every(x, whole)[0].full_tensor(), again), (two(x, whole)[0], again[..., heads])]
        assert z.placements == (Replicate(),)
        for s, t in zip(_parts(state), _parts(whole), strict=True):
            assert t.placements == (Shard(2),)
            pairs.append((t.full_tensor(), s))
        worst = max(worst, *(_difference(a, b) for a, b in pairs))
        entire = DTensor.from_local(x, mesh, [Replicate()])
        worst = max(worst, _difference(two(entire)[0], y[..., heads]))
        worst = max(worst, _difference(two.state_dict()["weight_ih_l1"].full_tensor().flatten(0, 2), one.weight_ih_l1))
    return worst


def _parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def errors() -> dict[str, str]:
    """Return the errors of wrong modules and arguments, by the kind of mistake."""
    mesh, two = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2))
    rank, lstm = dist.get_rank(), ft.nn.LSTM
    divided: Any = parallelize_module(lstm(3, 4, num_heads=2), mesh, HeadParallel())
    x = torch.randn(5, 2, 3)
    packed = nn.utils.rnn.pack_sequence([x[:, 0]])

    class Own(ft.nn.LSTM):
        def forward(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    modules: dict[str, nn.Module] = {
        "torch's module": nn.LSTM(3, 4),
        "one head": lstm(3, 4),
        "three heads": lstm(3, 6, num_heads=3),
        "dropout": lstm(3, 4, 2, num_heads=2, dropout=0.5),
        "own forward": Own(3, 4, num_heads=2),
        "twice": divided,
        "other sizes": lstm(3, 4 + 4 * rank, num_heads=2),
        "one rank's module": lstm(3, 4, num_heads=2) if rank == 0 else nn.Linear(3, 4),
    }
    calls: dict[str, Callable[[], Any]] = {
        name: lambda module=module: parallelize_module(module, mesh, HeadParallel())  # type: ignore[misc]
        for name, module in modules.items()
    }
    calls["two axes"] = lambda: parallelize_module(lstm(3, 4, num_heads=2), two, HeadParallel())
    calls["a layout"] = lambda: HeadParallel(input_layouts="replicate")
    calls["a flag"] = lambda: HeadParallel(use_local_output=1)  # type: ignore[arg-type]
    calls["packed"] = lambda: divided(packed)
    calls["step"] = lambda: divided.step(x[0])
    calls["stream"] = lambda: ft.nn.StreamingRNN(divided)
    calls["whole state"] = lambda: divided(x, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))
    calls["features"] = lambda: divided(x[..., :2])
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "no error"
        except (TypeError, ValueError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found
