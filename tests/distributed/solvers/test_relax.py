"""Matrices with rows divided among one to four ranks."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from fastiter import BackendError
from fastiter.torch.distributed import partition
from tests.distributed.ranks import results
from tests.distributed.solvers import relax_jobs


def test_products_have_the_same_bits_on_any_number_of_ranks() -> None:
    one = results(relax_jobs.products, 1)[0]
    for size in (2, 3, 4):
        found = results(relax_jobs.products, size)
        for at, expected in enumerate(one):
            rows, y = (np.concatenate([rank[at][i] for rank in found]) for i in range(2))
            assert np.array_equal(rows, expected[0]) and np.array_equal(y, expected[1])
            assert all(np.array_equal(rank[at][2], expected[2]) for rank in found)


@pytest.mark.parametrize("size", [1, 3])
def test_rows_of_each_rank(size: int) -> None:
    results(relax_jobs.local_rows, size)


def test_groups() -> None:
    first, second, third = results(relax_jobs.groups, 3)
    assert first == [[0, 1, 2]]
    assert second == [[3, 4, 5], [0, 1, 2, 3, 4]] and third == [[6, 7, 8], [5, 6, 7, 8]]


def test_a_product_sends_the_border_once() -> None:
    """12 lines of 10 points on three ranks: each border has 10 points with two columns on either side."""
    line = 10 * 2 * 8
    assert results(relax_jobs.traffic, 3) == [(1, 1, line), (1, 2, 2 * line), (1, 1, line)]


REFUSED = {
    (
        "dtype",
        0,
    ): "the dtype of A must be the same on every rank, got torch.float64 on rank 0 and torch.float32 on rank 1",
    ("offsets", 0): "offsets must be the same on every rank, got ",
    ("owner", 2): "owner must be the same on every rank, got ",
    ("both", 0): "owner must be None if offsets are given, got both",
    ("no owner", 0): "A must have 8 columns, as many as all ranks have rows, got 9",
    ("rows", 0): "rank 2 refused its arguments: RowMatrix: A must have the 3 rows of the rank's parts, got 2 on rank 2",
    ("kind", 1): "the kind of ownership must be the same on every rank, got offsets on rank 0 and neither",
    ("nan", 0): "rank 1 refused its arguments: RowMatrix: A must be finite, got a value in row 0 that is not",
    ("diagonal", 0): "rank 1 refused its arguments: RowMatrix: A must have no zero on the diagonal, got 0 in row 4",
    ("complex", 2): "A must have dtype torch.float32 or torch.float64, got torch.complex128",
    ("global", 1): "A must be the same on every rank, got ",
    ("twice", 0): "A must have each entry once, got two in column 0 of a row",
    ("parts", 0): "parts must be None if no owner is given, got int 3",
    (
        "x",
        0,
    ): "rank 2 refused its arguments: RowMatrix.__matmul__: x must have shape (3,) or (3, k) to go with A, got (4,)",
    ("group", 1): "group must be a ProcessGroup, a DeviceMesh or None, got str",
}


def test_refused_matrices() -> None:
    found = results(relax_jobs.refused, 3)
    for (case, rank), message in REFUSED.items():
        error = found[rank][case]
        assert error.partition(": ")[2].startswith(message), error


def test_partition_of_consecutive_rows() -> None:
    eye = relax_jobs.tensor_of(relax_jobs.general(7, 0))
    assert partition(eye, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert partition(eye, 9).tolist() == list(range(7))
    for parts, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match=r"^partition: parts must be "):
            partition(eye, parts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^partition: method must be "):
        partition(eye, 2, method="other")  # type: ignore[arg-type]


def test_partition_by_metis_gets_the_graph_without_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    A = np.array([[2.0, 0, 1], [0, 3, 0], [0, 4, 5]])
    entries = torch.from_numpy(A).to_sparse()
    got: dict[str, list[int]] = {}

    def part_graph(parts: int, xadj: list[int], adjncy: list[int]) -> tuple[int, list[int]]:
        got.update(xadj=xadj, adjncy=adjncy)
        return 1, [1, 0, parts - 1]

    stub = ModuleType("pymetis")
    stub.part_graph = part_graph  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pymetis", stub)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(name=name))
    assert partition(entries, 2, method="pymetis").tolist() == [1, 0, 1]
    assert got == {"xadj": [0, 1, 2, 4], "adjncy": [2, 2, 0, 1]}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"^partition: method 'pymetis' needs the package pymetis, which is not "):
        partition(entries, 2, method="pymetis")
