"""Functions on DTensors sharded by heads or rows, with uneven and empty shards: results and gradients."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from tests.distributed.ranks import results
from tests.distributed.sequences import dtensor_jobs


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_shards_equal_one_process(shape: tuple[int, ...]) -> None:
    """Sums of fewer than 100 products of numbers of order one, in float64. With 4 heads, one of 3 ranks has none."""
    size = shape[0] * (shape[1] if len(shape) > 1 else 1)
    for count, worst in results(dtensor_jobs.compared, size, shape):
        assert count > 40 and worst < 1e-12


#: The first words of the errors of both ranks
ERRORS = {
    "steps": "ValueError: lstm: wx must be sharded by heads (Shard(3)), sharded by rows (Shard(0)), replicated or "
    "partial on axis 'tp' of the mesh, got Shard(dim=1)",
    "units": "ValueError: lstm: r must be sharded by heads (Shard(1)), replicated or partial on axis 'tp'",
    "rows and heads": "ValueError: lstm: r must be sharded by rows or replicated on axis 'tp' of the mesh like wx, ",
    "another mesh": "ValueError: lstm: r must be on the mesh of wx, DeviceMesh(",
    "a plain tensor": "TypeError: lstm: r must be a DTensor like wx, got a Tensor",
    "a plain state": "TypeError: lstm: state must be a DTensor like wx, got a Tensor",
    "another shape": "ValueError: lstm: r must have shape (G, N, D, D) = (4, 6, 3, 3) to go with wx, got (4, 5, 3, 3)",
    "out": "ValueError: lstm: out must be None if arguments are DTensors, got one",
    "shared keys": "ValueError: linear_attention: q must have 1 head, 6, or a number that 2 ranks divide together "
    "with 6, got 3",
    "other shards": "ValueError: lstm: wx must have 3 of its 6 heads on this rank, got ",
    "packed rows": "ValueError: lstm: wx must be sharded by heads (Shard(3)), replicated or partial on axis 'tp'",
    "lengths": "TypeError: lstm: lengths must be a DTensor like wx, got a Tensor",
    "wrong lengths": "ValueError: delta_scan: lengths must be from 0 to T = 5, got 7",
    "other placements on another rank": "ValueError: lstm: wx must be the same on every rank, got (2, 5, 4, 6, 3) "
    "torch.float32 (Shard(dim=3),) on rank 0 and ",
}


def test_errors_are_raised_before_any_work() -> None:
    others = {"a mesh of others": "ValueError: lstm: wx must be on a mesh with this rank, got DeviceMesh("}
    for rank, found in enumerate(results(dtensor_jobs.refused, 2)):
        expected = ERRORS | (others if rank == 1 else {})
        assert found.keys() == expected.keys()
        for name, start in expected.items():
            assert found[name].startswith(start) and "\n" not in found[name], f"{name}: {found[name]}"


def test_second_derivatives() -> None:
    """Sums of fewer than 100 products of numbers of order one, in float64; DTensor has none before torch 2.13."""
    for found in results(dtensor_jobs.differentiated_twice, 2):
        if torch.__version__ >= (2, 13):  # type: ignore[operator]
            assert not isinstance(found, str) and found < 1e-12, found
        else:
            expected = "lstm: second derivatives on DTensors need torch 2.13 or later, got "
            assert isinstance(found, str) and found.startswith(expected), found
