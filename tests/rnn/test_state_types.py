"""Functions accept a state as a tuple or a list and, if it has one part, as that part alone."""

from __future__ import annotations

import numpy as np
import pytest

import fastiter


def arrays():
    """Return, by name, a call of each array function that takes a state, and its number of parts."""
    rng = np.random.default_rng(0)

    def randn(*shape):
        return rng.standard_normal(shape)

    B, T, N, D = 2, 5, 2, 3
    x, a, h = randn(B, T, D), randn(B, T, D) / 4, randn(B, N, D)
    vectors, blocks, q, beta = (
        randn(B, T, D, 2),
        randn(B, T, D, 2, 2) / 4,
        randn(B, T, N, D) / 2,
        np.full((B, T, N), 0.5),
    )
    flat, diagonal = randn(B, T, 3, D), randn(3, D) / 4

    def rnn(name, gates, **options):
        wx, r = randn(B, T, gates, N, D), randn(gates, N, D, D) / 4
        return lambda module, to, s: getattr(module, name)(to(wx), to(r), None, s, **options)

    return {
        "gru": (rnn("gru", 3), (h,)),
        "elman": (rnn("elman", 1, activation="relu"), (h,)),
        "lstm": (rnn("lstm", 4), (h, randn(B, N, D))),
        "slstm": (rnn("slstm", 4), (h, randn(B, N, D), 1 + abs(randn(B, N, D)), randn(B, N, D))),
        "linear_scan": (lambda m, to, s: m.linear_scan(to(a), to(x), s), (randn(B, D),)),
        "block_scan": (lambda m, to, s: m.block_scan(to(blocks), to(vectors), s), (randn(B, D, 2),)),
        "delta_scan": (lambda m, to, s: m.delta_scan(to(q), to(q), to(q), to(beta), s), (randn(B, N, D, D),)),
        "paragru": (lambda m, to, s: m.paragru(to(flat), to(diagonal), s), (randn(B, D),)),
    }


CALLS = arrays()
NAMES = pytest.mark.parametrize("name", CALLS)


def flat(results):
    return [part for x in results for part in (x if isinstance(x, tuple) else (x,))]


def check(module, to, name):
    call, parts = CALLS[name]
    parts = tuple(to(part) for part in parts)
    expected = flat(call(module, to, parts))
    others = [list(parts), *(parts if len(parts) == 1 else ())]
    for state in others:
        for x, y in zip(flat(call(module, to, state)), expected, strict=True):
            assert (x == y).all()
    from_zero = flat(call(module, to, None))
    assert not (from_zero[0] == expected[0]).all()
    wrong = [parts * 5, "state", 3.0, *(parts if len(parts) > 1 else ())]
    for state in wrong:
        with pytest.raises((TypeError, ValueError)) as error:
            call(module, to, state)
        assert str(error.value).startswith(f"{name}: ") and "\n" not in str(error.value)


@NAMES
def test_on_arrays(name):
    check(fastiter, lambda x: x, name)


@NAMES
def test_on_tensors(name):
    torch = pytest.importorskip("torch")
    import fastiter.torch

    check(fastiter.torch, torch.from_numpy, name)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["GRU", "RNN", "LSTM", "sLSTM", "LinearRNN", "ParaGRU", "ParaLSTM", "DeltaNet"])
def test_in_modules(name, autocast):
    torch = pytest.importorskip("torch")
    from fastiter.torch import nn

    torch.manual_seed(0)
    module, x = getattr(nn, name)(4, 4), torch.randn(5, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        _, state = module(x)
        given = state if isinstance(state, tuple) else (state,)
        forms = [given, list(given), *(given if len(given) == 1 else ())]
        outputs = [module(x, form) for form in forms]
        steps = [module.step(x[0], form) for form in forms]
    for output in outputs[1:]:
        for a, b in zip(flat(output), flat(outputs[0]), strict=True):
            assert a.dtype == b.dtype and a.equal(b)
    assert all(step[0].equal(steps[0][0]) for step in steps)
    for wrong in (given * 5, "state"):
        with pytest.raises(TypeError, match=f"^{name}: (hx|state) must be a "):
            module(x, wrong)
