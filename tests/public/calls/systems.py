"""Valid calls of the relaxations, of the constraint solver, and of the settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

import fastiter
from fastiter import relax, tune
from tests.public.pick import Pick, subset
from tests.public.table import calls

DTYPES = (np.float64, np.float32, np.complex128)
LAYOUTS = ("csr", "csc", "coo", "bsr", "lil", "dok", "dia")


def dense(pick: Pick, n: int, dtype: Any) -> Any:
    """Return a symmetric matrix with a dominant diagonal, on which every method converges."""
    A = np.where(pick.generator().random((n, n)) < 0.4, pick.normal(n, n), 0.0)
    A = A + A.T
    np.fill_diagonal(A, np.abs(A).sum(axis=1) + 1)
    return A.astype(dtype)


def matrix(pick: Pick, n: int, dtype: Any) -> Any:
    A = dense(pick, n, dtype)
    layout = pick.one_of(("dense", *LAYOUTS)) if n else "dense"
    return A if layout == "dense" else sp.csr_array(A).asformat(layout)


def system(pick: Pick) -> dict[str, Any]:
    """Return A and b: a matrix and one or several columns, a batch, or a stencil."""
    n, dtype = pick.integer(0, 7), pick.one_of(DTYPES)
    columns = pick.one_of(((), (1,), (3,)))
    return {"A": matrix(pick, n, dtype), "b": pick.normal(n, *columns, dtype=dtype)}


def limits(pick: Pick, given: dict[str, Any]) -> dict[str, Any]:
    options = {"x0": np.ones_like(given["b"]), "rtol": 1e-4, "atol": 1e-3, "max_steps": 7, "check_every": 3}
    return subset(pick, {**options, "throw": False})


#: Options of each solver
OPTIONS: dict[str, dict[str, Any]] = {
    "jacobi": {"omega": 0.9},
    "block_jacobi": {"omega": 0.9},
    "gauss_seidel": {"order": "color", "block_size": 2, "symmetric": True},
    "sor": {"omega": 1.2, "order": "color", "block_size": 2},
    "ssor": {"omega": 1.2, "order": "cluster", "block_size": 2},
    "ssor_cg": {"omega": 1.2, "order": "color"},
    "flexible_cg": {"precond": np.negative, "memory": 1},
    "kaczmarz": {"omega": 0.9, "symmetric": True},
    "chebyshev": {"bounds": (0.1, 2.0)},
}


def enter_solver(name: str) -> None:
    @calls(f"fastiter.relax.{name}")
    def make(pick: Pick) -> dict[str, Any]:
        given = system(pick)
        needed = {"block_size": 2} if name == "block_jacobi" else {}
        return {**given, **needed, **limits(pick, given), **subset(pick, OPTIONS[name])}


for each in OPTIONS:
    enter_solver(each)


def sweep(A: Any, x: Any, b: Any, method: Any, sweeps: Any, backward: Any) -> None:
    relax.Relaxation(A, method).sweep(x, b, sweeps, backward=backward)


@calls("fastiter.relax.Relaxation", run=sweep, written=("x",), at=".sweep")
def relaxation_sweep(pick: Pick) -> dict[str, Any]:
    given = system(pick)
    x, method = np.ones_like(given["b"]), pick.one_of(("sor", "jacobi", "gauss_seidel", "kaczmarz"))
    return {**given, "x": x, "method": method, "sweeps": pick.integer(0, 3), "backward": method != "jacobi"}


def residual(A: Any, x: Any, b: Any) -> Any:
    return relax.Relaxation(A, "sor").residual(x, b)


@calls("fastiter.relax.Relaxation", run=residual, at=".residual")
def relaxation_residual(pick: Pick) -> dict[str, Any]:
    given = system(pick)
    return {**given, "x": np.ones_like(given["b"])}


def applied(A: Any, r: Any, omega: Any) -> Any:
    made = relax.Relaxation(A, "ssor", omega=omega)
    return made.matvec(r), made.rmatvec(r)


@calls("fastiter.relax.Relaxation", run=applied, at=".matvec", also=("Relaxation.rmatvec",))
def relaxation_matvec(pick: Pick) -> dict[str, Any]:
    given = system(pick)
    return {"A": given["A"], "r": given["b"], "omega": 1.1}


def batch_solve(pattern: Any, values: Any, b: Any) -> Any:
    return relax.gauss_seidel(relax.Batch(pattern, values), b, max_steps=5)


@calls("fastiter.relax.Batch", run=batch_solve, also=("gauss_seidel",))
def batch(pick: Pick) -> dict[str, Any]:
    n, dtype = pick.integer(1, 6), pick.one_of(DTYPES)
    pattern = sp.csr_array(dense(pick, n, dtype))
    values = np.stack([pattern.data] * 3) * np.array([[1], [2], [3]], dtype)
    return {"pattern": pattern, "values": values.astype(dtype), "b": pick.normal(3, n, dtype=dtype)}


def stencil_solve(grid: Any, coefficients: Any, mask: Any, b: Any) -> Any:
    return relax.sor(relax.Stencil(grid, coefficients, mask), b, omega=1.2, order="red-black", max_steps=5)


@calls("fastiter.relax.Stencil", run=stencil_solve, also=("sor",))
def stencil(pick: Pick) -> dict[str, Any]:
    grid, dtype = (pick.integer(1, 4), pick.integer(1, 5)), pick.one_of(DTYPES)
    coefficients = np.array([4.0, -1, -1, -1, -1], dtype)
    if pick.flag():
        coefficients = np.broadcast_to(coefficients[:, None, None], (5, *grid)).copy()
    mask = pick.one_of((None, pick.generator().random(grid) < 0.7))
    return {"grid": grid, "coefficients": coefficients, "mask": mask, "b": pick.normal(*grid, dtype=dtype)}


def chebyshev_solve(A: Any, b: Any, bounds: Any, **limits: Any) -> Any:
    return relax.Chebyshev(relax.Relaxation(A, "ssor", omega=1.1), bounds).solve(b, **limits)


@calls("fastiter.relax.Chebyshev", run=chebyshev_solve, also=("Chebyshev.solve", "Relaxation"))
def accelerated(pick: Pick) -> dict[str, Any]:
    return {**system(pick), "bounds": (0.1, 1.0), "max_steps": 5}


def anderson_solve(A: Any, b: Any, memory: Any, **limits: Any) -> Any:
    return relax.Anderson(relax.Relaxation(A, "jacobi"), memory).solve(b, **limits)


@calls("fastiter.relax.Anderson", run=anderson_solve, also=("Anderson.solve", "Relaxation"))
def anderson(pick: Pick) -> dict[str, Any]:
    return {**system(pick), "memory": pick.integer(1, 4), "max_steps": 5}


@calls(
    "fastiter.relax.solve_sequence",
    also=("sor", "ssor_cg"),
    run=lambda A, b, **how: relax.solve_sequence([(A, b)] * 2, relax.TsallisINF([1.0, 1.4], rng=0), **how),
)
def solve_sequence(pick: Pick) -> dict[str, Any]:
    n = pick.integer(1, 6)
    given = {"A": dense(pick, n, np.float64), "b": pick.normal(n)}
    return {**given, **subset(pick, {"method": "ssor_cg", "order": "color", "warm_start": True, "max_steps": 5})}


def learned(kind: str, arms: Any, rng: Any, context: Any, iterations: Any, how: dict[str, Any]) -> Any:
    tuner = getattr(relax, kind)(arms, rng=rng, **how)
    chosen = []
    for _ in range(3):
        chosen.append(tuner.predict(context))
        tuner.update(iterations)
        chosen.append(tuner.ask(context))
        tuner.tell(chosen[-1], iterations)
    return np.array(chosen), tuner.probabilities(context)


def enter_tuner(kind: str, how: dict[str, Any], context: float | None) -> None:
    def run(arms: Any, rng: Any, context: Any, iterations: Any, **how: Any) -> Any:
        return learned(kind, arms, rng, context, iterations, how)

    also = tuple(f"{kind}.{name}" for name in ("predict", "update", "ask", "tell"))

    @calls(f"fastiter.relax.{kind}", run=run, also=also)
    def make(pick: Pick) -> dict[str, Any]:
        return {"arms": [1.0, 1.3, 1.6], "rng": pick.integer(0, 9), "context": context, "iterations": 20.0, **how}


enter_tuner("TsallisINF", {}, None)
enter_tuner("ContextualTsallisINF", {"bounds": (0.0, 1.0), "bins": 3}, 0.4)
enter_tuner("ChebCB", {"bounds": (0.0, 1.0), "degree": 2}, 0.4)

# ---- PyAMG's functions ----------------------------------------------------------------------------------------------

HALVES = {"iterations": 2, "sweep": "symmetric"}
SPLIT = {"Cpts": [0, 2], "Fpts": [1]}
#: Arguments of each function of `compat` other than A, x and b: required ones, and optional ones
COMPAT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "block_gauss_seidel": ({}, {**HALVES, "blocksize": 2}),
    "block_jacobi": ({}, {"iterations": 2, "omega": 0.9, "blocksize": 2}),
    "cf_block_jacobi": (SPLIT, {"iterations": 2, "f_iterations": 2, "c_iterations": 2, "omega": 0.9}),
    "cf_jacobi": (SPLIT, {"iterations": 2, "f_iterations": 2, "c_iterations": 2, "omega": 0.9}),
    "fc_block_jacobi": (SPLIT, {"iterations": 2, "f_iterations": 2, "c_iterations": 2, "omega": 0.9}),
    "fc_jacobi": (SPLIT, {"iterations": 2, "f_iterations": 2, "c_iterations": 2, "omega": 0.9}),
    "gauss_seidel": ({}, {**HALVES, "omega": 1.1}),
    "gauss_seidel_indexed": ({"indices": [2, 0, 2]}, HALVES),
    "gauss_seidel_ne": ({}, {**HALVES, "omega": 1.1}),
    "gauss_seidel_nr": ({}, {**HALVES, "omega": 1.1}),
    "jacobi": ({}, {"iterations": 2, "omega": 0.9}),
    "jacobi_indexed": ({"indices": [2, 0]}, {"iterations": 2, "omega": 0.9}),
    "jacobi_ne": ({}, {"iterations": 2, "omega": 0.9}),
    "polynomial": ({"coefficients": [0.1, -0.2]}, {"iterations": 2}),
    "schwarz": ({}, {**HALVES, "subdomain": np.array([0, 1, 2], np.int32)}),
    "sor": ({"omega": 1.1}, HALVES),
}


def enter_compat(name: str) -> None:
    @calls(f"fastiter.relax.compat.{name}", written=("x",))
    def make(pick: Pick) -> dict[str, Any]:
        needed, optional = COMPAT[name]
        n, dtype = pick.integer(3, 7), pick.one_of((*DTYPES, np.complex64))
        A = sp.csr_array(dense(pick, n, dtype))
        given = {"A": A, "x": pick.normal(n, dtype=dtype), "b": pick.normal(n, dtype=dtype)}
        options = subset(pick, optional)
        if "subdomain" in options:
            options["subdomain_ptr"] = np.array([0, 2, 3], np.int32)
        return {**given, **needed, **options}


for each in COMPAT:
    enter_compat(each)


@calls("fastiter.relax.compat.schwarz_parameters")
def schwarz_parameters(pick: Pick) -> dict[str, Any]:
    return {"A": sp.csr_array(dense(pick, pick.integer(1, 6), np.float64))}


# ---- The constraint solver and the settings -------------------------------------------------------------------------


@calls("fastiter.tune.solve")
def solve(pick: Pick) -> dict[str, Any]:
    text = pick.one_of(("x in 1..4; y == x ^ 2", "a * b == 12; a <= b; a > 0", "x in [8, 16] and x != 8", ""))
    return {"text": text, **subset(pick, {"minimize": "3 - 2", "exclude": [], "limit": 2})}


def shape(pick: Pick) -> dict[str, Any]:
    sizes = {"heads": pick.integer(1, 8), "width": pick.one_of((16, 64, 100)), "batch": pick.integer(1, 32)}
    cell, dtype = pick.one_of(("lstm", "gru", "elman", "slstm")), pick.one_of(("bfloat16", "float32"))
    return {"device": tune.DEVICES["H100"], "cell": cell, "dtype": dtype, **sizes, "backward": pick.flag()}


calls("fastiter.tune.rnn_constraints")(shape)
calls("fastiter.tune.rnn_plan")(shape)


def threads(threads: Any) -> int:
    fastiter.set_num_threads(threads)
    return fastiter.get_num_threads()


@calls("fastiter.set_num_threads", run=threads)
def set_num_threads(pick: Pick) -> dict[str, Any]:
    return {"threads": pick.integer(1, 3)}


def nothing(pick: Pick) -> dict[str, Any]:
    return {}


for each in ("get_num_threads", "show_config"):
    calls(f"fastiter.{each}")(nothing)
calls("fastiter.release_memory", run=lambda: fastiter.release_memory() >= 0)(nothing)
