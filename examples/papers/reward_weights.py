"""Weights of several rewards that move: the update is a mirror step to 1e-8, and fixed weights miss a concave front.

A policy is trained on a weighted sum of rewards, and the weights change on the way. The update w_i <- w_i exp(<g_i,
g> / mu), normalised, with the gradients g_i of the rewards and their sum g, is the maximum of <w, I> - mu KL(w |
w_old) over the simplex, I_i = <g_i, g>: a numerical maximisation agrees to 1e-8. It therefore never lowers the
first-order gain <w, I> of the summed reward: in 3600 steps it never does.

Why the weights should move: the two rewards J_i of a Gaussian policy around two targets have a concave front.
Gradient ascent on any fixed weights from any start ends at one of its two ends, where one reward is below .04, never
in the middle, where both are .368. The ends of 180 runs dominate an area (hypervolume) of .067, the front .3388. The
hypervolume, which the paper's other rule rewards, is computed by slices and agrees with inclusion and exclusion to
1e-15.

Not reproduced: moving weights do not find the middle here either. The gradient rule, started from the same points
with equal weights, ends at the same two ends.

    python examples/papers/reward_weights.py  # seconds; writes reward_weights.png next to this file

:Paper: Learning to Optimize Multi-Objective Alignment Through Dynamic Reward Weighting (2025), arXiv 2509.11452
:Shows: the two rules' exact parts: a mirror step, its monotone gain, the hypervolume, and what fixed weights miss
:Does not show: the paper's result, that moving weights give better fronts of language models; here they do not
:Starts from: a training run
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import scipy.integrate
from _paper import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib import pyplot

SPREAD = 1 + 2 * 0.1**2  # the targets blurred by a policy with standard deviation .1
TARGETS = np.array([[1.0, 0.0], [-1.0, 0.0]])
WEIGHTS = np.linspace(0.1, 0.9, 9)


@dataclass(frozen=True)
class Options:
    starts: int = option(20, "starts for each pair of weights", 8)
    steps: int = option(3600, "steps of the check of the gain", 600)
    figure: Path = figure_option(__file__)


# ---- The rules ------------------------------------------------------------------------------------------------------


def reweight(w: Any, gradients: Any, mu: float) -> Any:
    """The weights (..., rewards) after a step, from the gradients (..., rewards, parameters)."""
    log = np.log(w) + np.einsum("...rp,...qp->...r", gradients, gradients) / mu
    new = np.exp(log - log.max(axis=-1, keepdims=True))
    return new / new.sum(axis=-1, keepdims=True)


def hypervolume(points: Any) -> float:
    """The volume of all positive vectors that some point dominates, by slices along the last reward."""
    points = np.asarray(points, float)
    if points.shape[1] == 1:
        return float(points.max(initial=0))
    levels = np.unique(points[:, -1])
    heights = np.diff(levels, prepend=0.0)
    slices = [(level, height) for level, height in zip(levels, heights, strict=True) if height > 0]
    return float(sum(height * hypervolume(points[points[:, -1] >= level, :-1]) for level, height in slices))


def by_inclusion(points: Any) -> float:
    """The same volume, by inclusion and exclusion of the boxes."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for some in combinations(points, size):
            total -= (-1) ** size * np.min(some, axis=0).prod()
    return total


def check_rules(options: Options) -> None:
    rng = np.random.default_rng(0)
    largest, w = 0.0, np.full(3, 1 / 3)
    for step in range(options.steps):
        gradients, mu = rng.normal(size=(3, 8)), 10 ** rng.uniform(0, 1.5)
        gains, new = gradients @ gradients.sum(axis=0), reweight(w, gradients, mu)
        assert new @ gains >= w @ gains - 1e-12 * np.abs(gains).max()
        if step < 50:
            largest = max(largest, np.abs(new - maximiser(w, gains, mu)).max())
        w = 0.9 * new + 0.1 / 3  # away from the corners of the simplex
    sets = rng.random((50, 6, 3))
    apart = max(abs(hypervolume(points) - by_inclusion(points)) for points in sets)
    print(f"the update is the maximiser to {largest:.0e}; {options.steps} steps never lower the gain")
    print(f"hypervolumes differ by at most {apart:.0e}")
    assert largest <= 1e-8 and apart <= 1e-14


def maximiser(w: Any, gains: Any, mu: float) -> Any:
    """The largest <v, gains> - mu KL(v | w) on the simplex, by Newton's method with halved steps inside it."""

    def objective(v: Any) -> float:
        return float(v @ gains - mu * (v @ np.log(v / w)))

    v = w.copy()
    for _ in range(100):
        slope = gains - mu * (np.log(v / w) + 1)
        change = v / mu * (slope - v @ slope)  # the Hessian is -mu / v; the sum of v stays 1
        step = min(1.0, 0.9 / max((-change / v).max(), 0.9))
        far = np.abs(change / v).max() > 0.1  # nearer, full steps converge, and rounding rules the objective
        while far and step > 1e-9 and objective(v + step * change) < objective(v):
            step /= 2
        v = v + step * change
    return v / v.sum()


# ---- A concave front ------------------------------------------------------------------------------------------------


def returns(theta: Any) -> tuple[Any, Any]:
    """The rewards (n, 2) of policies with means theta (n, 2), and their gradients (n, 2, 2)."""
    away = theta[:, None] - TARGETS
    J = np.exp(-(away**2).sum(axis=2) / SPREAD) / SPREAD
    return J, -2 / SPREAD * away * J[:, :, None]


def ascend(theta: Any, weights: Any, mu: float | None) -> Any:
    """The rewards at the end of gradient ascent; the weights (n, 2) move if mu is given."""
    theta, weights = theta.copy(), weights.copy()
    for _ in range(3000):
        _, gradients = returns(theta)
        if mu is not None:
            weights = reweight(weights, gradients, mu).clip(min=1e-6)
            weights /= weights.sum(axis=1, keepdims=True)
        theta += 0.1 * np.einsum("nr,nrp->np", weights, gradients)
    return returns(theta)[0]


def front_area() -> float:
    """The hypervolume of the front, theta = (x, 0) with x from -1 to 1, by quadrature."""

    def slice_at(x: float) -> float:
        J, gradients = returns(np.array([[x, 0.0]]))
        return float(J[0, 1] * gradients[0, 0, 0])

    ends = returns(np.array([[-1.0, 0.0]]))[0][0]
    return float(ends[0] * ends[1] + scipy.integrate.quad(slice_at, -1, 1, epsabs=1e-12)[0])


def main(options: Options) -> None:
    check_rules(options)
    starts = np.random.default_rng(0).uniform(-1, 1, (options.starts, 2))
    pairs = np.stack([WEIGHTS, 1 - WEIGHTS], axis=1)
    fixed = ascend(np.tile(starts, (len(pairs), 1)), np.repeat(pairs, len(starts), axis=0), None)
    moving = ascend(starts, np.full((len(starts), 2), 0.5), 1.0)
    whole = front_area()
    line = returns(np.stack([np.linspace(-1, 1, 401), np.zeros(401)], axis=1))[0]
    print(f"hypervolume of the front {whole:.6f}, of 400 of its points {hypervolume(line):.4f}")
    for name, ends in (("fixed weights", fixed), ("moving weights", moving)):
        area, lesser = hypervolume(ends), ends.min(axis=1).max()
        print(f"{name}: {len(ends)} runs, hypervolume {area:.4f}, lesser reward <= {lesser:.4f}")
        assert lesser <= 0.04 and area <= 0.07
    assert abs(whole - 0.338797) <= 1e-6 and 0 <= whole - hypervolume(line) <= 0.01
    assert abs(returns(np.zeros((1, 2)))[0] - 0.3678).max() <= 1e-4

    figure, axes = pyplot.subplots(figsize=(5.5, 4.5), layout="constrained")
    axes.plot(*line.T, color="black", label=f"front, hypervolume {whole:.3f}")
    axes.plot(*fixed.T, "o", color=OTHERS, label=f"fixed weights, {hypervolume(fixed):.3f}")
    axes.plot(*moving.T, "x", color=OURS, label=f"moving weights, {hypervolume(moving):.3f}")
    axes.set(xlabel="first reward", ylabel="second reward", title="Where gradient ascent ends")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
