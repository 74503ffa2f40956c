"""The recurrences on bfloat16: wx, r, b, h are stored in it, computed with as float32, and rounded once per store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
bfloat16 = pytest.importorskip("ml_dtypes").bfloat16

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from fastiter.reference import rnn as reference  # noqa: E402
from tests.rnn.calls import both_ways, every_cell, full_and_ragged, options, some_lengths  # noqa: E402
from tests.support.cases import Array, RnnInputs, assert_same_bits, rnn_inputs, tolerance  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

# More rows than a tile, and depths k that are no multiple of a tile: 17 and 50
SIZES = [(5, 9, 2, 17), (1, 6, 1, 130), (7, 4, 1, 5), (35, 3, 1, 50), (3, 5, 1, 64), (2, 3, 1, 1), (2, 0, 1, 3)]
EPS = 2.0**-8


def half(inputs: RnnInputs) -> RnnInputs:
    """Round to bfloat16, except the states other than h."""
    wx, r, b, (h, *others) = inputs
    as_half = [x.astype(bfloat16) for x in (wx, r, b, h)]
    return RnnInputs(*as_half[:3], (as_half[3], *(s.astype(np.float32) for s in others)))


def half_inputs(cell: str, B: int, T: int, N: int, D: int) -> RnnInputs:
    return half(rnn_inputs(cell, B, T, N, D, np.float32))


def run(cell: str, activation: str, inputs: Any, **more: Any) -> Any:
    """Return (h, final states, states of all steps) of the kernels, on arrays or tensors."""
    functions = fastiter if isinstance(inputs.wx, np.ndarray) else fastiter.torch
    return getattr(functions, cell)(*inputs, **options(activation, return_all_states=True, **more))


def flat(output: Any) -> tuple[Any, ...]:
    h, last, states = output
    return (h, *last, *states[1:])


def tensor(x: Array) -> Any:
    if x.dtype == bfloat16:
        return torch.from_numpy(x.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def array(x: Any) -> Array:
    x = x.detach().contiguous()
    return x.view(torch.uint16).numpy().view(bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


def leaves(inputs: RnnInputs) -> RnnInputs:
    """Return the inputs as tensors that require gradients."""
    wx, r, b = (tensor(x).requires_grad_() for x in inputs[:3])
    return RnnInputs(wx, r, b, tuple(tensor(s).requires_grad_() for s in inputs.state))


def gradients(cell: str, activation: str, inputs: RnnInputs, cotangents: list[Array], **more: Any) -> tuple[Array, ...]:
    given = leaves(inputs)
    outputs = flat(run(cell, activation, given, **more))
    every = torch.autograd.grad(outputs, (*given[:3], *given.state), [tensor(c) for c in cotangents])
    return tuple(map(array, every))


def assert_near(actual: Any, expected: Any, length: int, width: int) -> None:
    """Assert equal dtypes, and values equal up to intermediate roundings to bfloat16 that go the other way."""
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert a.shape == e.shape
        if e.size == 0:
            continue
        error, largest = np.abs(a.astype(np.float32) - e.astype(np.float32)), float(np.abs(e.astype(np.float32)).max())
        few = tolerance(np.float32, length, width) / float(np.finfo(np.float32).eps) * EPS
        assert error.max() <= few * largest
        assert error.mean() <= EPS / 2 * largest


@pairs
@full_and_ragged
@both_ways
@every_cell
def test_sizes(cell: str, activation: str, reverse: bool, ragged: bool) -> None:
    for B, T, N, D in SIZES:
        inputs = half_inputs(cell, B, T, N, D)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None, "clip_state": 0.9}
        actual = run(cell, activation, inputs, **how)
        expected = getattr(reference, cell)(*inputs, **options(activation, **how))
        assert_near(flat(actual), flat(expected), T, D)
        assert_same_bits(flat(tuple_of_arrays(run(cell, activation, leaves(inputs), **how))), flat(actual))


def tuple_of_arrays(output: Any) -> Any:
    h, last, states = output
    return array(h), tuple(map(array, last)), tuple(map(array, states))


@both_ways
@every_cell
def test_one_step_is_rounded_once(cell: str, activation: str, reverse: bool) -> None:
    """One step has no intermediate rounding: an element equals the specification's or, near a tie, its neighbour."""
    inputs = half_inputs(cell, 40, 1, 2, 33)
    h, _, _ = run(cell, activation, inputs, reverse=reverse)
    expected, _, _ = getattr(reference, cell)(*inputs, **options(activation, reverse=reverse))
    off = np.abs(h.view(np.int16).astype(int) - expected.view(np.int16).astype(int))
    assert off.max() <= 1
    assert (off == 0).mean() > 0.995


@pairs
@full_and_ragged
@both_ways
@every_cell
def test_gradients(cell: str, activation: str, reverse: bool, ragged: bool) -> None:
    for B, T, N, D in SIZES[:5]:
        inputs = half_inputs(cell, B, T, N, D)
        how: dict[str, Any] = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None, "clip_grad": 2.0}
        outputs = run(cell, activation, inputs, reverse=reverse, lengths=how["lengths"])
        cotangents = [np.cos(y.astype(np.float32)).astype(y.dtype) for y in flat(outputs)]
        count = 1 + len(inputs.state)
        nothing = np.zeros_like(outputs[0])
        expected = reference.backward(
            *(cell, *inputs, cotangents[0], cotangents[1:count], [nothing, *cotangents[count:]]),
            **options(activation, **how),
        )
        actual = gradients(cell, activation, inputs, cotangents, **how)
        assert_near(actual, (*expected[:3], *expected[3]), B * T, D)


@pairs
@both_ways
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("T", [0, 1, 100, 301])
@pytest.mark.parametrize(("drops", "with_state"), [(False, True), (False, False), (True, True)])
def test_the_gradient_of_r_is_rounded_once(drops: bool, with_state: bool, T: int, cell: str, reverse: bool) -> None:
    """Odd numbers of steps, below and above the block that is summed at once, have equal bits on 1 and 3 threads."""
    B, N, D = 7, 2, 17
    inputs = leaves(half_inputs(cell, B, T, N, D))
    given = inputs if with_state else inputs._replace(state=None)
    reset = torch.arange(B * T).view(B, T) % 5 == 3 if drops else None
    dr = []
    for threads in (1, 3):
        fastiter.set_num_threads(threads)
        h, _, _ = run(cell, "", given, reverse=reverse, reset=reset)
        dp, gradient = torch.autograd.grad(h, (inputs.wx, inputs.r), torch.cos(h.detach()))
        dr.append(array(gradient))
    assert_same_bits(dr[1], dr[0])
    gates = 2 if cell == "gru" else 4  # the third gate's dq is not part of dwx
    first = inputs.state[0].unsqueeze(1) * with_state
    before = torch.cat([h[:, 1:], first] if reverse else [first, h[:, :-1]], 1)[:, :T].detach().double()
    if reset is not None:
        before[reset] = 0
    dp = dp.double()[:, :, :gates]
    exact, most = (torch.einsum("btgni,btnj->gnij", a, b).numpy() for a, b in ((dp, before), (dp.abs(), before.abs())))
    of_sum = B * T * np.finfo(np.float32).eps * most
    found = dr[0].astype(np.float64)
    assert np.isfinite(found).all()
    assert (np.abs(found[:gates] - exact) <= EPS * (np.abs(exact) + of_sum) + of_sum).all()


@every_cell
def test_equal_bits(cell: str, activation: str) -> None:
    """A sequence in two parts, single rows, any number of threads, packed sequences, resets at their starts."""
    B, T, N, D = 3, 8, 2, 33
    inputs = half_inputs(cell, B, T, N, D)
    whole = run(cell, activation, inputs)
    _, state, first = run(cell, activation, inputs._replace(wx=inputs.wx[:, :3]))
    _, last, second = run(cell, activation, inputs._replace(wx=inputs.wx[:, 3:], state=state))
    assert_same_bits((whole[1], whole[2]), (last, tuple(np.concatenate(s, 1) for s in zip(first, second, strict=True))))
    for threads in (1, 2, 5):
        fastiter.set_num_threads(threads)
        assert_same_bits(run(cell, activation, inputs), whole)
    one_row = inputs._replace(wx=inputs.wx.reshape(1, B * T, -1, N, D))
    h, last, _ = run(cell, activation, one_row, cu_seqlens=[0, T, 2 * T, 3 * T])
    assert_same_bits((h.reshape(whole[0].shape), last), whole[:2])
    reset = np.zeros((1, B * T), bool)
    reset[0, ::T] = True
    zeros = tuple(np.zeros_like(s) for s in inputs.state)
    one_state = tuple(s[:1] for s in inputs.state)
    h, _, _ = run(cell, activation, one_row._replace(state=one_state), reset=reset)
    assert_same_bits(h.reshape(whole[0].shape), run(cell, activation, inputs._replace(state=zeros))[0])


@pairs
@full_and_ragged
@both_ways
@every_cell
def test_checkpoints_change_no_bit(cell: str, activation: str, reverse: bool, ragged: bool) -> None:
    """Between two chunks the gradient of h is carried in float32."""
    for B, T, N, D in ((5, 9, 2, 17), (1, 6, 1, 130), (7, 4, 1, 5)):
        inputs = half_inputs(cell, B, T, N, D)
        how: dict[str, Any] = {"reverse": reverse, "clip_state": 0.5, "clip_grad": 0.5}
        how["lengths"] = some_lengths(B, T) if ragged else None
        how["reset"] = torch.arange(B * T).view(B, T) % 5 == 3
        cotangents = [np.cos(y.astype(np.float32)).astype(y.dtype) for y in flat(run(cell, activation, inputs))]
        expected = gradients(cell, activation, inputs, cotangents, **how)
        for every in (1, 4, 100):
            assert_same_bits(gradients(cell, activation, inputs, cotangents, checkpoint=every, **how), expected)


@pairs
@every_cell
@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("D", [1, 7, 17, 18, 24, 40, 64])
def test_nonfinite_values_spread_no_further_than_in_float32(cell: str, activation: str, D: int, B: int) -> None:
    """Padding of the tile beyond D stays 0 for any state, whether or not D is a multiple of the tile."""
    T = 6
    inputs = half_inputs(cell, B, T, 1, D)
    inputs.wx[:, 1] = np.nan
    inputs.state[0][0, 0, 0] = np.inf
    reset = np.arange(T) == 3
    for drop in (None, np.broadcast_to(reset, (B, T))):
        wide = RnnInputs(*(x.astype(np.float32) for x in inputs[:3]), tuple(s.astype(np.float32) for s in inputs.state))
        h, expected = (run(cell, activation, given, reset=drop)[0] for given in (inputs, wide))
        np.testing.assert_array_equal(np.isnan(h.astype(np.float32)), np.isnan(expected))
        assert np.isnan(expected[:, 2]).all() and np.isnan(expected[:, 3:]).any() == (drop is None)
    start = RnnInputs(inputs.wx[:, 3:], *inputs[1:3], tuple(np.zeros_like(s) for s in inputs.state))
    assert_same_bits(run(cell, activation, inputs, reset=drop)[0][:, 3:], run(cell, activation, start)[0])


@every_cell
def test_autocast(cell: str, activation: str) -> None:
    inputs = rnn_inputs(cell, 3, 4, 2, 17, np.float32)
    given = leaves(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = run(cell, activation, given)
    assert_same_bits(tuple_of_arrays(outputs), run(cell, activation, half(inputs)))
    outputs[0].float().sum().backward()
    assert given.wx.grad.dtype == given.r.grad.dtype == torch.float32
    with (
        torch.autocast("cpu", dtype=torch.float16),
        pytest.raises(TypeError, match="wx must have dtype float32, float64"),
    ):
        run(cell, activation, given)


@every_cell
def test_opcheck(cell: str, activation: str) -> None:
    name = f"{cell}_{activation}" if activation else cell
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    wx, r, b, state = leaves(half_inputs(cell, 3, 4, 2, 5))
    inputs = [x.detach() for x in (wx, r, b)]
    arguments = (name, *inputs, [x.detach() for x in state], False, None, None, True, True)
    torch.library.opcheck(torch.ops.fastiter._rnn_fwd.default, arguments, test_utils=checks)


def test_errors() -> None:
    inputs = half_inputs("lstm", 2, 3, 1, 4)
    tensors = leaves(inputs)
    wrong: list[tuple[RnnInputs, str]] = [
        (inputs._replace(r=inputs.r.astype(np.float32)), "r must have dtype bfloat16 like wx, got float32"),
        (inputs._replace(state=(inputs.state[0],) * 2), "state c must have dtype float32 to go with bfloat16 wx"),
        (inputs._replace(wx=inputs.wx.astype(np.float16)), "wx must be a NumPy array of .*, as float16 cannot hold"),
        (tensors._replace(r=tensors.r.float()), "r must have dtype torch.bfloat16 like wx, got torch.float32"),
        (tensors._replace(state=(tensors.state[0],) * 2), "state c must have dtype torch.float32"),
        (tensors._replace(wx=tensors.wx.half()), "wx must have dtype .*, as float16 cannot hold"),
    ]
    for arguments, message in wrong:
        with pytest.raises(TypeError, match=f"lstm: {message}"):
            run("lstm", "", arguments)


def test_stored_values_are_rounded_to_nearest_even() -> None:
    """h = max(wx + b, 0) for sums halfway between two bfloat16 numbers, denormal, beyond the largest, NaN."""
    rng = np.random.default_rng(0)
    wx = rng.integers(0x1000, 0x7F80, 4096).astype(np.uint16)
    wx[:64] = range(64)  # denormals
    wx[64:72] = [0x7F80, 0x7FC0, 0x7FA0, 0x7F7F, 0x7F7F, 0x7F7F, 0x0080, 0x0000]
    exponent = (wx >> 7).astype(np.int32) - 127 - 7
    # Quarters of the last place, which float32 represents exactly
    b = np.ldexp(rng.integers(0, 4, wx.size) / np.float32(4), exponent).astype(np.float32)
    b[(wx < 0x1000) | (wx >= 0x7F80)] = 0
    b[67:70] = np.ldexp(np.float32([0.25, 0.5, 0.75]), exponent[67:70])
    x = wx.view(bfloat16)
    with np.errstate(all="ignore"):
        expected = (x.astype(np.float32) + b).astype(bfloat16)
    N, D = 128, 32
    given = (x.reshape(1, 1, 1, N, D), np.zeros((1, N, D, D), bfloat16), b.astype(bfloat16).reshape(1, N, D))
    h = fastiter.elman(*given, activation="relu")[0].reshape(-1)
    is_nan = np.isnan(expected.astype(np.float32))
    assert np.isnan(h.astype(np.float32))[is_nan].all() and is_nan.sum() == 2
    np.testing.assert_array_equal(h.view(np.uint16)[~is_nan], expected.view(np.uint16)[~is_nan])
