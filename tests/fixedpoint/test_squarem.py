"""SQUAREM on maps of EM algorithms, and the domain of an accelerated method: textbook counts, guards, batches."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from fastiter import ConvergenceWarning
from fastiter.fixedpoint import FixedPointSolution, fixed_point
from fastiter.fixedpoint._solve import RESCUES
from tests.fixedpoint import em_problems
from tests.fixedpoint.em_problems import EM, plain, textbook

#: Methods that extrapolate
ACCELERATED = ("anderson", "broyden", "newton_krylov", "squarem", "aitken")


def solved(em: EM, **how: Any) -> FixedPointSolution:
    found = fixed_point(em.f, em.start, batched=False, rtol=em.rtol, max_steps=20_000, throw=True, **how)
    assert np.linalg.norm(em.f(found.value) - found.value) <= em.rtol * np.linalg.norm(found.value) * (1 + 1e-6)
    return found


@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize("make", em_problems.PROBLEMS, ids=lambda make: make.__name__)
def test_squarem_needs_the_textbooks_evaluations(make: Any, seed: int) -> None:
    em = make(seed)
    (x, slow), (_, expected) = plain(em), textbook(em)
    for how in ({}, {"domain": em.domain}):
        found = solved(em, method="squarem", **how)
        assert found.evaluations <= min(1.2 * expected, slow)
        # The slowest error falls by a factor of about 1 - 1 / slow in each plain step.
        assert np.allclose(found.value, x, atol=2 * slow * em.rtol * np.linalg.norm(x))


@pytest.mark.parametrize("method", ["anderson", "squarem", "broyden"])
def test_a_domain_saves_the_evaluations_outside(method: Any) -> None:
    """Every x at which f is evaluated is in the domain, and no method needs many more evaluations than x <- f(x)."""
    em = em_problems.deconvolution(6)
    slow, outside = plain(em)[1], [0]

    def f(x: Any) -> Any:
        outside[0] += not em.domain(x)
        return em.f(x)

    without = solved(em, method=method).evaluations
    found = fixed_point(
        f, em.start, batched=False, method=method, rtol=em.rtol, domain=em.domain, max_steps=9999, throw=True
    )
    assert outside[0] == 0 and found.evaluations <= 1.01 * slow and found.evaluations <= without


@pytest.mark.parametrize("method", ACCELERATED)
@pytest.mark.parametrize("given", [False, True])
def test_more_steps_leave_the_domain_than_restarts_are_allowed(method: Any, given: bool) -> None:
    """sqrt(x) + c, NaN below x0: a sample returns to plain steps as often as it leaves the domain."""
    outside = [0]

    def f(x: Any) -> Any:
        outside[0] += int((x > 2.2).sum())
        return np.where(x > 2.2, np.nan, 1 + 0.999 * (x - 1) + 0.4 * np.sin(40 * x) * (2.0 - x) ** 2 * 1e-2)

    how: dict[str, Any] = {"domain": lambda x: (x <= 2.2)[:, 0]} if given else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = fixed_point(f, np.array([[2.0], [1.7]]), method=method, rtol=1e-9, max_steps=30_000, **how)
    assert "nan" not in found.reason and np.isfinite(found.value).all()
    assert not (given and outside[0])


@pytest.mark.parametrize("method", ACCELERATED)
def test_a_batch_with_a_domain_is_its_samples(method: Any) -> None:
    """Samples that leave the domain at different steps have the values and counts that each has alone."""
    rng = np.random.default_rng(0)
    t = np.arange(20)
    K = np.exp(-0.5 * ((t[:, None] - t) / 2) ** 2)
    K /= K.sum(axis=0)
    y = rng.poisson(K @ (1 + 300 * (rng.random((20, 5)) < 0.15))).T.astype(float)

    def f(x: Any, y: Any) -> Any:
        with np.errstate(all="ignore"):
            value = x * product(K.T, y / product(K, x))
        return np.where((x < 0).any(axis=1, keepdims=True), np.nan, value)

    def product(A: Any, x: Any) -> Any:  # the same bits for any number of rows, unlike BLAS
        return (A * x[:, None, :]).sum(axis=2)

    start = np.repeat(y.mean(axis=1), 20).reshape(5, 20)
    rtol = 1e-2 if method == "newton_krylov" else 1e-3  # tens of its steps leave the domain by then
    for domain in (None, lambda x, y: (x >= 0).all(axis=1)):
        how: dict[str, Any] = {"method": method, "rtol": rtol, "max_steps": 4000, "domain": domain}
        found = fixed_point(f, start, args=(y,), **how)
        assert found.converged.all()
        how["domain"] = None if domain is None else lambda x: (x >= 0).all(axis=1)
        whole = fixed_point(lambda x: f(x, y), start, compact=False, **how)
        how["domain"] = domain
        assert np.array_equal(whole.value, found.value) and np.array_equal(whole.evaluations, found.evaluations)
        if method == "newton_krylov":  # its inner iterations end together
            continue
        for i in range(5):
            alone = fixed_point(f, start[i : i + 1], args=(y[i : i + 1],), **how)
            assert alone.steps[0] == found.steps[i] and alone.evaluations[0] == found.evaluations[i]


def test_failures_shrink_the_bound_and_successes_let_it_grow() -> None:
    """x <- rho x + 1 has a = 1 / (1 - rho): the bounds are 1, 4, 16, ... until a is below."""
    seen: list[float] = []

    def f(x: Any) -> Any:
        seen.append(float(x[0, 0]))
        return 0.995 * x + 1

    found = fixed_point(f, np.zeros((1, 1)), method="squarem", rtol=1e-10, throw=True)
    # Bounds of 1, 4, 16, 64 and 256: one cycle of two evaluations and then of three, and the last one is exact.
    assert found.evaluations <= 2 + 4 * 3 + 1
    bounded = fixed_point(f, np.zeros((1, 1)), method="squarem", rtol=1e-10, largest=256.0, throw=True)
    assert bounded.evaluations <= 4
    never = fixed_point(f, np.zeros((1, 1)), method="squarem", rtol=1e-10, factor=1.0, max_steps=6000, throw=True)
    plain = fixed_point(f, np.zeros((1, 1)), method="picard", rtol=1e-10, max_steps=6000, throw=True)
    assert never.evaluations == plain.evaluations


def test_nan_of_the_plain_step_itself_still_ends_a_sample() -> None:
    def f(x: Any) -> Any:
        f.calls += 1  # type: ignore[attr-defined]
        return np.cos(x) if f.calls <= 3 else x + np.nan  # type: ignore[attr-defined]

    for method in ACCELERATED:
        f.calls = 0  # type: ignore[attr-defined]
        with pytest.warns(ConvergenceWarning, match="f has returned NaN"):
            found = fixed_point(f, np.ones((1, 2)), method=method, rtol=1e-13)
        assert found.reason == ("nan",) and found.evaluations[0] <= 30 + 2 * RESCUES


def test_tensors_and_layers_have_domains() -> None:
    torch = pytest.importorskip("torch")
    import fastiter.torch as ours

    em = em_problems.deconvolution(7)
    expected = solved(em, method="squarem", domain=em.domain)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)

    def f(x: Any, scale: Any) -> Any:  # the derivative is not used: the map is differentiable only inside NumPy
        return torch.from_numpy(em.f(x.detach().numpy()[0]))[None] * scale

    def domain(x: Any) -> Any:
        return (x >= 0).all(dim=1)

    start = torch.from_numpy(em.start)[None]
    how: dict[str, Any] = {"method": "squarem", "rtol": em.rtol, "max_steps": 9999, "domain": domain}
    found = ours.fixedpoint.fixed_point(f, start, scale, grad="one-step", **how)
    assert int(found.evaluations) == expected.evaluations and bool(found.converged.all())
    layer = ours.nn.DEQ(lambda z, x: 0.5 * torch.cos(z) + x, method="anderson", domain=lambda z: (z > -1).all(dim=1))
    x = torch.full((2, 3), 0.3, requires_grad=True)
    layer(x).sum().backward()  # the adjoint equation has no domain
    assert bool(layer.solution.converged.all()) and bool(torch.isfinite(x.grad).all())
