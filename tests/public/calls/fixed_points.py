"""Valid calls of fixed-point solvers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.public.pick import Pick, subset
from tests.public.table import calls
from tests.scan.calls import REAL

METHODS = ("anderson", "picard", "broyden", "halpern", "krasnoselskii_mann", "squarem", "aitken", "newton_krylov")


@calls("fastiter.fixedpoint.fixed_point")
def fixed_point(pick: Pick) -> dict[str, Any]:
    x0 = pick.normal(pick.integer(1, 3), pick.integer(1, 4), dtype=pick.one_of(REAL))
    more = {"atol": 1e-3, "batched": True, "norm": pick.one_of(("l2", "inf", "rms", "span")), "patience": 20}
    given = {"f": np.cos, "x0": x0, "method": pick.one_of(METHODS), "rtol": 1e-3, "max_steps": 30}
    return {**given, **subset(pick, {**more, "compact": False, "throw": False})}


@calls("fastiter.fixedpoint.refine")
def refine(pick: Pick) -> dict[str, Any]:
    n, dtype = pick.integer(1, 3), pick.one_of(REAL)
    given = {"A": np.diag(np.arange(1.0, n + 1)).astype(dtype), "S": np.eye(n, dtype=dtype) / 2}
    more = {"x0": np.ones(n, dtype), "method": "picard", "rtol": 1e-2, "atol": 1e-3, "throw": False}
    return {**given, "b": pick.normal(n, dtype=dtype), "max_steps": 20, **subset(pick, more)}


@calls("fastiter.fixedpoint.shift")
def shift(pick: Pick) -> dict[str, Any]:
    return {"x": pick.normal(2, pick.integer(1, 4), dtype=pick.one_of(REAL)), "steps": pick.integer(0, 1), "axis": 1}


@calls("fastiter.fixedpoint.sinkhorn")
def sinkhorn(pick: Pick) -> dict[str, Any]:
    n, m, dtype = pick.integer(1, 3), pick.integer(1, 4), pick.one_of(REAL)
    masses = {"a": np.full(n, 1 / n, dtype), "b": np.full(m, 1 / m, dtype)}
    more = {"epsilon": 0.5, "rtol": 1e-3, "throw": False}
    return {"C": pick.normal(n, m, dtype=dtype), "max_steps": 20, **subset(pick, masses), **subset(pick, more)}


@calls("fastiter.experimental.transport_sweep")
def transport_sweep(pick: Pick) -> dict[str, Any]:
    cells, directions, dtype = pick.integer(1, 4), pick.integer(1, 3), pick.one_of(REAL)
    angles = {"mu": np.linspace(-0.9, 1, directions).astype(dtype), "weights": np.ones(directions, dtype)}
    given = {"q": pick.normal(2, cells, dtype=dtype), "sigma": 0.5, "h": 1.0, **angles}
    return {**given, **subset(pick, {"incoming": np.ones((2, directions), dtype)})}
