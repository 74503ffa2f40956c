"""A real-time diffusion policy: a few denoising steps from the last plan, shifted, instead of all steps from noise.

A plan consists of 16 points in the plane from the state to a moving goal, sampled from a diffusion model: two Gaussians
around arcs to the left and right of the straight line, whose denoiser is known. The controller follows the first step
of the plan and plans again, forty times. Real-time iteration denoises once from noise; then `shift` drops the first
point of the last plan, and the last k of 100 steps adapt it to the new state. At a tenth of the evaluations it stays on
one side, whereas plans sampled anew switch between both; so do plans by few steps from noise, which also do not reach a
mode. The last five steps also have a fixed point, in the middle of a mode: `fixed_point` finds it from anywhere in
three evaluations of them, but only with the last plan does the side stay the same.

    python examples/papers/rti_diffusion.py  # seconds; writes rti_diffusion.png next to this file

:Paper: Real-Time Iteration Scheme for Diffusion Policy (2025), arXiv 2508.05396
:Shows: plans by a tenth of the evaluations that stay on one side
:Does not show: robots and learned policies
:Starts from: a map
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, save
from matplotlib.figure import Figure

from fastiter.fixedpoint import FixedPointSolution, fixed_point, shift

Array = Any
POINTS, BEND, SPREAD = 16, 0.6, 0.05  # points per plan; distance of the arcs from the line; standard deviation
STEPS = 100  # sampling steps
RUNS, CONTROLS = 8, 40  # parallel runs, and control steps per run
ALPHA = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[9::10]])  # after 0, 1, ..., STEPS of them
FULL, COLD, REAL_TIME = "100 steps, from noise", "last 5, from noise", "last {}, from the last plan"
#: Distances from the nearest mode, evaluations per control step, and switches, for steps from the last plan
EXPECTED = {1: (0.084, 3.5, 0), 2: (0.047, 4.5, 0), 5: (0.022, 7.4, 0), 20: (0.027, 22, 0)}


@dataclass(frozen=True)
class Options:
    figure: Path = figure_option(__file__)


def modes(state: Array, goal: Array) -> Array:
    """The means (B, 2, POINTS, 2) of both Gaussians: arcs from the states (B, 2) to the goal (2,)."""
    tau = np.linspace(0, 1, POINTS)[:, None]
    way = (goal - state)[:, None]
    normal = np.stack([-way[..., 1], way[..., 0]], 2) / np.linalg.norm(way, axis=2, keepdims=True)
    line, bend = state[:, None] + tau * way, BEND * np.sin(np.pi * tau) * normal
    return np.stack([line + bend, line - bend], 1)


def denoised(z: Array, means: Array, steps: int) -> Array:
    """Plans z (B, POINTS, 2) after the last `steps` steps of the sampler, with the exact noise of the mixture."""
    for t in range(steps, 0, -1):
        now, before = ALPHA[t], ALPHA[t - 1]
        variance = now * SPREAD**2 + 1 - now
        away = z[:, None] - now**0.5 * means
        exponent = -(away**2).sum(axis=(2, 3)) / (2 * variance)
        weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        noise = (1 - now) ** 0.5 * (weights[:, :, None, None] * away).sum(axis=1) / variance
        z = (before / now) ** 0.5 * (z - (1 - now) ** 0.5 * noise) + (1 - before) ** 0.5 * noise
    return z


#: (the means, the carry of the last call, noise) -> a plan, the carry for the next call, and evaluations of each run
Planner = Callable[[Array, Any, Array], tuple[Array, Any, Array]]


def from_noise(steps: int) -> Planner:
    """Plan from noise, with fewer steps after the first call."""

    def plan(means: Array, last: Any, noise: Array) -> tuple[Array, Any, Array]:
        taken = STEPS if last is None else steps
        z = denoised(noise, means, taken)
        return z, z, np.full(len(z), taken)

    return plan


def from_last_plan(steps: int) -> Planner:
    """Real-time iteration."""

    def plan(means: Array, last: Any, noise: Array) -> tuple[Array, Any, Array]:
        if last is None:
            return from_noise(STEPS)(means, None, noise)
        z = denoised(shift(last), means, steps)
        return z, z, np.full(len(z), steps)

    return plan


def to_the_fixed_point(steps: int, is_warm: bool) -> Planner:
    """Solve z = denoised(z), from the last plan or from noise: a plan in the middle of a mode."""

    def plan(means: Array, last: FixedPointSolution[Array] | None, noise: Array) -> tuple[Array, Any, Array]:
        first = shift(last.value) if is_warm and last is not None else noise
        solution = fixed_point(lambda z, m: denoised(z, m, steps), first, args=(means,), rtol=1e-3)
        return solution.value, solution, steps * solution.evaluations

    return plan


@dataclass
class Episode:
    """A run of every seed."""

    distance: list[float] = field(default_factory=list)  # rms distance of plans from the nearest mode
    evaluations: list[float] = field(default_factory=list)
    sides: list[Array] = field(default_factory=list)  # the nearest mode (B,) at each control step
    moves: list[Array] = field(default_factory=list)
    states: list[Array] = field(default_factory=list)

    @property
    def switches(self) -> float:
        return float((np.diff(self.sides, axis=0) != 0).sum(axis=0).mean())

    @property
    def jerk(self) -> float:
        return float((np.diff(self.moves, axis=0) ** 2).sum(axis=(0, 2)).mean())


def run(planner: Planner) -> Episode:
    rng, episode = np.random.default_rng(0), Episode()
    state, last = np.zeros((RUNS, 2)), None
    for control in range(CONTROLS):
        means = modes(state, np.array([3 + 0.5 * np.sin(control / 8), 1.0]))
        z, last, evaluations = planner(means, last, rng.standard_normal((RUNS, POINTS, 2)))
        away = ((z[:, None] - means) ** 2).mean(axis=(2, 3)) ** 0.5
        episode.distance.append(float(away.min(axis=1).mean()))
        episode.evaluations.append(float(evaluations.mean()))
        episode.sides.append(away.argmin(axis=1))
        move = 0.5 * (z[:, 1] - z[:, 0])
        state = state + move
        episode.moves.append(move)
        episode.states.append(state)
    return episode


def check(episodes: dict[str, Episode]) -> None:
    """Check the reference numbers and the expected relations."""
    for k, (distance, evaluations, switches) in EXPECTED.items():
        episode = episodes[REAL_TIME.format(k)]
        assert abs(np.mean(episode.distance) - distance) <= 0.001 + 0.05 * distance
        assert abs(np.mean(episode.evaluations) - evaluations) <= 0.05 and episode.switches == switches
    full, real_time = episodes[FULL], episodes[REAL_TIME.format(5)]
    distance = float(np.mean(full.distance))
    assert abs(distance - 0.035) <= 0.002 and 15 <= full.switches <= 23
    assert np.mean(real_time.distance) <= 1.2 * distance
    assert 10 * np.mean(real_time.evaluations) <= np.mean(full.evaluations) and 30 * real_time.jerk <= full.jerk
    assert np.mean(episodes[COLD].distance) >= 5 * distance  # the last plan is what makes a few steps enough


def draw(episodes: dict[str, Episode], path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, color in ((FULL, THEIRS), (REAL_TIME.format(5), OURS)):
        states = np.array(episodes[name].states)
        for seed in range(RUNS):
            left.plot(*states[:, seed].T, color=color, linewidth=0.8, label=name if seed == 0 else None)
    left.set(xlabel="x", ylabel="y", title="Paths to a goal near (3, 1)", ylim=(-0.9, 2))
    left.legend(frameon=False, loc="lower left", fontsize=8)
    for name, episode in episodes.items():
        color = OURS if "last plan" in name else THEIRS if name == FULL else OTHERS
        place = float(np.mean(episode.evaluations)), float(np.mean(episode.distance))
        right.loglog(*place, "o", color=color)
        is_upper = name != "fixed point, from noise"
        right.annotate(name, place, (4, 4 if is_upper else -10), fontsize=7, textcoords="offset points")
    right.set(xlabel="evaluations for a control step", ylabel="distance from the nearest mode", title="Plans")
    right.margins(x=0.45)
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    planners = {FULL: from_noise(STEPS), COLD: from_noise(5)}
    planners |= {REAL_TIME.format(k): from_last_plan(k) for k in EXPECTED}
    planners["fixed point, from noise"] = to_the_fixed_point(5, is_warm=False)
    planners["fixed point, from the last plan"] = to_the_fixed_point(5, is_warm=True)
    print(f"{'':34}{'distance':>10}{'evaluations':>13}{'switches':>10}{'jerk':>8}")
    episodes = {}
    for name, planner in planners.items():
        episodes[name] = episode = run(planner)
        numbers = float(np.mean(episode.distance)), float(np.mean(episode.evaluations)), episode.switches
        print(f"{name:34}{numbers[0]:10.3f}{numbers[1]:13.1f}{numbers[2]:10.1f}{episode.jerk:8.3f}")
    check(episodes)
    draw(episodes, options.figure)


if __name__ == "__main__":
    main()
