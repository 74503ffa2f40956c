"""Policy gradients with momentum: implicit transport has .8 of the gap after 500 trajectories, as much after 4000.

A linear policy steers a point with noise for 20 steps. The expected discounted reward of each policy is known
exactly, by a recursion of covariances: the best is -7.53345. Each step of a method uses the gradient estimate of a
single trajectory.

N-PG-IGT evaluates that gradient ahead of the policy, at theta_t + (1 - eta) / eta (theta_t - theta_(t-1)), so that
the mean d <- (1 - eta) d + eta g is one at the present policy, and takes steps of a fixed length along d. Normalised
momentum differs only in that it evaluates at theta_t. Both have eta_t = (2 / (t + 1))^(4/5), steps c eta_t, and each
the best c of five. The transport pays early; after 4000 trajectories the two are within 5 %, and both have at most
half the gap of plain policy gradients.

    python examples/papers/policy_gradients.py  # 10 seconds to 3 minutes; writes policy_gradients.png next to this file

:Paper: Stochastic Policy Gradient Methods: Improved Sample Complexity for Fisher-non-degenerate Policies (2023),
    arXiv 2302.01734
:Shows: N-PG-IGT against normalised momentum and plain policy gradients, by exact values of the policies
:Does not show: (N-)HARPG, the paper's method of second order, whose better rate did not appear at this size, and
    policies other than linear ones
:Starts from: feedback
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, save
from matplotlib import pyplot

A, B = np.array([[0.95, 0.2], [0, 0.95]]), np.array([0, 0.3])
SIGMA, DRIFT, HORIZON, GAMMA = 0.5, 0.05, 20, 0.95
SIZES = np.array([0.05, 0.1, 0.2, 0.3, 0.5])  # lengths of the steps that have a fixed one
PLAIN = np.array([3e-4, 1e-3, 3e-3, 1e-2, 3e-2])  # step sizes of plain policy gradients
EARLY, LATE = 500, 4000


@dataclass(frozen=True)
class Options:
    runs: int = option(32, "runs of each method", 8)
    steps: int = option(LATE, "trajectories of a run", EARLY)
    figure: Path = figure_option(__file__)


def value(theta: Any) -> Any:
    """The exact expected reward of policies (..., 2), by the covariance of the state at each step."""
    closed = A + B[:, None] * theta[..., None, :]
    noise = SIGMA**2 * np.outer(B, B) + DRIFT**2 * np.eye(2)
    S, total = np.broadcast_to(np.eye(2), (*theta.shape[:-1], 2, 2)), np.zeros(theta.shape[:-1])
    for t in range(HORIZON):
        action = np.einsum("...i,...ij,...j->...", theta, S, theta) + SIGMA**2
        total = total - GAMMA**t * (np.trace(S, axis1=-2, axis2=-1) + 0.1 * action)
        S = closed @ S @ closed.swapaxes(-1, -2) + noise
    return total


def gradients(theta: Any, rng: np.random.Generator, runs: int) -> Any:
    """The estimates of policies (..., runs, 2), from one trajectory each; runs of different methods share the noise."""
    s = np.broadcast_to(rng.normal(size=(runs, 2)), theta.shape)
    scores, rewards = [], []
    for t in range(HORIZON):
        noise = SIGMA * rng.normal(size=runs)
        a = (theta * s).sum(axis=-1) + noise
        scores.append(s * (noise / SIGMA**2)[:, None])
        rewards.append(-(GAMMA**t) * ((s**2).sum(axis=-1) + 0.1 * a**2))
        s = s @ A.T + a[..., None] * B + DRIFT * rng.normal(size=(runs, 2))
    to_come = np.cumsum(rewards[::-1], axis=0)[::-1]
    return (np.array(scores) * to_come[..., None]).sum(axis=0)


def train(options: Options) -> dict[str, Any]:
    """The gaps (steps, sizes, runs) of the methods, all of them at once."""
    rng, best = np.random.default_rng(0), optimum()[0]
    shape = (3, len(SIZES), options.runs, 2)
    theta, before, mean, gaps = np.zeros(shape), np.zeros(shape), np.zeros(shape), []
    sizes = np.stack([SIZES, SIZES, PLAIN])[:, :, None, None]
    for t in range(1, options.steps + 1):
        eta = (2 / (t + 1)) ** 0.8
        ahead = theta.copy()
        ahead[0] += (1 - eta) / eta * (theta[0] - before[0])
        g = gradients(ahead, rng, options.runs)
        mean = (1 - eta) * mean + eta * g
        step = np.empty(shape)
        step[:2] = eta * mean[:2] / np.linalg.norm(mean[:2], axis=-1, keepdims=True)
        step[2] = g[2] / np.sqrt(t)
        before, theta = theta, np.clip(theta + sizes * step, -20, 20)
        gaps.append(best - value(theta))
    names = ("N-PG-IGT", "normalised momentum", "plain policy gradients")
    return dict(zip(names, np.array(gaps).transpose(1, 0, 2, 3), strict=True))


def optimum() -> tuple[float, Any]:
    """The best expected reward, and its policy."""
    found = scipy.optimize.minimize(lambda theta: -float(value(theta)), np.array([-1.0, -2.0]), tol=1e-10)
    return -float(found.fun), found.x


def check(samples: int) -> None:
    """The exact values, and the estimates' mean against the exact gradient."""
    best, policy = optimum()
    assert abs(best + 7.53345) <= 1e-5 and np.abs(policy - [-1.12601, -2.20064]).max() <= 1e-3
    assert abs(value(np.zeros(2)) + 31.3754) <= 1e-4
    at = np.full(2, -0.3)
    exact = [(value(at + 1e-5 * e) - value(at - 1e-5 * e)) / 2e-5 for e in np.eye(2)]
    found = gradients(np.broadcast_to(at, (samples, 2)), np.random.default_rng(1), samples)
    assert (np.abs(found.mean(axis=0) - exact) <= 4 * found.std(axis=0) / np.sqrt(samples)).all()


def main(options: Options) -> None:
    check(100_000)
    gaps = train(options)
    marks = [mark for mark in (EARLY, LATE) if mark <= options.steps]
    print(f"{'median gap, best step size':28}" + "".join(f"{f'after {mark}':>14}" for mark in marks))
    found = {}
    for name, rows in gaps.items():
        medians = np.median(rows, axis=2)
        found[name] = [float(medians[mark - 1].min()) for mark in marks]
        print(f"{name:28}" + "".join(f"{gap:14.3f}" for gap in found[name]))

    transported, momentum, plain = found.values()
    assert transported[0] <= 0.8 * momentum[0]
    if LATE in marks:
        assert transported[1] <= 1.05 * momentum[1] and max(transported[1], momentum[1]) <= 0.5 * plain[1]

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for (name, rows), color in zip(gaps.items(), (OURS, THEIRS, OTHERS), strict=True):
        medians = np.median(rows, axis=2)
        for mark in marks:
            curve = medians[:, medians[mark - 1].argmin()]
            style = {"color": color, "linestyle": ":" if mark == EARLY else "-"}
            axes.loglog(np.arange(1, len(curve) + 1), curve, label=f"{name}, best at {mark}", **style)
    axes.set(xlabel="trajectories", ylabel="median gap to the best policy's value", title="One trajectory a step")
    axes.legend(fontsize=8)
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
