"""Kaczmarz, block Jacobi, Chebyshev and SSOR-CG on tensors: those of arrays, their gradients of any order, errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy.sparse")

import scipy.sparse  # noqa: E402

import fastiter  # noqa: E402
from fastiter import relax  # noqa: E402
from fastiter.torch.relax import block_jacobi, chebyshev, kaczmarz, ssor_cg  # noqa: E402
from tests.relax.cases import attempt, csr, random_matrix, vectors  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state:UserWarning")

#: The options of each method
METHODS: dict[str, dict[str, Any]] = {
    "kaczmarz": {"omega": 1.1, "symmetric": True},
    "block_jacobi": {"omega": 0.9, "block_size": 3},
    "chebyshev": {"bounds": (0.05, 1.95)},
    "ssor_cg": {"omega": 1.2, "order": "color", "check_every": 1},
}
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "csr": lambda A: A.to_sparse_csr(),
    "csc": lambda A: A.to_sparse_csc(),
    "bsr": lambda A: A.to_sparse_bsr((3, 3)),
    "coo": lambda A: A.to_sparse_coo(),
    "parts": lambda A: parts_of(A),
}


def matrix(method: str, n: int, dtype: str) -> Any:
    """Return a dense matrix, diagonally dominant, and Hermitian and positive definite where the method needs it."""
    A = random_matrix(n, dtype, 0.5)
    if method not in ("chebyshev", "ssor_cg"):
        return A
    A = A + A.conj().T
    np.fill_diagonal(A, 0)
    return (A + np.diag(1.1 * np.abs(A).sum(axis=1) + 1)).astype(dtype)


def parts_of(A: Any) -> tuple[Any, Any, Any]:
    row, col = A.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(A))
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), col, A[row, col]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("method", METHODS)
def test_solutions_are_those_of_arrays(method: str, dtype: str) -> None:
    A = matrix(method, 12, dtype)
    for (name, layout), k in zip(LAYOUTS.items(), (None, 2, None, 3, 1), strict=True):
        options = METHODS[method]
        stored = csr(A)
        if name == "bsr":  # with zeros in blocks, which are links in coloured orders on tensors alone
            stored = scipy.sparse.bsr_array(A, blocksize=(3, 3))
            options = {key: value for key, value in options.items() if key != "order"}
        shape = (12,) if k is None else (12, k)
        b, x0 = vectors(shape, dtype, 1), None if k is None else vectors(shape, dtype, 2)
        expected = getattr(relax, method)(stored, b, x0, **options)
        start = None if x0 is None else torch.from_numpy(x0.copy())
        found = getattr(fastiter.torch.relax, method)(
            layout(torch.from_numpy(A)), torch.from_numpy(b), start, **options
        )
        assert found.value.dtype == getattr(torch, dtype) and np.all(np.asarray(found.converged))
        assert found.value.numpy().tobytes() == expected.value.tobytes()
        for field in ("steps", "residual", "tolerance", "history"):
            assert np.array_equal(getattr(found, field), getattr(expected, field))
        assert (found.reason, found.method, found.omega) == (expected.reason, method, expected.omega)
        assert start is None or np.array_equal(start, x0)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_any_order(method: str, dtype: str) -> None:
    A, solver = torch.from_numpy(matrix(method, 5, dtype)), getattr(fastiter.torch.relax, method)
    crow, col, values = parts_of(A)
    row = torch.repeat_interleave(torch.arange(5), crow.diff())
    exact = {**METHODS[method], "rtol": 1e-14, "max_steps": 3000}
    for k in (None, 2):
        b = torch.from_numpy(vectors((5,) if k is None else (5, k), dtype, 1)).requires_grad_()
        inputs = (values.clone().requires_grad_(), b)

        def solve(values: Any, b: Any) -> Any:
            return solver((crow, col, values), b, **exact).value

        def direct(values: Any, b: Any) -> Any:
            return torch.linalg.solve(torch.zeros_like(A).index_put((row, col), values), b)

        found = []
        for function in (solve, direct):
            x = function(*inputs)
            first = torch.autograd.grad((x**3).sum().real, inputs, create_graph=True)
            second = torch.autograd.grad(sum((g.conj() * g).sum().real for g in first), inputs)
            found.append([x, *first, *second])
        torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layout", ["csr", "bsr", "coo"])
def test_gradients_reach_a_sparse_tensor(layout: str) -> None:
    dense = torch.from_numpy(random_matrix(6, "float64", 0.5))
    b = torch.from_numpy(vectors((6,), "float64", 1))
    A, own = LAYOUTS[layout](dense).requires_grad_(), dense.clone().requires_grad_()
    x, expected = block_jacobi(A, b, block_size=3, rtol=1e-13).value, torch.linalg.solve(own, b)
    (dA,), (wanted,) = (torch.autograd.grad(y.square().sum(), M) for y, M in ((x, A), (expected, own)))
    of_ones = LAYOUTS[layout](dense)
    of_ones = of_ones.coalesce() if layout == "coo" else of_ones
    of_ones.values().fill_(1)
    inside = of_ones.to_dense() != 0
    torch.testing.assert_close(dA.to_dense(), wanted * inside, rtol=1e-9, atol=1e-9)


def test_the_blocks_of_a_tensor_are_the_default() -> None:
    dense = torch.from_numpy(random_matrix(12, "float64", 0.5))
    b = torch.from_numpy(vectors((12,), "float64", 1))
    for size in (2, 4):
        own = block_jacobi(dense.to_sparse_bsr((size, size)), b)
        assert own.value.equal(block_jacobi(dense.to_sparse_coo(), b, block_size=size).value)
    for A in (dense.to_sparse_bsr((2, 3)), dense.to_sparse_csr(), parts_of(dense)):
        with pytest.raises(ValueError, match=r"^block_jacobi: block_size must be an int if A has no square blocks"):
            block_jacobi(A, b)


def test_kaczmarz_with_a_matrix_of_any_shape() -> None:
    for m, n in ((4, 7), (7, 4)):
        A, x = vectors((m, n), "float64", 1), vectors((n,), "float64", 2)
        expected = relax.kaczmarz(csr(A), A @ x, rtol=1e-10)
        tensor, b = torch.from_numpy(A).to_sparse_csr(), torch.from_numpy(A @ x)
        found = kaczmarz(tensor, b, rtol=1e-10)
        assert found.value.shape == (n,) and np.array_equal(found.value, expected.value)
        order = np.random.default_rng(0).permutation(m)
        found = kaczmarz(tensor, b, order=order, rtol=1e-10)
        assert np.array_equal(found.value, relax.kaczmarz(csr(A), A @ x, order=order, rtol=1e-10).value)
        with pytest.raises(ValueError, match=rf"^kaczmarz: A must be square for a gradient, got shape \({m}, {n}\)$"):
            kaczmarz(tensor, b.requires_grad_())


@pytest.mark.parametrize("method", METHODS)
def test_callbacks_warnings_and_errors_of_the_gradient(method: str) -> None:
    solver, options = getattr(fastiter.torch.relax, method), METHODS[method]
    A = parts_of(torch.from_numpy(matrix(method, 12, "float64")))
    b = torch.from_numpy(vectors((12,), "float64", 1))
    seen: list[Any] = []
    found = solver(A, b, callback=lambda progress: seen.append(progress) or progress.steps >= 2, **options)
    assert found.reason == "callback" and found.steps == 2
    assert all(isinstance(progress, fastiter.Progress) for progress in seen)
    assert seen[-1].value.equal(found.value) and isinstance(seen[-1].value, torch.Tensor)
    with pytest.raises(fastiter.ConvergenceError, match=f"^{method}: .* after 2 steps"):
        solver(A, b, max_steps=2, throw=True, **options)
    assert attempt(solver, A, b, max_steps=2, **options).reason == "max_steps"
    x = attempt(solver, A, b.clone().requires_grad_(), found.value, max_steps=2, **options).value
    with pytest.raises(fastiter.ConvergenceError, match=rf"^{method}: for the gradient, with A\^H for A, .* 2 steps"):
        x.sum().backward()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # and another
def test_compiled_code_calls_them_between_two_graphs() -> None:
    A = parts_of(torch.from_numpy(random_matrix(6, "float64", 0.5)))
    b = torch.from_numpy(vectors((6,), "float64", 1)).requires_grad_()

    def twice(b: Any) -> Any:
        return 2 * kaczmarz(A, b + 1).value

    results = [torch.autograd.grad(f(b).sum(), b)[0] for f in (twice, torch.compile(twice, backend="eager"))]
    assert results[0].equal(results[1])


P = parts_of(torch.from_numpy(matrix("ssor_cg", 4, "float64")))
B = torch.from_numpy(vectors((4,), "float64", 1))
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: kaczmarz((*P[:2], P[2].numpy()), B), TypeError, "kaczmarz: values must be a torch.Tensor"),
    (lambda: kaczmarz(P, B.float()), TypeError, "kaczmarz: b must have dtype torch.float64 like A"),
    (
        lambda: kaczmarz(P, B[:3]),
        ValueError,
        r"kaczmarz: b must have shape \(4,\) or \(4, k\) to go with A, got \(3,\)",
    ),
    (lambda: kaczmarz(P, B, order="color"), ValueError, "kaczmarz: order must be 'natural' or an array of row numbers"),
    (lambda: kaczmarz(P, B, symmetric=1), TypeError, "kaczmarz: symmetric must be a bool, got int"),
    (lambda: kaczmarz(P, B, omega=2.5), ValueError, r"kaczmarz: omega must be in \(0, 2\)"),
    (lambda: kaczmarz(torch.eye(4), B), TypeError, r"kaczmarz: A must be a sparse tensor .*, got a dense one"),
    (
        lambda: chebyshev(P, B, bounds=(2.0, 1.0)),
        ValueError,
        r"chebyshev: bounds must be \(low, high\) with low <= high",
    ),
    (lambda: chebyshev(P, B / 0), ValueError, "chebyshev: b must be finite, got .*inf at index 0"),
    (lambda: chebyshev(torch.ones(4, 3).to_sparse_csr(), B), ValueError, r"chebyshev: A must have shape \(n, n\), got"),
    (lambda: ssor_cg(P, B, B[:3]), ValueError, r"ssor_cg: x0 must have shape \(4,\)"),
    (lambda: ssor_cg(P, B, callback=1), TypeError, "ssor_cg: callback must be callable or None, got int"),
    (lambda: ssor_cg((P[0], P[1] + 1, P[2]), B), ValueError, "ssor_cg: A must have columns from 0 to 3"),
    (lambda: block_jacobi(P, B, block_size=0), ValueError, "block_jacobi: block_size must be at least 1, got 0"),
    (lambda: block_jacobi(P, B, block_size=65), ValueError, "block_jacobi: block_size must be at most 64, got 65"),
]


@pytest.mark.parametrize("case", WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_refused(case: tuple[Callable[[], Any], type[Exception], str]) -> None:
    call, error, match = case
    with pytest.raises(error) as raised:
        call()
    assert re.match(match, str(raised.value)), raised.value
