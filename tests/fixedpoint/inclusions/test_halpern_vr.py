"""Variance-reduced Halpern iteration: the numbers of the reference, a game, counts of evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter import ConvergenceWarning, experimental
from fastiter.fixedpoint import monotone, prox
from tests.support.cases import Array


class LeastSquares:
    """The components a_i (a_i . x - b_i) of a sum, with unit rows a_i and a decaying spectrum; counts evaluations."""

    def __init__(self, n: int = 20000, d: int = 50) -> None:
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((n, d)) / np.arange(1, d + 1)
        self.A = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.b = self.A @ rng.standard_normal(d) + 0.1 * rng.standard_normal(n)
        self.n, self.d, self.count = n, d, 0

    def __call__(self, x: Any, indices: Any) -> Any:
        rows = slice(None) if indices is None else indices
        a = self.A[rows]
        self.count += len(a)
        return a.T @ (a @ x - self.b[rows]) / len(a)


def nothing(y: Any, t: float) -> Any:
    return y


def epochs(problem: LeastSquares, residual: float, **how: Any) -> float:
    how = {"n": problem.n, "lipschitz": 1.0, "rng": 1, **how}
    problem.count = 0
    found = experimental.halpern_vr(problem, nothing, np.zeros(problem.d), rtol=0, atol=residual, **how)
    assert found.evaluations == problem.count and found.converged
    norm = np.linalg.norm(problem(found.value, None))
    assert norm <= residual and abs(norm - found.residual) < 1e-12  # that of the last iterate, whose F is known
    return found.evaluations / problem.n


def test_epochs_of_the_reference() -> None:
    """Within 40% of the reference's evaluations on the same kind of data, with the same ranking of the methods."""
    problem = LeastSquares()
    assert abs(np.linalg.norm(problem(np.zeros(50), None)) - 0.269) < 0.01
    ours = [epochs(problem, residual) for residual in (0.03, 0.01, 0.003)]
    np.testing.assert_allclose(ours[:2], [18, 41], rtol=0.4)
    theory = epochs(problem, 0.03, step=0.25)
    np.testing.assert_allclose(theory, 44, rtol=0.4)
    deterministic = epochs(
        problem, 0.01, probability=1.0, step=1 / float(np.linalg.norm(problem.A, 2) ** 2 / problem.n)
    )
    assert ours[1] < 0.8 * deterministic and theory > 1.5 * ours[0]
    assert ours[2] < 300  # the deterministic method needs more


class Game:
    """The operator (A y, -A^T x) of a matrix game whose matrix is the mean of n."""

    def __init__(self, n: int = 400, m: int = 10) -> None:
        rng = np.random.default_rng(0)
        self.A = 0.3 * rng.standard_normal((n, m, m)) + rng.standard_normal((m, m))
        self.n, self.m, self.mean = n, m, self.A.mean(0)
        self.lipschitz = float(np.sqrt(np.mean(np.linalg.norm(self.A, 2, axis=(1, 2)) ** 2)))
        self.start = np.full(2 * m, 1 / m)

    def __call__(self, z: Array, indices: Any) -> Array:
        A = self.mean if indices is None else self.A[indices].mean(0)
        return np.concatenate([A @ z[self.m :], -z[: self.m] @ A])

    def simplices(self, y: Array, t: float) -> Array:
        return prox.project_simplex(y.reshape(2, self.m)).reshape(-1)

    def gap(self, z: Array) -> float:
        return float((z[: self.m] @ self.mean).max() - (self.mean @ z[self.m :]).min())


def test_a_game_needs_fewer_evaluations_than_extragradient() -> None:
    game = Game()
    how: dict[str, Any] = {"rtol": 0, "atol": 0.02}
    found = experimental.halpern_vr(
        game, game.simplices, game.start, n=game.n, lipschitz=game.lipschitz, variant="lipschitz", rng=0, **how
    )
    full = float(np.linalg.norm(game.mean, 2))
    other = monotone.extragradient(
        game.simplices, lambda z: game(z, None), game.start, lipschitz=full, max_steps=5000, **how
    )
    assert found.converged and other.converged
    assert found.evaluations < 0.7 * game.n * other.evaluations
    # The gap is at most the residual times the diameter of the simplices, which is 2.
    assert 0 <= game.gap(found.value) <= 2 * found.residual


@pytest.mark.parametrize("variant", ["cocoercive", "lipschitz"])
def test_seeds_batches_and_components(variant: Any) -> None:
    problem = LeastSquares(50, 4)

    def call(**how: Any) -> monotone.InclusionSolution:
        how = {"rtol": 0, "atol": 2e-2, "max_steps": 20000, "variant": variant, "n": 50, "lipschitz": 1.0, **how}
        return experimental.halpern_vr(problem, nothing, np.zeros(4), **how)

    one, two, other = call(rng=3), call(rng=np.random.default_rng(3)), call(rng=4)
    np.testing.assert_array_equal(one.value, two.value)
    assert one.evaluations == two.evaluations and not np.array_equal(one.value, other.value)
    assert call(rng=3, batch=7, probability=0.5).converged and call(rng=3, step=0.5).converged
    sure, again = call(probability=1.0, rng=1), call(probability=1.0, rng=1)
    assert sure.evaluations == again.evaluations
    single = experimental.halpern_vr(
        lambda x, indices: x - np.float32(2),
        nothing,
        np.zeros(3, np.float32),
        n=1,
        lipschitz=1.0,
        atol=1e-2,
        variant=variant,
    )
    assert single.value.dtype == np.float32 and np.abs(single.value - 2).max() < 2e-2


@pytest.mark.parametrize("variant", ["cocoercive", "lipschitz"])
def test_failures_are_reported(variant: Any) -> None:
    problem = LeastSquares(50, 4)
    with pytest.warns(ConvergenceWarning, match="halpern_vr: the residual must fall to 1e-12, got .*'max_steps'"):
        found = experimental.halpern_vr(
            problem, nothing, np.zeros(4), n=50, lipschitz=1.0, variant=variant, rng=0, rtol=0, atol=1e-12, max_steps=20
        )
    assert not found.converged and found.steps == 20
    with pytest.warns(ConvergenceWarning, match="'nan'"):
        experimental.halpern_vr(
            lambda x, i: x * np.nan, nothing, np.zeros(4), n=5, lipschitz=1.0, variant=variant, max_steps=20
        )


def test_messages() -> None:
    problem = LeastSquares(5, 2)

    def call(**how: Any) -> Any:
        return experimental.halpern_vr(problem, nothing, np.zeros(2), **{"n": 5, "lipschitz": 1.0, **how})

    for how, words in (
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"lipschitz": 0.0}, "lipschitz must be finite and above 0"),
        ({"variant": "other"}, "variant must be one of 'cocoercive', 'lipschitz', got 'other'"),
        ({"probability": 1.5}, "probability must be at most 1, got 1.5"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 6}, "batch must be at most 5, got 6"),
        ({"rng": "seed"}, "rng must be an int, got str"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^halpern_vr: {words}"):
            call(**how)


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    problem = LeastSquares(200, 5)
    A, b = torch.from_numpy(problem.A), torch.from_numpy(problem.b)

    def components(x: Any, indices: Any) -> Any:
        rows = slice(None) if indices is None else indices
        return A[rows].T @ (A[rows] @ x - b[rows]) / len(b[rows])

    how: dict[str, Any] = {"n": 200, "lipschitz": 1.0, "rng": 0, "rtol": 0, "atol": 1e-3}
    found = experimental.halpern_vr(components, nothing, torch.zeros(5, dtype=torch.float64), **how)
    expected = experimental.halpern_vr(problem, nothing, np.zeros(5), **how)
    assert found.evaluations == expected.evaluations
    np.testing.assert_allclose(found.value.numpy(), expected.value, atol=1e-10)
