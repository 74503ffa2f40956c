"""Right calls of fixed-point solvers."""

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
