"""The problems of the family bcd, solvers of other libraries, and the gate: our objective must not be much worse."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.harness.gate import GateError
from bench.harness.peers import load
from fastiter.bcd import LeastSquares, Logistic, LogisticRegression, bcd, lasso_path
from fastiter.bcd._data import Data
from fastiter.bcd._forest import _Blocks
from fastiter.bcd._problem import Quadratic
from fastiter.bcd._sketch import Sketches, _Kaczmarz

#: By how much an objective may exceed the lowest one, relative to the objective at 0
TOLERANCE = 1e-5
POINTS = 50


@dataclass(frozen=True)
class Solver:
    """`solve` returns solutions (k, m), one for each penalty weight of the case."""

    name: str
    solve: Callable[[], Any]
    goal: float | None = None


@dataclass(frozen=True)
class Case:
    """`objective` takes a solution and its index; the first solver is ours."""

    name: str
    objective: Callable[[Any, int], float]
    columns: int
    solvers: list[Solver]


def quiet(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()

    return run


def path(n: int, m: int, density: float, last: float) -> Case:
    """A path of lassos with weights from the largest useful one down to ``last`` times it."""
    rng = np.random.default_rng(0)
    A: Any
    if density == 1:
        A = np.asfortranarray(rng.standard_normal((n, m)))
    else:
        import scipy.sparse as sp

        A = sp.csc_matrix(sp.random_array((n, m), density=density, rng=rng, data_sampler=rng.standard_normal))
        A.indices, A.indptr = A.indices.astype(np.int32), A.indptr.astype(np.int32)
    w = np.zeros(m)
    w[rng.choice(m, min(100, m), replace=False)] = rng.standard_normal(min(100, m))
    b = A @ w
    b = b + 0.3 * rng.standard_normal(n) * np.linalg.norm(b) / np.sqrt(n)
    l1 = np.geomspace(1, last, POINTS) * np.abs(A.T @ b).max()

    def objective(x: Any, k: int) -> float:
        return float(((A @ x - b) ** 2).sum() / 2 + l1[k] * np.abs(x).sum())

    solvers = [Solver("fastiter", lambda: lasso_path(A, b, l1, rtol=1e-6).value)]
    if linear := load("sklearn.linear_model"):
        solvers.append(Solver("scikit-learn", quiet(lambda: linear.lasso_path(A, b, alphas=l1 / n, tol=1e-6)[1].T), 2))
    if celer := load("celer"):
        solvers.append(Solver("celer", quiet(lambda: celer.celer_path(A, b, "lasso", alphas=l1 / n, tol=1e-6)[1].T), 1))
    kind = "dense" if density == 1 else "sparse"
    return Case(f"lasso path, {kind} {n} x {m}", objective, m, solvers)


def nonnegative(n: int, m: int) -> Case:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((n, m))
    b = A @ np.maximum(rng.standard_normal(m), 0) + 10 * rng.standard_normal(n)
    solvers = [Solver("fastiter", lambda: bcd(LeastSquares(A, b, lower=0), rtol=1e-8).value[None])]
    if optimize := load("scipy.optimize"):
        solvers.append(Solver("SciPy nnls", lambda: optimize.nnls(A, b)[0][None], 3))
        solvers.append(Solver("SciPy lsq_linear", lambda: optimize.lsq_linear(A, b, (0, np.inf)).x[None], 3))
    return Case(f"x >= 0, {n} x {m}", lambda x, _: float(((A @ x - b) ** 2).sum() / 2), m, solvers)


def logistic(n: int, m: int, density: float, C: float = 0.5, estimator: bool = False) -> Case:
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    A = sp.csr_matrix(sp.random_array((n, m), density=density, rng=rng, data_sampler=rng.standard_normal))
    A.indices, A.indptr = A.indices.astype(np.int32), A.indptr.astype(np.int32)
    w = np.zeros(m)
    w[: m // 500 + 1] = 3 * rng.standard_normal(m // 500 + 1)
    y = (A @ w + 0.5 * rng.standard_normal(n) > 0).astype(np.int64)

    def objective(x: Any, _: int) -> float:
        z = A @ x
        return float((np.logaddexp(0, z) - y * z).sum() + np.abs(x).sum() / C)

    def peer(linear: Any) -> Any:
        model = linear.LogisticRegression(C=C, l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-4)
        return model.fit(A, y).coef_

    def ours() -> Any:
        if estimator:
            return LogisticRegression(C=C, fit_intercept=False, tol=2e-3).fit(A, y).coef_
        return bcd(Logistic(A, y, l1=1 / C), blocks=m, update="newton", rtol=2e-3).value[None]

    solvers = [Solver("fastiter", ours)]
    if linear := load("sklearn.linear_model"):
        solvers.append(Solver("LIBLINEAR", quiet(lambda: peer(linear)), 2))
    name = "LogisticRegression(penalty='l1')" if estimator else f"logistic l1, sparse {n} x {m}"
    return Case(name, objective, m, solvers)


FULL: tuple[Callable[[], Case], ...] = (
    lambda: path(5000, 10_000, 1, 0.1),
    lambda: path(20_000, 100_000, 1e-3, 0.05),
    lambda: logistic(20_000, 100_000, 1e-3),
    lambda: logistic(20_000, 100_000, 1e-3, estimator=True),
    lambda: nonnegative(2000, 1000),
)
QUICK: tuple[Callable[[], Case], ...] = (
    lambda: path(60, 200, 1, 0.1),
    lambda: logistic(200, 300, 0.05),
    lambda: logistic(200, 600, 0.05, estimator=True),
    lambda: nonnegative(60, 20),
)


def checked(case: Case, solutions: Mapping[str, Any]) -> dict[str, float]:
    """Return by how much each solver's objectives exceed the lowest; raise if ours exceed it by too much."""
    values = {name: np.array([case.objective(x, k) for k, x in enumerate(rows)]) for name, rows in solutions.items()}
    lowest = np.min(list(values.values()), axis=0)
    scale = case.objective(np.zeros(case.columns), 0)
    excess = {name: float((each - lowest).max() / scale) for name, each in values.items()}
    if not excess["fastiter"] <= TOLERANCE:
        raise GateError(f"{case.name}: the objective is {excess['fastiter']:.1e} too high, more than {TOLERANCE:.0e}")
    return excess


def lattices(side: int) -> Iterator[tuple[str, int, Callable[[], object], int]]:
    """Yield the name, the number of blocks, a sweep over them, and the bytes that it must move."""
    import scipy.sparse as sp

    line = sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(side, side))
    W = sp.csr_array(sp.kron(sp.eye_array(side), line) + sp.kron(line, sp.eye_array(side)))
    A = sp.csr_array(sp.diags_array(W.sum(axis=1) + 0.01) - W)
    node = np.arange(side * side)
    row, column = node % side, node // side
    combs = np.where((row == side - 1) | ((row != 0) & (column % 2 == 1)), 0, 1)
    problem = Quadratic(A, np.ones(side * side))
    for name, member in (("red-black", "red-black"), ("trees", "trees"), ("combs", combs)):
        blocks = _Blocks("bench", problem, member, None)
        x = np.zeros(side * side)
        inside = _links_inside(W, combs) if name == "combs" else 0 if name == "red-black" else _links_inside(W, None)
        # Entries outside the blocks; per node its index, pivot, start, b, and x read and written; for trees also the
        # parent, the ratio, and the work array written and read
        nbytes = 12 * (W.nnz - inside) + len(x) * (4 + 8 + 8 + 8 + 16 + (4 + 8 + 16) * (name != "red-black"))
        yield name, blocks.count, lambda blocks=blocks, x=x: blocks.step(x, x, blocks.count), nbytes  # type: ignore[misc]


def _links_inside(W: Any, member: Any) -> int:
    """Return the number of entries within blocks; without blocks, that of a spanning forest, which is the maximum."""
    if member is None:
        return int(2 * (W.shape[0] - 1))
    links = W.tocoo()
    return int((member[links.coords[0]] == member[links.coords[1]]).sum())


@dataclass(frozen=True)
class Steps:
    """Kaczmarz steps: `count` of ours or `loops` of NumPy's per call; `read` multiplies x by `count` rows in order."""

    name: str
    ours: Callable[[], object]
    loop: Callable[[], object]
    read: Callable[[], object]
    count: int
    loops: int


def kaczmarz(m: int, n: int, dtype: str) -> Steps:
    """Steps on rows with n unknowns, sampled by their norms; sampling is included."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((m, n)).astype(dtype)
    b = A.astype(np.float64) @ np.ones(n)
    steps = _Kaczmarz(Data("bench", "A", A), b, Sketches("kaczmarz", 1, rng))
    squares = (A.astype(np.float64) ** 2).sum(axis=1)
    p, x, count, loops = squares / squares.sum(), np.zeros(n), 20_000, 500
    if not np.allclose(_after(steps, 100 * m, n), 1, atol=1e-2) and m >= 2 * n:
        raise GateError("kaczmarz: the steps do not tend to the solution")

    def loop() -> None:
        y = np.zeros(n)
        for _ in range(loops):
            i = rng.choice(m, p=p)
            y += (b[i] - A[i] @ y) / squares[i] * A[i]

    rows, sums = max(count // m, 1) * m, np.zeros(m)
    read = lambda: [steps._rows.matrix.products(x, sums) for _ in range(rows // m)]  # noqa: E731
    return Steps(f"{m} rows of {n}, {dtype}", lambda: steps.run(x, rows), loop, read, rows, loops)


def _after(steps: _Kaczmarz, count: int, n: int) -> Any:
    x = np.zeros(n)
    steps.run(x, count)
    return x
