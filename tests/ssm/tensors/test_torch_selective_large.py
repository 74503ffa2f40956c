"""torch.ssm.selective_scan with results that exceed the caches, which are written past them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from tests.ssm.calls import both_dtypes, scan_inputs  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402

ROWS, CHANNELS = 2, 32
#: Steps of two rows that exceed 12 MB together and not alone, in whole cache lines or not
STEPS = [49232, 49235]


def results(given: dict[str, Any], dout: Any, by_channels: bool, **cut: Any) -> list[Any]:
    """out, the last state, and the gradients of the arguments."""

    def placed(x: Any) -> Any:
        return x.transpose(1, 2).contiguous().transpose(1, 2) if by_channels and x.ndim == 3 else x

    leaves = {n: placed(x).requires_grad_() for n, x in given.items()}
    found = fastiter.torch.ssm.selective_scan(**leaves, delta_softplus=True, return_last_state=True, **cut)
    gradients = torch.autograd.grad(found[0], tuple(leaves.values()), placed(dout))
    return [*(x.detach() for x in found), *gradients]


@pytest.mark.parametrize("by_channels", [False, True], ids=["time", "channels"])
@pytest.mark.parametrize("steps", STEPS)
@both_dtypes
def test_large_rows_have_the_bits_of_each_row_alone(dtype: Any, steps: int, by_channels: bool) -> None:
    T = steps * 4 // np.dtype(dtype).itemsize
    inputs = scan_inputs(ROWS, CHANNELS, T, 1, dtype).arguments()
    given = {n: torch.from_numpy(x) for n, x in inputs.items()}
    dout = torch.randn(ROWS, CHANNELS, T, dtype=given["u"].dtype)
    lengths = torch.tensor([T, T - 1000])
    together = results({n: x.clone() for n, x in given.items()}, dout, by_channels, lengths=lengths)
    of_rows = {"u", "delta", "B", "C", "z", "state"}
    for row in range(ROWS):
        own = slice(row, row + 1)
        alone = {n: x[own].clone() if n in of_rows else x.clone() for n, x in given.items()}
        found = results(alone, dout[own].clone(), by_channels, lengths=lengths[own])
        for name, mine, expected in zip(["out", "last", *given], together, found, strict=True):
            if name in of_rows or name in ("out", "last"):
                assert_same_bits(mine[own].numpy(), expected.numpy())
