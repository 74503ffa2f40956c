"""The maps of the contests, and the solvers of other libraries: each returns z and its number of evaluations."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.harness.peers import load
from fastiter import ConvergenceWarning
from fastiter._call.iterate import Limits
from fastiter.fixedpoint import fixed_point
from fastiter.fixedpoint._problem import Stopping
from fastiter.fixedpoint._torch.space import solve_tensors

Array = Any


@dataclass(frozen=True)
class Case:
    """z = tanh(z M + x): ``contr`` with ||M|| = 0.9, ``sym`` with a symmetric M, ||M|| = 0.98."""

    kind: str
    dtype: str
    rtol: float
    samples: int = 64
    n: int = 256
    size: float = 0.3  # scale of x; a smaller one is closer to linear, and slower

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.dtype}, {self.samples} x {self.n}, {self.rtol:g}"

    @functools.cached_property
    def arrays(self) -> tuple[Array, Array]:
        rng = np.random.default_rng(0)
        M, x = rng.normal(size=(self.n, self.n)), self.size * rng.normal(size=(self.samples, self.n))
        M = M + M.T if self.kind == "sym" else M
        return ({"sym": 0.98, "contr": 0.9}[self.kind] * M / np.linalg.norm(M, 2)).astype(self.dtype), x.astype(
            self.dtype
        )

    def f(self, z: Array) -> Array:
        M, x = self.arrays
        return np.tanh(z @ M + x)

    def residual(self, z: Array) -> float:
        """The largest ||f(z) - z|| / ||f(z)|| over the samples, in double precision."""
        M, x = (array.astype(np.float64) for array in self.arrays)
        value = np.tanh(np.asarray(z, np.float64) @ M + x)
        return float((np.linalg.norm(value - z, axis=1) / np.linalg.norm(value, axis=1)).max())


FULL = tuple(Case(kind, *settings) for settings in (("float32", 1e-5), ("float64", 1e-9)) for kind in ("contr", "sym"))
QUICK = (Case("sym", "float64", 1e-6, 8, 32),)


@dataclass(frozen=True)
class Solver:
    """A method for a case: ``solve()`` returns z and the number of evaluations of f."""

    name: str
    solve: Callable[[], tuple[Array, int]]


@functools.cache
def tensors(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(array) for array in case.arrays)  # type: ignore[return-value]


def on_tensors(case: Case) -> tuple[Callable[..., torch.Tensor], torch.Tensor, list[int]]:
    """f, zeros, and a list that holds the number of evaluations."""
    M, x = tensors(case)
    count = [0]

    def f(z: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        return torch.tanh(torch.addmm(rows[0] if rows else x, z, M))

    return f, torch.zeros_like(x), count


#: Ours by name: the method and its options
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "anderson": ("anderson", {}),
    "anderson, m=6": ("anderson", {"m": 6}),
    "broyden": ("broyden", {}),
    "picard": ("picard", {}),
}


def ours(case: Case) -> Iterator[Solver]:
    f, zeros, count = on_tensors(case)
    stopping = Stopping(Limits(case.rtol)).checked("fixed_point")
    for name, (method, options) in OURS.items():

        def solve(method: str = method, options: dict[str, Any] = options) -> tuple[Array, int]:
            count[0] = 0
            solution = solve_tensors("fixed_point", f, zeros, stopping, method, options, args=(tensors(case)[1],))
            return solution.value.numpy(), count[0]

        yield Solver(name, solve)


def torchdeq(case: Case) -> Iterator[Solver]:
    """Solvers of torchdeq, to the same relative residual of each sample."""
    if load("torchdeq") is None:
        return
    from torchdeq.solver import get_solver  # type: ignore[import-not-found, import-untyped, unused-ignore]

    f, zeros, count = on_tensors(case)
    ways: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("picard", "fixed_point_iter", {}),
        ("anderson", "anderson", {"m": 6}),
        ("anderson, lam=1e-8", "anderson", {"m": 6, "lam": 1e-8}),
        ("broyden", "broyden", {}),
    )
    for name, solver, options in ways:

        def solve(solver: str = solver, options: dict[str, Any] = options) -> tuple[Array, int]:
            count[0] = 0
            with torch.no_grad():
                z, _, _ = get_solver(solver)(f, zeros, max_iter=600, tol=case.rtol, stop_mode="rel", **options)
            return z.numpy(), count[0]

        yield Solver(f"torchdeq {name}", solve)


def jaxopt(case: Case) -> Iterator[Solver]:
    """Jitted solvers of jaxopt, to the same norm of the whole batch's residual."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module, jax = load("jaxopt"), load("jax")
        if module is None or jax is None:
            return
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        M, x = (jax.numpy.asarray(array) for array in case.arrays)

        def f(z: Any) -> Any:
            return jax.numpy.tanh(z @ M + x)

        size = float(np.linalg.norm(fixed_point(case.f, np.zeros_like(case.arrays[1]), compact=False).value))
        options = {"maxiter": 600, "tol": case.rtol * size, "implicit_diff": False}
        solvers = {
            "picard": module.FixedPointIteration(f, **options),
            "anderson, ridge=1e-5": module.AndersonAcceleration(f, history_size=6, ridge=1e-5, **options),
            "anderson, ridge=1e-8": module.AndersonAcceleration(f, history_size=6, ridge=1e-8, **options),
        }
    for name, solver in solvers.items():
        run = jax.jit(solver.run)

        def solve(run: Any = run) -> tuple[Array, int]:
            z, state = run(jax.numpy.zeros_like(x))
            return np.asarray(z.block_until_ready()), int(state.iter_num) + 1

        yield Solver(f"jaxopt {name}", solve)


def scipy(case: Case) -> Iterator[Solver]:
    """SciPy's solvers for F(z) = 0 on all samples as one vector, to the same norm."""
    from scipy import optimize

    shape = case.arrays[1].shape
    size = float(np.linalg.norm(fixed_point(case.f, np.zeros(shape, case.dtype), compact=False).value))
    count = [0]

    def residual(z: Array) -> Array:
        count[0] += 1
        return (case.f(z.reshape(shape)) - z.reshape(shape)).ravel()

    for name in ("anderson", "broyden1"):

        def solve(name: str = name) -> tuple[Array, int]:
            count[0] = 0
            z = getattr(optimize, name)(residual, np.zeros(shape, case.dtype).ravel(), f_tol=case.rtol * size,
                                        tol_norm=np.linalg.norm, maxiter=600)  # fmt: skip
            return z.reshape(shape), count[0]

        yield Solver(f"scipy {name}", solve)


PEERS: tuple[Callable[[Case], Iterator[Solver]], ...] = (torchdeq, jaxopt, scipy)


@dataclass(frozen=True)
class Large:
    """One system of many unknowns, z_i = 0.2 cos(z_i) + 0.25 (z_(i-1) + z_(i+1)) + c_i, for SciPy's solvers."""

    n: int = 100_000
    rtol: float = 1e-8

    @functools.cached_property
    def c(self) -> Array:
        return np.random.default_rng(0).normal(size=self.n)

    def f(self, z: Array) -> Array:
        out = 0.2 * np.cos(z) + self.c
        out[1:] += 0.25 * z[:-1]
        out[:-1] += 0.25 * z[1:]
        return np.asarray(out)

    def ours(self, method: str) -> tuple[Array, int]:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            options: dict[str, Any] = {"method": method, "rtol": self.rtol, "batched": False}
            solution = fixed_point(self.f, np.zeros(self.n), **options)
        return solution.value, solution.evaluations

    def scipy(self, name: str) -> tuple[Array, int]:
        from scipy import optimize

        count, size = [0], float(np.linalg.norm(self.c))

        def residual(z: Array) -> Array:
            count[0] += 1
            return self.f(z) - z

        z = getattr(optimize, name)(residual, np.zeros(self.n), f_tol=self.rtol * size, tol_norm=np.linalg.norm)
        return np.asarray(z), count[0]

    def residual(self, z: Array) -> float:
        value = self.f(z)
        return float(np.linalg.norm(value - z) / np.linalg.norm(value))
