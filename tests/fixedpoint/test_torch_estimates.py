"""fastiter.torch.fixedpoint: estimates about maps, against eigenvalues and the iterations."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import fixedpoint  # noqa: E402
from fastiter.torch.fixedpoint import fixed_point  # noqa: E402

B, N = 3, 6


def randn(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def source(seed: int = 0) -> Any:
    return torch.Generator().manual_seed(seed)


def rows(x: Any, W: Any) -> Any:
    """Return a map whose Jacobian is a different matrix of W (B, n, n) for each sample."""
    return torch.einsum("bij,bj->bi", W, x)


def test_the_penalty_is_the_mean_squared_norm() -> None:
    W = randn(B, N, N).requires_grad_()
    x = randn(B, N, seed=1)
    exact = W.square().sum() / (B * N)
    found = fixedpoint.jacobian_penalty(rows, x, W, samples=4000, generator=source())
    # The variance of ||J^T e||^2 is 2 ||J J^T||_F^2 for each sample.
    spread = (2 * (W @ W.mT).square().sum()).sqrt() / (B * N) / 4000**0.5
    assert abs(found - exact) < 5 * spread
    (dW,) = torch.autograd.grad(found, W)
    assert (dW - 2 * W / (B * N)).norm() < 0.1 * dW.norm()


def test_the_penalty_has_gradients_of_all_it_depends_on() -> None:
    x, W, c = (randn(*s).requires_grad_() for s in ((B, N), (N, N), (N,)))

    def penalty(x: Any, W: Any, c: Any) -> Any:
        return fixedpoint.jacobian_penalty(lambda x, W: torch.tanh(x @ W) * c, x, W, generator=source())

    assert torch.autograd.gradcheck(penalty, (x, W, c), fast_mode=True)
    assert torch.autograd.gradgradcheck(penalty, (x, W, c), fast_mode=True)
    with torch.no_grad():
        torch.testing.assert_close(penalty(x, W, c), penalty(x, W, c).detach())
    assert not fixedpoint.jacobian_penalty(lambda x: torch.ones_like(x), x).requires_grad


def test_spectral_radii_are_those_of_each_sample() -> None:
    W = randn(B, N, N, seed=2) / N
    found = fixedpoint.spectral_radius(rows, randn(B, N), W, steps=600, generator=source())
    torch.testing.assert_close(found, torch.linalg.eigvals(W).abs().amax(1), rtol=0.02, atol=0)
    sym = (W + W.mT) / 2
    exact = torch.linalg.eigvalsh(sym).abs().amax(1)
    torch.testing.assert_close(fixedpoint.spectral_radius(rows, randn(B, N), sym, steps=2000), exact, rtol=1e-3, atol=0)


def test_spectral_radii_that_are_zero() -> None:
    nilpotent = torch.triu(randn(1, 4, 4), 1)
    assert fixedpoint.spectral_radius(rows, randn(1, 4), nilpotent) == 0
    assert fixedpoint.spectral_radius(lambda x: torch.ones_like(x), randn(B, N)).tolist() == [0.0] * B
    assert fixedpoint.spectral_radius(lambda x: 0.5 * x, randn(0, N)).shape == (0,)


def test_the_radius_is_the_rate_of_convergence() -> None:
    W, b = randn(N, N), 0.1 * randn(B, N)
    W = 0.9 * (W + W.mT) / torch.linalg.matrix_norm(W + W.mT, 2)

    def f(x: Any) -> Any:
        return torch.tanh(x @ W + b)

    x = fixed_point(f, torch.zeros(B, N, dtype=torch.float64), rtol=1e-14).value
    rho = fixedpoint.spectral_radius(f, x, steps=400, generator=source())
    y, errors = x + 1e-4 * randn(B, N, seed=3), []
    for _ in range(60):
        y = f(y)
        errors.append((y - x).norm(dim=1))
    torch.testing.assert_close((errors[-1] / errors[19]) ** (1 / 40), rho, rtol=0.02, atol=0)


@pytest.mark.parametrize("shift", [-2.0, 0.0, 2.0])
def test_monotonicity_is_the_least_eigenvalue(shift: float) -> None:
    W = randn(B, N, N, seed=4) + shift * torch.eye(N, dtype=torch.float64)
    exact = torch.linalg.eigvalsh(torch.eye(N, dtype=torch.float64) - (W + W.mT) / 2)[:, 0]
    torch.testing.assert_close(fixedpoint.monotonicity(rows, randn(B, N), W), exact)
    few = fixedpoint.monotonicity(rows, randn(B, N), W, steps=3, generator=source())
    assert bool((few >= exact - 1e-12).all()) and bool((few > exact + 1e-3).any())


def test_monotonicity_of_rows_that_end_early() -> None:
    """A multiple of the identity ends Lanczos's method after one step, while another row continues."""
    W = torch.stack([0.5 * torch.eye(N, dtype=torch.float64), randn(N, N)])
    exact = torch.linalg.eigvalsh(torch.eye(N, dtype=torch.float64) - (W + W.mT) / 2)[:, 0]
    torch.testing.assert_close(fixedpoint.monotonicity(rows, randn(2, N), W), exact)
    assert fixedpoint.monotonicity(lambda x: torch.ones_like(x), randn(B, N)).allclose(
        torch.ones(B, dtype=torch.float64)
    )
    assert fixedpoint.monotonicity(lambda x: 0.5 * x, randn(B, 0)).tolist() == [1.0] * B


def test_the_bound_holds_along_the_iteration() -> None:
    W = randn(N, N)
    W, b = 0.9 * W / torch.linalg.matrix_norm(W, 2), randn(B, N)
    exact = torch.linalg.solve(torch.eye(N, dtype=torch.float64) - W.mT, b.mT).mT
    x = torch.zeros(B, N, dtype=torch.float64)
    for _ in range(50):
        y = x @ W + b
        bound = fixedpoint.error_bound((y - x).norm(dim=1), 0.9)
        assert bool(((y - exact).norm(dim=1) <= bound * (1 + 1e-12) + 1e-14).all())
        x = y


def test_bounds_at_the_limits() -> None:
    residual = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert fixedpoint.error_bound(residual, 1.0).tolist() == [0.0, float("inf")]
    assert fixedpoint.error_bound(residual, 0.0).tolist() == [0.0, 0.0]
    assert fixedpoint.error_bound(residual, torch.tensor([0.5, 2.0])).tolist() == [0.0, float("inf")]


def test_states_of_several_tensors() -> None:
    x = {"h": randn(B, 2), "c": randn(B)}
    f = lambda x: {"h": 0.5 * x["h"], "c": -0.25 * x["c"]}  # noqa: E731
    torch.testing.assert_close(fixedpoint.spectral_radius(f, x, steps=99), torch.full((B,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(fixedpoint.monotonicity(f, x), torch.full((B,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("name", ["jacobian_penalty", "spectral_radius", "monotonicity"])
@pytest.mark.parametrize(
    ("f", "x", "error", "message"),
    [
        (3, torch.zeros(2, 3), TypeError, "f must be a function"),
        (lambda x: x, 3, TypeError, "x must be a torch.Tensor, got int"),
        (lambda x: x, torch.zeros(2, 3, dtype=torch.complex64), TypeError, "x must be real, got torch.complex64"),
        (lambda x: x[:1], torch.zeros(2, 3), ValueError, r"f must return the shape \(2, 3\) of x, got \(1, 3\)"),
        (lambda x: x.double(), torch.zeros(2, 3), TypeError, "f must return the dtype torch.float32 of x"),
    ],
)
def test_errors(name: str, f: Any, x: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{name}: {message}"):
        getattr(fixedpoint, name)(f, x)


def test_errors_of_numbers() -> None:
    f, x = (lambda x: 0.5 * x), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"^spectral_radius: steps must be at least 2, got 1"):
        fixedpoint.spectral_radius(f, x, steps=1)
    with pytest.raises(ValueError, match=r"^monotonicity: steps must be at least 1, got 0"):
        fixedpoint.monotonicity(f, x, steps=0)
    with pytest.raises(TypeError, match=r"^jacobian_penalty: samples must be an int, got float"):
        fixedpoint.jacobian_penalty(f, x, samples=1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^error_bound: residual must be a torch.Tensor, got float"):
        fixedpoint.error_bound(1.0, 0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^error_bound: residual must have a floating-point dtype, got torch.int64"):
        fixedpoint.error_bound(torch.tensor([3]), 0.2)  # 0.75 is no integer
    for rho in (float("nan"), torch.tensor(float("nan"))):
        with pytest.raises(ValueError, match=r"^error_bound: rho must be at least 0, got nan"):
            fixedpoint.error_bound(torch.ones(1), rho)
    with pytest.raises(ValueError, match=r"^error_bound: rho must be at least 0, got -1"):
        fixedpoint.error_bound(torch.ones(1), -1.0)


def test_the_penalty_estimates_that_of_torchdeq() -> None:
    """Both are random: for a multiple of an orthogonal matrix their variance is at most that of the mean of v^2."""
    loss = pytest.importorskip("torchdeq.loss")
    torch.manual_seed(0)
    Q = 0.3 * torch.linalg.qr(randn(40, 40))[0]
    z = randn(100, 40).requires_grad_()
    theirs = loss.jac_reg(z @ Q, z).item()
    ours = float(fixedpoint.jacobian_penalty(lambda x: x @ Q, z.detach()))
    deviation = 0.09 * (2 / z.numel()) ** 0.5
    assert abs(theirs - 0.09) <= 6 * deviation and abs(ours - 0.09) <= 6 * deviation
