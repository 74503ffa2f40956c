"""The GPU implementations of compiled ops: compositions of torch operations, called here on the CPU."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastiter import ConvergenceError, ConvergenceWarning  # noqa: E402
from fastiter.fixedpoint import reference_prox  # noqa: E402
from fastiter.fixedpoint._prox.groups import KINDS  # noqa: E402
from fastiter.fixedpoint._torch import hopfield_ops, hopfield_plain, prox_plain  # noqa: E402
from fastiter.fixedpoint._torch.hopfield_ops import (  # noqa: E402
    HopfieldAdjoint,
    HopfieldBackward,
    HopfieldForward,
)
from tests.support.pairs import pairs  # noqa: E402

PARAMETERS = {
    "simplex": (1.0, 0.2, 1e4),
    "l1_ball": (1.0, 0.2, 1e4),
    "softmax_entropy": (1.0, 0.5, 0.125, 1e-3),
    "entropy": (1.0, 0.25, 40.0, 1e-3),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_proximal_operators_are_those_of_the_specification(name: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    scales, places = (1.0, 30.0, 1e-3), (((2, 9), -1), ((2, 3, 2), 1), ((1, 1), 0), ((33,), 0), ((3, 5), 0))
    for (i, (shape, axis)), (j, scale) in itertools.product(enumerate(places), enumerate(scales)):
        y = (scale * rng.standard_normal(shape)).astype(dtype)
        for k, parameter in enumerate(PARAMETERS[name]):
            if i == 1 or (i + j + k) % 3 == 0:  # every pair, and all of the second shape
                found = prox_plain.along(torch.from_numpy(y), KINDS[name], parameter, axis).numpy()
                expected = reference_prox.along(name, y, parameter, axis)
                # Both are rounded once from float64, in which sums of n and differences of y and the threshold round.
                size = max(1.0, float(np.abs(y).max()), parameter if name != "entropy" else 0.0)
                error = 4 * float(np.finfo(dtype).eps) * np.abs(expected) + 1e-13 * size
                assert found.dtype == expected.dtype and (np.abs(found - expected) <= error).all()


@pytest.mark.parametrize("name", PARAMETERS)
def test_proximal_operators_at_the_edges(name: str) -> None:
    inf, nan = math.inf, math.nan
    rows = [[1, nan, 0], [1, inf, 0], [1, -inf, 0.5], [-inf, -inf, -inf], [3e38, -3e38, 0], [1e-40, 0, -0.0], [5, 5, 5]]
    for parameter in PARAMETERS[name]:
        y = np.array(rows, np.float32)
        with np.errstate(all="ignore"):
            expected = reference_prox.along(name, y, parameter, -1)
        found = prox_plain.along(torch.from_numpy(y), KINDS[name], parameter, -1).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-30)
        huge = np.array([[1e308, -1e308], [1e300, 0], [-1e308, -1e308]])
        with np.errstate(all="ignore"):
            expected = reference_prox.along(name, huge, parameter, -1)
        found = prox_plain.along(torch.from_numpy(huge), KINDS[name], parameter, -1).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-30)
    assert prox_plain.along(torch.ones(0, 3), KINDS[name], 1.0, -1).shape == (0, 3)
    turned = torch.randn(4, 6).T
    same = prox_plain.along(turned, KINDS[name], 1.0, 0)
    assert same.is_contiguous() and torch.equal(same, prox_plain.along(turned.contiguous(), KINDS[name], 1.0, 0))


def network(dtype: Any, S: int = 9, masked: bool = False) -> tuple[Any, Any, Any, Any]:
    """Return state (2, 3, 5, 8), stored, beta and bias, with which one query sees no pattern."""
    torch.manual_seed(S)
    state, stored = torch.randn(2, 3, 5, 8, dtype=dtype), torch.randn(2, 3, S, 8, dtype=dtype)
    bias = None
    if masked:
        bias = torch.where(torch.rand(2, 3, 5, S) < 0.4, -math.inf, 0.0).to(dtype)
        bias[0, 0, 0] = -math.inf
    return state, stored, torch.rand(2, 3, dtype=dtype) + 0.5, bias


@pairs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("S", "masked"), [(9, False), (9, True), (1, False), (0, False)])
@pytest.mark.parametrize(("stops", "most"), [(True, 60), (False, 3), (False, 0)])
def test_hopfield_networks_are_those_of_the_kernels(dtype: Any, S: int, masked: bool, stops: bool, most: int) -> None:
    problem = network(dtype, S, masked)
    eps = torch.finfo(dtype).eps
    call = HopfieldForward(*problem, stops, 100 * eps, 0.0, most, True, "")
    found, expected = hopfield_plain.forward(call), hopfield_ops.hopfield_fwd(call)
    assert torch.equal(found[1], expected[1]) or stops
    assert (found[2] - expected[2]).abs().max() <= (1 if stops else 0)  # rounding may end a query a step later
    # Each update rounds sums of 8 and of S terms, and contracts or at most doubles earlier errors.
    error = 200 * eps * max(most, 1) ** 0.5
    torch.testing.assert_close(found[0], expected[0], rtol=error, atol=error)
    dvalue = torch.randn_like(found[0])

    def backward_of(outputs: Any) -> HopfieldBackward:
        _, _, steps, _, states, largest, inverse = outputs
        return HopfieldBackward(*problem[1:], steps, states, largest, inverse, dvalue)

    back = backward_of(expected)
    made, right = hopfield_plain.backward(back), hopfield_ops.hopfield_bwd(back)
    for a, b in zip(made, right, strict=True):
        torch.testing.assert_close(a, b, rtol=50 * error, atol=50 * error)
    if stops:
        own = backward_of(found)
        torch.testing.assert_close(hopfield_plain.backward(own)[1], right[1], rtol=100 * error, atol=100 * error)
        solve = HopfieldAdjoint(expected[0], *problem[1:], dvalue, 1e3 * eps, True)
        for a, b in zip(hopfield_plain.adjoint(solve)[:2], hopfield_ops.hopfield_adjoint(solve)[:2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e5 * eps, atol=1e5 * eps)


def test_hopfield_networks_report_unconverged_queries() -> None:
    problem = network(torch.float64)
    call = HopfieldForward(*problem, True, 1e-12, 0.0, 1, False, "warn")
    with pytest.warns(ConvergenceWarning, match=r"^hopfield_update: every query must converge, got \d+ of 30"):
        hopfield_plain.forward(call)
    with pytest.raises(ConvergenceError, match=r"^hopfield_update: every query must converge"):
        hopfield_plain.forward(call._replace(report="throw"))
    lost = HopfieldAdjoint(torch.full_like(problem[0], math.nan), *problem[1:], torch.ones_like(problem[0]), 1e-8, True)
    with pytest.raises(ConvergenceError, match=r"^hopfield_update: the gradient's systems must be solved"):
        hopfield_plain.adjoint(lost)
