"""The specification `fastiter.reference.delta` against matrices, closed forms, finite differences, and itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastiter.reference import delta as reference
from tests.delta.calls import DeltaInputs, delta_inputs, some_bounds, some_resets, with_and_without_decay
from tests.support.cases import Array, assert_close, assert_same_bits, normal_like
from tests.support.pairs import pairs

NAMES = ("q", "k", "v", "beta", "decay", "state")  # in the order of the gradients
every_factors = pytest.mark.parametrize("M", [None, 1, 3])


def run(inputs: DeltaInputs, **how: Any) -> tuple[Array, Array]:
    return reference.delta_scan(*inputs[:5], decay=inputs.decay, **how)


def backward(inputs: DeltaInputs, do: Any, dlast: Any, **how: Any) -> tuple[Array, ...]:
    return reference.backward(*inputs[:5], do, dlast, decay=inputs.decay, **how)


@with_and_without_decay
@every_factors
def test_transitions_are_products_of_matrices(M: int | None, gated: bool) -> None:
    """S = g F_M ... F_1 S + the written term, F = I - beta k k^T, for one row and head at a time."""
    B, T, N, K, V = 2, 6, 2, 4, 3
    inputs = delta_inputs(B, T, N, K, V, M=M, gated=gated)
    k, v, beta = (x.reshape(B, T, M or 1, N, *x.shape[3 if M is None else 4 :]) for x in inputs[1:4])
    o, last = run(inputs)
    for b, n in itertools.product(range(B), range(N)):
        S = inputs.state[b, n]
        for t in range(T):
            A, X = np.eye(K), np.zeros((K, V))
            if inputs.decay is not None:
                A = A * inputs.decay[b, t, n]
            for m in range(M or 1):
                F = np.eye(K) - beta[b, t, m, n] * np.outer(k[b, t, m, n], k[b, t, m, n])
                A, X = F @ A, F @ X + beta[b, t, m, n] * np.outer(k[b, t, m, n], v[b, t, m, n])
            S = A @ S + X
            assert_close(o[b, t, n], inputs.q[b, t, n] @ S, T, K)
        assert_close(last[b, n], S, T, K)


def test_a_value_written_with_beta_1_is_read_back() -> None:
    _, k, v, beta, *_ = delta_inputs(2, 5, 2, 4, 3)
    o, _ = reference.delta_scan(k, k, v, np.ones_like(beta))
    assert_close(o, v, 5, 4)


def test_orthogonal_keys_are_a_table() -> None:
    """With beta 1, S holds the last value of each key; a key that was never written keeps its value in h0."""
    k = np.eye(4)[[0, 1, 0, 2]][None, :, None]
    v = np.arange(8.0).reshape(1, 4, 1, 2)
    h0 = np.full((1, 1, 4, 2), 7.0)
    _, last = reference.delta_scan(k, k, v, np.ones((1, 4, 1)), h0)
    assert_same_bits(last[0, 0], np.array([[4.0, 5], [2, 3], [6, 7], [7, 7]]))


def test_beta_2_reflects_and_two_reflections_rotate() -> None:
    """Products of two Householder matrices rotate by twice the angle between the keys: of order 3 at 60 degrees."""
    angles = np.array([0, np.pi / 3])
    k = np.broadcast_to(np.stack([np.cos(angles), np.sin(angles)], -1)[None, None, :, None], (1, 3, 2, 1, 2))
    h0 = np.eye(2)[None, None]
    zero = np.zeros((1, 3, 2, 1, 2))
    o, last = reference.delta_scan(np.ones((1, 3, 1, 2)), k, zero, np.full((1, 3, 2, 1), 2.0), h0)
    assert_close(last, h0, scale=1.0)
    assert np.abs(o[0, 0] - o[0, 2]).max() > 0.1
    _, parity = reference.delta_scan(k[:, :1, 0], k[:, :1, 0], zero[:, :1, 0], np.full((1, 1, 1), 2.0), h0)
    assert_close(parity[0, 0], np.diag([-1.0, 1.0]), scale=1.0)


def test_decay_alone_is_a_running_product() -> None:
    inputs = delta_inputs(2, 5, 2, 4, 3)
    assert inputs.decay is not None
    o, last = run(inputs._replace(beta=np.zeros_like(inputs.beta)))
    products = np.cumprod(inputs.decay, 1)
    assert_close(last, inputs.state * products[:, -1, :, None, None], 5, 4)
    assert_close(o, np.einsum("btn,bnkv,btnk->btnv", products, inputs.state, inputs.q), 5, 4)


def test_a_missing_factor_axis_means_one_factor() -> None:
    inputs = delta_inputs(2, 5, 2, 4, 3)
    one = inputs._replace(k=inputs.k[:, :, None], v=inputs.v[:, :, None], beta=inputs.beta[:, :, None])
    assert_same_bits(run(one), run(inputs))
    do, dlast = normal_like(run(inputs))
    for a, e in zip(backward(one, do, dlast), backward(inputs, do, dlast), strict=True):
        assert_same_bits(a.reshape(e.shape), e)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_reset_begins_anew() -> None:
    inputs = delta_inputs(1, 7, 2, 4, 3)
    o, last = run(inputs, reset=np.arange(7) == 4)
    assert_same_bits(o[:, :4], run(inputs)[0][:, :4])
    rest = [None if x is None else x[:, 4:] for x in inputs]
    fresh = DeltaInputs(*rest)._replace(
        state=np.zeros_like(inputs.state), decay=None if rest[5] is None else rest[5].copy()
    )
    assert fresh.decay is not None
    fresh.decay[:, 0] = np.nan  # not read
    o2, last2 = run(fresh._replace(state=inputs.state), reset=np.arange(3) == 0)
    assert_same_bits((o[:, 4:], last), (o2, last2))


def test_lengths_and_packed_rows_equal_separate_rows() -> None:
    lengths = [3, 0, 5]
    inputs = delta_inputs(3, 5, 2, 4, 3)
    o, last = run(inputs, lengths=lengths)
    alone = []
    for b, length in enumerate(lengths):
        one = slice(b, b + 1)
        cut = [None if x is None else x[one, :length] for x in inputs]
        alone.append(DeltaInputs(*cut)._replace(state=inputs.state[one]))
        assert_same_bits((o[one, :length], last[one]), run(alone[-1]))
        assert not o[b, length:].any()
    packed = [None if x[0] is None else np.concatenate(x, 1) for x in zip(*alone, strict=True)]
    everything = DeltaInputs(*packed)._replace(state=inputs.state)
    o2, last2 = run(everything, cu_seqlens=np.cumsum([0, *lengths]))
    assert_same_bits(last2, last)
    assert_same_bits(o2, np.concatenate([o[b : b + 1, :length] for b, length in enumerate(lengths)], 1))


# --- gradients -------------------------------------------------------------------------------------------------------


def central_differences(f: Callable[[Array], float], x: Array) -> Array:
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        steps = []
        for sign in (1, -1):
            y = x.copy()
            y[index] += sign * 1e-6
            steps.append(f(y))
        gradient[index] = (steps[0] - steps[1]) / 2e-6
    return gradient


ROWS: dict[str, dict[str, Any]] = {
    "full": {},
    "lengths": {"lengths": (3, 0)},
    "reset": {"reset": some_resets(2, 4, seed=3)},
    "reset for all rows": {"reset": np.arange(4) == 2},
}


@pairs
@pytest.mark.parametrize("rows", ROWS)
@with_and_without_decay
@every_factors
def test_gradients_equal_finite_differences(M: int | None, gated: bool, rows: str) -> None:
    inputs = delta_inputs(2, 4, 1, 3, 2, M=M, gated=gated)
    check_gradients(inputs, **ROWS[rows])


def test_gradients_of_packed_rows() -> None:
    bounds = some_bounds(3, 4)
    check_gradients(delta_inputs(1, 4, 2, 3, 2, rows=3), cu_seqlens=bounds)


def check_gradients(inputs: DeltaInputs, **how: Any) -> None:
    do, dlast = normal_like(run(inputs, **how))

    def loss(name: str, x: Array) -> float:
        o, last = run(inputs._replace(**{name: x}), **how)
        return float((o * do).sum() + (last * dlast).sum())

    gradients = dict(zip(NAMES, backward(inputs, do, dlast, **how), strict=True))
    for name, x in inputs.arrays().items():
        expected = central_differences(lambda y, name=name: loss(name, y), x)
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_a_missing_decay_or_state_has_the_gradients_of_ones_or_zeros() -> None:
    inputs = delta_inputs(2, 4, 2, 3, 2)
    assert inputs.decay is not None
    plain = inputs._replace(decay=np.ones_like(inputs.decay), state=np.zeros_like(inputs.state))
    do, dlast = normal_like(run(plain))
    none: Any = None
    assert_same_bits(backward(plain._replace(decay=None, state=none), do, dlast), backward(plain, do, dlast))
    assert_same_bits(
        backward(plain, do, None), backward(plain, do, np.zeros_like(dlast)), "no cotangent of the final state"
    )
