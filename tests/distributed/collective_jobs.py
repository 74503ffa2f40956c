"""Programs of the ranks of a group for the tests of collectives, including faults."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from fastiter._torch.distributed.collectives import Layout, Line, Ranks, record_traffic
from fastiter.torch import distributed


def _factor(rank: int) -> Tensor:
    """Return a matrix of integers; those of different ranks do not commute."""
    return torch.tensor([[1.0, rank + 1], [rank % 3 + 1.0, 2]], dtype=torch.float64)


def prefix(reverse: bool) -> tuple[bool, int, int, int]:
    """Return whether the product of the matrices before this rank is correct; position, rounds and bytes."""
    line = Line(Ranks("f", None), reverse)
    with record_traffic() as sent:
        own = [_factor(dist.get_rank()), torch.tensor([dist.get_rank()])]
        found = line.exclusive_prefix(own, lambda later, earlier: [later[0] @ earlier[0], later[1] + earlier[1]])
    before = [line.rank(p) for p in range(line.position)]
    if found is None:
        return not before, line.position, sent.rounds, sent.bytes
    expected = torch.eye(2, dtype=torch.float64)
    for rank in before:
        expected = _factor(rank) @ expected
    return torch.equal(found[0], expected) and int(found[1]) == sum(before), line.position, sent.rounds, sent.bytes


def neighbours() -> bool:
    """Send tensors of several dtypes and layouts, some of them empty, in one message to the next rank."""
    line = Line(Ranks("f", None), False)
    x = torch.arange(24.0).view(2, 3, 4).transpose(0, 2)
    tensors = [torch.tensor([True, False, True]), x, torch.empty(0, 3), x.to(torch.complex64).conj(), x.bfloat16()]
    wait = None if line.is_last else line.send([y + line.position if y.is_floating_point() else y for y in tensors])
    right = True
    if not line.is_first:
        received = line.expect(tensors)()
        sent = [y + line.position - 1 if y.is_floating_point() else y for y in tensors]
        right = all(torch.equal(y, z) and y.dtype == z.dtype for y, z in zip(received, sent, strict=True))
    if wait is not None:
        wait()
    return right and all(offset % 16 == 0 for offset in Layout.like(tensors).offsets)


def agree(differing: dict[str, str], rank: int, failure: Exception | None) -> Any:
    own = differing if dist.get_rank() == rank else {}
    ranks = Ranks("f", None)
    steps, needs, forget = ranks.agree(
        {"x": "float32", "reverse": "False"} | own,
        7 + ranks.rank,
        ranks.rank == 1,
        failure if ranks.rank == rank else None,
        ranks.rank != 2,
    )
    return steps, needs, forget


def groups() -> list[str]:
    """Return the results for a mesh, a mesh with two axes, a group of some ranks and other objects as groups."""
    found = []
    some = dist.new_group([2, 1])
    meshes = [init_device_mesh("cpu", (3,)), init_device_mesh("cpu", (3, 1)), some, "gloo"]
    for group in meshes:
        try:
            ranks = Ranks("f", group)
            found.append(f"{ranks.rank} of {ranks.size}: {ranks.agree({}, ranks.rank, False, None).steps}")
        except (TypeError, ValueError) as error:
            found.append(f"{error}")
    return found


def without_cpu(names: str) -> None:
    """Call with tensors on the CPU and a group that claims to have these backends."""
    with (
        mock.patch.object(dist, "get_backend_config", return_value=names),
        mock.patch.object(Ranks, "_device", return_value=torch.device("cpu")),
    ):
        distributed.linear_scan(torch.rand(1, 3, 4), torch.rand(1, 3, 4))
