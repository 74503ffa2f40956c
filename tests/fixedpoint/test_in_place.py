"""Maps that reuse their own memory have the same solution; maps that write to x are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter.fixedpoint import fixed_point, monotone, prox

METHODS = ("picard", "anderson", "broyden", "newton_krylov", "squarem", "aitken", "chebyshev")


@pytest.mark.parametrize("method", METHODS)
def test_a_map_may_return_the_same_memory_each_time(method: Any) -> None:
    rng = np.random.default_rng(0)
    M = rng.normal(size=(6, 6))
    M, b = 0.4 * (M + M.T) / np.linalg.norm(M, 2), rng.normal(size=(3, 6))
    out = np.empty_like(b)

    def reusing(x: Any) -> Any:
        np.matmul(x, M, out=out)
        return np.add(out, b, out=out)

    how: dict[str, Any] = {"method": method, "compact": False, "rtol": 1e-10}
    found, expected = fixed_point(reusing, np.zeros((3, 6)), **how), fixed_point(lambda x: x @ M + b, 0 * b, **how)
    assert np.array_equal(found.steps, expected.steps) and np.array_equal(found.value, expected.value)
    assert np.allclose(found.value, np.linalg.solve(np.eye(6) - M, b.T).T, atol=1e-9)


def test_a_map_that_changes_its_argument_is_refused() -> None:
    def halved(x: Any) -> Any:
        x *= 0.5
        return x

    with pytest.raises(ValueError, match="read-only"):
        fixed_point(halved, np.ones((2, 3)))
    with pytest.raises(ValueError, match="read-only"):
        fixed_point(lambda x: (halved(x[0]), x[1]), (np.ones((2, 3)), np.ones((2, 1))))
    found = fixed_point(lambda x: x, np.ones((2, 3)))  # the identity returns its read-only argument
    found.value[:] = 0  # the result is not
    assert found.converged.all()


def test_a_map_that_changes_its_tensor_is_refused() -> None:
    torch = pytest.importorskip("torch")
    from fastiter.torch.fixedpoint import fixed_point as of_tensors

    for x0 in (torch.ones(2, 3), (torch.ones(2, 3), torch.ones(2, 1))):
        with pytest.raises(ValueError, match=r"^fixed_point: f\(x\) must leave x as it is, got one that is changed in"):
            of_tensors(lambda x: (x.mul_(0.5), x)[1] if torch.is_tensor(x) else (x[0].mul_(0.5), x[1]), x0)


def lasso() -> tuple[Any, Any, Any, float]:
    """Return the resolvent of a norm, that of a square and its gradient, and the gradient's Lipschitz constant."""
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(20, 10)), rng.normal(size=20)
    AA, Ab = A.T @ A, A.T @ b
    return (
        lambda y, t: prox.prox_l1(y, 0.5 * t),
        lambda y, t: np.linalg.solve(np.eye(10) + t * AA, y + t * Ab),
        lambda x: AA @ x - Ab,
        float(np.linalg.norm(AA, 2)),
    )


def reusing(f: Any) -> Any:
    """Return the function with a single array for all its results."""
    out = np.empty(10)

    def call(*args: Any) -> Any:
        out[:] = f(*args)
        return out

    return call


@pytest.mark.parametrize("name", ["forward_backward", "forward_backward_forward", "extragradient", "searched"])
def test_operators_may_return_the_same_memory_each_time(name: str) -> None:
    resolvent, _, forward, lipschitz = lasso()
    how: dict[str, Any] = {"rtol": 1e-9, "max_steps": 20000, "lipschitz": None if name == "searched" else lipschitz}
    method = getattr(monotone, "forward_backward" if name == "searched" else name)
    expected = method(resolvent, forward, np.zeros(10), **how)
    for pair in ((reusing(resolvent), forward), (resolvent, reusing(forward)), (reusing(resolvent), reusing(forward))):
        found = method(*pair, np.zeros(10), **how)
        assert found.steps == expected.steps > 10 and np.array_equal(found.value, expected.value)


@pytest.mark.parametrize("name", ["douglas_rachford", "peaceman_rachford"])
def test_operators_that_change_their_arguments_are_refused(name: str) -> None:
    resolvent, second, _, _ = lasso()
    method = getattr(monotone, name)
    expected = method(resolvent, second, np.zeros(10))
    found = method(reusing(resolvent), reusing(second), np.zeros(10))
    assert found.steps == expected.steps > 10 and np.array_equal(found.value, expected.value)
    with pytest.raises(ValueError, match="read-only"):
        method(lambda y, t: np.maximum(y, 0, out=y), second, np.zeros(10))
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=f"^{name}: resolvent_a must leave its arguments as they are, got one that is"):
        method(lambda y, t: y.clamp_(min=0), lambda y, t: y / (1 + t), torch.ones(3))
