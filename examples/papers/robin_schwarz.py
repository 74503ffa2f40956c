"""Robin conditions chosen by a bandit: within 1.1 of the best condition for each problem, after a hundred problems.

-Laplace u + kappa^2 u = f on two unit squares side by side. Each is solved alone, over and over; in between they
exchange Robin data, u_n + p u on their common side, and p decides how many times. The best p is known here: with the
smallest and largest eigenvalues D of the discrete Dirichlet-to-Neumann map it is sqrt(D_min D_max), 17.3 for kappa =
1 and a mesh of 1/32; the exchanges counted for six values of p agree with an independent computation within 5 %.

A sequence of problems with kappa from 1 to 100 is then solved by learners that know nothing of this: they see kappa
and how many exchanges their choice out of 20 values of p took. A Gaussian process over (kappa, p), which takes the p
of the lowest confidence bound, ends within 1.1 of the best choice for each problem, and at less than .75 of the best
single p. fastiter's ChebCB, which assumes nothing of similar choices, takes longer to learn and is shown for
comparison, with Tsallis-INF, which only looks for the best single p.

    python examples/papers/robin_schwarz.py  # seconds; writes robin_schwarz.png next to this file

:Paper: Meta Learning of Interface Conditions for Multi-Domain Physics-Informed Neural Networks (2022), arXiv
    2210.12669
:Shows: interface conditions chosen for each equation of a family by a contextual bandit with a Gaussian process
:Does not show: physics-informed networks, whose place a classical solver takes; several kinds of conditions; the
    variant with two phases
:Starts from: feedback
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _bandits import GaussianProcess
from _paper import OTHERS, command_line, figure_option, option, save
from matplotlib import pyplot

from fastiter.relax import ChebCB, TsallisINF

N = 32  # cells along a side
CHOICES = np.geomspace(1, 1000, 20)
MOST = 400
LAST = 50
#: Exchanges for kappa = 1 to 1e-8, by an independent computation
COUNTS = {1.0: 500, 3.0: 258, 10.0: 79, 17.3: 46, 30.0: 77, 100.0: 248}


@dataclass(frozen=True)
class Options:
    problems: int = option(150, "problems in a sequence")
    seeds: int = option(5, "sequences", 1)
    figure: Path = figure_option(__file__)


def modes(kappa: Any) -> tuple[Any, Any]:
    """Return, for each sine along the common side, -u'' + kappa^2 and the Dirichlet-to-Neumann map D, both per u."""
    m, h = np.arange(1, N), 1 / N
    eigenvalues = 4 / h**2 * np.sin(m * np.pi * h / 2) ** 2 + np.asarray(kappa)[..., None] ** 2
    theta = np.arccosh(1 + eigenvalues * h**2 / 2)
    decay = np.exp(-theta)  # sinh(theta (N - 1)) / sinh(theta N), without overflow
    ratio = decay * (1 - np.exp(-2 * theta * (N - 1))) / (1 - np.exp(-2 * theta * N))
    return eigenvalues, (1 - ratio) / h + h / 2 * eigenvalues


def best_p(kappa: float) -> float:
    D = modes(kappa)[1]
    return float(np.sqrt(D[0] * D[-1]))


def exchanges(kappa: float, p: float, tolerance: float) -> int:
    """Count the exchanges that reduce an error with all frequencies equally large, by solving in the squares.

    A square's unknowns are, for each sine, its N columns up to the common side, where u_n + p u = g.
    """
    eigenvalues, h = modes(kappa)[0], 1 / N
    A = np.zeros((N - 1, N, N))
    at = np.arange(N)
    A[:, at, at] = 2 / h**2 + eigenvalues[:, None]
    A[:, at[1:], at[:-1]] = A[:, at[:-1], at[1:]] = -1 / h**2
    A[:, -1, -1] = 1 / h + h / 2 * eigenvalues + p  # half a cell at the common side
    A[:, -1, -2] = -1 / h
    on_side = np.linalg.inv(A)[:, -1, -1]  # u on the common side for g = 1
    g = np.ones((2, N - 1))
    for count in range(1, MOST + 101):
        g = (2 * p * on_side * g - g)[::-1]
        if np.linalg.norm(g) <= tolerance * np.sqrt(g.size):
            return count
    return MOST + 100


def counts_by_modes(kappas: Any, tolerance: float) -> Any:
    """The number of exchanges of every choice (problems, choices), if all modes of the error are equally large."""
    D = modes(kappas)[1][:, None, :]
    p = CHOICES[:, None]
    rate = np.log(np.maximum(np.abs(D - p) / (D + p), 1e-300)).max(axis=2)
    return np.clip(np.ceil(np.log(tolerance) / rate), 1, MOST)


def by_gaussian_process(contexts: Any, costs: Any) -> Any:
    """Return the choices made along a sequence, each from the costs of those before it."""
    places = np.log10(CHOICES) / 3
    model = GaussianProcess(lengths=(0.5, 0.15), noise=1e-4)
    chosen = []
    for context, row in zip(contexts, costs, strict=True):
        mean, deviation = model.predict(np.stack([np.full(len(CHOICES), context), places], axis=1))
        chosen.append(int((mean - deviation).argmin()))
        model.add((context, places[chosen[-1]]), row[chosen[-1]])
    return np.array(chosen)


def by_tuner(tuner: Any, contexts: Any, costs: Any) -> Any:
    chosen = []
    for context, row in zip(contexts, costs, strict=True):
        chosen.append(tuner.ask(context))
        tuner.tell(chosen[-1], float(row[chosen[-1]]))
    return np.array(chosen)


def check_theory() -> None:
    assert abs(best_p(1.0) - 17.3) <= 0.1
    print(f"kappa = 1: the best p is {best_p(1.0):.2f}\n{'p':>6}{'exchanges':>11}{'expected':>10}")
    for p, expected in COUNTS.items():
        count = exchanges(1.0, p, 1e-8)
        print(f"{p:6}{count:11}{expected:10}")
        assert abs(count - expected) <= 0.05 * expected


def main(options: Options) -> None:
    check_theory()
    learned: dict[str, list[Any]] = {}
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        contexts = rng.random(options.problems)
        counts = counts_by_modes(100**contexts, 1e-6)
        costs, every = np.log10(counts), np.arange(options.problems)
        chosen = {
            "best p of each problem": counts.argmin(axis=1),
            "best single p": np.full(options.problems, counts.mean(axis=0).argmin()),
            "Gaussian process": by_gaussian_process(contexts, costs),
            "ChebCB": by_tuner(ChebCB(CHOICES, bounds=(0, 1), rng=seed), contexts, costs),
            "Tsallis-INF": by_tuner(TsallisINF(CHOICES, rng=seed), contexts, costs),
        }
        for name, choices in chosen.items():
            learned.setdefault(name, []).append(counts[every, choices])
    print(f"\n{'exchanges a problem':24}{'first 25':>10}{f'last {LAST}':>10}")
    means = {name: np.mean(runs, axis=0) for name, runs in learned.items()}
    for name, mean in means.items():
        print(f"{name:24}{mean[:25].mean():10.1f}{mean[-LAST:].mean():10.1f}")
    last = {name: mean[-LAST:].mean() for name, mean in means.items()}
    assert last["Gaussian process"] <= 1.1 * last["best p of each problem"]
    assert last["Gaussian process"] <= 0.75 * last["best single p"]

    figure, axes = pyplot.subplots(figsize=(8.5, 4), layout="constrained")
    colors = dict(zip(means, ("black", OTHERS, "tab:orange", "tab:blue", "tab:purple"), strict=True))
    for name, mean in means.items():
        axes.semilogy(np.convolve(mean, np.ones(10) / 10, "valid"), label=name, color=colors[name])
    axes.set(xlabel="problems solved", ylabel="exchanges a problem, means of 10", title="Learning the Robin parameter")
    figure.legend(loc="outside right upper")
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
