"""The callback of every solver: it sees each check, changes nothing, and stops the solver where it returns True."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import experimental, fixedpoint
from fastiter.fixedpoint import monotone

torch = pytest.importorskip("torch")

from fastiter.torch import fixedpoint as on_tensors  # noqa: E402

RNG = np.random.default_rng(0)
A = RNG.normal(size=(6, 4))
M = 0.5 * np.eye(4) + 0.1 * RNG.normal(size=(4, 4))
B = RNG.normal(size=(5, 4))
COSTS = RNG.random((3, 6, 7))
PATTERNS, QUERIES = RNG.normal(size=(9, 4)), RNG.normal(size=(5, 4))
#: The operators of a problem with a unique solution: min |A x - 1|^2 / 2 over x >= 0
RESOLVENT: Any = lambda y, t: np.maximum(y, 0)  # noqa: E731
GRADIENT: Any = lambda x: A.T @ (A @ x - 1)  # noqa: E731
INVERSE: Any = lambda y, t: np.linalg.solve(np.eye(4) + t * A.T @ A, y + t * A.T @ np.ones(6))  # noqa: E731
STEP = 0.5 / float(np.linalg.norm(A, 2)) ** 2
X0 = np.zeros(4)


def tensor(x: Any) -> Any:
    return torch.from_numpy(x)


def game(x: Any) -> Any:
    return (A[:4] @ x[1], -x[0] @ A[:4])


CALLS: dict[str, Callable[..., Any]] = {
    "fixed_point": lambda **how: fixedpoint.fixed_point(lambda x: x @ M + B, np.zeros((5, 4)), **how),
    "fixed_point, one": lambda **how: fixedpoint.fixed_point(
        lambda x: x @ M + B, np.zeros((5, 4)), batched=False, **how
    ),
    "refine": lambda **how: fixedpoint.refine(np.eye(4) + M, np.eye(4) * 0.6, B[0], **how),
    "sinkhorn": lambda **how: fixedpoint.sinkhorn(COSTS, epsilon=0.1, **how),
    "sinkhorn, one": lambda **how: fixedpoint.sinkhorn(COSTS[0], epsilon=0.1, **how),
    "hopfield_update": lambda **how: fixedpoint.hopfield_update(QUERIES, PATTERNS, **how),
    "hopfield_update, exactly": lambda max_steps=6, **how: fixedpoint.hopfield_update(
        QUERIES, PATTERNS, steps=max_steps, **how
    ),
    "forward_backward": lambda **how: monotone.forward_backward(RESOLVENT, GRADIENT, X0, step=STEP, **how),
    "forward_backward_forward": lambda **how: monotone.forward_backward_forward(RESOLVENT, GRADIENT, X0, **how),
    "extragradient": lambda **how: monotone.extragradient(RESOLVENT, GRADIENT, X0, step=STEP, **how),
    "peaceman_rachford": lambda **how: monotone.peaceman_rachford(RESOLVENT, INVERSE, X0, step=STEP, **how),
    "douglas_rachford": lambda **how: monotone.douglas_rachford(RESOLVENT, INVERSE, X0, step=STEP, **how),
    "davis_yin": lambda **how: monotone.davis_yin(RESOLVENT, lambda y, t: y, GRADIENT, X0, step=STEP, **how),
    "primal_dual": lambda **how: monotone.primal_dual(
        RESOLVENT,
        lambda y, s: (y - s) / (1 + s),
        (lambda x: A @ x, lambda y: A.T @ y),
        (X0, np.zeros(6)),
        norm_bound=9.0,
        **how,
    ),
    "mirror_prox": lambda **how: monotone.mirror_prox(game, (np.full(4, 0.25), np.full(4, 0.25)), step=0.1, **how),
    "halpern_vr": lambda **how: experimental.halpern_vr(
        lambda x, i: GRADIENT(x) / 6, RESOLVENT, X0, n=6, lipschitz=5.0, rng=0, atol=1e-3, **how
    ),
    "torch fixed_point": lambda **how: on_tensors.fixed_point(
        lambda x: x @ tensor(M) + tensor(B), torch.zeros(5, 4, dtype=torch.float64), **how
    ),
    "torch refine": lambda **how: on_tensors.refine(
        torch.eye(4) + tensor(M), 0.6 * torch.eye(4, dtype=torch.float64), tensor(B[0]), **how
    ),
    "torch sinkhorn": lambda **how: on_tensors.sinkhorn(tensor(COSTS), epsilon=0.1, **how),
    "torch sinkhorn, one": lambda **how: on_tensors.sinkhorn(tensor(COSTS[0]), epsilon=0.1, **how),
    "torch hopfield_update": lambda **how: on_tensors.hopfield_update(tensor(QUERIES), tensor(PATTERNS), **how),
    "torch forward_backward": lambda **how: monotone.forward_backward(
        lambda y, t: y.clamp(min=0), lambda x: tensor(A).T @ (tensor(A) @ x - 1), tensor(X0), step=STEP, **how
    ),
}


def parts(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def flat(x: Any) -> Any:
    """Return the numbers of an array, a tensor or a tuple of these."""
    return np.concatenate([np.asarray(part).ravel() for part in parts(x)])


@pytest.mark.parametrize("name", CALLS)
def test_a_callback_sees_each_check_and_stops(name: str) -> None:
    call = CALLS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
        expected = call()
        seen: list[fastiter.Progress] = []
        watched = call(callback=seen.append)  # only True stops, and None does not
        stopped = call(callback=lambda progress: progress.steps == 3)
        short = call(max_steps=3)
    assert np.array_equal(flat(watched.value), flat(expected.value)) and watched.reason == expected.reason
    assert all(isinstance(progress, fastiter.Progress) for progress in seen)
    steps = [progress.steps for progress in seen]
    assert steps == list(range(steps[0], steps[0] + len(steps))) and steps[0] in (0, 1) and 3 in steps
    is_batch = not isinstance(expected.reason, str) or "hopfield" in name
    for progress in seen:
        assert type(progress.residual) is (type(expected.residual) if is_batch else float)
        assert (progress.active is not None) == is_batch
        assert (np.asarray(progress.tolerance) >= 0).all()
    reasons = {stopped.reason} if isinstance(stopped.reason, str) else set(stopped.reason)
    assert "callback" in reasons <= {"callback", "converged"} and not np.all(np.asarray(stopped.converged))
    assert np.array_equal(flat(stopped.value), flat(short.value))
    steps = np.ravel(stopped.steps)
    assert np.array_equal(steps, np.ravel(short.steps)) and steps.max() == 3
    stopped.raise_if_failed()  # a stop that was asked for is no failure


@pytest.mark.parametrize("name", CALLS)
def test_the_value_of_a_progress_is_the_result_of_as_many_steps(name: str) -> None:
    values: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastiter.ConvergenceWarning)

        def callback(progress: fastiter.Progress) -> bool:
            values.append(progress.value)
            return progress.steps == 3

        found = CALLS[name](callback=callback)
    seen, final = parts(values[-1]), parts(found.value)
    assert [(type(x), tuple(x.shape)) for x in seen] == [(type(x), tuple(x.shape)) for x in final]
    if "sinkhorn" in name and "torch" in name:  # the potentials of the result have the same mean
        seen, final = (sum(x[..., :1] for x in each) for each in (seen, final))
    if not name.startswith(("fixed_point", "torch fixed_point")):  # these return the iterate with the smallest residual
        np.testing.assert_allclose(flat(seen), flat(final), rtol=0, atol=1e-14 * (1 + np.abs(flat(final)).max()))


def test_a_problem_alone_ends_as_in_a_batch_of_larger_masses() -> None:
    """The tolerance of transport is relative to the mass of each problem."""
    C = COSTS[:2]
    a = np.array([[1.0], [1e6]]) * np.full((2, 6), 1 / 6)
    for solve, convert in ((fixedpoint.sinkhorn, np.asarray), (on_tensors.sinkhorn, torch.as_tensor)):
        both: Any = solve(convert(C), convert(a), epsilon=0.1)  # type: ignore[operator]
        for k in range(2):
            alone: Any = solve(convert(C[k]), convert(a[k]), epsilon=0.1)  # type: ignore[operator]
            assert alone.steps == both.steps[k] and alone.tolerance == both.tolerance[k]
            assert np.array_equal(np.asarray(alone.value[0]), np.asarray(both.value[0][k]))
