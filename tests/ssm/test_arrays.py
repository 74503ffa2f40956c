"""selective_scan and selective_state_update on arrays: the numbers of the specification for every size and layout."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import ssm
from fastiter.ssm import reference
from tests.ssm.calls import (
    ScanInputs,
    assert_near,
    both_dtypes,
    scan_inputs,
    some_bounds,
    some_lengths,
    some_resets,
    specified,
)
from tests.support.cases import Array, assert_same_bits
from tests.support.layouts import LAYOUTS

#: (rows, channels, steps, states): one vector and its neighbours, one tile of 32 steps and its neighbours, panels of 8
#: vectors, more states than registers
SIZES = [
    (1, 1, 1, 1),
    (2, 3, 5, 2),
    (1, 16, 32, 16),
    (2, 17, 33, 15),
    (1, 15, 31, 17),
    (1, 130, 65, 3),
    (1, 270, 70, 4),
    (3, 8, 100, 40),
]
EMPTY = [(0, 4, 5, 2), (2, 4, 0, 2), (0, 4, 0, 1), (2, 0, 5, 2)]


def run(inputs: ScanInputs, softplus: bool = True, **cut: Any) -> Any:
    return ssm.selective_scan(**inputs.arguments(), delta_softplus=softplus, return_last_state=True, **cut)


def check(inputs: ScanInputs, softplus: bool = True, **cut: Any) -> None:
    dtype, terms = inputs.u.dtype, inputs.A.shape[1] + inputs.u.shape[2]
    for name, a, e in zip(
        ("out", "last"), run(inputs, softplus, **cut), specified(inputs, softplus, **cut), strict=True
    ):
        assert_near(a, e, dtype, terms, name)


# ---- checks of the specification ------------------------------------------------------------------------------------


def test_the_specification_of_a_linear_recurrence() -> None:
    """With one state, B = C = 1 and a constant step size the output is a geometric sum."""
    u = np.arange(1.0, 7).reshape(1, 1, 6)
    delta, A, one = np.full((1, 1, 6), 0.5), np.array([[-2.0]]), np.ones((1, 1, 6))
    out, last = reference.selective_scan(u, delta, A, one[None], one[None])
    expected = [sum(0.5 * u[0, 0, s] * np.exp(-(t - s)) for s in range(t + 1)) for t in range(6)]
    np.testing.assert_allclose(out[0, 0], expected, rtol=1e-14)
    np.testing.assert_allclose(last[0, 0, 0], expected[-1], rtol=1e-14)


def test_the_specification_of_a_step_is_a_scan_of_one_step() -> None:
    inputs = scan_inputs(3, 6, 1, 4, groups=1)
    out, last = specified(inputs)
    u, delta, z = (x[:, None, :, 0] for x in (inputs.u, inputs.delta, inputs.z))
    D, bias = inputs.D[None], inputs.delta_bias[None]
    B, C = inputs.B[..., 0], inputs.C[..., 0]
    y, state = reference.selective_state_update(inputs.state[:, None], u, delta, inputs.A[None], B, C, D, z, bias, True)
    np.testing.assert_allclose(y[:, 0], out[..., 0], rtol=1e-13)
    np.testing.assert_allclose(state[:, 0], last, rtol=1e-13)


def test_the_specification_of_complex_states() -> None:
    """They come in conjugate pairs, as an oscillation that decays: with B = C = 1, 2 Re exp(t A) after an impulse."""
    impulse, one = np.zeros((1, 1, 30)), np.ones((1, 1, 30))
    impulse[..., 0] = 1
    weights = np.ones((1, 1), np.complex128)
    out, last = reference.selective_scan(impulse, one, np.array([[-0.1 + 2j]]), weights, weights)
    t = np.arange(30)
    np.testing.assert_allclose(out[0, 0], 2 * np.exp(-0.1 * t) * np.cos(2 * t), atol=1e-14)
    np.testing.assert_allclose(last[0, 0, 0], np.exp(29 * (-0.1 + 2j)), rtol=1e-12)


# ---- numbers --------------------------------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("size", [*SIZES, *EMPTY], ids=str)
def test_sizes(size: tuple[int, int, int, int], dtype: Any) -> None:
    for without, is_complex in itertools.product(((), ("D", "z", "delta_bias", "state")), (False, True)):
        inputs = scan_inputs(*size, dtype, without=without, is_complex=is_complex)
        check(inputs)
        if not without:
            steps = inputs._replace(delta=np.abs(inputs.delta), delta_bias=np.abs(inputs.delta_bias))
            check(steps, softplus=False)


real_and_complex = pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])


@real_and_complex
@pytest.mark.parametrize("fixed", ["B", "C", "BC"])
@pytest.mark.parametrize("groups", [1, 3])
def test_fixed_projections_and_groups(fixed: str, groups: int, is_complex: bool) -> None:
    options: dict[str, Any] = {"groups": groups, "is_complex": is_complex}
    for channels in (6, 60):
        check(scan_inputs(2, channels, 40, 5, np.float32, fixed=fixed if groups == 1 else fixed[:1], **options))
        check(scan_inputs(2, channels, 40, 5, np.float32, **options))


@real_and_complex
@both_dtypes
def test_resets_lengths_and_packed_rows(dtype: Any, is_complex: bool) -> None:
    inputs = scan_inputs(4, 20, 70, 6, dtype, is_complex=is_complex)
    check(inputs, reset=some_resets(4, 70))
    check(inputs, reset=some_resets(4, 70)[0])
    check(inputs, lengths=some_lengths(4, 70), reset=some_resets(4, 70))
    out, last = run(inputs, lengths=[0, 70, 1, 33])
    assert not out[0].any() and not out[3, :, 33:].any()
    assert_same_bits(last[0], inputs.state[0])
    packed = scan_inputs(1, 20, 70, 6, dtype, sequences=5, is_complex=is_complex)
    check(packed, cu_seqlens=some_bounds(5, 70), reset=some_resets(1, 70))
    check(scan_inputs(1, 3, 0, 2, dtype, sequences=2), cu_seqlens=[0, 0, 0])
    out, last = ssm.selective_scan(*scan_inputs(1, 3, 0, 2, dtype)[:5], return_last_state=True, cu_seqlens=[0])
    assert out.shape == (1, 3, 0) and last.shape == (0, 3, 2)


@real_and_complex
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, is_complex: bool) -> None:
    inputs = scan_inputs(3, 20, 40, 5, np.float32, is_complex=is_complex)
    same = ScanInputs(*[LAYOUTS[layout](np.array(x)) if x.ndim > 1 else x for x in inputs])
    dense = ScanInputs(*[np.array(x, order="C") for x in same])
    for a, e in zip(run(same), run(dense), strict=True):
        assert_same_bits(np.array(a, order="C"), e)


@real_and_complex
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_storage_types(stored: str, is_complex: bool) -> None:
    """The arithmetic is in float32: the result equals that of the widened inputs, rounded once."""
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if stored == "bfloat16" else np.float16
    inputs = scan_inputs(2, 20, 40, 5, np.float32, is_complex=is_complex)
    for order in ("time", "channels"):
        cast = {n: getattr(inputs, n).astype(dtype) for n in ("u", "delta", "z", "B", "C")}
        if order == "channels":
            cast |= {
                n: np.ascontiguousarray(cast[n].transpose(0, 2, 1)).transpose(0, 2, 1) for n in ("u", "delta", "z")
            }
        given = inputs._replace(**cast)
        expected, last = run(inputs._replace(**{n: x.astype(np.float32) for n, x in cast.items()}))
        out, state = run(given)
        assert out.dtype == dtype and state.dtype == inputs.A.dtype
        assert_same_bits(out.astype(np.float32), expected.astype(dtype).astype(np.float32))
        assert_same_bits(state, last)
        mixed, _ = run(given._replace(B=given.B.astype(np.float32), delta=given.delta.astype(np.float32)))
        assert_same_bits(mixed.astype(np.float32), out.astype(np.float32))


def test_every_number_of_float16() -> None:
    """Reading and writing float16 is exact for all of its numbers, and rounds to nearest, ties to even."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 16, -1)
    one = np.ones_like(every)
    A, C, D = -np.ones((16, 1), np.float32), np.zeros((1, 1, every.shape[2]), np.float16), np.ones(16, np.float32)
    out = ssm.selective_scan(every, one, A, C, C, D)
    with np.errstate(invalid="ignore"):  # ARM64 reports signalling NaN
        finite = np.isfinite(every.astype(np.float32))
    finite &= np.cumsum(~finite, -1) == 0  # a NaN persists in the state
    assert finite.sum() > 1 << 15
    assert_same_bits(np.abs(out[finite]), np.abs(every[finite]))
    rounded = np.float32([1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, 2**-25, 3 * 2**-26, 2**-24 * 1.5, -65520])
    D = np.resize(rounded, 16)
    out = ssm.selective_scan(one[..., :1], one[..., :1], A, C[..., :1], C[..., :1], D)
    with np.errstate(over="ignore"):
        assert_same_bits(out[0, :, 0], D.astype(np.float16))


@real_and_complex
@both_dtypes
def test_threads_and_pieces_have_the_same_bits(dtype: Any, is_complex: bool) -> None:
    inputs = scan_inputs(3, 300, 100, 16, dtype, groups=2, is_complex=is_complex)
    fastiter.set_num_threads(1)
    expected = run(inputs)
    for threads in (2, 3):
        fastiter.set_num_threads(threads)
        assert_same_bits(run(inputs), expected)
    state, pieces = inputs.state, []
    for start, end in ((0, 1), (1, 64), (64, 100)):
        cut = {n: getattr(inputs, n)[..., start:end] for n in ("u", "delta", "z")}
        parts = 2 if is_complex else 1
        cut |= {n: getattr(inputs, n)[..., parts * start : parts * end] for n in ("B", "C")}
        out, state = run(inputs._replace(state=state, **cut))
        pieces.append(out)
    assert_same_bits((np.concatenate(pieces, -1), state), expected)


@both_dtypes
def test_extreme_values(dtype: Any) -> None:
    """Decays of 0, 1 and above 1, overflow, NaN and infinity follow the formula, and affect only dependent values."""
    shape = (1, 1, 40)
    one = np.ones(shape, dtype)
    for rate, delta in ((0.0, 1.0), (-1e30, 1.0), (-np.inf, 1.0), (-1.0, 1e4), (0.5, 1.0), (-3.0, 0.0), (-88.5, 1.0)):
        A = np.full((1, 1), rate, dtype)
        out = ssm.selective_scan(one, delta * one, A, one, one)
        with np.errstate(over="ignore"):
            expected, _ = reference.selective_scan(one, delta * one, A, one[:, None], one[:, None])
        np.testing.assert_allclose(out, expected, rtol=float(np.finfo(dtype).eps) * 64)
    u = one.copy()
    u[0, 0, 5] = np.nan
    out = ssm.selective_scan(u, one, -one[0, :, :1], one, one)
    assert np.isfinite(out[..., :5]).all() and np.isnan(out[..., 5:]).all()
    assert np.isinf(ssm.selective_scan(np.where(np.isnan(u), np.inf, u), one, -one[0, :, :1], one, one)[..., 5:]).all()
    huge = np.full(shape, 1e30 if dtype == np.float32 else 1e300, dtype)
    assert np.isinf(ssm.selective_scan(huge, huge, 0 * one[0, :, :1], one, one)).all()
    softplus = ssm.selective_scan(one, np.linspace(-100, 100, 40, dtype=dtype)[None, None], 0 * one[0, :, :1], one, one,
                                  delta_softplus=True)  # fmt: skip
    expected, _ = specified(ScanInputs(one, np.linspace(-100, 100, 40, dtype=dtype)[None, None], 0 * one[0, :, :1],
                                       one[:, None], one[:, None], None, None, None, None))  # fmt: skip
    np.testing.assert_allclose(softplus, expected, rtol=float(np.finfo(dtype).eps) * 16, atol=np.finfo(dtype).tiny)


@both_dtypes
def test_complex_decays_at_any_angle(dtype: Any) -> None:
    """The state after one step without input is exp(d A), within two units in the last place as long as d A is precise.

    Products of d and A are exact in the wider type, and angles up to 2^22 (2^51) turn the state precisely.
    """
    rng = np.random.default_rng(3)
    wider, most = (np.float64, 21) if dtype == np.float32 else (np.longdouble, 50)
    magnitudes = np.exp2(rng.uniform(-30, most, (300, 40)))
    d = (rng.integers(1, 64, 300) / 32).astype(dtype)
    turns = (np.sign(rng.standard_normal((300, 40))) * magnitudes / 2).astype(dtype)
    turns[:, :4] = [0, np.pi / 4, np.pi / 2, np.pi]
    rates = (1j * turns).astype(np.result_type(dtype, np.complex64))
    found = decays(rates, d)
    angles = d[:, None].astype(wider) * turns.astype(wider)
    for part, exact in ((found.real, np.cos(angles)), (found.imag, np.sin(angles))):
        assert np.abs(part - exact).max() <= 2 * np.finfo(dtype).eps
    small = np.abs(angles) < 0.5  # compares relative errors too
    assert (np.abs(found.imag / np.where(angles == 0, 1, np.sin(angles)) - (angles != 0))[small]).max() <= (
        2 * np.finfo(dtype).eps
    )
    assert (decays(0 * rates, d) == 1).all()
    beyond = decays(rates * dtype(2.0**60) - dtype(200), np.full(300, 1, dtype))
    np.testing.assert_allclose(np.abs(beyond), np.exp(-wider(200)), rtol=1e-5, atol=np.finfo(dtype).tiny)
    assert np.isnan(decays(np.full((1, 1), complex(-1, np.inf), rates.dtype), np.ones(1, dtype))).all()
    mixed = np.array([[-2 - 3j, -1e3 + 3j, 5e1 + 1e7j]], rates.dtype)  # uses the path for large exponents; equal bits
    alone = decays(mixed[:, :1], np.ones(1, dtype))
    assert_same_bits(decays(mixed, np.ones(1, dtype))[:, :1], alone)


def decays(rates: Array, d: Array) -> Array:
    """exp(d A) for A (D, N) and d (D,), computed as the state after one step from 1."""
    d, projection = d[None, :, None], np.zeros((1, rates.shape[1], 2), d.dtype)
    first = np.ones((1, *rates.shape), rates.dtype)
    _, last = ssm.selective_scan(0 * d, d, rates, projection, projection, state=first, return_last_state=True)
    return last[0]


def test_the_backend_reference() -> None:
    for is_complex in (False, True):
        inputs = scan_inputs(2, 4, 5, 3, is_complex=is_complex)
        for a, e in zip(run(inputs, backend="reference"), specified(inputs), strict=True):
            assert_same_bits(a, e)
    assert ssm.selective_scan(*inputs[:5]).shape == inputs.u.shape


# ---- one step -------------------------------------------------------------------------------------------------------


def step_inputs(
    rows: int, inner: tuple[int, ...], states: int, groups: int, dtype: Any, seed: int = 0
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    weights = {"A": -np.exp(normal(*inner, states)), "D": normal(*inner), "dt_bias": normal(*inner)}
    projections = {name: normal(rows, groups, states) for name in ("B", "C")}
    signals = {name: normal(rows, *inner) for name in ("x", "dt", "z")}
    return {"state": normal(rows, *inner, states), **signals, **weights, **projections, "dt_softplus": True}


def stepped(given: dict[str, Any]) -> tuple[Array, Array]:
    """The specification in float64, with an added axis for heads."""
    wide = {n: x.astype(np.float64) if isinstance(x, np.ndarray) else x for n, x in given.items()}
    if given["x"].ndim == 3:
        return reference.selective_state_update(**wide)
    wide |= {n: wide[n][:, None] for n in ("state", "x", "dt", "z") if wide[n] is not None}
    wide |= {n: wide[n][None] for n in ("A", "D", "dt_bias") if wide[n] is not None}
    out, state = reference.selective_state_update(**wide)
    return out[:, 0], state[:, 0]


@both_dtypes
@pytest.mark.parametrize(
    ("rows", "inner", "states", "groups"),
    [(1, (1,), 1, 1), (3, (37,), 16, 1), (2, (16,), 5, 1), (2, (4, 5), 20, 2), (1, (3, 16), 128, 3), (0, (4,), 2, 1)],
)
def test_a_step(rows: int, inner: tuple[int, ...], states: int, groups: int, dtype: Any) -> None:
    given = step_inputs(rows, inner, states, groups, dtype)
    for without in ((), ("D", "z", "dt_bias")):
        some = {**given, **dict.fromkeys(without), "state": given["state"].copy()}
        expected = stepped(some)
        out = ssm.selective_state_update(**some)
        assert out.dtype == dtype
        for name, a, e in zip(("out", "state"), (out, some["state"]), expected, strict=True):
            assert_near(a, e, dtype, states, name)


def test_a_step_of_heads_with_one_decay_each() -> None:
    given = step_inputs(2, (4, 40), 24, 2, np.float32)
    for name in ("A", "dt", "dt_bias"):
        one = given[name][(..., *[slice(0, 1)] * (2 if name == "A" else 1))]
        given[name] = np.broadcast_to(one, given[name].shape)
    expected = stepped(given)
    dense = {n: np.array(x) if isinstance(x, np.ndarray) else x for n, x in given.items()}
    out = ssm.selective_state_update(**given)
    for a, e in zip((out, given["state"]), expected, strict=True):
        assert_near(a, e, np.float32, 24)
    other = ssm.selective_state_update(**dense)
    assert_near(other, expected[0], np.float32, 24)


def test_a_step_of_chosen_rows_and_of_any_layout() -> None:
    given = step_inputs(3, (20,), 6, 1, np.float32)
    pool = np.full((5, 20, 6), 7, np.float32)
    rows = [4, -1, 0]
    pool[4], pool[0] = given["state"][0], given["state"][2]
    expected = stepped(given)
    out = ssm.selective_state_update(**{**given, "state": pool}, state_batch_indices=rows)
    assert not out[1].any() and (pool[1:4] == 7).all()
    for place, row in ((0, 4), (2, 0)):
        assert_near(out[place], expected[0][place], np.float32, 6)
        assert_near(pool[row], expected[1][place], np.float32, 6)
    strided = np.zeros((6, 20, 3), np.float32).transpose(2, 1, 0)
    strided[...] = given["state"]
    out = ssm.selective_state_update(**{**given, "state": strided, "x": given["x"][:, ::-1][:, ::-1]})
    assert_near(out, expected[0], np.float32, 6)
    assert_near(strided, expected[1], np.float32, 6)
    for stored in (np.float16, np.float32):
        state = given["state"].astype(stored)
        wide, want = state.astype(np.float32), stepped({**given, "state": state})
        for y in (state, wide):
            ssm.selective_state_update(**{**given, "state": y})
        assert_same_bits(state, wide.astype(stored))  # rounded once
        assert_near(state, want[1], stored, 6)


def test_steps_continue_a_scan() -> None:
    inputs = scan_inputs(2, 20, 12, 5, np.float32)
    out, last = run(inputs)
    state = inputs.state.copy()
    for t in range(12):
        B, C = inputs.B[..., t], inputs.C[..., t]
        y = ssm.selective_state_update(
            state,
            inputs.u[..., t],
            inputs.delta[..., t],
            inputs.A,
            B,
            C,
            inputs.D,
            inputs.z[..., t],
            inputs.delta_bias,
            True,
        )
        assert_near(y, out[..., t].astype(np.float64), np.float32, 5)
    assert_near(state, last.astype(np.float64), np.float32, 5)
