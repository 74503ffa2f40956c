"""fastiter.torch.fixedpoint.fixed_point: values, and first and second derivatives of all modes."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.torch.fixedpoint import fixed_point  # noqa: E402

B, N = 3, 4
METHODS = ["picard", "anderson", "broyden", "newton_krylov", "squarem", "aitken"]
#: A solution whose error is far below the differences of gradcheck
TIGHT: dict[str, Any] = {"rtol": 1e-13, "max_steps": 500}


def randn(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def problem(dtype: Any = torch.float64) -> tuple[Any, Any, Any]:
    """Return x0, W and b of x = tanh(x W^T + b), a contraction."""
    W, b = 0.25 * randn(N, N, seed=1, dtype=dtype), randn(B, N, seed=2, dtype=dtype)
    return torch.zeros(B, N, dtype=dtype), W.requires_grad_(), b.requires_grad_()


def f(x: Any, W: Any, b: Any) -> Any:
    return torch.tanh(x @ W.mT + b)


def exact(W: Any, b: Any) -> Any:
    """Return the fixed point with the gradient of a hundred iterations."""
    x = torch.zeros_like(b)
    for _ in range(100):
        x = f(x, W, b)
    return x


def both(call: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


# --- implicit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_derivatives_of_first_and_second_order(method: Any) -> None:
    x0, W, b = problem()
    both(lambda W, b: fixed_point(f, x0, W, b, method=method, **TIGHT).value, (W, b))


def test_derivatives_of_third_order() -> None:
    x0, W, b = problem()

    def first(W: Any) -> Any:
        loss = fixed_point(f, x0, W, b.detach(), **TIGHT).value.pow(2).sum()
        return torch.autograd.grad(loss, W, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(first, (W,), fast_mode=True)


def test_a_hessian_is_that_of_the_iterations() -> None:
    x0, W, b = problem()
    for power in (1, 3):
        found = []
        for x in (exact(W, b), fixed_point(f, x0, W, b, **TIGHT).value):
            dW, db = torch.autograd.grad(x.pow(power).sum(), (W, b), create_graph=True)
            found.append(torch.autograd.grad(dW.pow(2).sum() + db.sin().sum(), (W, b)))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_rows_of_args_that_are_dropped() -> None:
    """The gradient of args, whose rows are dropped when samples have converged, equals that of params."""
    x0, W, b = problem()
    scale = torch.tensor([[0.0], [0.5], [3.0]], dtype=torch.float64)
    rows = []

    def g(x: Any, b: Any, W: Any) -> Any:
        rows.append(len(x))
        return f(x, W, b)

    found = fixed_point(g, x0, W, args=(scale * b,), **TIGHT)
    assert min(rows) < B and len(set(found.steps.tolist())) > 1
    expected = fixed_point(f, x0, W, scale * b, **TIGHT)
    torch.testing.assert_close(found.value, expected.value)
    for one, other in zip(*(torch.autograd.grad(x.value.sum(), (W, b)) for x in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_float32_gradients() -> None:
    x0, W, b = problem(torch.float32)
    found = torch.autograd.grad(fixed_point(f, x0, W, b, rtol=1e-6).value.sum(), (W, b))
    for one, other in zip(found, torch.autograd.grad(exact(W, b).sum(), (W, b)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_complex_states_with_a_conjugate() -> None:
    W, b = (0.2 * randn(3, 3, dtype=torch.complex128)).requires_grad_(), randn(2, 3, dtype=torch.complex128)
    x0 = torch.zeros(2, 3, dtype=torch.complex128)
    both(
        lambda W, b: fixed_point(lambda x, W, b: x @ W.mT + b + 0.1 * x.conj() * x, x0, W, b, **TIGHT).value,
        (W, b.requires_grad_()),
    )


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_states_of_several_tensors(kind: Any) -> None:
    a = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)

    def parts(x: Any) -> Any:
        return (x["h"], x["c"]) if kind is dict else x

    def made(h: Any, c: Any) -> Any:
        return {"h": h, "c": c} if kind is dict else kind((h, c))

    def g(x: Any, a: Any) -> Any:
        h, c = parts(x)
        return made(torch.tanh(a[0] * h + c.unsqueeze(1)), a[1] * c + h.sum(1).cos())

    def solve(a: Any) -> Any:
        found = fixed_point(g, made(a.new_zeros(B, 2), a.new_zeros(B)), a, **TIGHT)
        assert type(found.value) is kind and bool(found.converged.all())
        return tuple(parts(found.value))

    both(solve, (a,))


def test_one_problem_without_a_batch() -> None:
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    both(
        lambda a: (
            fixed_point(
                lambda x, a: torch.cos(a * x), torch.ones((), dtype=torch.float64), a, batched=False, **TIGHT
            ).value
        ),
        (a,),
    )


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (1, 1), (2, 3, 5)])
def test_shapes(shape: tuple[int, ...]) -> None:
    b = randn(*shape).requires_grad_()
    x = fixed_point(lambda x, b: 0.5 * x + b, torch.zeros(shape, dtype=torch.float64), b, **TIGHT).value
    assert x.shape == shape
    torch.testing.assert_close(x, 2 * b)
    if x.numel():
        torch.testing.assert_close(torch.autograd.grad(x.sum(), b)[0], torch.full_like(b, 2.0))


def test_strided_expanded_and_transposed_tensors() -> None:
    x0, W, b = problem()
    expected = fixed_point(f, x0, W, b, **TIGHT).value
    wide, turned = torch.zeros(1, N, dtype=torch.float64).expand(B, N), b.detach().mT.contiguous().mT
    torch.testing.assert_close(fixed_point(f, wide, W, turned, **TIGHT).value, expected)


def test_writing_to_the_value_changes_no_gradient() -> None:
    x0, W, b = problem()
    expected = torch.autograd.grad(fixed_point(f, x0, W, b, **TIGHT).value.sum(), W)[0]
    x = fixed_point(f, x0, W, b, **TIGHT).value
    loss = x.sum()
    x.data.zero_()
    torch.testing.assert_close(torch.autograd.grad(loss, W)[0], expected)


def test_an_adjoint_equation_with_its_own_solver() -> None:
    x0, W, b = problem()
    expected = torch.autograd.grad(fixed_point(f, x0, W, b, **TIGHT).value.sum(), W)[0]
    x = fixed_point(f, x0, W, b, rtol=1e-13, m=3, adjoint={"method": "picard", "rtol": 1e-3}).value
    rough = torch.autograd.grad(x.sum(), W)[0]
    assert 1e-9 < (rough - expected).norm() / expected.norm() < 1e-2


def test_an_adjoint_equation_that_does_not_converge_is_reported() -> None:
    x0, W, b = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = fixed_point(f, x0, W, b, adjoint={"max_steps": 1}).value
        with pytest.raises(fastiter.ConvergenceWarning, match=r"^fixed_point, backward: "):
            x.sum().backward()
    x = fixed_point(f, x0, W, b, adjoint={"max_steps": 1, "throw": True}).value
    with pytest.raises(fastiter.ConvergenceError, match=r"^fixed_point, backward: "):
        x.sum().backward()


def test_a_map_that_expands_is_solved_or_reported() -> None:
    """Anderson's method solves x = W x + b with a spectral radius of 3; Picard's reports it."""
    W, b = torch.diag(torch.tensor([3.0, -2.0], dtype=torch.float64)).requires_grad_(), randn(1, 2)
    x = fixed_point(lambda x, W: x @ W + b, torch.zeros(1, 2, dtype=torch.float64), W).value
    torch.testing.assert_close(x, torch.linalg.solve(torch.eye(2, dtype=torch.float64) - W, b.mT).mT)
    dW = torch.autograd.grad(x.sum(), W)[0].diagonal()
    torch.testing.assert_close(dW, (b[0] / (1 - W.diagonal()) ** 2).detach())
    with pytest.raises(fastiter.ConvergenceError):
        fixed_point(lambda x, W: x @ W + b, torch.zeros(1, 2, dtype=torch.float64), W, method="picard", throw=True)


def test_warm_starts() -> None:
    x0, W, b = problem()
    cold = fixed_point(f, x0, W, b)
    warm = fixed_point(f, cold, W, b + 1e-6)
    assert int(warm.evaluations.max()) < int(cold.evaluations.max())
    assert warm.value.requires_grad
    with torch.no_grad():
        plain = fixed_point(f, fixed_point(f, x0, W, b), W, b + 1e-6)
    assert torch.equal(warm.history, plain.history)  # a solution with a gradient provides the same history


def test_no_reference_to_a_graph_stays() -> None:
    x0, W, b = problem()
    inner = f(x0, W, b)
    seen = weakref.ref(inner)
    x = fixed_point(f, x0, W, inner).value
    x.sum().backward()
    del x, inner
    gc.collect()
    assert seen() is None


# --- closures and modules ---------------------------------------------------------------------------------------------


def test_tensors_that_f_closes_over_have_gradients() -> None:
    x0, W, b = problem()

    def solve(W: Any, b: Any) -> Any:
        inner, leaf = 2 * b, W  # one with a graph and one without
        return fixed_point(lambda x: torch.tanh(x @ leaf.mT + inner), x0, **TIGHT).value

    assert torch.autograd.gradcheck(solve, (W, b), fast_mode=True)
    inner = 2 * b
    x = fixed_point(lambda x: f(x, W.detach(), inner), x0).value
    assert torch.autograd.grad(x.sum(), inner)[0].abs().min() > 0


@pytest.mark.parametrize("loss", [lambda x: x.sum(), lambda x: x.pow(2).sum()], ids=["linear", "quadratic"])
def test_a_derivative_that_a_closure_would_lose_is_refused(loss: Any) -> None:
    x0, W, b = problem()
    x = fixed_point(lambda x, b: f(x, W, b), x0, b).value
    for wanted in (W, b):
        (first,) = torch.autograd.grad(loss(x), wanted, create_graph=True)
        for other in (W, b):
            with pytest.raises(RuntimeError, match="pass them in params, or a module as f"):
                torch.autograd.grad(first.sum(), other, retain_graph=True)


#: torch.compile looks at the gradients of its inputs
views = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


class Cell(torch.nn.Module):  # type: ignore[misc,name-defined]
    """x -> tanh(dropout(W x) + b)."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(N, N, dtype=torch.float64)
        self.drop = torch.nn.Dropout(p)
        with torch.no_grad():
            self.linear.weight.copy_(0.25 * randn(N, N, seed=1))

    def forward(self, x: Any, b: Any) -> Any:
        return torch.tanh(self.drop(self.linear(x)) + b)


def test_parameters_of_a_module_have_second_derivatives() -> None:
    x0, _, b = problem()
    cell = Cell()
    x = fixed_point(cell, x0, b, **TIGHT).value
    grads = torch.autograd.grad(x.pow(2).sum(), list(cell.parameters()), create_graph=True)
    second = torch.autograd.grad(sum(g.pow(2).sum() for g in grads), list(cell.parameters()))
    W, c = (p.detach().clone().requires_grad_() for p in cell.parameters())
    expected = torch.autograd.grad(exact(W, b + c).pow(2).sum(), (W, c), create_graph=True)
    twice = torch.autograd.grad(sum(g.pow(2).sum() for g in expected), (W, c))
    for one, other in zip((*grads, *second), (*expected, *twice), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@views
def test_a_compiled_map() -> None:
    x0, W, b = problem()
    compiled = torch.compile(f, backend="aot_eager")
    x = fixed_point(compiled, x0, W, b, **TIGHT).value
    expected = fixed_point(f, x0, W, b, **TIGHT).value
    torch.testing.assert_close(x, expected)
    for one, other in zip(*(torch.autograd.grad(y.sum(), (W, b)) for y in (x, expected)), strict=True):
        torch.testing.assert_close(one, other)


@views
def test_a_compiled_module_gets_its_gradients() -> None:
    x0, _, b = problem()
    cell = Cell()
    found = []
    for each in (cell, torch.compile(cell, backend="aot_eager")):
        x = fixed_point(each, x0, b, **TIGHT).value
        found.append(torch.autograd.grad(x.sum(), (*cell.parameters(), b)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@views
def test_a_compiled_caller() -> None:
    x0, W, b = problem()
    call = torch.compile(lambda W, b: fixed_point(f, x0, W, b, **TIGHT).value * 2, backend="aot_eager")
    torch.testing.assert_close(call(W, b), fixed_point(f, x0, W, b, **TIGHT).value * 2)
    assert torch.autograd.grad(call(W, b).sum(), W)[0].abs().sum() > 0


def test_dropout_has_one_mask_for_all_steps_of_a_call() -> None:
    x0, _, b = problem()
    cell = Cell(0.5)
    torch.manual_seed(0)
    first = fixed_point(cell, x0, b, throw=True, **TIGHT)
    second = fixed_point(cell, x0, b, throw=True, **TIGHT)
    assert not torch.equal(first.value, second.value)
    torch.manual_seed(0)
    torch.testing.assert_close(fixed_point(cell, x0, b, **TIGHT).value, first.value)
    torch.manual_seed(0)
    mask = torch.nn.functional.dropout(torch.ones(B, N, dtype=torch.float64), 0.5)
    W, c = (p.detach().clone().requires_grad_() for p in cell.parameters())
    x = torch.zeros_like(b)
    for _ in range(100):
        x = torch.tanh(mask * (x @ W.mT + c) + b)
    torch.testing.assert_close(first.value, x)
    one = torch.autograd.grad(first.value.sum(), list(cell.parameters()))
    for mine, other in zip(one, torch.autograd.grad(x.sum(), (W, c)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match=r"^fixed_point: compact must be False"):
        fixed_point(cell, x0, args=(b,))


def test_a_map_that_changes_before_the_backward_pass_is_detected() -> None:
    x0, W, b = problem()
    factor = [1.0]
    x = fixed_point(lambda x, W: torch.tanh(factor[0] * x @ W.mT + b), x0, W).value
    factor[0] = 0.5
    with pytest.raises(RuntimeError, match=r"^fixed_point: f must return the same in the backward pass"):
        x.sum().backward()


# --- other modes ------------------------------------------------------------------------------------------------------


def test_unrolled_iterations() -> None:
    x0, W, b = problem()
    start = x0.clone().requires_grad_()

    def solve(x0: Any, W: Any, b: Any) -> Any:
        return fixed_point(f, x0, W, b, method="picard", damping=0.8, grad="unrolled", rtol=1e-12).value

    both(solve, (start, W, b))
    few = fixed_point(f, start, W, b, method="picard", grad="unrolled", rtol=0.3)
    assert few.steps.max() > few.steps.min() or few.steps.max() > 0
    x = start
    for step in range(int(few.steps.max())):
        x = torch.where((few.steps > step).unsqueeze(1), f(x, W, b), x)
    torch.testing.assert_close(few.value, x)
    for one, other in zip(*(torch.autograd.grad(y.sum(), (start, W, b)) for y in (few.value, x)), strict=True):
        torch.testing.assert_close(one, other)


def test_one_step_phantom_and_neumann_gradients() -> None:
    x0, W, b = problem()
    x = exact(W, b).detach()
    how = {**TIGHT, "grad_steps": 3, "grad_damping": 0.5}
    step = f(x, W, b)
    damped = x
    for _ in range(3):
        damped = damped + 0.5 * (f(damped, W, b) - damped)
    J = torch.autograd.functional.jacobian(lambda y: f(y, W, b).sum(0), x).permute(1, 0, 2)
    g = torch.ones(B, N, dtype=torch.float64)
    u = g + torch.einsum("bi,bij->bj", g, J) + torch.einsum("bi,bij,bjk->bk", g, J, J)
    expected: dict[Any, Any] = {"one-step": (step, g), "phantom": (damped, g), "neumann": (step, u)}
    for grad, (y, weight) in expected.items():
        found = fixed_point(f, x0, W, b, grad=grad, **how).value
        torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-10)
        made = torch.autograd.grad(found.sum(), (W, b))
        for one, other in zip(made, torch.autograd.grad(y, (W, b), weight, retain_graph=True), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("grad", ["one-step", "phantom", "neumann"])
@pytest.mark.parametrize("power", [1, 2])
def test_derivatives_of_approximate_gradients_are_refused(grad: Any, power: int) -> None:
    x0, W, b = problem()
    x = fixed_point(f, x0, W, b, grad=grad).value
    (first,) = torch.autograd.grad(x.pow(power).sum(), W, create_graph=True)
    for wanted in (W, b):
        with pytest.raises(RuntimeError, match=r"^fixed_point: the gradient has no derivative"):
            torch.autograd.grad(first.sum(), wanted, retain_graph=True)


@pytest.mark.parametrize("grad", ["implicit", "one-step", "phantom", "neumann"])
def test_without_gradients(grad: Any) -> None:
    x0, W, b = problem()
    expected = exact(W, b).detach()
    with torch.no_grad():
        assert not fixed_point(f, x0, W, b, grad=grad).value.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(fixed_point(f, x0, W, b, grad=grad).value, expected, rtol=1e-7, atol=1e-7)
    plain = fixed_point(f, x0, W.detach(), b.detach(), grad=grad).value
    assert not plain.requires_grad and plain.is_leaf


def test_transforms_are_refused() -> None:
    x0, W, b = problem()
    with pytest.raises(RuntimeError, match=r"^fixed_point: torch.func transforms"):
        torch.func.grad(lambda W: fixed_point(f, x0, W, b.detach()).value.sum())(W.detach())
    with pytest.raises(RuntimeError, match=r"^fixed_point: torch.func transforms"):
        torch.func.vmap(lambda b: fixed_point(lambda x: f(x, W, b), x0).value)(randn(2, N))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it
def test_forward_mode_is_refused() -> None:
    x0, W, b = problem()
    message = "^fixed_point: forward-mode derivatives are not supported"
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match=message):
        fixed_point(f, x0, torch.autograd.forward_ad.make_dual(W.detach(), W.detach()), b.detach())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"f": 3}, TypeError, r"f must be a function of \(x, \*args, \*params\), got int"),
        ({"grad": "exact"}, ValueError, "grad must be one of 'implicit', 'unrolled', .*, got 'exact'"),
        ({"grad": "unrolled"}, ValueError, "method must be 'picard' with grad='unrolled', got 'anderson'"),
        ({"adjoint": 1e-3}, TypeError, "adjoint must be a mapping of options or None, got float"),
        ({"adjoint": {"rtol": -1.0}}, ValueError, "rtol must be finite and at least 0, got -1.0"),
        ({"args": [1]}, TypeError, "args must be a tuple of tensors, got list"),
        ({"batched": 1}, TypeError, "batched must be a bool, got int"),
        ({"grad_steps": 0}, ValueError, "grad_steps must be at least 1, got 0"),
        ({"grad_damping": 0.0}, ValueError, "grad_damping must be finite and above 0, got 0.0"),
        ({"method": "newton"}, ValueError, "method must be one of .*, got 'newton'"),
        ({"x0": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "x0 must be .*int64"),
        ({"x0": torch.zeros(2, 3, dtype=torch.bfloat16)}, TypeError, r"x0 .*\(x.float\(\) is; f may .*bfloat16"),
        ({"f": lambda x: x[:, :2]}, ValueError, r"f\(x\) must have shape \(2, 3\), got \(2, 2\)"),
    ],
)
def test_errors(change: dict[str, Any], error: Any, message: str) -> None:
    arguments: dict[str, Any] = {"f": lambda x: 0.5 * x, "x0": torch.zeros(2, 3), **change}
    with pytest.raises(error, match=f"^fixed_point: {message}"):
        fixed_point(arguments.pop("f"), arguments.pop("x0"), **arguments)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("how", [{"max_steps": 7}, {"callback": lambda progress: progress.steps == 3}, {"patience": 5}])
@pytest.mark.filterwarnings("ignore::fastiter.ConvergenceWarning")
def test_unrolled_values_have_the_smallest_residual(how: dict[str, Any], batched: bool) -> None:
    x0 = torch.tensor([[0.0], [3.0]], dtype=torch.float64)[: 2 if batched else 1]
    W = torch.tensor([[-1.5]], dtype=torch.float64, requires_grad=True)
    how = {"method": "picard", "batched": batched, **how}
    found = fixed_point(lambda x, W: x @ W + 1, x0, W, grad="unrolled", **how)
    assert not bool(torch.as_tensor(found.converged).any())
    with torch.no_grad():
        torch.testing.assert_close(found.value, fixed_point(lambda x, W: x @ W + 1, x0, W, **how).value, rtol=0, atol=0)
        residual = torch.linalg.vector_norm(found.value @ W + 1 - found.value, dim=1)
    torch.testing.assert_close(torch.as_tensor(found.residual, dtype=torch.float64).reshape(-1), residual)


@pytest.mark.parametrize(
    ("adjoint", "error", "message"),
    [
        ({"foo": 1}, TypeError, "method 'anderson' takes no option 'foo', only m, "),
        ({"method": "newton"}, ValueError, "method must be one of 'picard', .*, got 'newton'"),
        ({"method": "picard", "m": 3}, TypeError, "method 'picard' takes no option 'm', only damping"),
        ({"m": 0}, ValueError, "m must be at least 1, got 0"),
    ],
)
def test_wrong_options_of_the_adjoint_are_refused_before_f_is_called(adjoint: Any, error: Any, message: str) -> None:
    def f(x: Any) -> Any:
        raise AssertionError("f was called")

    with pytest.raises(error, match=f"^fixed_point, adjoint: {message}"):
        fixed_point(f, torch.zeros(2, 3), adjoint=adjoint)
