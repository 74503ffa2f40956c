"""The whole table: importing a module of calls registers them."""

from __future__ import annotations

from tests.public import (
    descent,
    fixed_points,
    fixed_points_prox,
    hopfield,
    inclusions,
    numbers,
    processes,
    processes_more,
    recurrences,
    systems,
)
from tests.public.table import TABLE as TABLE

FILES = (
    recurrences,
    fixed_points,
    fixed_points_prox,
    inclusions,
    numbers,
    systems,
    processes,
    processes_more,
    hopfield,
    descent,
)

#: Public classes that users do not construct: results, tables of results, errors, warnings, bases of other classes
NOT_CALLED = {
    *(f"fastiter.{name}" for name in ("BackendError", "ConvergenceError", "ConvergenceWarning")),
    *(f"fastiter.{name}" for name in ("RnnResult", "RnnStates", "Solution")),
    *(f"fastiter.quant.{name}" for name in ("Blocks", "Calibration", "Counts", "ErrorStatistics", "Format")),
    *(f"fastiter.quant.{name}" for name in ("FormatRow", "FormatTable", "Range", "Scaled")),
    *(f"fastiter.relax.{name}" for name in ("LinearSolution", "Progress", "SequenceSolution")),
    "fastiter.fixedpoint.HopfieldSolution",
    *(f"fastiter.fixedpoint.monotone.{name}" for name in ("InclusionProgress", "InclusionSolution")),
    *(f"fastiter.fixedpoint.{name}" for name in ("FixedPointProgress", "FixedPointSolution", "SinkhornSolution")),
    "fastiter.fixedpoint.TransportSweep",
    *(f"fastiter.mdp.{name}" for name in ("AverageSolution", "FiniteHorizon")),
    *(f"fastiter.mdp.{name}" for name in ("MDPProgress", "MDPSolution", "RobustPolicy")),
    *(f"fastiter.mdp.distributional.{name}" for name in ("StockValues", "TailValues")),
    *(f"fastiter.bcd.{name}" for name in ("BCDProgress", "BCDSolution", "LassoPath", "SketchSolution")),
    # with callables that check their own arguments, in tests/bcd/test_sketch.py
    *(f"fastiter.bcd.{name}" for name in ("ConstrainedSolution", "sketched_newton")),
    # and estimators, which scikit-learn's own tests call in tests/bcd/test_estimators.py
    *(f"fastiter.bcd.{name}" for name in ("ElasticNet", "Lasso", "LogisticRegression", "NNLS")),
    *(f"fastiter.tune.{name}" for name in ("Device", "RnnPlan")),
}
