"""Refinement with an inexact solver: a constant-coefficient Poisson solver solves diffusion with a varying coefficient.

The equation -div(a grad u) = 1 on the unit square, a = 2 + sin(2 pi x) cos(2 pi y), by five-point differences; the
approximate solver is the exact inverse for a = 2, by sine transforms. Eigenvalues of I - S A lie within [-1/2, 1/2], as
a is from 1 to 3, on every grid (arXiv 2509.05117 refines a learned solver in this way).

:Paper: HyPINO: Multi-Physics Neural Operators via HyperPINNs and the Method of Manufactured Solutions (2025), arXiv
    2509.05117
:Shows: errors a hundred times smaller after a few refinements by residuals, on every grid
:Does not show: the hypernetwork: the approximate solver is one for another coefficient
:Starts from: a matrix
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, save
from matplotlib import pyplot
from scipy.fft import dstn

from fastiter import Progress
from fastiter.fixedpoint import refine

Array = Any


@dataclass(frozen=True)
class Options:
    sizes: tuple[int, ...] = option((31, 127, 255), "interior points on one side of each grid", (15, 31))
    figure: Path = figure_option(__file__)


def coefficient(x: Array, y: Array) -> Array:
    return 2 + np.sin(2 * np.pi * x) * np.cos(2 * np.pi * y)


def diffusion(n: int) -> Any:
    """Return A for the grid: the coefficient of a face is the mean of its two points."""
    h = 1 / (n + 1)
    at = np.arange(n + 2) * h
    a = coefficient(at[:, None], at[None, :])
    down, right = (a[1:, 1:-1] + a[:-1, 1:-1]) / 2, (a[1:-1, 1:] + a[1:-1, :-1]) / 2

    def apply(u: Array) -> Array:
        whole = np.pad(u, 1)
        flux_down, flux_right = down * np.diff(whole[:, 1:-1], axis=0), right * np.diff(whole[1:-1], axis=1)
        return -(np.diff(flux_down, axis=0) + np.diff(flux_right, axis=1)) / h**2

    return apply


def poisson(n: int) -> Any:
    """Return the exact inverse for a = 2."""
    values = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    eigenvalues = 2 * (values[:, None] + values) * (n + 1) ** 2

    def solve(r: Array) -> Array:
        transformed = dstn(r, type=1) / eigenvalues
        return dstn(transformed, type=1) / (2 * (n + 1)) ** 2

    return solve


def errors(n: int, exact: Array) -> list[float]:
    """Return the relative errors of S b and of up to seven refinements of it."""
    iterates: list[Array] = []

    def record(progress: Progress) -> bool:
        iterates.append(progress.value)
        return len(iterates) > 8

    refine(diffusion(n), poisson(n), np.ones((n, n)), rtol=1e-8, callback=record)
    return [float(np.linalg.norm(u - exact) / np.linalg.norm(exact)) for u in iterates[1:]]


def draw(curves: dict[str, tuple[Array, Array]], path: Path) -> None:
    """Draw the residuals of both methods, with a marker for each grid: nested, as the curves nearly coincide."""
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for k, (grid, histories) in enumerate(curves.items()):
        for history, color in zip(histories, (THEIRS, OURS), strict=True):
            size = 9 * (len(curves) - k) / len(curves)
            style: dict[str, Any] = {"marker": "os^"[k % 3], "markersize": size, "fillstyle": "none", "linewidth": 0.8}
            axes.semilogy(history / history[0], color=color, label=grid, **style)
    axes.semilogy(0.5 ** np.arange(25), color=OTHERS, linewidth=0.8)
    axes.annotate("one half a step", (16, 0.5**16), (8, 6), textcoords="offset points", color=OTHERS)
    for name, line, at in (("refinement", axes.lines[0], 21), ("with Anderson's method", axes.lines[1], 9)):
        place = at, np.asarray(line.get_ydata())[at]
        axes.annotate(name, place, (-8, -14), textcoords="offset points", color=line.get_color(), ha="right")
    axes.set(xlabel="corrections", ylabel="||b - A u|| / ||b||", title="refinement takes as many steps on every grid")
    axes.legend(handles=axes.lines[:-1:2], title="grid")
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    curves: dict[str, tuple[Array, Array]] = {}
    print(f"{'grid':>10}{'refinements to 1e-8':>22}{'with Anderson':>16}   error after 0, 1, ... refinements")
    for n in options.sizes:
        A, S, b = diffusion(n), poisson(n), np.ones((n, n))
        plain = refine(A, S, b, rtol=1e-8)
        mixed = refine(A, S, b, rtol=1e-8, method="anderson")
        exact = refine(A, S, b, rtol=1e-12, method="anderson").value
        left = errors(n, exact)
        shown = " ".join(f"{error:.1e}" for error in left)
        print(f"{n:5} x {n:<3}{plain.steps - 1:21}{mixed.steps - 1:16}   {shown}")
        # S b counts as zero refinements; rounding affects the last digits of exact.
        assert abs(plain.steps - 1 - 23) <= 1 and mixed.steps < plain.steps
        assert all(after <= 0.5 * before for before, after in pairwise(left))
        assert left[5] < left[0] / 100 and left[2] ** 2 < left[0] ** 2 / 100
        curves[f"{n} x {n}"] = plain.history, mixed.history
    draw(curves, options.figure)


if __name__ == "__main__":
    main()
