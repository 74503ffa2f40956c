"""Smoothing a path as a fixed point: P <- (C + lam sum of w P of the neighbours) / (1 + lam sum of w).

The weights are Gaussian over 15 frames on both sides (arXiv 2307.12774). The iteration is Jacobi's method for the
banded system (I + lam L) P = C, and slow if lam is large; Anderson acceleration of the same steps is faster.

:Paper: Fast Full-frame Video Stabilization with Iterative Optimization (2023), arXiv 2307.12774
:Shows: the smoothing step as a fixed point, and its acceleration
:Does not show: videos, optical flow and outpainting
:Starts from: a map
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot
from scipy.linalg import solve_banded

from fastiter import ConvergenceWarning
from fastiter.fixedpoint import fixed_point

Array = Any
R, TOL = 15, 1e-8


@dataclass(frozen=True)
class Options:
    frames: int = option(200, "frames of the path", 200)
    strengths: tuple[float, ...] = option((1.0, 10.0, 100.0), "values of lam", (1.0, 10.0))
    figure: Path = figure_option(__file__)


def path(frames: int) -> Array:
    """Return a shaky camera's path (frames, 2): a drift, a slow swing and a random walk."""
    t = np.arange(frames)[:, None]
    steps = 0.5 + np.random.default_rng(0).normal(size=(frames, 2))
    return np.cumsum(steps, axis=0) + 2 * np.sin(t / 40)


def smoothing(C: Array, lam: float) -> tuple[Any, Array, Array]:
    """Return the map, the bands of I + lam L for ``solve_banded``, and the rates of the rows, lam w / (1 + lam w)."""
    frames, distance = len(C), np.arange(-R, R + 1)
    weights = np.where(distance == 0, 0, np.exp(-(distance**2) / (2 * (R / 3) ** 2)))
    total = np.convolve(np.ones(frames), weights, mode="same")  # fewer neighbours at both ends

    def f(P: Array) -> Array:
        around = np.stack([np.convolve(P[:, k], weights, mode="same") for k in range(P.shape[1])], axis=1)
        return (C + lam * around) / (1 + lam * total)[:, None]

    bands = np.repeat(-lam * weights[:, None], frames, axis=1)
    bands[R] = 1 + lam * total
    return f, bands, lam * total / (1 + lam * total)


def main() -> None:
    options = command_line(Options, __doc__)
    C = path(options.frames)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(*C.T, color="lightgrey", label="as recorded")
    print(f"{'lam':>6}{'Jacobi':>8}{'Anderson':>10}{'ratio':>8}{'error':>10}{'roughness falls by':>20}")
    for lam in options.strengths:
        f, bands, rates = smoothing(C, lam)
        # The change of a step is f(P) - P, in the largest coordinate.
        limits: dict[str, Any] = {"batched": False, "rtol": 0.0, "atol": TOL, "norm": "inf", "max_steps": 20_000}
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            jacobi = fixed_point(f, C, method="picard", **limits)
            mixed = fixed_point(f, C, m=5, **limits)
        exact = solve_banded((R, R), bands, C)
        error = float(np.abs(mixed.value - exact).max())
        ratio = mixed.evaluations / jacobi.evaluations
        roughness = [float((np.diff(each, 2, axis=0) ** 2).sum()) for each in (C, mixed.value)]
        print(
            f"{lam:6g}{jacobi.evaluations:8}{mixed.evaluations:10}{ratio:8.2f}{error:10.1e}"
            f"{roughness[0] / roughness[1]:20.0f}"
        )
        rho = float(rates.max())  # the map is a contraction in the largest coordinate
        assert error <= TOL / (1 - rho) and float(np.abs(jacobi.value - exact).max()) <= TOL / (1 - rho)
        assert ratio <= {1.0: 0.35, 10.0: 0.15, 100.0: 0.1}.get(lam, 1.0)
        left.plot(*mixed.value.T, label=f"lam {lam:g}")
        right.loglog(np.arange(1, len(jacobi.history) + 1), jacobi.history, label=f"Jacobi, lam {lam:g}")
        right.loglog(np.arange(1, len(mixed.history) + 1), mixed.history, "--", color=right.lines[-1].get_color())
    left.set(xlabel="x", ylabel="y", title="the path")
    left.legend()
    right.set(xlabel="evaluations", ylabel="largest change", title="Jacobi, and Anderson's method (dashed)")
    right.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
