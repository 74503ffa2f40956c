"""Plans for GPU kernels."""

from __future__ import annotations

from typing_extensions import assert_type

from fastiter import tune


def arrays() -> None:
    """Plan a kernel, and solve integer constraints."""
    plan = tune.rnn_plan(tune.DEVICES["H100"], cell="gru", heads=1, width=64, batch=8, dtype="float32")
    assert_type(plan, tune.RnnPlan)
    assert_type(plan.grid, tuple[int, int, int])
    assert_type(plan.microseconds, float)
    assert_type(tune.solve("(A + 1) * 2 == 10"), list[dict[str, int]])
    assert_type(tune.DEVICES["H100"].sms, int)
