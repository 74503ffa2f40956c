"""A fixed classifier: models trained apart with the same simplex of class vectors read each other's features.

A retrieval system stores the features of its images. When the model is replaced, queries by the new model meet a
gallery of the old one. If the classifier's vectors are learned, the features of two models have nothing to do with
each other: the nearest neighbour of a query has its class in .1 of the cases. If they are fixed, the vertices of a
regular simplex with a vertex for each class that may ever come, both models put a class in the same direction, and a
new query in the old gallery is as good as an old one, less .01 at most, although the two models share neither data
order nor initial weights, and the old one has only seen half of the classes. The vertices' products are -1 / (K - 1)
to rounding.

    python examples/papers/simplex_classifier.py  # 3 to 60 seconds; writes simplex_classifier.png next to this file

:Paper: Stationary Representations: Optimally Approximating Compatibility and Implications for Improved Model
    Replacements (2024), arXiv 2405.02581
:Shows: that features of a d-simplex fixed classifier are compatible, and those of a learned one are not
:Does not show: sequences of fine-tuned and replaced models, large networks, and images other than digits
:Starts from: a training run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _paper import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib import pyplot
from torch import Tensor
from torch.nn import functional

CLASSES, SCALE, STEPS, BATCH, TRAIN = 10, 8.0, 100, 256, 1200


@dataclass(frozen=True)
class Options:
    seeds: int = option(3, "pairs of models", 1)
    old: tuple[int, ...] = option((5, 8), "classes that the old model has seen", (5,))
    figure: Path = figure_option(__file__)


def simplex(classes: int) -> Any:
    """The vertices (classes, classes - 1) of a regular simplex, as unit vectors around 0."""
    last = (1 - np.sqrt(classes)) / (classes - 1) * np.ones((1, classes - 1))
    vertices = np.concatenate([np.eye(classes - 1), last])
    vertices -= vertices.mean(axis=0)
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True)


def digits() -> tuple[Tensor, Tensor]:
    """The images (1797, 64) and their classes, in random order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return torch.tensor(data.data[order] / 16, dtype=torch.float32), torch.tensor(data.target[order])


def train(x: Tensor, labels: Tensor, is_fixed: bool, seed: int) -> torch.nn.Module:
    """A network whose features have a large cosine with the vector of their class."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, CLASSES - 1))
    vectors = torch.nn.Parameter(torch.randn(CLASSES, CLASSES - 1))
    parameters = [*network.parameters(), vectors]
    if is_fixed:
        vectors = torch.nn.Parameter(torch.tensor(simplex(CLASSES), dtype=torch.float32), requires_grad=False)
        parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(STEPS):
        some = torch.randint(len(x), (BATCH,))
        cosine = functional.normalize(network(x[some])) @ functional.normalize(vectors).T
        optimizer.zero_grad()
        functional.cross_entropy(SCALE * cosine, labels[some]).backward()
        optimizer.step()
    return network


@torch.no_grad()
def retrieved(query: torch.nn.Module, gallery: torch.nn.Module, x: Tensor, labels: Tensor, classes: int) -> float:
    """The share of queries (the last images) whose nearest neighbour in the gallery (the others) has their class."""
    first, last = labels[:TRAIN] < classes, labels[TRAIN:] < classes
    stored, asked = functional.normalize(gallery(x[:TRAIN][first])), functional.normalize(query(x[TRAIN:][last]))
    nearest = (asked @ stored.T).argmax(dim=1)
    return float((labels[:TRAIN][first][nearest] == labels[TRAIN:][last]).double().mean())


def compare(options: Options, is_fixed: bool) -> Any:
    """The accuracies (numbers of old classes, seeds, 3): old in the old gallery, new in the old, and new in the new."""
    x, labels = digits()
    results = np.zeros((len(options.old), options.seeds, 3))
    for i, classes in enumerate(options.old):
        seen = labels[:TRAIN] < classes
        for seed in range(options.seeds):
            old = train(x[:TRAIN][seen], labels[:TRAIN][seen], is_fixed, 2 * seed)
            new = train(x[:TRAIN], labels[:TRAIN], is_fixed, 2 * seed + 1)
            pairs = ((old, old), (new, old), (new, new))
            results[i, seed] = [retrieved(*pair, x, labels, classes) for pair in pairs]
    return results


def main(options: Options) -> None:
    torch.set_num_threads(1)
    products = simplex(CLASSES) @ simplex(CLASSES).T
    assert np.abs(products - (1 + 1 / 9) * np.eye(CLASSES) + 1 / 9).max() <= 4 * np.finfo(float).eps
    results = {"fixed simplex": compare(options, True), "learned vectors": compare(options, False)}
    print(f"{'classes, classifier':28}{'old in old':>12}{'new in old':>12}{'new in new':>12}")
    for i, classes in enumerate(options.old):
        for name, rows in results.items():
            print(f"{f'{classes} of {CLASSES}, {name}':28}" + "".join(f"{mean:12.3f}" for mean in rows[i].mean(axis=0)))
    fixed, learned = results.values()
    assert (fixed[:, :, 1] >= fixed[:, :, 0] - 0.01).all()
    assert (learned[:, :, 1].mean(axis=1) <= 0.3).all() and (learned[:, :, 0] >= 0.95).all()

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    names = ["old queries,\nold gallery", "new queries,\nold gallery", "new queries,\nnew gallery"]
    for shift, (name, rows), color in zip((-0.2, 0.2), results.items(), (OURS, OTHERS), strict=True):
        bars = axes.bar(np.arange(3) + shift, rows[0].mean(axis=0), width=0.38, color=color, label=name)
        axes.bar_label(bars, fmt="%.3f", padding=2)
    axes.set_xticks(range(3), names)
    axes.set(ylabel="right nearest neighbours", title=f"An old model of {options.old[0]} classes", ylim=(0, 1.3))
    axes.legend(ncols=2)
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
