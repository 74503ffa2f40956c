"""Linear systems: functions, prepared solvers, tuners."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

from fastiter import Progress, relax

Array = npt.NDArray[Any]


def arrays() -> None:
    """Solve a Poisson equation in several ways."""
    A = 2 * np.eye(20) - np.eye(20, k=1) - np.eye(20, k=-1)
    b = np.ones(20)
    found = relax.sor(A, b, omega=1.7)
    assert_type(found, relax.LinearSolution[Array])
    assert_type(found.value, Array)
    assert_type(found.method, str)
    assert_type(found.omega, float | None)

    def watch(progress: Progress) -> bool:
        return progress.steps > 3

    for solve in (relax.jacobi, relax.gauss_seidel, relax.chebyshev, relax.flexible_cg, relax.kaczmarz):
        assert_type(solve(A, b, callback=watch).value, Array)
    solver = relax.Relaxation(A, "ssor", omega=1.5)
    assert_type(solver.solve(b, rtol=1e-3).value, Array)
    assert_type(solver.residual(b, b), Array)
    assert_type(solver.omega, float)
    poisson = relax.Stencil((8, 8), np.array([4.0, -1, -1, -1, -1]))
    assert_type(relax.ssor_cg(poisson, np.ones((8, 8))).value, Array)

    sequence = relax.solve_sequence([(A, b)] * 2, relax.TsallisINF([1.5, 1.8], rng=0))
    assert_type(sequence.value, tuple[Array, ...])
    assert_type(sequence.omegas, Array)
    assert_type(sequence.solutions[0].value, Array)
    assert_type(sequence.converged, Array)


def tensors() -> None:
    """Solve a system whose entries have gradients."""
    import torch
    from torch import Tensor

    from fastiter.torch import relax as tensors_relax

    A = torch.tensor([[4.0, -1.0], [-2.0, 8.0]], dtype=torch.float64).to_sparse_coo()
    b = torch.ones(2, dtype=torch.float64)
    found = tensors_relax.sor(A, b)
    assert_type(found, relax.LinearSolution[Tensor])
    assert_type(found.value, Tensor)
    assert_type(tensors_relax.flexible_cg(A, b).value, Tensor)
    assert_type(tensors_relax.chebyshev(A, b, bounds=(3, 9)).value, Tensor)
    assert_type(tensors_relax.Relaxation(A, "gauss_seidel").solve(b).value, Tensor)
