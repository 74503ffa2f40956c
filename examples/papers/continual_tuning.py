"""Tuning for continual learning in two phases: hyperparameters are chosen on some classes and used on other ones.

Papers on continual learning usually choose the hyperparameters of a method by its result on the test scenario itself.
The protocol with two phases chooses them on another scenario, made of other data in the same way, and reports what
they give on the test scenario. Here both are digits: 0 to 4 for tuning, 5 to 9 for the test, in three tasks of two,
two and one classes in random order, for a network with one output a class.

Three methods: plain training, replay of ten stored images a task, and elastic weight consolidation (EWC). What was
chosen on the first scenario is never better on the second one than what is best there, and the ranking of the methods
is the same in both. Replay transfers well, as the two scenarios rank its hyperparameters alike (Kendall's tau .85),
and its accuracy is .93, .01 less than the best there. EWC, whose hyperparameters are ranked less alike (.54), and
plain training stay near the fifth of the images that belong to the last class.

    python examples/papers/continual_tuning.py  # 20 seconds to 6 minutes; writes continual_tuning.png next to this file

:Paper: Hyperparameters in Continual Learning: A Reality Check (2024), arXiv 2403.09066
:Shows: the protocol with two phases, beside the usual one
:Does not show: the paper's result, that some recent methods are not better than older ones if tuned in this way,
    which needs its methods and data sets (CIFAR-100, ImageNet-100)
:Starts from: a training run
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from _networks import Networks, digits
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, save
from matplotlib import pyplot

TASKS, STORED, BATCH, FISHER = ((0, 2), (2, 4), (4, 5)), 10, 32, 200
RATES = (0.01, 0.03, 0.1, 0.3)
GRIDS: dict[str, list[tuple[float, float]]] = {
    "plain": [(rate, 0.0) for rate in (*RATES, 1.0)],
    "replay": list(product(RATES, (0.3, 1.0, 3.0, 10.0))),
    "EWC": list(product(RATES, (1.0, 10.0, 100.0, 1000.0))),
}


@dataclass(frozen=True)
class Options:
    seeds: int = option(3, "orders of the classes", 1)
    steps: int = option(150, "steps of a task", 60)
    figure: Path = figure_option(__file__)


def scenario(first: int) -> tuple[Any, Any, Any, Any]:
    """Training and test images of five classes, and the classes from 0 to 4."""
    images, labels = digits()
    some = (labels >= first) & (labels < first + 5)
    images, labels = images[some], labels[some] - first
    cut = 2 * len(images) // 3
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def final_accuracy(method: str, first: int, options: Options) -> Any:
    """The mean accuracy on all five classes after the last task, for each point of the method's grid.

    All points and seeds are trained side by side; the points of a seed see the same images.
    """
    grid, seeds = GRIDS[method], options.seeds
    images, labels, test, answers = scenario(first)
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(5) for _ in range(seeds)])
    networks = Networks(rng, seeds, 5)
    networks.weights = [np.tile(w, (len(grid), 1, 1)) for w in networks.weights]
    networks.speed = [np.zeros_like(w) for w in networks.weights]
    rate, strength = (np.repeat(column, seeds).astype(np.float32)[:, None, None] for column in np.array(grid).T)
    memory: list[Any] = []
    anchors: list[tuple[list[Any], list[Any]]] = []  # Fisher information and weights after each task
    for begin, end in TASKS:
        of_task = [np.flatnonzero(np.isin(labels, order[begin:end])) for order in orders]
        for _ in range(options.steps):
            some = np.tile(np.array([rng.choice(rows, BATCH) for rows in of_task]), (len(grid), 1))
            gradients = networks.gradients(images[some], labels[some])
            if method == "replay" and memory:
                again = np.tile(np.concatenate(memory, axis=1), (len(grid), 1))
                replayed = networks.gradients(images[again], labels[again])
                gradients = [g + strength * r for g, r in zip(gradients, replayed, strict=True)]
            for fisher, anchor in anchors:
                moved = zip(gradients, fisher, networks.weights, anchor, strict=True)
                # The step of a large penalty is limited to one that returns to the anchor.
                gradients = [g + np.minimum(strength * f, 1 / rate) * (w - a) for g, f, w, a in moved]
            networks.step(gradients, rate, 0.0)
        memory.append(np.array([rng.choice(rows, STORED, replace=False) for rows in of_task]))
        if method == "EWC":
            some = np.tile(np.array([rng.choice(rows, FISHER) for rows in of_task]), (len(grid), 1))
            anchors.append((networks.gradients(images[some], labels[some], 2), [w.copy() for w in networks.weights]))
    return networks.accuracy(test, answers).reshape(len(grid), seeds).mean(axis=1)


def main(options: Options) -> None:
    rows, points = {}, {}
    print(f"{'':10}{'tuned':>8}{'used':>8}{'best there':>12}{'tau':>7}   rate and strength: chosen, best")
    for method, grid in GRIDS.items():
        tuning, test = (final_accuracy(method, first, options) for first in (0, 5))
        chosen, best = int(tuning.argmax()), int(test.argmax())
        tau = float(scipy.stats.kendalltau(tuning, test).statistic)  # NaN if all points have the same accuracy
        rows[method] = [float(tuning[chosen]), float(test[chosen]), float(test[best]), tau]
        points[method] = tuning, test
        print(f"{method:10}" + "".join(f"{x:{w}.3f}" for x, w in zip(rows[method], (8, 8, 12, 7), strict=True)), end="")
        print(f"   {grid[chosen]}, {grid[best]}")

    assert all(used <= best for _, used, best, _ in rows.values())
    assert sorted(rows, key=lambda name: rows[name][0]) == sorted(rows, key=lambda name: rows[name][1])

    if options.seeds >= 3:
        assert rows["replay"][3] >= 0.8 > 0.6 >= rows["EWC"][3]
        assert rows["replay"][1] >= 0.92 and max(rows["EWC"][2], rows["plain"][2]) <= 0.3

    figure, axes = pyplot.subplots(figsize=(5.5, 4.5), layout="constrained")
    for (method, (tuning, test)), color in zip(points.items(), (OTHERS, OURS, THEIRS), strict=True):
        chosen = int(tuning.argmax())
        axes.plot(tuning, test, "o", color=color, markersize=4, label=method)
        axes.plot(tuning[chosen], test[chosen], "o", color=color, markersize=12, fillstyle="none")
    axes.plot([0, 1], [0, 1], ":", color="0.7")
    axes.set(
        xlabel="accuracy where they are tuned, digits 0 to 4", ylabel="accuracy where they are used, digits 5 to 9"
    )
    axes.set_title("Hyperparameters; the chosen ones are circled")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
