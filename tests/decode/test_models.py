"""Whole models as compiled programs, against the specification, in float64 and float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", "5.24")

from fastiter.decode._torch.plans import plan_of  # noqa: E402
from tests.decode.machines import Machine  # noqa: E402
from tests.decode.models import OPTIONS, make, tokens  # noqa: E402

STEPS = 9


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "variant"), OPTIONS, ids=lambda x: x)
def test_programs(name: str, variant: str, dtype: str) -> None:
    """Errors grow from step to step, in the delta rule of Qwen3.5 to some 1000 roundings of the largest number."""
    model = make(name, variant)
    parameters: dict[str, Any] = {key: x.numpy() for key, x in model.state_dict().items()}
    rows = 2
    machine = Machine(plan_of(model), parameters, dtype, rows, capacity=STEPS)
    given = np.ascontiguousarray(tokens(rows, STEPS).numpy().T)
    for step in range(STEPS):
        expected = machine.specified(given[step])
        logits = machine.step(given[step])
        bound = 5000 * np.finfo(dtype).eps * abs(expected).max()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=bound)
