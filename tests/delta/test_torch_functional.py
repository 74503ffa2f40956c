"""delta_scan on tensors: the numbers of the NumPy function, the gradients of the specification, autograd around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from bench.delta.peers import delta_chunks, delta_loop  # noqa: E402
from tests.delta import calls as delta_calls  # noqa: E402
from tests.delta.calls import DeltaInputs, delta_inputs, every_method, some_bounds, some_resets, with_and_without_decay  # noqa: E402
from tests.delta.torch_calls import NAMES, backward, leaves, numpy, run, specified, tensor  # noqa: E402
from tests.rnn.calls import both_dtypes, some_lengths  # noqa: E402
from tests.support.cases import assert_close, assert_same_bits, normal_like  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

SIZES = [
    (2, 9, None, 2, 5, 3),
    (1, 70, None, 1, 7, 33),
    (3, 20, 3, 2, 17, 65),
    (2, 5, 20, 1, 4, 130),
    (1, 1, 1, 1, 1, 1),
]


def check_gradients(inputs: DeltaInputs, length: int, method: Any, chunk: int, **how: Any) -> None:
    cotangents = normal_like(delta_calls.run(inputs, **how))
    given = leaves(inputs)
    outputs = run(given, method=method, chunk=chunk, **how)
    gradients = torch.autograd.grad(outputs, given, [tensor(c) for c in cotangents])
    expected = specified(inputs, *cotangents, **how)
    # One scale for all, since gradients may be all zeros for packed rows. It is always the scale of the decays,
    # whose gradients are sums over the whole state, and over the term each factor has written, which cancel.
    common = max(float(np.max(np.abs(e), initial=0.0)) for e in expected)
    width = inputs.q.shape[-1] + inputs.v.shape[-1]
    for name, a, e in zip(NAMES, gradients, expected, strict=False):
        assert_close(a.numpy(), e, length, width, scale=common if how or name == "decay" else None, name=name)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pairs
@with_and_without_decay
@both_dtypes
@every_method
def test_results_equal_those_of_numpy(method: Any, chunk: int, dtype: Any, gated: bool) -> None:
    for B, T, M, N, K, V in (*SIZES, (0, 3, None, 1, 2, 2), (2, 0, 2, 1, 2, 2)):
        inputs = delta_inputs(B, T, N, K, V, dtype, M=M, gated=gated)
        how: dict[str, Any] = {
            "method": method,
            "chunk": chunk,
            "lengths": some_lengths(B, T),
            "reset": some_resets(B, T),
        }
        expected, given = delta_calls.run(inputs, **how), leaves(inputs)
        assert_same_bits(numpy(run(given, **how)), expected)
        with torch.no_grad():
            assert_same_bits(numpy(run(given, **how)), expected)


def test_packed_rows_equal_those_of_numpy() -> None:
    inputs, bounds = delta_inputs(1, 40, 2, 5, 3, rows=3), some_bounds(3, 40)
    expected = delta_calls.run(inputs, cu_seqlens=bounds)
    for given in (bounds, torch.tensor(bounds), torch.tensor(bounds, dtype=torch.int32), bounds.tolist()):
        actual = fastiter.torch.delta_scan(*leaves(inputs)[:5], decay=tensor(inputs.decay), cu_seqlens=given)
        assert_same_bits(numpy(actual), expected)


@pytest.mark.parametrize("time", [64, 70, 1])
def test_peers_of_the_benchmark(time: int) -> None:
    """The peers start from zeros and have no decay."""
    inputs = delta_inputs(2, time, 3, 8, 5, gated=False)
    inputs = inputs._replace(state=np.zeros_like(inputs.state))
    given = leaves(inputs)[:4]
    expected = fastiter.torch.delta_scan(*given)
    gradients = torch.autograd.grad([y.sum() for y in expected], given)
    for peer in (delta_loop, delta_chunks, lambda *x: delta_chunks(*x, chunk=16)):
        actual = peer(*given)
        for a, e in zip(
            (*actual, *torch.autograd.grad([y.sum() for y in actual], given)), (*expected, *gradients), strict=True
        ):
            torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


# --- gradients -------------------------------------------------------------------------------------------------------


@pairs
@with_and_without_decay
@both_dtypes
@every_method
def test_gradients(method: Any, chunk: int, dtype: Any, gated: bool) -> None:
    for B, T, M, N, K, V in SIZES:
        inputs = delta_inputs(B, T, N, K, V, dtype, M=M, gated=gated)
        check_gradients(inputs, T * (M or 1), method, chunk)


ROWS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "lengths": lambda B, T: {"lengths": some_lengths(B, T)},
    "reset": lambda B, T: {"reset": some_resets(B, T)},
    "reset for all rows, lengths": lambda B, T: {"reset": some_resets(1, T)[0], "lengths": some_lengths(B, T)},
    "first step reset": lambda B, T: {"reset": np.arange(T) == 0},
    "every step reset": lambda B, T: {"reset": np.ones((B, T), bool)},
}


@pairs
@pytest.mark.parametrize("rows", ROWS)
@with_and_without_decay
@every_method
def test_gradients_of_rows(method: Any, chunk: int, gated: bool, rows: str) -> None:
    for B, T, M in ((3, 70, None), (3, 9, 2), (1, 0, None)):
        inputs = delta_inputs(B, T, 2, 7, 33, M=M, gated=gated)
        check_gradients(inputs, T * (M or 1), method, chunk, **ROWS[rows](B, T))


@with_and_without_decay
@every_method
def test_gradients_of_packed_rows(method: Any, chunk: int, gated: bool) -> None:
    for T, S in ((150, 4), (3, 5), (0, 2)):
        inputs = delta_inputs(1, T, 2, 7, 33, gated=gated, rows=S)
        how = {"cu_seqlens": some_bounds(S, T), "reset": some_resets(1, T)}
        check_gradients(inputs, T, method, chunk, **how)


@pairs
@pytest.mark.parametrize("M", [None, 2])
@with_and_without_decay
@every_method
def test_gradcheck(method: Any, chunk: int, gated: bool, M: int | None) -> None:
    inputs = delta_inputs(2, 6, 1, 3, 2, M=M, gated=gated)
    given = leaves(inputs)
    how: dict[str, Any] = {"method": method, "chunk": chunk}
    for rows in ({}, {"lengths": [6, 2]}, {"reset": torch.arange(6) == 3}):
        assert torch.autograd.gradcheck(
            lambda *x, r=rows: fastiter.torch.delta_scan(*x[:5], decay=x[5] if gated else None, **how, **r), given
        )


@with_and_without_decay
@every_method
def test_each_cotangent_and_each_input_alone(method: Any, chunk: int, gated: bool) -> None:
    inputs = delta_inputs(2, 20, 2, 5, 7, gated=gated)
    cotangents = normal_like(delta_calls.run(inputs))
    for kept in range(2):
        do, dlast = (c if i == kept else None for i, c in enumerate(cotangents))
        zeros = [np.zeros_like(c) if given is None else given for c, given in zip(cotangents, (do, dlast), strict=True)]
        expected = specified(inputs, *zeros)
        for place in range(len(expected)):
            given = [x.detach().requires_grad_(i == place) for i, x in enumerate(leaves(inputs))]
            y = run(given, method=method, chunk=chunk)[kept]
            (gradient,) = torch.autograd.grad(y, given[place], tensor(cotangents[kept]))
            assert_close(gradient.numpy(), expected[place], 20, 12)
            assert not any(x.requires_grad for i, x in enumerate(given) if i != place)


def test_gradients_without_a_state() -> None:
    inputs = delta_inputs(2, 9, 2, 5, 7)
    given = leaves(inputs._replace(state=np.zeros_like(inputs.state)))
    expected = torch.autograd.grad(run(given)[0].sum(), given)
    q, k, v, beta, _, decay = given
    actual = torch.autograd.grad(fastiter.torch.delta_scan(q, k, v, beta, decay=decay)[0].sum(), (q, k, v, beta, decay))
    assert_same_bits(numpy(actual), numpy((*expected[:4], expected[5])))


@pytest.mark.parametrize("decays", delta_calls.DECAYS)
@every_method
def test_gradients_with_products_of_decays_beyond_the_range(method: Any, chunk: int, decays: str) -> None:
    if decays == "growing" or decays.startswith("larg"):
        return  # gradients are products of them too, and overflow
    T = 40
    inputs = delta_inputs(2, T, 1, 5, 17)
    g = delta_calls.DECAYS[decays](np.random.default_rng(0))
    inputs = inputs._replace(decay=np.ascontiguousarray(np.broadcast_to(g[:, None], (2, T, 1))))
    check_gradients(inputs, T, method, chunk)


@every_method
def test_gradients_of_padding_are_zero_whatever_it_contains(method: Any, chunk: int) -> None:
    lengths = [3, 0, 20]
    inputs = delta_inputs(3, 20, 2, 5, 70)
    cotangents = normal_like(delta_calls.run(inputs))
    expected = specified(inputs, *cotangents, lengths=lengths)
    for row, length in enumerate(lengths):
        for x in (inputs.q, inputs.k, inputs.v, inputs.beta, inputs.decay, cotangents[0]):
            assert x is not None
            x[row, length:] = np.nan
    given = leaves(inputs)
    outputs = run(given, method=method, chunk=chunk, lengths=lengths)
    gradients = torch.autograd.grad(outputs, given, [tensor(c) for c in cotangents])
    assert_close(numpy(gradients), expected, 20, 75)
    for row, length in enumerate(lengths):
        for g in (*gradients[:4], gradients[5]):
            assert_same_bits(g[row, length:].numpy(), np.zeros(g[row, length:].shape))


@every_method
def test_a_poisoned_head_leaves_the_gradients_of_the_others(method: Any, chunk: int) -> None:
    B, T, N, row, head = 3, 20, 2, 1, 1
    clean = delta_inputs(B, T, N, 7, 70, np.float32)
    cotangents = [tensor(c) for c in normal_like(delta_calls.run(clean))]

    def gradients(inputs: DeltaInputs) -> tuple[Any, ...]:
        given = leaves(inputs)
        return numpy(torch.autograd.grad(run(given, method=method, chunk=chunk), given, cotangents))

    expected = gradients(clean)
    for name, x in clean.arrays().items():
        y = x.copy()
        y[(row, head, 0) if name == "state" else (row, 11, head)] = np.nan
        for place, (g, e) in enumerate(zip(gradients(clean._replace(**{name: y})), expected, strict=True)):
            assert_same_bits(np.delete(g, row, 0), np.delete(e, row, 0))
            other = (row, 1 - head) if NAMES[place] == "state" else (row, slice(None), 1 - head)
            assert_same_bits(g[other], e[other])


@pytest.mark.parametrize("M", [None, 3])
@every_method
def test_a_poisoned_step_affects_only_gradients_that_depend_on_it(method: Any, chunk: int, M: int | None) -> None:
    """Cotangents affect earlier steps, values affect later outputs, and a reset separates both sides."""
    T, step = 20, 11
    inputs = delta_inputs(2, T, 2, 7, 70, np.float32, M=M)
    cotangents = normal_like(delta_calls.run(inputs))

    def gradients(inputs: DeltaInputs, do: Any, **how: Any) -> tuple[Any, ...]:
        given = leaves(inputs)
        outputs = run(given, method=method, chunk=chunk, **how)
        return numpy(torch.autograd.grad(outputs, given, [tensor(do), tensor(cotangents[1])]))

    def assert_clean(actual: tuple[Any, ...], expected: tuple[Any, ...], steps: slice) -> None:
        for name, a, e in zip(NAMES, actual, expected, strict=True):
            if name != "state":
                assert_same_bits(a[:, steps], e[:, steps], name)

    expected = gradients(inputs, cotangents[0])
    do, v = cotangents[0].copy(), inputs.v.copy()
    do[:, step] = v[:, step] = np.nan
    assert_clean(gradients(inputs, do), expected, slice(step + 1, None))
    assert_clean(gradients(inputs._replace(v=v), cotangents[0]), expected, slice(0, step))
    flags = np.arange(T) == step
    expected = gradients(inputs, cotangents[0], reset=flags)
    assert_clean(gradients(inputs, do, reset=flags), expected, slice(0, step))
    assert_clean(gradients(inputs._replace(v=v), cotangents[0], reset=flags), expected, slice(0, step))
    poisoned = inputs._replace(**{name: x.copy() for name, x in inputs.arrays().items()})
    for name, x in poisoned.arrays().items():
        x[:, 0 if name == "state" else slice(0, step)] = np.nan
    assert_clean(gradients(poisoned, cotangents[0], reset=flags), expected, slice(step, None))


@both_dtypes
@every_method
def test_gradients_of_long_sequences(method: Any, chunk: int, dtype: Any) -> None:
    T = 1500
    inputs = delta_inputs(1, T, 1, 16, 16, gated=False)
    check_gradients(DeltaInputs(*(None if x is None else x.astype(dtype) for x in inputs)), T, method, chunk)


# --- the same bits ---------------------------------------------------------------------------------------------------


@pairs
@with_and_without_decay
@both_dtypes
@every_method
def test_any_number_of_threads(method: Any, chunk: int, dtype: Any, gated: bool) -> None:
    """If there are more threads than heads, threads share the columns of a head and sum separately."""
    for B, T, N, K, V, M in ((1, 40, 1, 33, 200, None), (3, 30, 2, 16, 64, 2), (2, 20, 1, 40, 130, None)):
        inputs = delta_inputs(B, T, N, K, V, dtype, M=M, gated=gated)
        how: dict[str, Any] = {"method": method, "chunk": chunk, "lengths": some_lengths(B, T)}
        fastiter.set_num_threads(1)
        expected = backward(inputs, **how)
        for threads in (2, 3, 5):
            fastiter.set_num_threads(threads)
            assert_same_bits(backward(inputs, **how), expected, f"{(B, T, N, K, V)}, {threads} threads")


def test_packed_rows_are_distributed_over_threads_too() -> None:
    inputs, bounds = delta_inputs(1, 60, 1, 16, 200, rows=2), some_bounds(2, 60)
    fastiter.set_num_threads(1)
    expected = backward(inputs, cu_seqlens=bounds)
    fastiter.set_num_threads(3)
    assert_same_bits(backward(inputs, cu_seqlens=bounds), expected)


# --- layouts ---------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "time-major": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "units not side by side": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "expanded": lambda x: x[:1].expand(x.shape),
    "every second unit": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "negated": lambda x: torch._neg_view(-x),
    "part of a larger tensor": lambda x: torch.stack([x, x], 1)[:, 1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@every_method
def test_any_layout_of_inputs_and_cotangents(method: Any, chunk: int, layout: str) -> None:
    given = [x.detach() for x in leaves(delta_inputs(3, 20, 2, 5, 7, M=2))]
    cotangents = [tensor(c) for c in normal_like(numpy(run(given)))]
    viewed = [LAYOUTS[layout](x) for x in (*given, *cotangents)]
    results = []
    for inputs in (viewed, [x.resolve_neg().contiguous() for x in viewed]):
        arguments = [x.requires_grad_() for x in inputs[:6]]
        outputs = run(arguments, method=method, chunk=chunk)
        results.append(numpy((*outputs, *torch.autograd.grad(outputs, arguments, inputs[6:]))))
    assert_same_bits(*results)


def test_summed_outputs() -> None:
    """The cotangents of summed outputs are one expanded number."""
    given = leaves(delta_inputs(2, 9, 2, 5, 7))
    o, last = run(given)
    expected = torch.autograd.grad([o, last], given, [torch.ones_like(o), torch.ones_like(last)])
    o, last = run(given)
    assert_same_bits(numpy(torch.autograd.grad(o.sum() + last.sum(), given)), numpy(expected))
