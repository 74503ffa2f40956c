"""delta_scan from the last step to the first, on arrays and tensors, with gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastiter
from tests.delta.calls import delta_inputs, run, some_bounds, some_resets
from tests.rnn.calls import some_lengths
from tests.support.cases import assert_same_bits, nans

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")

B, T = 3, 40
ROWS: dict[str, Any] = {
    "whole": {},
    "reset": {"reset": some_resets(B, T)},
    "one reset for all": {"reset": some_resets(1, T)[0]},
    "lengths": {"lengths": some_lengths(B, T), "reset": some_resets(B, T)},
    "packed": {"cu_seqlens": some_bounds(3, T), "reset": some_resets(1, T)},
}


def case(rows: str, M: int | None) -> Any:
    packed = rows == "packed"
    return delta_inputs(1 if packed else B, T, 2, 5, 3, M=M, rows=3 if packed else None)


@pytest.mark.parametrize("M", [None, 2])
@pytest.mark.parametrize("rows", ROWS)
def test_equals_the_specification(rows: str, M: int | None) -> None:
    inputs, how = case(rows, M), {**ROWS[rows], "reverse": True}
    expected = run(inputs, backend="reference", **how)
    for method in ("sequential", "chunk"):
        out = nans(expected[0].shape, np.float64)
        o, last = run(inputs, method=method, out=out, **how)
        assert o is out
        for actual, e in zip((o, last), expected, strict=True):
            np.testing.assert_allclose(actual, e, rtol=1e-10, atol=1e-10)
        assert_same_bits(run(inputs, method=method, **how), (o, last))


@pytest.mark.parametrize("rows", ROWS)
def test_gradients_and_second_derivatives(rows: str) -> None:
    torch = pytest.importorskip("torch")
    from tests.delta import torch_calls as calls
    from tests.delta.test_torch_functional import check_gradients

    inputs, how = case(rows, None), {**ROWS[rows], "reverse": True}
    assert_same_bits(calls.numpy(calls.run(calls.leaves(inputs), **how)), run(inputs, **how))
    check_gradients(inputs, T, "auto", 64, **how)
    if rows == "lengths":
        small = [x[:, :4].detach().requires_grad_() for x in calls.leaves(inputs)[:4]]
        short = {"lengths": [4, 0, 2], "reverse": True}
        check = lambda *x: fastiter.torch.delta_scan(*x, **short)  # noqa: E731
        assert torch.autograd.gradgradcheck(check, small, fast_mode=True)


@pytest.mark.parametrize("rows", ["whole", "lengths", "packed"])
def test_in_a_graph(rows: str) -> None:
    torch = pytest.importorskip("torch")
    from tests.delta import torch_calls as calls

    inputs, how = case(rows, None), {**ROWS[rows], "reverse": True}
    how = {name: torch.as_tensor(x) if name != "reverse" else x for name, x in how.items()}
    given = calls.leaves(inputs)[:5]
    compiled = torch.compile(fastiter.torch.delta_scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given, **how), fastiter.torch.delta_scan(*given, **how), rtol=0, atol=0)


def test_refusals() -> None:
    inputs = case("lengths", None)
    with pytest.raises(TypeError, match=r"^delta_scan: reverse must be a bool, got int$"):
        run(inputs, reverse=1)
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(x) for x in inputs[:5]]
    with pytest.raises(TypeError, match=r"^delta_scan: reverse must be a bool, got int$"):
        fastiter.torch.delta_scan(*tensors, reverse=1)
    with pytest.raises(ValueError, match=rf"^delta_scan: lengths must be from 0 to T = {T}, got {T + 1}$"):
        fastiter.torch.delta_scan(*tensors, reverse=True, lengths=torch.tensor([1, 2, T + 1]))
    one = [x[:1] for x in tensors[:4]]
    with pytest.raises(ValueError, match=rf"^delta_scan: cu_seqlens must rise from 0 to T = {T}, got 0 to 3$"):
        fastiter.torch.delta_scan(*one, reverse=True, cu_seqlens=torch.tensor([0, 3]))
