"""Fixed points, transport, refinement, monotone inclusions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

from fastiter import fixedpoint
from fastiter.fixedpoint import monotone, prox

Array = npt.NDArray[Any]


def arrays() -> None:
    """The value has the type of the initial one."""
    x0: Array = np.ones((2, 3))
    found = fixedpoint.fixed_point(np.cos, x0)
    assert_type(found, fixedpoint.FixedPointSolution[Array])
    assert_type(found.value, Array)
    assert_type(fixedpoint.fixed_point(np.cos, found).value, Array)

    def rotated(z: dict[str, Array]) -> dict[str, Array]:
        return {"x": 0.5 * z["y"], "y": 1 - 0.5 * z["x"]}

    both = fixedpoint.fixed_point(rotated, {"x": x0, "y": x0})
    assert_type(both.value, dict[str, Array])
    plan = fixedpoint.sinkhorn(np.eye(3), epsilon=0.5)
    assert_type(plan.value, tuple[Array, Array])
    assert_type(plan.plan, Array)
    assert_type(plan.epsilon, float)
    A = np.array([[2.0, 0.0], [0.0, 3.0]])
    assert_type(fixedpoint.refine(A, A / 6, np.ones(2)).method, str)
    assert_type(fixedpoint.hopfield_update(np.ones((1, 2)), np.eye(2), beta=4.0).value, Array)

    y0: Array = np.zeros(2)
    shrunk = monotone.forward_backward(prox.prox_l1, lambda x: x - 2, y0, step=0.5)
    assert_type(shrunk, monotone.InclusionSolution[Array])
    assert_type(shrunk.value, Array)
    assert_type(shrunk.converged, bool)
    assert_type(shrunk.history, Array)
    half: Array = np.full(2, 0.5)
    game = monotone.mirror_prox(lambda x: (A @ x[1], -x[0] @ A), (half, half), lipschitz=3.0)
    assert_type(game.value, tuple[Array, Array])


def tensors() -> None:
    """The same on tensors, and equilibrium layers."""
    import torch
    from torch import Tensor

    from fastiter.torch import fixedpoint as tensors_fixedpoint
    from fastiter.torch import nn

    found = tensors_fixedpoint.fixed_point(torch.cos, torch.ones(2, 3))
    assert_type(found, fixedpoint.FixedPointSolution[Tensor])
    assert_type(found.value, Tensor)
    assert_type(tensors_fixedpoint.sinkhorn(torch.eye(3)).plan, Tensor)
    assert_type(tensors_fixedpoint.refine(torch.eye(2), torch.clone, torch.ones(2)).value, Tensor)
    state = tensors_fixedpoint.hopfield_update(torch.ones(1, 2), torch.eye(2), beta=4.0)
    assert_type(state.value, Tensor)
    assert_type(state.steps, Tensor)
    assert_type(nn.MonotoneDEQ(4, 6)(torch.ones(2, 4)), Tensor)
    assert_type(nn.Hopfield(4)(torch.ones(2, 3, 4)), Tensor)
    assert_type(monotone.douglas_rachford(lambda y, t: y / 2, lambda y, t: y, torch.ones(2)).value, Tensor)
