"""Inverting a diffusion sampler: each inverse DDIM step is a fixed-point problem, on which Picard iteration fails.

A deterministic sampler maps noise to data by z_{t-1} = sqrt(A_{t-1}) x(z_t) + sqrt(1 - A_{t-1}) eps(z_t). Its inverse
z_t = c_1 z_{t-1} + c_2 eps(z_t) has z_t on both sides; the usual inversion replaces eps(z_t) by eps(z_{t-1}) (arXiv
2403.11105). The data are a mixture of eight Gaussians in 16 dimensions, whose eps is known.

:Paper: Source Prompt Disentangled Inversion for Boosting Image Editability with Diffusion Models (2024), arXiv
    2403.11105
:Shows: inversion of DDIM steps as fixed points, exact where the usual one is off by a tenth
:Does not show: images and their editing
:Starts from: a map
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot

from fastiter import ConvergenceWarning
from fastiter.fixedpoint import fixed_point

Array = Any
K, D, SPREAD = 8, 16, 0.3


@dataclass(frozen=True)
class Options:
    steps: tuple[int, ...] = option((10, 20, 50), "numbers of steps of the sampler", (10, 20, 50))
    samples: int = option(64, "samples", 64)
    figure: Path = figure_option(__file__)


class Diffusion:
    """The exact noise of a mixture, and the sampler with N equally spaced steps."""

    def __init__(self, N: int, centres: Array) -> None:
        beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        alpha = np.cumprod(1 - beta)
        self.alpha = np.concatenate([[1.0], alpha[np.arange(1, N + 1) * (1000 // N) - 1]])
        self.centres, self.N = centres, N

    def noise(self, z: Array, t: int) -> Array:
        alpha = self.alpha[t]
        variance = alpha * SPREAD**2 + 1 - alpha
        away = z[:, None] - alpha**0.5 * self.centres
        exponent = -(away**2).sum(axis=2) / (2 * variance)
        weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return (1 - alpha) ** 0.5 * (weights[:, :, None] * away).sum(axis=1) / variance

    def factors(self, t: int) -> tuple[float, float]:
        """Return c_1 and c_2 of the step from t - 1 to t."""
        now, before = self.alpha[t], self.alpha[t - 1]
        first = (now / before) ** 0.5
        return first, (1 - now) ** 0.5 - first * (1 - before) ** 0.5

    def sample(self, z: Array) -> Array:
        for t in range(self.N, 0, -1):
            first, second = self.factors(t)
            z = (z - second * self.noise(z, t)) / first
        return z

    def backwards(self, t: int, y: Array, z: Array) -> Array:
        """Return the map whose fixed point y the sampler maps to z."""
        first, second = self.factors(t)
        return first * z + second * self.noise(y, t)

    def invert(self, x: Array, method: str | None) -> tuple[Array, float, set[str]]:
        """Return the noise that the sampler maps to x, the evaluations per step and sample, and the reasons."""
        z, evaluations, reasons = x, 0.0, {"converged"}
        for t in range(1, self.N + 1):
            if method is None:
                z, evaluations = self.backwards(t, z, z), evaluations + 1
                continue
            settings: dict[str, Any] = {"method": method, "rtol": 1e-8, "args": (z,)}
            settings |= {"m": 3} if method == "anderson" else {"max_steps": 50}
            solution = fixed_point(partial(self.backwards, t), z, **settings)
            z, evaluations = solution.value, evaluations + float(solution.evaluations.mean())
            reasons |= set(solution.reason)
        return z, evaluations / self.N, reasons


def main() -> None:
    options = command_line(Options, __doc__)
    rng = np.random.default_rng(0)
    centres = 1.5 * rng.normal(size=(K, D))
    x = centres[rng.integers(K, size=options.samples)] + SPREAD * rng.normal(size=(options.samples, D))
    names: dict[str, str | None] = {"plain DDIM inversion": None, "Picard": "picard", "Anderson": "anderson"}
    rows: dict[str, list[float]] = {name: [] for name in names}
    print(f"{'':24}{'steps':>6}{'round trip':>12}{'evaluations':>13}  reasons")
    for N in options.steps:
        model, counts = Diffusion(N, centres), {}
        for name, method in names.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the reasons report it
                z, counts[name], reasons = model.invert(x, method)
            error = float(np.sqrt(((model.sample(z) - x) ** 2).mean()))
            rows[name].append(error)
            print(f"{name:24}{N:6}{error:12.1e}{counts[name]:13.1f}  {', '.join(sorted(reasons))}")
            if name == "Anderson":
                assert error <= 1e-6 and reasons == {"converged"}
            if name == "Picard":
                assert (error < 1e-6) == (reasons == {"converged"})  # a failure is never silent
        assert N < 50 or counts["Anderson"] <= 0.6 * counts["Picard"]
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, errors in rows.items():
        axes.loglog(options.steps, errors, "o-", label=name)
    axes.set(xlabel="steps of the sampler", ylabel="rms error", title="data, to noise, and back")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
