"""Gradients of solve_recurrence: exact for every structure, whichever method found the states."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import solve_recurrence  # noqa: E402
from tests.newton.solve.solve_cells import (  # noqa: E402
    CASES,
    Case,
    as_tuple,
    attempt,
    elman,
    elman_inputs,
    every_case,
    every_method,
    loop,
    numbers,
    paragru,
    paragru_inputs,
    solve,
)

Pytree = torch.utils._pytree


def leaves(inputs: Any) -> tuple[list[Any], Callable[..., Any]]:
    """Return the tensors of (x, params, h0) as leaves, and a function that substitutes others for them."""
    flat, spec = Pytree.tree_flatten(inputs)
    return [x.detach().clone().requires_grad_() for x in flat], lambda *y: Pytree.tree_unflatten(list(y), spec)


def gradients(outputs: Any, inputs: Any, seed: int = 0) -> Any:
    """Return the gradients of a random linear functional of all outputs."""
    randn = numbers(seed, outputs[0].dtype)
    return torch.autograd.grad(outputs, inputs, [randn(*y.shape) for y in outputs])


def compare(cell: Any, inputs: Any, tolerance: float = 1e-11, **how: Any) -> Any:
    """Check the gradients of states and last states against the loop's."""
    given, rebuild = leaves(inputs)
    solution = attempt(cell, *rebuild(*given), **how)
    actual = gradients([*as_tuple(solution.value), *as_tuple(solution.last)], given)
    states, last = loop(cell, *rebuild(*given))
    for a, e in zip(actual, gradients([*states, *last], given), strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)
    return solution


@every_method
@every_case
def test_gradcheck(case: Case, method: str) -> None:
    given, rebuild = leaves(case.inputs(2, 5, 3, torch.float64))

    def outputs(*tensors: Any) -> Any:
        solution = solve(case.cell, *rebuild(*tensors), method=method, window=3)
        return (*as_tuple(solution.value), *as_tuple(solution.last))

    assert torch.autograd.gradcheck(outputs, given, fast_mode=True)


@pytest.mark.parametrize("jacobian", ["auto", "diagonal", ("block", 2), ("block", 4), "dense", "quasi"])
@every_method
def test_gradients_are_exact_whatever_structure_is_declared(jacobian: Any, method: str) -> None:
    for name in ("paragru", "elman", "lstm_cell"):
        case = CASES[name]
        compare(case.cell, case.inputs(2, 20, 4, torch.float64), method=method, jacobian=jacobian)


@every_method
def test_wide_dense_jacobians(method: str) -> None:
    compare(elman, elman_inputs(2, 10, 20, torch.float64), method=method)


@pytest.mark.parametrize("window", [1, 4, 9, 10])
def test_windows(window: int) -> None:
    for name in ("paragru", "paralstm", "elman", "rotation"):
        case = CASES[name]
        for method in ("newton", "sequential"):
            compare(case.cell, case.inputs(2, 9, 3, torch.float64), method=method, window=window)


@pytest.mark.parametrize("kind", ["right", "wrong", "quasi"])
def test_given_jacobians(kind: str) -> None:
    def jacobian(h: Any, x: Any, w: Any) -> Any:
        dense = (1 - elman(h, x, w) ** 2).unsqueeze(2) * w.mT
        return {"right": dense, "wrong": 0.5 * dense, "quasi": dense.diagonal(dim1=1, dim2=2)}[kind]

    for method in ("newton", "sequential", "quasi"):
        compare(elman, elman_inputs(2, 12, 4, torch.float64), method=method, jacobian=jacobian)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_long_sequences(dtype: Any) -> None:
    tolerance = {torch.float32: 1e-3, torch.float64: 1e-11}[dtype]
    for name in ("paragru", "paralstm"):
        case = CASES[name]
        solution = compare(case.cell, case.inputs(3, 400, 5, dtype), tolerance, method="newton")
        assert not solution.sequential.any()


def test_windows_that_were_run_as_a_loop() -> None:
    x, params, h0 = paragru_inputs(2, 60, 4, torch.float64, scale=6.0)
    solution = compare(paragru, (x, params, h0), 1e-6, method="newton", window=20, max_steps=3)
    assert solution.sequential.any()


# --- differentiated inputs --------------------------------------------------------------------------------------------


def test_only_inputs_that_require_gradients() -> None:
    x, params, h0 = CASES["paralstm"].inputs(2, 40, 3, torch.float64)
    flat, spec = Pytree.tree_flatten((x, params, h0))
    every = [y.clone().requires_grad_() for y in flat]
    everything = solve(CASES["paralstm"].cell, *Pytree.tree_unflatten(every, spec), method="newton")
    expected = gradients(everything.value, every)
    for i in range(len(flat)):
        some = [y.clone().requires_grad_(i == j) for j, y in enumerate(flat)]
        solution = solve(CASES["paralstm"].cell, *Pytree.tree_unflatten(some, spec), method="newton")
        (actual,) = gradients(solution.value, [some[i]])
        torch.testing.assert_close(actual, expected[i], rtol=1e-12, atol=1e-12)
    constant = solve_recurrence(CASES["paralstm"].cell, x, *params, state=h0, method="newton")
    assert not any(y.requires_grad for y in (*constant.value, *constant.last))


def test_tokens_trees_of_parameters_and_tuples() -> None:
    def cell(h: Any, x: Any, params: Any) -> Any:
        tokens, mask, scale = x
        table, (bias, [power, _]) = params["table"], params["rest"]
        return torch.where(mask, torch.tanh(scale * (table[tokens] + bias) + power * h), h)

    randn = numbers(0, torch.float64)
    tokens = torch.arange(60).view(2, 30) % 7
    x = (tokens, (tokens % 3 > 0).unsqueeze(2), randn(2, 30, 1).requires_grad_())
    params = {"table": randn(7, 4).requires_grad_(), "rest": (randn(4).requires_grad_(), [0.5, randn(3)])}
    params["rest"][1][1].requires_grad_()
    h0 = randn(2, 4).requires_grad_()
    inputs = [x[2], params["table"], params["rest"][0], h0]
    for method in ("newton", "sequential"):
        value = solve_recurrence(cell, x, params, state=h0, method=method).value
        expected = gradients(loop(cell, x, [params], h0)[0], inputs)
        *actual, unused = gradients([value], [*inputs, params["rest"][1][1]])
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)
        assert not unused.any()


def test_modules_by_functional_call() -> None:
    module = torch.nn.GRUCell(3, 4).double()

    def cell(h: Any, x: Any, params: Any) -> Any:
        return torch.func.functional_call(module, params, (x, h))

    params = dict(module.named_parameters())
    x, h0 = numbers(0, torch.float64)(2, 20, 3), torch.zeros((2, 4), dtype=torch.float64)
    for method in ("newton", "quasi", "sequential"):
        value = solve_recurrence(cell, x, params, state=h0, method=method).value
        expected = gradients(loop(cell, x, [params], h0)[0], list(params.values()))
        for a, e in zip(gradients([value], list(params.values())), expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


def test_a_state_without_steps_has_the_gradient_of_the_first() -> None:
    x, params, h0 = paragru_inputs(2, 0, 3, torch.float64)
    h0.requires_grad_()
    solution = solve_recurrence(paragru, x, *params, state=h0)
    assert solution.value.shape == (2, 0, 3)
    assert torch.autograd.grad(solution.last.sum(), h0)[0].equal(torch.ones_like(h0))


def test_nan_in_a_row_stays_in_its_row() -> None:
    x, params, h0 = paragru_inputs(3, 40, 4, torch.float64)
    expected_x = x.clone().requires_grad_()
    (expected,) = gradients(
        [solve_recurrence(paragru, expected_x, *params, state=h0, method="newton").value], expected_x
    )
    x[1, 20] = float("nan")
    x.requires_grad_()
    (actual,) = gradients([attempt(paragru, x, params, h0, method="newton").value], x)
    assert actual[1].isnan().any()
    torch.testing.assert_close(actual[[0, 2]], expected[[0, 2]], rtol=1e-11, atol=1e-11)


# --- between the call and its backward pass: allowed and refused -----------------------------------------------------


def test_backward_twice_is_the_same() -> None:
    given, rebuild = leaves(paragru_inputs(2, 40, 3, torch.float32))
    total = solve(paragru, *rebuild(*given), method="newton").value.square().sum()
    first = torch.autograd.grad(total, given, retain_graph=True)
    second = torch.autograd.grad(total, given)
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("which", range(3), ids=["x", "params", "state"])
@pytest.mark.parametrize("method", ["newton", "sequential"])
def test_a_change_in_between_is_an_error(method: str, which: int) -> None:
    given, rebuild = leaves(paragru_inputs(2, 40, 3, torch.float32))
    total = solve(paragru, *rebuild(*given), method=method).value.sum()
    with torch.no_grad():
        given[which].mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(total, given)


@pytest.mark.parametrize("method", ["newton", "sequential"])
def test_double_backward_is_refused(method: str) -> None:
    given, rebuild = leaves(paragru_inputs(2, 40, 3, torch.float64))
    value = solve(paragru, *rebuild(*given), method=method).value
    for loss in (value.sum(), value.square().sum()):
        for gradient in torch.autograd.grad(loss, given, create_graph=True):
            with pytest.raises(RuntimeError, match=r"^solve_recurrence: .* cannot be differentiated twice"):
                torch.autograd.grad(gradient.square().sum(), given, retain_graph=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it
def test_forward_mode_and_transforms_are_refused() -> None:
    x, params, h0 = paragru_inputs(2, 40, 3, torch.float64)

    def total(y: Any) -> Any:
        return solve_recurrence(paragru, y, *params, state=h0).value.sum()

    for transform in (
        lambda: torch.func.grad(total)(x),
        lambda: torch.func.jvp(total, (x,), (x,)),
        lambda: torch.func.vmap(total)(x[None]),
    ):
        with pytest.raises(RuntimeError, match=r"^solve_recurrence: torch\.func .*, because .*; use torch"):
            transform()
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError):
        total(torch.autograd.forward_ad.make_dual(x, x))


@pytest.mark.parametrize("method", ["newton", "sequential"])
def test_nothing_is_kept_alive(method: str) -> None:
    given, rebuild = leaves(paragru_inputs(2, 40, 3, torch.float32))
    solution = solve(paragru, *rebuild(*given), method=method)
    value = weakref.ref(solution.value)
    gc.disable()
    try:
        del solution
        assert value() is None
    finally:
        gc.enable()


def test_autocast_is_the_same_in_both_directions() -> None:
    def cell(h: Any, x: Any, w: Any) -> Any:
        dtypes.add((h @ w).dtype)
        return torch.tanh(h @ w + x)

    dtypes: set[Any] = set()
    given, rebuild = leaves(elman_inputs(2, 20, 4, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        value = solve(cell, *rebuild(*given), method="newton").value
        expected = loop(cell, *rebuild(*given))[0][0]
    assert dtypes == {torch.bfloat16}
    torch.testing.assert_close(value, expected, rtol=1e-2, atol=1e-2)
    value.sum().backward()
    assert dtypes == {torch.bfloat16}


def test_checkpoints_and_saved_tensor_hooks() -> None:
    from torch.utils.checkpoint import checkpoint

    def last(*inputs: Any) -> Any:
        return solve_recurrence(paragru, inputs[0], inputs[1], state=inputs[2], method="newton").last

    given, _ = leaves(paragru_inputs(2, 40, 3, torch.float64))
    expected = torch.autograd.grad(last(*given).sum(), given)
    for reentrant in (False, True):
        fresh = [x.detach().clone().requires_grad_() for x in given]
        checkpoint(last, *fresh, use_reentrant=reentrant).sum().backward()
        assert all(x.grad.equal(e) for x, e in zip(fresh, expected, strict=True))
    with torch.autograd.graph.save_on_cpu(), torch.autograd.set_detect_anomaly(True):
        assert all(a.equal(e) for a, e in zip(torch.autograd.grad(last(*given).sum(), given), expected, strict=True))
