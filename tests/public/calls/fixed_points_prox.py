"""Valid calls of proximal operators and projections."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.public.pick import Pick
from tests.public.table import calls
from tests.scan.calls import REAL
from tests.support.cases import Array

PROX = "fastiter.fixedpoint.prox"


def points(pick: Pick) -> Array:
    shape = (*pick.one_of(((), (2,), (2, 3))), pick.integer(1, 5))
    return pick.normal(*shape, dtype=pick.one_of(REAL))


for _name in ("project_simplex", "project_l1_ball"):

    @calls(f"{PROX}.{_name}", terms=4)
    def onto(pick: Pick) -> dict[str, Any]:
        return {"y": points(pick), "radius": pick.one_of((1.0, 0.25)), "axis": -1}


@calls(f"{PROX}.project_l2_ball")
def onto_l2_ball(pick: Pick) -> dict[str, Any]:
    return {"y": points(pick), "radius": 0.5, "axis": -1}


@calls(f"{PROX}.project_box")
def onto_box(pick: Pick) -> dict[str, Any]:
    y = points(pick)
    return {"y": y, "low": pick.one_of((-0.5, np.full(y.shape[-1], -0.5, y.dtype))), "high": 0.5}


@calls(f"{PROX}.project_nonnegative")
def onto_orthant(pick: Pick) -> dict[str, Any]:
    return {"y": points(pick)}


@calls(f"{PROX}.project_halfspace")
def onto_halfspace(pick: Pick) -> dict[str, Any]:
    y = points(pick)
    return {"y": y, "a": np.arange(1, y.shape[-1] + 1, dtype=y.dtype), "b": 0.5}


@calls(f"{PROX}.project_affine")
def onto_affine(pick: Pick) -> dict[str, Any]:
    y, m = points(pick), pick.integer(1, 2)
    return {"y": y, "A": pick.normal(m, y.shape[-1], dtype=y.dtype), "b": np.ones(m, y.dtype)}


@calls(f"{PROX}.prox_l1")
def of_l1(pick: Pick) -> dict[str, Any]:
    y = points(pick)
    return {"y": y, "t": pick.one_of((0.5, np.full(y.shape[-1], 0.5, y.dtype)))}


@calls(f"{PROX}.prox_l2")
def of_l2(pick: Pick) -> dict[str, Any]:
    return {"y": points(pick), "t": 0.5, "axis": -1}


@calls(f"{PROX}.prox_linf", terms=4)
def of_linf(pick: Pick) -> dict[str, Any]:
    return {"y": points(pick), "t": 0.5, "axis": -1}


@calls(f"{PROX}.prox_group")
def of_groups(pick: Pick) -> dict[str, Any]:
    y = points(pick)
    return {"y": y, "sizes": (1, y.shape[-1] - 1), "t": 0.5, "axis": -1}


@calls(f"{PROX}.prox_squared_l2")
def of_squared_l2(pick: Pick) -> dict[str, Any]:
    return {"y": points(pick), "t": 0.5}


@calls(f"{PROX}.prox_entropy", terms=4)
def of_entropy(pick: Pick) -> dict[str, Any]:
    return {"y": points(pick), "t": pick.one_of((1.0, 0.25))}


@calls(f"{PROX}.prox_log_barrier")
def of_log_barrier(pick: Pick) -> dict[str, Any]:
    return {"y": points(pick), "t": 0.5}


@calls(f"{PROX}.prox_huber")
def of_huber(pick: Pick) -> dict[str, Any]:
    return {"y": points(pick), "t": 0.5, "delta": 0.5}


@calls(f"{PROX}.prox_leaky_relu")
def of_leaky_relu(pick: Pick) -> dict[str, Any]:
    return {"y": points(pick), "alpha": 0.5, "slope": 0.5}


@calls(f"{PROX}.prox_softmax_entropy", terms=6)
def of_softmax_entropy(pick: Pick) -> dict[str, Any]:
    return {"y": points(pick), "alpha": pick.one_of((1.0, 0.25)), "axis": -1}
