"""torch.ssm.causal_conv1d_update and causal_conv1d_varlen_states: steps with a state, and the states of packed rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter import ssm  # noqa: E402
from tests.rnn.test_torch_ops import assert_equal, compiled, opcheck  # noqa: E402
from tests.ssm.conv_calls import conv_inputs  # noqa: E402
from tests.ssm.tensors.test_torch_causal_conv import OPS, leaves  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.*torch.jit.script")


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float64])
def test_steps(stored: Any) -> None:
    dtype = np.float64 if stored == torch.float64 else np.float32
    x, weight, bias, _ = (torch.from_numpy(y).to(stored) for y in conv_inputs(3, 20, 2, 4, dtype))
    start = torch.randn(5, 20, 4, dtype=torch.float64).to(stored)
    wide = [y.to(torch.float64 if dtype == np.float64 else torch.float32).numpy() for y in (x, start, weight, bias)]
    for options in ({}, {"cache_seqlens": [3, 0, 9]}):
        state, array = start.clone(), wide[1].copy()
        more = {"conv_state_indices": [2, -1, 0], **options}
        expected = ssm.causal_conv1d_update(wide[0], array, *wide[2:], "silu", **more)
        version, pointer = state._version, state.data_ptr()
        out = fastiter.torch.ssm.causal_conv1d_update(x, state, weight, bias, "silu", **more)
        assert out.dtype == stored and state.data_ptr() == pointer
        assert state._version > version  # autograd sees the change
        assert torch.equal(out, torch.from_numpy(expected).to(stored))
        assert torch.equal(state, torch.from_numpy(array).to(stored))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
def test_steps_without_gradients_are_those_of_the_op(stored: Any) -> None:
    """Plain tensors skip the checks in Python; others, such as strided states, go through the op."""
    x, weight, bias, start = (torch.randn(n, dtype=stored) for n in ((2, 21, 2), (21, 4), 21, (2, 21, 4)))
    for steps in (x, x[..., 0], x.transpose(1, 2).contiguous().transpose(1, 2)):
        for given in ((weight, bias), (weight, None)):
            for strided in (False, True):
                states = [start.clone(memory_format=torch.contiguous_format) for _ in range(2)]
                mine = states[0].transpose(0, 1).contiguous().transpose(0, 1) if strided else states[0]
                version = mine._version
                with torch.no_grad():
                    out = fastiter.torch.ssm.causal_conv1d_update(steps, mine, *given, "silu")
                expected = OPS._causal_conv_update(states[1], steps, *given, True, None, None)
                assert torch.equal(out, expected) and torch.equal(mine, states[1])
                assert out.is_contiguous() and mine._version > version
    with torch.inference_mode():
        state = start.clone()
        assert torch.equal(
            fastiter.torch.ssm.causal_conv1d_update(x, state, weight, bias, "silu"),
            OPS._causal_conv_update(start.clone(), x, weight, bias, True, None, None),
        )
    with torch.no_grad(), pytest.raises(ValueError, match="conv_state must have shape"):
        fastiter.torch.ssm.causal_conv1d_update(x, start[..., :2], weight, bias)


def test_steps_under_torch_s_checks_and_compiled() -> None:
    x, weight, bias, state = (torch.from_numpy(y) for y in conv_inputs(2, 6, 1, 4, np.float32))
    opcheck(OPS._causal_conv_update, state, x, weight, bias, True, torch.tensor([1, 0]), torch.tensor([1, 0]))

    def step(state: Any) -> Any:
        return fastiter.torch.ssm.causal_conv1d_update(x, state, weight, bias, "silu") * 2

    results = []
    for function in (compiled(step), step):
        own = state.clone()
        results.append([function(own), own])
    assert_equal(*results)
    negated = torch._neg_view(-state)
    assert torch.equal(step(negated), results[1][0]) and torch.equal(negated, results[1][1])


def test_steps_refuse_gradients() -> None:
    x, weight, bias, state = leaves(conv_inputs(2, 6, 1, 4, np.float32)).values()
    with pytest.raises(RuntimeError, match="causal_conv1d_update: arguments must not require a gradient"):
        fastiter.torch.ssm.causal_conv1d_update(x, state.detach(), weight, bias)
    with torch.no_grad():
        fastiter.torch.ssm.causal_conv1d_update(x, state, weight, bias)


def test_the_states_of_packed_sequences() -> None:
    states_of = fastiter.torch.ssm.causal_conv1d_varlen_states
    x, bounds = torch.randn(30, 5, dtype=torch.float64, requires_grad=True), [0, 2, 2, 11, 30]
    for state_len in (0, 1, 3, 9):
        expected = ssm.causal_conv1d_varlen_states(x.detach().numpy(), bounds, state_len)
        assert_same_bits(states_of(x, bounds, state_len).detach().numpy(), expected)
    assert torch.autograd.gradcheck(lambda y: states_of(y, bounds, 4), x)
    fast = compiled(lambda y, cut: states_of(y, cut, 3) * 2)
    assert torch.equal(fast(x.detach(), torch.tensor(bounds)), 2 * states_of(x.detach(), bounds, 3))
    assert states_of(x.to("meta"), torch.tensor(bounds), 2).shape == (4, 5, 2)
