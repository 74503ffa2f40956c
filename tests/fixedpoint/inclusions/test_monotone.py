"""Methods for monotone inclusions: against SciPy, closed forms and the published iteration counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from fastiter import ConvergenceError, ConvergenceWarning, Progress
from fastiter.fixedpoint import monotone, prox
from tests.support.cases import Array

RNG = np.random.default_rng(0)
DATA, TARGET = RNG.standard_normal((30, 8)), RNG.standard_normal(30) * 3
L = float(np.linalg.norm(DATA, 2) ** 2)


def lasso_gradient(x: Any) -> Any:
    return DATA.T @ (DATA @ x - TARGET)


def soft(y: Any, t: float) -> Any:
    return prox.prox_l1(y, 2.0 * t)


def lasso() -> Array:
    """Return the minimiser of |DATA x - TARGET|^2 / 2 + 2 |x|_1 by SciPy, as a problem in x = u - v with u, v >= 0."""
    split = np.hstack([DATA, -DATA])

    def objective(w: Array) -> tuple[float, Array]:
        r = split @ w - TARGET
        return float(r @ r / 2 + 2 * w.sum()), split.T @ r + 2

    found = scipy.optimize.minimize(
        objective,
        np.ones(16),
        jac=True,
        bounds=[(0, None)] * 16,
        options={"ftol": 1e-16, "gtol": 1e-10, "maxiter": 5000},
    )
    return np.asarray(found.x[:8] - found.x[8:])


LASSO: dict[str, Callable[[Any], monotone.InclusionSolution]] = {
    "fb": lambda x0: monotone.forward_backward(soft, lasso_gradient, x0, lipschitz=L),
    "fb, over-relaxed": lambda x0: monotone.forward_backward(soft, lasso_gradient, x0, lipschitz=L, relaxation=1.4),
    "fb, searched": lambda x0: monotone.forward_backward(soft, lasso_gradient, x0),
    "fbf": lambda x0: monotone.forward_backward_forward(soft, lasso_gradient, x0, lipschitz=L),
    "fbf, searched": lambda x0: monotone.forward_backward_forward(soft, lasso_gradient, x0),
    "extragradient": lambda x0: monotone.extragradient(soft, lasso_gradient, x0, lipschitz=L),
    "extragradient, searched": lambda x0: monotone.extragradient(soft, lasso_gradient, x0),
    "pr": lambda x0: monotone.peaceman_rachford(soft, least_squares, x0, step=0.05),
    "dr": lambda x0: monotone.douglas_rachford(soft, least_squares, x0, step=0.05),
    "dr, over-relaxed": lambda x0: monotone.douglas_rachford(soft, least_squares, x0, step=0.05, relaxation=1.6),
    "davis_yin": lambda x0: monotone.davis_yin(soft, lambda y, t: y, lasso_gradient, x0, step=1 / L),
    "primal_dual": lambda x0: monotone.primal_dual(
        soft,
        lambda y, s: (y - s * TARGET) / (1 + s),
        (lambda x: DATA @ x, lambda y: DATA.T @ y),
        (x0, np.zeros(30)),
        norm_bound=L**0.5,
        max_steps=5000,
    ),
}


def least_squares(y: Any, t: float) -> Any:
    return np.linalg.solve(np.eye(8) + t * DATA.T @ DATA, y + t * DATA.T @ TARGET)


@pytest.mark.parametrize("name", LASSO)
def test_lasso_against_scipy(name: str) -> None:
    found = LASSO[name](np.zeros(8))
    x = found.value[0] if name == "primal_dual" else found.value
    assert found.converged and found.reason == "converged" and len(found.history) == found.steps
    np.testing.assert_allclose(x, lasso(), atol=1e-5)
    # Optimality, to the tolerance: the gradient is -2 sign(x), or within 2 of 0 where x is 0
    gradient = lasso_gradient(x)
    assert np.abs(np.where(x != 0, gradient + 2 * np.sign(x), np.maximum(np.abs(gradient) - 2, 0))).max() < 1e-5


def coupling(n: int, m: float = 0.1) -> Array:
    """Return W of the frustrated model: A = [1, -1] * n in n groups of 2, hollow, with I - W >= m."""
    gram = (1 - m) / 2 * np.outer(np.tile([1.0, -1.0], n), np.tile([1.0, -1.0], n))
    return np.asarray(np.kron(np.eye(n), np.ones((2, 2))) * gram - gram)


#: Steps of the reference for n = 10 and n = 40, None if it does not converge. Its fields b are not known; with ours, of
#: the size at which the numbers agree best, a method may need a third more.
STEPS = {
    ("forward_backward", 0.125): (104, None),
    ("forward_backward", 0.05): (234, 233),
    ("peaceman_rachford", 1.0): (29, 44),
    ("peaceman_rachford", 0.5): (18, 35),
    ("peaceman_rachford", 0.2): (34, 33),
    ("douglas_rachford", 1.0): (27, 29),
    ("douglas_rachford", 0.5): (35, 35),
    ("douglas_rachford", 0.2): (71, 70),
}


@pytest.mark.parametrize("n", [10, 40])
@pytest.mark.parametrize(("name", "alpha"), STEPS)
def test_mean_field_of_the_frustrated_model(name: str, alpha: float, n: int) -> None:
    W = coupling(n)
    S = np.eye(2 * n) - W
    np.testing.assert_allclose(np.linalg.eigvalsh(S)[[0, -1]], [0.1, 0.1 + 0.9 * n], rtol=1e-9)
    b = np.random.default_rng(0).standard_normal((16, 2 * n)) * 0.4
    inverse = np.linalg.inv(np.eye(2 * n) + alpha * S)

    def entropy(y: Array, t: float) -> Array:
        return prox.prox_softmax_entropy(y.reshape(16, n, 2), t).reshape(16, 2 * n)

    ends = {"rtol": 0.0, "atol": 1e-8 * (32 * n) ** 0.5 / min(alpha, 1), "step": alpha}
    x0 = np.full((16, 2 * n), 0.5)
    expected = STEPS[name, alpha][n == 40]
    if name == "forward_backward":
        if expected is None:
            with pytest.warns(ConvergenceWarning, match="forward_backward: the residual must fall to"):
                found = monotone.forward_backward(entropy, lambda z: z @ S - b, x0, max_steps=400, **ends)
            assert not found.converged
            return
        found = monotone.forward_backward(entropy, lambda z: z @ S - b, x0, **ends)
    else:
        method: Any = getattr(monotone, name)
        found = method(entropy, lambda y, t: (y + t * b) @ inverse, x0, **ends)
    assert expected is not None and found.steps <= 4 / 3 * expected
    fixed = scipy.special.softmax((found.value @ W + b).reshape(16, n, 2), -1).reshape(16, 2 * n)
    assert np.abs(fixed - found.value).max() < 1e-6  # whatever alpha and the splitting


def test_a_searched_step_needs_fewer_evaluations_than_fixed_ones() -> None:
    """The largest convergent step is found: fewer evaluations than the best of the fixed steps of the reference."""
    W, n = coupling(40), 40
    b = np.random.default_rng(0).standard_normal((16, 80)) * 0.4
    found = monotone.forward_backward(
        lambda y, t: prox.prox_softmax_entropy(y.reshape(16, n, 2), t).reshape(16, 80),
        lambda z: z - z @ W - b,
        np.full((16, 80), 0.5),
    )
    assert found.converged and found.evaluations < 2 * 233


GAME = np.random.default_rng(5).standard_normal((7, 5))


def value_of_the_game() -> float:
    """Return min over x of max over y of x GAME y, by linear programming."""
    cost = np.append(np.zeros(7), 1.0)
    found = scipy.optimize.linprog(
        cost,
        np.hstack([GAME.T, -np.ones((5, 1))]),
        np.zeros(5),
        np.append(np.ones(7), 0.0)[None],
        [1.0],
        bounds=[(0, None)] * 7 + [(None, None)],
    )
    return float(found.fun)


def game(z: tuple[Any, Any]) -> tuple[Any, Any]:
    return GAME @ z[1], -z[0] @ GAME


@pytest.mark.parametrize("average", [False, True])
def test_matrix_game_against_linear_programming(average: bool) -> None:
    start = np.full(7, 1 / 7), np.full(5, 1 / 5)
    gap = 1e-3 if average else 1e-8
    found = monotone.mirror_prox(
        game, start, lipschitz=float(np.abs(GAME).max()), average=average, rtol=0, atol=gap, max_steps=20000
    )
    x, y = found.value
    assert found.converged
    best, worst = float((x @ GAME).max()), float((GAME @ y).min())
    assert worst - 1e-12 <= value_of_the_game() <= best + 1e-12 and best - worst <= gap * (1 + 1e-9)
    if average:  # the theoretical rate: L (log 7 + log 5) / steps
        assert found.steps <= np.abs(GAME).max() * np.log(35) / gap


def test_the_same_game_by_euclidean_methods() -> None:
    def simplices(z: Array, t: float) -> Array:
        return np.concatenate([prox.project_simplex(z[:7]), prox.project_simplex(z[7:])])

    def both(z: Array) -> Array:
        return np.concatenate([GAME @ z[7:], -z[:7] @ GAME])

    for method in (monotone.extragradient, monotone.forward_backward_forward):
        found = method(simplices, both, np.full(12, 0.1), lipschitz=float(np.linalg.norm(GAME, 2)), max_steps=5000)
        np.testing.assert_allclose((found.value[:7] @ GAME).max(), value_of_the_game(), atol=1e-6)


def test_a_rotation_is_solved_or_reported() -> None:
    """Forward-backward diverges from the origin and reports it; the two methods for monotone operators return to it."""

    def turned(z: Array) -> Array:
        return np.array([z[1], -z[0]])

    with pytest.warns(ConvergenceWarning, match="'diverged'"):
        found = monotone.forward_backward(lambda y, t: y, turned, np.ones(2), step=0.9)
    assert not found.converged
    for method in (monotone.extragradient, monotone.forward_backward_forward):
        assert np.abs(method(lambda y, t: y, turned, np.ones(2), lipschitz=1.0, atol=1e-9).value).max() < 1e-7


def test_a_tiny_step_is_not_mistaken_for_convergence() -> None:
    with pytest.warns(ConvergenceWarning, match="'max_steps'"):
        found = monotone.forward_backward(soft, lasso_gradient, np.zeros(8), step=1e-12, max_steps=20)
    assert not found.converged and found.residual > 1


@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize(
    "method", [monotone.forward_backward, monotone.forward_backward_forward, monotone.extragradient]
)
def test_a_search_for_a_step_that_finds_none_is_not_taken_for_convergence(
    method: Callable[..., monotone.InclusionSolution], start: float
) -> None:
    """An operator that returns other values in each call, and a falling jump: halving ends where z rounds to x."""
    rng = np.random.default_rng(0)
    for forward in (lambda x: rng.standard_normal(3), lambda x: np.where(x >= start, 1.0, 3.0)):
        with pytest.warns(ConvergenceWarning, match="'stagnated'.*forward must be Lipschitz"):
            found = method(lambda y, t: y, forward, np.full(3, start))
        assert found.reason == "stagnated" and found.residual > 0.1


def test_failures_are_reported() -> None:
    with pytest.warns(ConvergenceWarning, match="'nan'"):
        assert monotone.forward_backward(soft, lambda x: x * np.nan, np.zeros(2)).reason == "nan"
    with pytest.raises(ConvergenceError, match=r"^douglas_rachford: the residual must fall to") as raised:
        monotone.douglas_rachford(
            lambda y, t: y - t, lambda y, t: y + 2 * t, np.zeros(2), max_steps=30, throw=True
        )  # the operators 1 and -2 have no zero
    assert isinstance(raised.value.solution, monotone.InclusionSolution) and raised.value.solution.steps == 30
    seen: list[int] = []

    def third(progress: Progress) -> bool:
        seen.append(progress.steps)
        return progress.steps == 3

    found = monotone.forward_backward(soft, lasso_gradient, np.zeros(8), lipschitz=L, callback=third)
    assert seen == [1, 2, 3] and found.reason == "callback" and found.evaluations == 4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: monotone.forward_backward(soft, lasso_gradient, [0.0]),
            "x0 must be an array or a tensor of float32 or",
        ),
        (lambda: monotone.forward_backward(soft, lasso_gradient, np.zeros(8, int)), "x0 must be an array or a tensor"),
        (lambda: monotone.forward_backward(soft, lambda x: x[:3], np.zeros(8)), r"forward must return \(8,\) float64"),
        (
            lambda: monotone.forward_backward(soft, lambda x: 0, np.zeros(8)),
            r"forward must return \(8,\) float64 like x0",
        ),
        (
            lambda: monotone.forward_backward(soft, lambda x: x, np.zeros(2), step=0.0),
            "step must be finite and above 0",
        ),
        (
            lambda: monotone.forward_backward(soft, lambda x: x, np.zeros(2), step=1.0, lipschitz=1.0),
            "lipschitz must be None if step is given, got both",
        ),
        (
            lambda: monotone.forward_backward(soft, lambda x: x, np.zeros(2), relaxation=2.0),
            "relaxation must be below 2",
        ),
        (
            lambda: monotone.extragradient(1, lambda x: x, np.zeros(2)),  # type: ignore[arg-type]
            "resolvent must be callable and no class, got int",
        ),
        (lambda: monotone.mirror_prox(game, (np.ones(7), np.ones(5)), step=1.0), "x0 must be positive, with the sum 1"),
        (lambda: monotone.mirror_prox(game, (np.ones(1),)), "step must be a number if lipschitz is None"),
        (lambda: monotone.mirror_prox(game, (np.ones(1),), step=1.0, beta=-1.0), "beta must be finite and at least 0"),
        (
            lambda: monotone.mirror_prox(game, (np.ones(1),), step=1.0, reference=(np.ones(1),)),
            "reference must be None if beta is 0, got tuple",
        ),
        (
            lambda: monotone.mirror_prox(game, (np.ones(1),), step=1.0, beta=1.0, reference=(np.full(2, 0.5),)),
            "reference must have the blocks of x0",
        ),
        (
            lambda: monotone.mirror_prox(game, (np.ones(1),), step=1.0, beta=1.0, reference=(np.zeros(1),)),
            "reference must be positive, with the sum 1",
        ),
        (
            lambda: monotone.primal_dual(soft, soft, (soft,), (np.ones(1), np.ones(1)), norm_bound=1.0),  # type: ignore[arg-type]
            r"operators must be a tuple \(K, K_T\)",
        ),
        (
            lambda: monotone.davis_yin(soft, soft, lasso_gradient, np.ones(1), step=1.0, max_steps=0),
            "max_steps must be at least 1",
        ),
    ],
)
def test_messages(call: Callable[[], Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^[a-z_]+: {words}"):
        call()


def test_float32_and_tensors_agree_with_arrays() -> None:
    torch = pytest.importorskip("torch")
    from fastiter.torch.fixedpoint import prox as of_tensors

    data, target = (torch.from_numpy(x) for x in (DATA, TARGET))
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x0 = torch.zeros(8, dtype=torch.float64)
    found = monotone.forward_backward(
        lambda y, t: of_tensors.prox_l1(y, (weight * t).detach()) * (weight / 2),
        lambda x: data.T @ (data @ x - target),
        x0,
        lipschitz=L,
    )
    expected = monotone.forward_backward(soft, lasso_gradient, np.zeros(8), lipschitz=L)
    assert not found.value.requires_grad and found.steps == expected.steps
    np.testing.assert_allclose(found.value.numpy(), expected.value, atol=1e-12)
    single = monotone.forward_backward(
        soft, lambda x: lasso_gradient(x).astype(np.float32), np.zeros(8, np.float32), lipschitz=L
    )
    assert single.value.dtype == np.float32
    np.testing.assert_allclose(single.value, expected.value, atol=1e-3)
    even = torch.full((3,), 1 / 3)
    rock = torch.tensor([[0.0, 1, -2], [-1, 0, 1], [2, -1, 0]])
    played = monotone.mirror_prox(lambda x: (rock @ x[1], -x[0] @ rock), (even, even), lipschitz=2.0)
    np.testing.assert_allclose(played.value[0].numpy(), [0.25, 0.5, 0.25], atol=1e-3)
