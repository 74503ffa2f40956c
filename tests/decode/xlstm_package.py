"""python -m tests.decode.xlstm_package: the plan of an xLSTM whose modules are those of the package xlstm.

transformers takes them where the package is installed; the tests' fixtures hide it.
"""

from __future__ import annotations

import numpy as np
import torch

from fastiter.decode import reference
from fastiter.decode._torch.cache import states_of
from fastiter.decode._torch.plans import plan_of
from tests.decode.models import exact, make, tokens
from tests.decode.test_plans import arrays, filled, one_step


def main() -> None:
    model, rows, prompt, steps = make("xLSTM", "biases"), 2, 5, 5
    assert type(model.backbone.blocks[0].mlstm_layer).__module__.startswith("xlstm.")
    plan, given = plan_of(model), tokens(rows, steps)
    with torch.no_grad(), exact(model):
        cache = filled(model, rows, prompt)
        states = {key: x.numpy() for key, x in states_of(plan, cache, rows, torch.float64).items()}
        for i in range(steps):
            expected = one_step(model, cache, given[:, i : i + 1], prompt + i)
            logits, states = reference.step(plan, arrays(model), states, given[:, i].numpy(), np.full(rows, prompt + i))
            np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-10 * abs(expected).max())


if __name__ == "__main__":
    main()
