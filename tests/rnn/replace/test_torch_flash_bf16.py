"""flashrnn on bfloat16: states rounded to dtype_s after each step, sums and cells in float32."""

from __future__ import annotations

import re
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from bench.rnn.flashrnn_cases import COUNTS, inputs, loop  # noqa: E402
from fastiter.torch import FlashRNNConfig, flashrnn  # noqa: E402
from tests.support.cases import tolerance  # noqa: E402

F32, BF16 = torch.float32, torch.bfloat16
EPS = 2.0**-8
functions = pytest.mark.parametrize("function", COUNTS)
of_states = pytest.mark.parametrize("dtype_s", ["bfloat16", "float32"])


def config(function: str, dtype_s: str, **more: Any) -> FlashRNNConfig:
    return FlashRNNConfig(function=function, dtype="bfloat16", dtype_s=dtype_s, **more)


def half_inputs(function: str, dtype_s: str, *sizes: int) -> list[Any]:
    Wx, R, b, states = inputs(function, *sizes, BF16)
    return [Wx, R, b, states.to(getattr(torch, dtype_s))]


def pull(call: Any, given: list[Any]) -> list[Any]:
    """Return states_all, last_states and the gradients of all inputs, from cotangents that bfloat16 represents."""
    leaves = [x.detach().clone().requires_grad_() for x in given]
    outputs = call(*leaves)
    cotangents = [torch.cos(5 * torch.arange(y.numel())).view(y.shape).to(BF16).to(y.dtype) for y in outputs]
    return [x.detach() for x in (*outputs, *torch.autograd.grad(outputs, leaves, cotangents))]


def assert_near(found: list[Any], expected: list[Any], length: int, width: int) -> None:
    few = tolerance("float32", length, width) / torch.finfo(F32).eps * EPS
    for x, y in zip(found, expected, strict=True):
        error, largest = (x.float() - y).abs(), y.abs().max().item()
        assert error.max().item() <= few * largest
        assert error.mean().item() <= EPS * largest


@functions
@of_states
def test_values_and_gradients_are_those_of_float32(function: str, dtype_s: str) -> None:
    """Compare with FlashRNN's loop over the steps in float32, without rounding, on the same inputs."""
    B, T, N, D = 3, 9, 2, 17
    given = half_inputs(function, dtype_s, B, T, N, D)
    found = pull(lambda *x: flashrnn(*x, config=config(function, dtype_s)), given)
    assert [x.dtype for x in found] == [getattr(torch, dtype_s)] * 2 + [x.dtype for x in given]
    assert_near(found, pull(lambda *x: loop(*x, function), [x.float() for x in given]), B * T, D)


@functions
def test_a_step_continues_from_the_returned_states(function: str) -> None:
    """Each state is one float32 step from the previous one, rounded once: equal or, near a tie, its neighbour."""
    B, T, N, D = 3, 40, 2, 17
    Wx, R, b, states = half_inputs(function, "bfloat16", B, T, N, D)
    every, _ = flashrnn(Wx, R, b, states, function)
    if function == "gru":  # b_n is added to Wx first, and the sum is rounded
        Wx[:, :, 2] += b[3]
        b[3] = 0
    before = torch.cat([states, every[:, :, :-1]], 2).float().flatten(1, 2).unsqueeze(2)
    step, _ = loop(Wx.float().flatten(0, 1).unsqueeze(1), R.float(), b.float(), before, function)
    after, expected = (x.reshape(len(x), -1, N, D).to(BF16).view(torch.int16).int() for x in (every, step))
    off = (after - expected).abs()
    assert off.max() <= 1
    assert (off == 0).float().mean() > 0.95


@functions
@of_states
def test_continues_bit_for_bit_where_it_was_split(function: str, dtype_s: str) -> None:
    Wx, R, b, states = half_inputs(function, dtype_s, 3, 11, 2, 33)
    run = config(function, dtype_s)
    every, last = flashrnn(Wx, R, b, states, config=run)
    assert every[:, :, -1:].equal(last)
    for threads in (1, 2):
        fastiter.set_num_threads(threads)
        first, between = flashrnn(Wx[:, :4], R, b, states, config=run)
        second, end = flashrnn(Wx[:, 4:], R, b, between, config=run)
        assert torch.cat([first, second], 2).equal(every)
        assert end.equal(last)


def test_missing_states_equal_zeros_and_initial_values_have_their_dtype() -> None:
    Wx, R, b, states = half_inputs("slstm", "float32", 2, 3, 2, 4)
    plain = flashrnn(Wx, R, b, config=config("slstm", "float32"))
    assert plain[0].equal(flashrnn(Wx, R, b, torch.zeros_like(states), config=config("slstm", "float32"))[0])
    values = [0.5, 0.1, 1.1, -0.3]
    given = torch.tensor(values).view(4, 1, 1, 1, 1).expand_as(states)
    for dtype_s in ("float32", "bfloat16"):
        found = flashrnn(Wx, R, b, config=config("slstm", dtype_s, initial_val=values))[0]
        assert found.equal(flashrnn(Wx, R, b, given, config=config("slstm", dtype_s))[0])


def test_a_config_converts_and_clips() -> None:
    given = inputs("lstm", 2, 5, 2, 4, F32)
    more = {"forward_clipval": 0.25, "gradient_recurrent_clipval": 0.125}
    found = pull(lambda *x: flashrnn(*x, config=config("lstm", "bfloat16", **more)), given)
    assert found[0].dtype == BF16
    assert found[0][0].abs().max() == 0.25
    exact = pull(
        lambda *x: flashrnn(*x, config=config("lstm", "bfloat16", enable_automatic_mixed_precision=False, **more)),
        [x.to(BF16) for x in given],
    )
    assert all(x.to(BF16).equal(y) for x, y in zip(found, exact, strict=True))


@functions
def test_autocast(function: str) -> None:
    """Arguments are cast to the requested dtype, else to autocast's, which is also the dtype of the results."""
    given = inputs(function, 2, 5, 2, 4, F32)

    def cast(dtype: str | None) -> Any:
        def call(*x: Any) -> Any:
            with torch.autocast("cpu", dtype=BF16):
                return flashrnn(*x, function=function, dtype=dtype)

        return call

    found, expected = pull(cast(None), given), pull(lambda *x: flashrnn(*x, function=function), list(map(half, given)))
    assert [x.dtype for x in found] == [BF16] * 2 + [F32] * 4
    assert all(x.to(BF16).equal(y) for x, y in zip(found, expected, strict=True))
    single = pull(lambda *x: flashrnn(*x, function=function), given)
    assert all(x.equal(y) for x, y in zip(pull(cast("float32"), given), single, strict=True))


def half(x: Any) -> Any:
    return x.to(BF16)


def test_a_config_without_mixed_precision_is_not_cast() -> None:
    """An enclosing autocast changes neither results nor refusals."""
    Wx, R, b, _ = inputs("lstm", 2, 3, 2, 4, F32)
    for dtype in (None, "float32"):
        exact = FlashRNNConfig(dtype=dtype, enable_automatic_mixed_precision=False)
        expected = flashrnn(Wx, R, b, config=exact)[0]
        with torch.autocast("cpu", dtype=BF16):
            assert flashrnn(Wx, R, b, config=exact)[0].equal(expected)
            with pytest.raises(TypeError, match=r"R must have dtype torch.bfloat16 like Wx"):
                flashrnn(Wx.to(BF16), R, b, config=exact)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, in tracing
def test_compiles_into_one_graph() -> None:
    given = half_inputs("slstm", "bfloat16", 2, 3, 2, 4)

    def call(*given: Any) -> Any:
        return flashrnn(*given, function="slstm")

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert all(x.equal(y) for x, y in zip(pull(compiled, given), pull(call, given), strict=True))


def test_refusals() -> None:
    Wx, R, b, states = half_inputs("lstm", "bfloat16", 2, 3, 2, 4)
    exact = config("lstm", "float32", enable_automatic_mixed_precision=False)
    wrong = [
        ((Wx, R, b, states.float()), {}, "states must have dtype torch.bfloat16 like Wx, got torch.float32"),
        ((Wx, R, b, states), {"config": exact}, "states must have dtype float32 like dtype_s, got torch.bfloat16"),
        ((Wx, R.float(), b), {}, "R must have dtype torch.bfloat16 like Wx, got torch.float32"),
        ((Wx, R, b), {"dtype": "float32"}, "dtype must be that of Wx, torch.bfloat16, got 'float32'"),
    ]
    for arguments, more, message in wrong:
        with pytest.raises(TypeError, match="^" + re.escape(f"flashrnn: {message}")):
            flashrnn(*arguments, **more)
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(TypeError, match=r"Wx .* as float16 cannot hold"):
        flashrnn(Wx, R, b)
