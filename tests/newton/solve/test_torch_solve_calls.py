"""Calls of solve_recurrence: strides, sizes, discovered states, options, torch's modes; and its report."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.torch import RecurrenceSolution, solve_recurrence  # noqa: E402
from tests.newton.solve.solve_cells import (  # noqa: E402
    CASES,
    as_tuple,
    attempt,
    elman,
    elman_inputs,
    every_case,
    every_method,
    largest_difference,
    loop,
    numbers,
    paragru,
    paragru_inputs,
    paralstm,
    solve,
)

# --- sizes and strides ------------------------------------------------------------------------------------------------


@every_method
@every_case
def test_without_rows_or_steps(case: Any, method: str) -> None:
    for B, T in ((0, 5), (3, 0), (0, 0)):
        x, params, h0 = case.inputs(B, T, 4, torch.float64)
        solution = solve_recurrence(case.cell, x, *params, state=h0, method=method)
        for value, last, first in zip(*map(as_tuple, (solution.value, solution.last, h0)), strict=True):
            assert value.shape == (B, T, *first.shape[1:])
            assert (last.equal(first) and last.data_ptr() != first.data_ptr()) or B == 0
        assert solution.converged.equal(torch.ones(B, dtype=torch.bool))
        assert solution.steps.tolist() == solution.residual.tolist() == [0] * B
        assert solution.method == "sequential" and solution.sequential.all()


@pytest.mark.parametrize("method", ["newton", "sequential"])
def test_any_strides(method: str) -> None:
    x, params, h0 = paragru_inputs(3, 40, 4, torch.float64)
    expected = loop(paragru, x, params, h0)[0][0]
    time_major = x.transpose(0, 1).contiguous().transpose(0, 1)
    padded = torch.stack([x, x], -1)[..., 1]
    negative = torch._neg_view(-x)
    for y in (time_major, padded, negative):
        value = solve_recurrence(paragru, y, *params, state=h0.t().contiguous().t(), method=method).value
        assert largest_difference(value, expected) <= 1e-13
    constant = x[:1, :1].expand(3, 40, 3, 4)
    value = solve_recurrence(paragru, constant, *params, state=h0[:1].expand(3, 4), method=method).value
    assert largest_difference(value, loop(paragru, constant, params, h0[:1].expand(3, 4))[0][0]) <= 1e-13


def test_gradients_of_expanded_inputs() -> None:
    x, params, h0 = paragru_inputs(1, 1, 4, torch.float64)
    leaf = x.requires_grad_()
    for method in ("newton", "sequential"):
        value = solve_recurrence(paragru, leaf.expand(3, 40, 3, 4), *params, state=h0.expand(3, 4), method=method).value
        expected = loop(paragru, leaf.expand(3, 40, 3, 4), params, h0.expand(3, 4))[0][0]
        (actual,), (wanted,) = (torch.autograd.grad(y.sum(), leaf) for y in (value, expected))
        torch.testing.assert_close(actual, wanted, rtol=1e-11, atol=1e-11)


def test_arguments_are_neither_changed_nor_returned() -> None:
    for name in CASES:
        given = CASES[name].inputs(2, 40, 4, torch.float32)
        flat, _ = torch.utils._pytree.tree_flatten(given)
        before = [(y.clone(), y._version) for y in flat]
        state = torch.get_rng_state()
        for method in ("newton", "sequential", "auto"):
            solution = solve(CASES[name].cell, *given, method=method)
            outputs = [*as_tuple(solution.value), *as_tuple(solution.last)]
            places = [y.untyped_storage().data_ptr() for y in (*flat, *outputs)]
            assert len(set(places)) == len(places)
        assert all(y.equal(z) and y._version == version for y, (z, version) in zip(flat, before, strict=True))
        assert state.equal(torch.get_rng_state())


def test_a_cell_that_returns_its_argument() -> None:
    x, h0 = torch.randn(2, 40, 3), torch.randn(2, 3)
    for method in ("newton", "quasi", "elk", "sequential"):
        for cell, expected in ((lambda h, x: x, x), (lambda h, x: h, h0[:, None].expand(2, 40, 3))):
            value = solve_recurrence(cell, x, state=h0, method=method).value
            assert value.equal(expected)
            value.mul_(2)  # its memory is not shared


# --- discovered states ------------------------------------------------------------------------------------------------


def test_states_are_found_where_a_cell_broadcasts() -> None:
    for name, B in (("paragru", 2), ("paralstm", 2), ("paralstm", 3)):
        case = CASES[name]
        x, params, h0 = case.inputs(B, 40, 4, torch.float64)
        zeros = torch.utils._pytree.tree_map(torch.zeros_like, h0)
        solution = solve_recurrence(case.cell, x, *params)
        assert isinstance(solution.value, tuple) == isinstance(h0, tuple)
        assert largest_difference(solution.value, loop(case.cell, x, params, zeros)[0]) <= 1e-13
        empty = solve_recurrence(case.cell, x[:, :0], *params)
        assert as_tuple(empty.last)[0].shape == as_tuple(h0)[0].shape


# --- options ----------------------------------------------------------------------------------------------------------


def test_auto_chooses_by_structure_units_and_steps() -> None:
    def chosen(name: str, *sizes: int, scale: float = 0.5) -> str:
        method: str = solve(CASES[name].cell, *CASES[name].inputs(*sizes, torch.float32, scale)).method
        return method

    assert chosen("paragru", 1, 300, 8) == chosen("rotation", 1, 300, 2) == "newton"
    assert chosen("paragru", 1, 100, 8) == "sequential"  # few steps
    assert chosen("paragru", 3, 300, 64) == "sequential"  # many units
    assert chosen("rotation", 1, 300, 20) == "sequential"  # few, but in blocks
    assert chosen("elman", 1, 300, 8) == chosen("gru_cell", 1, 300, 8) == "sequential"  # dense


def test_auto_leaves_chaos_to_the_loop() -> None:
    x = torch.full((1, 400, 2), 3.99)
    solution = solve_recurrence(lambda h, x: x * h * (1 - h), x, state=torch.full((1, 2), 0.3), window=50)
    assert solution.method == "newton"
    assert solution.sequential.all()
    assert solution.steps.max() <= 3  # one window suffices to detect it
    assert solution.value.equal(loop(lambda h, x: x * h * (1 - h), x, (), torch.full((1, 2), 0.3))[0][0])


def test_throw() -> None:
    x, params, h0 = paragru_inputs(3, 40, 4, torch.float32)
    assert solve_recurrence(paragru, x, *params, state=h0, method="newton", throw=True).converged.all()
    message = r"solve_recurrence: the method must converge .* throw is True, got 3 of 3 sequences .* max_steps = 1 .*"
    for method in ("newton", "quasi", "elk"):
        with pytest.raises(fastiter.ConvergenceError, match=message):
            solve_recurrence(paragru, x, *params, state=h0, method=method, throw=True, max_steps=1)
        with pytest.warns(
            fastiter.ConvergenceWarning, match=f"{method} must converge to be .*, got 3 of 3 windows"
        ) as told:
            solution = solve_recurrence(paragru, x, *params, state=h0, method=method, max_steps=1)
        assert told[0].filename == __file__ and solution.sequential.all() and solution.converged.all()
        solution.raise_if_failed()
    x[1, 7] = float("nan")
    with pytest.raises(fastiter.ConvergenceError, match="got 1 of 3 sequences"):
        solve_recurrence(paragru, x, *params, state=h0, method="newton", throw=True)
    message = r"the states must be finite, got infinities or NaN in 1 of 3 sequences"
    for method in ("auto", "sequential"):  # they may run the loop, and report what is not finite
        with pytest.raises(fastiter.ConvergenceError, match=message) as raised:
            solve_recurrence(paragru, x, *params, state=h0, method=method, throw=True)
        assert raised.value.solution.converged.tolist() == [True, False, True]
        assert raised.value.solution.reason == ("converged", "nan", "converged")
        solution = attempt(paragru, x, params, h0, method=method)
        with pytest.raises(fastiter.ConvergenceError, match=message):
            solution.raise_if_failed()


def test_callbacks_see_each_window_and_may_stop() -> None:
    x, params, h0 = paragru_inputs(3, 50, 4, torch.float64)
    seen: list[Any] = []
    full = solve_recurrence(paragru, x, *params, state=h0, method="newton", window=20, callback=seen.append)
    assert all(isinstance(progress, fastiter.Progress) for progress in seen)
    assert [(progress.time, progress.total) for progress in seen] == [(20, 50), (40, 50)]  # none follows the last
    for progress in seen:  # a progress that is read later has the states of its time
        assert progress.value.equal(full.value[:, : progress.time])
        part = solve_recurrence(paragru, x[:, : progress.time], *params, state=h0, method="newton", window=20)
        assert progress.steps == int(part.steps.max()) <= int(full.steps.max())
        assert progress.active.tolist() == [0, 1, 2] and bool((progress.residual <= progress.tolerance).all())
    assert (torch.stack([progress.residual for progress in seen]).amax(0) <= full.residual).all()
    assert torch.stack([progress.sequential for progress in seen], 1).equal(full.sequential[:, :2])
    assert full.reason == ("converged",) * 3

    given = x.clone().requires_grad_()
    how: dict[str, Any] = {"method": "newton", "window": 20, "callback": lambda progress: progress.time == 40}
    part = solve_recurrence(paragru, given, *params, state=h0, **how)
    assert part.reason == ("callback",) * 3 and part.sequential.shape == (3, 2)
    assert part.value.shape[1] == 40 and part.value.equal(full.value[:, :40]) and part.last.equal(full.value[:, 39])
    (gradient,) = torch.autograd.grad(part.value.sum(), given)
    (expected,) = torch.autograd.grad(loop(paragru, given[:, :40], params, h0)[0][0].sum(), given)
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-11)
    with pytest.raises(TypeError, match=r"^solve_recurrence: callback must be callable or None, got int$"):
        solve_recurrence(paragru, x, *params, state=h0, callback=3)


def test_tolerances() -> None:
    inputs = elman_inputs(2, 50, 4, torch.float64)
    expected = loop(elman, *inputs)[0][0]
    steps = []
    for tolerance in (1e-2, 1e-4, 1e-8, 1e-12):
        for how in ({"rtol": 0, "atol": tolerance}, {"rtol": 0.0, "atol": tolerance, "window": 50}):
            solution = solve(elman, *inputs, method="quasi", **how)
            assert solution.residual.max() <= tolerance
            assert largest_difference(solution.value, expected) <= 10 * tolerance
        steps.append(solution.steps.max().item())
    assert steps == sorted(steps) and steps[0] < steps[-1]
    # tolerance 0 requires equality, which rounding may prevent; the result is still the loop's
    exact = solve(elman, *inputs, method="newton", rtol=0.0, atol=0.0)
    assert largest_difference(exact.value, expected) <= 1e-13


def test_damping() -> None:
    x, params, h0 = paragru_inputs(2, 60, 4, torch.float64)
    expected = loop(paragru, x, params, h0)[0][0]
    steps = {}
    for damping in ("auto", 0, 0.0, 0.3, 0.6):
        for method in ("newton", "elk"):
            solution = solve_recurrence(paragru, x, *params, state=h0, method=method, damping=damping)
            assert largest_difference(solution.value, expected) <= 1e-13
            assert not solution.sequential.any()
            steps[method, damping] = solution.steps.max().item()
    assert steps["newton", 0] == steps["newton", "auto"] <= steps["elk", "auto"] < steps["newton", 0.3]
    assert steps["newton", 0.3] < steps["newton", 0.6] == steps["elk", 0.6]


def test_fields_and_text_of_a_solution() -> None:
    for of in (fastiter.Solution, fastiter.relax.LinearSolution, RecurrenceSolution):
        names = {field.name for field in dataclasses.fields(of)}
        assert names <= {line.partition(" : ")[0] for line in inspect.getdoc(of).splitlines()}
    solution = solve(paralstm, *CASES["paralstm"].inputs(3, 40, 4, torch.float32), method="newton", window=16)
    assert isinstance(solution, RecurrenceSolution) and isinstance(solution, fastiter.Solution)
    text = r"RecurrenceSolution\(newton, 'converged' after \S+( to \d+)? steps, residual .*, jacobian block 2, value"
    assert re.match(text, repr(solution)) and repr(solution).endswith("(3, 40, 4) float32, (3, 40, 4) float32)")
    assert (solution.method, solution.jacobian, solution.window) == ("newton", "block 2", 16)
    assert [part.shape for part in (*solution.value, *solution.last)] == [(3, 40, 4)] * 2 + [(3, 4)] * 2
    assert solution.sequential.shape == (3, 3)
    per_row = (solution.converged, solution.steps, solution.residual, solution.lyapunov)
    assert [part.shape for part in per_row] == [(3,)] * 4
    assert [part.dtype for part in per_row] == [torch.bool, torch.int64, torch.float32, torch.float32]
    with pytest.raises(dataclasses.FrozenInstanceError):
        solution.method = "loop"


def test_the_exponent_is_that_of_the_recurrence() -> None:
    """h[t] = a h[t-1] has log|a|; a rotation by blocks of length a has it too."""
    x = torch.zeros((1, 256, 4), dtype=torch.float64)
    for a in (0.01, 0.5, 0.999, 1.0, 1.001):
        turn = a * torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
        for cell in (lambda h, x, a=a: a * h + x, lambda h, x, m=turn: (h.view(-1, 2, 2) @ m).view(-1, 4) + x):
            solution = solve_recurrence(cell, x, state=torch.ones((1, 4), dtype=torch.float64), method="newton")
            assert solution.lyapunov.item() == pytest.approx(torch.tensor(a).log().item(), abs=1e-6)


# --- modes of torch ---------------------------------------------------------------------------------------------------


@every_method
def test_without_gradients(method: str) -> None:
    x, params, h0 = CASES["elman"].inputs(2, 40, 4, torch.float32)
    params[0].requires_grad_()
    expected = loop(elman, x, params, h0)[0][0].detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            made_here = x * 1
            value = solve_recurrence(elman, made_here, *params, state=h0, method=method).value
        assert not value.requires_grad
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_a_captured_parameter_is_accepted_without_gradients() -> None:
    module = torch.nn.GRUCell(3, 4)
    x, h0 = numbers(0, torch.float32)(2, 40, 3), torch.zeros((2, 4))
    with torch.no_grad():
        value = solve_recurrence(lambda h, x: module(x, h), x, state=h0, method="newton").value
    module.requires_grad_(False)
    assert solve_recurrence(lambda h, x: module(x, h), x, state=h0, method="newton").value.equal(value)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # and another
def test_compiled_code_calls_it_between_two_graphs() -> None:
    x, (a,), h0 = paragru_inputs(2, 40, 3, torch.float64)
    a.requires_grad_()

    def double(x: Any, a: Any) -> Any:
        return 2 * solve_recurrence(paragru, x + 1, a, state=h0, method="newton").value

    compiled = torch.compile(double, backend="eager")
    for y in (x, x[:, :30]):
        value, expected = compiled(y, a), double(y, a)
        torch.testing.assert_close(value, expected)
        (actual,), (wanted,) = (torch.autograd.grad(z.sum(), a) for z in (value, expected))
        torch.testing.assert_close(actual, wanted)


def test_a_full_graph_is_refused() -> None:
    x, params, h0 = paragru_inputs(2, 40, 3, torch.float64)
    compiled = torch.compile(
        lambda x: solve_recurrence(paragru, x, *params, state=h0).value, backend="eager", fullgraph=True
    )
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(x)
