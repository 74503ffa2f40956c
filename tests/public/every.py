"""The whole table: importing a module of calls registers them."""

from __future__ import annotations

from tests.public.calls import (
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
    *(f"fastiter.{name}" for name in ("Progress", "RnnResult", "RnnStates", "Solution")),
    *(f"fastiter.quant.{name}" for name in ("BlockCodes", "Calibration", "Counts", "ErrorStatistics", "Format")),
    *(f"fastiter.quant.{name}" for name in ("FormatRow", "FormatTable", "Range", "Scaled")),
    *(f"fastiter.relax.{name}" for name in ("LinearSolution", "SequenceSolution")),
    "fastiter.fixedpoint.HopfieldSolution",
    *(f"fastiter.fixedpoint.monotone.{name}" for name in ("InclusionSolution",)),
    *(f"fastiter.fixedpoint.{name}" for name in ("FixedPointSolution", "SinkhornSolution")),
    *(f"fastiter.mdp.{name}" for name in ("AverageSolution", "FiniteHorizon", "Occupancy")),
    "fastiter.mdp.MDPSolution",
    *(f"fastiter.experimental.{name}" for name in ("RobustPolicy", "TransportSweep")),
    *(f"fastiter.mdp.distributional.{name}" for name in ("StockValues", "TailValues")),
    *(f"fastiter.mdp.compat.error.{name}" for name in ("Error", "InvalidError", "NonNegativeError")),
    *(f"fastiter.mdp.compat.error.{name}" for name in ("SquareError", "StochasticError")),
    # with arguments of other packages' kinds, in tests/mdp/compat
    *(f"fastiter.mdp.compat.util.{name}" for name in ("check", "checkSquareStochastic", "getSpan")),
    *(f"fastiter.mdp.compat.util.{name}" for name in ("isNonNegative", "isSquare", "isStochastic")),
    *(f"fastiter.mdp.compat.quantecon.{name}" for name in ("ControlledChain", "DPSolveResult", "DiscreteDP")),
    "fastiter.mdp.compat.quantecon.backward_induction",
    *(f"fastiter.mdp.compat.{name}" for name in ("example.rand", "mdp.MDP", "mdp.QLearning")),
    *(f"fastiter.bcd.{name}" for name in ("BCDSolution", "LassoPath", "SketchSolution")),
    # with callables that check their own arguments, in tests/bcd/test_sketch.py
    *(f"fastiter.bcd.{name}" for name in ("ConstrainedSolution", "sketched_newton")),
    # and estimators, which scikit-learn's own tests call in tests/bcd/test_estimators.py
    *(f"fastiter.bcd.{name}" for name in ("ElasticNet", "Lasso", "LogisticRegression", "NNLS")),
    *(f"fastiter.tune.{name}" for name in ("Device", "RnnPlan")),
}
