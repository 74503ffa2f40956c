"""clip_state, clip_grad, reset, cu_seqlens, checkpoint of the recurrences against a loop that torch differentiates."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from fastiter.reference import rnn as reference  # noqa: E402
from tests.rnn import calls as rnn_calls  # noqa: E402
from tests.rnn.calls import both_dtypes, both_ways, every_cell, full_and_ragged, options, some_lengths  # noqa: E402
from tests.rnn.torch_calls import leaves, loop, numpy, pull, random_cotangents, run, specified_gradients, tensor  # noqa: E402
from tests.support.cases import RNN_CELLS, STATES, RnnInputs, assert_close, assert_same_bits, rnn_inputs  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

SIZES = [(5, 6, 2, 17), (1, 5, 1, 33)]


def some_resets(B: int, T: int) -> Any:
    """Return flags (B, T), a third of them set, the first step of the first row included."""
    reset = np.random.default_rng([B, T]).random((B, T)) < 1 / 3
    reset[:1, :1] = True
    return reset


def some_bounds(T: int) -> Any:
    """Return cu_seqlens of six sequences, one of them empty."""
    inner = np.sort(np.random.default_rng(T).integers(0, T + 1, 4))
    return np.array([0, *inner, inner[-1], T])


def packed_inputs(cell: str, T: int, N: int, D: int, dtype: Any) -> tuple[RnnInputs, Any]:
    """Return one row of T steps, the sequences in it, and a state for each."""
    bounds = some_bounds(T)
    states = rnn_inputs(cell, len(bounds) - 1, 1, N, D, dtype).state
    return rnn_inputs(cell, 1, T, N, D, dtype)._replace(state=states), bounds


def with_gradients(outputs: Any, wanted: tuple[Any, ...]) -> tuple[Any, Any]:
    """All outputs, and the gradients of their sum, each weighted by its cosine."""
    h, last, states = outputs
    ys = [h, *last, *states[1:]]
    gradients = torch.autograd.grad(ys, wanted, [y.detach().cos() for y in ys], allow_unused=True)
    return numpy(ys), numpy([torch.zeros_like(x) if g is None else g for g, x in zip(gradients, wanted, strict=True)])


# --- clipping and resets ---------------------------------------------------------------------------------------------

ASKED = {
    "clip_state": {"clip_state": 0.25},
    "clip_grad": {"clip_grad": 0.2},
    "cut": {"clip_grad": 0},
    "reset": {"reset": True},
    "all": {"clip_state": 0.25, "clip_grad": 0.2, "reset": True},
}


def filled(asked: dict[str, Any], B: int, T: int) -> dict[str, Any]:
    return {**asked, "reset": some_resets(B, T)} if "reset" in asked else asked


@pairs
@pytest.mark.parametrize("asked", ASKED)
@full_and_ragged
@both_ways
@every_cell
def test_the_loop_of_torch(cell: str, activation: str, reverse: bool, ragged: bool, asked: str) -> None:
    for B, T, N, D in SIZES:
        inputs = rnn_inputs(cell, B, T, N, D, np.float64)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None, **filled(ASKED[asked], B, T)}
        plain, given = leaves(inputs), leaves(inputs)
        expected, expected_gradients = with_gradients(loop(cell + activation, plain, **how), plain.all())
        if "reset" in how:
            how["reset"] = tensor(how["reset"])
        actual, gradients = with_gradients(run(cell, activation, given, **how), given.all())
        assert_close(actual, expected, T, D)
        # Gradients that are small where everything was clipped are sums that cancel: relative to the largest of them
        scale = max(float(np.max(np.abs(g))) for g in expected_gradients)
        assert_close(gradients, expected_gradients, B * T, D, scale=scale)


@pairs
@pytest.mark.parametrize("asked", ASKED)
@both_ways
@every_cell
def test_the_specification(cell: str, activation: str, reverse: bool, asked: str) -> None:
    for B, T, N, D in SIZES:
        inputs = rnn_inputs(cell, B, T, N, D, np.float64)
        how: dict[str, Any] = {"reverse": reverse, "lengths": some_lengths(B, T), **filled(ASKED[asked], B, T)}
        given = leaves(inputs)
        expected, expected_gradients = with_gradients(loop(cell + activation, given, **how), given.all())
        count = 1 + len(inputs.state)
        clip_grad = how.pop("clip_grad", None)
        h, last, states = rnn_calls.specified(cell, activation, inputs, **how)
        assert_close((h, *last, *states[1:]), expected, T, D)
        weights = [np.cos(y) for y in (h, *last, *states[1:])]
        gradients = reference.backward(
            *(cell, *inputs, weights[0], weights[1:count], [np.zeros_like(h), *weights[count:]]),
            **options(activation, clip_grad=clip_grad, **how),
        )
        scale = max(float(np.max(np.abs(g))) for g in expected_gradients)
        assert_close((*gradients[:3], *gradients[3]), expected_gradients, B * T, D, scale=scale)


@both_dtypes
@both_ways
@every_cell
def test_arrays_and_tensors_are_alike(cell: str, activation: str, dtype: Any, reverse: bool) -> None:
    for B, T, N, D in SIZES:
        inputs = rnn_inputs(cell, B, T, N, D, dtype)
        reset = some_resets(B, T)
        for flags in (reset, reset[0]):
            how = {"reverse": reverse, "lengths": some_lengths(B, T), "clip_state": 0.25}
            expected = rnn_calls.run(cell, activation, inputs, reset=flags, **how)
            assert_close(expected, rnn_calls.specified(cell, activation, inputs, reset=flags, **how), T, D)
            assert_same_bits(numpy(run(cell, activation, leaves(inputs), reset=tensor(flags), **how)), expected)
        actual = rnn_calls.run(cell, activation, inputs, backend="reference", reset=reset, **how)
        assert_close(actual, expected=rnn_calls.run(cell, activation, inputs, reset=reset, **how), length=T, width=D)


@every_cell
def test_bounds_that_no_value_reaches_change_no_bit(cell: str, activation: str) -> None:
    inputs = rnn_inputs(cell, 3, 5, 2, 17, np.float32)
    plain, given = leaves(inputs), leaves(inputs)
    expected = with_gradients(run(cell, activation, plain), plain.all())
    for how in ({"clip_state": 1e3, "clip_grad": 1e9}, {"clip_state": float("inf"), "reset": torch.zeros(5).bool()}):
        actual = with_gradients(run(cell, activation, given, **how), given.all())
        assert_same_bits(actual[0], expected[0])
        same = [g for i, g in enumerate(actual[1]) if i != 1 or "reset" not in how]
        assert_same_bits(tuple(same), tuple(g for i, g in enumerate(expected[1]) if i != 1 or "reset" not in how))


# --- sequences side by side ------------------------------------------------------------------------------------------


@both_dtypes
@both_ways
@every_cell
def test_sequences_in_one_row_equal_separate_rows(cell: str, activation: str, dtype: Any, reverse: bool) -> None:
    T, N, D = 23, 2, 17
    inputs, bounds = packed_inputs(cell, T, N, D, dtype)
    how = {"reverse": reverse, "clip_state": 0.4}
    h, last, states = rnn_calls.run(cell, activation, inputs, cu_seqlens=bounds, **how)
    for s, (begin, end) in enumerate(itertools.pairwise(bounds)):
        alone = inputs._replace(wx=inputs.wx[:, begin:end], state=tuple(x[s : s + 1] for x in inputs.state))
        one_h, one_last, one_states = rnn_calls.run(cell, activation, alone, **how)
        assert_same_bits((h[:, begin:end], tuple(x[s : s + 1] for x in last)), (one_h, one_last))
        assert_same_bits(tuple(x[:, begin:end] for x in states), one_states)
    specified = rnn_calls.specified(cell, activation, inputs, cu_seqlens=bounds, **how)
    assert_close((h, last, states), specified, T, D)
    given = leaves(inputs)
    assert_same_bits(numpy(run(cell, activation, given, cu_seqlens=torch.tensor(bounds), **how)), (h, last, states))


@pytest.mark.parametrize("reset", [False, True], ids=["", "reset"])
@both_ways
@every_cell
def test_gradients_of_sequences_in_one_row(cell: str, activation: str, reverse: bool, reset: bool) -> None:
    T, N, D = 23, 2, 17
    inputs, bounds = packed_inputs(cell, T, N, D, np.float64)
    flags = some_resets(1, T) if reset else None
    cotangents = random_cotangents(rnn_calls.run(cell, activation, inputs, cu_seqlens=bounds))
    how: dict[str, Any] = {"reverse": reverse, "cu_seqlens": bounds, "clip_grad": 0.5}
    expected = specified_gradients(cell, activation, inputs, cotangents, reset=flags, **how)
    given = leaves(inputs)
    how["reset"] = None if flags is None else tensor(flags)
    actual = pull(cell, activation, given, cotangents, given.all(), **how)
    assert_close(numpy(actual), expected, T, D, scale=max(float(np.max(np.abs(g))) for g in expected))


def test_no_sequences_and_no_steps() -> None:
    for bounds in ([0], [0, 0], [0, 0, 0]):
        inputs = rnn_inputs("lstm", 1, 0, 2, 5, np.float64)
        states = rnn_inputs("lstm", len(bounds) - 1, 1, 2, 5, np.float64).state
        given = leaves(inputs._replace(state=states))
        h, last, _ = run("lstm", "", given, cu_seqlens=bounds)
        assert h.shape == (1, 0, 2, 5)
        assert_same_bits(numpy(last), states)
        gradients = torch.autograd.grad([h, *last], given.all(), [torch.ones_like(y) for y in (h, *last)])
        assert all(bool((g == 1).all()) for g in gradients[3:])
        assert not gradients[1].any()


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pairs
@full_and_ragged
@both_ways
@every_cell
def test_checkpoints_change_no_bit(cell: str, activation: str, reverse: bool, ragged: bool) -> None:
    fastiter.set_num_threads(1)
    sizes = ((5, 9, 2, 17), (1, 6, 1, 130), (3, 7, 2, 6), (7, 4, 1, 5), (2, 0, 1, 3))
    for (B, T, N, D), asked in zip(sizes, ASKED, strict=True):
        inputs = rnn_inputs(cell, B, T, N, D, np.float32)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None, **filled(ASKED[asked], B, T)}
        if "reset" in how:
            how["reset"] = tensor(how["reset"])
        for all_states, options_of_the_run in ((True, how), (False, {"reverse": reverse})):
            given = leaves(inputs)

            def outputs(every: int | None) -> Any:
                asked_here = options(activation, return_all_states=all_states, checkpoint=every, **options_of_the_run)  # noqa: B023
                result = getattr(fastiter.torch, cell)(*given, **asked_here)  # noqa: B023
                return result if all_states else (*result, result[:1])  # noqa: B023

            expected = with_gradients(outputs(None), given.all())
            for every in (1, 4, 100):
                assert_same_bits(with_gradients(outputs(every), given.all()), expected)


@full_and_ragged
def test_gradients_on_many_threads_and_in_chunks(ragged: bool) -> None:
    """Plans that share units, rows and heads; r narrow enough to sum its gradient during the pass, and wider."""
    for cell, B, T, N, D in (("lstm", 1, 40, 1, 256), ("gru", 45, 12, 1, 65), ("slstm", 16, 20, 2, 48)):
        given = leaves(rnn_inputs(cell, B, T, N, D, np.float32))
        how = {"lengths": some_lengths(B, T) if ragged else None}
        results = []
        for threads, every in ((1, None), (2, None), (5, None), (2, 8), (4, 5)):
            fastiter.set_num_threads(threads)
            results.append(with_gradients(run(cell, "", given, checkpoint=every, **how), given.all()))
        for result in results[1:]:
            assert_same_bits(result, results[0])


@both_ways
@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
def test_checkpoints_far_apart(cell: str, reverse: bool) -> None:
    """Chunks longer than the steps recomputed at once, which begin and end anywhere in a row."""
    given = leaves(rnn_inputs(cell, 3, 450, 1, 40, np.float32))
    fastiter.set_num_threads(1)
    how = {"reverse": reverse, "reset": tensor(some_resets(3, 450))}
    expected = with_gradients(run(cell, "", given, **how), given.all())
    assert_same_bits(with_gradients(run(cell, "", given, **how, checkpoint=400), given.all()), expected)


@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
def test_checkpoints_save_memory(cell: str) -> None:
    """Compare the bytes saved for the backward pass besides the arguments and h."""
    given = leaves(rnn_inputs(cell, 4, 128, 2, 16, np.float32))

    def kept(every: int | None) -> int:
        sizes: list[int] = []
        ours = {x.data_ptr() for x in given.all()}

        def note(x: Any) -> Any:
            if x.data_ptr() not in ours:
                sizes.append(x.nbytes)
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            h, _ = getattr(fastiter.torch, cell)(*given, checkpoint=every)
        return sum(sizes) - h.nbytes

    wx = given.all()[0]
    assert kept(32) == 3 * len(STATES[cell]) * wx[:, 0, 0].nbytes  # the states between 4 chunks
    assert kept(32) * 8 <= kept(None)
    assert kept(128) == 0


# --- errors ----------------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"clip_state": "1"}, TypeError, "lstm: clip_state must be a number or None, got str"),
    ({"clip_state": True}, TypeError, "lstm: clip_state must be a number or None, got bool"),
    ({"clip_state": 0.0}, ValueError, "lstm: clip_state must be positive, got 0.0"),
    ({"clip_state": float("nan")}, ValueError, "lstm: clip_state must be positive, got nan"),
    (
        {"clip_state": 10**400},
        ValueError,
        "lstm: clip_state must be a positive number that a float can hold, got a larger",
    ),
    ({"cu_seqlens": [0, 4]}, ValueError, "lstm: wx must have B = 1 if cu_seqlens is given, got B = 2"),
    ({"cu_seqlens": [0, 4], "lengths": [1, 2]}, ValueError, "lstm: lengths must be None if cu_seqlens is given"),
    ({"reset": [1]}, TypeError, "lstm: reset must be a .* of bool, got list"),
]
OF_TENSORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"clip_grad": -1}, ValueError, "lstm: clip_grad must be positive or 0, got -1"),
    ({"checkpoint": 0}, ValueError, "lstm: checkpoint must be at least 1 step, got 0"),
    (
        {"clip_grad": 10**5000},
        ValueError,
        "lstm: clip_grad must be a positive number that a float can hold, got a larger",
    ),
    (
        {"checkpoint": 2**70},
        ValueError,
        "lstm: checkpoint must be at most 9223372036854775807 steps, got a larger number",
    ),
    ({"checkpoint": 2.0}, TypeError, "lstm: checkpoint must be a number of steps or None, got float"),
    ({"reset": torch.zeros(2, 4)}, TypeError, r"lstm: reset must be a torch.Tensor of bool, got dtype torch.float32"),
    ({"reset": torch.zeros(4, 2).bool()}, ValueError, r"lstm: reset must have shape \(B, T\) = \(2, 4\) or \(T,\)"),
]


@pytest.mark.parametrize(("asked", "error", "message"), [*WRONG, *OF_TENSORS])
def test_errors(asked: dict[str, Any], error: type[Exception], message: str) -> None:
    inputs = rnn_inputs("lstm", 2, 4, 1, 3, np.float64)
    with pytest.raises(error, match=message):
        fastiter.torch.lstm(*leaves(inputs), **asked)
    if (asked, error, message) in WRONG:
        with pytest.raises(error, match=message):
            fastiter.lstm(*inputs, **asked)


def test_errors_of_sequences_in_one_row() -> None:
    inputs = rnn_inputs("gru", 1, 4, 1, 3, np.float64)
    tensors = leaves(inputs)
    for function, arguments in ((fastiter.gru, inputs), (fastiter.torch.gru, tensors)):
        for bounds in ([0, 3], [1, 4], [0, 5, 4], [[0, 4]], []):
            with pytest.raises(ValueError, match=r"gru: (cu_seqlens must (rise|have shape)|state h must have shape)"):
                function(*arguments, cu_seqlens=bounds)
        with pytest.raises(TypeError, match="gru: cu_seqlens must be integers, got dtype float64"):
            function(*arguments, cu_seqlens=[0.0, 4.0])
        with pytest.raises(ValueError, match=r"gru: state h must have shape \(S, N, D\) = \(2, 1, 3\) to go with wx"):
            function(*arguments, cu_seqlens=[0, 1, 4])
    with pytest.raises(ValueError, match="gru: checkpoint must be None if cu_seqlens is given, as chunks of time"):
        fastiter.torch.gru(*tensors, cu_seqlens=[0, 4], checkpoint=2)


# --- traced ----------------------------------------------------------------------------------------------------------


@every_cell
def test_opcheck(cell: str, activation: str) -> None:
    name = f"{cell}_{activation}" if activation else cell
    ops, checks = torch.ops.fastiter, ("test_schema", "test_autograd_registration", "test_faketensor")
    wx, r, b, *state = (x.detach() for x in leaves(rnn_inputs(cell, 3, 4, 2, 5, np.float32)).all())
    reset = torch.from_numpy(some_resets(3, 4))
    count = len(STATES[cell])
    for every in (0, 3):
        options_of_op = (None, reset, 0.3, 0.5, every)
        forward = (name, wx, r, b, state, False, None, None, False, True, *options_of_op)
        torch.library.opcheck(ops._rnn_fwd.default, forward, test_utils=checks)
        h, *rest = ops._rnn_fwd(*forward)
        last, kept = rest[:count], rest[count:]
        split = 0 if every else count - 1
        backward = (name, r, state, [h, *kept[:split]], kept[split:], [h], last, False, None, None, True, True, True)
        again = (wx, b) if every else (None, None)
        torch.library.opcheck(ops._rnn_bwd.default, (*backward, *options_of_op, *again), test_utils=checks)
    packed = (wx[:1], r, b, [s[:2] for s in state], True, None, None, True, True, torch.tensor([0, 1, 4]))
    torch.library.opcheck(ops._rnn_fwd.default, (name, *packed), test_utils=checks)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")
def test_compile() -> None:
    def model(wx: Any, r: Any, reset: Any, bounds: Any) -> Any:
        h, (last,) = fastiter.torch.gru(wx, r, reset=reset, clip_state=0.5, clip_grad=0.5, checkpoint=2)
        h2, _ = fastiter.torch.gru(wx[:1], r, cu_seqlens=bounds)
        return h.sum((1, 2)) * last.sum((1, 2))[:, None] + h2.sum()

    torch._dynamo.reset()
    fast = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for B, T in ((3, 5), (2, 6)):
        given = leaves(rnn_inputs("gru", B, T, 2, 5, np.float64))
        more = (torch.from_numpy(some_resets(B, T)), torch.tensor([0, 2, T]))
        results = []
        for function in (fast, model):
            y = function(given.wx, given.r, *more)
            results.append(numpy([y, *torch.autograd.grad(y.sum(), (given.wx, given.r))]))
        assert_same_bits(*results)


def test_a_small_call_without_options_still_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("forward_tensors", "backward_tensors"):
        function = getattr(fastiter._core.rnn, name)
        monkeypatch.setattr(fastiter._core.rnn, name, lambda *x, f=function, n=name: calls.append(n) or f(*x))
    for cell, activation in RNN_CELLS:
        given = leaves(rnn_inputs(cell, 2, 3, 1, 4, np.float32))
        run(cell, activation, given)[0].sum().backward()
    assert calls == ["forward_tensors", "backward_tensors"] * len(RNN_CELLS)
