"""elman, lstm, gru and slstm on tensors: the numbers of the NumPy functions, the gradients of the specification."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from fastiter.rnn._torch.run import packed  # noqa: E402
from tests.rnn import calls as rnn_calls  # noqa: E402
from tests.rnn.calls import both_dtypes, both_ways, every_cell, full_and_ragged, options, some_lengths  # noqa: E402
from tests.rnn.torch_calls import Leaves, leaves, numpy, only, pull, random_cotangents, run, specified_gradients, tensor  # noqa: E402
from tests.support.cases import STATES, assert_close, assert_same_bits, rnn_inputs  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

both_layouts = pytest.mark.parametrize("time_major", [False, True], ids=["batch-major", "time-major"])
SIZES = [(1, 1, 1, 1), (2, 9, 3, 5), (7, 4, 2, 17), (13, 3, 1, 33), (3, 2, 1, 130)]


# --- forward ---------------------------------------------------------------------------------------------------------


@pairs
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_results_equal_those_of_numpy(cell: str, activation: str, dtype: Any, reverse: bool, ragged: bool) -> None:
    for B, T, N, D in (*SIZES, (0, 3, 2, 5), (3, 0, 2, 5)):
        inputs = rnn_inputs(cell, B, T, N, D, dtype)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None}
        expected = rnn_calls.run(cell, activation, inputs, **how)
        for time_major in (False, True):
            given = leaves(inputs, time_major)
            assert_same_bits(numpy(run(cell, activation, given, **how)), expected)
            with torch.no_grad():
                assert_same_bits(numpy(run(cell, activation, given, **how)), expected)
            h, last = getattr(fastiter.torch, cell)(*given, **options(activation, **how))
            assert_same_bits(numpy((h, last)), expected[:2])


@every_cell
def test_without_bias_and_state(cell: str, activation: str) -> None:
    inputs = rnn_inputs(cell, 3, 4, 2, 5, np.float64)
    arguments, how = (inputs.wx, inputs.r), options(activation)
    expected = getattr(fastiter, cell)(*arguments, **how)
    assert_same_bits(numpy(getattr(fastiter.torch, cell)(*map(tensor, arguments), **how)), expected)


@pytest.mark.parametrize("make", [list, tuple, torch.tensor, np.array, lambda x: torch.tensor(x, dtype=torch.uint8)])
def test_lengths_of_any_integer_type(make: Any) -> None:
    inputs = leaves(rnn_inputs("gru", 3, 4, 1, 5, np.float64))
    expected = numpy(run("gru", "", inputs, lengths=[4, 0, 2]))
    assert_same_bits(numpy(run("gru", "", inputs, lengths=make([4, 0, 2]))), expected)
    every_second = torch.tensor([4, 9, 0, 9, 2, 9])[::2]
    assert_same_bits(numpy(run("gru", "", inputs, lengths=every_second)), expected)


def test_lengths_may_be_a_read_only_array() -> None:
    inputs, lengths = leaves(rnn_inputs("gru", 3, 4, 1, 5, np.float64)), np.array([4, 0, 2])
    expected = numpy(run("gru", "", inputs, lengths=lengths))
    lengths.setflags(write=False)
    assert_same_bits(numpy(run("gru", "", inputs, lengths=lengths)), expected)


# --- gradients -------------------------------------------------------------------------------------------------------


@pairs
@both_layouts
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_gradients(cell: str, activation: str, dtype: Any, reverse: bool, ragged: bool, time_major: bool) -> None:
    for B, T, N, D in SIZES[1:]:
        inputs = rnn_inputs(cell, B, T, N, D, dtype)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None}
        cotangents = random_cotangents(rnn_calls.run(cell, activation, inputs))
        given = leaves(inputs, time_major)
        gradients = pull(cell, activation, given, cotangents, given.all(), **how)
        expected = specified_gradients(cell, activation, inputs, cotangents, **how)
        assert_close(numpy(gradients), expected, B * T, D)


def kinds(cell: str) -> list[tuple[str, int]]:
    each = range(len(STATES[cell]))
    return [("h", 0), *(("last", k) for k in each), *(("states", k) for k in each)]


@pairs
@full_and_ragged
@both_ways
@every_cell
def test_each_cotangent_alone(cell: str, activation: str, reverse: bool, ragged: bool) -> None:
    B, T, N, D = 3, 5, 2, 5
    inputs = rnn_inputs(cell, B, T, N, D, np.float64)
    how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None}
    every = random_cotangents(rnn_calls.run(cell, activation, inputs))
    for kind, k in kinds(cell):
        cotangents, given = only(every, kind, k), leaves(inputs)
        gradients = pull(cell, activation, given, cotangents, given.all(), **how)
        expected = specified_gradients(cell, activation, inputs, cotangents, **how)
        # One scale for all, since a gradient may be all zeros.
        scale = max(float(np.max(np.abs(e))) for e in expected)
        assert_close(numpy(gradients), expected, B * T, D, scale=scale, name=f"{kind} {k}")


@both_ways
@every_cell
def test_gradients_of_padding_are_zero_whatever_it_contains(cell: str, activation: str, reverse: bool) -> None:
    B, T, lengths = 3, 5, [3, 0, 5]
    inputs = rnn_inputs(cell, B, T, 2, 5, np.float64)
    cotangents = random_cotangents(rnn_calls.run(cell, activation, inputs))
    expected = specified_gradients(cell, activation, inputs, cotangents, reverse=reverse, lengths=lengths)
    for row, length in enumerate(lengths):
        inputs.wx[row, length:] = np.nan
        for c in (cotangents.h, *cotangents.states):
            assert c is not None
            c[row, length:] = np.nan
    given = leaves(inputs)
    gradients = pull(cell, activation, given, cotangents, given.all(), reverse=reverse, lengths=lengths)
    assert_close(numpy(gradients), expected, B * T, 5)
    for row, length in enumerate(lengths):
        padding = numpy(gradients[0])[row, length:]
        assert_same_bits(padding, np.zeros_like(padding))


@every_cell
def test_a_poisoned_sequence_leaves_the_gradients_of_the_others(cell: str, activation: str) -> None:
    B, row = 7, 3
    inputs = rnn_inputs(cell, B, 4, 2, 17, np.float32)
    cotangents, clean = random_cotangents(rnn_calls.run(cell, activation, inputs)), leaves(inputs)
    expected = numpy(pull(cell, activation, clean, cotangents, (clean.wx, *clean.state)))
    inputs.wx[row, 2, 0, 1, 4] = np.nan
    given = leaves(inputs)
    gradients = numpy(pull(cell, activation, given, cotangents, (given.wx, *given.state)))
    for g, e in zip(gradients, expected, strict=True):
        assert_same_bits(np.delete(g, row, 0), np.delete(e, row, 0))


@both_ways
@pytest.mark.parametrize(("B", "T"), [(0, 4), (2, 0), (0, 0)])
@every_cell
def test_gradients_of_empty_inputs(cell: str, activation: str, B: int, T: int, reverse: bool) -> None:
    given = leaves(rnn_inputs(cell, B, T, 2, 5, np.float64))
    h, last, states = run(cell, activation, given, reverse=reverse)
    (h.sum() + sum(s.sum() for s in (*last, *states))).backward()
    assert not given.r.grad.any()
    assert not given.b.grad.any()
    assert given.wx.grad.shape == given.wx.shape
    assert all((s.grad == 1).all() for s in given.state)


# --- gradcheck -------------------------------------------------------------------------------------------------------


def smooth_inputs(cell: str, n: tuple[float, float]) -> Leaves:
    """Return inputs away from the kinks of relu (0) and max(n, 1)."""
    inputs = rnn_inputs(cell, 3, 3, 2, 2, np.float64, seed=2)
    if cell == "slstm":
        h, c, _, m = inputs.state
        inputs = inputs._replace(state=(h, c, np.random.default_rng(0).uniform(*n, h.shape), m))
    return leaves(inputs)


@pairs
@both_ways
@full_and_ragged
@every_cell
def test_gradcheck_of_all_inputs_at_once(cell: str, activation: str, ragged: bool, reverse: bool) -> None:
    # n between 0.2 and 0.8: f n + i is below 1 in some places, where max(., 1) stops the gradient, and above in others.
    for n in ((1.3, 2.5), (0.2, 0.8)) if cell == "slstm" else ((0, 0),):
        given = smooth_inputs(cell, n)

        def outputs(wx: Any, r: Any, b: Any, *state: Any) -> tuple[Any, ...]:
            how = {"reverse": reverse, "lengths": [2, 0, 3] if ragged else None}
            h, last, states = run(cell, activation, Leaves(wx, r, b, state), **how)
            return (h, *last, *states[1:])

        assert torch.autograd.gradcheck(outputs, given.all())


@every_cell
def test_gradcheck_of_each_input_alone(cell: str, activation: str) -> None:
    given = smooth_inputs(cell, (1.3, 2.5))
    constant = [x.detach() for x in given.all()]
    for i, x in enumerate(given.all()):

        def h_of_one(one: Any, i: int = i) -> Any:
            wx, r, b, *state = [*constant[:i], one, *constant[i + 1 :]]
            h, last, _ = run(cell, activation, Leaves(wx, r, b, tuple(state)), lengths=[2, 0, 3], reverse=True)
            return (h, *last)

        assert torch.autograd.gradcheck(h_of_one, (x,))


# --- which inputs, which cotangents ----------------------------------------------------------------------------------


@every_cell
def test_gradients_of_some_inputs_are_those_of_all(cell: str, activation: str) -> None:
    inputs = rnn_inputs(cell, 3, 5, 2, 5, np.float32)
    cotangents, given = random_cotangents(rnn_calls.run(cell, activation, inputs)), leaves(inputs)
    expected = numpy(pull(cell, activation, given, cotangents, given.all()))
    count = len(expected)
    for chosen in (c for size in (1, 2, count - 1) for c in itertools.combinations(range(count), size)):
        wx, r, b, *state = (x.detach().requires_grad_(i in chosen) for i, x in enumerate(given.all()))
        some = Leaves(wx, r, b, tuple(state))
        gradients = pull(cell, activation, some, cotangents, [some.all()[i] for i in chosen])
        assert_same_bits(numpy(gradients), tuple(expected[i] for i in chosen))


@every_cell
def test_sum_backward(cell: str, activation: str) -> None:
    given = leaves(rnn_inputs(cell, 3, 5, 2, 17, np.float32))
    h, *_ = run(cell, activation, given)
    expected = torch.autograd.grad(h, given.all(), torch.ones_like(h), retain_graph=True)
    h.sum().backward()  # passes a cotangent with all strides 0
    assert_same_bits(tuple(numpy(x.grad) for x in given.all()), numpy(expected))


VIEWS = {
    "time-major": lambda c: c.transpose(0, 1).contiguous().transpose(0, 1),
    "units outermost": lambda c: c.transpose(0, -1).contiguous().transpose(0, -1),
    "expanded": lambda c: c[:1, :1].expand(c.shape),
    "units expanded": lambda c: c[..., :1].expand(c.shape),
    "every second unit": lambda c: torch.repeat_interleave(c, 2, -1)[..., ::2],
    "inside": lambda c: torch.nn.functional.pad(c, (1, 1))[..., 1:-1],
    "negated by a flag": lambda c: torch._neg_view(-c),
}


@pytest.mark.parametrize("view", VIEWS)
@every_cell
def test_any_layout_of_cotangents(cell: str, activation: str, view: str) -> None:
    given = leaves(rnn_inputs(cell, 3, 5, 2, 17, np.float32))
    h, last, states = run(cell, activation, given)
    outputs = [h, *last, *states[1:]]
    generator = torch.Generator().manual_seed(0)
    viewed = [VIEWS[view](torch.randn(y.shape, generator=generator)) for y in outputs]
    plain = [torch.empty(c.shape).copy_(c) for c in viewed]
    expected = torch.autograd.grad(outputs, given.all(), plain, retain_graph=True)
    assert_same_bits(numpy(torch.autograd.grad(outputs, given.all(), viewed)), numpy(expected))


@pytest.mark.parametrize("view", VIEWS)
@every_cell
def test_any_layout_of_inputs(cell: str, activation: str, view: str) -> None:
    given = leaves(rnn_inputs(cell, 3, 5, 2, 17, np.float32)).all()
    for i in range(len(given)):
        results = []
        viewed = VIEWS[view](given[i].detach())
        for x in (viewed, torch.empty(viewed.shape).copy_(viewed)):
            wx, r, b, *state = (*given[:i], x.requires_grad_(), *given[i + 1 :])
            inputs = Leaves(wx, r, b, tuple(state))
            h, last, _ = run(cell, activation, inputs)
            results.append(numpy((h, last, torch.autograd.grad([h, *last], inputs.all(), [h.detach(), *last]))))
        assert_same_bits(results[0], results[1], f"input {i}")


# --- small calls -----------------------------------------------------------------------------------------------------


def in_bfloat16(inputs: Leaves) -> Leaves:
    """Return the arguments in bfloat16, with states other than h in float32."""

    def half(x: Any) -> Any:
        return x.detach().bfloat16().requires_grad_()

    h, *others = inputs.state
    return Leaves(*map(half, inputs[:3]), (half(h), *others))


def bits_of(x: Any) -> Any:
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).detach().numpy()


@pairs
@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=["f32", "f64", "bf16"])
@every_cell
def test_one_call_or_step_by_step(
    cell: str, activation: str, dtype: Any, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense tensors take a single call; the ops give the same results without it: in either layout by turns."""
    time_major = (reverse + dtype.itemsize // 4) % 2 == 1
    short = [fastiter._core.rnn.forward_tensors, fastiter._core.rnn.backward_tensors]
    answers: list[bool] = []

    def counted(function: Any) -> Any:
        def call(*args: Any) -> Any:
            answer = function(*args)
            answers.append(answer is not None)
            return answer

        return call

    for B, T, N, D in (*SIZES, (0, 3, 2, 5), (3, 0, 2, 5), (5, 200, 2, 70)):  # the last one's gates take megabytes
        results, kinds = [], []
        monkeypatch.undo()
        for functions in (map(counted, short), [lambda *_: None] * 2):
            for name, function in zip(("forward_tensors", "backward_tensors"), functions, strict=True):
                monkeypatch.setattr(fastiter._core.rnn, name, function)
            if results:
                monkeypatch.setattr(fastiter._core.rnn, "fits_tensors", lambda *_: False)
            if dtype == torch.bfloat16:
                given = in_bfloat16(leaves(rnn_inputs(cell, B, T, N, D, np.float32), time_major))
            else:
                numbers = np.float32 if dtype == torch.float32 else np.float64
                given = leaves(rnn_inputs(cell, B, T, N, D, numbers), time_major)
            with torch.no_grad():
                h, last = getattr(fastiter.torch, cell)(*given, **options(activation, reverse=reverse))
            alone = (h, *last)
            h, last, states = run(cell, activation, given, reverse=reverse)
            outputs = [h, *last, *states[1:]]
            gradients = torch.autograd.grad(outputs, given.all(), [x.detach().cos() for x in outputs])
            results.append(tuple(map(bits_of, (*alone, *outputs, *gradients))))
            kinds.append([(x.dtype, x.shape, x._is_view()) for x in (*alone, *outputs, *gradients)])
            kinds[-1] += [x.stride() for x in (h, gradients[0]) if x.numel() and min(x.shape) > 1]
        assert_same_bits(*results)
        assert kinds[0] == kinds[1]
    assert answers and all(answers)


# --- packed ----------------------------------------------------------------------------------------------------------


@both_ways
@both_dtypes
@every_cell
def test_packed_equals_the_padded_batch(cell: str, activation: str, dtype: Any, reverse: bool) -> None:
    B, T, N, D, lengths = 5, 6, 2, 17, [6, 4, 4, 2, 1]
    inputs = rnn_inputs(cell, B, T, N, D, dtype)
    plain, given = leaves(inputs), leaves(inputs)
    h, last, _ = run(cell, activation, plain, reverse=reverse, lengths=lengths)
    rows = torch.nn.utils.rnn.pack_padded_sequence(given.wx, lengths, batch_first=True)
    name = f"{cell}_{activation}" if activation else cell
    packed_h, packed_last = packed(name, rows.data, rows.batch_sizes, *given[1:], reverse=reverse)
    padded = torch.nn.utils.rnn.PackedSequence(packed_h, rows.batch_sizes)
    padded_h, _ = torch.nn.utils.rnn.pad_packed_sequence(padded, batch_first=True, total_length=T)
    assert_same_bits(numpy((padded_h, packed_last)), numpy((h, last)))
    cotangents = [torch.randn_like(x) for x in (h, *last)]
    expected = numpy(torch.autograd.grad([h, *last], plain.all(), cotangents))
    gradients = numpy(torch.autograd.grad([padded_h, *packed_last], given.all(), cotangents))
    assert_same_bits(gradients[:1] + gradients[2:], expected[:1] + expected[2:])
    # dr sums the same terms in another order.
    assert_close(gradients[1], expected[1], B * T, D)
