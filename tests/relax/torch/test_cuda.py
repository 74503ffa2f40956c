"""The CUDA kernels of relaxation against the CPU kernels: every method, format and dtype, in one launch or several."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy.sparse")

import fastiter  # noqa: E402
from fastiter import BackendError  # noqa: E402
from fastiter.relax import Relaxation, Stencil  # noqa: E402
from fastiter.relax._sweeps.order import Arrangement, arrange  # noqa: E402
from fastiter.relax._sweeps.prepare import read_csr  # noqa: E402
from fastiter.relax._torch import cuda, ops, ops_cuda, solvers, sweeps  # noqa: E402
from fastiter.relax._torch.layouts import slices_of  # noqa: E402
from tests.relax.cases import attempt, bipartite, csr, random_matrix, tolerance, vectors  # noqa: E402
from tests.relax.gpu import APART, TOGETHER, Gpu, folder_of, solve_by, stand_in  # noqa: E402
from tests.support.cases import Array  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|BSR) tensor support:UserWarning")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory)


@pytest.fixture
def gpu(device: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Return the device, with uninitialised memory filled with NaN."""
    if device == "cpu":
        stand_in(monkeypatch, programs)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield Gpu(device)
    torch.use_deterministic_algorithms(False)


def assert_near(actual: Any, expected: Array, n: int, what: object = "") -> None:
    found = actual.cpu().numpy()
    assert found.dtype == expected.dtype, what
    scale = np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(found.dtype, n) * scale, err_msg=str(what))


def check_sweeps(gpu: Gpu, A: Any, method: str, shape: tuple[int, ...], dtype: str, **how: Any) -> None:
    """Assert that forward and backward sweeps and the residual equal the CPU's; b may be strided."""
    ours, cpu = gpu.relaxation(A, method, **how), Relaxation(A, method, **how)
    what, n = (method, shape, dtype, how), shape[0]
    assert (ours.colors, ours.omega, ours.shape) == (cpu.colors, cpu.omega, cpu.shape)
    b, x = vectors(shape, dtype, 1), vectors(shape, dtype, 2)
    wide = gpu.tensor(np.repeat(b, 2, axis=-1))[..., ::2]
    for count, backward in ((2, False), (1, True)):
        if backward and method != "sor":
            continue
        expected, actual = x.copy(), gpu.tensor(x)
        cpu.sweep(expected, b, count, backward=backward)
        ours.sweep(actual, wide, count, backward=backward)
        assert_near(actual, expected, n, what)
    assert_near(ours.residual(gpu.tensor(x), wide), cpu.residual(x, b), n, what)


NUMBERS = [("float32", "float32", 3), ("float32", "float64", None), ("float64", "float64", None)]
NUMBERS += [("float64", "float64", 5), ("complex128", "complex128", 2)]


@pytest.mark.parametrize(("stored", "dtype", "k"), NUMBERS)
def test_rows(stored: str, dtype: str, k: int | None, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    for n, apart in ((70, TOGETHER), *([] if k is None else [(9, APART)]), *([(1, TOGETHER)] if k == 3 else [])):
        monkeypatch.setattr(cuda, "APART", apart)
        shape = (n,) if k is None else (n, k)
        A = csr(random_matrix(n, stored), np.int64)
        check_sweeps(gpu, A, "sor", shape, dtype, omega=1.3, order="color")
        check_sweeps(gpu, A, "jacobi", shape, dtype, omega=0.8)
        check_sweeps(gpu, csr(bipartite(n, stored)), "ssor", shape, dtype, omega=1.1, order="red-black")
    check_sweeps(gpu, A, "gauss_seidel", shape, dtype, order="color", symmetric=True)


def test_one_launch_and_many_have_the_same_bits(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    s = Stencil((7, 9), np.array([4.0, -1, -1, -1, -1]))
    for matrix, shape, order in ((csr(random_matrix(70, "float64")), (70,), "color"), (s, (7, 9), "red-black")):
        found, b = [], gpu.tensor(vectors(shape, "float64", 1))
        for apart in (TOGETHER, APART):
            monkeypatch.setattr(cuda, "APART", apart)
            found.append(gpu.tensor(vectors(shape, "float64", 2)))
            gpu.relaxation(matrix, "ssor", omega=1.3, order=order).sweep(found[-1], b, 2)
        assert torch.equal(*found)


def test_rows_of_very_different_lengths(gpu: Gpu) -> None:
    A = random_matrix(150, "float64", 0.02)
    A[0], A[75, :60], A[1, 2:] = 0.1, 0.2, 0
    A[np.arange(150), np.arange(150)] = 25
    for method, order in (("sor", "color"), ("jacobi", "natural")):
        check_sweeps(gpu, csr(A), method, (150,), "float64", order=order)
    diagonal = csr(np.diag(np.arange(1.0, 40)))
    check_sweeps(gpu, diagonal, "sor", (39,), "float64", omega=1.5, order="color")


def test_every_entry_has_a_position() -> None:
    rng = np.random.default_rng(0)
    for n, density, order in itertools.product((1, 31, 33, 200), (0.0, 0.1, 0.9), ("color", "jacobi")):
        A = csr(random_matrix(n, "float64", density) * (rng.random((n, 1)) < 0.5) + np.eye(n))
        checked = read_csr("test", A)
        how = Arrangement() if order == "jacobi" else arrange("test", checked, order)
        found = slices_of(checked.start, checked.column, how, jacobi=order == "jacobi")
        used = np.concatenate([found.entry[found.entry >= 0], found.diagonal[found.diagonal >= 0]])
        assert np.array_equal(np.sort(used), np.arange(A.nnz))
        assert found.colours[-1] == len(found.slice_row) - 1
        assert np.diff(found.slice_row).max() <= 32
        assert found.slice_entry[-1] == len(found.column) == len(found.entry)
        assert found.column.min(initial=0) >= 0 and found.column.max(initial=0) < n


@pytest.mark.parametrize("size", [1, 3, 4, 5, 33])
def test_blocks(size: int, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 70 if size == 33 else 37
    A = csr(random_matrix(n, "float64"))
    options: dict[str, Any] = {"block_size": size}
    check_sweeps(gpu, A, "sor", (n,), "float64", omega=1.2, order="color", **options)
    if size != 33:
        check_sweeps(gpu, A, "ssor", (n, 3), "float64", omega=1.2, order="color", **options)
    monkeypatch.setattr(cuda, "APART", APART)
    check_sweeps(gpu, A, "block_jacobi", (n,), "float64", omega=0.9, **options)


@pytest.mark.parametrize(("stored", "dtype", "k"), [NUMBERS[0], NUMBERS[1], NUMBERS[4]])
def test_blocks_of_other_dtypes(stored: str, dtype: str, k: int | None, gpu: Gpu) -> None:
    bsr = csr(random_matrix(24, stored)).tobsr((2, 2))
    shape = (24,) if k is None else (24, k)
    check_sweeps(gpu, bsr, "block_gauss_seidel", shape, dtype, order="color")
    check_sweeps(gpu, bsr, "gauss_seidel", shape, dtype, order="color")  # without blocks, rows


GRIDS = [(1, 1), (9, 1), (3, 37), (12, 20), (2, 3, 4), (3, 5, 33)]


def stencils(dtype: str) -> Iterator[Stencil]:
    rng = np.random.default_rng(0)
    for grid, is_constant in itertools.product(GRIDS, (True, False)):
        shape = (2 * len(grid) + 1, *(() if is_constant else grid))
        c = rng.uniform(-1.0, 1.0, shape)
        c[0] = 7.5
        yield Stencil(grid, c.astype(dtype), rng.random(grid) < 0.8 if len(grid) == 3 or grid[0] == 12 else None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stencils(dtype: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, s in enumerate(stencils(dtype)):
        monkeypatch.setattr(cuda, "APART", (TOGETHER, APART)[i % 4 == 3])
        check_sweeps(gpu, s, "jacobi", s.grid, dtype, omega=0.9)
        check_sweeps(gpu, s, "sor", s.grid, dtype, omega=1.3, order="red-black")
        if i > 7:
            check_sweeps(gpu, s, "ssor", s.grid, dtype, order="color")


def test_solutions(gpu: Gpu) -> None:
    options: dict[str, Any] = {"rtol": 1e-9, "check_every": 4}
    A, b = csr(random_matrix(37, "float64")), vectors((37, 2), "float64", 1)
    s = Stencil((5, 6), np.array([4.0, -1, -1, -1, -1]), np.random.default_rng(0).random((5, 6)) < 0.9)
    cases = [
        (A, b, "sor", "color"),
        (A, b[:, 0], "jacobi", "natural"),
        (s, b[:30, 0].reshape(5, 6), "ssor", "red-black"),
    ]
    for matrix, rhs, method, order in cases:
        x0 = vectors(rhs.shape, "float64", 3)
        expected = Relaxation(matrix, method, order=order).solve(rhs, x0, **options)
        ours = gpu.relaxation(matrix, method, order=order)
        actual = ours.solve(gpu.tensor(rhs), gpu.tensor(x0), **options)
        np.testing.assert_allclose(actual.value.cpu(), expected.value, rtol=0, atol=1e-8)
        np.testing.assert_allclose(actual.history, expected.history, rtol=1e-3)
        assert np.array_equal(actual.steps, expected.steps)
        assert (actual.reason, actual.method, actual.omega) == (expected.reason, expected.method, expected.omega)
        assert np.all(np.asarray(actual.converged)) and actual.value.device.type == gpu.device


def test_adaptive_omega(gpu: Gpu) -> None:
    s = Stencil((9, 8), np.array([4.0, -1, -1, -1, -1]))
    b, how = np.ones((9, 8)), {"omega": "auto", "order": "red-black"}
    expected = Relaxation(s, "sor", **how).solve(b)
    actual = gpu.relaxation(s, "sor", **how).solve(gpu.tensor(b))
    assert actual.steps == expected.steps and actual.omega == pytest.approx(expected.omega, rel=1e-6)


def test_failed_solutions(gpu: Gpu) -> None:
    A = csr(np.array([[1.0, 3.0], [3.0, 1.0]]))
    ours = gpu.relaxation(A, "gauss_seidel", order="color")
    b = gpu.tensor(np.ones(2))
    assert attempt(ours.solve, b).reason == "diverged"
    assert attempt(ours.solve, b, max_steps=2).reason == "max_steps"
    assert attempt(ours.solve, b, max_steps=0).steps == 0
    with pytest.raises(ValueError, match=r"^Relaxation.solve: b must be finite, got inf at index 0$"):
        ours.solve(b / 0)
    stopped = attempt(ours.solve, b, callback=lambda progress: progress.value.shape == (2,) and progress.steps == 2)
    assert (stopped.reason, stopped.steps) == ("callback", 2)
    large = gpu.relaxation(csr(np.array([[2.0, 1.0], [0.0, 2.0]])), "gauss_seidel", order="color")
    found = large.solve(b * 1e250)  # values whose squares overflow
    assert found.reason == "converged" and found.history[0] == pytest.approx(2**0.5 * 1e250)
    assert large.solve(b * 0).steps == 0
    empty = gpu.relaxation(csr(np.zeros((0, 0))), "sor", order="color")
    assert empty.solve(gpu.tensor(np.zeros((0, 2)))).converged.all()
    assert large.residual(*(gpu.tensor(np.ones((2, 0))),) * 2).shape == (2, 0)


def test_sums_of_norms(gpu: Gpu) -> None:
    parts = vectors((5000, 2), "float64")
    np.testing.assert_allclose(cuda.sums_of(gpu.tensor(parts)).cpu(), parts.sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers(sanitizer: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, programs, sanitizer)
    gpu, A = Gpu("cpu"), csr(random_matrix(70, "float64"))
    k = 3 if sanitizer == "address" else None
    shape, dtype = (70,) if k is None else (70, k), "float64"
    check_sweeps(gpu, A, "sor", shape, dtype, order="color")
    check_sweeps(gpu, A, "jacobi", shape, dtype)
    check_sweeps(gpu, A, "sor", shape, dtype, order="color", block_size=3)
    for s in itertools.islice(stencils(dtype), 4, 12, 3):
        check_sweeps(gpu, s, "sor", s.grid, dtype, order="red-black")
        check_sweeps(gpu, s, "jacobi", s.grid, dtype)


# ---- Solutions and sweeps with gradients ----------------------------------------------------------------------------

METHODS: list[tuple[str, str, str, int | None]] = [
    ("jacobi", "natural", "complex128", 2),
    ("gauss_seidel", "color", "float64", None),
    ("sor", "red-black", "complex128", 2),
    ("ssor", "color", "float64", None),
]


def problem(gpu: Gpu, n: int, dtype: str, k: int | None, order: str, seed: int = 0) -> tuple[Any, ...]:
    """Return values with unsorted and some duplicate entries, their pattern, b, and an initial x."""
    A = csr(bipartite(n, dtype) if order == "red-black" else random_matrix(n, dtype, 0.5))
    row = np.repeat(np.arange(n), np.diff(A.indptr))
    halved = np.random.default_rng(seed).random(A.nnz) < 0.2
    row, col = np.concatenate([row, row[halved]]), np.concatenate([A.indices, A.indices[halved]])
    values = np.concatenate([A.data * np.where(halved, 0.5, 1), A.data[halved] * 0.5])
    place = np.lexsort((-col, row))
    crow = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))])
    pattern = torch.from_numpy(crow), torch.from_numpy(col[place].astype(np.int64))
    shape = (n,) if k is None else (n, k)
    return gpu.tensor(values[place].astype(dtype)), pattern, *(gpu.tensor(vectors(shape, dtype, i)) for i in (1, 2))


@pytest.mark.parametrize(("method", "order", "dtype", "k"), METHODS)
def test_gradients_are_those_of_the_cpu(
    method: str, order: str, dtype: str, k: int | None, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, pattern, b, x = problem(gpu, 9, dtype, k, order)
    omega = torch.tensor(1.0 if method == "gauss_seidel" else 1.2, dtype=torch.float64)

    def results(device: str) -> list[Any]:
        own = [t.detach().to(device).requires_grad_() for t in (x, b, values, omega)]
        how: dict[str, Any] = {"method": method, "order": order}
        after = fastiter.torch.relax.sweeps((*pattern, own[2]), own[1], own[0], omega=own[3], sweeps=3, **how)
        solution = solve_by((*pattern, own[2]), own[1], **how, rtol=1e-13, check_every=20)
        (after.abs().square().sum() + solution.value.abs().square().sum()).backward()
        assert np.all(np.asarray(solution.converged))
        return [after.detach(), solution.value.detach(), *(t.grad for t in own)]

    actual = results(gpu.device)
    monkeypatch.setattr(solvers, "_relax_solve", ops.relax_solve)
    monkeypatch.setattr(sweeps, "relax_sweeps", ops.relax_sweeps)
    monkeypatch.setattr(sweeps, "relax_sweeps_bwd", ops.relax_sweeps_bwd)
    for found, expected in zip(actual, results("cpu"), strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-10)


def test_gradients(gpu: Gpu) -> None:
    values, pattern, b, x = problem(gpu, 4, "float64", None, "color")
    omega = torch.tensor(1.1, dtype=torch.float64, device=gpu.device)

    def run(x: Any, b: Any, values: Any, omega: Any) -> Any:
        return fastiter.torch.relax.sweeps((*pattern, values), b, x, omega=omega, sweeps=2, order="color")

    def solve(values: Any, b: Any) -> Any:
        how: dict[str, Any] = {"order": "color", "rtol": 1e-13, "check_every": 25}
        return fastiter.torch.relax.sor((*pattern, values), b, x.detach(), **how).value

    inputs = [t.requires_grad_() for t in (x, b, values, omega)]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(solve, (values, b), fast_mode=True)


def test_sweeps_without_a_sweep_or_a_column(gpu: Gpu) -> None:
    values, pattern, b, x = problem(gpu, 5, "float64", 2, "color")
    assert torch.equal(fastiter.torch.relax.sweeps((*pattern, values), b, x, omega=1.2, sweeps=0, order="color"), x)
    assert fastiter.torch.relax.sweeps(
        (*pattern, values), b[:, :0], x[:, :0], omega=1.2, sweeps=2, order="color"
    ).shape == (
        5,
        0,
    )


def test_a_pattern_is_laid_out_once(gpu: Gpu) -> None:
    values, pattern, b, x = problem(gpu, 7, "float64", None, "color")
    plans = []
    for v in (values, 2 * values):
        fastiter.torch.relax.sweeps((*pattern, v), b, x, omega=1.2, sweeps=1, order="color")
        plans.append(ops_cuda._plans[0])
    assert plans[0] is plans[1]
    fastiter.torch.relax.sweeps((*pattern, values), b, x, omega=1.2, sweeps=1, method="jacobi")
    assert ops_cuda._plans[0] is not plans[0] and ops_cuda._plans[1] is plans[0]


def test_refused_by_the_functions(gpu: Gpu) -> None:
    values, (crow, col), b, x = problem(gpu, 5, "float64", None, "color")
    sweeps, solve = fastiter.torch.relax.sweeps, fastiter.torch.relax.sor
    how: dict[str, Any] = {"order": "color"}
    wrong: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: solve((crow, col, values), b), BackendError, "sor: order must be 'color' or 'red-black' on"),
        (lambda: sweeps((crow, col, values), b, x, omega=1.1), BackendError, "sweeps: order must be 'color'"),
        (lambda: sweeps((crow, col, values), b, x, omega=2.5, **how), ValueError, r"sweeps: omega must be in \(0, 2\)"),
        (lambda: solve((crow, col, values), b, omega=2.5, **how), ValueError, r"omega must be in \(0, 2\)"),
        (lambda: solve((crow, col, values * 0), b, **how), ValueError, "no zero on the diagonal, got 0 in row 0"),
        (lambda: solve((crow, col, values / 0), b, **how), ValueError, "A must be finite, got a value in row 0"),
        (lambda: solve((crow.clamp(max=len(col) - 1), col[:-1], values[:-1]), b, **how), ValueError, "no zero on the"),
        (lambda: solve((crow, col + 1, values), b, **how), ValueError, "A must have columns from 0 to 4"),
        (lambda: solve((crow, col, values), b / 0, **how), ValueError, "sor: b must be finite, got .*inf at"),
    ]
    for call, error, match in wrong:
        with pytest.raises(error, match=match):
            call()


# ---- errors ---------------------------------------------------------------------------------------------------------

GOOD = csr(random_matrix(6, "float64"))
S, CS = (Stencil((3, 4), np.array([4.0, -1, -1, -1, -1], dtype)) for dtype in ("f8", "c16"))
ZERO = csr(np.array([[0.0, 1.0], [1.0, 1.0]]))
WRONG: list[tuple[Callable[[Gpu], Any], type[Exception], str]] = [
    (lambda g: g.relaxation(GOOD, "sor"), BackendError, "order must be 'color' or 'red-black' on a GPU.*'natural'"),
    (lambda g: g.relaxation(GOOD, "ssor", order="cluster"), BackendError, "order must be 'color'.*got 'cluster'"),
    (lambda g: g.relaxation(S, "sor"), BackendError, "order must be 'color' or 'red-black'"),
    (lambda g: g.relaxation(CS, "sor", order="color"), BackendError, "A must have real coeff.* on a GPU .*complex128"),
    (lambda g: g.relaxation(GOOD, "kaczmarz"), BackendError, "order must be 'color' for kaczmarz on a GPU"),
    (lambda g: g.relaxation(GOOD, "sor", backend="cpu"), BackendError, "backend must go with the device of A"),
    (lambda g: g.relaxation(S, "jacobi", backend="gpu"), ValueError, "backend must be None, 'cpu' or 'cuda'"),
    (
        lambda g: fastiter.torch.relax.Relaxation(g.tensor(np.eye(2))),
        TypeError,
        "A must be a sparse tensor or a Stencil",
    ),
    (lambda g: fastiter.torch.relax.Relaxation(np.eye(2)), TypeError, "sparse tensor .* got numpy.ndarray"),
    (lambda g: g.relaxation(GOOD.astype("f8")[:5], "jacobi"), ValueError, "A must be square"),
    (lambda g: g.relaxation(ZERO, "jacobi"), ValueError, "no zero on the diagonal, got 0 in row 0"),
    (lambda g: g.relaxation(csr(np.diag([1.0, 0.0])), "sor", order="color"), ValueError, "got 0 in row 1"),
    (
        lambda g: g.relaxation(csr(np.diag([np.inf, 1.0])), "jacobi"),
        ValueError,
        "A must be finite, got a value in row 0",
    ),
    (lambda g: g.relaxation(csr(np.ones((2, 2))), "block_jacobi", block_size=2), ValueError, "singular block"),
    (lambda g: jacobi(g).sweep(np.ones(6), ones(g, 6)), TypeError, "x must be a dense torch.Tensor, got numpy.ndarray"),
    (lambda g: jacobi(g).sweep(ones(g, 6).float(), ones(g, 6)), TypeError, "x must have dtype float64 to go with A"),
    (lambda g: jacobi(g).sweep(ones(g, 5), ones(g, 6)), ValueError, r"x must have shape \(6,\) like b, got \(5,\)"),
    (lambda g: jacobi(g).sweep(ones(g, 6), ones(g, 6), -1), ValueError, "sweeps must be at least 0, got -1"),
    (lambda g: jacobi(g).sweep(ones(g, 6).requires_grad_(), ones(g, 6)), ValueError, "must not require a gradient"),
    (lambda g: jacobi(g).sweep(ones(g, 6).to("meta"), ones(g, 6)), BackendError, "x must be on device .*, got meta"),
    (lambda g: jacobi(g).sweep(*(ones(g, 6),) * 2), ValueError, "x must not share memory with b, got overlapping"),
    (lambda g: jacobi(g).solve(ones(g, 1, 6)), ValueError, r"b must have shape \(6,\) or \(6, k\) to go with A"),
    (lambda g: jacobi(g).solve(ones(g, 6), rtol=-1.0), ValueError, "rtol must be finite and at least 0"),
    (lambda g: g.relaxation(S, "jacobi").solve(ones(g, 12)), ValueError, r"b must have shape \(3, 4\) to go with A"),
    (lambda g: g.relaxation(S, "jacobi").solve(ones(g, 3, 4).to("meta")), BackendError, "b must be on one GPU"),
]


def ones(gpu: Gpu, *shape: int) -> Any:
    return gpu.tensor(np.ones(shape))


def jacobi(gpu: Gpu) -> Any:
    return gpu.relaxation(GOOD, "jacobi")


@pytest.mark.parametrize("case", WRONG, ids=[f"{i}-{match[:40]}" for i, (_, _, match) in enumerate(WRONG)])
def test_refused(case: tuple[Callable[[Gpu], Any], type[Exception], str], gpu: Gpu) -> None:
    call, error, match = case
    with pytest.raises(error) as raised:
        call(gpu)
    message = str(raised.value)
    assert re.search(match, message), message
    assert re.fullmatch(r"[A-Za-z_.]+: \w+ must .+[,;] got .+", message), message
