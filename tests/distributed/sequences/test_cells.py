"""Recurrent cells on sharded steps: the results and gradients of one process."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.distributed.ranks import refusals, results
from tests.distributed.sequences import cell_jobs


@pytest.mark.parametrize(("size", "name"), [(2 + at % 3, name) for at, name in enumerate(cell_jobs.GATES)])
def test_equal_one_process(size: int, name: str) -> None:
    assert results(cell_jobs.equal_one_process, size, name) == [4 * 2 * 2] * size


@pytest.mark.parametrize("name", ["paragru", "paralstm"])
def test_newton_converges_to_the_loop(name: str) -> None:
    """By default a state of size s may be off by 64 eps (1 + s) at each of the T steps; here s is at most 1."""
    assert max(results(cell_jobs.newton, 3, name)) < cell_jobs.T * 2 * 64 * 2.0**-52


def test_chunks_of_rows_and_heads() -> None:
    assert results(cell_jobs.chunks, 2) == [[2, 5, 3, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("type", TypeError, "wx must be a torch.Tensor, got str"),
        ("rows", ValueError, "wx must have B = 1 if cu_seqlens is given, got B = 2"),
        ("both", ValueError, "lengths must be None if cu_seqlens is given, got both"),
    ],
)
def test_packed_arguments_that_are_wrong_are_named(what: str, error: type[Exception], message: str) -> None:
    for one in refusals(cell_jobs.refused, 2, what):
        with pytest.raises(error, match=f"^lstm: {message}$"):
            raise one
