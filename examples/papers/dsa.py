"""Neutron transport through a thick slab: source iteration, accelerated by diffusion, by Anderson and by GMRES.

Source iteration sweeps through the slab with the scattering of the last flux, phi <- T(sigma_s phi + q), and converges
like c^k with the scattering ratio c = sigma_s / sigma: extremely slowly if nearly every collision scatters. Diffusion
synthetic acceleration corrects each sweep by the solution of the diffusion equation for its change, discretised
consistently with diamond differences: the spectral radius is at most 0.2247 c, whatever the width of the cells. The
slab is 100 mean free paths thick, in a vacuum, with a source of 1 everywhere and eight directions.

    python examples/papers/dsa.py  # seconds; writes dsa.png next to this file

:Paper: E. W. Larsen, Unconditionally Stable Diffusion-Synthetic Acceleration Methods for the Slab Geometry Discrete
    Ordinates Equations, part I (1982), Nuclear Science and Engineering 82
:Shows: iteration counts and spectral radii at most 0.2247 c, for cells of any width
:Does not show: several dimensions, anisotropic scattering and energy groups
:Starts from: a matrix
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, save
from matplotlib.figure import Figure
from scipy.linalg import solveh_banded
from scipy.sparse.linalg import LinearOperator, gmres

from fastiter import ConvergenceWarning
from fastiter.experimental import transport_sweep
from fastiter.fixedpoint import FixedPointSolution, fixed_point

Array = Any
THICKNESS = 100.0  # mean free paths, as sigma is 1
MU, WEIGHTS = np.polynomial.legendre.leggauss(8)
LARSEN = 0.2247  # the largest spectral radius, in units of c, for infinitely many directions
RATIOS = (0.5, 0.9, 0.99, 0.999)
SWEEPS = (20, 110, 889, 5000)  # source iterations until the flux changes by 1e-6; the last one needs more
ACCELERATED = (5, 6, 6, 6)


@dataclass(frozen=True)
class Options:
    widths: tuple[float, ...] = option((0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0), "widths of cells", (0.5, 1.0, 10.0))
    figure: Path = figure_option(__file__)


class Slab:
    """Source iteration for slabs with scattering ratios c (B,), all with the same cell width and source."""

    def __init__(self, c: Any, h: float, source: float = 1.0) -> None:
        self.c, self.h, self.source = np.asarray(c, float), h, source
        self.cells = round(THICKNESS / h)

    def sweep(self, phi: Array, c: Array) -> Array:
        return transport_sweep(c[:, None] * phi + self.source, 1.0, self.h, MU, WEIGHTS).phi

    def accelerated(self, phi: Array, c: Array) -> Array:
        """A sweep and its correction by diffusion."""
        swept = self.sweep(phi, c)
        return swept + np.stack([self.correction(*row) for row in zip(swept - phi, c, strict=True)])

    def correction(self, change: Array, c: float) -> Array:
        """The cell averages of the diffusion correction, given at cell edges, for the change of the flux (cells,)."""
        stiffness, mass = 1 / (3 * self.h), (1 - c) * self.h / 4
        bands = np.empty((2, self.cells + 1))
        bands[0], bands[1] = mass - stiffness, 2 * (stiffness + mass)
        bands[1, [0, -1]] = 0.5 + stiffness + mass  # Marshak's vacuum boundary condition
        right = np.zeros(self.cells + 1)
        right[:-1] += c * self.h / 2 * change
        right[1:] += c * self.h / 2 * change
        f = solveh_banded(bands, right)
        return (f[:-1] + f[1:]) / 2

    def solve(self, step: Any, **options: Any) -> FixedPointSolution[Array]:
        options = {"method": "picard", "norm": "l2", "rtol": 1e-6, **options}
        start = np.zeros((len(self.c), self.cells))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the table reports it
            return fixed_point(step, start, args=(self.c,), **options)


def spectral_radius(step: Any, slab: Slab, iterations: int = 60) -> float:
    """The growth factor of an error over the last ten iterations, for one slab without a source."""
    phi, growth = np.random.default_rng(0).random((1, slab.cells)), []
    for _ in range(iterations):
        phi = step(phi, slab.c)
        growth.append(np.linalg.norm(phi))
        phi /= growth[-1]
    return float(np.exp(np.mean(np.log(growth[-10:]))))


def compare() -> dict[str, FixedPointSolution[Array]]:
    """Print and check sweeps and convergence rates for each c."""
    slab = Slab(RATIOS, 0.5)
    ways = {"source iteration": slab.sweep, "diffusion synthetic acceleration": slab.accelerated}
    print(f"{'sweeps to a change of 1e-6 (last ratio)':42}" + "".join(f"{f'c = {c}':>16}" for c in RATIOS))
    solutions = {}
    for name, step in ways.items():
        solutions[name] = slab.solve(step, max_steps=5000)
        counts, rows = solutions[name].evaluations, solutions[name].history
        rates = [float(rows[n - 1][k] / rows[n - 2][k]) for k, n in enumerate(counts)]
        marks = ["" if end else ">" for end in solutions[name].converged]
        cells = [f"{mark}{n} ({rate:.4f})" for mark, n, rate in zip(marks, counts, rates, strict=True)]
        print(f"{name:42}" + "".join(f"{cell:>16}" for cell in cells))
        if name == "source iteration":
            assert all(abs(n - m) <= 1 for n, m in zip(counts[:3], SWEEPS[:3], strict=True)) and marks[3] == ">"
            np.testing.assert_allclose(rates, [0.499, 0.8995, 0.9897, 0.9987], atol=0.001)
        else:
            assert all(abs(n - m) <= 1 for n, m in zip(counts, ACCELERATED, strict=True)) and not any(marks)
            assert all(rate <= LARSEN * c for rate, c in zip(rates, RATIOS, strict=True))
    middle = solutions["diffusion synthetic acceleration"].value[1, slab.cells // 2]
    print(f"flux in the middle at c = 0.9: {middle:.4f}, q / (sigma - sigma_s) is 10")
    assert abs(middle - 10) < 1e-4
    return solutions


def wrapped() -> None:
    """Check that Anderson acceleration and GMRES around a sweep, with and without diffusion, find the same flux."""
    slab = Slab([0.99], 0.5)
    expected = slab.solve(slab.accelerated, rtol=1e-13).value
    print("\nc = 0.99, to 1e-11, in sweeps")
    for name, step in (("sweeps", slab.sweep), ("sweeps with diffusion", slab.accelerated)):
        plain = slab.solve(step, rtol=1e-11, max_steps=5000)
        mixed = slab.solve(step, rtol=1e-11, method="anderson", m=20)
        size, count = slab.cells, 0
        offset = step(np.zeros((1, size)), slab.c)[0]

        def residual(x: Array, step: Any = step, offset: Array = offset) -> Array:
            nonlocal count
            count += 1
            return x - (step(x.reshape(1, -1), slab.c)[0] - offset)

        system = LinearOperator((size, size), residual, dtype=np.float64)
        krylov, failed = gmres(system, offset, rtol=1e-12, atol=0, restart=100, maxiter=10)
        assert not failed and mixed.converged.all()
        for flux in (mixed.value[0], krylov):
            assert np.abs(flux - expected).max() <= 1e-8 * np.abs(expected).max()
        counts = (int(plain.evaluations[0]), int(mixed.evaluations[0]), count)
        print(f"{name:24}iterated {counts[0]:5}   Anderson {counts[1]:4}   GMRES {counts[2]:4}")
        assert max(counts[1:]) < counts[0] or counts[0] < 20


def radii(widths: tuple[float, ...]) -> dict[float, list[float]]:
    """Plot spectral result with diffusion against the cell width, for each c."""
    result = {}
    for c in RATIOS:
        slabs = [Slab([c], h, source=0.0) for h in widths]
        result[c] = [spectral_radius(slab.accelerated, slab) for slab in slabs]
        assert max(result[c]) <= LARSEN * c
    for h, sweeps in ((0.1, 9), (1.0, 9), (10.0, 7)):  # coarse cells change nothing
        slab = Slab([0.999], h)
        assert abs(slab.solve(slab.accelerated, rtol=1e-8).evaluations[0] - sweeps) <= 1
    listed = ", ".join(f"{radius:.3f} at {h}" for h, radius in zip(widths, result[0.999], strict=True))
    print(f"\nspectral radius with diffusion, c = 0.999, by the width of the cells: {listed}")
    return result


def draw(ways: dict[str, FixedPointSolution[Array]], curves: dict[float, list[float]], widths: Any, path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, way), color in zip(ways.items(), (THEIRS, OURS), strict=True):
        for k, style in enumerate((":", "-.", "--", "-")):
            curve = way.history[: way.evaluations[k], k]
            left.loglog(np.arange(1, len(curve) + 1), curve, style, color=color, label=name if k == 3 else None)
    left.set(xlabel="sweeps", ylabel="change of the flux, l2 norm", title="c from 0.5 (dotted) to 0.999")
    left.legend(frameon=False)
    for (c, curve), style in zip(curves.items(), (":", "-.", "--", "-"), strict=True):
        right.semilogx(widths, curve, style, color=OURS, marker="o", markersize=3, label=f"c = {c}")
    right.axhline(LARSEN, color=OTHERS, linewidth=0.8, label="0.2247")
    right.set(xlabel="width of a cell in mean free paths", title="Spectral radius with diffusion", ylim=(0, 0.3))
    right.legend(frameon=False, ncols=2)
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    ways = compare()
    wrapped()
    draw(ways, radii(options.widths), options.widths, options.figure)


if __name__ == "__main__":
    main()
