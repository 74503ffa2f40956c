"""ssm.linear_attention on arrays, against the specification, a closed form and other functions of the library."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import ssm
from tests.ssm.attention_calls import (
    DECAYS,
    AttentionInputs,
    assert_attention_near,
    attention_inputs,
    specified,
)
from tests.ssm.calls import both_dtypes, some_bounds, some_lengths, some_resets
from tests.support.cases import assert_same_bits
from tests.support.pairs import pairs

every_decay = pytest.mark.parametrize("decay", DECAYS)


# ---- The specification ----------------------------------------------------------------------------------------------


def test_the_specification_is_masked_attention() -> None:
    """Without a state, o is a product of q, k, the decays between them, and v."""
    inputs = attention_inputs((2, 9, 2, 3, 4), decay="vector", state=False)
    o, _ = specified(inputs, 0.5)
    assert inputs.log_decay is not None
    total = np.cumsum(inputs.log_decay, 1)
    between = np.exp(total[:, :, None] - total[:, None])  # (B, t, s, N, K)
    scores = np.einsum("btnk,bsnk,btsnk->bnts", inputs.q, inputs.k, between)
    expected = np.einsum("bnts,bsnv->btnv", np.tril(scores), inputs.v)
    np.testing.assert_allclose(o, 0.5 * expected, rtol=1e-12, atol=1e-12)


def test_the_specification_with_a_bonus_reads_before_the_step() -> None:
    inputs = attention_inputs((1, 6, 2, 3, 4), decay="scalar", bonus=True)
    o, _ = specified(inputs)
    for t in range(6):
        before = AttentionInputs(*(x[:, :t] for x in inputs[:4]), None, None, inputs.state)  # type: ignore[index]
        S = specified(before)[1]
        kv = inputs.k[:, t, :, :, None] * inputs.v[:, t, :, None]
        assert inputs.bonus is not None
        expected = ((S + inputs.bonus[:, :, None] * kv) * inputs.q[:, t, :, :, None]).sum(2)
        np.testing.assert_allclose(o[:, t], expected, rtol=1e-12)


# ---- The kernel -----------------------------------------------------------------------------------------------------

SIZES = [
    *((1, 1, 1, 1, 1), (2, 97, 2, 3, 5), (1, 50, 4, 70, 37), (2, 13, 2, 64, 64), (1, 7, 1, 130, 33)),
    *((3, 0, 2, 4, 5), (0, 4, 2, 3, 5)),
]


@pairs
@both_dtypes
@every_decay
@pytest.mark.parametrize("bonus", [False, True], ids=["after", "before"])
def test_sizes(bonus: bool, decay: str, dtype: Any) -> None:
    for i, size in enumerate(SIZES):
        inputs = attention_inputs(size, dtype, decay, bonus=bonus, state=i % 2 == 0, shared=2 if size[2] == 4 else 1)
        found = ssm.linear_attention(**inputs.arguments(), scale=0.3)
        assert [x.dtype for x in found] == [dtype, dtype]
        assert_attention_near(found, specified(inputs, 0.3), dtype, size)


@both_dtypes
def test_resets_lengths_and_packed_rows(dtype: Any) -> None:
    for decay, bonus in (("none", False), ("vector", True), ("any scalar", False)):
        size = (3, 101, 2, 20, 9)
        inputs = attention_inputs(size, dtype, decay, bonus=bonus)
        for cut in (
            {"reset": some_resets(3, 101)},
            {"reset": some_resets(1, 101)[0]},
            {"lengths": some_lengths(3, 101), "reset": some_resets(3, 101)},
        ):
            found = ssm.linear_attention(**inputs.arguments(), **cut)
            assert_attention_near(found, specified(inputs, **cut), dtype, size)
        one = (1, 101, 2, 20, 9)
        packed = attention_inputs(one, dtype, decay, bonus=bonus, sequences=4)
        cut = {"cu_seqlens": some_bounds(4, 101), "reset": some_resets(1, 101)}
        found = ssm.linear_attention(**packed.arguments(), **cut)
        assert_attention_near(found, specified(packed, **cut), dtype, one)


def test_packed_rows_have_the_bits_of_separate_calls() -> None:
    inputs = attention_inputs((1, 90, 2, 20, 9), np.float32, "scalar", sequences=3)
    bounds = some_bounds(3, 90)
    o, last = ssm.linear_attention(**inputs.arguments(), cu_seqlens=bounds)
    for s, (a, b) in enumerate(itertools.pairwise(bounds)):
        part = {n: x[s : s + 1] if n == "state" else x[:, a:b] for n, x in inputs.arguments().items()}
        assert_same_bits((o[:, a:b], last[s : s + 1]), ssm.linear_attention(**part))


@every_decay
def test_threads_and_pieces_have_the_same_bits(decay: str) -> None:
    inputs = attention_inputs((2, 200, 4, 64, 64), np.float32, decay, shared=2, bonus=decay == "vector")
    results = []
    for threads in (1, 2, 3):
        fastiter.set_num_threads(threads)
        results.append(ssm.linear_attention(**inputs.arguments()))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])
    given, state = inputs.arguments(), inputs.state
    outputs = []
    for a, b in ((0, 1), (1, 60), (60, 200)):
        fixed = ("state", "bonus")
        part = {n: x if n in fixed or x.ndim == 1 else x[:, a:b] for n, x in given.items()}
        o, state = ssm.linear_attention(**{**part, "state": state})
        outputs.append(o)
    assert_same_bits((np.concatenate(outputs, 1), state), results[0])


@pytest.mark.parametrize("layout", ["heads first", "reversed", "every second", "expanded", "read-only", "unaligned"])
def test_layouts(layout: str) -> None:
    inputs = attention_inputs((2, 60, 2, 20, 9), np.float32, "vector", bonus=True)

    def laid_out(x: Any) -> Any:
        if layout == "heads first":
            return np.ascontiguousarray(x.swapaxes(-3, -2)).swapaxes(-3, -2) if x.ndim == 4 else np.asfortranarray(x)
        if layout == "reversed":
            return np.ascontiguousarray(x[..., ::-1])[..., ::-1]
        if layout == "every second":
            return np.repeat(x, 2, -1)[..., ::2]
        if layout == "expanded":
            return np.broadcast_to(x[:1], x.shape)
        if layout == "unaligned":
            raw = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
            raw[...] = x
            return raw
        x = x.copy()
        x.flags.writeable = False
        return x

    given = {n: laid_out(x) for n, x in inputs.arguments().items()}
    dense = {n: x.copy() for n, x in given.items()}
    assert_same_bits(ssm.linear_attention(**given), ssm.linear_attention(**dense))


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_storage_types(stored: str) -> None:
    """The arithmetic is in float32: results equal those of the widened inputs, rounded once."""
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if stored == "bfloat16" else np.float16)
    given = attention_inputs((2, 60, 2, 20, 9), np.float32, "vector", bonus=True).arguments()
    narrow = {n: x.astype(dtype) if n not in ("bonus", "state") else x for n, x in given.items()}
    wide = {n: x.astype(np.float32) for n, x in narrow.items()}
    o, last = ssm.linear_attention(**narrow)
    expected, expected_last = ssm.linear_attention(**wide)
    assert o.dtype == dtype
    assert last.dtype == np.float32
    assert_same_bits((o.view(np.uint16), last), (expected.astype(dtype).view(np.uint16), expected_last))


@both_dtypes
def test_extreme_values(dtype: Any) -> None:
    """A NaN, an infinity or an overflow affects only its head and later steps, and a reset ends it."""
    size = (1, 60, 3, 20, 9)
    inputs = attention_inputs(size, dtype, "vector", state=False)
    expected, _ = ssm.linear_attention(**inputs.arguments())
    for value in (np.nan, np.inf, np.finfo(dtype).max):
        v = inputs.v.copy()
        v[0, 30, 1, 4] = value
        o, last = ssm.linear_attention(**{**inputs.arguments(), "v": v})
        same = np.ones(o.shape, bool)
        same[:, 30:, 1, 4] = False
        assert np.array_equal(o[same], expected[same])
        reset = np.arange(60) == 40
        o, last = ssm.linear_attention(**{**inputs.arguments(), "v": v}, reset=reset)
        assert np.isfinite(o[:, 40:]).all()
        assert np.isfinite(last).all()
    assert inputs.log_decay is not None
    forgetting = inputs.log_decay.copy()
    forgetting[:, 40] = -np.inf
    o, _ = ssm.linear_attention(**{**inputs.arguments(), "log_decay": forgetting})
    reset = np.arange(60) == 40
    assert_same_bits(o, ssm.linear_attention(**inputs.arguments(), reset=reset)[0])
    tiny = {n: x * np.finfo(dtype).smallest_subnormal for n, x in inputs.arguments().items() if n == "v"}
    o, _ = ssm.linear_attention(**{**inputs.arguments(), **tiny})
    np.testing.assert_allclose(
        o, specified(inputs._replace(v=tiny["v"]))[0], rtol=0, atol=2e3 * np.finfo(dtype).smallest_subnormal
    )


def test_the_delta_rule_that_never_reads_is_linear_attention() -> None:
    """Keys of different steps that are orthogonal are never read back: the delta rule with beta 1 then only adds."""
    rng = np.random.default_rng(0)
    k = np.linalg.qr(rng.standard_normal((16, 16)))[0][None, :, None]
    q, v = rng.standard_normal((2, 1, 16, 1, 16))
    o, last = fastiter.delta_scan(q, k, v, np.ones((1, 16, 1)))
    found = ssm.linear_attention(q, k, v)
    np.testing.assert_allclose(found[0], o, atol=1e-13)
    np.testing.assert_allclose(found[1], last, atol=1e-13)


@every_decay
def test_the_backend_reference(decay: str) -> None:
    inputs = attention_inputs((2, 9, 4, 3, 5), np.float32, decay, shared=2, bonus=True)
    found = ssm.linear_attention(**inputs.arguments(), scale=2, backend="reference", lengths=[9, 4])
    assert [x.dtype for x in found] == [np.float32, np.float32]
    assert_attention_near(
        found, ssm.linear_attention(**inputs.arguments(), scale=2, lengths=[9, 4]), np.float32, (2, 9, 4, 3)
    )
