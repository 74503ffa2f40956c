"""Proximal operators on arrays: the specification, closed forms from other sources, optimality and special values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special

import fastiter
from fastiter.fixedpoint import prox, reference_prox
from tests.support.cases import Array

DTYPES = [np.float32, np.float64]
#: A group within one vector, a longer one, and one larger than the tiles of adjacent groups
SIZES = [1, 2, 7, 20, 97, 300]
GROUPS = {
    "simplex": (prox.project_simplex, (1.0, 0.0, 30.0)),
    "l1_ball": (prox.project_l1_ball, (1.5, 0.0, 1e4)),
    "softmax_entropy": (prox.prox_softmax_entropy, (1.0, 0.125, 1e-6, 3.0)),
}


def points(size: int, scale: float, dtype: Any, count: int = 9) -> Array:
    return (np.random.default_rng(size).standard_normal((count, size)) * scale).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GROUPS)
def test_groups_equal_the_specification(name: str, dtype: Any) -> None:
    """The error is that of `size` roundings in the threshold, amplified by the parameter."""
    function, parameters = GROUPS[name]
    eps = float(np.finfo(dtype).eps)
    for size in SIZES:
        for scale in (0.03, 30.0):
            for parameter in parameters:
                y = points(size, scale, dtype, 1)
                expected = reference_prox.along(name, y.astype(np.float64), parameter, 1)
                largest = max(1.0, parameter, float(np.abs(expected).max()))
                error = np.abs(function(y, parameter) - expected).max()
                assert error <= 4 * (size**0.5 + 4) * eps * largest, (size, scale, parameter, error / eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
@pytest.mark.parametrize("name", GROUPS)
def test_axes_and_layouts(name: str, axis: int, dtype: Any) -> None:
    function, (parameter, *_) = GROUPS[name]
    y = np.random.default_rng(0).standard_normal((5, 110, 19)).astype(dtype)
    expected = np.moveaxis(function(np.ascontiguousarray(np.moveaxis(y, axis, -1)), parameter), -1, axis)
    np.testing.assert_array_equal(function(y, parameter, axis=axis), expected)
    turned = y.transpose(2, 0, 1)[::-1]
    frozen = np.broadcast_to(turned, (2, *turned.shape))
    found = function(frozen, parameter, axis=axis if axis < 0 else axis + 1)
    np.testing.assert_array_equal(found[1], function(np.array(turned), parameter, axis=axis))


@pytest.mark.parametrize("name", [*GROUPS, "entropy"])
def test_the_same_bits_for_any_number_of_threads_and_groups(name: str) -> None:
    y = np.random.default_rng(1).standard_normal((3001, 20)).astype(np.float32)
    function: Callable[..., Array] = prox.prox_entropy if name == "entropy" else GROUPS[name][0]
    before = fastiter.get_num_threads()
    try:
        fastiter.set_num_threads(1)
        one = function(y, 0.5)
        fastiter.set_num_threads(2)
        np.testing.assert_array_equal(function(y, 0.5), one)
    finally:
        fastiter.set_num_threads(before)
    np.testing.assert_array_equal(function(y[7:8], 0.5), one[7:8])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [20, 300])
def test_special_values_of_groups(size: int, dtype: Any) -> None:
    y = points(size, 1.0, dtype, 6)
    y[0, 3], y[1, 2], y[2, :], y[3, 1] = np.nan, np.inf, -np.inf, -np.inf
    for function in (prox.project_simplex, prox.prox_softmax_entropy):
        x = function(y, 0.5)
        assert np.isnan(x[:3]).all() and np.isfinite(x[3:]).all() and x[3, 1] == 0
    ball = prox.project_l1_ball(y)
    assert np.isnan(ball[:4]).all() and np.isfinite(ball[4:]).all()
    huge = np.full((1, size), np.finfo(dtype).max, dtype)
    for function in (prox.project_simplex, prox.prox_softmax_entropy):
        np.testing.assert_allclose(function(huge), 1 / size, rtol=16 * np.finfo(dtype).eps)
        np.testing.assert_allclose(function(huge * dtype(-1)), 1 / size, rtol=16 * np.finfo(dtype).eps)
    assert np.isnan(prox.project_l1_ball(huge)).all()  # the sum overflows
    apart = np.array([[1e30, 1.0, -1e30]], dtype)
    np.testing.assert_array_equal(prox.project_simplex(apart), [[1, 0, 0]])
    np.testing.assert_array_equal(prox.prox_softmax_entropy(apart, 0.1), [[1, 0, 0]])
    tiny = np.full((2, size), np.finfo(dtype).smallest_subnormal, dtype)
    np.testing.assert_array_equal(prox.project_l1_ball(tiny), tiny)


def test_points_inside_the_l1_ball_are_unchanged() -> None:
    y = points(20, 0.01, np.float32)
    np.testing.assert_array_equal(prox.project_l1_ball(y), y)
    assert np.signbit(prox.project_l1_ball(np.array([-0.0, 3.0])))[0]


@pytest.mark.parametrize("size", [1, 3, 20, 200])
def test_alpha_1_is_softmax_and_small_alpha_the_simplex(size: int) -> None:
    y = points(size, 3.0, np.float64)
    np.testing.assert_allclose(prox.prox_softmax_entropy(y), scipy.special.softmax(y, 1), rtol=1e-13)
    gap = np.abs(prox.prox_softmax_entropy(y, 1e-9) - prox.project_simplex(y)).max()
    assert gap < 1e-9 * 100 * size  # alpha times the variation of log x above exp(-100)


@pytest.mark.parametrize("alpha", [1e-30, 1e-3, 0.3, 0.999, 1.5, 100.0])
@pytest.mark.parametrize("size", [2, 20, 1000])
def test_softmax_entropy_satisfies_its_equation(size: int, alpha: float) -> None:
    """The residual of alpha (1 + log x) + (1 - alpha) x = y + nu, to the rounding of its terms."""
    for scale in (1e-6, 0.1, 1.0, 30.0):
        y = points(size, scale, np.float64)
        x = prox.prox_softmax_entropy(y, alpha)
        assert np.abs(x.sum(1) - 1).max() < 1e-15 * (size + 8)
        used = x > 1e-290
        side = alpha * np.log(np.where(used, x, 1)) + (1 - alpha) * x - y
        spread = [np.ptp(side[i, used[i]]) for i in range(len(y))]
        assert max(spread) < 4e-14 * max(1.0, scale, 700 * min(alpha, 1), alpha * np.log(size))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [1e-30, 1e-3, 0.7, 1.0, 50.0, 1e6])
def test_entropy_against_the_wright_omega_function(t: float, dtype: Any) -> None:
    """x = t omega(y / t - 1 - log t), whose own argument is rounded: relative to the condition number in y."""
    rng = np.random.default_rng(2)
    y = (rng.standard_normal(4003) * 10 ** rng.uniform(-4, 6, 4003)).astype(dtype)
    wide = y.astype(np.float64)
    expected = t * scipy.special.wrightomega(wide / t - 1 - np.log(t))
    scale = np.abs(wide) + t * (1 + np.abs(np.log(np.maximum(expected, 1e-300)))) + t * abs(np.log(t))
    tolerance = 4 * float(np.finfo(dtype).eps) * (scale / (expected + t) + 1) * expected
    found = prox.prox_entropy(y, t)
    assert (np.abs(found - expected) <= tolerance + np.finfo(dtype).smallest_normal).all()
    reference = prox.prox_entropy(y[::400], t, backend="reference")
    assert (np.abs(reference - expected[::400]) <= tolerance[::400] + np.finfo(dtype).smallest_normal).all()


def test_entropy_of_special_values() -> None:
    y = np.array([np.inf, -np.inf, np.nan, 3e38, -3e38, 0.0], np.float32)
    for t in (1e-30, 1.0, 1e30):
        x = prox.prox_entropy(y, t)
        assert x[0] == np.inf and x[1] == 0 and np.isnan(x[2]) and x[3] > 0
    assert prox.prox_entropy(np.array([3e38], np.float32), 1.0)[0] == np.float32(3e38)


#: Operators with the definition of f, and whether the groups are along the last axis
FUNCTIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], float]]] = {
    "l1": (lambda y: prox.prox_l1(y, 0.7), lambda x: 0.7 * float(np.abs(x).sum())),
    "l2": (lambda y: prox.prox_l2(y, 0.7), lambda x: 0.7 * float(np.linalg.norm(x))),
    "linf": (lambda y: prox.prox_linf(y, 0.7), lambda x: 0.7 * float(np.abs(x).max())),
    "squared_l2": (lambda y: prox.prox_squared_l2(y, 0.7), lambda x: 0.35 * float(x @ x)),
    "group": (
        lambda y: prox.prox_group(y, (2, 0, 2), 0.7),
        lambda x: 0.7 * float(np.linalg.norm(x[:2]) + np.linalg.norm(x[2:])),
    ),
    "entropy": (
        lambda y: prox.prox_entropy(y, 0.7),
        lambda x: 0.7 * float(scipy.special.xlogy(x, x).sum()) if (x >= 0).all() else np.inf,
    ),
    "log_barrier": (
        lambda y: prox.prox_log_barrier(y, 0.7),
        lambda x: -0.7 * float(np.log(x).sum()) if (x > 0).all() else np.inf,
    ),
    "huber": (lambda y: prox.prox_huber(y, 0.7, delta=0.5), lambda x: 0.7 * float(scipy.special.huber(0.5, x).sum())),
    "leaky_relu": (
        lambda y: prox.prox_leaky_relu(y, 0.7, slope=0.2),
        lambda x: 0.7 * 2 * float((np.minimum(x, 0) ** 2).sum()),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_point_is_better(name: str) -> None:
    """f(x) + |x - y|^2 / 2 rises from x in every direction: along random ones and towards other points."""
    operator, f = FUNCTIONS[name]
    rng = np.random.default_rng(3)
    for _ in range(20):
        y = rng.standard_normal(4) * 2
        x = operator(y)
        best = f(x) + float((x - y) @ (x - y)) / 2
        for distance in (1e-3, 0.1, 1.0):
            for direction in rng.standard_normal((20, 4)):
                to = x + distance * direction
                assert f(to) + float((to - y) @ (to - y)) / 2 >= best - 1e-12 * (1 + abs(best))


SETS: dict[str, tuple[Callable[[Array], Array], list[Any]]] = {
    "simplex": (
        lambda y: prox.project_simplex(y, 1.3),
        [{"type": "eq", "fun": lambda x: x.sum() - 1.3}, {"type": "ineq", "fun": lambda x: x}],
    ),
    "l2_ball": (lambda y: prox.project_l2_ball(y, 0.8), [{"type": "ineq", "fun": lambda x: 0.64 - x @ x}]),
    "box": (
        lambda y: prox.project_box(y, -0.3, 0.5),
        [{"type": "ineq", "fun": lambda x: x + 0.3}, {"type": "ineq", "fun": lambda x: 0.5 - x}],
    ),
    "nonnegative": (prox.project_nonnegative, [{"type": "ineq", "fun": lambda x: x}]),
    "halfspace": (
        lambda y: prox.project_halfspace(y, np.array([1.0, -2.0, 0.5]), -0.4),
        [{"type": "ineq", "fun": lambda x: -0.4 - x @ [1.0, -2.0, 0.5]}],
    ),
    "affine": (
        lambda y: prox.project_affine(y, np.array([[1.0, 2.0, -1.0], [0.0, 1.0, 1.0]]), np.array([0.5, 1.0])),
        [{"type": "eq", "fun": lambda x: np.array([[1.0, 2.0, -1.0], [0.0, 1.0, 1.0]]) @ x - [0.5, 1.0]}],
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_projections_against_scipy(name: str) -> None:
    project, constraints = SETS[name]
    for y in np.random.default_rng(4).standard_normal((6, 3)) * 2:
        found = scipy.optimize.minimize(
            lambda x, y=y: (x - y) @ (x - y) / 2,
            project(y) * 0 + 0.2,
            constraints=constraints,
            method="SLSQP",
            tol=1e-12,
        )
        np.testing.assert_allclose(project(y), found.x, atol=2e-5)
        np.testing.assert_allclose(project(project(y)), project(y), atol=1e-14)


def test_moreau_decompositions_and_many_points() -> None:
    y = points(9, 2.0, np.float64)
    np.testing.assert_allclose(prox.prox_linf(y, 1.2) + prox.project_l1_ball(y, 1.2), y, atol=1e-15)
    np.testing.assert_allclose(prox.prox_l1(y, 1.2) + prox.project_box(y, -1.2, 1.2), y, atol=1e-15)
    np.testing.assert_allclose(prox.prox_l2(y, 1.2) + prox.project_l2_ball(y, 1.2), y, atol=1e-14)
    np.testing.assert_array_equal(prox.prox_group(y.T, (4, 5), 0.5, axis=0)[4:], prox.prox_l2(y.T[4:], 0.5, axis=0))
    right = points(2, 1.0, np.float64)
    A = np.random.default_rng(5).standard_normal((2, 9))
    np.testing.assert_allclose(prox.project_affine(y, A, right) @ A.T, right, atol=1e-13)
    same = np.ones((2, 9))  # rank 1, without a solution: the least-squares solutions have the sum 1.5
    np.testing.assert_allclose(prox.project_affine(y, same, np.array([1.0, 2.0])).sum(1), 1.5, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_values_in_closed_form(dtype: Any) -> None:
    most = float(np.finfo(dtype).max)
    y = np.array([most, most, 0.0], dtype)
    assert np.isfinite(prox.prox_l2(y)).all() and prox.prox_l2(y)[0] == dtype(most)
    np.testing.assert_allclose(prox.project_l2_ball(y), [0.5**0.5, 0.5**0.5, 0], rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(prox.project_l2_ball(np.zeros(3, dtype), 0.0), np.zeros(3, dtype))
    wide = prox.prox_log_barrier(np.array([most, -most, np.inf, -np.inf, np.nan], dtype))
    assert wide[0] == dtype(most) and 0 <= wide[1] < 1e-30 and wide[2] == np.inf and wide[3] == 0 and np.isnan(wide[4])
    with_nan = np.array([np.nan, 1.0, -2.0], dtype)
    for each in (prox.project_nonnegative, prox.prox_l1, prox.prox_huber, prox.prox_leaky_relu, prox.prox_squared_l2):
        assert list(np.isnan(each(with_nan))) == [True, False, False] and each(with_nan).dtype == dtype
    for each in (prox.prox_l2, prox.project_l2_ball):
        assert np.isnan(each(with_nan)).all()


def test_empty_and_single_numbers() -> None:
    each: Callable[..., Array]
    for each in (prox.project_simplex, prox.project_l1_ball, prox.prox_softmax_entropy, prox.prox_linf, prox.prox_l2):
        assert each(np.zeros((0, 3))).shape == (0, 3)
    for each in (prox.project_l1_ball, prox.prox_linf, prox.prox_l2, prox.project_l2_ball):
        assert each(np.zeros((3, 0))).shape == (3, 0)
    for each in (prox.prox_entropy, prox.prox_l1, prox.prox_huber, prox.prox_log_barrier, prox.project_nonnegative):
        assert each(np.zeros(())).shape == () and each(np.zeros((0, 2))).shape == (0, 2)
    assert prox.prox_group(np.zeros((2, 0)), ()).shape == (2, 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: prox.project_simplex(np.zeros((2, 0))), "y must have at least one number along axis 1, got"),
        (lambda: prox.project_simplex(np.zeros(2), -1.0), "radius must be finite and at least 0, got -1"),
        (lambda: prox.project_simplex(np.zeros(2), axis=1), r"axis must be from -1 to 0 for y \(2,\), got 1"),
        (lambda: prox.project_simplex(np.zeros(())), "y must have at least one axis, got a single number"),
        (lambda: prox.project_simplex(np.zeros(2, int)), "y must be a NumPy array of float32 or float64"),
        (lambda: prox.prox_softmax_entropy(np.zeros(2), 101.0), "alpha must be from 1e-30 to 100, got 101"),
        (lambda: prox.prox_entropy(np.zeros(2), 0.0), r"t must be from 1e-30 to 1e\+30, got 0"),
        (
            lambda: prox.project_box(np.zeros(2), 1.0, 0.0),
            "low must be at most high everywhere, and neither NaN, got 1.0",
        ),
        (lambda: prox.project_box(np.zeros(2), np.zeros(3), 1.0), r"low must broadcast to the shape \(2,\) of y"),
        (
            lambda: prox.prox_l1(np.zeros(2), np.array([1.0, -1.0])),
            "t must be finite and at least 0, got -1.0 at index 1",
        ),
        (lambda: prox.prox_group(np.zeros(3), (1, 1)), "sizes must have the sum 3, the size of the axis, got 2"),
        (lambda: prox.prox_leaky_relu(np.zeros(2), slope=1.5), "slope must be at most 1, got 1.5"),
        (lambda: prox.project_halfspace(np.zeros(2), np.zeros(2), 1.0), "a must have an entry other than 0, got none"),
        (lambda: prox.project_halfspace(np.zeros(2), np.ones(3), 1.0), r"a must have shape \(2,\) to go with y, got"),
        (lambda: prox.project_halfspace(np.zeros(2), np.ones(2), np.nan), "b must be finite, got nan"),
        (lambda: prox.project_affine(np.zeros(2), np.ones((1, 3)), np.ones(1)), r"A must have shape \(m, n\)"),
        (lambda: prox.project_affine(np.zeros(2), np.ones((1, 2)), np.ones(2)), r"b must have shape \(m,\) = \(1,\)"),
    ],
)
def test_messages(call: Callable[[], Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^p[a-z0-9_]+: {words}"):
        call()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_half_space_is_the_same_for_every_length_of_its_normal(dtype: Any, library: str) -> None:
    rng = np.random.default_rng(0)
    y, a = rng.normal(size=(5, 4)).astype(dtype), rng.normal(size=4).astype(dtype)
    expected = prox.project_halfspace(y, a, 0.25)
    largest = float(np.finfo(dtype).maxexp)
    for exponent in (-0.8 * largest, -0.5 * largest, 0.5 * largest, 0.8 * largest):
        scale = 2.0 ** int(exponent)
        if library == "torch":
            torch = pytest.importorskip("torch")
            from fastiter.torch.fixedpoint import prox as of_tensors

            found = of_tensors.project_halfspace(torch.tensor(y), torch.tensor(a * dtype(scale)), 0.25 * scale).numpy()
        else:
            found = prox.project_halfspace(y, a * dtype(scale), 0.25 * scale)
        np.testing.assert_allclose(found, expected, rtol=0, atol=8 * np.finfo(dtype).eps)
