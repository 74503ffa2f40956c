"""Decision processes: discounted, average, finite, robust, several at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

from fastiter import experimental, mdp

Array = npt.NDArray[Any]


def arrays() -> None:
    """Solve a process, and evaluate the policy that is found."""
    forest = mdp.examples.forest(3, 0.9)
    assert_type(forest, mdp.MDP)
    found = forest.solve()
    assert_type(found, mdp.MDPSolution[Array])
    assert_type(found.value, Array)
    assert_type(found.policy, Array)
    assert_type(found.upper - found.lower, Array)
    assert_type(found.history, Array)
    assert_type(found.tolerance, float)
    assert_type(forest.evaluate(found.policy), Array)
    assert_type(mdp.robust(forest, "l1", 0.1).policy, Array)
    assert_type(mdp.finite_horizon(forest, 4).value, Array)
    assert_type(mdp.MDPBatch(forest, R=np.stack([forest.rewards, 2 * forest.rewards])).solve().value, Array)
    average = mdp.average(mdp.examples.riverswim(6))
    assert_type(average.gain, float)
    assert_type(average.gain_bounds, tuple[float, float])
    assert_type(average.policy, Array)
    assert_type(average.converged, bool)
    tail = mdp.distributional.best_tail([[[(1.0, 1.0, 0)]]], 0, 2, 1.0, np.arange(-12.0, 13))
    assert_type(tail.value, float)
    policy = experimental.iwocs([mdp.examples.windy_walk(alpha) for alpha in (0.1, 0.4)], start=0)
    assert_type(policy.value, Array)
    assert_type(policy.worst, Array)


def tensors() -> None:
    """Solve a process of tensors, and differentiate its values."""
    import torch
    from torch import Tensor

    from fastiter.torch import mdp as tensors_mdp

    P, R = torch.full((2, 2, 2), 0.5, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    found = tensors_mdp.solve(P, R, 0.5)
    assert_type(found, mdp.MDPSolution[Tensor])
    assert_type(found.policy, Tensor)
    values = tensors_mdp.values(P, R, 0.5)
    assert_type(values.value, Tensor)
    assert_type(values.policy, Tensor)
