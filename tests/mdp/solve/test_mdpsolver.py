"""The correspondences of docs/coming_from/decision_processes.md with mdpsolver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from fastiter.mdp import MDP
from tests.mdp.cases import random_process


def test_a_model_of_mdpsolver_keeps_its_values() -> None:
    """A loose tolerance after a tight one gives the accurate values; an MDP starts from its argument."""
    mdpsolver = pytest.importorskip("mdpsolver")
    P, R = random_process(20, 3, 0, unequal=False)
    columns = [[np.flatnonzero(row).tolist() for row in rows] for rows in P]
    probs = [[row[row > 0].tolist() for row in rows] for rows in P]

    def model() -> Any:
        made = mdpsolver.model()
        made.mdp(discount=0.9, rewards=R.tolist(), tranMatProbs=probs, tranMatColumns=columns)
        return made

    problem = MDP([list(map(tuple, zip(*pair, strict=True))) for pair in zip(columns, probs, strict=True)], R, 0.9)
    exact = problem.solve("pi").value

    def off(made: Any, tol: float, **how: Any) -> float:
        made.solve(tolerance=tol, parallel=False, **how)
        return float(np.abs(np.array(made.getValueVector()) - exact).max())

    used = model()
    assert off(used, 1e-8, algorithm="vi", update="sor", SORrelaxation=1.1) < 1e-7
    assert off(used, 1.0, algorithm="vi") < 1e-7 < off(model(), 1.0, algorithm="vi")
    assert off(model(), 1.0, algorithm="vi", initValueVector=exact.tolist()) < 1e-9
    values = []
    for update in ("gs", "sor"):
        for factor in (1.0, 1.2):
            made = model()
            made.solve(algorithm="vi", update=update, SORrelaxation=factor, tolerance=1e-2, parallel=False)
            values.append(made.getValueVector())
    assert values[0] == values[1] and values[2] != values[3]  # only "sor" has a factor
    loose = problem.solve("vi", atol=1.0)
    problem.solve("vi", atol=1e-8)
    assert np.array_equal(problem.solve("vi", atol=1.0).value, loose.value)
