"""One step of a whole mixer in one call: convolution and state as specified, between plain products."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter import _core  # noqa: E402
from fastiter.ssm import reference, reference_conv  # noqa: E402
from tests.ssm.mixer_step_calls import MIXERS, Step, mixer_step  # noqa: E402
from tests.support.cases import Array  # noqa: E402

both = pytest.mark.parametrize("kind", MIXERS)
RUN = {"mamba": _core.ssm.mamba_step, "mamba2": _core.ssm.mamba2_step}


def run(kind: str, step: Step) -> Any:
    return RUN[kind](*step[:5], *step.sizes)


class Results(NamedTuple):
    """The output and the states after the step."""

    out: Array
    conv_state: Array
    state: Array


def specified(kind: str, step: Step) -> Results:
    """The step in float64, from the numbers as stored."""

    def wide(x: Any) -> Any:
        return None if x is None else x.double().numpy().copy()

    into, into_bias, conv, conv_bias, out_of, out_bias = map(wide, step.layers)
    x, conv_state, state = wide(step.x)[:, 0], wide(step.conv_state), wide(step.state)
    weights = [wide(w) for w in step.weights]
    projected = x @ into.T + (0 if into_bias is None else into_bias)

    def convolved(u: Array) -> tuple[Array, Array]:
        y, after = reference_conv.causal_conv1d_update(
            u[:, :, None], conv_state, conv[:, 0], conv_bias, activation=True
        )
        return y[:, :, 0], after

    if kind == "mamba":
        x_proj, dt_proj, dt_bias, A_log, D = weights
        channels, states = A_log.shape
        rank = dt_proj.shape[1]
        u, after = convolved(projected[:, :channels])
        dt, B, C = np.split(u @ x_proj.T, [rank, rank + states], 1)
        signals = (u[:, None], (dt @ dt_proj.T)[:, None], -np.exp(A_log)[None], B[:, None], C[:, None])
        rest = (D[None], projected[:, None, channels:], None if dt_bias is None else dt_bias[None])
        y, new = reference.selective_state_update(state[:, None], *signals, *rest, True)
        y, new = y[:, 0], new[:, 0]
    else:
        dt_bias, A_log, D, norm = weights
        (groups, group, eps), (rows, heads, width, states) = step.sizes[0], state.shape
        channels = heads * width
        gate, u, dt = np.split(projected, [channels, 2 * channels + 2 * groups * states], 1)
        u, after = convolved(u)
        u, B, C = np.split(u, [channels, channels + groups * states], 1)
        B, C = (z.reshape(rows, groups, states) for z in (B, C))
        A = np.broadcast_to(-np.exp(A_log)[:, None, None], (heads, width, states))
        signals = (u.reshape(rows, heads, width), dt[:, :, None], A, B, C)
        y, new = reference.selective_state_update(state, *signals, D[:, None], None, dt_bias[:, None], True)
        h = (y.reshape(rows, channels) * reference_conv.silu(gate)).reshape(rows, -1, group)
        y = norm * (h / np.sqrt((h * h).mean(-1, keepdims=True) + eps)).reshape(rows, channels)
    return Results(y @ out_of.T + (0 if out_bias is None else out_bias), after, new)


#: rows; then (inputs, channels or heads, states, rank or width, taps): less than a vector, one and its neighbours, more
SIZES = [(1, 1, 1, 1, 1), (19, 37, 5, 3, 4), (16, 16, 16, 2, 4), (33, 31, 17, 7, 3), (64, 128, 16, 4, 4)]


@both
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sizes(kind: str, dtype: str) -> None:
    for number, size in enumerate(SIZES):
        for rows in (1, 2, 3, 7, 8):
            for bare in (False, True):
                stored = "float32" if bare or dtype == "float32" else dtype  # dtype of the states
                step = mixer_step(kind, rows, size, dtype, stored, bare=bare, seed=number)
                expected = specified(kind, step)
                out = run(kind, step)
                assert out is not None and out.shape == step.x.shape and out.dtype == step.x.dtype
                bound = 2**-18 if dtype == "float32" else 2**-5
                for found, exact in zip((out[:, 0], step.conv_state, step.state), expected, strict=True):
                    scale = max(float(np.abs(exact).max()), 1e-30)
                    error = float(np.abs(found.double().numpy() - exact).max()) / scale
                    assert error <= bound, (size, rows, bare, error)


@both
def test_the_same_bits_on_any_number_of_threads_and_for_any_row(kind: str) -> None:
    size = (520, 600, 40, 24, 4) if kind == "mamba" else (520, 8, 64, 64, 4)
    step = mixer_step(kind, 8, size, "float32", "float32")
    fastiter.set_num_threads(1)
    one = step.copy()
    out = run(kind, one)
    fastiter.set_num_threads(2)
    two = step.copy()
    assert run(kind, two).equal(out) and two.state.equal(one.state) and two.conv_state.equal(one.conv_state)
    alone = Step(step.x[3:4], *step[1:3], *(x[3:4].clone() for x in step[3:5]), step.sizes)
    assert run(kind, alone).equal(out[3:4]) and alone.state.equal(one.state[3:4])
    spoiled = step.copy()
    spoiled.x[2], spoiled.state[5], spoiled.conv_state[6] = torch.nan, torch.inf, torch.nan
    other = run(kind, spoiled)
    for row in range(8):
        if row in (2, 5, 6):
            assert not other[row].isfinite().all()
        else:
            assert other[row].equal(out[row]) and spoiled.state[row].equal(one.state[row])


@both
def test_arguments_that_do_not_fit_change_nothing(kind: str) -> None:
    right = mixer_step(kind, 2, (19, 8, 5, 3, 4), "float32", "float32")
    nine = mixer_step(kind, 9, (19, 8, 5, 3, 4), "float32", "float32")
    two_steps, of_width = torch.randn(2, 2, 19), torch.randn(2, 1, 20)
    wrong = [nine, *(right._replace(x=x) for x in (two_steps, of_width, right.x.double(), right.x.bfloat16(), None))]
    wrong += [right._replace(x=x) for x in (right.x.to_sparse(), torch.empty(0, 1, 19))]
    for place in range(6):
        layers = list(right.layers)
        for other in (layers[place].double(), layers[place][1:], layers[place].repeat_interleave(2, -1)[..., ::2], 3.0):
            wrong.append(right._replace(layers=(*layers[:place], other, *layers[place + 1 :])))
    for place, weight in enumerate(right.weights):
        for other in (weight.double(), weight[1:], "x"):
            wrong.append(right._replace(weights=(*right.weights[:place], other, *right.weights[place + 1 :])))
    for name in ("conv_state", "state"):
        x = getattr(right, name)
        spread = x.repeat_interleave(2, 0)[::2]
        wrong += [right._replace(**{name: y}) for y in (x.double(), x[1:], x[:, :-1].contiguous(), x[0], spread, None)]
    if kind == "mamba2":
        wrong += [right._replace(sizes=((*sizes, 1e-6),)) for sizes in ((3, 24), (0, 24), (2, 7), (2, 0), (4, 24))]
    for step in wrong:
        before = [x.clone() if isinstance(x, torch.Tensor) else x for x in (step.conv_state, step.state)]
        assert run(kind, step) is None
        for x, y in zip((step.conv_state, step.state), before, strict=True):
            assert x is None or x.equal(y)
