"""Optimising over a trained network by attacks: at 100 evaluations .85 or less of a direct search's gap to the optimum.

A function f of a network's outputs is to be as large as possible, under a constraint on another output; only the
network can be evaluated, and differentiated. The hybrid first tries a step of an adversarial attack, all inputs by
the same amount along the sign of the gradient; when that fails, it polls the directions of a random basis, as a
direct search does, which alone can end at any kind of corner.

The network is an implicit layer, z = relu(W z + U x + b), which `fastiter.fixedpoint.fixed_point` solves for all
polled points at once. Its exact optimum is a mixed-integer linear program with one binary for each of the 24 units,
however deep the layer acts: the largest value is known, and no run exceeds it. A small attack gains its radius times
the 1-norm of the gradient, to 1e-8.

The hybrid is ahead at 50, 100, 300 and 1000 evaluations, on two networks and ten starts of each.

    python examples/papers/directional_attacks.py  # 10 seconds to 3 minutes; writes directional_attacks.png

:Paper: Optimization by Directional Attacks: Solving Problems with Neural Network Surrogates (2025), arXiv 2510.01461
:Shows: the hybrid of attacks and direct search against the direct search alone, beside the exact optimum
:Does not show: the paper's three applications, attacks with several steps, and the convergence proof's exact search
:Starts from: a model
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
from _paper import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib import pyplot

from fastiter.fixedpoint import fixed_point

INPUTS, UNITS, OUTPUTS = 40, 24, 3
START, FLOOR = 0.3, 0.01  # first radius, and the smallest of attacks
MARKS = (50, 100, 300, 1000)
OPTIMA = {0: 22.479462, 1: 17.471942}


@dataclass(frozen=True)
class Options:
    seeds: int = option(2, "networks", 1)
    starts: int = option(10, "starts of each method", 4)
    evaluations: int = option(1000, "evaluations of a run", 300)
    figure: Path = figure_option(__file__)


class Surrogate:
    """z = relu(W z + U x + b), y = V z; f = y_0 + y_1, and y_2 is at most `limit`."""

    def __init__(self, seed: int) -> None:
        r = np.random.default_rng(seed)
        W = r.normal(size=(UNITS, UNITS))
        self.W = W * (0.8 / np.abs(W).sum(axis=1).max())
        self.U = r.normal(size=(UNITS, INPUTS)) * 2 / np.sqrt(INPUTS)
        self.b = 0.3 * r.normal(size=UNITS)
        self.V = r.normal(size=(OUTPUTS, UNITS)) * 2 / np.sqrt(UNITS)
        self.samples = np.random.default_rng(100 + seed).uniform(-1, 1, (400, INPUTS))
        self.limit = float(np.quantile(self.states(self.samples) @ self.V[2], 0.6))

    def states(self, x: Any) -> Any:
        """Solve the layer for points (n, inputs)."""
        pushed = x @ self.U.T + self.b

        def layer(z: Any, pushed: Any) -> Any:
            return np.maximum(z @ self.W.T + pushed, 0)

        return fixed_point(layer, np.zeros((len(x), UNITS)), args=(pushed,), rtol=1e-13, throw=True).value

    def values(self, x: Any) -> Any:
        """f at points (n, inputs), and minus infinity where the constraint is violated."""
        y = self.states(x) @ self.V.T
        return np.where(y[:, 2] <= self.limit, y[:, 0] + y[:, 1], -np.inf)

    def gradient(self, x: Any) -> Any:
        """The gradient of f at a point, by the implicit function theorem."""
        is_active = self.states(x[None])[0] > 0
        weights = (self.V[0] + self.V[1]) * is_active
        return np.linalg.solve((np.eye(UNITS) - is_active[:, None] * self.W).T, weights) * is_active @ self.U

    def optimum(self) -> tuple[float, Any]:
        """The largest value and where it is, by a mixed-integer linear program in x, z and which units are active."""
        size = np.abs(self.U).sum(axis=1) + np.abs(self.b)
        most = np.linalg.solve(np.eye(UNITS) - np.abs(self.W), size)
        below = np.abs(self.W) @ most + size
        unit, none = np.eye(UNITS), np.zeros((UNITS, UNITS))
        rows = [
            (np.hstack([-self.U, unit - self.W, none]), self.b, np.full(UNITS, np.inf)),
            (np.hstack([-self.U, unit - self.W, np.diag(below)]), np.full(UNITS, -np.inf), self.b + below),
            (np.hstack([np.zeros((UNITS, INPUTS)), unit, -np.diag(most)]), np.full(UNITS, -np.inf), np.zeros(UNITS)),
            (np.hstack([np.zeros(INPUTS), self.V[2], np.zeros(UNITS)])[None], -np.inf, self.limit),
        ]
        cost = np.hstack([np.zeros(INPUTS), -(self.V[0] + self.V[1]), np.zeros(UNITS)])
        found = scipy.optimize.milp(
            cost,
            constraints=[scipy.optimize.LinearConstraint(*row) for row in rows],
            integrality=np.repeat([0, 0, 1], [INPUTS, UNITS, UNITS]),
            bounds=scipy.optimize.Bounds(
                np.repeat([-1.0, 0.0, 0.0], [INPUTS, UNITS, UNITS]), np.hstack([np.ones(INPUTS), most, np.ones(UNITS)])
            ),
            options={"mip_rel_gap": 1e-9},
        )
        assert found.status == 0, found.message
        return -float(found.fun), found.x[:INPUTS]


class Run:
    """A search from a point: the best point, its value, and the value after each evaluation."""

    def __init__(self, surrogate: Surrogate, x: Any, most: int, rng: np.random.Generator) -> None:
        self.surrogate, self.x, self.most, self.rng = surrogate, x, most, rng
        self.value = float(surrogate.values(x[None])[0])
        self.history = [self.value]
        self.poll_radius = self.attack_radius = START

    def attack(self) -> bool:
        """Try an attack; return whether it gained so much that no poll is needed."""
        sign = np.sign(self.surrogate.gradient(self.x))
        target = np.clip(self.x + self.attack_radius * sign, -1, 1)
        value, before = float(self.surrogate.values(target[None])[0]), self.value
        self.history.append(before)
        if value > before:
            self.x, self.value = target, value
            self.attack_radius, self.poll_radius = min(1, 1.3 * self.attack_radius), 1.3 * self.poll_radius
        else:
            self.attack_radius = max(self.attack_radius / 2, FLOOR)
        self.history.append(self.value)
        return value - before > 0.01 * self.attack_radius**2

    def poll(self) -> bool:
        """Try the columns of a random rotation and minus their sum, up to the first that is better."""
        basis = np.linalg.qr(self.rng.normal(size=(INPUTS, INPUTS)))[0].T
        directions = np.vstack([basis, -basis.sum(axis=0) / np.sqrt(INPUTS)])
        targets = np.clip(self.x + self.poll_radius * directions, -1, 1)
        values = self.surrogate.values(targets)
        better = np.flatnonzero(values > self.value)
        tried = int(better[0]) if len(better) else len(values) - 1
        self.history += [self.value] * tried
        if len(better):
            self.x, self.value = targets[tried], float(values[tried])
        self.poll_radius *= 2 if len(better) else 0.5
        self.history.append(self.value)
        return len(better) > 0

    def search(self, has_attacks: bool) -> Any:
        """Return the best value after each evaluation."""
        rests = not has_attacks
        while len(self.history) < self.most and self.poll_radius > 1e-9:
            if not rests and self.attack():
                continue
            found = self.poll()
            rests = not has_attacks or (self.attack_radius <= FLOOR and not found)
        self.history += [self.value] * max(self.most - len(self.history), 0)
        return np.array(self.history[: self.most])


def check_attack(surrogate: Surrogate, radius: float = 1e-6) -> float:
    """How far small attacks at random points are from gaining the radius times the 1-norm of the gradient."""
    away = []
    f = surrogate.V[0] + surrogate.V[1]
    for x in 0.9 * surrogate.samples[:20]:
        g = surrogate.gradient(x)
        pair = surrogate.states(np.stack([x, x + radius * np.sign(g)])) @ f
        away.append(abs((pair[1] - pair[0]) / (radius * np.abs(g).sum()) - 1))
    return float(np.median(away))


def main(options: Options) -> None:
    curves: list[Any] = []
    searches: dict[str, Callable[[Run], Any]] = {
        "attacks and direct search": lambda run: run.search(True),
        "direct search": lambda run: run.search(False),
    }
    marks = [mark for mark in MARKS if mark <= options.evaluations]
    for seed in range(options.seeds):
        surrogate = Surrogate(seed)
        best, where = surrogate.optimum()
        assert abs(best - OPTIMA.get(seed, best)) <= 1e-5 and check_attack(surrogate) <= 1e-8
        y = surrogate.states(where[None])[0] @ surrogate.V.T
        assert abs(y[0] + y[1] - best) <= 1e-6 and y[2] <= surrogate.limit + 1e-6
        starts = surrogate.samples[np.isfinite(surrogate.values(surrogate.samples))][: options.starts]
        print(f"network {seed}: optimum {best:.6f}; gap after" + "".join(f"{mark:>8}" for mark in marks))
        gaps = []
        for name, search in searches.items():
            runs = [
                search(Run(surrogate, x, options.evaluations, np.random.default_rng(k))) for k, x in enumerate(starts)
            ]
            assert np.max(runs) <= best + 1e-6
            gaps.append(best - np.mean(runs, axis=0))
            print(f"  {name:40}" + "".join(f"{gaps[-1][mark - 1]:8.2f}" for mark in marks))
        curves.append(gaps)
        assert gaps[0][99] <= 0.85 * gaps[1][99] and gaps[0][299] <= 0.95 * gaps[1][299]
        assert all(gaps[0][mark - 1] < gaps[1][mark - 1] for mark in marks)

    figure, panels = pyplot.subplots(
        1, len(curves), figsize=(4.5 * len(curves), 4), layout="constrained", squeeze=False
    )
    for seed, (axes, gaps) in enumerate(zip(panels[0], curves, strict=True)):
        for name, gap, color in zip(searches, gaps, (OURS, OTHERS), strict=True):
            axes.semilogx(np.arange(1, len(gap) + 1), gap, color=color, label=name)
        axes.set(xlabel="evaluations", ylabel="mean gap to the exact optimum", title=f"Network {seed}", ylim=(0, None))
    panels[0, 0].legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
