"""Valid calls of Hopfield networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastiter.fixedpoint import hopfield_update
from tests.public.pick import Pick, subset
from tests.public.table import calls


def network(pick: Pick) -> dict[str, Any]:
    """Return state, stored, beta and possibly a mask."""
    dtype, lead = pick.one_of((np.float64, np.float32)), pick.one_of(((), (2,), (2, 3)))
    L, S, D = pick.integer(0, 4), pick.integer(1, 5), pick.integer(1, 6)
    stored = pick.normal(*(lead if pick.flag() else ()), S, D, dtype=dtype)
    beta = pick.one_of((1.0, np.full(lead[-1:], 2.0, dtype)))
    given = {"state": pick.normal(*lead, L, D, dtype=dtype), "stored": stored, "beta": beta}
    masks = (np.arange(S) > 0, pick.normal(L, S, dtype=dtype))
    return {**given, **subset(pick, {"mask": pick.one_of(masks)})}


def retrieved(  # without the residuals, differences that may be only rounding error
    state: Any,
    stored: Any,
    beta: Any = 1.0,
    steps: Any = None,
    rtol: Any = 1e-5,
    atol: Any = 1e-8,
    max_steps: Any = 1000,
    mask: Any = None,
    throw: Any = False,
    backend: Any = None,
) -> Any:
    how = {"beta": beta, "steps": steps, "rtol": rtol, "atol": atol, "max_steps": max_steps, "mask": mask}
    found = hopfield_update(state, stored, **how, throw=throw, backend=backend)
    return found.value, found.steps


@calls("fastiter.fixedpoint.hopfield_update", run=retrieved, terms=8)
def update(pick: Pick) -> dict[str, Any]:
    more = subset(pick, {"rtol": 1e-3, "atol": 1e-6, "max_steps": 20, "throw": False})
    return {**network(pick), "steps": pick.integer(0, 3), **more}


@calls("fastiter.fixedpoint.hopfield_energy")
def energy(pick: Pick) -> dict[str, Any]:
    return network(pick)
