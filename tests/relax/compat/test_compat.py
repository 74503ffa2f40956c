"""fastiter.relax.compat against the PyAMG functions that it replaces."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pyamg = pytest.importorskip("pyamg")
import scipy.sparse as scipy_sparse  # noqa: E402
from pyamg.relaxation import relaxation as theirs  # noqa: E402

from fastiter.relax import Relaxation  # noqa: E402
from fastiter.relax import compat as ours  # noqa: E402
from fastiter.relax.compat._cache import SAVED, fingerprint  # noqa: E402
from tests.relax.cases import csr, random_matrix, tolerance, vectors  # noqa: E402
from tests.support.cases import Array  # noqa: E402

SWEEPS = ("forward", "backward", "symmetric")
C, F = np.array([6, 0, 3]), np.array([1, 5, 2, 7])
SUBDOMAINS = {
    "subdomain": np.array([0, 4, 5, 3, 4, 20, 5, 21, 22], np.int32),
    "subdomain_ptr": np.array([0, 3, 6, 9], np.int32),
}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("jacobi", {}),
    ("jacobi", {"iterations": 3, "omega": 0.7}),
    *(("gauss_seidel", {"iterations": 2, "sweep": sweep}) for sweep in SWEEPS),
    ("gauss_seidel", {"omega": 1.2}),
    *(("sor", {"omega": 1.3, "iterations": 2, "sweep": sweep}) for sweep in SWEEPS),
    ("block_jacobi", {"blocksize": 3, "iterations": 2, "omega": 0.8}),
    *(("block_gauss_seidel", {"blocksize": 4, "sweep": sweep}) for sweep in SWEEPS),
    *(("gauss_seidel_ne", {"omega": 0.9, "sweep": sweep}) for sweep in SWEEPS),
    *(("gauss_seidel_nr", {"omega": 0.9, "sweep": sweep, "iterations": 2}) for sweep in SWEEPS),
    ("jacobi_ne", {"iterations": 2, "omega": 0.3}),
    *(
        ("gauss_seidel_indexed", {"indices": rows, "iterations": 2, "sweep": sweep})
        for rows in ([3, 0, 7], list(range(23, -1, -1)), [2, 0, 2, 5, 0])
        for sweep in SWEEPS
    ),
    ("jacobi_indexed", {"indices": [2, 7, 2, 0], "iterations": 2, "omega": 0.8}),
    *((name, {"Cpts": C, "Fpts": F}) for name in ("cf_jacobi", "fc_jacobi")),
    *(
        (name, {"Cpts": C, "Fpts": F, "iterations": 2, "f_iterations": 3, "c_iterations": 2, "omega": 0.9, **more})
        for name in ("cf_jacobi", "fc_jacobi", "cf_block_jacobi", "fc_block_jacobi")
        for more in ([{"blocksize": 3}] if "block" in name else [{}])
    ),
    *(("schwarz", {"iterations": 2, "sweep": sweep}) for sweep in SWEEPS),
    *(("schwarz", {"iterations": 2, "sweep": sweep, **SUBDOMAINS}) for sweep in SWEEPS),
    ("polynomial", {"coefficients": [0.01, -0.1, 0.3], "iterations": 2}),
]


def lists_of(name: str, A: Any, size: int, arguments: dict[str, Any]) -> list[tuple[list[Any], bool]]:
    """Return the lists of rows of one iteration, and whether all are relaxed from the same x."""
    n, jacobi = A.shape[0], "jacobi" in name
    block = arguments.get("blocksize", size if jacobi and ("indexed" in name or name[:2] in ("cf", "fc")) else 1)
    of = [np.arange(i, i + block) for i in range(0, n, block)]
    points = "block" not in name

    def rows(blocks: Any) -> list[Any]:
        found = [of[i] for i in blocks]
        return [np.array([i]) for rows in found for i in rows] if points else found

    if name[:3] in ("cf_", "fc_"):
        c = [(rows(arguments["Cpts"]), True)] * arguments.get("c_iterations", 1)
        f = [(rows(arguments["Fpts"]), True)] * arguments.get("f_iterations", 1)
        return c + f if name.startswith("cf") else f + c
    if name == "schwarz":
        first = arguments.get("subdomain_ptr")
        given = np.split(A.indices, A.indptr[1:-1])
        lists = given if first is None else np.split(arguments["subdomain"], first[1:-1])
    elif "indexed" in name:
        lists = rows(arguments["indices"])
    else:
        lists = of
    sweep = arguments.get("sweep", "forward")
    halves = {"forward": [lists], "backward": [lists[::-1]], "symmetric": [lists, lists[::-1]]}[sweep]
    return [(half, jacobi) for half in halves]


def by_definition(name: str, sparse: Any, x: Array, b: Array, arguments: dict[str, Any]) -> Array:
    """Compute the result by dense algebra in double precision, from the equations in the docstrings."""
    dtype = np.complex128 if sparse.dtype.kind == "c" else np.float64
    A, x, b = sparse.toarray().astype(dtype), x.astype(dtype), b.astype(dtype)
    size, sparse = getattr(sparse, "blocksize", (1, 1))[0], sparse.tocsr()
    adjoint, back = A.conj().T, np.eye(len(A))
    omega = arguments.get("omega", 1.0)
    if name == "polynomial":
        c = arguments["coefficients"]
        p = sum(c[-1 - k] * np.linalg.matrix_power(A, k) for k in range(len(c)))
        for _ in range(arguments["iterations"]):
            x = x + p @ (b - A @ x)
        return x
    if name.endswith("nr"):
        A, b = adjoint @ A, adjoint @ b
    of = A @ adjoint if name.endswith("ne") else A  # the matrix whose diagonal is the divisor
    back = adjoint if name.endswith("ne") else back
    for _ in range(arguments.get("iterations", 1)):
        for lists, jacobi in lists_of(name, sparse, size, arguments):
            start, y = x, x.copy()
            for rows in lists:
                if not len(rows):
                    continue
                given = start if jacobi else y
                step = omega * np.linalg.solve(of[np.ix_(rows, rows)], (b - A @ given)[rows])
                if "indexed" in name and jacobi:
                    y[rows] = given[rows] + step
                else:
                    y += back[:, rows] @ step
            x = y
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_equals_pyamg(call: tuple[str, dict[str, Any]], dtype: str) -> None:
    name, arguments = call
    A = csr(random_matrix(24, dtype))
    for matrix, shape in ((A, (24,)), (A, (24, 1)), (A.tobsr((3, 3)), (24,))):
        b, x = vectors(shape, dtype, 1), vectors(shape, dtype, 2)
        peer = x.copy()
        expected = by_definition(name, matrix, x.ravel(), b.ravel(), arguments)
        getattr(ours, name)(matrix, x, b, **arguments)
        limit = tolerance(dtype, 24) * (1 + np.abs(expected).max()) * (20 if name.endswith("nr") else 1)
        assert np.abs(x.ravel() - expected).max() <= limit
        has_omega = name in ("sor", "gauss_seidel") and "omega" in arguments
        if has_omega and (matrix is not A or arguments.get("sweep") == "symmetric"):
            continue  # PyAMG ignores it
        more = {}
        if name in ("gauss_seidel_ne", "gauss_seidel_nr"):  # PyAMG requires single precision
            more["Dinv"] = 1 / (np.abs(A.toarray()) ** 2).sum(axis=1 if name.endswith("ne") else 0).astype(dtype)
        getattr(theirs, name)(matrix, peer, b, **arguments, **more)
        assert np.abs(x - peer).max() <= limit


def test_all_functions_have_the_signatures_of_pyamg() -> None:
    public = {
        name: f
        for name, f in vars(theirs).items()
        if inspect.isfunction(f) and f.__module__ == theirs.__name__ and name != "make_system"
    }
    assert set(public) == set(ours.__all__)
    for name, f in public.items():
        expected = [(x.name, x.default) for x in inspect.signature(f).parameters.values()]
        assert [(x.name, x.default) for x in inspect.signature(getattr(ours, name)).parameters.values()] == expected


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("how", ["inverse", "other"])
def test_given_inverses_of_blocks_are_used_unchanged(how: str, dtype: str) -> None:
    A = csr(random_matrix(24, dtype))
    blocks = np.stack([A[i : i + 4, i : i + 4].toarray() for i in range(0, 24, 4)])
    inverse = (
        np.linalg.inv(blocks) if how == "inverse" else np.linalg.inv(blocks) * 0.7 + vectors((6, 4, 4), dtype) / 50
    )
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("block_jacobi", {"omega": 0.9}),
        ("block_gauss_seidel", {"sweep": "symmetric"}),
        ("cf_block_jacobi", {"Cpts": np.array([5, 0]), "Fpts": np.array([1, 3])}),
    ]
    for name, arguments in kinds:
        b, x = vectors((24,), dtype, 1), vectors((24,), dtype, 2)
        expected = x.copy()
        getattr(ours, name)(A, x, b, Dinv=inverse, blocksize=4, iterations=2, **arguments)
        getattr(theirs, name)(A, expected, b, Dinv=inverse, blocksize=4, iterations=2, **arguments)
        np.testing.assert_allclose(x, expected, atol=tolerance(dtype, 24) * np.abs(expected).max())
        with pytest.raises(ValueError, match=rf"{name}: Dinv must have shape \(6, 4, 4\), got \(5, 4, 4\)"):
            getattr(ours, name)(A, x, b, Dinv=inverse[1:], blocksize=4, **arguments)


def test_block_sizes_that_do_not_divide_n_and_several_columns() -> None:
    A = csr(random_matrix(23, "float64"))
    b, x, y = vectors((23, 3), "float64", 1), vectors((23, 3), "float64", 2), vectors((23, 3), "float64", 2)
    ours.cf_block_jacobi(A, x, b, [4, 0], [5, 2], blocksize=4)
    for rows in (np.r_[16:20, 0:4], np.r_[20:23, 8:12]):
        block = np.where(rows[:, None] // 4 == rows // 4, A.toarray()[np.ix_(rows, rows)], 0)
        y[rows] += np.linalg.solve(block, (b - A @ y)[rows])
    np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


def test_schwarz_parameters() -> None:
    A, B = csr(random_matrix(24, "float64")), csr(random_matrix(24, "float64"))
    for given in ({}, SUBDOMAINS):
        found, expected = ours.schwarz_parameters(A, **given), theirs.schwarz_parameters(B.copy(), **given)
        assert A.schwarz_parameters is found
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-14)
            assert x.dtype == y.dtype
        b, x, y = vectors(24, "float64", 1), np.zeros(24), np.zeros(24)
        ours.schwarz(A, x, b, 1, *[2 * part if part is found[2] else part for part in found])
        theirs.schwarz(B.copy(), y, b, 1, *[2 * part if part is expected[2] else part for part in expected])
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)
    before = ours.schwarz_parameters(A)[2]
    A.data *= 2
    np.testing.assert_allclose(ours.schwarz_parameters(A)[2], before / 2, rtol=1e-9)
    # An empty list, and a singular block, for which the pseudo-inverse is used
    S, x = csr(np.diag([2.0, 0.0, 4.0])), np.zeros(3)
    ours.schwarz(S, x, np.ones(3), subdomain=np.array([0, 1]), subdomain_ptr=np.array([0, 0, 2, 2]))
    np.testing.assert_array_equal(x, [0.5, 0, 0])


def test_symmetric_sor_uses_omega_in_both_directions() -> None:
    A, b, x, y = csr(random_matrix(9, "float64")), vectors(9, "float64", 1), np.zeros(9), np.zeros(9)
    ours.sor(A, x, b, 1.3, sweep="symmetric")
    theirs.sor(A, y, b, 1.3, sweep="forward")
    theirs.sor(A, y, b, 1.3, sweep="backward")
    np.testing.assert_allclose(x, y, rtol=1e-11)


@pytest.mark.parametrize(("blocked", "sweep"), [(False, "symmetric"), (True, "forward"), (True, "symmetric")])
def test_pyamg_ignores_omega_where_the_documentation_says_so(blocked: bool, sweep: str) -> None:
    A, b = csr(random_matrix(8, "float64")), vectors(8, "float64", 1)
    matrix = A.tobsr((2, 2)) if blocked else A
    x, y, z = np.zeros((3, 8))
    ours.sor(matrix, x, b, 1.3, sweep=sweep)
    theirs.sor(matrix, y, b, 1.3, sweep=sweep)
    theirs.sor(matrix, z, b, 1.0, sweep=sweep)
    np.testing.assert_array_equal(y, z)
    assert np.abs(x - y).max() > 0.01


def test_the_inverses_of_projections() -> None:
    A, b, x, y = csr(random_matrix(9, "float64")), vectors(9, "float64", 1), np.zeros(9), np.zeros(9)
    inverse = 1 / (A.toarray() ** 2).sum(axis=1)
    ours.gauss_seidel_ne(A, x, b, Dinv=inverse)
    theirs.gauss_seidel_ne(A, y, b, Dinv=inverse)
    np.testing.assert_allclose(x, y, rtol=1e-12)
    with pytest.raises(ValueError, match="gauss_seidel_ne: Dinv must be the inverse"):
        ours.gauss_seidel_ne(A, x, b, Dinv=inverse + 1)
    inverse = 1 / (A.toarray() ** 2).sum(axis=0)
    ours.gauss_seidel_nr(A, x, b, Dinv=inverse)
    theirs.gauss_seidel_nr(A, y, b, Dinv=inverse)
    np.testing.assert_allclose(x, y, rtol=1e-9)
    with pytest.raises(ValueError, match="gauss_seidel_nr: Dinv must be the inverse"):
        ours.gauss_seidel_nr(A, x, b, Dinv=inverse + 1)


def test_the_cache_follows_changes_and_drops_dead_matrices() -> None:
    A, b = csr(random_matrix(70, "float64")), vectors(70, "float64", 1)
    gc.collect()
    before = len(SAVED)

    def check() -> None:
        x, y = np.zeros(70), np.zeros(70)
        ours.gauss_seidel(A, x, b)
        theirs.gauss_seidel(A, y, b)
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11)

    check()
    check()
    assert len(SAVED) == before + 1
    for place in (0, len(A.data) // 2, -1):
        A.data[place] *= 1.5
        check()
    A.data[[3, 4]] = A.data[[4, 3]]
    check()
    assert len(SAVED) == before + 1
    for _ in range(40):
        ours.jacobi(csr(random_matrix(5, "float64")), np.zeros(5), np.ones(5))
    assert len(SAVED) <= 16
    other = csr(random_matrix(6, "float64"))
    ours.jacobi(other, np.zeros(6), np.ones(6))
    kept = len(SAVED)
    del other
    gc.collect()
    assert len(SAVED) < kept
    assert all(entry[0]() is not None for entry in SAVED)


CHANGES: dict[str, Callable[[Array], None]] = {
    "all signs": lambda x: np.negative(x, out=x),
    "two signs": lambda x: np.negative(x[:2], out=x[:2]),
    "twice": lambda x: np.multiply(x, 2, out=x),
    "rotated": lambda x: x.__setitem__(slice(None), np.roll(x, 64)),
    "the last bit": lambda x: x.__setitem__(-1, np.nextafter(x[-1], 9)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", ["csr", "dense"])
def test_any_change_in_place_is_noticed(form: str, change: str) -> None:
    A = pyamg.gallery.poisson((32, 32), format="csr")
    A = A if form == "csr" else np.ascontiguousarray(A.toarray()[:64, :64])
    values = A.data if form == "csr" else A.reshape(-1)
    b, x, y = vectors(A.shape[0], "float64", 1), np.zeros(A.shape[0]), np.zeros(A.shape[0])
    ours.polynomial(A, x, b, [1.0])
    seen = fingerprint(A)
    CHANGES[change](values)
    assert fingerprint(A) != seen
    x[...] = 0
    if change != "rotated":  # which leaves a diagonal of zeros
        ours.jacobi(A, x, b)
        theirs.jacobi(scipy_sparse.csr_matrix(A), y, b)
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_threads_share_a_matrix() -> None:
    interval, errors = sys.getswitchinterval(), []
    matrices = [csr(random_matrix(9, "float64")) for _ in range(3)]
    b = vectors(9, "float64", 1)

    def work() -> None:
        try:
            for k in range(60):
                A = matrices[k % 3]
                ours.gauss_seidel(A, np.zeros(9), b)
                ours.jacobi_indexed(A, np.zeros(9), b, np.arange(1 + k % 8))
        except Exception as error:
            errors.append(error)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors


@pytest.mark.parametrize("name", ["gauss_seidel", "schwarz"])
def test_smoothers_of_a_multigrid_cycle(name: str) -> None:
    """PyAMG's cycle converges equally with fastiter's sweeps as smoothers."""
    A = pyamg.gallery.poisson((40, 40), format="csr")
    b = vectors(1600, "float64", 1)
    histories = []
    for module in (theirs, ours):
        levels = pyamg.ruge_stuben_solver(A, max_coarse=10)
        for level in levels.levels[:-1]:
            level.presmoother = lambda A, x, b, module=module: getattr(module, name)(A, x, b, sweep="forward")
            level.postsmoother = lambda A, x, b, module=module: getattr(module, name)(A, x, b, sweep="backward")
        residuals: list[float] = []
        levels.solve(b, tol=1e-10, residuals=residuals)
        histories.append(residuals)
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-4)


def test_preconditioners_as_smoothers_of_a_multigrid_cycle() -> None:
    """M^-1 of as_preconditioner on each level: x <- x + M^-1 (b - A x) is its sweep."""
    A, b = pyamg.gallery.poisson((40, 40), format="csr"), vectors(1600, "float64", 1)
    levels = pyamg.ruge_stuben_solver(A, max_coarse=10)
    for level in levels.levels[:-1]:
        M = Relaxation(level.A, "ssor", order="color").as_preconditioner()

        def smooth(A: Any, x: Any, b: Any, M: Any = M) -> None:
            x += M @ (b - A @ x)

        level.presmoother = level.postsmoother = smooth
    residuals: list[float] = []
    x = levels.solve(b, tol=1e-8, residuals=residuals)
    assert len(residuals) <= 12
    np.testing.assert_allclose(A @ x, b, atol=1e-6)


@pytest.mark.parametrize("name", ["gauss_seidel_nr", "jacobi_ne"])
def test_complex_vectors_with_a_real_matrix(name: str) -> None:
    A, b = csr(random_matrix(9, "float64")), [vectors(9, "float64", seed) for seed in (1, 2)]
    x, parts = np.zeros(9, complex), np.zeros((2, 9))
    sweeps = getattr(ours, name)
    sweeps(A, x, b[0] + 1j * b[1], iterations=3)
    for k in range(2):
        sweeps(A, parts[k], b[k], iterations=3)
    np.testing.assert_allclose(x, parts[0] + 1j * parts[1], rtol=1e-13)
