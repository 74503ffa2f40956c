"""Finding wrong labels by bilevel optimisation: a weight for each image ranks the clean ones first with AUC .98.

Of 800 digits, 40 % have a random label. The inner problem fits a regularised linear classifier to the weighted
images; the outer one chooses the weights, sigmoids of x, so that the classifier does well on 300 clean images. BO-REP
refines the first inner solution, updates it afterwards only every I-th iteration, with three steps, follows z for the
Hessian's linear system by one step an iteration, and takes steps of a fixed length along the mean of the outer
gradients.

Updating the inner solution every 20th iteration instead of every one costs .56 as many gradients and changes the
validation loss of the final weights by less than .002: that is the paper's point. On new images .93 of the answers
are right, .91 with all labels weighted alike and .93 with the clean ones alone.

The outer gradient at the inner solution is checked on 40 images: `fastiter.torch.fixedpoint.fixed_point`
differentiates the solution of the inner problem implicitly, and agrees with finite differences to 1e-6.

    python examples/papers/label_cleaning.py  # 3 to 60 seconds; writes label_cleaning.png next to this file

:Paper: Bilevel Optimization under Unbounded Smoothness: A New Algorithm and Convergence Analysis (2024), arXiv
    2401.09587
:Shows: data hyper-cleaning by BO-REP, and that periodic updates of the inner variable cost nothing
:Does not show: text, recurrent networks and unbounded smoothness, which are the reason for steps of a fixed length
:Starts from: a training run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot
from sklearn.metrics import roc_auc_score

from fastiter.torch.fixedpoint import fixed_point

TRAIN, VALIDATION, WRONG, RIDGE, ITERATIONS = 800, 300, 0.4, 5e-3, 400
REFINE, INNER, FINAL, RATE, Z_RATE, LENGTH, MEMORY = 200, 3, 1000, 1.0, 0.5, 0.5, 0.9


@dataclass(frozen=True)
class Options:
    periods: tuple[int, ...] = option((1, 2, 5, 20), "outer iterations for each update of the inner solution", (1, 20))
    figure: Path = figure_option(__file__)


class Part(NamedTuple):
    x: Any  # (n, 65)
    labels: Any  # (n, 10), one 1 in each row


def data() -> tuple[Part, Part, Part, Any]:
    """Training images with wrong labels, clean ones for validation, new ones; and which labels are right."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = np.column_stack([digits.data / 16, np.ones(len(order))])[order]
    target, rng = digits.target[order], np.random.default_rng(1)
    given = target.copy()
    some = rng.permutation(TRAIN)[: int(WRONG * TRAIN)]
    given[some] = rng.integers(0, 10, len(some))
    cuts = slice(TRAIN), slice(TRAIN, TRAIN + VALIDATION), slice(TRAIN + VALIDATION, None)
    train, validation, test = (Part(x[cut], np.eye(10)[given[cut]]) for cut in cuts)
    return train, validation, test, given[:TRAIN] == target[:TRAIN]


def softmax(z: Any) -> Any:
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def loss(w: Any, part: Part) -> float:
    """The mean cross-entropy."""
    return -float((np.log(softmax(part.x @ w)) * part.labels).sum(axis=1).mean())


def slope(w: Any, part: Part, weights: Any) -> Any:
    """The gradient of the mean of the weighted cross-entropies."""
    return part.x.T @ ((softmax(part.x @ w) - part.labels) * weights[:, None]) / len(part.x)


def hessian(w: Any, part: Part, weights: Any, z: Any) -> Any:
    """The second derivative of the inner problem times z."""
    p, moved = softmax(part.x @ w), part.x @ z
    change = p * (moved - (p * moved).sum(axis=1, keepdims=True))
    return part.x.T @ (change * weights[:, None]) / len(part.x) + 2 * RIDGE * z


def inner(w: Any, part: Part, weights: Any, steps: int) -> Any:
    """Gradient steps on the inner problem."""
    for _ in range(steps):
        w = w - RATE * (slope(w, part, weights) + 2 * RIDGE * w)
    return w


def clean(train: Part, validation: Part, period: int) -> tuple[Any, int]:
    """BO-REP: return x, and the number of gradients and products with Hessians that it took."""
    ones = np.ones(VALIDATION)
    x, mean = np.zeros(TRAIN), np.zeros(TRAIN)
    w = inner(np.zeros((65, 10)), train, sigmoid(x), REFINE)
    z, cost = np.zeros_like(w), REFINE
    for k in range(ITERATIONS):
        share = sigmoid(x)
        if k % period == 0:
            w, cost = inner(w, train, share, INNER), cost + INNER
        z = z - Z_RATE * (hessian(w, train, share, z) - slope(w, validation, ones))
        one_by_one = ((softmax(train.x @ w) - train.labels) * (train.x @ z)).sum(axis=1) / TRAIN
        mean = MEMORY * mean - (1 - MEMORY) * share * (1 - share) * one_by_one
        x = x - LENGTH * mean / np.linalg.norm(mean)
        cost += 3  # the Hessian's product, the validation's gradient, and the mixed derivatives
    return x, cost


def check_gradient(train: Part, validation: Part, images: int = 40) -> float:
    """The relative difference of the outer gradient by implicit differentiation from finite differences."""
    X, T = (torch.tensor(part[:images]) for part in train)
    V, U = (torch.tensor(part[:images]) for part in validation)

    def step(w: Any, x: Any) -> Any:
        error = (torch.softmax(X @ w, 1) - T) * torch.sigmoid(x)[:, None]
        return w - X.T @ error / images - 2 * RIDGE * w

    def outer(x: Any) -> Any:
        found = fixed_point(step, torch.zeros(65, 10, dtype=X.dtype), x, batched=False, rtol=1e-12, throw=True)
        return -(torch.log_softmax(V @ found.value, 1) * U).sum(1).mean()

    x = torch.linspace(-1, 1, images, dtype=X.dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(outer(x), x)
    directions = torch.tensor(np.random.default_rng(0).normal(size=(3, images)))
    differences = (
        torch.stack([outer((x + 1e-4 * d).detach()) - outer((x - 1e-4 * d).detach()) for d in directions]) / 2e-4
    )
    return float((directions @ gradient - differences).abs().max() / differences.abs().max())


def main(options: Options) -> None:
    torch.set_num_threads(1)
    train, validation, test, is_right = data()
    difference = check_gradient(train, validation)
    print(f"the outer gradient differs from finite differences by {difference:.0e}")
    assert difference <= 1e-6
    some = Part(train.x[is_right], train.labels[is_right])
    results: dict[str, list[float]] = {}

    def accuracy(w: Any) -> float:
        return float(((test.x @ w).argmax(axis=1) == test.labels.argmax(axis=1)).mean())

    for name, part in (("all labels", train), ("clean labels", some)):
        w = inner(np.zeros((65, 10)), part, np.ones(len(part.x)), FINAL)
        results[name] = [loss(w, validation), accuracy(w), np.nan, np.nan]
    for period in options.periods:
        x, cost = clean(train, validation, period)
        w = inner(np.zeros((65, 10)), train, sigmoid(x), FINAL)
        results[f"I = {period}"] = [loss(w, validation), accuracy(w), roc_auc_score(is_right, x), cost]
    print(f"{'':14}{'validation loss':>16}{'right':>8}{'AUC':>8}{'gradients':>11}")
    for name, (entropy, share, area, work) in results.items():
        print(f"{name:14}{entropy:16.4f}{share:8.3f}{area:8.3f}{work:11.0f}")
    first, last, noisy = results["I = 1"], results["I = 20"], results["all labels"]
    assert min(results[f"I = {period}"][2] for period in options.periods) >= 0.98
    assert abs(last[0] - first[0]) <= 0.002 and last[1] >= noisy[1] + 0.012
    assert last[3] <= 0.57 * first[3]

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    bins = np.linspace(x.min(), x.max(), 40)
    left.hist([x[is_right], x[~is_right]], bins, stacked=True, label=["right label", "wrong label"])
    left.set(xlabel="x, whose sigmoid is the weight", ylabel="images", title="Weights, inner updates every 20th time")
    left.legend()
    for period in options.periods:
        right.plot(results[f"I = {period}"][3], results[f"I = {period}"][0], "o", label=f"every {period}")
    right.axhline(noisy[0], color="0.6", label="all labels")
    right.axhline(results["clean labels"][0], color="black", linestyle=":", label="clean labels")
    right.set(xlabel="gradients and Hessian products", ylabel="validation loss", title="Inner updates", ylim=(0, None))
    right.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
