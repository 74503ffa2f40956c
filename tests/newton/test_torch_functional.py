"""The diagonal cells on tensors: the numbers of the NumPy functions, the gradients of the specification."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from tests.newton import calls as newton_calls  # noqa: E402
from tests.newton.calls import PARA_CELLS, STATES, every_cell, para_inputs  # noqa: E402
from tests.newton.torch_calls import Leaves, leaves, numpy, pull, random_cotangents, run, specified_gradients, tensor  # noqa: E402
from tests.rnn.calls import both_dtypes, both_ways, full_and_ragged, some_lengths  # noqa: E402
from tests.support.cases import assert_close, assert_same_bits  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

both_methods = pytest.mark.parametrize("method", ["sequential", "newton"])
SIZES = [(1, 1, 1), (2, 9, 5), (7, 4, 17), (13, 9, 33), (3, 18, 130), (70, 3, 2)]


# --- forward ---------------------------------------------------------------------------------------------------------


def test_the_gru_is_torchs_with_diagonal_weights_and_the_update_gate_negated() -> None:
    B, T, D = 2, 7, 5
    wx, a = torch.randn(B, T, 3, D, dtype=torch.float64), torch.randn(3, D, dtype=torch.float64)
    gru = torch.nn.GRU(3 * D, D, bias=False, batch_first=True, dtype=torch.float64)
    z, r, q = torch.eye(3 * D, dtype=torch.float64).split(D)
    with torch.no_grad():
        gru.weight_ih_l0.copy_(torch.cat([r, -z, q]))
        gru.weight_hh_l0.copy_(torch.cat([torch.diag(a[1]), -torch.diag(a[0]), torch.diag(a[2])]))
        expected, _ = gru(wx.flatten(2))
        torch.testing.assert_close(fastiter.torch.paragru(wx, a).output, expected, rtol=0, atol=1e-14)


@pairs
@both_methods
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_results_equal_those_of_numpy(cell: str, dtype: Any, reverse: bool, ragged: bool, method: str) -> None:
    for B, T, D in (*SIZES, (0, 3, 5), (3, 0, 5), (3, 4, 0)):
        inputs = para_inputs(cell, B, T, D, dtype)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None, "method": method}
        expected = newton_calls.run(cell, inputs, **how)
        for time_major in (False, True):
            given = leaves(inputs, time_major)
            assert_same_bits(numpy(run(cell, given, **how)), expected)
            with torch.no_grad():
                assert_same_bits(numpy(run(cell, given, **how)), expected)


@every_cell
def test_without_a_state(cell: str) -> None:
    inputs = para_inputs(cell, 3, 4, 5, np.float64)
    expected = getattr(fastiter, cell)(inputs.wx, *inputs.weights())
    assert_same_bits(numpy(getattr(fastiter.torch, cell)(*map(tensor, (inputs.wx, *inputs.weights())))), expected)


@every_cell
def test_the_info_equals_that_of_numpy(cell: str) -> None:
    inputs = para_inputs(cell, 4, 90, 5, np.float64, bound=4)
    for options in ({}, {"window": 10, "max_steps": 4}, {"rtol": 1e-3, "atol": 1e-3}):
        *_, expected = newton_calls.run(cell, inputs, method="newton", return_info=True, **options)
        for given in (leaves(inputs), leaves(inputs).detached()):
            *_, info = run(cell, given, method="newton", return_info=True, **options)
            assert info.method == "newton"
            assert info.steps.tolist() == expected.steps.tolist()
            assert info.fallbacks.tolist() == expected.fallbacks.tolist()
            assert not info.steps.requires_grad
    *_, info = run(cell, leaves(inputs), return_info=True)
    assert (info.method, info.steps, info.fallbacks) == ("sequential", None, None)


@pytest.mark.parametrize("make", [list, tuple, torch.tensor, np.array, lambda x: torch.tensor(x, dtype=torch.uint8)])
def test_lengths_of_any_integer_type(make: Any) -> None:
    given = leaves(para_inputs("paragru", 3, 4, 5, np.float64))
    expected = numpy(run("paragru", given, lengths=[4, 0, 2]))
    assert_same_bits(numpy(run("paragru", given, lengths=make([4, 0, 2]))), expected)


VIEWS = {
    "units not side by side": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "every second": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
    "negative": lambda x: torch.complex(x, -x).conj().imag,
}


@pytest.mark.parametrize("view", VIEWS)
@every_cell
def test_any_layout_of_any_input(cell: str, view: str) -> None:
    inputs = para_inputs(cell, 3, 5, 17, np.float32)
    cotangents, given = random_cotangents(newton_calls.run(cell, inputs)), leaves(inputs).detached()
    for place in range(len(given.all())):
        viewed = [VIEWS[view](x) if i == place else x for i, x in enumerate(given.all())]
        plain = [x.clone(memory_format=torch.contiguous_format).requires_grad_() for x in viewed]
        for x in viewed:
            if x.is_leaf:
                x.requires_grad_()
        results = [
            (numpy(run(cell, given.replaced(x))), numpy(pull(cell, given.replaced(x), cotangents, x)))
            for x in (viewed, plain)
        ]
        assert_same_bits(*results)


@every_cell
def test_any_layout_of_a_cotangent(cell: str) -> None:
    given = leaves(para_inputs(cell, 3, 5, 17, np.float32))
    h, last = run(cell, given)
    for view in VIEWS.values():
        views = [view(torch.randn(y.shape, generator=torch.Generator().manual_seed(0))) for y in (h, *last)]
        plain = [c.clone(memory_format=torch.contiguous_format) for c in views]
        results = [torch.autograd.grad((h, *last), given.all(), c, retain_graph=True) for c in (views, plain)]
        assert_same_bits(*map(numpy, results))


# --- gradients -------------------------------------------------------------------------------------------------------


@pairs
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_gradients(cell: str, dtype: Any, reverse: bool, ragged: bool) -> None:
    for (B, T, D), time_major in itertools.product(SIZES[1:], (False, True)):
        inputs = para_inputs(cell, B, T, D, dtype)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None}
        cotangents = random_cotangents(newton_calls.run(cell, inputs))
        given = leaves(inputs, time_major)
        gradients = pull(cell, given, cotangents, given.all(), **how)
        expected = specified_gradients(cell, inputs, cotangents, **how)
        for g, e in zip(numpy(gradients), expected, strict=True):
            assert_close(g, e, B * T, scale=max(1.0, float(abs(e).max())))


@every_cell
def test_gradients_do_not_depend_on_the_method(cell: str) -> None:
    inputs = para_inputs(cell, 3, 100, 17, np.float64)
    cotangents, given = random_cotangents(newton_calls.run(cell, inputs)), leaves(inputs)
    expected = numpy(pull(cell, given, cotangents, given.all()))
    assert_close(numpy(pull(cell, given, cotangents, given.all(), method="newton")), expected, 300, 64**2)


@full_and_ragged
@both_ways
@every_cell
def test_each_cotangent_alone(cell: str, reverse: bool, ragged: bool) -> None:
    B, T, D = 3, 5, 5
    inputs = para_inputs(cell, B, T, D, np.float64)
    how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None}
    every = random_cotangents(newton_calls.run(cell, inputs))
    for k in range(len(every)):
        cotangents, given = [c if i == k else None for i, c in enumerate(every)], leaves(inputs)
        gradients = pull(cell, given, cotangents, given.all(), **how)
        expected = specified_gradients(cell, inputs, cotangents, **how)
        # One scale for all, since a gradient may be all zeros.
        scale = max(float(np.max(np.abs(e))) for e in expected)
        assert_close(numpy(gradients), expected, B * T, scale=scale, name=f"cotangent {k}")


@both_ways
@every_cell
def test_gradients_of_padding_are_zero_whatever_it_contains(cell: str, reverse: bool) -> None:
    B, T, lengths = 3, 5, [3, 0, 5]
    inputs = para_inputs(cell, B, T, 5, np.float64)
    cotangents = random_cotangents(newton_calls.run(cell, inputs))
    expected = specified_gradients(cell, inputs, cotangents, reverse=reverse, lengths=lengths)
    for row, length in enumerate(lengths):
        inputs.wx[row, length:] = np.nan
        cotangents[0][row, length:] = np.nan
    given = leaves(inputs)
    gradients = pull(cell, given, cotangents, given.all(), reverse=reverse, lengths=lengths)
    assert_close(numpy(gradients), expected, B * T)
    for row, length in enumerate(lengths):
        padding = numpy(gradients[0])[row, length:]
        assert_same_bits(padding, np.zeros_like(padding))


@every_cell
def test_a_poisoned_sequence_leaves_the_gradients_of_the_others(cell: str) -> None:
    B, row = 7, 3
    inputs = para_inputs(cell, B, 4, 17, np.float32)
    cotangents, clean = random_cotangents(newton_calls.run(cell, inputs)), leaves(inputs)
    expected = numpy(pull(cell, clean, cotangents, (clean.wx, *clean.state)))
    inputs.wx[row, 2, 0, 4] = np.nan
    given = leaves(inputs)
    for g, e in zip(numpy(pull(cell, given, cotangents, (given.wx, *given.state))), expected, strict=True):
        assert_same_bits(np.delete(g, row, 0), np.delete(e, row, 0))


@both_ways
@pytest.mark.parametrize(("B", "T", "D"), [(0, 4, 5), (2, 0, 5), (0, 0, 5), (2, 3, 0)])
@every_cell
def test_gradients_of_empty_inputs(cell: str, B: int, T: int, D: int, reverse: bool) -> None:
    given = leaves(para_inputs(cell, B, T, D, np.float64))
    h, last = run(cell, given, reverse=reverse)
    (h.sum() + sum(s.sum() for s in last)).backward()
    assert not any(w.grad.any() for w in given.weights)
    assert given.wx.grad.shape == given.wx.shape
    assert all((s.grad == 1).all() for s in given.state)


# --- gradcheck -------------------------------------------------------------------------------------------------------


def smooth_inputs(cell: str, n: tuple[float, float]) -> Leaves:
    """Return inputs away from the kink of max(n, 1)."""
    inputs = para_inputs(cell, 3, 4, 3, np.float64, seed=2)
    if cell == "paraslstm":
        h, c, _, m = inputs.state
        inputs = inputs._replace(state=(h, c, np.random.default_rng(0).uniform(*n, h.shape), m))
    return leaves(inputs)


@pairs
@both_methods
@both_ways
@full_and_ragged
@every_cell
def test_gradcheck_of_all_inputs_at_once(cell: str, ragged: bool, reverse: bool, method: str) -> None:
    # n between 0.2 and 0.8: f n + i is below 1 in some places, where max(., 1) stops the gradient, and above in others.
    for n in ((1.3, 2.5), (0.2, 0.8)) if cell == "paraslstm" else ((0, 0),):
        given = smooth_inputs(cell, n)

        def outputs(*inputs: Any, given: Leaves = given) -> tuple[Any, ...]:
            how = {"reverse": reverse, "lengths": [2, 0, 4] if ragged else None, "method": method}
            h, last = run(cell, given.replaced(inputs), **how)
            return (h, *last)

        assert torch.autograd.gradcheck(outputs, given.all())


@every_cell
def test_gradcheck_of_each_input_alone(cell: str) -> None:
    given = smooth_inputs(cell, (1.3, 2.5))
    constant = [x.detach() for x in given.all()]
    for i, x in enumerate(given.all()):

        def of_one(one: Any, i: int = i) -> Any:
            some = given.replaced([*constant[:i], one, *constant[i + 1 :]])
            h, last = run(cell, some, lengths=[2, 0, 4], reverse=True)
            return (h, *last)

        assert torch.autograd.gradcheck(of_one, (x,))


# --- which inputs, which cotangents ----------------------------------------------------------------------------------


@every_cell
def test_gradients_of_some_inputs_are_those_of_all(cell: str) -> None:
    inputs = para_inputs(cell, 3, 5, 5, np.float32)
    cotangents, given = random_cotangents(newton_calls.run(cell, inputs)), leaves(inputs)
    expected = numpy(pull(cell, given, cotangents, given.all()))
    count = len(expected)
    for chosen in (c for size in (1, 2, count - 1) for c in itertools.combinations(range(count), size)):
        some = given.replaced([x.detach().requires_grad_(i in chosen) for i, x in enumerate(given.all())])
        gradients = pull(cell, some, cotangents, [some.all()[i] for i in chosen])
        assert_same_bits(numpy(gradients), tuple(expected[i] for i in chosen))


@every_cell
def test_sum_backward(cell: str) -> None:
    given = leaves(para_inputs(cell, 3, 5, 17, np.float32))
    h, _ = run(cell, given)
    expected = torch.autograd.grad(h, given.all(), torch.ones_like(h), retain_graph=True)
    h.sum().backward()  # passes a cotangent with all strides 0
    assert_same_bits(numpy([x.grad for x in given.all()]), numpy(expected))


# --- bits ------------------------------------------------------------------------------------------------------------


@pairs
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_any_number_of_threads(cell: str, dtype: Any, reverse: bool, ragged: bool) -> None:
    for B, T, D in ((1, 170, 256), (16, 45, 64), (13, 100, 33), (64, 220, 3)):
        inputs = para_inputs(cell, B, T, D, dtype)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None}
        cotangents, given = random_cotangents(newton_calls.run(cell, inputs)), leaves(inputs)
        fastiter.set_num_threads(1)
        expected = numpy(pull(cell, given, cotangents, given.all(), **how))
        for threads in (2, 5):
            fastiter.set_num_threads(threads)
            actual = numpy(pull(cell, given, cotangents, given.all(), **how))
            assert_same_bits(actual, expected, f"{(B, T, D)}, {threads} threads")


def test_states_feed_the_next_call_through_autograd() -> None:
    for cell in PARA_CELLS:
        given = leaves(para_inputs(cell, 3, 6, 5, np.float64))
        _, whole = run(cell, given)
        state = given.state
        for part in (slice(0, 2), slice(2, 6)):
            _, state = run(cell, Leaves(given.wx[:, part], given.weights, tuple(state)))
        assert_same_bits(numpy(state), numpy(whole))
        assert len(state) == len(STATES[cell])
        expected = torch.autograd.grad(sum(s.sum() for s in whole), given.all())
        for g, e in zip(torch.autograd.grad(sum(s.sum() for s in state), given.all()), expected, strict=True):
            torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-13)
