"""Anderson's step: the specification against GMRES, the kernel against the specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastiter
from fastiter.fixedpoint import reference
from fastiter.fixedpoint._methods.anderson import Anderson
from fastiter.fixedpoint._methods.protocol import Active
from fastiter.fixedpoint._space import NumPySpace

Array = npt.NDArray[Any]


class AndersonHistory:
    """The method without the solver, called as the solver calls it."""

    def __init__(self, samples: int, n: int, m: int, dtype: str) -> None:
        space = NumPySpace()
        space.check_leaf("test", "x", np.empty((1, 1), dtype))
        self.started = (space, samples, n)
        self.m = m
        self.method: Any = None

    def step(self, vectors: Any, restart: Any, beta: float, ridge: float, kind: int) -> None:
        if self.method is None:
            options = {"m": self.m, "damping": beta, "ridge": ridge, "kind": kind}
            self.method = Anderson.of("test", options).begun(*self.started)
        slots, x, f, out = vectors
        out[:] = self.method.step(Active(slots, x, f, np.zeros(slots.max() + 1), restart, 0, lambda x: x, None))


def affine(n: int, seed: int, radius: float = 0.9) -> tuple[Array, Array]:
    """Return M and b of a map M x + b, M of the given norm."""
    rng = np.random.default_rng([seed, n])
    M = rng.normal(size=(n, n))
    return radius * M / np.linalg.norm(M, 2), rng.normal(size=n)


def trajectory(n: int, steps: int, seed: int, **how: Any) -> tuple[list[Array], list[Array]]:
    """Return the iterates of the specification and their values, one more iterate than values."""
    M, b = affine(n, seed)
    xs, fs = [np.zeros(n)], []
    for _ in range(steps):
        fs.append(M @ xs[-1] + b)
        xs.append(reference.anderson_step(xs, fs, **how))
    return xs, fs


@pytest.mark.parametrize("kind", [1, 2])
def test_linear_maps_are_solved_within_n_steps(kind: int) -> None:
    """Anderson's method with all differences is equivalent to GMRES (type II) or FOM (type I) [Walker and Ni 2011]."""
    n = 6
    M, b = affine(n, 1)
    exact = np.linalg.solve(np.eye(n) - M, b)
    xs, _ = trajectory(n, n + 1, 1, m=n + 1, kind=kind)
    assert np.abs(xs[-1] - exact).max() <= 1e-9 * np.abs(exact).max()


def test_residuals_are_those_of_gmres() -> None:
    n, steps = 8, 5
    M, b = affine(n, 2)
    A = np.eye(n) - M
    xs, _ = trajectory(n, steps, 2, m=n)
    krylov = np.stack([np.linalg.matrix_power(A, j) @ b for j in range(1, steps)], axis=1)  # A times the Krylov space
    for k in range(1, steps):
        # Anderson's iterate k + 1 is the map's value at GMRES iterate k, which minimises the residual.
        c, *_ = np.linalg.lstsq(krylov[:, :k], b, rcond=None)
        residual = M @ (b - krylov[:, :k] @ c)
        assert np.allclose(M @ xs[k + 1] + b - xs[k + 1], residual, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("n", "m", "kind", "beta"), [(1, 3, 2, 1.0), (7, 2, 2, 0.5), (256, 6, 2, 1.0), (33, 4, 1, 0.7)]
)
def test_kernel_is_the_specification(dtype: str, n: int, m: int, kind: int, beta: float) -> None:
    samples, steps, ridge = 3, 9, 1e-6
    history = AndersonHistory(samples + 1, n, m, dtype)
    slot = np.array([3, 0, 2])
    maps = [affine(n, seed) for seed in range(samples)]
    xs: list[list[Array]] = [[np.zeros(n)] for _ in maps]
    fs: list[list[Array]] = [[] for _ in maps]
    eps = np.finfo(dtype).eps
    for _ in range(steps):
        x = np.array([each[-1] for each in xs], dtype)
        for i, (M, b) in enumerate(maps):
            xs[i][-1] = x[i].astype(np.float64)
            fs[i].append((M @ xs[i][-1] + b).astype(dtype).astype(np.float64))
        out = np.empty_like(x)
        history.step((slot, x, np.array([each[-1] for each in fs], dtype), out), None, beta, ridge, kind)
        for i in range(samples):
            expected = reference.anderson_step(xs[i], fs[i], m, beta, ridge, kind)
            # The errors of the Gram matrix, eps each, are amplified by at most 1 / ridge, and no more than the step.
            moved = np.abs(expected - fs[i][-1]).max()
            size = np.abs(expected).max()
            assert np.abs(out[i] - expected).max() <= 20 * eps * size + min(m * m * eps / ridge, 0.2) * moved
            xs[i].append(out[i].astype(np.float64))


@pytest.mark.parametrize("n", [5, 10_001])
def test_threads_change_no_bit(n: int) -> None:
    def run(threads: int) -> Array:
        before = fastiter.get_num_threads()
        fastiter.set_num_threads(threads)
        try:
            rng = np.random.default_rng(5)
            history = AndersonHistory(4, n, 5, "float32")
            x = rng.normal(size=(4, n)).astype(np.float32)
            for _ in range(8):
                f, out = np.sin(x), np.empty_like(x)
                history.step((np.arange(4), x, f, out), None, 1.0, 1e-7, 2)
                x = out
            return x
        finally:
            fastiter.set_num_threads(before)

    assert np.array_equal(run(1), run(2))


def test_a_restart_forgets_and_nan_stays_in_its_row() -> None:
    history = AndersonHistory(2, 3, 2, "float64")
    x = np.ones((2, 3))
    for value, spoilt in ((0.5, False), (np.nan, True), (0.25, True)):
        f = np.full((2, 3), 0.5)
        f[0] = value
        out = np.empty_like(x)
        history.step((np.arange(2), x, f, out), None, 1.0, 0.0, 2)
        assert np.isfinite(out[1]).all() and np.isnan(out[0]).all() == spoilt
    history.step((np.arange(2), x, f, out), np.array([True, False]), 1.0, 0.0, 2)
    assert np.array_equal(out[0], f[0])
