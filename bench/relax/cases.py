"""The contests of the family relax: one sweep of ours against one of a peer's, on matrices of the usual grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.harness.gate import GateError
from fastiter.relax import Relaxation, Stencil

Array = Any
SWEEPS = 4  # per call, for all competitors
FULL, QUICK = (
    {"P2D": (1024, 1024), "P3D": (100, 100, 100), "blocks": (512, 512)},
    {
        "P2D": (48, 48),
        "P3D": (12, 12, 12),
        "blocks": (24, 24),
    },
)
OMEGA = 1.5


@dataclass
class Contest:
    """`ours` may have several variants, of which the fastest counts; `sweeps` is the number per call."""

    name: str
    peer: str
    their_call: Callable[[], object]
    their_sweeps: int
    ours: Mapping[str, Callable[[], object]]
    our_sweeps: int
    check: Callable[[], float]
    goals: Mapping[int, float]
    nbytes: int = 0  # bytes that a sweep must move; 0 if that is not of interest


def difference(name: str, actual: Array, expected: Array) -> float:
    """Raise if the results differ by more than rounding."""
    worst = float(abs(actual - expected).max() / abs(expected).max())
    if not worst < 1e-10:
        raise GateError(f"{name}: x is off by {worst:.1e} of its largest value")
    return worst


class Case:
    """A matrix with vectors, and the peers' modules."""

    def __init__(self, A: Any) -> None:
        rng = np.random.default_rng(0)
        self.A, self.n = A, A.shape[0]
        self.b, self.x, self.y = rng.standard_normal(self.n), np.zeros(self.n), np.zeros(self.n)

    @property
    def nbytes(self) -> int:
        return 12 * self.A.nnz + 24 * self.n

    def sweep(self, relaxation: Relaxation) -> Callable[[], None]:
        return partial(relaxation.sweep, self.x, self.b, SWEEPS)

    def swept(self, relaxation: Relaxation, sweeps: int = 2) -> Array:
        x = np.zeros(self.n)
        relaxation.sweep(x, self.b, sweeps)
        return x


def order_of(relaxation: Relaxation) -> Array:
    """The permutation of an order; 0 for the natural one."""
    return relaxation._system.arrangement.order  # type: ignore[attr-defined]


def scalar_contests(case: Case, grid: str, goals: Mapping[str, Mapping[int, float]]) -> Iterator[Contest]:
    """pyamg's sor, gauss_seidel and jacobi on CSR."""
    from pyamg.relaxation import relaxation as theirs

    A, b, y = case.A, case.b, case.y
    for name, omega in (("sor", OMEGA), ("gauss_seidel", 1.0)):
        ways = {order: Relaxation(A, "sor", omega=omega, order=order) for order in ("natural", "color")}

        def check(name: str = name, omega: float = omega, ways: dict[str, Relaxation] = ways) -> float:
            worst = 0.0
            for order, relaxation in ways.items():
                rows = order_of(relaxation) if order == "color" else np.arange(case.n)
                permuted, z = A[rows][:, rows], np.zeros(case.n)
                theirs.gauss_seidel(permuted, z, b[rows], iterations=2, omega=omega)
                worst = max(worst, difference(f"{name}, {order}", case.swept(relaxation)[rows], z))
            return worst

        call = partial(theirs.gauss_seidel, A, y, b, iterations=SWEEPS)
        if name == "sor":
            call = partial(theirs.sor, A, y, b, omega, iterations=SWEEPS)
        ours = {order: case.sweep(relaxation) for order, relaxation in ways.items()}
        yield Contest(f"{name}, {grid}", f"pyamg {name}", call, SWEEPS, ours, SWEEPS, check, goals[name], case.nbytes)
    jacobi = Relaxation(A, "jacobi", omega=0.8)

    def check_jacobi() -> float:
        z = np.zeros(case.n)
        theirs.jacobi(A, z, b, iterations=2, omega=0.8)
        return difference("jacobi", case.swept(jacobi), z)

    call = partial(theirs.jacobi, A, y, b, iterations=SWEEPS, omega=0.8)
    ours = {"": case.sweep(jacobi)}
    yield Contest(
        f"jacobi, {grid}", "pyamg jacobi", call, SWEEPS, ours, SWEEPS, check_jacobi, goals["jacobi"], case.nbytes
    )


def other_contests(case: Case, grid: tuple[int, ...]) -> Iterator[Contest]:
    """Matrix-free, with eight right-hand sides, against a triangular solver, and projections; on the 2-D grid."""
    import scipy.sparse.linalg
    from pyamg.relaxation import relaxation as theirs

    A, b, y = case.A, case.b, case.y
    stencil = Relaxation(Stencil(grid, np.array([4.0, -1, -1, -1, -1])), "sor", omega=OMEGA, order="red-black")
    matrix = Relaxation(A, "sor", omega=OMEGA, order="red-black")
    wide_b, wide_x = b.reshape(grid), np.zeros(grid)

    def check_stencil() -> float:
        x = np.zeros(grid)
        stencil.sweep(x, wide_b, 2)
        return difference("stencil", x.ravel(), case.swept(matrix))

    call = partial(theirs.sor, A, y, b, OMEGA, iterations=SWEEPS)
    ours = {"": partial(stencil.sweep, wide_x, wide_b, 5 * SWEEPS)}
    yield Contest("sor without a matrix", "pyamg sor", call, SWEEPS, ours, 5 * SWEEPS, check_stencil, {2: 25.0})

    natural = Relaxation(A, "sor", omega=OMEGA)
    many_b = np.repeat(b[:, None], 8, axis=1)
    many_x = np.zeros_like(many_b)

    def check_columns() -> float:
        x = np.zeros_like(many_b)
        natural.sweep(x, many_b, 2)
        return difference("8 columns", x[:, 7], case.swept(natural))

    ours = {"": partial(natural.sweep, many_x, many_b, SWEEPS)}
    call = partial(theirs.sor, A, y, b, OMEGA, iterations=SWEEPS)
    name = "sor, 8 right-hand sides"
    yield Contest(name, "pyamg sor, one by one", call, SWEEPS, ours, 8 * SWEEPS, check_columns, {1: 5.0, 2: 5.0})

    lower = scipy.sparse.tril(A, format="csr")
    one = Relaxation(A, "gauss_seidel")
    ways = {"natural": one, "color": Relaxation(A, "gauss_seidel", order="color")}

    def check_triangle() -> float:
        return difference("triangle", case.swept(one, 1), scipy.sparse.linalg.spsolve_triangular(lower, b))

    call = partial(scipy.sparse.linalg.spsolve_triangular, lower, b)
    ours = {order: case.sweep(relaxation) for order, relaxation in ways.items()}
    name = "one gauss_seidel sweep"
    yield Contest(
        name, "scipy spsolve_triangular", call, 1, ours, SWEEPS, check_triangle, {1: 12.0, 2: 24.0}, case.nbytes
    )

    rows = Relaxation(A, "kaczmarz")

    def check_rows() -> float:
        z = np.zeros(case.n)
        theirs.gauss_seidel_ne(A, z, b, iterations=2)
        return difference("kaczmarz", case.swept(rows), z)

    call = partial(theirs.gauss_seidel_ne, A, y, b, iterations=1)
    yield Contest("kaczmarz", "pyamg gauss_seidel_ne", call, 1, {"": case.sweep(rows)}, SWEEPS, check_rows, {1: 1.5})


def block_contests(case: Case) -> Iterator[Contest]:
    """BSR with blocks of 4."""
    from pyamg.relaxation import relaxation as theirs
    from pyamg.util.utils import get_block_diag

    A, b, y = case.A, case.b, case.y
    inverse = get_block_diag(A, blocksize=4, inv_flag=True)
    for name, method in (("block_gauss_seidel", "block_gauss_seidel"), ("block_jacobi", "block_jacobi")):
        orders = ("natural", "color") if method == "block_gauss_seidel" else ("natural",)
        ways = {order: Relaxation(A, method, order=order) for order in orders}
        function = partial(getattr(theirs, name), blocksize=4, Dinv=inverse)

        def check(function: Any = function, ways: dict[str, Relaxation] = ways, name: str = name) -> float:
            z = np.zeros(case.n)
            function(A, z, b, iterations=2)
            return difference(name, case.swept(ways["natural"]), z)

        call = partial(function, A, y, b, iterations=SWEEPS)
        ours = {order: case.sweep(relaxation) for order, relaxation in ways.items()}
        yield Contest(f"{name}, BSR 4", f"pyamg {name}", call, SWEEPS, ours, SWEEPS, check, {1: 2.4, 2: 4.0})


GOALS_2D = {"sor": {1: 1.8, 2: 3.5}, "gauss_seidel": {1: 1.5, 2: 3.0}, "jacobi": {1: 1.2, 2: 2.0}}
GOALS_3D = {"sor": {1: 1.5, 2: 2.9}, "gauss_seidel": {1: 1.35, 2: 2.6}, "jacobi": {1: 1.2, 2: 2.0}}


def contests(quick: bool) -> Iterator[Contest]:
    """Every row of the table; each matrix is freed before the next one is built."""
    import pyamg
    import scipy.sparse

    grids = QUICK if quick else FULL
    flat = Case(scipy.sparse.csr_array(pyamg.gallery.poisson(grids["P2D"], format="csr")))
    yield from scalar_contests(flat, "2-D", GOALS_2D)
    yield from other_contests(flat, grids["P2D"])
    del flat
    cube = Case(scipy.sparse.csr_array(pyamg.gallery.poisson(grids["P3D"], format="csr")))
    yield from scalar_contests(cube, "3-D", GOALS_3D)
    del cube
    rng = np.random.default_rng(0)
    block = rng.standard_normal((4, 4)) * 0.1 + np.eye(4)
    coupled = scipy.sparse.kron(pyamg.gallery.poisson(grids["blocks"], format="csr"), block, format="bsr")
    yield from block_contests(Case(scipy.sparse.bsr_array(coupled)))
