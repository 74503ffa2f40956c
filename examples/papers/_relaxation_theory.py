"""The theory behind learning_to_relax.py: numbers of iterations and their bounds, drawn as two of its figures.

SOR multiplies the residual by C = I - A (D / omega + L)^-1, with the spectral radius rho. With k iterations to epsilon,

    tau = max over omega of (||C^(k-1)||^(1/(k-1)) - rho) / (1 - rho)
    iterations <= 1 + log(epsilon) / log(rho + tau (1 - rho))

which predicts the iterations far better than rho alone (tau = 0), or a bound by the energy norm of C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse

from fastiter.relax import Batch, sor, ssor_cg

EPSILON = 1e-8
#: For a quick check, an ordinary run, and a run with the grids of the paper
STEP_OF_OMEGA, SHIFTS, SYSTEMS, RIGHT_SIDES, CG_OMEGAS = (
    (0.2, 0.05, 0.01),
    (3, 13, 97),
    (2, 8, 40),
    (4, 40, 40),
    (5, 25, 100),
)


def laplacian(domain: Any) -> Any:
    """The 5-point Laplacian, with 4 on the diagonal, on the points of the domain (a boolean grid)."""
    number = np.where(domain, np.cumsum(domain).reshape(domain.shape) - 1, -1)
    rows, columns = [], []
    for one, other in ((number[1:], number[:-1]), (number[:, 1:], number[:, :-1])):
        linked = (one >= 0) & (other >= 0)
        rows += [one[linked], other[linked]]
        columns += [other[linked], one[linked]]
    n = int(domain.sum())
    row, column = (np.concatenate([*parts, np.arange(n)]) for parts in (rows, columns))
    values = np.concatenate([np.full(len(row) - n, -1.0), np.full(n, 4.0)])
    return scipy.sparse.csr_array((values, (row, column)), shape=(n, n))


def in_a_ball(rng: np.random.Generator, n: int) -> Any:
    """Normal numbers, drawn again if their norm is above sqrt(n)."""
    while True:
        b = rng.standard_normal(n)
        if b @ b <= n:
            return b


def sor_matrix(A: Any, omega: float) -> Any:
    """C, dense."""
    triangle = np.tril(A, -1) + np.diag(np.diag(A)) / omega
    return np.eye(len(A)) - scipy.linalg.solve_triangular(triangle.T, A.T).T


@dataclass
class Profile:
    """For each shift and omega: iterations, rho, and tau, the excess of the norm of powers of C over rho."""

    omegas: Any
    iterations: Any
    rho: Any
    gap: Any

    @property
    def tau(self) -> Any:
        return (self.gap / (1 - self.rho)).max(axis=1)

    def bound(self, tau: Any) -> Any:
        return 1 + math.log(EPSILON) / np.log(self.rho + tau * (1 - self.rho))


def profile(shifts: Any, omegas: Any, rng: np.random.Generator) -> Profile:
    """The profile of the systems (A + c I) x = b, with A on 10 x 10 points."""
    A = laplacian(np.ones((10, 10), bool))
    n = A.shape[0]
    on_diagonal = A.indices == np.repeat(np.arange(n), np.diff(A.indptr))
    batch = Batch(A, A.data + shifts[:, None] * on_diagonal)
    b = np.array([in_a_ball(rng, n) for _ in shifts])
    curves = Profile(omegas, *(np.empty((len(shifts), len(omegas))) for _ in range(3)))
    for j, omega in enumerate(omegas):
        curves.iterations[:, j] = sor(batch, b, omega=omega, rtol=EPSILON).steps
        for i, c in enumerate(shifts):
            C = sor_matrix(A.toarray() + c * np.eye(n), omega)
            k = int(curves.iterations[i, j]) - 1
            curves.rho[i, j] = np.abs(np.linalg.eigvals(C)).max()
            curves.gap[i, j] = np.linalg.norm(np.linalg.matrix_power(C, k), 2) ** (1 / k) - curves.rho[i, j]
    return curves


def energy_bound(omegas: Any) -> Any:
    """Iterations by Hackbusch's bound (3.45) on the energy norm, for A on 10 x 10 points."""
    A = laplacian(np.ones((10, 10), bool)).toarray()
    D, L = np.diag(np.diag(A)), np.tril(A, -1)
    gamma = 1 - np.abs(np.linalg.eigvals(np.linalg.solve(D, L + L.T))).max()
    product = np.abs(np.linalg.eigvals(np.linalg.solve(D, L) @ np.linalg.solve(D, L.T))).max()
    weight = (2 - omegas) / (2 * omegas)
    norm = np.sqrt(1 - 2 * weight * gamma / (weight**2 + gamma / omegas + product - 0.25))
    return np.log(EPSILON / (2 * np.sqrt(np.linalg.cond(A)))) / np.log(norm)


def cg_bound(A: Any, omegas: Any) -> Any:
    """Iterations of CG with SSOR by Axelsson's bound on the condition number."""
    dense = A.toarray()
    D, L = np.diag(np.diag(dense)), np.tril(dense, -1)
    values = np.linalg.eigvalsh(dense)
    kappa = values[-1] / values[0]
    alpha = scipy.linalg.eigh(D, dense, eigvals_only=True)[-1]
    beta = scipy.linalg.eigh(L @ np.linalg.solve(D, L.T) - D / 4, dense, eigvals_only=True)[-1]
    inverse = (1 + (2 - omegas) ** 2 / (4 * omegas) * alpha + beta * omegas) / (2 - omegas)
    start = math.log(math.sqrt(kappa) / EPSILON + math.sqrt(kappa / EPSILON**2 - 1))
    return 1 + start / -np.log(1 - 2 / (1 + np.sqrt(inverse)))


# ---- Panels ---------------------------------------------------------------------------------------------------------


PANELS = 8  # total number in both figures


def draw_bounds(panels: Any, detail: int, rng: np.random.Generator, bar: Any) -> None:
    """Draw bounds on the iterations in four panels, with finer grids from detail 0 to 2."""
    step = STEP_OF_OMEGA[detail]
    draw_iterations(panels[0], panels[1], profile(np.zeros(1), np.arange(1, 1.99 + step / 2, step).clip(1, 1.99), rng))
    bar.update(2)
    shifts, omegas = np.linspace(-0.15, 0.45, SHIFTS[detail]), np.arange(1, 1.9 + step / 2, step)
    draw_tau(panels[2], shifts, profile(shifts, omegas, rng).tau)
    bar.update()
    draw_degenerate(panels[3], np.arange(1, 1.9 + step / 4, step / 2), RIGHT_SIDES[detail], rng)
    bar.update()


def draw_choices(panels: Any, detail: int, rng: np.random.Generator, bar: Any) -> None:
    """Draw how the iterations depend on omega in four panels, with finer grids from detail 0 to 2."""
    step = STEP_OF_OMEGA[detail]
    omegas = np.arange(1, 1.9 + step / 2, step)
    for axes, name, beta in ((panels[0], "low", (2.0, 6.0)), (panels[1], "high", (0.5, 1.5))):
        drawn = -0.15 + 0.6 * rng.beta(*beta, SYSTEMS[detail])
        draw_comparators(axes, name, profile(drawn, omegas, rng))
        bar.update()
    omegas = np.linspace(2 * math.sqrt(2) - 2, 1.9, CG_OMEGAS[detail])
    for axes, name in ((panels[2], "square"), (panels[3], "L")):
        draw_cg(axes, name, (10, 30) if detail else (10,), omegas, rng)
        bar.update()


def legend(axes: Any, **place: Any) -> None:
    axes.legend(fontsize=8, frameon=False, **place)


def draw_iterations(axes: Any, gaps: Any, profile: Profile) -> None:
    axes.semilogy(profile.omegas, profile.iterations[0], color="black", label="iterations")
    axes.semilogy(profile.omegas, profile.bound(0)[0], label="by rho alone")
    axes.semilogy(profile.omegas, energy_bound(profile.omegas), label="by the energy norm")
    axes.semilogy(profile.omegas, profile.bound(profile.tau)[0], label="by rho and tau")
    axes.set(title="Iterations of SOR and bounds of them", xlabel="omega", ylabel="iterations")
    gaps.plot(profile.omegas, profile.gap[0], color="black", label="||C^k||^(1/k) - rho")
    gaps.plot(profile.omegas, profile.tau * (1 - profile.rho[0]), "C2", label="tau (1 - rho)")
    gaps.set(title="The excess that tau bounds", xlabel="omega", ylabel="excess")
    for panel in (axes, gaps):
        legend(panel)


def draw_tau(axes: Any, shifts: Any, tau: Any) -> None:
    axes.plot(shifts, 4 * math.cos(math.pi / 11) / (4 + shifts), label="beta")
    axes.plot(shifts, tau, label="tau")
    axes.axhline(4 / math.e**2 * (1 - 1 / math.e**2), color="0.6", linestyle="--", label="4 (1 - 1/e^2) / e^2")
    axes.axhline(1 / math.e**2, color="0.6", linestyle=":", label="1 / e^2")
    axes.set(title="Jacobi's spectral radius beta, and tau", xlabel="shift c", ylim=(0, 1.05))
    legend(axes, loc="upper right", bbox_to_anchor=(1, 0.84))


def draw_comparators(axes: Any, name: str, profile: Profile) -> None:
    bound = profile.bound(profile.tau[:, None])
    for values, label, color in ((profile.iterations, "iterations", "black"), (bound, "bound", "C2")):
        axes.semilogy(profile.omegas, values.mean(axis=0), color=color, label=label)
        axes.axhline(values.min(axis=1).mean(), color=color, linestyle="--", label=f"{label}, best of each system")
    axes.set(title=f"One omega for all, {name} variance", xlabel="omega", ylabel="mean iterations")
    legend(axes)


def draw_degenerate(axes: Any, omegas: Any, count: int, rng: np.random.Generator) -> None:
    """b is the eigenvector of C at omega = 1.4 that decays fastest: few iterations there, and many elsewhere."""
    A = laplacian(np.ones((10, 10), bool))
    values, vectors = np.linalg.eig(sor_matrix(A.toarray(), 1.4))
    is_real = np.abs(values.imag) < 1e-9
    place = np.flatnonzero(is_real)[np.abs(values[is_real]).argmin()]
    b = np.stack([vectors[:, place].real, *(in_a_ball(rng, A.shape[0]) for _ in range(count))], axis=1)
    steps = np.array([sor(A, b, omega=omega, rtol=EPSILON).steps for omega in omegas])
    axes.fill_between(omegas, steps[:, 1:].min(axis=1), steps[:, 1:].max(axis=1), color="C1", alpha=0.3)
    axes.plot(omegas, steps[:, 1:].mean(axis=1), color="C1", label="b random")
    axes.plot(omegas, steps[:, 0], color="C0", label="b an eigenvector of C at 1.4")
    axes.set(title="A degenerate right-hand side", xlabel="omega", ylabel="iterations")
    legend(axes)


def draw_cg(axes: Any, name: str, sizes: tuple[int, ...], omegas: Any, rng: np.random.Generator) -> None:
    """Scale the bound by the smallest factor for which it holds, as its constants are far too large."""
    for m in sizes:
        domain = np.ones((m, m), bool)
        domain[: m // 2, m // 2 :] = name == "square"
        for c in (0.0, 0.5):
            A = laplacian(domain)
            A = scipy.sparse.csr_array(A + c * scipy.sparse.eye_array(A.shape[0]))
            b = in_a_ball(rng, A.shape[0])
            steps = np.array([ssor_cg(A, b, omega=w, rtol=EPSILON, check_every=1).steps for w in omegas])
            bound = cg_bound(A, omegas) - 1
            (line,) = axes.plot(omegas, steps, label=f"{A.shape[0]} points, c = {c}")
            axes.plot(omegas, 1 + ((steps - 1) / bound).max() * bound, color=line.get_color(), linestyle="--")
    axes.set(title=f"SSOR-CG and its bound (dashed), {name}", xlabel="omega", ylabel="iterations")
    legend(axes)
