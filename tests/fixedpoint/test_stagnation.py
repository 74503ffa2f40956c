"""Why a sample ends: rounding, cycles and growth end it, slow oscillations and lucky residuals do not; zeros."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastiter
from fastiter.fixedpoint import FixedPointSolution, fixed_point
from tests.support.pairs import pairs

Array = npt.NDArray[Any]
METHODS = ("picard", "anderson", "broyden", "newton_krylov", "krasnoselskii_mann", "squarem", "aitken")


def quietly(*args: Any, **how: Any) -> FixedPointSolution:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
        return fixed_point(*args, **how)


def rotation(angle: float) -> Array:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


# --- false stagnation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.02, 0.03, 0.05])
def test_one_small_residual_does_not_end_halpern(angle: float) -> None:
    """After about 2 pi / angle steps the iterate passes close to the fixed point, and later ones are far from it."""
    R, c = rotation(angle), np.array([0.5, -1.0])
    found = fixed_point(
        lambda x: (x - c) @ R.T + c, np.array([[1.0, 0.0], [3.0, 2.0]]), method="halpern", rtol=1e-5, max_steps=50_000
    )
    assert found.converged.all()
    residual = found.history[:, 0]
    lucky = int(residual[: int(2 * math.pi / angle) + 2].argmin())
    assert (residual[lucky + 1 : lucky + 101] > residual[lucky]).all()  # patience would have ended it


@pytest.mark.parametrize("aspect", [4.0, 12.0, 30.0])
@pytest.mark.parametrize("period", [300, 700, 1500])
def test_a_spiral_is_followed_to_its_end(aspect: float, period: int) -> None:
    """The residual rises for a quarter of a period, and exceeds the best for half."""
    D = np.diag([1.0, aspect])
    M = 0.998 * D @ rotation(2 * math.pi / period) @ np.linalg.inv(D)
    phases = np.linspace(0, 3, 7)
    start, c = np.stack([np.cos(phases), np.sin(phases)], axis=1), np.array([3.0, 1.0])
    found = fixed_point(lambda x: (x - c) @ M.T + c, start, method="picard", max_steps=20_000)
    assert found.converged.all()
    longest = 0
    for residual in found.history.T:
        records = np.flatnonzero(residual <= np.minimum.accumulate(residual))
        longest = max(longest, int(np.diff(records[records < len(residual) // 2]).max()))
    assert longest > 100


@pytest.mark.parametrize(("n", "rho"), [(20, 0.9), (30, 0.9), (12, 0.97)])
def test_a_residual_may_grow_with_the_solution(n: int, rho: float) -> None:
    """A Jordan block: ||f(x) - x|| first grows by (1 - rho)^-n, like x, and then falls."""
    J, b = rho * np.eye(n) + np.eye(n, k=1), np.random.default_rng(n).normal(size=(2, n))
    exact = np.linalg.solve(np.eye(n) - J, b.T).T
    for how in ({"method": "picard"}, {"method": "picard", "damping": 0.7}, {"method": "squarem"},
                {"method": "krasnoselskii_mann"}):  # fmt: skip
        found = fixed_point(lambda x, b: x @ J.T + b, np.zeros((2, n)), args=(b,), max_steps=9999, **how)
        # The plain iteration needs about (n log 1 / (1 - rho) + log 1 / rtol) / (1 - rho) evaluations.
        most = 3 * (n + 19) / (1 - rho)
        assert found.converged.all() and found.evaluations.max() <= most
        assert np.allclose(found.value, exact, rtol=0, atol=1e-2 * np.abs(exact).max())


# --- real stagnation --------------------------------------------------------------------------------------------------


@pairs
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [4, 60])
def test_rounding_ends_a_sample_after_its_patience(method: Any, dtype: str, n: int) -> None:
    rng = np.random.default_rng(n)
    W, b = rng.normal(size=(n, n)), rng.normal(size=(1, n)).astype(dtype)
    W = (0.8 * W / np.linalg.norm(W, 2)).astype(dtype)
    found = quietly(
        lambda x: np.tanh(x @ W + b) * (1 + np.finfo(dtype).eps * rng.integers(-1, 2, (1, n))).astype(dtype),
        np.zeros_like(b), method=method, rtol=0.0, patience=50, max_steps=20_000,
    )  # fmt: skip
    if found.converged[0]:  # f(x) = x can happen by chance
        return
    steps = int(np.nanargmin(found.history[:, 0]))
    assert found.reason == ("stagnated",) and found.steps[0] == steps + 50
    assert found.residual[0] <= 64 * np.finfo(dtype).eps * np.linalg.norm(found.value)


@pytest.mark.parametrize("period", [2, 3, 5])
def test_cycles_end_after_the_patience(period: int) -> None:
    R = rotation(2 * math.pi / period)
    D = np.diag([1.0, 3.0])
    M = D @ R @ np.linalg.inv(D)
    found = quietly(lambda x: x @ M.T, np.array([[1.0, 0.5]]), method="picard", patience=30, max_steps=10_000)
    assert found.reason == ("stagnated",) and found.steps[0] <= 30 + 2 * period


def test_noise_far_above_rounding_ends_by_a_window_that_grows() -> None:
    """A map in float32 of a state in float64: no progress for twice the steps that it took to reach the noise."""
    rng = np.random.default_rng(1)
    W = rng.normal(size=(30, 30))
    W = (0.97 * W / np.linalg.norm(W, 2)).astype(np.float32)
    b = rng.normal(size=(1, 30)).astype(np.float32)
    found = quietly(
        lambda x: (x.astype(np.float32) @ W + b).astype(np.float64), np.zeros((1, 30)), method="picard", rtol=1e-11,
        max_steps=10_000, patience=20,
    )  # fmt: skip
    if not found.converged[0]:
        reached = int(found.history[:, 0].argmin())
        assert found.reason == ("stagnated",) and found.steps[0] <= 3 * reached + 25


@pytest.mark.parametrize("factor", [1.1, 1.3, 2.5])
def test_growth_without_progress_is_divergence(factor: float) -> None:
    found = quietly(lambda x: factor * x + 1, np.zeros((1, 3)), method="picard")
    assert found.reason == ("diverged",) and found.residual[0] == pytest.approx(math.sqrt(3))


# --- solutions that are 0 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
def test_a_solution_of_0_needs_no_atol(method: Any, dtype: str) -> None:
    rng = np.random.default_rng(2)
    W = rng.normal(size=(12, 12))
    W = (0.7 * W / np.linalg.norm(W, 2)).astype(dtype)
    start = np.concatenate([rng.normal(size=(2, 12)), np.zeros((1, 12))]).astype(dtype)
    found = fixed_point(lambda x: np.tanh(x @ W), start, method=method)
    assert found.converged.all() and not found.value.any() and not found.residual.any()
    assert found.steps.max() <= 60  # 0.7^52 = 1e-8, and by half steps 0.85^113


def test_a_small_solution_is_not_0() -> None:
    """Values far below x0, of maps that have another value at 0, that raise an error, warn or are NaN there."""

    def raises(x: Array) -> Array:
        if (x == 0).any():
            raise RuntimeError("0 is no argument of this map")
        return 0.5 * x + small / 2

    small = 1e-11
    maps = (
        lambda x: 0.5 * x + small / 2,
        raises,
        lambda x: 0.5 * x + 0.5 * small**2 / x,
        lambda x: np.where(x == 0, np.nan, 0.5 * x + small / 2),
    )
    for f in maps:
        found = fixed_point(f, np.ones((2, 3)), method="picard", rtol=1e-9)
        assert found.converged.all() and np.allclose(found.value, small, rtol=1e-7, atol=0)


def test_each_sample_tries_0_by_itself() -> None:
    c = np.array([[0.0], [1e-12], [0.0], [1.0]])
    rows = []

    def f(x: Array, c: Array) -> Array:
        rows.append(len(x))
        return np.asarray(0.5 * x + 0.5 * c)

    found = fixed_point(f, np.ones((4, 2)), args=(c,), method="picard", rtol=1e-10)
    assert found.converged.all() and np.allclose(found.value, c, rtol=1e-9, atol=0)
    assert found.evaluations.sum() == sum(rows)
    assert (found.value[[0, 2]] == 0).all() and found.evaluations[0] == found.evaluations[2] < found.evaluations[1]


# --- single methods ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.98, 0.995, 0.999, -0.5, 1.02])
@pytest.mark.parametrize("componentwise", [False, True])
def test_aitken_bounds_omega_without_dropping_it(rate: float, componentwise: bool) -> None:
    """The exact omega is 1 / (1 - rate); with a bound below it, the error still falls by 1 - largest (1 - rate)."""
    largest = 0.9 / abs(1 - rate)
    how: dict[str, Any] = {"method": "aitken", "rtol": 1e-10, "componentwise": componentwise, "throw": True}
    start = np.zeros((2, 4))
    bounded = fixed_point(lambda x: rate * x + 1, start, largest=max(largest, 1.0), **how)
    assert bounded.steps.max() <= 2 + math.ceil(math.log(1e-12) / math.log(0.1))
    assert fixed_point(lambda x: rate * x + 1, start, largest=1e6, **how).steps.max() <= 3


@pytest.mark.parametrize("bounds", [None, (-0.5, 0.5), (0.0, 0.9)])
@pytest.mark.parametrize("slope", [0.6, 0.9])
def test_chebyshev_on_a_map_with_a_kink(bounds: Any, slope: float) -> None:
    """abs(x) is refused as not affine; with given bounds, the sample goes on by plain steps and converges."""
    start = np.array([[3.0], [-1.0], [0.01]])

    def f(x: Array) -> Array:
        return slope * np.abs(x) - 1

    if bounds is None:
        with pytest.raises(ValueError, match="f must be affine"):
            fixed_point(f, start, method="chebyshev")
    else:
        found = fixed_point(f, start, method="chebyshev", bounds=bounds, max_steps=5000)
        assert found.converged.all() and np.allclose(found.value, -1 / (1 + slope), atol=1e-6)


def test_an_empty_batch_says_so() -> None:
    for method in (*METHODS, "chebyshev"):
        text = repr(fixed_point(np.cos, np.zeros((0, 3)), method=method))
        assert text == f"FixedPointSolution({method}, no samples, value (0, 3) float64)"
