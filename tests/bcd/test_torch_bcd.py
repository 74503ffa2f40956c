"""Solutions on tensors: the values of arrays, derivatives by finite differences, ties, and refusals."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sp = pytest.importorskip("scipy.sparse")
optimize = pytest.importorskip("scipy.optimize")

import fastiter.torch  # noqa: E402
from fastiter.bcd import bcd as of_arrays  # noqa: E402
from fastiter.bcd import lasso_path as path_of_arrays  # noqa: E402
from fastiter.bcd import reference  # noqa: E402
from fastiter.bcd import sketch_solve as sketch_of_arrays  # noqa: E402
from fastiter.bcd._torch import implicit  # noqa: E402
from fastiter.bcd._torch.equations import Equations  # noqa: E402
from fastiter.torch.bcd import LeastSquares, Logistic, Quadratic, Softmax, bcd, lasso_path, nnls, sketch_solve  # noqa: E402
from tests.bcd import cases  # noqa: E402
from tests.bcd.cases import LOSSES, PARTS, data, specified  # noqa: E402
from tests.support.error_cases import assert_named  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta state")
F64 = torch.float64
EXACT: dict[str, Any] = {"update": "newton", "blocks": 64, "rtol": 1e-13}


def make(loss: str, A: Any, b: Any, **parts: Any) -> Any:
    """Return the problem on tensors with the targets of `cases.make`."""
    if loss == "squares":
        return LeastSquares(A, b, **parts)
    if loss == "logistic":
        return Logistic(A, b.detach() > 0, **parts)
    if loss == "softmax":
        edges = torch.tensor([-0.5, 0.5], dtype=b.dtype)
        return Softmax(A, torch.bucketize(b.detach(), edges), 3, **parts)
    return Quadratic(A.mT @ A + torch.eye(A.shape[1], dtype=A.dtype), A.mT @ b, **parts)


def layouts(A: Any) -> dict[str, Any]:
    """Return equal matrices in other memory layouts."""
    x = torch.from_numpy(A)
    apart = torch.zeros(2 * A.shape[0], 3 * A.shape[1], dtype=x.dtype)[::2, ::3]
    return {
        "rows": x,
        "columns": x.mT.contiguous().mT,
        "apart": apart.copy_(x),
        "negative": torch._neg_view(-x),
        "csr": x.to_sparse_csr(),
        "csc": x.to_sparse_csc(),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_values_are_the_arrays(loss: str, dtype: Any) -> None:
    A, b = data(9, 6, dtype=dtype, density=0.7)
    for parts in PARTS.values():
        expected = of_arrays(cases.make(loss, A, b, **parts))
        for kind, x in layouts(A).items():
            if loss == "quadratic" and kind in ("csr", "csc"):
                Q = torch.from_numpy(A.T @ A + np.eye(6, dtype=dtype))
                Q = Q.to_sparse_csr() if kind == "csr" else Q.to_sparse_csc()
                problem: Any = Quadratic(Q, torch.from_numpy(A.T @ b), **parts)
            else:
                problem = make(loss, x, torch.from_numpy(b), **parts)
            found = bcd(problem)
            near = 1e-5 if dtype == np.float32 and loss == "quadratic" else 1e-10  # another product gives its matrix
            assert problem.shape == tuple(found.value.shape) and problem.dtype == found.value.dtype, kind
            np.testing.assert_allclose(found.value.numpy(), expected.value, rtol=near, atol=near, err_msg=kind)
            assert torch.equal(found.active, torch.from_numpy(expected.active)) and found.active.dtype == torch.bool
            assert isinstance(found.history, torch.Tensor) and found.converged and not found.value.requires_grad
    assert repr(problem).startswith(type(problem).__name__ + "(")


def test_columns_are_not_copied() -> None:
    A, b = (torch.from_numpy(x) for x in data(9, 6))
    columns = A.mT.contiguous().mT
    assert np.shares_memory(LeastSquares(columns, b)._arrays._data.dense, columns.numpy())


def check_derivatives(function: Callable[..., Any], *tensors: Any) -> None:
    """Compare first and second derivatives with finite differences; none of them may warn."""
    given = [torch.as_tensor(x, dtype=F64).detach().clone().requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(function, given, atol=1e-6, rtol=1e-4, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, given, atol=1e-5, rtol=1e-3, fast_mode=True)


def sizes(loss: str, A: Any, b: Any) -> tuple[float, float, float]:
    """Return l1, lower and upper, each of which holds some coordinates and leaves others free."""

    def minimiser(**parts: Any) -> Any:
        return of_arrays(cases.make(loss, A, b, l2=0.1, **parts), rtol=1e-12).value.ravel()

    x = np.sort(minimiser())
    gradient = reference.gradient(specified(loss, A, b), np.zeros(len(x)))
    l1 = 0.5 * float(np.median(np.abs(gradient)))
    zero = minimiser(l1=l1) == 0
    assert zero.any() and not zero.all()
    for lower, upper in itertools.combinations((x[1:] + x[:-1]) / 2, 2):
        held = minimiser(lower=float(lower), upper=float(upper))
        if (held == lower).any() and (held == upper).any() and ((lower < held) & (held < upper)).any():
            return l1, float(lower), float(upper)
    raise AssertionError("no two bounds hold some coordinates each")


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives(loss: str) -> None:
    A, b = data(9, 4, seed=3)
    l1, lower, upper = sizes(loss, A, b)
    weights = [] if loss == "quadratic" else [np.linspace(0.9, 1.1, 9)]

    def penalised(A: Any, b: Any, l1: Any, l2: Any, *weights: Any) -> Any:
        how = {"weights": weights[0]} if weights else {}
        return bcd(make(loss, A, b, l1=l1, l2=l2, **how), **EXACT).value

    check_derivatives(penalised, A, b, l1, np.linspace(0.09, 0.11, 4), *weights)

    def bounded(A: Any, b: Any, lower: Any, upper: Any) -> Any:
        return bcd(make(loss, A, b, lower=lower, upper=upper, l2=0.1), **EXACT).value

    check_derivatives(bounded, A, b, np.full(4, lower), upper)

    def nonnegative(A: Any, b: Any, l1: Any) -> Any:
        return bcd(make(loss, A, b, lower=0, l1=l1, l2=0.1), **EXACT).value

    check_derivatives(nonnegative, A, b, np.full(4, l1))


def test_derivatives_of_sparse_data() -> None:
    A, b = data(12, 5, seed=3, density=0.6)
    l1, lower, upper = sizes("squares", A, b)
    known, target = torch.from_numpy(A), torch.from_numpy(b)
    csr: Any = known.to_sparse_csr()
    pattern = csr.crow_indices(), csr.col_indices()

    def solved(values: Any, b: Any, lower: Any, upper: Any) -> Any:
        return bcd(LeastSquares((*pattern, values, (12, 5)), b, lower=lower, upper=upper, l2=0.1), **EXACT).value

    check_derivatives(solved, csr.values(), b, lower, upper)
    dense = known.clone().requires_grad_()
    bcd(LeastSquares(dense, target, l1=l1), **EXACT).value.sum().backward()
    for matrix in (csr, known.to_sparse_csc()):
        leaf = matrix.clone().requires_grad_()
        value = bcd(LeastSquares(leaf, target, l1=l1), **EXACT).value
        with pytest.raises(RuntimeError, match=r"^LeastSquares: A must not be a sparse tensor if its gradient is"):
            torch.autograd.grad(value.sum(), leaf, create_graph=True)
        value = bcd(LeastSquares(leaf, target, l1=l1), **EXACT).value
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        assert gradient.layout == matrix.layout
        assert torch.allclose(gradient.to_dense(), dense.grad * (known != 0), rtol=1e-9, atol=1e-12)


def test_derivative_of_a_lasso_in_closed_form() -> None:
    A, b = data(30, 10, seed=1)
    l1 = torch.tensor(6.0, dtype=F64, requires_grad=True)
    found = bcd(LeastSquares(torch.from_numpy(A), torch.from_numpy(b), l1=l1), **EXACT)
    free = ~found.active.numpy()
    part, signs = A[:, free], np.sign(found.value.detach().numpy()[free])
    expected = -np.linalg.solve(part.T @ part, signs)
    assert 0 < free.sum() < 10
    for row, j in enumerate(np.flatnonzero(free)):
        (dl1,) = torch.autograd.grad(found.value[j], l1, retain_graph=True)
        assert np.isclose(float(dl1), expected[row], rtol=1e-10)
    (none,) = torch.autograd.grad(found.value[torch.from_numpy(~free)].sum(), l1)
    assert float(none) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_all_solvers_give_the_same_gradient(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare factorisations, single products, conjugate gradients and float32."""
    A, b = (torch.from_numpy(x) for x in data(15, 6, seed=5))

    def gradients(dtype: Any = F64) -> Any:
        leaves = [x.to(dtype).requires_grad_() for x in (A, torch.tensor(0.5), torch.full((6,), 0.3))]
        problem = make(loss, leaves[0], b.to(dtype), l1=leaves[1], l2=leaves[2])
        value = bcd(problem, update="newton", blocks=64, rtol=1e-12).value
        first = torch.autograd.grad(value.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((x * x).sum() for x in first), leaves)
        return [*first, *second]

    expected = gradients()
    for x, y in zip(gradients(torch.float32), expected, strict=True):
        assert x.dtype == torch.float32
        assert torch.allclose(x.double(), y, rtol=2e-4, atol=2e-4 * float(y.detach().abs().max()))
    for name, value in (("_BATCH", 1), ("LARGEST", 0)):
        monkeypatch.setattr(implicit, name, value)
        monkeypatch.setattr(Equations, "matrix", lambda *_: None)
        for x, y in zip(gradients(), expected, strict=True):
            assert torch.allclose(x, y, rtol=1e-8, atol=1e-10 * float(y.detach().abs().max())), name


def test_conjugate_gradients_that_fail_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit, "LARGEST", 0)
    A = torch.diag(torch.tensor([1.0, 0.0], dtype=F64)).requires_grad_()
    value = bcd(Quadratic(A, torch.tensor([1.0, 0.0], dtype=F64))).value
    with pytest.raises(fastiter.ConvergenceError, match=r"^bcd: the residual of the gradient's system must fall to"):
        value.sum().backward()


def test_paths() -> None:
    A, b = data(20, 8, seed=2)
    tensors = torch.from_numpy(A), torch.from_numpy(b)
    for nonnegative in (False, True):
        expected = path_of_arrays(A, b, nonnegative=nonnegative, l2=0.1)
        found = lasso_path(*tensors, nonnegative=nonnegative, l2=0.1)
        for name in ("value", "converged", "steps", "residual", "l1", "objective"):
            assert np.array_equal(getattr(found, name).numpy(), getattr(expected, name)), name

        def path(A: Any, b: Any, l1: Any, l2: Any, nonnegative: bool = nonnegative) -> Any:
            return lasso_path(A, b, l1, l2=l2, nonnegative=nonnegative, rtol=1e-15).value

        check_derivatives(path, A, b, np.array([20.0, 5.0, 1.0]), 0.1)
    weights = torch.ones(1, dtype=F64)
    by_rows, by_columns = (lasso_path(x, tensors[1], weights).value for x in (tensors[0].to_sparse_csr(), tensors[0]))
    assert torch.allclose(by_rows, by_columns, atol=1e-3)
    default = lasso_path(tensors[0].clone().requires_grad_(), tensors[1])
    assert default.value.requires_grad and len(default.l1) == 50


def test_nonnegative_least_squares() -> None:
    A, b = data(12, 5, seed=4)

    def solved(A: Any, b: Any) -> Any:
        return nnls(A, b, rtol=1e-13).value

    value = solved(torch.from_numpy(A), torch.from_numpy(b))
    assert np.allclose(value, optimize.nnls(A, b)[0], atol=1e-10) and (value == 0).any() and (value > 0).any()
    check_derivatives(solved, A, b)


def test_nnls_is_named_in_its_errors() -> None:
    A, b = (torch.from_numpy(x) for x in data(9, 4))
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"A": A.numpy()}, TypeError, "A must be a torch.Tensor, got ndarray"),
        ({"b": b.float()}, TypeError, "b must have dtype torch.float64 like A"),
        ({"b": b[1:]}, ValueError, r"b must have shape \(9,\) to go with A"),
        ({"A": A * torch.nan}, ValueError, "A must be finite"),
        ({"x0": b}, ValueError, r"x0 must have shape \(4,\)"),
        ({"max_steps": 1, "throw": True}, fastiter.ConvergenceError, ""),
    ]
    for how, error, message in wrong:
        with pytest.raises(error, match=f"^nnls: {message}"):
            nnls(**{"A": A, "b": b, **how})


def test_sketches() -> None:
    A, b = data(20, 8, seed=2)
    b = A @ np.ones(8)
    for matrix in (torch.from_numpy(A), torch.from_numpy(A).to_sparse_csr()):
        for kind in ("kaczmarz", "gaussian"):
            found = sketch_solve(matrix, torch.from_numpy(b), torch.zeros(8, dtype=F64), sketch=kind, rtol=1e-8)
            assert found.converged and torch.allclose(found.value, torch.ones(8, dtype=F64), atol=1e-6)
    assert np.array_equal(sketch_solve(torch.from_numpy(A), torch.from_numpy(b)).value, sketch_of_arrays(A, b).value)
    with pytest.raises(ValueError, match=r"^sketch_solve: b must not require a gradient \(fastiter.torch.relax "):
        sketch_solve(torch.from_numpy(A), torch.from_numpy(b).requires_grad_())


@pytest.mark.parametrize(
    ("A", "b", "parts", "tied"),
    [
        (np.eye(2), [1.0, 3.0], {"l1": 1.0}, 1),  # just reached by l1
        (np.eye(2), [0.0, 3.0], {"lower": 0.0}, 1),  # at a bound with a zero gradient
        (np.eye(2), [1.0, 3.0], {"l1": 1.0, "lower": 0.0}, 1),
        (np.eye(2), [0.5, 3.0], {"l1": 1.0, "lower": 0.0}, 0),
        (np.eye(2), [-5.0, 3.0], {"l1": 1.0, "lower": 0.0}, 0),  # not held by l1 alone
        (np.eye(2), [-5.0, 3.0], {"lower": 0.0, "upper": 3.0}, 1),  # free, and at a bound
        (np.eye(2), [-5.0, 3.0], {"lower": 1.0, "upper": 1.0}, 0),  # fixed
        (np.ones((2, 2)), [1.0, 1.0], {"l1": 0.5}, 1),  # the second column could replace the first
    ],
)
@pytest.mark.parametrize("stop", ["slope", "gap"])
def test_ties_are_warned_about(A: Any, b: Any, parts: Any, tied: int, stop: Any) -> None:
    if stop == "gap" and "l1" not in parts and "upper" not in parts:
        return
    matrix, target = torch.from_numpy(A), torch.tensor(b, dtype=F64, requires_grad=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bcd(LeastSquares(matrix, target, **parts), stop=stop)
    assert len(caught) == tied
    for each in caught:
        assert each.filename == __file__ and each.category is UserWarning
        assert re.match(r"bcd: 1 coordinate is at the border of being held, the first [01]: ", str(each.message))
    with torch.no_grad():
        bcd(LeastSquares(matrix, target, **parts), stop=stop)


def test_a_minimiser_that_is_not_unique_has_no_derivative() -> None:
    A = torch.ones(3, 2, dtype=F64, requires_grad=True)
    value = bcd(LeastSquares(A, torch.ones(3, dtype=F64))).value
    message = (
        r"^bcd: the solution has no derivative, as it is not unique or not finite: the second derivatives in its 2 "
    )
    with pytest.raises(RuntimeError, match=message):
        value.sum().backward()


def test_nothing_to_solve() -> None:
    for n, m in ((0, 3), (3, 0), (0, 0)):
        A = torch.ones(n, m, dtype=F64, requires_grad=True)
        for problem in (
            LeastSquares(A, torch.ones(n, dtype=F64), l1=0.1),
            Logistic(A, torch.ones(n), l2=0.1),
            Softmax(A, torch.zeros(n, dtype=torch.int64), 2, l2=0.1),
            LeastSquares(A.detach().to_sparse_csr().requires_grad_(), torch.ones(n, dtype=F64), lower=-1),
        ):
            found = bcd(problem)
            assert found.converged and tuple(found.value.shape) == problem.shape and not found.value.any()
    A = torch.eye(2, dtype=F64).requires_grad_()
    all_held = bcd(LeastSquares(A, torch.ones(2, dtype=F64), l1=5.0)).value
    all_held.sum().backward()
    assert A.grad is not None and not A.grad.any()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, in its forward mode
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # Dynamo's own
def test_grad_modes_transforms_and_tracing() -> None:
    A, b = (torch.from_numpy(x) for x in data(9, 4))
    leaf = A.clone().requires_grad_()
    expected = bcd(LeastSquares(A, b, l1=0.5)).value

    def loss(A: Any) -> Any:
        return bcd(LeastSquares(A, b, l1=0.5)).value

    (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    with torch.device("meta"):
        (placed,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    compiled = torch.compile(loss, backend="eager")
    (traced,) = torch.autograd.grad(compiled(leaf).sum(), leaf)
    assert torch.equal(placed, gradient) and torch.equal(traced, gradient)
    with torch.inference_mode():
        assert torch.equal(loss(A), expected) and torch.equal(loss(leaf), expected)
    made = loss(leaf)
    made.zero_()  # users may write to it
    assert torch.equal(torch.autograd.grad(loss(leaf).sum(), leaf)[0], gradient)
    for transform in (torch.func.grad(lambda A: loss(A).sum()), torch.func.vmap(lambda A: loss(A))):
        with pytest.raises(RuntimeError, match=r"^LeastSquares: torch.func transforms such as grad and vmap are not"):
            transform(torch.stack([A]))
    known = LeastSquares(A, b)
    with pytest.raises(RuntimeError, match=r"^bcd: torch.func transforms"):
        torch.func.vmap(lambda x: bcd(known, x))(torch.zeros(2, 4, dtype=F64))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(leaf, torch.ones_like(A))
        with pytest.raises(NotImplementedError, match=r"^LeastSquares: forward-mode derivatives are not supported"):
            loss(dual)


def test_callbacks_and_errors_have_tensors() -> None:
    A, b = (torch.from_numpy(x) for x in data(9, 4))
    seen: list[Any] = []

    def second(progress: Any) -> bool:
        seen.append(progress.value)
        return len(seen) == 2

    found = bcd(LeastSquares(A, b), callback=second)
    assert found.reason == "callback" and all(isinstance(x, torch.Tensor) for x in seen)
    with pytest.raises(fastiter.ConvergenceError, match=r"^bcd: the residual must fall to") as raised:
        bcd(LeastSquares(A, b), max_steps=1, throw=True)
    solution: Any = raised.value.solution
    assert isinstance(solution.value, torch.Tensor) and raised.value.__suppress_context__
    with pytest.warns(fastiter.ConvergenceWarning) as caught:
        bcd(LeastSquares(A, b), max_steps=1)
    assert caught[0].filename == __file__
    start = bcd(LeastSquares(A, b), rtol=1e-10).value
    assert bcd(LeastSquares(A, b), start).steps == 0


def wrong() -> list[tuple[Any, type[Exception], str]]:
    A, b = (torch.from_numpy(x) for x in data(9, 4))
    y, bad = torch.ones(9), A.clone()
    bad[3, 2] = torch.nan
    anything: Any = "x"
    one = torch.tensor([0, 1])
    some: Any = [1.0]
    problem: Any = LeastSquares(A, b)
    of_numpy = cases.make("squares", A.numpy(), b.numpy())
    backend = fastiter.BackendError
    return [
        (lambda: LeastSquares(A.numpy(), b), TypeError, "LeastSquares: A"),
        (lambda: LeastSquares(sp.csr_array(A.numpy()), b), TypeError, "LeastSquares: A"),
        (lambda: LeastSquares(A.to_sparse_coo(), b), TypeError, "LeastSquares: A"),
        (lambda: LeastSquares(A.half(), b), TypeError, "LeastSquares: A"),
        (lambda: LeastSquares((A, b), b), TypeError, "LeastSquares: A"),
        (lambda: LeastSquares((one, one, b[:2], 4), b), TypeError, "LeastSquares: the shape of A"),
        (lambda: LeastSquares((one, one, b[:2], (1, 1)), b), ValueError, "LeastSquares: A"),
        (lambda: LeastSquares((one, one[1:] + 9, b[:1], (1, 1)), b), ValueError, "LeastSquares: A"),
        (lambda: LeastSquares(A, b.float()), TypeError, "LeastSquares: b"),
        (lambda: LeastSquares(A, b.numpy()), TypeError, "LeastSquares: b"),
        (lambda: LeastSquares(A, b[1:]), ValueError, "LeastSquares: b"),
        (lambda: LeastSquares(A[0], b), ValueError, "LeastSquares: A"),
        (lambda: LeastSquares(bad, b), ValueError, "LeastSquares: A"),
        (lambda: LeastSquares(A, b / 0), ValueError, "LeastSquares: b"),
        (lambda: LeastSquares(bad.to_sparse_csr(), b), ValueError, "LeastSquares: A"),
        (lambda: LeastSquares(A.to("meta"), b), backend, "LeastSquares: A"),
        (lambda: LeastSquares(A, b, l1=[1.0]), TypeError, "LeastSquares: l1"),
        (lambda: LeastSquares(A, b, l1=b), ValueError, "LeastSquares: l1"),
        (lambda: LeastSquares(A, b, l1=-1.0), ValueError, "LeastSquares: l1"),
        (lambda: LeastSquares(A, b, weights=y.numpy()), TypeError, "LeastSquares: weights"),
        (lambda: Logistic(A, y.numpy()), TypeError, "Logistic: y"),
        (lambda: Logistic(A, 3 * y), ValueError, "Logistic: y"),
        (lambda: Logistic(A, y.to("meta")), backend, "Logistic: y"),
        (lambda: Softmax(A, y), TypeError, "Softmax: y"),
        (lambda: Quadratic(A, b), ValueError, "Quadratic: A"),
        (lambda: of_arrays(problem), TypeError, "bcd: problem"),
        (lambda: bcd(of_numpy), TypeError, "bcd: problem"),
        (lambda: bcd(problem, torch.zeros(3, dtype=F64)), ValueError, "bcd: x0"),
        (lambda: bcd(problem, torch.zeros(4)), TypeError, "bcd: x0"),
        (lambda: bcd(problem, rule=anything), ValueError, "bcd: rule"),
        (lambda: lasso_path(A, b, some), TypeError, "lasso_path: l1"),
        (lambda: lasso_path(A, b, -b), ValueError, "lasso_path: l1"),
        (lambda: lasso_path(A, b, l2=b), ValueError, "lasso_path: l2"),
        (lambda: lasso_path(A, b, l2=anything), TypeError, "lasso_path: l2"),
        (lambda: sketch_solve(A, b.float()), TypeError, "sketch_solve: b"),
        (lambda: sketch_solve(A, b, sketch=anything), ValueError, "sketch_solve: sketch"),
    ]


def test_wrong_arguments() -> None:
    assert_named(wrong())
