"""The step `model`: the constants of the tuner's cost model, fitted to measured or simulated plans.

Without a card: python -m bench.card.steps.plans --simulate FILE.json && python -m bench.card.steps.model FILE.json

The model of a step's latency is linear in its constants; `terms` are their coefficients. The constants are in
python/fastiter/tune/_rnn_plan.py and explained in docs/tune/theory.md.
"""

from __future__ import annotations

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.card.record import RESULTS
from bench.card.worker import Item
from bench.harness.record import Record
from fastiter.tune._rnn_plan import ELEMENT_ISSUE, FRAGMENT_ISSUE, WORD_ISSUE

#: Clock in MHz that converts microseconds to cycles if a row has none
CLOCK = 1755.0


def terms(row: Record) -> dict[str, float]:
    """Return the coefficient of each constant: the numbers of a plan that cost time at every step."""
    plan: dict[str, Any] = row["plan"]
    threads, rows = 32 * plan["row_warps"] * plan["split"], 8 * plan["columns"]
    gates = {"elman_tanh": 1, "gru": 3, "lstm": 4, "slstm": 4}[row["cell"]]
    outs = 1 if row["backward"] else gates
    each = math.ceil(plan["units"] * rows / threads)
    tiles = outs * plan["units"] // (16 * plan["row_warps"]) * plan["tiles"]
    padded = 16 * plan["split"] * plan["tiles"]
    joined = plan["blocks"] > 1
    return {
        "step": 1.0,
        "element": float(each),
        "product": float(tiles * plan["columns"]),
        "fragment": float(max(tiles - plan["in_registers"], 0)),
        "sum": float(outs * each * plan["split"]),
        "joined": float(joined),
        "word": math.ceil(rows * padded * 2 / 8 / threads) if joined else 0.0,
    }


def cycles_of(row: Record) -> float:
    return float(row["cycles"] if "cycles" in row else row["us"] * CLOCK)


def issue_of(row: Record) -> float:
    """Return the cycles that a scheduler needs to issue the instructions of its warps, by the tuner's count."""
    its, warps = terms(row), row["plan"]["row_warps"] * row["plan"]["split"]
    counted = ELEMENT_ISSUE * its["element"] + WORD_ISSUE * its["word"] + FRAGMENT_ISSUE * its["product"]
    return float(counted * warps / 4)


def fit(rows: list[Record]) -> tuple[dict[str, float], float]:
    """Return the nonnegative constants and the typical error as a factor, by least squares of relative errors.

    Plans limited by the issue of instructions are left out, as they do not show the latency.
    """
    rows = [row for row in rows if issue_of(row) < cycles_of(row)]
    names = list(terms(rows[0]))
    matrix = np.array([[terms(row)[name] for name in names] for row in rows])
    cycles = np.array([cycles_of(row) for row in rows])
    used = [k for k in range(len(names)) if matrix[:, k].any()]
    while True:
        solution, *_ = np.linalg.lstsq(matrix[:, used] / cycles[:, None], np.ones(len(rows)), rcond=None)
        if solution.min() >= 0:
            break
        used.remove(used[int(solution.argmin())])  # a constant that would be negative is dropped
    constants = dict.fromkeys(names, 0.0) | {names[k]: float(value) for k, value in zip(used, solution, strict=True)}
    predicted = matrix @ np.array([constants[name] for name in names])
    return constants, float(np.exp(np.abs(np.log(predicted / cycles)).mean()))


def constants_of(rows: list[Record]) -> Record:
    """Return the constants for both directions, and the error of each fit."""
    models: Record = {}
    for back in (False, True):
        its = [row for row in rows if row["backward"] is back and row["cell"] == "lstm"]
        its = [row for row in its if not row["plan"].get("clustered")]  # which the tuner does not model
        if len(its) >= 6:
            constants, factor = fit(its)
            rounded = {name: round(value, 1) for name, value in constants.items()}
            models["backward" if back else "forward"] = {**rounded, "error": round(factor, 3), "rows": len(its)}
    return models


def latest() -> list[Record]:
    """Return the plans in the newest record of a card."""
    files = sorted(RESULTS.glob("*.json"), key=lambda path: path.stat().st_mtime)
    records = [json.loads(path.read_text()) for path in files]
    rows = [one["plans"] for one in records if one.get("family") == "card" and one.get("plans")]
    return [row for row in rows[-1] if "plan" in row] if rows else []


def fitted(rows: list[Record]) -> Record:
    """Return the constants, or report that there are too few rows, as in a dry run."""
    return constants_of(rows) or {"rows": len(rows), "fit": "six plans of a direction are needed"}


def items(dry: bool) -> list[Item]:
    return [Item("constants", partial(fitted, [] if dry else latest()))]


if __name__ == "__main__":
    print(json.dumps(constants_of(json.loads(Path(sys.argv[1]).read_text())), indent=1))
