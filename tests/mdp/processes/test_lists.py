"""Lists in place of arrays: the results of the arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from fastiter import ConvergenceWarning, experimental, mdp
from fastiter.mdp import MDP


def lists(dtype: str) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Return functions with arrays that lists may stand for; their numbers are those of every dtype."""
    P = np.array([[[0.5, 0.5], [0, 1]], [[1, 0], [0.25, 0.75]]], dtype)
    R = np.array([[1, 2], [0, 4]], dtype)
    model = MDP(list(P), R, 0.5)
    weight, values, one_each = model.transitions[0], np.array([1, 2], dtype), np.array([0.5, 0.25, 0.5, 0.25])
    features = np.stack([np.eye(2)[:, None], np.eye(2)[::-1][:, None]])
    return {
        "gamma": (lambda gamma: MDP(list(P), R, gamma).solve().value, {"gamma": one_each}),
        "value0": (lambda v: model.solve("vi", value0=v).value, {"v": values}),
        "order": (lambda order: model.solve("gs", order=order).value, {"order": np.array([1, 0])}),
        "action_values": (model.action_values, {"value": values}),
        "finite_horizon": (lambda v: mdp.finite_horizon(model, 2, v).value, {"v": values}),
        "average": (lambda s, v: mdp.average(model, sojourn=s, value0=v).gain, {"s": 2 * one_each, "v": values}),
        "radius": (lambda r: mdp.robust(model, "l1", r).value, {"r": one_each}),
        "limits": (
            lambda low, high: mdp.robust(model, "interval", limits=(low, high)).value,
            {"low": weight / 2, "high": np.ones_like(weight)},
        ),
        "batch": (
            lambda P, R, v: mdp.MDPBatch(model, P, R).solve(value0=v).value,
            {"P": np.stack([weight] * 2), "R": np.stack([R.ravel()] * 2), "v": np.stack([values] * 2)},
        ),
        "project_categorical": (
            mdp.distributional.project_categorical,
            {"p": np.array([0.5, 0.5]), "x": np.array([0.25, 3.0]), "z": np.arange(3.0)},
        ),
        "bandit": (
            lambda means, weights: experimental.belief_tree(experimental.LatentMDP.bandit(means), 0, weights, 2),
            {"means": np.array([[0.75, 0.25], [0.25, 0.75]]), "weights": np.array([0.5, 0.5])},
        ),
        "LinearMixture": (
            lambda features, rewards: experimental.LinearMixture(features, 2).plan(rewards).value,
            {"features": features, "rewards": np.ones((2, 1))},
        ),
        "LOOP": (lambda Q, J: experimental.LOOP(Q, J, 0.5).chosen, {"Q": np.zeros((2, 1, 1)), "J": np.array([1.0, 0])}),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", lists("float64"))
def test_lists_are_arrays(name: str, dtype: str) -> None:
    call, arrays = lists(dtype)[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # in float32
        expected, found = call(**arrays), call(**{key: x.tolist() for key, x in arrays.items()})
    assert np.asarray(found).dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(found, expected)
