"""Iterative refinement against direct solutions and known rates; shift against slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.fixedpoint import fixed_point, refine, shift


def system(n: int, dtype: str = "float64") -> tuple[Any, Any]:
    rng = np.random.default_rng(n)
    A = rng.normal(size=(n, n)) + n * np.eye(n)
    if dtype.startswith("complex"):
        A = A + 1j * rng.normal(size=(n, n))
    return A.astype(dtype), rng.normal(size=n).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("method", ["picard", "anderson", "broyden", "aitken"])
def test_a_poor_solver_gives_all_digits(dtype: str, method: Any) -> None:
    A, b = system(12, dtype)
    S = np.linalg.inv(A + 0.5 * np.eye(12)).astype(dtype)
    eps = float(np.finfo(dtype).eps)
    found = refine(A, S, b, method=method, rtol=20 * eps)
    wide = np.result_type(dtype, np.float64)
    exact = np.linalg.solve(A.astype(wide), b.astype(wide))
    assert found.converged and found.value.dtype == dtype
    # ||x - x*|| <= ||A^-1|| ||b - A x||, and the residual is computed with n roundings of A x.
    bound = np.linalg.norm(np.linalg.inv(A), 2) * (found.residual + 24 * eps * np.linalg.norm(b))
    assert np.linalg.norm(found.value - exact) <= bound
    assert np.isclose(found.residual, np.linalg.norm(b - A @ found.value), atol=24 * eps * np.linalg.norm(b))


def test_the_rate_is_the_spectral_radius_and_s_may_be_coarse() -> None:
    n = 7
    A = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    S = np.eye(n) / 3  # Richardson's: I - S A has eigenvalues 1 - lambda / 3
    b = np.sin(np.pi * np.arange(1, n + 1) / (n + 1))  # an eigenvector
    rate = 1 - (2 - 2 * np.cos(np.pi / (n + 1))) / 3
    found = refine(lambda x: A @ x, lambda r: S @ r, b, rtol=1e-3)
    assert np.allclose(found.history[1:] / found.history[:-1], rate, rtol=1e-6)
    exact = np.linalg.inv(A)
    single = refine(A, exact.astype(np.float32), b, rtol=1e-13)
    assert single.converged and single.steps <= 4 and single.value.dtype == np.float64
    grid = refine(lambda x: 2 * x, lambda r: r / 2, np.ones((2, 3, 4)))
    assert grid.value.shape == (2, 3, 4) and grid.steps == 1
    assert refine(A, exact, np.zeros(n)).steps == 0


def test_no_convergence_is_reported() -> None:
    with pytest.warns(fastiter.ConvergenceWarning, match=r"^refine: \|\|b - A x\|\| must fall to "):
        found = refine(np.eye(2), 3 * np.eye(2), np.ones(2))
    assert found.reason == "diverged" and np.isfinite(found.value).all()
    with pytest.raises(fastiter.ConvergenceError):
        refine(np.eye(2), 3 * np.eye(2), np.ones(2), throw=True)


@pytest.mark.parametrize(
    ("error", "message", "wrong"),
    [
        (TypeError, "A must be callable or a matrix, got int", {"A": 1}),
        (TypeError, "b must be a NumPy array of .*, got dtype int64", {"b": np.ones(2, np.int64)}),
        (ValueError, r"x0 must be float64 \(2,\) like b, got float64 \(3,\)", {"x0": np.ones(3)}),
        (ValueError, "method must be one of .*, got 'halpern'", {"method": "halpern"}),
        (ValueError, r"S must return floating-point numbers of shape \(2,\) like b, got float64 \(1,\)",
         {"S": lambda r: r[:1]}),
        (TypeError, "A must return real numbers like b, got complex128", {"A": lambda x: 1j * x}),
        (TypeError, "method 'picard' takes no option 'm', only damping", {"m": 3}),
    ],
)  # fmt: skip
def test_wrong_arguments(error: type[Exception], message: str, wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"A": np.eye(2), "S": np.eye(2), "b": np.ones(2), **wrong}
    with pytest.raises(error, match=f"^refine: {message}"):
        refine(given.pop("A"), given.pop("S"), given.pop("b"), given.pop("x0", None), **given)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_shift(axis: int) -> None:
    x = np.arange(24.0).reshape(2, 4, 3)
    for steps in range(x.shape[axis] + 1):
        moved = np.moveaxis(shift(x, steps, axis=axis), axis, 0)
        source = np.moveaxis(x, axis, 0)
        assert np.array_equal(moved[: len(source) - steps], source[steps:])
        assert (moved[len(source) - steps :] == source[-1:]).all() and not np.shares_memory(moved, x)
    assert shift({"a": x, "b": x[:, :2]})["b"].shape == (2, 2, 3) and isinstance(shift((x,)), tuple)
    assert shift(np.ones((2, 0)), 0).shape == (2, 0)
    with pytest.raises(ValueError, match=r"^shift: steps must be at most 4, the length of axis 1 of x, got 5$"):
        shift(x, 5)
    with pytest.raises(ValueError, match=r"^shift: axis must be an axis of x with shape \(2, 4, 3\), got 3"):
        shift(x, axis=3)
    with pytest.raises(TypeError, match=r"^shift: x\[0\] must be an array or a tensor, got int"):
        shift([1])


def test_a_shifted_plan_is_a_better_start() -> None:
    """A moving average of a track that advances by one sample: the last plan, shifted, is close to the next one."""
    t = np.arange(40.0)[None]

    def plan(first: float) -> Any:
        goal = np.sin((t + first) / 9)
        return lambda x: 0.5 * goal + 0.25 * np.roll(x, 1, 1) + 0.2 * np.roll(x, -1, 1)

    before = fixed_point(plan(0), np.zeros((1, 40)), method="picard")
    cold = fixed_point(plan(1), before.value, method="picard")
    warm = fixed_point(plan(1), shift(before.value), method="picard")
    assert warm.history[0, 0] < cold.history[0, 0] and warm.converged.all()
