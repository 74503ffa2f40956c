"""Learn to track a state from short sequences, and test the length generalisation: eigenvalues in [0, 1] and [-1, 1].

A sequence consists of elements of a group, and the target at each step is their product so far: parity (Z2), counting
modulo 3 (Z3), the permutations of three objects (S3). A linear recurrence with positive eigenvalues can keep and
forget, but not alternate, and fails at all three. With eigenvalues down to -1 it can alternate, which solves parity.
Counting modulo 3 takes a rotation: a complex eigenvalue, or two reflections per step (DeltaProduct); S3, whose elements
do not commute, takes the reflections. Each model has one layer, is trained on up to 40 steps, and tested on 160.

    python examples/papers/state_tracking.py  # 2 to 20 minutes; writes state_tracking.png next to this file
    python examples/papers/state_tracking.py --help

:Paper: Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues (2025), arXiv 2411.12537; DeltaProduct:
    Improving State-Tracking in Linear RNNs via Householder Products (2025), arXiv 2502.10297
:Shows: which eigenvalues learn parity, counting modulo 3 and the permutations of three objects
:Does not show: language models, and larger groups
:Starts from: a training run
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from _paper import command_line, figure_option, option, progress, save
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastiter
from fastiter.torch.nn import DeltaNet, LinearRNN

LONGER = 4  # tested at this many times the length
TEST_SEQUENCES = 512
LEARNING_RATE = 1e-2
# Without it a state that is just accurate enough at the training length has no gradient, and drifts at longer lengths.
LABEL_SMOOTHING = 0.1


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    steps: int = option(800, "optimizer steps of each model", 20)
    length: int = option(40, "longest sequence in training", 8)
    width: int = option(64, "features of a layer", 16)
    batch: int = option(32, "sequences in a batch")
    seed: int = option(0, "seed of the weights and the sequences")
    processes: int = option(CORES, "models trained at a time")
    figure: Path = figure_option(__file__)


# ---- The tasks ------------------------------------------------------------------------------------------------------


def cyclic(n: int) -> Tensor:
    """Entry (i, j) is the number of the element i j of the group: here i + j modulo n."""
    return (torch.arange(n).unsqueeze(1) + torch.arange(n)) % n


def symmetric(n: int) -> Tensor:
    elements = list(itertools.permutations(range(n)))
    return torch.tensor([[elements.index(tuple(p[i] for i in q)) for q in elements] for p in elements])


TASKS = {"parity": cyclic(2), "modulo 3": cyclic(3), "S3": symmetric(3)}


def draw_sequences(group: Tensor, batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random elements (batch, length), and their products so far; element 0 is the identity."""
    elements = torch.randint(len(group), (batch, length), generator=generator)
    product, products = torch.zeros(batch, dtype=torch.int64), []
    for element in elements.unbind(1):
        product = group[element, product]
        products.append(product)
    return elements, torch.stack(products, 1)


# ---- The models -----------------------------------------------------------------------------------------------------

LinearOf = partial(LinearRNN, batch_first=True)
DeltaOf = partial(DeltaNet, num_heads=4, batch_first=True, conv_size=0)
LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "LinearRNN, [0, 1]": partial(LinearOf, eigenvalues="positive"),
    "LinearRNN, [-1, 1]": partial(LinearOf, eigenvalues="signed"),
    "LinearRNN, complex": partial(LinearOf, eigenvalues="complex"),
    "DeltaNet, [0, 1]": partial(DeltaOf, eigenvalues="positive"),
    "DeltaNet, [-1, 1]": partial(DeltaOf, eigenvalues="signed"),
    "DeltaProduct of 2, [0, 1]": partial(DeltaOf, eigenvalues="positive", num_householder=2),
    "DeltaProduct of 2, [-1, 1]": partial(DeltaOf, eigenvalues="signed", num_householder=2),
}


class Tracker(nn.Module):
    """Embedding -> one recurrent layer -> Linear."""

    def __init__(self, layer: Callable[[int, int], nn.Module], elements: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(elements, width)
        self.layer = layer(width, width)
        self.output = nn.Linear(width, elements)

    def forward(self, elements: Tensor) -> Tensor:
        h, _ = self.layer(self.embedding(elements))
        return self.output(h)


def train(model: Tracker, group: Tensor, options: Options, generator: torch.Generator) -> None:
    """Train on sequences that grow from 3 steps to the full length during the first 60 % of the training."""
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=options.steps, pct_start=0.1)
    for step in range(options.steps):
        length = min(options.length, 3 + round((options.length - 3) * step / (0.6 * options.steps)))
        elements, products = draw_sequences(group, options.batch, length, generator)
        logits = model(elements).flatten(0, 1)
        loss = cross_entropy(logits, products.flatten(), label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def fit(task: str, layer: str, options: Options) -> list[float]:
    """Train one model, and return its accuracy at each step of long sequences."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    group = TASKS[task]
    model = Tracker(LAYERS[layer], len(group), options.width)
    train(model, group, options, generator)
    elements, products = draw_sequences(group, TEST_SEQUENCES, LONGER * options.length, generator)
    with torch.no_grad():
        right = model(elements).argmax(-1) == products
    return right.double().mean(0).tolist()


def one_thread() -> None:
    torch.set_num_threads(1)
    fastiter.set_num_threads(1)


Accuracies = dict[tuple[str, str], Tensor]


def fit_all(options: Options) -> Accuracies:
    """Train every layer on every task: each model on one thread, as many at a time as there are processes."""
    accuracies = {}
    pool = ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn"), one_thread)
    # the longest first, to balance the load of the processes
    pairs = [(task, layer) for task in TASKS for layer in reversed(LAYERS)]
    with pool, progress(len(pairs), "models") as bar:
        jobs = {pool.submit(fit, *pair, options): pair for pair in pairs}
        for job in as_completed(jobs):
            accuracies[jobs[job]] = torch.tensor(job.result())
            bar.update()
    return accuracies


# ---- The results ----------------------------------------------------------------------------------------------------


def print_results(accuracies: Accuracies, length: int) -> None:
    print(f"\naccuracy at steps {length + 1} to {LONGER * length} (at 1 to {length}, the lengths of training)\n")
    print(f"{'':28}" + "".join(f"{task:>16}" for task in TASKS))
    for layer in LAYERS:
        curves = [accuracies[task, layer] for task in TASKS]
        cells = [f"{curve[length:].mean():.3f} ({curve[:length].mean():.3f})" for curve in curves]
        print(f"{layer:28}" + "".join(f"{cell:>16}" for cell in cells))
    print(f"{'guessing':28}" + "".join(f"{1 / len(group):.3f}        ".rjust(16) for group in TASKS.values()))


STYLES = {"[0, 1]": ":", "[-1, 1]": "-", "complex": "--"}


def draw(accuracies: Accuracies, length: int, path: Path) -> None:
    """A color for each layer, and a line style for its eigenvalues."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    colors = {"LinearRNN": "tab:blue", "DeltaNet": "tab:orange", "DeltaProduct of 2": "black"}
    panels = figure.subplots(1, len(TASKS), sharey=True)
    for axes, (task, group) in zip(panels, TASKS.items(), strict=True):
        for name in LAYERS:
            layer, _, eigenvalues = name.partition(", ")
            style = {"color": colors[layer], "linestyle": STYLES[eigenvalues], "label": name}
            axes.plot(range(1, LONGER * length + 1), accuracies[task, name], **style)
        axes.axvline(length, color="0.7", linewidth=0.8)
        axes.axhline(1 / len(group), color="0.7", linewidth=0.8)
        axes.set(title=task, xlabel="step", xlim=(1, LONGER * length), ylim=(0, 1.03))
    panels[0].set_ylabel("accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    title = (
        "Eigenvalues: dotted in [0, 1], solid in [-1, 1], dashed complex. Grey: the length in training, and guessing"
    )
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=3, frameon=False)
    print()
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    accuracies = fit_all(options)
    print_results(accuracies, options.length)
    draw(accuracies, options.length, options.figure)


if __name__ == "__main__":
    main()
