"""Choosing from logged predictions: SquareCB beats random exploration by .08, but its generations get worse by .1.

A payment can be sent in several ways, and whether it succeeds is only known for the way that was chosen. Here the
ways are the ten digits, the context is an image, and naming the right digit succeeds; one ridge regression an action
predicts the success.

SquareCB draws action a with probability 1 / (10 + gamma (best prediction - prediction of a)), so that it often tries
what it takes to be almost as good. With gamma = 3 sqrt(10 t) it succeeds in .91 of 6000 payments, 10 % random choices
in .82, and random choices that become rarer in .78.

In production, a model is fitted to the payments of the last period, which the model before it has chosen. The first
such model learns from random choices and succeeds in .89 (gamma = 1000); those after it learn from choices that were
nearly always good, do not see how the others fail, and fall to .58 to .71, up and down. More exploration makes the
fall smaller, at its cost in every generation. Weighting each payment by 1 / its probability does not cure this;
keeping the earlier periods does: every generation is then as good as the one before, within .005.

    python examples/papers/payments.py  # 3 to 60 seconds; writes payments.png next to this file

:Paper: Contextual Bandits in Payment Processing: Non-uniform Exploration and Supervised Learning (2024), arXiv
    2412.00569
:Shows: regret of SquareCB with a regression oracle; generations that get worse and oscillate, what reduces it, and
    what does not
:Does not show: payments, whose data are not public; actions that change with the context; models other than linear
    ones
:Starts from: feedback
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from _bandits import inverse_gap, ridge_update
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot

ACTIONS, BATCH = 10, 1500
ONLINE = ("uniform", "greedy", "epsilon .1", "epsilon decays", "SquareCB .5", "SquareCB 1", "SquareCB 3", "LinUCB .3")


@dataclass(frozen=True)
class Options:
    payments: int = option(6000, "payments chosen online", 600)
    seeds: int = option(3, "online runs", 1)
    generations: int = option(7, "generations of models", 4)
    runs: int = option(10, "runs of the generations", 2)
    figure: Path = figure_option(__file__)


@cache
def images() -> tuple[Any, Any]:
    """Contexts (n, 65), with a constant, and the right actions."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.column_stack([data.data / 16, np.ones(len(data.data))]), data.target


def draw(p: Any, rng: np.random.Generator) -> Any:
    """Draw an action from each row of probabilities."""
    above = p.cumsum(axis=1) > rng.random((len(p), 1))
    above[:, -1] = True
    return above.argmax(axis=1)


def exploring(predictions: Any, epsilon: float) -> Any:
    """The probabilities of the best prediction with probability 1 - epsilon, and any action otherwise."""
    p = np.full(predictions.shape, epsilon / ACTIONS)
    p[np.arange(len(p)), predictions.argmax(axis=1)] += 1 - epsilon
    return p


# ---- One payment after the other ------------------------------------------------------------------------------------


def online(options: Options) -> dict[str, Any]:
    """The successes (seeds, payments) of each way of choosing; all of them, with all seeds, run side by side."""
    x, right = images()
    n, runs = x.shape[1], len(ONLINE) * options.seeds
    inverse = np.tile(np.eye(n), (runs, ACTIONS, 1, 1))
    moment, theta, each = np.zeros((runs, ACTIONS, n)), np.zeros((runs, ACTIONS, n)), np.arange(runs)
    way, rng = np.repeat(np.arange(len(ONLINE)), options.seeds), np.random.default_rng(0)
    seen = np.random.default_rng(1).integers(0, len(x), (options.payments, options.seeds))
    successes = np.zeros((runs, options.payments), bool)
    for t in range(options.payments):
        at = np.tile(seen[t], len(ONLINE))
        f = np.einsum("ran,rn->ra", theta, x[at])
        f[way == 7] += 0.3 * np.sqrt(np.einsum("rn,ranm,rm->ra", x[at][way == 7], inverse[way == 7], x[at][way == 7]))
        scale = np.sqrt(ACTIONS * (t + 1))
        p = np.concatenate(
            [
                np.full((options.seeds, ACTIONS), 1 / ACTIONS),
                exploring(f[way == 1], 0),
                exploring(f[way == 2], 0.1),
                exploring(f[way == 3], min(1, (ACTIONS / (t + 1)) ** (1 / 3))),
                *(inverse_gap(f[way == 4 + k], c * scale) for k, c in enumerate((0.5, 1, 3))),
                exploring(f[way == 7], 0),
            ]
        )
        assert (np.abs(p.sum(axis=1) - 1) <= 1e-14).all() and (p.max(axis=1) >= 1 / ACTIONS - 1e-15).all()
        a = draw(p, rng)
        successes[:, t] = right[at] == a
        theta[each, a] = ridge_update(inverse, moment, (each, a), x[at], successes[:, t])
    return {name: successes[way == k] for k, name in enumerate(ONLINE)}


# ---- One generation of models after the other -----------------------------------------------------------------------

#: Name: how a generation chooses, the periods that its model learns from, and whether it weights by 1 / probability
GENERATIONS: dict[str, tuple[float | str, int, bool]] = {
    "uniform": ("uniform", 1, False),
    "epsilon .1": ("epsilon", 1, False),
    "gamma 10": (10.0, 1, False),
    "gamma 100": (100.0, 1, False),
    "gamma 1000": (1000.0, 1, False),
    "greedy": ("greedy", 1, False),
    "gamma 1000, weighted": (1000.0, 1, True),
    "gamma 1000, all periods": (1000.0, 1000, False),
    "greedy, all periods": ("greedy", 1000, False),
}


def fitted(x: Any, actions: Any, y: Any, weights: Any) -> Any:
    """The ridge regressions (actions, n) of the successes of each action."""
    theta = np.zeros((ACTIONS, x.shape[1]))
    for a in range(ACTIONS):
        chosen = actions == a
        weighted = x[chosen] * weights[chosen, None]
        theta[a] = np.linalg.solve(np.eye(x.shape[1]) + weighted.T @ x[chosen], weighted.T @ y[chosen])
    return theta


def generations(how: float | str, periods: int, is_weighted: bool, count: int, seed: int) -> list[float]:
    """The share of successes of each generation; the one before the first chooses at random."""
    (images_, right), rng = images(), np.random.default_rng(seed)
    theta, logs, shares = None, [], []
    for _ in range(count + 1):
        rows = rng.integers(0, len(images_), BATCH)
        x, p = images_[rows], np.full((BATCH, ACTIONS), 1 / ACTIONS)
        if theta is not None and how != "uniform":
            f = x @ theta.T
            p = exploring(f, {"greedy": 0.0, "epsilon": 0.1}[how]) if isinstance(how, str) else inverse_gap(f, how)
        a = draw(p, rng)
        y = (right[rows] == a).astype(float)
        weights = 1 / np.maximum(p[np.arange(BATCH), a], 1e-3) if is_weighted else np.ones(BATCH)
        logs.append((x, a, y, weights))
        theta = fitted(*(np.concatenate(parts) for parts in zip(*logs[-periods:], strict=True)))
        shares.append(float(y.mean()))
    return shares[1:]


def main(options: Options) -> None:
    successes = online(options)
    half = options.payments // 2
    means = {name: (rows.mean(), rows[:, half:].mean()) for name, rows in successes.items()}
    print(f"{'one after the other':26}{'success':>9}{'second half':>13}{'regret':>8}")
    for name, (mean, later) in means.items():
        print(f"{name:26}{mean:9.3f}{later:13.3f}{options.payments * (1 - mean):8.0f}")
    if options.payments >= 6000:
        order = [means[name] for name in ("SquareCB 3", "SquareCB 1", "epsilon .1", "epsilon decays")]
        assert (-np.diff(order, axis=0) >= 0.02).all() and order[0][0] - order[2][0] >= 0.08

    print("\n" + f"{'generation':26}" + "".join(f"{g + 1:7}" for g in range(options.generations)))
    curves = {}
    for name, how in GENERATIONS.items():
        runs = [generations(*how, options.generations, seed) for seed in range(options.runs)]
        curves[name] = np.mean(runs, axis=0)
        print(f"{name:26}" + "".join(f"{share:7.3f}" for share in curves[name]))
    for name in ("greedy", "gamma 1000"):
        assert (curves[name][0] - curves[name][1:] >= 0.1).all()
    assert curves["gamma 1000, weighted"][0] - curves["gamma 1000, weighted"][-1] >= 0.1
    for name in ("greedy, all periods", "gamma 1000, all periods"):
        assert (np.diff(curves[name]) >= -0.005).all()
    falls = [curves[name][0] - curves[name][-1] for name in ("greedy", "gamma 1000", "epsilon .1", "gamma 100")]
    assert falls[0] > falls[1] > 3 * max(falls[2:])

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in ("epsilon decays", "epsilon .1", "SquareCB 1", "SquareCB 3", "LinUCB .3"):
        left.plot((1 - successes[name].mean(axis=0)).cumsum(), label=name)
    left.set(xlabel="payments", ylabel="regret: failures", title="One after the other")
    left.legend()
    for name, curve in curves.items():
        if name != "uniform":
            style = "--" if "," in name else "-"
            right.plot(np.arange(1, len(curve) + 1), curve, style, marker="o", markersize=4, label=name)
    right.set(xlabel="generation", ylabel="share of successes", title="A new model each period")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right upper")
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
