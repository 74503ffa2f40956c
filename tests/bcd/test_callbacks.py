"""The arguments that all solvers have in common: tolerances and callbacks, on arrays and on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

sp = pytest.importorskip("scipy.sparse")
import fastiter  # noqa: E402
from fastiter import bcd  # noqa: E402

A = np.random.default_rng(0).standard_normal((30, 6))
B = A @ np.arange(1.0, 7.0)
GRAPH = sp.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(40, 40), format="csr")
SOLVERS: dict[str, Callable[..., Any]] = {
    "bcd": lambda **options: bcd.bcd(bcd.LeastSquares(A, B), check_every=1, **options),
    "gap": lambda **options: bcd.bcd(bcd.LeastSquares(A, B, l1=1.0), stop="gap", check_every=1, **options),
    "greedy": lambda **options: bcd.bcd(bcd.LeastSquares(A, B), rule="gs", check_every=1, **options),
    "nnls": lambda **options: bcd.nnls(A, B - 5 * A[:, 0], **options),
    "forest_bcd": lambda **options: bcd.forest_bcd(GRAPH, np.ones(40), blocks="red-black", check_every=1, **options),
    "sketch_solve": lambda **options: bcd.sketch_solve(A, B, **options),
    "block": lambda **options: bcd.sketch_solve(A, B, sketch="block", size=3, **options),
}


def newton(**options: Any) -> Any:
    """Minimise sum exp(x) - x on a sphere."""

    def f(x: Any) -> Any:
        return np.exp(x).sum() - x.sum(), np.exp(x) - 1, np.diag(np.exp(x))

    def c(x: Any, multipliers: Any) -> Any:
        return np.array([x @ x - 1]), 2 * x[None], 2 * np.eye(3) * (multipliers[0] if len(multipliers) else 0)

    return bcd.sketched_newton(f, c, np.full(3, 0.9), **options)


def tensors() -> dict[str, Callable[..., Any]]:
    """Return solvers on tensors, with those of arrays that take the same steps."""
    torch = pytest.importorskip("torch")
    from fastiter.torch import bcd as of_tensors

    a, b = torch.from_numpy(A), torch.from_numpy(B)
    return {
        "bcd": lambda **options: of_tensors.bcd(of_tensors.LeastSquares(a, b), check_every=1, **options),
        "nnls": lambda **options: of_tensors.nnls(a, b - 5 * a[:, 0], **options),
        "sketch_solve": lambda **options: of_tensors.sketch_solve(a, b, **options),
        "objective": lambda **options: of_tensors.bcd(
            lambda x: (a @ x - b).square().sum() / 2, torch.zeros(6).double(), check_every=1, **options
        ),
    }


def check_callbacks(solve: Callable[..., Any]) -> None:
    seen: list[fastiter.Progress] = []

    def watch(progress: fastiter.Progress) -> Any:
        seen.append(progress)
        return np.True_ if len(seen) == 2 else "no bool"

    found = solve(callback=watch)
    assert found.reason == "callback" and found.converged is False and len(seen) == 2
    assert found.steps == seen[1].steps > seen[0].steps == 0
    assert found.residual == seen[1].residual > seen[1].tolerance == found.tolerance
    assert type(seen[1].value) is type(found.value) and (seen[1].value == found.value).all()
    if hasattr(found, "objective"):
        assert found.objective == pytest.approx(seen[1].objective, rel=1e-12)
    found.raise_if_failed()  # who stops it knows
    with pytest.raises(TypeError, match=r": callback must be callable or None, got str$"):
        solve(callback="stop")


@pytest.mark.parametrize("name", [*SOLVERS, "sketched_newton"])
def test_a_callback_gets_the_progress_and_ends_the_solver(name: str) -> None:
    check_callbacks(SOLVERS.get(name, newton))


@pytest.mark.parametrize("name", ["bcd", "nnls", "sketch_solve", "objective"])
def test_callbacks_on_tensors(name: str) -> None:
    check_callbacks(tensors()[name])


@pytest.mark.parametrize("name", SOLVERS)
def test_the_tolerance_is_relative_plus_absolute(name: str) -> None:
    solve = SOLVERS[name]
    scale = solve(rtol=1.0).tolerance
    found = solve(rtol=1e-4, atol=1e-4 * scale)
    assert found.converged and found.tolerance == pytest.approx(2e-4 * scale, rel=1e-12)
    assert solve(rtol=0, atol=1e-4 * scale).residual <= 1e-4 * scale


def test_a_path_ends_where_the_callback_says_so() -> None:
    l1 = np.geomspace(50, 0.5, 6)
    seen: list[fastiter.Progress] = []
    values: list[Any] = []

    def watch(progress: fastiter.Progress) -> bool:
        seen.append(progress)
        values.append(progress.value)
        return len(seen) == 3

    whole, found = bcd.lasso_path(A, B, l1), bcd.lasso_path(A, B, l1, callback=watch)
    assert found.reason == ("converged",) * 3 + ("callback",) * 3 and (found.steps[3:] == 0).all()
    assert np.array_equal(found.value[:3], whole.value[:3]) and (found.value[3:] == found.value[2]).all()
    for x, weight, gap, objective in zip(found.value, l1, found.residual, found.objective, strict=True):
        left = A @ x - B
        assert objective == pytest.approx(left @ left / 2 + weight * abs(x).sum(), rel=1e-10)
        scale = min(1.0, weight / abs(A.T @ left).max())
        assert gap == pytest.approx(objective + scale**2 * (left @ left) / 2 + scale * (left @ B), rel=1e-6, abs=1e-7)
    assert list(seen[2].active) == [3, 4, 5] and np.isinf(seen[2].residual[3:]).all()
    assert seen[1].l1 == l1[1] and (values[1][:2] == whole.value[:2]).all() and not values[1][2:].any()
    found.raise_if_failed()
    torch = pytest.importorskip("torch")
    from fastiter.torch import bcd as of_tensors

    seen.clear()
    again = of_tensors.lasso_path(torch.from_numpy(A), torch.from_numpy(B), torch.from_numpy(l1), callback=watch)
    assert again.reason == found.reason and isinstance(values[3], torch.Tensor)


def test_the_residual_of_a_scaled_system_is_in_its_own_units() -> None:
    seen: list[fastiter.Progress] = []
    found = bcd.sketch_solve(A * 1e120, B * 1e120, callback=seen.append)
    assert found.converged and found.residual <= found.tolerance == pytest.approx(1e-6 * np.linalg.norm(B) * 1e120)
    assert seen[0].residual == pytest.approx(np.linalg.norm(B) * 1e120) and seen[0].tolerance == found.tolerance
    plain = bcd.sketch_solve(A * 1e120, B * 1e120, rtol=0, atol=found.tolerance)
    assert plain.converged and plain.steps == found.steps
