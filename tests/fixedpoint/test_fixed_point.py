"""fixed_point on arrays: every method against closed forms, the batch, reasons for ending, states, and warm starts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize

import fastiter
from fastiter.fixedpoint import FixedPointSolution, fixed_point
from fastiter.fixedpoint._space import NORMS, NumPySpace
from tests.support.pairs import pairs

Array = npt.NDArray[Any]
#: Methods that need not solve a map with an eigenvalue of -1.5
UNSOLVED = ("picard", "squarem")
METHODS = ("picard", "anderson", "broyden", "newton_krylov", "krasnoselskii_mann", "squarem", "aitken", "chebyshev")
DTYPES = ("float32", "float64", "complex64", "complex128")
EPS = {name: float(np.finfo(name).eps) for name in DTYPES}


def affine(samples: int, n: int, dtype: str = "float64", radius: float = 0.5, seed: int = 0) -> tuple[Array, Array]:
    """Return a symmetric (Hermitian) M of the given norm and b (samples, n)."""
    rng = np.random.default_rng([seed, n])
    M, b = rng.normal(size=(n, n)), rng.normal(size=(samples, n))
    if dtype.startswith("complex"):
        M, b = M + 1j * rng.normal(size=(n, n)), b + 1j * rng.normal(size=(samples, n))
    M = M + M.conj().T
    return (radius * M / np.linalg.norm(M, 2)).astype(dtype), b.astype(dtype)


def exact(M: Array, b: Array) -> Array:
    wide = M.astype(np.result_type(M, np.float64))
    return np.asarray(np.linalg.solve(np.eye(len(M)) - wide, b.T).T)


@pairs
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("samples", "n"), [(1, 1), (5, 7), (3, 33)])
def test_every_method_solves_a_contraction(method: Any, dtype: str, samples: int, n: int) -> None:
    M, b = affine(samples, n, dtype)
    rtol = 100 * EPS[dtype]
    found = fixed_point(lambda x, b: x @ M.T + b, np.zeros_like(b), method=method, rtol=rtol, args=(b,), throw=True)
    assert found.value.dtype == dtype and found.value.shape == b.shape and found.converged.all()
    # ||x - x*|| <= ||f(x) - x|| / (1 - ||M||)
    error = np.linalg.norm(found.value - exact(M, b), axis=1)
    assert (error <= 2 * found.residual + 100 * EPS[dtype] * np.linalg.norm(b, axis=1)).all()
    true = np.linalg.norm(found.value @ M.T + b - found.value, axis=1)
    assert np.allclose(true, found.residual, atol=20 * EPS[dtype] * np.linalg.norm(b, axis=1).max())
    assert (found.residual <= found.tolerance).all() and (found.evaluations >= found.steps + 1).all()
    assert found.method == method and found.reason == ("converged",) * samples


@pytest.mark.parametrize("method", [*METHODS[:7], "halpern"])
def test_a_sample_depends_on_no_other_and_costs_nothing_once_done(method: Any) -> None:
    """The maps have different rates, so that the samples end at different steps."""
    rates = np.array([0.1, 0.9, 0.3, 0.7])[:, None]
    x0 = np.ones((4, 5)) * np.arange(1, 6)
    sizes = []

    def f(x: Array, rates: Array) -> Array:
        sizes.append(len(x))
        return rates * np.sin(x) + 0.5

    how: dict[str, Any] = {"method": method, "rtol": 2e-3 if method == "halpern" else 1e-9, "max_steps": 5000}
    found = fixed_point(f, x0, args=(rates,), **how)
    assert found.converged.all() and sizes[0] == 4 and sorted(sizes, reverse=True) == sizes
    assert sizes[-1] < 4 and len(set(found.steps.tolist())) > 1
    alone = [fixed_point(f, x0[i : i + 1], args=(rates[i : i + 1],), **how) for i in range(4)]
    error = 1e-6 if method == "newton_krylov" else 1e-9
    assert np.allclose(found.value, np.concatenate([each.value for each in alone]), rtol=error, atol=0)
    if method != "newton_krylov":  # its inner iterations end together
        assert found.steps.tolist() == [int(each.steps[0]) for each in alone]
        assert sum(sizes[: len(found.history)]) == found.evaluations.sum()
    whole = fixed_point(lambda x: f(x, rates), x0, compact=False, **how)
    assert np.array_equal(whole.value, found.value) and whole.steps.tolist() == found.steps.tolist()


def test_without_compaction_f_receives_all_rows() -> None:
    seen = []
    rates = np.array([[0.1], [0.8]])

    def f(x: Array) -> Array:
        seen.append(x.shape)
        return rates * x + 1

    assert fixed_point(f, np.zeros((2, 3)), method="picard", compact=False).converged.all()
    assert set(seen) == {(2, 3)}
    with pytest.raises(ValueError, match="f must take any number of samples, got an error with 1 of 2"):
        fixed_point(f, np.zeros((2, 3)), method="picard")


def test_states_are_arrays_or_tuples_lists_and_dicts_of_them() -> None:
    def one(x: Array, y: Array) -> tuple[Array, Array]:
        return 0.5 * np.cos(x) + 0.1 * y.sum(axis=(1, 2))[:, None], 0.2 * np.sin(y) + x[:, :1, None]

    x, y = np.zeros((3, 4)), np.zeros((3, 2, 2))
    pair = fixed_point(lambda s: one(*s), (x, y))
    assert isinstance(pair.value, tuple) and pair.value[1].shape == (3, 2, 2)
    listed = fixed_point(lambda s: list(one(*s)), [x, y])
    named = fixed_point(lambda s: dict(zip("xy", one(s["x"], s["y"]), strict=True)), {"x": x, "y": y})
    assert isinstance(listed.value, list) and np.array_equal(listed.value[0], pair.value[0])
    assert np.array_equal(named.value["y"], pair.value[1])
    assert "value (3, 4) float64, (3, 2, 2) float64" in repr(named) and "\n" not in repr(pair)
    for got, expected in zip(one(*pair.value), pair.value, strict=True):
        assert np.allclose(got, expected, atol=1e-7)


def test_one_problem_has_numbers() -> None:
    found = fixed_point(lambda x, c: c * np.cos(x), np.ones((2, 2)), batched=False, args=(0.5,), rtol=1e-12)
    assert isinstance(found.steps, int) and isinstance(found.converged, bool) and isinstance(found.residual, float)
    assert found.reason == "converged" and found.history.shape == (found.steps + 1,) and found.value.shape == (2, 2)
    scalar = fixed_point(np.cos, np.array(1.0), batched=False, rtol=1e-14)
    assert scalar.value.shape == () and abs(float(scalar.value) - 0.7390851332151607) < 1e-14


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("n", [0, 3])
def test_empty_states(samples: int, n: int) -> None:
    found = fixed_point(lambda x: 0.5 * x, np.zeros((samples, n)))
    assert found.value.shape == (samples, n) and found.converged.shape == (samples,) and found.converged.all()
    assert repr(found)


@pytest.mark.parametrize("method", ["anderson", "broyden", "picard"])
def test_layouts_of_x0_and_of_values(method: Any) -> None:
    M, b = affine(6, 4)
    start = np.random.default_rng(1).normal(size=(4, 6))
    expected = fixed_point(lambda x: x @ M.T + b, np.ascontiguousarray(start.T), method=method, compact=False)
    frozen = start.T.copy()
    frozen.flags.writeable = False
    for x0 in (start.T, frozen, np.repeat(start.T, 2, axis=1)[:, ::2]):
        found = fixed_point(lambda x: np.asfortranarray(x @ M.T + b), x0, method=method, compact=False)
        assert np.array_equal(found.value, expected.value)
    out = np.empty((6, 4))

    def in_place(x: Array) -> Array:
        out[:] = x @ M.T + b
        return out

    assert np.array_equal(fixed_point(in_place, start.T, method=method, compact=False).value, expected.value)
    whole = fixed_point(lambda x: x @ M.T + b, np.broadcast_to(start.T[:1], (6, 4)), method=method, compact=False)
    assert whole.converged.all()


def solve_quietly(*args: Any, **how: Any) -> FixedPointSolution:
    with pytest.warns(fastiter.ConvergenceWarning, match="^fixed_point: "):
        return fixed_point(*args, **how)


def test_reasons_for_ending() -> None:
    x0 = np.ones((1, 2))
    assert solve_quietly(lambda x: 2 * x + 1, x0, method="picard").reason == ("diverged",)
    assert solve_quietly(lambda x: -x, x0, method="picard").reason == ("stagnated",)
    assert solve_quietly(lambda x: x + np.nan, x0).reason == ("nan",)
    assert solve_quietly(lambda x: x + np.inf, x0).reason == ("diverged",)
    assert solve_quietly(lambda x: 0.999 * x + 1, x0, method="picard", max_steps=3).reason == ("max_steps",)
    assert solve_quietly(np.cos, x0, max_steps=0).steps.tolist() == [0]
    assert solve_quietly(np.cos, np.full((1, 2), np.nan)).reason == ("nan",)
    with pytest.raises(fastiter.ConvergenceError, match="got nan after 0 steps") as caught:
        fixed_point(np.cos, np.full((1, 2), np.nan), throw=True)
    assert isinstance(caught.value.solution, FixedPointSolution)


def test_the_best_iterate_is_kept_where_a_later_one_is_nan() -> None:
    calls = 0

    def f(x: Array) -> Array:
        nonlocal calls
        calls += 1
        out = np.cos(x)
        if calls > 4:
            out[0] = np.nan
        return out

    for method in ("picard", "anderson", "broyden", "squarem", "aitken"):
        calls = 0
        found = solve_quietly(f, np.ones((2, 3)), method=method, rtol=1e-12, compact=False)
        assert found.reason == ("nan", "converged") and found.converged.tolist() == [False, True]
        residual = np.linalg.norm(np.cos(found.value) - found.value, axis=1)
        assert np.isfinite(found.value).all() and np.allclose(residual, found.residual, atol=1e-12)
        assert found.residual[0] == np.nanmin(found.history[:4, 0])


def test_accelerated_methods_return_to_the_best_iterate() -> None:
    """For a map that is not finite far from its fixed point, the iterate is reset and the sample still converges."""

    def f(x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.where(np.abs(x) > 3, np.nan, 0.5 * np.sin(3 * x) + 1)

    found = fixed_point(f, np.linspace(-2.9, 2.9, 40)[:, None], rtol=1e-10, throw=True)
    assert np.allclose(f(found.value), found.value, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_no_map_of_spectral_radius_above_one_counts_as_solved(method: Any) -> None:
    """Symmetric maps with eigenvalues from -1.5 to 0.5: the value is correct, or the reason is not "converged"."""
    rng = np.random.default_rng(3)
    Q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    M, b = Q @ np.diag(np.linspace(-1.5, 0.5, 12)) @ Q.T, rng.normal(size=(2, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
        found = fixed_point(lambda x: x @ M + b, np.zeros((2, 12)), method=method, compact=False)
    assert np.isfinite(found.value).all()
    assert found.converged.all() == (method not in UNSOLVED)
    error = np.abs(found.value - exact(M, b)).max(axis=1)
    assert (error[found.converged] <= 1e-6).all()
    assert set(found.reason) <= {"converged", "diverged", "stagnated", "max_steps"}


def rotation(angle: float) -> Array:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_halpern_keeps_its_bound_where_others_do_not_converge() -> None:
    """||u - T u|| <= 2 ||u_0 - u*|| / (K + 1) [Lieder 2021]; a rotation by 0.01, K = 1000, u* = 0."""
    R, x0 = rotation(0.01), np.array([[1.0, 0.0]])

    def residual(method: Any) -> Array:
        found = solve_quietly(lambda x: x @ R.T, x0, method=method, rtol=0.0, patience=10_000, max_steps=1000)
        return np.asarray(found.history[:, 0])

    history = residual("halpern")
    assert (history[1:] <= 2 / (np.arange(1, 1001) + 1) * (1 + 1e-12)).all()
    assert abs(history[1000] - 1.91e-3) < 2e-5
    assert abs(residual("picard")[1000] - 1.00e-2) < 5e-5 and abs(residual("krasnoselskii_mann")[1000] - 9.9e-3) < 1e-4


@pairs
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [2, 5, 64, 5000])
def test_norms_are_numpys(norm: Any, dtype: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x, f = rng.normal(size=(2, 3, n)).astype(dtype)
    found = solve_quietly(lambda _: f, x, norm=norm, max_steps=0, rtol=0.0)
    space = NumPySpace()
    residual, scale = space.norms(x.astype(np.float64), f.astype(np.float64), norm)
    assert np.allclose(found.residual, residual, rtol=1e-13)
    assert np.allclose(solve_quietly(lambda _: f, x, norm=norm, max_steps=0, rtol=1e-9).tolerance, 1e-9 * scale)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e160, 1e300])
@pytest.mark.parametrize("norm", ["l2", "rms", "inf"])
def test_norms_of_huge_and_tiny_numbers_keep_their_digits(scale: float, norm: Any) -> None:
    x = scale * np.array([[3.0, 4.0, 0.0, 0.0]])
    found = solve_quietly(lambda x: np.zeros_like(x), x, norm=norm, max_steps=0)
    assert np.isclose(found.residual[0], {"l2": 5, "rms": 2.5, "inf": 4}[norm] * scale, rtol=1e-14)


def test_custom_norms_and_the_span() -> None:
    found = fixed_point(np.cos, np.ones((3, 2)), norm=lambda x: np.abs(x).sum(axis=1))
    assert found.converged.all() and (found.residual <= 1e-8 * np.abs(np.cos(found.value)).sum(axis=1)).all()
    # x <- x + 1 has no fixed point, but its differences are constant: the span of f(x) - x is 0.
    assert fixed_point(lambda x: x + 1, np.array([[0.0, 5.0]]), norm="span").steps.tolist() == [0]
    with pytest.raises(ValueError, match=r"norm\(state\) must return one number for each of the 3 samples"):
        fixed_point(np.cos, np.ones((3, 2)), norm=np.linalg.norm)


@pytest.mark.parametrize("method", ["anderson", "broyden"])
def test_a_warm_start_reuses_the_history(method: Any) -> None:
    M, b = affine(3, 60, radius=0.97)
    moved = b + 1e-3 * np.random.default_rng(1).normal(size=b.shape)
    cold = fixed_point(lambda x, b: np.tanh(x @ M + b), np.zeros_like(b), args=(b,), method=method)
    before = [np.array(part) for part in cold._memory[0].history]
    at_x = fixed_point(lambda x, b: np.tanh(x @ M + b), cold.value, args=(moved,), method=method)
    warm = fixed_point(lambda x, b: np.tanh(x @ M + b), cold, args=(moved,), method=method)
    assert warm.evaluations.sum() < at_x.evaluations.sum() < cold.evaluations.sum() and warm.converged.all()
    assert np.allclose(warm.value, at_x.value, atol=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(before, cold._memory[0].history, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options", [{"m": 3}, {"kind": 1, "damping": 0.7}, {"restart": 4}, {"method": "broyden", "m": 3}]
)
def test_kernels_agree_with_plain_operations(
    dtype: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Array operations are used where the kernels do not run, as on GPUs."""
    M, b = affine(5, 40, dtype, 0.95, seed=4)
    how: dict[str, Any] = {"args": (b,), "rtol": 1e-4, "max_steps": 30, **options}

    def solution() -> FixedPointSolution:
        return fixed_point(lambda x, b: np.tanh(x @ M + b), np.zeros_like(b), **how)

    kernel, check = solution(), NumPySpace.check_leaf

    def without_kernels(self: NumPySpace, *args: Any) -> None:
        check(self, *args)
        self.bits = 0

    monkeypatch.setattr(NumPySpace, "check_leaf", without_kernels)
    plain = solution()
    # With a ridge of eps, rounding moves almost dependent directions of the least squares, within the tolerance.
    assert np.abs(plain.steps - kernel.steps).max() <= 1 and np.allclose(plain.value, kernel.value, atol=1e-2)
    assert np.allclose(plain.history[:4], kernel.history[:4], rtol=1e3 * EPS[dtype], atol=1e3 * EPS[dtype])


def test_newton_uses_a_given_derivative() -> None:
    c, x0 = np.array([[0.5], [3.0]]), np.ones((2, 4))
    seen = []

    def jvp(x: Array, v: Array, c: Array) -> Array:
        seen.append(len(v))
        return -c * np.sin(x) * v

    given = fixed_point(lambda x, c: c * np.cos(x), x0, method="newton_krylov", jvp=jvp, args=(c,), rtol=1e-12)
    differences = fixed_point(lambda x, c: c * np.cos(x), x0, method="newton_krylov", args=(c,), rtol=1e-12)
    assert seen and given.converged.all() and np.allclose(given.value, differences.value, atol=1e-10)


def test_chebyshev_estimates_its_bounds_and_refuses_other_maps() -> None:
    M, b = affine(2, 30, radius=0.98, seed=5)
    low, high = np.linalg.eigvalsh(M)[[0, -1]]
    how: dict[str, Any] = {"method": "chebyshev", "rtol": 1e-9, "compact": False}
    given = fixed_point(lambda x: x @ M + b, np.zeros_like(b), bounds=(float(low), float(high)), **how)
    estimated = fixed_point(lambda x: x @ M + b, np.zeros_like(b), **how)
    # The error falls by (sqrt(k) - 1) / (sqrt(k) + 1) per step, with k the condition number of I - M.
    root = np.sqrt((1 - low) / (1 - high))
    expected = np.log(2e9 * (1 - low) / (1 - high)) / np.log((root + 1) / (root - 1))
    assert given.steps.max() <= expected and estimated.steps.max() <= 2 * expected
    with pytest.raises(ValueError, match="f must be affine"):
        fixed_point(np.cos, np.ones((2, 3)), method="chebyshev")
    R = 0.9 * rotation(1.0)
    with pytest.raises(ValueError, match="f must have a real spectrum"):
        fixed_point(lambda x: x @ R, np.ones((2, 2)), method="chebyshev")
    with pytest.raises(ValueError, match="f must have a spectrum below 1"):
        fixed_point(lambda x: 2 * x, np.ones((2, 2)), method="chebyshev")


def test_callbacks_observe_and_stop() -> None:
    seen: list[fastiter.Progress] = []

    def callback(progress: fastiter.Progress) -> bool:
        seen.append(progress)
        return progress.steps == 3

    found = fixed_point(lambda x: 0.5 * x, np.array([[1.0], [0.0]]), method="picard", callback=callback)
    assert [each.steps for each in seen] == [0, 1, 2, 3] and seen[1].active.tolist() == [0]
    assert found.reason == ("callback", "converged") and seen[3].value.tolist() == [[0.125], [0.0]]


@pytest.mark.parametrize("n", [3, 9000])
@pytest.mark.parametrize("method", ["anderson", "broyden"])
def test_threads_change_no_bit(method: Any, n: int) -> None:
    def run(threads: int) -> Array:
        before = fastiter.get_num_threads()
        fastiter.set_num_threads(threads)
        try:
            c = np.random.default_rng(2).normal(size=(4, n)).astype(np.float32)
            return np.asarray(
                fixed_point(
                    lambda x: np.sin(x + c) + 0.5, np.zeros_like(c), method=method, norm="l2", compact=False
                ).value
            )
        finally:
            fastiter.set_num_threads(before)

    assert np.array_equal(run(1), run(2))


@pytest.mark.parametrize(
    ("dtype", "narrow"), [("float32", "bfloat16"), ("float64", "float32"), ("complex128", "float32")]
)
@pytest.mark.parametrize("kind", [1, 2])
def test_a_narrow_history_reaches_the_same_residual(dtype: str, narrow: str, kind: int) -> None:
    """Rounded differences still shrink with the residual: the fixed point is that of f in full precision."""
    M, b = affine(4, 50, dtype, 0.95, seed=6)
    how: dict[str, Any] = {"args": (b,), "rtol": 100 * EPS[dtype], "kind": kind, "throw": True}
    full = fixed_point(lambda x, b: x @ M.T + b, np.zeros_like(b), **how)
    half = fixed_point(lambda x, b: x @ M.T + b, np.zeros_like(b), history_dtype=narrow, **how)
    picard = fixed_point(lambda x, b: x @ M.T + b, np.zeros_like(b), method="picard", args=(b,), rtol=how["rtol"])
    assert (half.evaluations < picard.evaluations).all()
    assert np.allclose(half.value, full.value, atol=1e4 * EPS[dtype] * np.abs(full.value).max())
    kept = half._memory[0].history[2]
    assert kept.dtype.itemsize * 2 == full._memory[0].history[2].dtype.itemsize


def test_numbers_and_sequences_are_arrays() -> None:
    """A list or tuple without arrays is one array; with an array it is a state of several."""
    root = optimize.brentq(lambda x: np.cos(x) - x, 0, 1, xtol=1e-14)
    tight: dict[str, Any] = {"rtol": 0.0, "atol": 1e-12, "norm": "inf"}
    for x0, shape in ((1.0, ()), ([1.0, 0.5], (2,)), (((1, 2, 3), (4, 5, 6)), (2, 3))):
        value = fixed_point(np.cos, x0, batched=False, **tight).value
        assert value.shape == shape and value.dtype == np.float64
        np.testing.assert_allclose(value, root, rtol=0, atol=1e-11)
    several = fixed_point(lambda s: (np.cos(s[0]), s[1] / 2), (np.ones(3, np.float32), 0.5), batched=False).value
    assert [part.dtype.name for part in several] == ["float32", "float32"] and several[1].shape == ()
