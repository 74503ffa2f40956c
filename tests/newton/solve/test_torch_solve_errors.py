"""Wrong arguments of solve_recurrence, and cells that break its rules: a one-sentence message each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.torch import solve_recurrence  # noqa: E402
from tests.support.error_cases import TYPE, VALUE, Wrong, assert_all_refused  # noqa: E402

B, T, D = 3, 40, 4
BACKEND = (fastiter.BackendError,)


def cell(h: Any, x: Any, a: Any) -> Any:
    return torch.tanh(a * h + x)


def pair(state: Any, x: Any, a: Any) -> Any:
    h, c = state
    return torch.tanh(a * c + x), torch.tanh(h)


def given() -> dict[str, Any]:
    return {"cell": cell, "x": torch.randn(B, T, D), "params": (torch.full((D,), 0.5),), "state": torch.randn(B, D)}


def solve(cell: Any, x: Any, params: tuple[Any, ...], **options: Any) -> Any:
    return solve_recurrence(cell, x, *params, **options)


def given_pair() -> dict[str, Any]:
    return {**given(), "cell": pair, "state": (torch.randn(B, D), torch.randn(B, D))}


def check(cases: Iterator[Wrong], arguments: Any = given) -> None:
    assert_all_refused(
        "solve_recurrence",
        ((wrong, lambda wrong=wrong: solve(**{**arguments(), **wrong.changes})) for wrong in cases),
    )


def test_valid_arguments_are_accepted() -> None:
    assert solve(**given()).converged.all()
    assert solve(**given_pair()).converged.all()


def test_options() -> None:
    def cases() -> Iterator[Wrong]:
        for y in (None, 3, "tanh", torch.ones(3)):
            yield Wrong(f"cell {y!r}", {"cell": y}, TYPE, "cell", type(y).__name__)
        for name in ("method", "jacobian"):
            for y in ("", "Newton", "auto "):
                yield Wrong(f"{name} {y!r}", {name: y}, VALUE, name, re.escape(repr(y)))
            for y in (None, 1, True, {"diagonal"}):
                yield Wrong(f"{name} {y!r}", {name: y}, TYPE, name, type(y).__name__)
        for y in (("block",), ("block", 2, 2), ("dense", 2), ()):
            yield Wrong(f"jacobian {y!r}", {"jacobian": y}, VALUE, "jacobian", re.escape(repr(y)))
        for y in (0, -1, 17):
            yield Wrong(f"block {y}", {"jacobian": ("block", y)}, VALUE, "jacobian's K", str(y))
        for y in (2.0, None, "2", True):
            yield Wrong(f"block {y}", {"jacobian": ("block", y)}, TYPE, "jacobian's K", type(y).__name__)
        for name in ("rtol", "atol"):
            for y in (-1e-9, float("nan"), float("inf")):
                yield Wrong(f"{name} {y}", {name: y}, VALUE, name, str(y))
            for y in ("1e-3", True, [1e-3], torch.tensor(1e-3)):
                yield Wrong(f"{name} {y}", {name: y}, TYPE, name, type(y).__name__)
        for name in ("max_steps", "window"):
            for y in (0, -5):
                yield Wrong(f"{name} {y}", {name: y}, VALUE, name, str(y))
            for y in (1.0, True, "3", np.array(3.0)):
                yield Wrong(f"{name} {y}", {name: y}, TYPE, name, type(y).__name__)
        for y in (-0.1, 1, 1.0, 2.0, float("nan")):
            yield Wrong(f"damping {y}", {"damping": y}, VALUE, "damping", str(y))
        for y in (None, True, "none", [0.5]):
            yield Wrong(f"damping {y}", {"damping": y}, TYPE, "damping", type(y).__name__)
        for y in (None, 1, "yes"):
            yield Wrong(f"throw {y}", {"throw": y}, TYPE, "throw", type(y).__name__)

    check(cases())


def test_tensors() -> None:
    def cases() -> Iterator[Wrong]:
        for name in ("x", "state"):
            for y in (np.ones((B, T, D)), 3, "x", {"x": torch.ones(B, T, D)}):
                yield Wrong(f"{name} {type(y)}", {name: y}, TYPE, name, type(y).__name__)
            yield Wrong(f"{name} is empty", {name: ()}, VALUE, name, "empty")
            yield Wrong(f"{name} of arrays", {name: (np.ones((B, T)),)}, TYPE, rf"{name}\[0\]", "ndarray")
            yield Wrong(f"{name} is sparse", {name: torch.ones(B, T).to_sparse()}, TYPE, name, "sparse")
            yield Wrong(f"{name} is elsewhere", {name: torch.ones((B, T), device="meta")}, BACKEND, name, "meta")
        yield Wrong("x is flat", {"x": torch.ones(B)}, VALUE, "x", r"\(3,\)")
        parts = (torch.ones(B, T), torch.ones(B, T + 1))
        yield Wrong("x of several lengths", {"x": parts}, VALUE, r"x\[1\]", r"\(3, 41\)")
        for dtype in (torch.int64, torch.bfloat16, torch.float16, torch.complex64, torch.bool):
            yield Wrong(f"state {dtype}", {"state": torch.ones((B, D), dtype=dtype)}, TYPE, "state", str(dtype))
        mixed = (torch.ones(B, D), torch.ones((B, D), dtype=torch.float64))
        yield Wrong("state of two dtypes", {"state": mixed}, TYPE, r"state\[1\]", "torch.float64")
        for shape in ((), (B + 1, D), (D,)):
            yield Wrong(f"state {shape}", {"state": torch.ones(shape)}, VALUE, "state", re.escape(str(shape)))
        yield Wrong("a module", {"params": (torch.nn.Linear(2, 2),)}, TYPE, "params", "Linear")
        yield Wrong("a module inside", {"params": ({"a": [torch.nn.GRUCell(2, 2)]},)}, TYPE, "params", "GRUCell")
        yield Wrong("params elsewhere", {"params": (torch.ones(D, device="meta"),)}, BACKEND, "params", "meta")

    check(cases())


def test_functions_take_the_parameters_of_the_call() -> None:
    """The state is given by keyword, and so are none of the arguments of a cell: one more of them is named."""
    h, a = torch.randn(B, D), torch.full((D,), 0.5)

    def cases() -> Iterator[Wrong]:
        for label, function, params, taken in (
            ("the state after the parameters", cell, (a, h), "h, x, a"),
            ("the state alone", lambda h, x: torch.tanh(h + x), (h,), "h, x"),
            ("no parameters as a tuple, and the state", lambda h, x, p: torch.tanh(h + x), ((), h), "h, x, p"),
            (
                "parameters in one tuple, and the state",
                lambda h, x, params: params[0] * h + x,
                ((a,), h),
                "h, x, params",
            ),
            ("parameters one by one for a cell of a tuple", lambda h, x, params: x, (a, a), "h, x, params"),
            ("a parameter too few", lambda h, x, a, b: a * h + b * x, (a,), "h, x, a, b"),
        ):
            taken = rf"a function of \({taken}\)"
            yield Wrong(label, {"cell": function, "params": params, "state": None}, TYPE, "cell", taken)
            changes = {"cell": lambda h, x, *params: x, "params": params, "jacobian": function, "method": "newton"}
            yield Wrong(label, changes, TYPE, "jacobian", taken)

    check(cases())
    with pytest.raises(
        TypeError, match=r"cell must take the 4 arguments \(h, x, \*params\) of this call \(the .* as state=\)"
    ):
        solve_recurrence(cell, h[:, None], a, h)


def test_a_tuple_is_one_parameter() -> None:
    x, h, a, b = torch.randn(B, T, D), torch.randn(B, D), torch.full((D,), 0.5), torch.full((D,), 0.25)
    one = solve_recurrence(lambda h, x, params: torch.tanh(params[0] * h + params[1] * x), x, (a, b), state=h)
    each = solve_recurrence(lambda h, x, a, b: torch.tanh(a * h + b * x), x, a, b, state=h)
    assert one.value.equal(each.value)


def test_states_that_cannot_be_discovered() -> None:
    def cases() -> Iterator[Wrong]:
        yield Wrong(
            "dense", {"cell": lambda h, x, p: h @ torch.eye(D) + x, "state": None}, VALUE, "state", "RuntimeError.*"
        )
        yield Wrong("a number", {"cell": lambda h, x, p: 3.0, "state": None}, VALUE, "state", "states in other forms")

    check(cases())


def test_results_of_cells() -> None:
    def cases() -> Iterator[Wrong]:
        for label, function, errors, got in (
            ("nothing", lambda h, x, p: None, TYPE, "NoneType"),
            ("an array", lambda h, x, p: h.numpy(), TYPE, "ndarray"),
            ("a tuple", lambda h, x, p: (h, h), TYPE, "tuple"),
            ("another width", lambda h, x, p: h[:, 1:], VALUE, r"\(3, 3\)"),
            ("one row", lambda h, x, p: h[0], VALUE, r"\(4,\)"),
            ("another dtype", lambda h, x, p: h.double(), TYPE, "torch.float64"),
        ):
            yield Wrong(label, {"cell": function}, errors, "cell", got)

    def cases_of_pairs() -> Iterator[Wrong]:
        for label, function, errors, got in (
            ("one", lambda h, x, p: h[0], VALUE, "Tensor"),
            ("three", lambda h, x, p: (*h, x), VALUE, "3 parts"),
            ("nothing", lambda h, x, p: (h[0], None), TYPE, "NoneType"),
            ("another width", lambda h, x, p: (h[0], h[1][:, 1:]), VALUE, r"\(3, 3\)"),
        ):
            yield Wrong(label, {"cell": function}, errors, "cell", got)

    check(cases())
    check(cases_of_pairs(), given_pair)


@pytest.mark.parametrize("method", ["auto", "sequential", "newton"])
def test_rules_for_cells(method: str) -> None:
    weight = torch.ones(D, requires_grad=True)
    calls = iter(range(10**6))

    def changes_h(h: Any, x: Any, params: Any) -> Any:
        return h.mul_(0.5).add_(x)

    def changes_x(h: Any, x: Any, params: Any) -> Any:
        return x.mul_(0.5).add_(h)

    def cases() -> Iterator[Wrong]:
        for label, function, got in (
            ("changes h", changes_h, "a changed h or x"),
            ("changes x", changes_x, "a changed h or x"),
            ("draws", lambda h, x, p: torch.dropout(h + x, 0.5, True), "two results"),
            ("counts", lambda h, x, p: h + x + next(calls), "two results"),
            ("mixes rows", lambda h, x, p: x + h - h.mean(0), "a row that depends on another"),
            ("knows B", lambda h, x, p: 0.5 * h.view(B, D) + x, "RuntimeError for 6 rows.*"),
            ("a captured leaf", lambda h, x, p: weight * h + x, r"a tensor of shape \(4,\) from elsewhere"),
            ("made of one", lambda h, x, p, w=weight * 2: w * h + x, r"a tensor of shape \(4,\) from elsewhere"),
        ):
            yield Wrong(label, {"cell": function, "method": method}, VALUE, "cell", got)

    check(cases())


def test_cells_must_not_change_their_arguments() -> None:
    arguments = given()
    before = arguments["x"].clone(), arguments["state"].clone()
    for function in (lambda h, x, p: h.mul_(0.5) + x, lambda h, x, p: x.mul_(0.5) + h):
        with pytest.raises(ValueError, match="must not change its arguments"):
            solve(**{**arguments, "cell": function})
        assert arguments["x"].equal(before[0]) and arguments["state"].equal(before[1])


def test_errors_raised_by_the_cell_pass_through() -> None:
    with pytest.raises(KeyError, match="missing"):
        solve(**{**given(), "cell": lambda h, x, p: {}["missing"]})


def test_jacobians() -> None:
    def of(jacobian: Any) -> dict[str, Any]:
        return {"jacobian": jacobian, "method": "newton"}

    def cases() -> Iterator[Wrong]:
        yield Wrong("no K", of("block"), VALUE, "jacobian", "'block'")
        for size in (3, 8, 16):
            yield Wrong(
                f"K {size}", {"jacobian": ("block", size), "method": "newton"}, VALUE, "jacobian", f"K = {size}"
            )
        yield Wrong("None", of(lambda h, x, p: None), TYPE, "jacobian", "NoneType")
        yield Wrong("a number", of(lambda h, x, p: 0.5), TYPE, "jacobian", "float")
        yield Wrong("a vector", of(lambda h, x, p: h[:, 0]), VALUE, "jacobian", r"shape \(6,\)")
        yield Wrong("too wide", of(lambda h, x, p: h.new_ones(len(h), D, D + 1)), VALUE, "jacobian", r"\(6, 4, 5\)")
        yield Wrong("odd blocks", of(lambda h, x, p: h.new_ones(len(h), 2, 3, 3)), VALUE, "jacobian", r"\(6, 2, 3, 3\)")
        yield Wrong("doubles", of(lambda h, x, p: h.double()), TYPE, "jacobian", "torch.float64")
        yield Wrong(
            "by the number of rows",
            of(lambda h, x, p: h if len(h) == 6 else h.new_ones(len(h), D, D)),
            VALUE,
            "jacobian",
            "dense after diagonal",
        )

    check(cases())
    unequal = {**given(), "cell": lambda h, x, p: (h[0], h[1]), "state": (torch.ones(B, 2), torch.ones(B, 4))}
    with pytest.raises(
        ValueError, match=r"solve_recurrence: jacobian must not be made of blocks .*, got \[2, 4\] units"
    ):
        solve(**unequal, jacobian=("block", 2), method="newton")
