"""Evaluations of f to the same residual: on no map more than torchdeq or SciPy need."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchdeq")
pytest.importorskip("scipy")

from bench.fixedpoint import cases  # noqa: E402

CASES = [
    cases.Case(kind, dtype, rtol, 8, 256, size)
    for kind in ("contr", "sym")
    for dtype, rtol in (("float32", 1e-5), ("float64", 1e-9))
    for size in (1.0, 0.1)
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}, {case.size}")
def test_no_peer_needs_fewer_evaluations(case: cases.Case) -> None:
    ours = {solver.name: solver.solve() for solver in cases.ours(case)}
    peers = {solver.name.split(",")[0]: solver.solve() for solver in cases.torchdeq(case)}
    for z, _ in ours.values():
        assert case.residual(z) <= 1.05 * case.rtol  # in double; in float32 the sum rounds
    counts = {name: count for name, (_, count) in ours.items()}
    for method in ("picard", "anderson", "broyden"):
        assert counts[method] <= peers[f"torchdeq {method}"][1]
    assert min(counts.values()) <= min(count for z, count in peers.values() if case.residual(z) <= case.rtol)


def test_scipy_needs_more_evaluations_on_a_large_system() -> None:
    case = cases.Large(500)
    for method, name in (("anderson", "anderson"), ("broyden", "broyden1")):
        z, count = case.ours(method)
        peer_z, peer_count = case.scipy(name)
        assert case.residual(z) <= case.rtol * (1 + 1e-6) and count < peer_count
        assert np.allclose(z, peer_z, atol=1e-5)
