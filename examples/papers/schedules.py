"""Learning-rate schedules: one from gradient norms stays within its bound, another is a little better than cosine.

**Refined**: from the gradient norms G_t of a first run, weights w_t = 1 / G_t^2, smoothed by a running median, give
the schedule w_t (w_(t+1) + ... + w_(T-1)) / (w_0 + ... + w_(T-1)); the sum to come is a linear recurrence from the
end, `linear_scan(..., reverse=True)`. Constant norms give linear decay to 1e-12. The theorem behind it, with any
weights, bounds the last loss of subgradient descent; none of 18 runs exceeds it. On logistic regression with all data
at once, the norms of a first run at a third of the best rate, which is stable, give a schedule at least as good as
linear decay, which is as good as cosine and better than a constant rate. In batches of 16, where the norms are noise,
it is worse than linear decay, which is the best.

**Unified** (UBA): 2 (1 + cos) / (2 phi + (2 - phi) (1 + cos)) is cosine for phi = 2, constant for phi = 0, and 2 / (2
+ phi) halfway; its mean is 2 / (2 + sqrt(2 phi)). On noisy quadratic functions the best phi is 5: it ends .04 and
more below cosine and linear decay, each at its best rate.

Both schedules are written for torch's `LambdaLR`: `lr_lambda=lambda t: float(schedule[t])`, whose state_dict is the
step alone.

    python examples/papers/schedules.py  # 3 to 60 seconds; writes schedules.png next to this file

:Paper: When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement (2023), arXiv 2310.07831; Stepsize
    anything: A unified learning rate schedule for budgeted-iteration training (2025), arXiv 2505.24452
:Shows: the schedules' exact limits, the bound for the last step, and the order of the schedules on two convex
    problems
:Does not show: networks, warmup, the schedules for Adam; the smoothing at both ends is our reading (reflected)
:Starts from: a training run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot

from fastiter.scan import linear_scan

SHAPES = (0.25, 0.5, 1.0, 2.0, 5.0)
RATES = np.geomspace(0.3, 300, 19)
STABLE = 3  # the norms are those of a run whose rate is smaller by about this factor


@dataclass(frozen=True)
class Options:
    steps: int = option(1000, "steps of logistic regression", 300)
    seeds: int = option(3, "runs in batches", 1)
    quadratics: int = option(20, "runs on quadratic functions", 5)
    figure: Path = figure_option(__file__)


# ---- The schedules, relative to the learning rate -------------------------------------------------------------------


def to_come(weights: Any) -> Any:
    """The sum of the weights after each step."""
    sums, _ = linear_scan(np.ones(1), np.ascontiguousarray(weights)[None, :, None], reverse=True)
    return np.append(sums[0, 1:, 0], 0.0)


def refined(norms: Any, window: float = 0.1) -> Any:
    """The schedule of gradient descent from the gradient norms of an earlier run, with 1 as its largest value."""
    width = 2 * int(window * len(norms) / 2) + 1
    weights = scipy.ndimage.median_filter(np.asarray(norms, float), width, mode="reflect") ** -2.0
    schedule = weights * to_come(weights)
    return schedule / schedule.max()


def unified(steps: int, phi: float) -> Any:
    """UBA's schedule; phi = 2 is cosine."""
    rise = 1 + np.cos((2 * np.arange(steps) + 1) * np.pi / (2 * steps))
    return 2 * rise / (2 * phi + (2 - phi) * rise)


def classical(steps: int) -> dict[str, Any]:
    """A constant rate, linear decay and cosine."""
    at = (np.arange(steps) + 0.5) / steps
    return {"constant": np.ones(steps), "linear": 1 - at, "cosine": (1 + np.cos(np.pi * at)) / 2}


def check_limits() -> None:
    """The exact limits of both, and torch's scheduler with one of them."""
    for steps in (5, 100, 1000):
        line = (steps - 1 - np.arange(steps)) / (steps - 1)
        assert np.abs(refined(np.full(steps, 0.3)) - line).max() <= 1e-12
    steps = 1001
    assert np.abs(unified(steps, 2.0) - classical(steps)["cosine"]).max() <= 1e-15
    assert np.abs(unified(steps, 0.0) - 1).max() <= 1e-15
    for phi in SHAPES:
        assert abs(unified(steps, phi)[steps // 2] - 2 / (2 + phi)) <= 1e-14
        assert abs(unified(steps, phi).mean() - 2 / (2 + np.sqrt(2 * phi))) <= 1e-3
    schedule = unified(20, 5.0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: float(schedule[min(t, 19)]))
    for t in range(20):
        assert scheduler.get_last_lr() == [0.5 * schedule[t]]
        optimizer.step()
        scheduler.step()


def check_bound() -> float:
    """Subgradient descent on mean |A (x - x*)|: return the largest ratio of the last loss to its bound.

    The weights are constant, growing and falling, each in three sizes.
    """
    rng, ratios = np.random.default_rng(0), []
    for steps in (50, 500):
        for slope in (0, 1, -1):
            for scale in (0.1, 0.5, 2.0):
                A, best = rng.normal(size=(40, 5)), rng.normal(size=5)
                weights = scale * (1.5 + slope * np.linspace(-1, 1, steps)) / np.sqrt(steps)
                rates, x, squares = weights * to_come(weights) / weights.sum(), np.zeros(5), []
                for rate in rates:
                    error = A @ (x - best)
                    gradient = A.T @ np.sign(error) / 40
                    squares.append(gradient @ gradient)
                    x = x - rate * gradient
                bound = (best @ best + (weights**2 * squares).sum()) / (2 * weights.sum())
                ratios.append(np.abs(error).mean() / bound)
    return float(max(ratios))


# ---- Two problems ---------------------------------------------------------------------------------------------------


def cancer_data() -> Any:
    """The standardised rows with a constant, times the sign of their class."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    X = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    return np.column_stack([X, np.ones(len(X))]) * (2 * data.target - 1)[:, None]


def logistic(X: Any, schedule: Any, batch: int | None, seed: int) -> tuple[float, Any]:
    """The last loss with the best of RATES, and the gradient norms with a smaller one; all run side by side."""
    rng = np.random.default_rng(seed)
    w, norms = np.zeros((X.shape[1], len(RATES))), []
    for rate in schedule:
        some = X if batch is None else X[rng.integers(0, len(X), batch)]
        gradient = -some.T @ (1 / (1 + np.exp(np.clip(some @ w, -700, 700)))) / len(some)
        norms.append(np.linalg.norm(gradient, axis=0))
        w = w - rate * RATES * gradient
    losses = np.logaddexp(0, -X @ w).mean(axis=0)
    smaller = int(np.abs(RATES - RATES[losses.argmin()] / STABLE).argmin())
    return float(losses.min()), np.array(norms)[:, smaller]


def compare_logistic(options: Options) -> tuple[dict[str, list[float]], Any]:
    """Return the losses of each schedule with all data and in batches, and the refined schedule of the first."""
    losses: dict[str, list[float]] = {}
    X, shown = cancer_data(), None
    for batch, seeds in ((None, 1), (16, options.seeds)):
        found: dict[str, list[float]] = {}
        for seed in range(seeds):
            for name, schedule in classical(options.steps).items():
                loss, norms = logistic(X, schedule, batch, seed)
                found.setdefault(name, []).append(loss)
                if name == "linear":
                    again = refined(np.maximum(norms, 1e-12))
                    shown = again if shown is None else shown
                    found.setdefault("refined", []).append(logistic(X, again, batch, seed)[0])
        for name, row in found.items():
            losses.setdefault(name, []).append(float(np.mean(row)))
    return losses, shown


def quadratic(schedules: dict[str, Any], condition: float, runs: int) -> dict[str, float]:
    """The mean last loss of each schedule on noisy quadratic functions, with the best of 14 rates."""
    steps = len(next(iter(schedules.values())))
    curvature, rates = np.geomspace(1 / condition, 1, 50), np.geomspace(0.02, 2, 14)
    rng, x = np.random.default_rng(0), np.ones((len(schedules), 14, runs, 50))
    for t in range(steps):
        noise = 0.3 * np.sqrt(curvature) * rng.standard_normal((runs, 50))
        now = np.array([schedule[t] for schedule in schedules.values()])[:, None] * rates
        x -= now[:, :, None, None] * (curvature * x + noise)
    losses = (curvature * x**2).sum(axis=3).mean(axis=2) / 2
    return dict(zip(schedules, losses.min(axis=1).tolist(), strict=True))


def main(options: Options) -> None:
    check_limits()
    ratio = check_bound()
    print(f"the last loss is at most {ratio:.3f} of its bound in 18 runs")
    assert ratio <= 1
    losses, schedule = compare_logistic(options)
    print(f"\n{'logistic regression':20}{'all data':>10}{'batches':>10}")
    for name, pair in losses.items():
        print(f"{name:20}" + "".join(f"{loss:10.4f}" for loss in pair))
    steps = 200
    schedules = classical(steps) | {f"phi {phi}": unified(steps, phi) for phi in SHAPES}
    print(f"\n{'quadratic, condition':20}{10:>10}{1000:>10}")
    rows = [quadratic(schedules, condition, options.quadratics) for condition in (10, 1000)]
    for name in schedules:
        print(f"{name:20}" + "".join(f"{row[name]:10.4f}" for row in rows))
    for row in rows:
        best = min(row[f"phi {phi}"] for phi in SHAPES)
        assert best == row["phi 5.0"] <= 0.96 * min(row["cosine"], row["linear"])
        assert abs(row["phi 2.0"] - row["cosine"]) <= 1e-12
    if options.steps >= 1000:
        constant, linear, again, cosine = (np.array(row) for row in losses.values())
        assert (linear <= 1.02 * cosine).all() and (linear < 0.97 * constant).all()
        assert again[0] <= linear[0] and again[1] > linear[1]

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, curve in {"refined": schedule, **classical(options.steps)}.items():
        left.plot(np.linspace(0, 1, len(curve)), curve, label=name)
    for phi in (0.25, 5.0):
        left.plot(np.linspace(0, 1, steps), schedules[f"phi {phi}"], "--", label=f"phi {phi}")
    left.set(xlabel="part of the training", ylabel="rate / largest rate", title="Schedules")
    left.legend(fontsize=8)
    for row, condition, color in zip(rows, (10, 1000), ("tab:blue", "tab:orange"), strict=True):
        right.plot([row[name] / row["cosine"] for name in schedules], "o-", color=color, label=f"condition {condition}")
    right.set_xticks(range(len(schedules)), schedules, rotation=45, ha="right")
    right.set(ylabel="last loss / that of cosine", title="Noisy quadratic functions", ylim=(0.8, 1.6))
    right.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
