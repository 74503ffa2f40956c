"""The stability gap: with replay, accuracy on the old task falls by .05 and more within 20 steps, and then comes back.

A network has learned digits and goes on with a changed version of them, while half of each gradient comes from 200
stored old images. Measured only at the end of the new task, replay forgets little: the accuracy on the old task is
within .05 of where it was. Measured after every step, it drops right at the start. The gap is large for rotated
digits and permuted pixels, and nearly absent (.03) for slightly brighter images. Without replay the loss is
permanent.

    python examples/papers/stability_gap.py  # 3 to 60 seconds; writes stability_gap.png next to this file

:Paper: Continual Evaluation for Lifelong Learning: Identifying the Stability Gap (2022), arXiv 2205.13452
:Shows: the gap with experience replay, its dependence on the similarity of the tasks, and the recovery
:Does not show: methods of regularisation and distillation, which have the gap as well, and larger data sets
:Starts from: a training run
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _networks import Networks, digits
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot

TRAIN, STORED, BATCH, RATE, MOMENTUM = 1200, 200, 64, 0.1, 0.9
SOON, BACK, SMALL = 20, 0.05, 0.03


@dataclass(frozen=True)
class Options:
    seeds: int = option(10, "runs", 2)
    first: int = option(400, "steps on the old task")
    second: int = option(400, "steps on the new task")
    figure: Path = figure_option(__file__)


def permuted(x: Any) -> Any:
    return x[:, np.random.default_rng(1).permutation(64)]


CHANGES: dict[str, Callable[[Any], Any]] = {
    "brighter": lambda x: x + np.float32(0.1),
    "rotated by 90 degrees": lambda x: np.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64),
    "permuted pixels": permuted,
}


def run(change: Callable[[Any], Any], has_replay: bool, options: Options) -> Any:
    """The accuracies (steps + 1, seeds) on the old task before the new one and after each of its steps."""
    images, labels = digits()
    rng, runs = np.random.default_rng(0), options.seeds
    networks, new = Networks(rng, runs, 10), np.ascontiguousarray(change(images))
    for _ in range(options.first):
        some = rng.integers(0, TRAIN, (runs, BATCH))
        networks.step(networks.gradients(images[some], labels[some]), RATE, MOMENTUM)
    stored = np.array([rng.permutation(TRAIN)[:STORED] for _ in range(runs)])
    accuracies = [networks.accuracy(images[TRAIN:], labels[TRAIN:])]
    for _ in range(options.second):
        some = rng.integers(0, TRAIN, (runs, BATCH))
        gradients = networks.gradients(new[some], labels[some])
        if has_replay:
            again = np.take_along_axis(stored, rng.integers(0, STORED, (runs, BATCH)), axis=1)
            replayed = networks.gradients(images[again], labels[again])
            gradients = [(a + b) / 2 for a, b in zip(gradients, replayed, strict=True)]
        networks.step(gradients, RATE, MOMENTUM)
        accuracies.append(networks.accuracy(images[TRAIN:], labels[TRAIN:]))
    return np.array(accuracies)


def main(options: Options) -> None:
    curves = {}
    print(f"{'new task':36}{'before':>8}{'minimum':>9}{'at step':>9}{'end':>7}")
    for name, change in [*CHANGES.items(), ("permuted pixels, no replay", permuted)]:
        curves[name] = mean = run(change, "no replay" not in name, options).mean(axis=1)
        print(f"{name:36}{mean[0]:8.3f}{mean.min():9.3f}{mean.argmin():9}{mean[-1]:7.3f}")
    for name in ("rotated by 90 degrees", "permuted pixels"):
        mean = curves[name]
        assert mean[0] - mean[: SOON + 1].min() >= 0.05 and mean[0] - mean[-1] <= BACK
    assert curves["brighter"][0] - curves["brighter"].min() <= SMALL
    assert curves["permuted pixels, no replay"][-1] <= 0.5

    figure, axes = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    for name, mean in curves.items():
        axes.semilogx(np.arange(len(mean)) + 1, mean, label=name)
    axes.set(xlabel="steps on the new task, 1 + number", ylabel="accuracy on the old task", title="The stability gap")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
