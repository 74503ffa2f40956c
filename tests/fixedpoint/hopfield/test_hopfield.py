"""hopfield_update and hopfield_energy on arrays: equations, specification, theory, layouts, extreme values, errors."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import logsumexp, softmax

import fastiter
from fastiter.fixedpoint import hopfield_energy, hopfield_update, reference_hopfield
from tests.support.cases import assert_close, assert_same_bits

Array = npt.NDArray[Any]
DTYPES = ["float32", "float64"]
# Sizes around every edge: vectors of 2 to 16 queries, tiles of 4 of these, chunks of 256, blocks of 120 patterns
QUERIES = (1, 3, 16, 64, 65, 130, 300)
PATTERNS = (1, 5, 120, 121, 250)
WIDTHS = (1, 4, 7, 16, 33, 70)


def case(lead: tuple[int, ...], L: int, S: int, D: int, dtype: Any, seed: int = 0) -> tuple[Array, Array]:
    """Return queries near some of the patterns, which are ~ N(0, 1) / sqrt(D)."""
    rng = np.random.default_rng([seed, L, S, D])
    stored = rng.standard_normal((*lead, S, D)) / np.sqrt(D)
    near = stored[..., rng.integers(0, S, L), :] if S else np.zeros((*lead, L, D))
    return (near + rng.standard_normal((*lead, L, D)) / np.sqrt(D) / 2).astype(dtype), stored.astype(dtype)


def scipy_update(x: Array, stored: Array, beta: Any, bias: Any = 0.0) -> Array:
    z = np.asarray(beta, x.dtype)[..., None, None] * (x @ stored.swapaxes(-1, -2)) + np.asarray(bias, x.dtype)
    found: Array = softmax(z, axis=-1) @ stored
    return found


def terms(S: int, D: int, beta: float) -> int:
    """Return the number of roundings: an error of z, a sum of D terms times beta, is also one of its exponential."""
    return S + int((1 + beta) ** 2) * D


def test_specification_is_the_paper_by_scipy() -> None:
    """One update, the energy and the fixed point are those of softmax and logsumexp."""
    x, stored = case((2, 3), 4, 6, 5, "float64")
    beta, bias = np.array([[0.5, 2.0, 8.0]] * 2), np.zeros((2, 3, 4, 6))
    bias[..., 1:, 0] = -np.inf
    once = reference_hopfield.hopfield_update(x, stored, beta, bias, rtol=0, atol=0, max_steps=1)
    assert_close(once.value, scipy_update(x, stored, beta, bias))
    z = beta[..., None, None] * (x @ stored.swapaxes(-1, -2)) + bias
    b = beta[..., None]
    largest = (stored**2).sum(-1).max(-1)[..., None]
    expected = -logsumexp(z, axis=-1) / b + (x**2).sum(-1) / 2 + np.log(6) / b + largest / 2
    assert_close(reference_hopfield.hopfield_energy(x, stored, beta, bias), expected)
    last = reference_hopfield.hopfield_update(x, stored, beta, bias, rtol=1e-13, atol=0, max_steps=10_000)
    assert last.converged.all()
    change = np.linalg.norm(scipy_update(last.value, stored, beta, bias) - last.value, axis=-1)
    assert (change <= 1e-13 * np.linalg.norm(last.value, axis=-1) * 1.1).all()  # the map contracts there


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_is_the_specification(dtype: Any) -> None:
    for i, (L, S, D) in enumerate(itertools.product(QUERIES, PATTERNS, WIDTHS)):
        if L * S * D > 300_000:
            continue
        lead, steps, beta = ((), (2,), (1, 3), (2, 1, 2))[i % 4], i % 3 + 1, (0.5, 3.0, 12.0)[i // 4 % 3]
        x, stored = case(lead, L, S, D, dtype, i)
        before = x
        for step in range(1, steps + 1):  # one at a time, as an update may amplify the errors of earlier ones
            found = hopfield_update(x, stored, beta=beta, steps=step)
            expected = scipy_update(before, stored, beta)
            assert_close(found.value, expected, terms(S, D, beta), name=f"{(lead, L, S, D)}")
            assert (found.steps == step).all() and found.reason == "steps"
            before = found.value
    x, stored = case((2, 2), 9, 13, 5, dtype)
    mask = np.random.default_rng(1).random((2, 1, 9, 13)) < 0.7
    by_loops = hopfield_update(x, stored, beta=4.0, mask=mask, rtol=1e-4, backend="reference")
    by_kernel = hopfield_update(x, stored, beta=4.0, mask=mask, rtol=1e-4)
    assert_close(by_kernel.value, by_loops.value, 100)
    np.testing.assert_array_equal(by_kernel.steps, by_loops.steps)
    assert_close(by_kernel.residual, by_loops.residual, 100, scale=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_query_stops_independently(dtype: Any) -> None:
    """The result and the steps of a query do not depend on the others, and the result is a fixed point."""
    x, stored = case((), 150, 40, 8, dtype)
    x[::3] = stored[0]
    how: dict[str, Any] = {"beta": 8.0, "rtol": 1e-4}
    every = hopfield_update(x, stored, **how)
    assert every.converged.all() and every.reason == "converged" and len(np.unique(every.steps)) > 3
    once_more = hopfield_update(every.value, stored, beta=8.0, steps=1)
    moved, size = np.linalg.norm(once_more.value - every.value, axis=-1), np.linalg.norm(every.value, axis=-1)
    assert (moved <= 1e-4 * size * (1 + 1e-3)).all()  # the map contracts there, or the query would have continued
    for i in (0, 1, 77, 149):
        alone = hopfield_update(x[i : i + 1], stored, **how)
        assert_same_bits(alone.value[0], every.value[i])
        assert alone.steps[0] == every.steps[i] and alone.residual[0] == every.residual[i]
        again = hopfield_update(x[i : i + 1], stored, beta=8.0, steps=int(every.steps[i]))
        assert_same_bits(again.value[0], every.value[i])


@pytest.mark.parametrize("dtype", DTYPES)
def test_energy_never_increases(dtype: Any) -> None:
    x, stored = case((3,), 20, 30, 6, dtype)
    beta = np.array([0.5, 4.0, 30.0], dtype)
    mask = np.random.default_rng(2).random((20, 30)) < 0.8
    for allowed in (None, mask):
        before = hopfield_energy(x, stored, beta=beta, mask=allowed)
        rounding = 8 * np.finfo(dtype).eps * before.max()
        for steps in range(1, 12):
            state = hopfield_update(x, stored, beta=beta, mask=allowed, steps=steps).value
            after = hopfield_energy(state, stored, beta=beta, mask=allowed)
            assert (after <= before + rounding).all() and (after >= -rounding).all()
            before = after
    bias = np.zeros((3, 20, 30), dtype)
    assert_close(hopfield_energy(x, stored, beta=beta), reference_hopfield.hopfield_energy(x, stored, beta, bias), 30)


def test_retrieval_is_within_the_bound_of_the_paper() -> None:
    """||x+ - x_i|| <= 2 (N - 1) exp(-beta (separation - 2 max(||x - x_i||, ||x_i* - x_i||) M)) M [Ramsauer 2021]."""
    rng = np.random.default_rng(3)
    N, D, beta = 60, 80, 2.0
    stored = rng.standard_normal((N, D))
    stored *= 2 * np.sqrt(D - 1) / np.linalg.norm(stored, axis=1, keepdims=True)
    products = stored @ stored.T
    M = float(np.sqrt(products.max()))
    np.fill_diagonal(products, -np.inf)
    separation = (stored**2).sum(1) - products.max(1)
    fixed = hopfield_update(stored, stored, beta=beta, rtol=1e-15, atol=0.0).value
    away = rng.standard_normal((N, D))
    x = stored + 0.5 * away / np.linalg.norm(away, axis=1, keepdims=True)
    far = np.maximum(np.linalg.norm(x - stored, axis=1), np.linalg.norm(fixed - stored, axis=1))
    bound = 2 * (N - 1) * np.exp(-beta * (separation - 2 * far * M)) * M
    error = np.linalg.norm(hopfield_update(x, stored, beta=beta, steps=1).value - stored, axis=1)
    assert (bound < 1e-3).all()  # the bound is not vacuous
    assert (error <= bound + 1e-14 * M).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_give_the_same_bits(dtype: Any) -> None:
    x, stored = case((2, 3), 20, 37, 9, dtype)
    how: dict[str, Any] = {"beta": np.array([1.0, 4.0, 9.0], dtype), "rtol": 1e-3}
    expected = hopfield_update(x, stored, **how)
    transposed = tuple(np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2) for a in (x, stored))
    columns = tuple(np.asfortranarray(a) for a in (x, stored))
    apart = tuple(np.repeat(np.repeat(a, 2, -2), 3, -1)[..., ::2, ::3] for a in (x, stored))
    for other in (transposed, columns, apart):
        for a in other:
            a.flags.writeable = False
        assert_same_bits(hopfield_update(*other, **how).value, expected.value)
    shared = np.broadcast_to(stored[0, 0], stored.shape)
    one = hopfield_update(x, stored[0, 0], **how)
    assert_same_bits(hopfield_update(x, shared, **how).value, one.value)
    assert_same_bits(
        hopfield_update(x[0, 0], stored[:1], **how).value[0], hopfield_update(x[0, 0], stored[0], **how).value
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_number_of_threads(dtype: Any) -> None:
    for lead, L in (((5,), 70), ((), 600)):
        x, stored = case(lead, L, 130, 20, dtype)
        found = []
        for threads in (1, 2, 3):
            fastiter.set_num_threads(threads)
            solution = hopfield_update(x, stored, beta=6.0, rtol=1e-3)
            found.append((solution.value, solution.residual, solution.steps))
        assert_same_bits(found[1], found[0])
        assert_same_bits(found[2], found[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks(dtype: Any) -> None:
    """A bool mask, a bias and omitted patterns are equivalent; a query that sees no pattern becomes 0."""
    x, stored = case((2,), 70, 130, 6, dtype)
    rng = np.random.default_rng(4)
    shared, own = rng.random((2, 1, 130)) < 0.5, rng.random((70, 130)) < 0.5
    for mask in (shared, own):
        bias = np.where(mask, 0, -np.inf).astype(dtype)
        by_flags = hopfield_update(x, stored, beta=5.0, mask=mask, rtol=1e-3)
        assert_same_bits(hopfield_update(x, stored, beta=5.0, mask=bias, rtol=1e-3).value, by_flags.value)
        whole = np.broadcast_to(mask, (2, 70, 130))
        assert_same_bits(hopfield_update(x, stored, beta=5.0, mask=whole, rtol=1e-3).value, by_flags.value)
    fewer = hopfield_update(x[1], stored[1][shared[1, 0]], beta=5.0, steps=2)
    assert_close(hopfield_update(x, stored, beta=5.0, mask=shared, steps=2).value[1], fewer.value, 200)
    slope = np.linspace(-3, 3, 130).astype(dtype)
    assert_close(
        hopfield_update(x, stored, beta=2.0, mask=slope, steps=1).value, scipy_update(x, stored, 2.0, slope), 200
    )
    own[7] = False
    nothing = hopfield_update(x, stored, mask=own, rtol=1e-3)
    assert (nothing.value[:, 7] == 0).all() and nothing.converged[:, 7].all()
    assert np.isposinf(hopfield_energy(x, stored, mask=own)[:, 7]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_axes(dtype: Any) -> None:
    for lead, L, S, D in (((0,), 2, 3, 4), ((2,), 0, 3, 4), ((2,), 2, 0, 4), ((2,), 2, 3, 0)):
        x, stored = np.ones((*lead, L, D), dtype), np.ones((*lead, S, D), dtype)
        found = hopfield_update(x, stored)
        assert found.value.shape == x.shape and found.converged.all()
        assert (found.value == (0 if S == 0 else 1)).all()
        assert repr(found).startswith("HopfieldSolution(")
        assert hopfield_update(x, stored, backend="reference").value.shape == x.shape
    none = hopfield_update(np.ones((1, 2)), np.eye(2), steps=0)
    assert_same_bits(none.value, np.ones((1, 2)))
    assert none.steps[0] == 0 and np.isinf(none.residual[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_hostile_values_stay_in_their_query(dtype: Any) -> None:
    x, stored = case((), 20, 50, 7, dtype)
    clean = hopfield_update(x, stored, beta=3.0, steps=2)
    x[3, 2], x[5, 0], x[7] = np.nan, np.inf, np.finfo(dtype).tiny / 8
    found = hopfield_update(x, stored, beta=3.0, steps=2)
    others = np.setdiff1d(np.arange(20), (3, 5, 7))
    assert_same_bits(found.value[others], clean.value[others])
    assert np.isnan(found.value[3]).all() and np.isnan(found.value[5]).all()
    assert_close(found.value[7], scipy_update(scipy_update(x[7:8], stored, 3.0), stored, 3.0)[0], 200)
    with pytest.warns(fastiter.ConvergenceWarning, match="'nan'"):
        solution = hopfield_update(x, stored, beta=3.0, max_steps=50)
    assert solution.reason[3] == "nan" and not solution.converged[3] and solution.converged[others].all()
    large = stored * stored.dtype.type(1e4)
    huge = hopfield_update(large, large, beta=1.0, steps=1)  # z up to 1e8: one pattern each
    assert_same_bits(huge.value, large[(stored @ stored.T).argmax(axis=1)])


def test_failures_to_converge_are_reported() -> None:
    x, stored = case((), 30, 20, 4, "float64")
    with pytest.warns(fastiter.ConvergenceWarning, match="hopfield_update: every query must converge") as caught:
        found = hopfield_update(x, stored, beta=6.0, max_steps=2, rtol=1e-12)
    assert caught[0].filename == __file__
    assert not found.converged.all() and set(found.reason) <= {"converged", "max_steps"}
    assert (np.array(found.reason) == "converged").tolist() == found.converged.tolist()
    with pytest.raises(fastiter.ConvergenceError) as error:
        hopfield_update(x, stored, beta=6.0, max_steps=2, rtol=1e-12, throw=True)
    assert_same_bits(error.value.solution.value, found.value)  # type: ignore[union-attr]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hopfield_update(x, stored, beta=6.0, steps=2, rtol=1e-12).raise_if_failed()


X, P = np.ones((2, 3, 4)), np.ones((2, 5, 4))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"state": X.astype(int)}, TypeError, "state must be a NumPy array of float32 or float64"),
        ({"stored": P.astype(np.float32)}, TypeError, "stored must have dtype float64 like state, got float32"),
        ({"state": X[0, 0]}, ValueError, r"state must have shape \(..., L, D\), got \(4,\)"),
        ({"stored": P[0, 0]}, ValueError, r"stored must have shape \(..., S, D\), got \(4,\)"),
        ({"stored": P[..., :3]}, ValueError, r"stored must have shape .* to go with state, got \(2, 5, 3\)"),
        ({"stored": np.ones((3, 5, 4))}, ValueError, r"stored must have leading axes .* \(2,\), got \(3,\)"),
        ({"beta": 0}, ValueError, "beta must be finite and above 0, got 0"),
        ({"beta": "1"}, TypeError, "beta must be a number, got str"),
        ({"beta": np.ones(3)}, ValueError, r"beta must have a shape that broadcasts to .* = \(2,\), got \(3,\)"),
        ({"beta": np.ones(2, np.float32)}, TypeError, "beta must have dtype float64 like state, got float32"),
        ({"beta": np.array([1.0, -1.0])}, ValueError, "beta must be finite and above 0, got -1"),
        ({"mask": np.ones((3, 5), int)}, TypeError, "mask must be an array of bool or float64, got dtype int64"),
        ({"mask": 1.0}, TypeError, "mask must be an array of bool or float64, got float"),
        ({"mask": np.ones((4, 5), bool)}, ValueError, r"mask must have a shape that broadcasts to \(..., L, S\)"),
    ],
)
def test_errors(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"state": X, "stored": P, **changed}
    with pytest.raises(error, match=f"^hopfield_update: {message}"):
        hopfield_update(**given)
    with pytest.raises(error, match=f"^hopfield_energy: {message}"):
        hopfield_energy(**given)


@pytest.mark.parametrize(
    ("option", "value", "error", "message"),
    [
        ("steps", -1, ValueError, "steps must be at least 0, got -1"),
        ("steps", 1.0, TypeError, "steps must be an int, got float"),
        ("rtol", -1, ValueError, "rtol must be finite and at least 0"),
        ("atol", "0", TypeError, "atol must be a number, got str"),
        ("max_steps", 0, ValueError, "max_steps must be at least 1, got 0"),
        ("throw", 1, TypeError, "throw must be a bool, got int"),
        ("backend", "gpu", ValueError, "backend must be one of 'cpu', 'reference', got 'gpu'"),
    ],
)
def test_errors_of_options(option: str, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^hopfield_update: {message}"):
        hopfield_update(X, P, **{option: value})


def test_energy_needs_a_pattern() -> None:
    with pytest.raises(ValueError, match="hopfield_energy: stored must have at least one pattern"):
        hopfield_energy(X, P[:, :0])
