"""The specification `fastiter.reference.rnn` against torch, against autograd of an independent loop, and itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastiter.reference import rnn as reference
from tests.support.cases import (
    GATES,
    RNN_CELLS,
    STATES,
    Array,
    RnnInputs,
    assert_close,
    assert_same_bits,
    normal_like,
    rnn_inputs,
)

torch = pytest.importorskip("torch")

from tests.support.pairs import pairs  # noqa: E402
from tests.support.torch_bounds import held  # noqa: E402

pack_padded_sequence = torch.nn.utils.rnn.pack_padded_sequence
pad_packed_sequence = torch.nn.utils.rnn.pad_packed_sequence

Gradients = tuple[Array, Array, Array, tuple[Array, ...]]

TORCH = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
every_cell = pytest.mark.parametrize(("cell", "activation"), RNN_CELLS, ids=[*map("".join, RNN_CELLS)])
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
with_and_without_lengths = pytest.mark.parametrize("lengths", [None, (3, 0, 5)], ids=["full", "lengths"])


def options(activation: str, **more: Any) -> dict[str, Any]:
    return {"activation": activation, **more} if activation else more


def run(cell: str, inputs: RnnInputs, activation: str, **more: Any) -> reference.Output:
    function: Callable[..., reference.Output] = getattr(reference, cell)
    return function(*inputs, **options(activation, **more))


def backward(
    cell: str, inputs: RnnInputs, activation: str, dh: Any = None, dstate: Any = None, dstates: Any = None, **more: Any
) -> Gradients:
    return reference.backward(cell, *inputs, dh, dstate, dstates, **options(activation, **more))


# ---- an independent loop, one sequence and one head at a time, differentiated by torch ------------------------------


def scalar_step(kind: str, x: Any, r: Any, b: Any, s: tuple[Any, ...]) -> tuple[Any, ...]:
    """One step of one head: x, b (G, D), r (G, D, D), every state (D,)."""
    rh = [r[g] @ s[0] + b[g] for g in range(len(r))]
    if kind in ("elmantanh", "elmanrelu"):
        return (getattr(torch, kind.removeprefix("elman"))(x[0] + rh[0]),)
    if kind == "gru":
        reset, update = torch.sigmoid(x[0] + rh[0]), torch.sigmoid(x[1] + rh[1])
        return (torch.lerp(torch.tanh(x[2] + reset * rh[2]), s[0], update),)
    a = [x[g] + rh[g] for g in range(4)]
    if kind == "lstm":
        c = torch.sigmoid(a[1]) * s[1] + torch.sigmoid(a[0]) * torch.tanh(a[2])
        return torch.sigmoid(a[3]) * torch.tanh(c), c
    log_f = torch.nn.functional.logsigmoid(a[1]) + s[3]
    m = torch.where(s[2] == 0, a[0], torch.maximum(a[0], log_f))
    i, f = torch.exp(held(a[0] - m, high=0)), torch.exp(held(log_f - m, high=0))
    c, n = f * s[1] + i * torch.tanh(a[2]), held(f * s[2] + i, low=1)
    return torch.sigmoid(a[3]) * c / n, c, n, m


def scalar_loop(
    kind: str, wx: Any, r: Any, b: Any, state: tuple[Any, ...], reverse: bool, lengths: Any
) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """Return (h, final state, states) like the reference, as torch tensors."""
    B, T, _, N, D = wx.shape
    final, every = [], []
    for sequence in range(B):
        for head in range(N):
            length = T if lengths is None else lengths[sequence]
            s = tuple(x[sequence, head] for x in state)
            steps = [tuple(torch.zeros_like(x) for x in s)] * T
            for t in range(length)[:: -1 if reverse else 1]:
                s = scalar_step(kind, wx[sequence, t, :, head], r[:, head], b[:, head], s)
                steps[t] = s
            final.append(s)
            every.append(steps)
    last = tuple(torch.stack([s[k] for s in final]).reshape(B, N, D) for k in range(len(state)))
    states = tuple(
        torch.stack([torch.stack([s[k] for s in steps]) for steps in every]).reshape(B, N, T, D).transpose(1, 2)
        for k in range(len(state))
    )
    return states[0], last, states


def leaves(inputs: RnnInputs) -> tuple[Any, Any, Any, tuple[Any, ...]]:
    wx, r, b = (torch.tensor(a, requires_grad=True) for a in inputs[:3])
    return wx, r, b, tuple(torch.tensor(s, requires_grad=True) for s in inputs.state)


def numpy(tensors: Any) -> Any:
    return tuple(numpy(t) for t in tensors) if isinstance(tensors, tuple) else tensors.detach().numpy()


def autograd(
    cell: str,
    activation: str,
    inputs: RnnInputs,
    cotangents: dict[str, Any],
    reverse: bool = False,
    lengths: Any = None,
) -> Gradients:
    """Return the result of `reference.backward`, from the independent loop."""
    wx, r, b, state = leaves(inputs)
    h, last, states = scalar_loop(cell + activation, wx, r, b, state, reverse, lengths)
    outputs = {"dh": (h,), "dstate": last, "dstates": states}
    loss = torch.zeros((), dtype=wx.dtype)
    for name, given in cotangents.items():
        for y, dy in zip(outputs[name], given if isinstance(given, tuple) else (given,), strict=True):
            loss = loss + (y * torch.tensor(dy)).sum()
    gradients = torch.autograd.grad(loss, (wx, r, b, *state), allow_unused=True, materialize_grads=True)
    dwx, dr, db, *dstate0 = (g.numpy() for g in gradients)
    return dwx, dr, db, tuple(dstate0)


def cotangent_kinds(cell: str, inputs: RnnInputs) -> dict[str, dict[str, Any]]:
    """Yield cotangents of h only, of the final states only, of all states, and of everything."""
    dstates = normal_like((inputs.wx[:, :, 0],) * len(STATES[cell]), seed=1)
    (dh,) = normal_like(dstates[:1], seed=2)
    dstate = normal_like(inputs.state, seed=3)
    every = {"dh": dh, "dstate": dstate, "dstates": dstates}
    return {**{name: {name: given} for name, given in every.items()}, "every": every}


# ---- forward --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, (5, 1, 9, 4)], ids=["full", "packed"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("cell", "activation"), [(name, act) for name, act in RNN_CELLS if name in TORCH])
def test_heads_and_directions_are_separate_torch_layers(cell: str, activation: str, heads: int, lengths: Any) -> None:
    B, T, D = 4, 9, 7
    torch.manual_seed(0)
    make = TORCH[cell]
    how = {"nonlinearity": activation} if activation else {}
    layers = [make(5, D, batch_first=True, bidirectional=True, dtype=torch.float64, **how) for _ in range(heads)]
    x = torch.randn(B, T, 5, dtype=torch.float64)
    # (direction, B, N, D)
    state = tuple(torch.randn(2, B, heads, D, dtype=torch.float64) for _ in STATES[cell])
    for direction, suffix in enumerate(("", "_reverse")):
        w, r, b_w, b = (
            torch.stack([getattr(m, f"{name}_l0{suffix}").unflatten(0, (GATES[cell], D)) for m in layers], dim=1)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        wx = torch.einsum("bti,gndi->btgnd", x, w) + b_w
        inputs = RnnInputs(*(numpy(a) for a in (wx, r, b, tuple(s[direction] for s in state))))
        h, last, _ = run(cell, inputs, activation, reverse=direction == 1, lengths=lengths)
        for n, layer in enumerate(layers):
            expected_h, expected_last = torch_layer(layer, x, tuple(s[:, :, n].contiguous() for s in state), lengths)
            assert_close(h[:, :, n], expected_h[..., direction * D : (direction + 1) * D], T, D)
            assert_close(tuple(s[:, n] for s in last), tuple(s[direction] for s in expected_last), T, D)


def torch_layer(layer: Any, x: Any, state: tuple[Any, ...], lengths: Any) -> tuple[Array, tuple[Array, ...]]:
    given = x if lengths is None else pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    h, last = layer(given, state if len(state) > 1 else state[0])
    if lengths is not None:
        h, _ = pad_packed_sequence(h, batch_first=True, total_length=x.shape[1])
    return numpy(h), numpy(last if len(state) > 1 else (last,))


@with_and_without_lengths
@both_ways
@every_cell
def test_forward_equals_the_independent_loop(cell: str, activation: str, reverse: bool, lengths: Any) -> None:
    inputs = rnn_inputs(cell, 3, 6, 2, 5, np.float64)
    wx, r, b, state = leaves(inputs)
    expected = scalar_loop(cell + activation, wx, r, b, state, reverse, lengths)
    assert_close(run(cell, inputs, activation, reverse=reverse, lengths=lengths), numpy(expected), 6, 5)


@every_cell
def test_a_missing_bias_or_state_equals_zeros(cell: str, activation: str) -> None:
    wx, r, b, state = rnn_inputs(cell, 2, 4, 2, 3, np.float64)
    function = getattr(reference, cell)
    zeros = function(wx, r, np.zeros_like(b), tuple(np.zeros_like(s) for s in state), **options(activation))
    assert_same_bits(function(wx, r, **options(activation)), zeros)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_cell
def test_dtype_is_kept_and_float32_is_float64_to_rounding(cell: str, activation: str, dtype: Any) -> None:
    T, D = 16, 8
    narrow, wide = (rnn_inputs(cell, 2, T, 2, D, np.float32), rnn_inputs(cell, 2, T, 2, D, np.float64))
    inputs = narrow if dtype == np.float32 else wide
    outputs = run(cell, inputs, activation)
    gradients = backward(cell, inputs, activation, *outputs)
    expected = run(cell, wide, activation)
    expected_gradients = backward(cell, wide, activation, *expected)
    assert_close(outputs, cast(expected, dtype), T, D)
    # The weights' gradients add up B T terms.
    assert_close(gradients, cast(expected_gradients, dtype), 2 * T, D)


def cast(arrays: Any, dtype: Any) -> Any:
    return tuple(cast(a, dtype) for a in arrays) if isinstance(arrays, tuple) else arrays.astype(dtype)


@pytest.mark.parametrize("s", [-3.0, 0.5])
def test_slstm_h_depends_only_on_c_and_n_times_exp_m(s: float) -> None:
    T, D = 12, 5
    wx, r, b, (h, c, n, m) = rnn_inputs("slstm", 3, T, 2, D, np.float64)
    # n >= 1 before and after the scaling: the clamp max(n, 1), which breaks the invariance, then never acts.
    n = n + 2
    expected, last, _ = reference.slstm(wx, r, b, (h, c, n, m))
    scaled = (h, c * np.exp(-s), n * np.exp(-s), m + s)
    h_scaled, last_scaled, _ = reference.slstm(wx, r, b, scaled)
    assert_close(h_scaled, expected, T, D)
    for k in (1, 2):
        assert_close(last_scaled[k] * np.exp(last_scaled[3]), last[k] * np.exp(last[3]), T, D)


def test_slstm_begins_where_n_is_zero_element_by_element() -> None:
    wx, r, b, (h, c, n, m) = rnn_inputs("slstm", 2, 1, 1, 6, np.float64)
    n[:] = 2.0
    n[0, 0, ::2] = 0
    _, (_, _, n_new, m_new), _ = reference.slstm(wx, r, b, (h, c, n, m))
    a = wx[:, 0] + np.einsum("gnij,bnj->bgni", r, h) + b
    log_f = m - np.log1p(np.exp(-a[:, 1]))
    assert_close(m_new, np.where(n == 0, a[:, 0], np.maximum(a[:, 0], log_f)), 1, 6)
    np.testing.assert_array_equal(n_new[n == 0], 1.0)


@every_cell
def test_saturated_gates_stay_finite(cell: str, activation: str) -> None:
    wx, r, b, state = rnn_inputs(cell, 2, 5, 1, 4, np.float32)
    for inputs in (RnnInputs(wx * 1e4, r, b, state), RnnInputs(wx * 0 - 1e4, r, b, state)):
        h, last, states = run(cell, inputs, activation)
        gradients = backward(cell, inputs, activation, h, last, states)
        for a in (h, *last, *states, *gradients[:3], *gradients[3]):
            assert np.isfinite(a).all()


# ---- edges of time and batch ----------------------------------------------------------------------------------------


@pairs
@both_ways
@pytest.mark.parametrize(("B", "T"), [(0, 4), (2, 0), (0, 0), (2, 1)])
@every_cell
def test_empty_and_single_steps(cell: str, activation: str, B: int, T: int, reverse: bool) -> None:
    inputs = rnn_inputs(cell, B, T, 2, 3, np.float64)
    h, last, states = run(cell, inputs, activation, reverse=reverse)
    assert h.shape == (B, T, 2, 3)
    assert [s.shape for s in states] == [(B, T, 2, 3)] * len(last)
    dstate = normal_like(last)
    dwx, dr, db, dstate0 = backward(cell, inputs, activation, h, dstate, reverse=reverse)
    assert (dwx.shape, dr.shape, db.shape) == (inputs.wx.shape, inputs.r.shape, inputs.b.shape)
    if T == 1:
        assert_same_bits(last, tuple(s[:, 0] for s in states))
    else:
        assert_same_bits(last, inputs.state)
        assert_same_bits(dstate0, dstate)
        assert not dr.any()
        assert not db.any()


@both_ways
@every_cell
def test_steps_beyond_a_length_are_neither_computed_nor_read(cell: str, activation: str, reverse: bool) -> None:
    T, lengths = 6, (4, 0, 6)
    inputs = rnn_inputs(cell, 3, T, 2, 5, np.float64)
    dh = normal_like((inputs.wx[:, :, 0],))[0]
    for sequence, length in enumerate(lengths):
        inputs.wx[sequence, length:] = np.nan
        dh[sequence, length:] = np.nan
    h, last, states = run(cell, inputs, activation, reverse=reverse, lengths=lengths)
    dwx, dr, db, dstate0 = backward(cell, inputs, activation, dh, inputs.state, reverse=reverse, lengths=lengths)
    total = (np.zeros_like(dr), np.zeros_like(db))
    for k, length in enumerate(lengths):
        one = slice(k, k + 1)
        alone = RnnInputs(inputs.wx[one, :length], inputs.r, inputs.b, tuple(s[one] for s in inputs.state))
        expected = run(cell, alone, activation, reverse=reverse)
        assert_close((h[one, :length], tuple(s[one] for s in last)), expected[:2], T, 5)
        for s in states:
            assert not s[k, length:].any()
        gradients = backward(cell, alone, activation, dh[one, :length], alone.state, reverse=reverse)
        assert_close(dwx[one, :length], gradients[0], T, 5)
        assert_close(tuple(s[one] for s in dstate0), gradients[3], T, 5)
        assert not dwx[k, length:].any()
        total = (total[0] + gradients[1], total[1] + gradients[2])
    assert_close((dr, db), total, 3 * T, 5)
    assert_same_bits(tuple(s[1] for s in last), tuple(s[1] for s in inputs.state))


@pairs
@with_and_without_lengths
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@both_ways
@every_cell
def test_the_state_continues_a_sequence_bit_for_bit(
    cell: str, activation: str, reverse: bool, dtype: Any, lengths: Any
) -> None:
    inputs = rnn_inputs(cell, 3, 7, 2, 5, dtype)
    whole = run(cell, inputs, activation, reverse=reverse, lengths=lengths)
    for split in range(8):
        pieces, state = {}, inputs.state
        for part in (slice(split, None), slice(split)) if reverse else (slice(split), slice(split, None)):
            piece = inputs._replace(wx=inputs.wx[:, part], state=state)
            left = None if lengths is None else np.clip(np.array(lengths) - (part.start or 0), 0, piece.wx.shape[1])
            pieces[part.start], state, _ = run(cell, piece, activation, reverse=reverse, lengths=left)
        assert_same_bits(np.concatenate([pieces[None], pieces[split]], axis=1), whole[0])
        assert_same_bits(state, whole[1])


@every_cell
def test_arguments_are_not_written(cell: str, activation: str) -> None:
    inputs = rnn_inputs(cell, 2, 3, 1, 2, np.float64)
    cotangents = cotangent_kinds(cell, inputs)["every"]
    arrays = [*inputs[:3], *inputs.state, cotangents["dh"], *cotangents["dstate"], *cotangents["dstates"]]
    for a in arrays:
        a.setflags(write=False)
    _, last, _ = run(cell, inputs, activation)
    gradients = backward(cell, inputs, activation, **cotangents)
    assert not any(np.shares_memory(a, out) for a in arrays for out in (*last, *gradients[:3], *gradients[3]))


# ---- backward -------------------------------------------------------------------------------------------------------


@pairs
@pytest.mark.parametrize("kind", ["dh", "dstate", "dstates", "every"])
@with_and_without_lengths
@both_ways
@every_cell
def test_backward_equals_autograd(cell: str, activation: str, reverse: bool, lengths: Any, kind: str) -> None:
    B, T, D = 3, 6, 5
    inputs = rnn_inputs(cell, B, T, 2, D, np.float64)
    cotangents = cotangent_kinds(cell, inputs)[kind]
    gradients = backward(cell, inputs, activation, **cotangents, reverse=reverse, lengths=lengths)
    assert_close(gradients, autograd(cell, activation, inputs, cotangents, reverse, lengths), B * T, D)


@pairs
@with_and_without_lengths
@both_ways
@every_cell
def test_backward_equals_the_central_difference(cell: str, activation: str, reverse: bool, lengths: Any) -> None:
    inputs = rnn_inputs(cell, 3, 5, 2, 2, np.float64)
    kinds = cotangent_kinds(cell, inputs)
    outputs = {"dh": 0, "dstate": 1, "dstates": 2}

    def losses() -> Array:
        results = run(cell, inputs, activation, reverse=reverse, lengths=lengths)
        values = []
        for name, k in outputs.items():
            given, got = kinds[name][name], results[k]
            pairs = [(given, got)] if name == "dh" else list(zip(given, got, strict=True))
            values.append(sum(float((d * y).sum()) for d, y in pairs))
        return np.array(values)

    gradients = [
        backward(cell, inputs, activation, **kinds[name], reverse=reverse, lengths=lengths) for name in outputs
    ]
    flat_gradients = [(*g[:3], *g[3]) for g in gradients]
    step = 1e-5
    for position, x in enumerate((*inputs[:3], *inputs.state)):
        for index in np.ndindex(x.shape):
            # Position 5 is n'. At n' = 0 m is discontinuous, so a difference quotient has no limit.
            if position == 5 and x[index] == 0:
                continue
            middle = x[index]
            x[index] = middle + step
            above = losses()
            x[index] = middle - step
            below = losses()
            x[index] = middle
            exact = [g[position][index] for g in flat_gradients]
            # Truncation step^2 f'''/6 and rounding eps f / step: both near 1e-10 here.
            np.testing.assert_allclose((above - below) / (2 * step), exact, rtol=1e-8, atol=2e-9)


@pytest.mark.parametrize("n", [0.0, 2.0])
def test_slstm_gradient_where_the_gates_tie(n: float) -> None:
    # Forget gate open to the last bit, log f = 0, so that a_i = m' is the tie a_i = log f + m'.
    wx = np.array([0.5, 800.0, 0.3, -0.2]).reshape(1, 1, 4, 1, 1)
    r, b = np.zeros((4, 1, 1, 1)), np.zeros((4, 1, 1))
    state = tuple(np.full((1, 1, 1), x) for x in (0.1, 0.7, n, 0.5))
    inputs = RnnInputs(wx, r, b, state)
    for k in range(4):
        dstate = tuple(np.full((1, 1, 1), float(j == k)) for j in range(4))
        gradients = reference.backward("slstm", *inputs, None, dstate)
        assert_close(gradients, autograd("slstm", "", inputs, {"dstate": dstate}), scale=1.0)
    # The last cotangent was m's own.
    share = 1.0 if n == 0 else 0.5
    assert (gradients[0][0, 0, 0, 0, 0], gradients[3][3][0, 0, 0]) == (share, 1 - share)


@every_cell
def test_nan_reaches_the_gradients_that_it_reaches_in_autograd(cell: str, activation: str) -> None:
    """It also reaches a few more of the sLSTM's, where the loop's autograd takes NaN for the smaller of two."""
    for k in range(2):  # in the input of one step, in one weight
        inputs = rnn_inputs(cell, 3, 4, 2, 3, np.float64)
        (inputs.wx[1, 2, 0, 0, 1:2], inputs.r[0, 1, 2, :1])[k][...] = np.nan
        for cotangents in cotangent_kinds(cell, inputs).values():
            found = backward(cell, inputs, activation, **cotangents)
            expected = autograd(cell, activation, inputs, cotangents)
            for y, e in zip((*found[:3], *found[3]), (*expected[:3], *expected[3]), strict=True):
                more = np.isnan(y) if cell == "slstm" else np.zeros(y.shape, bool)
                np.testing.assert_allclose(y, np.where(more, np.nan, e), rtol=1e-10, atol=1e-10, equal_nan=True)


def test_relu_gradient_is_zero_at_zero() -> None:
    zeros = np.zeros((1, 1, 1, 1, 1))
    dwx, _, _, _ = reference.backward("elman", zeros, zeros[0], None, None, zeros[0] + 1, activation="relu")
    assert dwx.item() == 0
