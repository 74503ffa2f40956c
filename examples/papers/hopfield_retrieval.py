"""Digits from half of their pixels: retrieval by a modern Hopfield network, its capacity, and a bound on its error.

scikit-learn's images of digits are stored, each centred and of norm 1; the lower half of a query is grey. Retrieval
fails if other images have nearly the same upper half, so that it gets harder with more stored images, and beta
determines whether one image or an average of several is retrieved.

The bound of Ramsauer et al., "Hopfield networks is all you need" (2021), for one update of a state near a stored
pattern is checked on random patterns: the error is exponentially small in beta.

    python examples/papers/hopfield_retrieval.py  # 10 seconds to 3 minutes; writes hopfield_retrieval.png
    python examples/papers/hopfield_retrieval.py --help

:Paper: Hopfield Networks Is All You Need (2021), arXiv 2008.02217
:Shows: retrieval in one update, falling energy, and the bound on the retrieval's error
:Does not show: the layers inside a trained network
:Starts from: a map
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, save
from matplotlib import pyplot
from matplotlib.axes import Axes
from sklearn.datasets import load_digits

from fastiter.fixedpoint import hopfield_energy, hopfield_update

Array = npt.NDArray[Any]
SIDE, PATTERNS, WIDTH, RADIUS = 8, 60, 80, 2.0
BETAS = np.linspace(0.02, 0.2, 10)  # for the check of the bound


@dataclass(frozen=True)
class Options:
    stored: tuple[int, ...] = option((30, 100, 300, 1000, 1797), "numbers of stored images", (30, 300))
    betas: tuple[float, ...] = option((4.0, 16.0, 64.0, 256.0), "inverse temperatures", (16.0, 64.0))
    figure: Path = figure_option(__file__)


def images() -> Array:
    """Return all digits, centred, of norm 1."""
    digits = load_digits().data / 16
    digits = np.random.default_rng(0).permutation(digits - digits.mean(axis=0))
    normed: Array = digits / np.linalg.norm(digits, axis=1, keepdims=True)
    return normed


def halves(patterns: Array) -> Array:
    """Return the images with their lower halves grey."""
    upper = np.arange(SIDE * SIDE) < SIDE * SIDE // 2
    return np.where(upper, patterns, 0)


def retrieved(patterns: Array, beta: float) -> tuple[float, float]:
    """Return the fraction of images that are retrieved from their halves, and the mean number of updates."""
    queries = halves(patterns)
    result = hopfield_update(queries, patterns, beta=beta)
    before, after = (hopfield_energy(x, patterns, beta=beta) for x in (queries, result.value))
    assert result.converged.all() and (after <= before + 1e-12).all()
    nearest = (result.value @ patterns.T).argmax(axis=1)
    is_right = (nearest == np.arange(len(patterns))) & (np.linalg.norm(result.value - patterns, axis=1) < 0.5)
    return float(is_right.mean()), float(result.steps.mean())


def bounds() -> tuple[Array, Array]:
    """Return the largest error of one update for each of BETAS, and the bound of the paper."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((PATTERNS, WIDTH))
    x *= RADIUS * np.sqrt(WIDTH - 1) / np.linalg.norm(x, axis=1, keepdims=True)
    away = rng.standard_normal((PATTERNS, WIDTH))
    state = x + away / np.linalg.norm(away, axis=1, keepdims=True)
    products, M = x @ x.T, RADIUS * np.sqrt(WIDTH - 1)
    np.fill_diagonal(products, -np.inf)
    separation = M**2 - products.max(axis=1)
    errors, limits = [], []
    for beta in BETAS:
        fixed = hopfield_update(x, x, beta=float(beta), rtol=1e-14).value
        far = np.maximum(np.linalg.norm(state - x, axis=1), np.linalg.norm(fixed - x, axis=1))
        bound = 2 * (PATTERNS - 1) * np.exp(-beta * (separation - 2 * far * M)) * M
        error = np.linalg.norm(hopfield_update(state, x, beta=float(beta), steps=1).value - x, axis=1)
        assert (error <= bound + 1e-13 * M).all()
        errors.append(error.max())
        limits.append(bound.max())
    return np.array(errors), np.array(limits)


def show_images(axes: Axes, patterns: Array, beta: float) -> None:
    """Draw some queries and the images that they retrieve."""
    queries = halves(patterns[:6])
    result = hopfield_update(queries, patterns, beta=beta).value
    rows = [np.hstack([x.reshape(SIDE, SIDE) for x in each]) for each in (queries, result, patterns[:6])]
    axes.imshow(np.vstack(rows), cmap="gray_r")
    axes.set(xticks=[], yticks=[3.5, 11.5, 19.5], title=f"{len(patterns)} stored, beta {beta:g}")
    axes.set_yticklabels(["query", "retrieved", "stored"])


def main() -> None:
    options = command_line(Options, __doc__)
    digits = images()
    print(f"{'stored':>8}" + "".join(f"{f'beta {beta:g}':>18}" for beta in options.betas))
    shares: dict[float, list[float]] = {beta: [] for beta in options.betas}
    for count in options.stored:
        line = f"{count:8}"
        for beta in options.betas:
            share, updates = retrieved(digits[:count], beta)
            shares[beta].append(share)
            line += f"{share:9.1%} {updates:5.1f} up."
        print(line)
    errors, limits = bounds()
    print(f"one update: error {errors[0]:.1e} to {errors[-1]:.1e}, bound {limits[0]:.1e} to {limits[-1]:.1e}")
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    show_images(left, digits[: options.stored[-1]], options.betas[-1])
    shades = [OTHERS, THEIRS, OURS, "tab:blue"]
    for color, (beta, each) in zip(shades, shares.items(), strict=False):
        middle.semilogx(options.stored, each, "o-", color=color, label=f"beta {beta:g}")
    middle.set(xlabel="stored images", ylabel="retrieved from the upper half", ylim=(0, 1.02))
    middle.legend()
    right.semilogy(BETAS, errors, color=OURS, label="largest error of one update")
    right.semilogy(BETAS, limits, "--", color=THEIRS, label="bound")
    right.set(xlabel="beta", title=f"{PATTERNS} random patterns, D {WIDTH}")
    right.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
