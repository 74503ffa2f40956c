"""The loop of the solvers: the reasons for ending, of one problem and of several, the limits, and the progress."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter._call.iterate import Columns, Limits, Progress, Record, Step, default_rtol, iterate

INF, NAN = math.inf, math.nan


def checks(residuals: Any, tolerance: Any = 1e-3, every: int = 1, **marks: Any) -> Iterator[Step]:
    """Yield the residuals as steps; ``marks`` are lists of the other fields."""
    for number, residual in enumerate(residuals):
        own = {name: values[number] for name, values in marks.items()}
        yield Step(number * every, residual, tolerance, lambda n=number: n, lambda n=number: {"n": n}, **own)


@pytest.mark.parametrize(
    ("residuals", "reason", "steps"),
    [
        ([1.0, 1e-3], "converged", 1),
        ([1e-9], "converged", 0),
        ([0.0], "converged", 0),
        ([1.0, 0.5, NAN], "nan", 2),
        ([NAN], "nan", 0),
        ([1.0, INF], "diverged", 1),
        ([1.0, 2e4, 1e-9], "diverged", 1),
        ([1.0, 0.01, 1.1e2], "diverged", 2),
        ([1.0] * 20, "max_steps", 5),
        ([1.0] * 3, "max_steps", 2),
    ],
)
def test_reasons(residuals: list[float], reason: str, steps: int) -> None:
    record = iterate(checks(residuals), Limits(max_steps=5), Record(growth=1e4))
    found = record.results()
    assert (found["reason"], found["steps"], found["converged"]) == (reason, steps, reason == "converged")
    assert record.history == pytest.approx(residuals[: steps + 1], nan_ok=True)
    assert found["residual"] == pytest.approx(residuals[steps], nan_ok=True) and not record.is_active


def test_a_method_judges_what_residuals_do_not_show() -> None:
    residuals = [1.0, 1e-9, 1e-9]
    assert iterate(checks(residuals, can_converge=[True, False, True]), Limits(), Record()).results()["steps"] == 2
    assert iterate(checks(residuals, stagnated=[True] * 3), Limits(), Record()).reason == "stagnated"
    assert iterate(checks(residuals, diverged=[True] * 3), Limits(), Record()).reason == "diverged"
    assert iterate(checks([NAN]), Limits(), Record(overflows=True)).reason == "diverged"
    assert iterate(checks([1.0], tolerance=INF), Limits(), Record()).reason == "diverged"
    assert iterate(checks([1.0], tolerance=NAN), Limits(), Record()).reason == "nan"
    rises = [1.0, 1e-2, 1e3, 1e-9]
    assert iterate(checks(rises), Limits(), Record(growth=1e4)).reason == "diverged"
    assert iterate(checks(rises), Limits(), Record(growth=1e4, from_first=True)).reason == "converged"


@pytest.mark.parametrize("options", [{}, {"from_first": True}, {"overflows": True}])
@pytest.mark.parametrize("seed", range(20))
def test_columns_end_as_each_would_alone(seed: int, options: dict[str, bool]) -> None:
    rng = np.random.default_rng(seed)
    k, count = 7, 12
    residuals = 10.0 ** rng.uniform(-4, 1, (count, k))
    odd = rng.random((count, k)) < 0.02
    residuals[odd] = rng.choice([NAN, INF, 0.0, 1e7], odd.sum())
    tolerance = 10.0 ** rng.uniform(-4, -2, k)
    marks = {name: rng.random((count, k)) < 0.02 for name in ("stagnated", "diverged")}
    marks["can_converge"] = rng.random((count, k)) < 0.8
    limits = Limits(max_steps=9)
    both = iterate(checks(list(residuals), tolerance, **marks), limits, Columns(k, 1e4, **options)).results()
    for j in range(k):
        own = {name: values[:, j] for name, values in marks.items()}
        one = iterate(checks(residuals[:, j], tolerance[j], **own), limits, Record(1e4, **options)).results()
        for name, expected in one.items():
            np.testing.assert_equal(both[name][j], expected, err_msg=name)


def test_a_method_sees_which_columns_have_ended() -> None:
    record, seen = Columns(3), []

    def steps() -> Iterator[Step]:
        for n, residual in enumerate(np.array([[1, 1, 1], [0, 1, 1], [9, 1, 0], [9, 0, 9]], float)):
            yield Step(n, residual, np.full(3, 0.5), lambda: None)
            seen.append((np.flatnonzero(record.active).tolist(), np.flatnonzero(record.closed).tolist()))

    found = iterate(steps(), Limits(), record).results()
    assert seen == [([0, 1, 2], []), ([1, 2], [0]), ([1], [2])]
    assert found["steps"].tolist() == [1, 3, 2] and found["residual"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("answer", [True, np.True_, 1, "text", None, False])
def test_only_true_stops(answer: Any) -> None:
    seen: list[Progress] = []
    limits = Limits(max_steps=3, callback=lambda progress: seen.append(progress) or answer)
    record = iterate(checks([1.0] * 9), limits, Record())
    stops = answer is True or answer is np.True_
    assert record.reason == ("callback" if stops else "max_steps") and len(seen) == (1 if stops else 4)


def test_progress() -> None:
    seen: list[Progress] = []
    iterate(checks([2.0, 1.0, 1e-9]), Limits(callback=seen.append), Record())
    assert [(p.steps, p.residual, p.tolerance, p.active, p.value, p.n) for p in seen] == [
        (0, 2.0, 1e-3, None, 0, 0),
        (1, 1.0, 1e-3, None, 1, 1),
    ]  # not at the check that ends
    assert seen[0].numbers == {"n": 0} and copy.copy(seen[0]).n == 0
    with pytest.raises(AttributeError, match="'Progress' object has no attribute 'omega'"):
        _ = seen[0].omega
    seen.clear()
    residuals = [np.array([1.0, 1e-9]), np.array([0.5, 8.0])]
    iterate(checks(residuals, np.full(2, 1e-3)), Limits(callback=seen.append), Columns(2))
    assert [(p.residual.tolist(), p.active.tolist()) for p in seen] == [([1.0, 1e-9], [0]), ([0.5, 1e-9], [0])]
    listed = seen[1]._converted(lambda x: x.tolist(), lambda value: -value)
    assert (listed.residual, listed.active, listed.value, listed.n) == ([0.5, 1e-9], [0], -1, 1)
    assert isinstance(seen[0], fastiter.Progress)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"rtol": "1"}, TypeError, "rtol must be a number, got str"),
        ({"rtol": -1.0}, ValueError, "rtol must be finite and at least 0, got -1.0"),
        ({"atol": NAN}, ValueError, "atol must be finite and at least 0, got nan"),
        ({"max_steps": 1.0}, TypeError, "max_steps must be an int, got float"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1, got 0"),
        ({"check_every": 0}, ValueError, "check_every must be at least 1, got 0"),
        ({"callback": 3}, TypeError, "callback must be callable or None, got int"),
        ({"throw": 1}, TypeError, "throw must be a bool, got int"),
    ],
)
def test_limits_are_checked(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^f: {message}$"):
        Limits(**options).checked("f", smallest_max=1)


def test_the_default_tolerance_goes_with_the_dtype() -> None:
    for dtype, expected in (("float32", 1e-5), ("complex64", 1e-5), ("float64", 1e-8), ("complex128", 1e-8)):
        assert default_rtol(np.dtype(dtype)) == default_rtol(f"torch.{dtype}") == expected
        assert Limits().checked("f", np.dtype(dtype)).rtol == expected
    assert Limits().checked("f").rtol is None and Limits(rtol=0).checked("f", "float64") == Limits(rtol=0.0)
