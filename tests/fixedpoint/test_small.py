"""The compiled loop for small problems: the same results as Python's, also for maps that it has to hand back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter.fixedpoint import FixedPointSolution, fixed_point
from tests.support.pairs import pairs


def problem(dtype: str, samples: int, n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng([samples, n])
    W, b = rng.normal(size=(n, n)), rng.normal(size=(samples, n))
    return (0.9 * W / np.linalg.norm(W, 2)).astype(dtype), b.astype(dtype)


def same(one: FixedPointSolution, other: FixedPointSolution) -> None:
    assert one.reason == other.reason and np.array_equal(one.value, other.value)
    for name in ("steps", "evaluations", "residual", "history"):
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)


@pairs
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("samples", "n"), [(1, 1), (1, 3), (4, 5), (3, 40)])
@pytest.mark.parametrize(
    "how", [{}, {"max_steps": 4}, {"rtol": 0.0, "max_steps": 300}, {"kind": 1, "damping": 0.8}, {"norm": "inf"}]
)
@pytest.mark.filterwarnings("ignore::fastiter.ConvergenceWarning")
def test_the_loop_is_pythons(dtype: str, samples: int, n: int, how: dict[str, Any]) -> None:
    """With a callback, Python makes the steps."""
    W, b = problem(dtype, samples, n)

    def f(x: Any, b: Any) -> Any:
        return np.tanh((W * x[:, None, :]).sum(axis=2) + b)

    compiled = fixed_point(f, np.zeros_like(b), args=(b,), **how)
    same(compiled, fixed_point(f, np.zeros_like(b), args=(b,), callback=lambda progress: None, **how))


@pytest.mark.filterwarnings("ignore::fastiter.ConvergenceWarning")
def test_values_that_the_loop_does_not_read() -> None:
    W, b = problem("float64", 4, 6)
    out, calls = np.empty((4, 6)), [0]

    def f(x: Any) -> Any:
        return np.tanh(x @ W + b)

    def reused(x: Any) -> Any:
        out[:] = f(x)
        return out

    def mixed(x: Any) -> Any:
        calls[0] += 1
        return np.asfortranarray(f(x)) if calls[0] % 3 else f(x)

    how: dict[str, Any] = {"compact": False, "rtol": 1e-10}
    expected = fixed_point(f, np.zeros((4, 6)), **how)
    for map_ in (reused, mixed, lambda x: np.asfortranarray(f(x)), lambda x: np.repeat(f(x), 2, axis=1)[:, ::2]):
        same(fixed_point(map_, np.zeros((4, 6)), **how), expected)
    number = fixed_point(lambda x: np.float64(0.5 * np.cos(float(x))), 0.0, batched=False)
    assert number.converged and abs(0.5 * np.cos(float(number.value)) - number.value) <= 1e-8
    for wrong, message in (
        (lambda x: f(x)[:, :2], r"must have shape \(4, 6\)"),
        (lambda x: 1, "must be a NumPy array"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            fixed_point(wrong, np.zeros((4, 6)))
    with pytest.raises(ZeroDivisionError):
        fixed_point(lambda x: 1 / 0, np.zeros((4, 6)))


def test_each_x_is_read_only_and_stays_as_it_was() -> None:
    seen: list[Any] = []

    def f(x: Any) -> Any:
        assert not x.flags.writeable and x.shape == (2, 3)
        seen.append((x, x.copy()))
        return 0.5 * np.cos(x)

    assert fixed_point(f, np.zeros((2, 3)), batched=False).converged
    assert len(seen) > 3 and all(np.array_equal(x, copy) for x, copy in seen)
    with pytest.raises(ValueError, match="read-only"):
        fixed_point(lambda x: np.multiply(x, 0.5, out=x), np.ones((1, 3)))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_no_more_differences_than_unknowns(n: int) -> None:
    """A larger m changes nothing, and n differences solve an affine map in n + 1 steps."""
    W, b = problem("float64", 2, n)
    one, other = (fixed_point(lambda x: x @ W + b, np.zeros((2, n)), compact=False, m=m) for m in (n, 20))
    same(one, other)
    assert one.steps.max() <= n + 2
    root = fixed_point(lambda x: 0.9 * np.sin(x) + b, np.zeros((2, n)), rtol=1e-10, compact=False)
    assert root.converged.all() and np.allclose(0.9 * np.sin(root.value) + b, root.value, rtol=1e-9)
