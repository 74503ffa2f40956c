"""flashrnn: FlashRNN's equations, layouts, gate orders and options; refusals name the argument."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from bench.rnn.flashrnn_cases import COUNTS, inputs, loop  # noqa: E402
from fastiter.torch import FlashRNNConfig, flashrnn  # noqa: E402
from tests.support.cases import tolerance  # noqa: E402

F32, F64 = torch.float32, torch.float64
functions = pytest.mark.parametrize("function", COUNTS)
NAMES = {F32: "float32", F64: "float64"}


def pull(call: Any, given: list[Any], cotangents: list[Any]) -> list[Any]:
    """Return states_all, last_states and the gradients of all inputs."""
    leaves = [x.detach().clone().requires_grad_() for x in given]
    outputs = call(*leaves)
    gradients = torch.autograd.grad(outputs, leaves, [c.to(y.dtype) for c, y in zip(cotangents, outputs, strict=True)])
    return [x.detach() for x in (*outputs, *gradients)]


def random_like(outputs: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(y.shape, dtype=F64, generator=generator) for y in outputs]


def assert_close(found: list[Any], expected: list[Any], length: int, width: int, least: float = 0.0) -> None:
    for x, y in zip(found, expected, strict=True):
        bound = tolerance(NAMES[x.dtype], length, width) * max(least, y.abs().max().item())
        assert (x.double() - y).abs().max().item() <= bound


@functions
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("with_states", [False, True])
def test_values_and_gradients_are_those_of_the_equations(function: str, dtype: Any, with_states: bool) -> None:
    B, T, N, D = 3, 9, 2, 17
    given = inputs(function, B, T, N, D, dtype)[: 4 if with_states else 3]
    exact = [x.double() for x in given]

    def equations(Wx: Any, R: Any, b: Any, states: Any = None) -> Any:
        return loop(Wx, R, b, states, function)

    cotangents = random_like(equations(*exact))
    found = pull(lambda *x: flashrnn(*x, function=function), given, cotangents)
    assert_close(found, pull(equations, exact, cotangents), B * T, D)


@functions
def test_values_and_gradients_are_those_of_flashrnn(function: str) -> None:
    theirs = pytest.importorskip("flashrnn").flashrnn
    B, T, N, D = 2, 5, 2, 8
    given = inputs(function, B, T, N, D, F32)[:3]
    outputs = theirs(*given, function=function, backend="vanilla", dtype="float32")
    cotangents = random_like(outputs)
    expected = pull(lambda *x: theirs(*x, function=function, backend="vanilla", dtype="float32"), given, cotangents)
    found = pull(lambda *x: flashrnn(*x, function=function), given, cotangents)
    assert_close(found, [x.double() for x in expected], B * T, D)


@functions
def test_continues_bit_for_bit_where_it_was_split(function: str) -> None:
    Wx, R, b, states = inputs(function, 3, 11, 2, 16, F32)
    every, last = flashrnn(Wx, R, b, states, function)
    for split in (1, 4, 10):
        first, between = flashrnn(Wx[:, :split], R, b, states, function)
        second, end = flashrnn(Wx[:, split:], R, b, between, function)
        assert torch.cat([first, second], 2).equal(every)
        assert end.equal(last)
    assert every[:, :, -1:].equal(last)


@functions
@pytest.mark.parametrize("only", [0, 1])
def test_gradients_from_one_of_the_results(function: str, only: int) -> None:
    given = inputs(function, 3, 7, 2, 17, F64)

    def one(call: Any) -> Any:
        return lambda *x: call(*x, function=function)[only : only + 1]

    cotangents = random_like(one(loop)(*given))
    assert_close(pull(one(flashrnn), given, cotangents), pull(one(loop), given, cotangents), 21, 17)


@functions
def test_changing_returned_states_changes_no_gradient(function: str) -> None:
    leaves = [x.requires_grad_() for x in inputs(function, 2, 5, 2, 8, F32)]
    every, last = flashrnn(*leaves, function=function)
    expected = torch.autograd.grad(last.sum(), leaves, retain_graph=True)
    with torch.no_grad():
        every.zero_()
    found = torch.autograd.grad(last.sum(), leaves)
    assert all(torch.equal(g, e) for g, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("function", ["lstm", "slstm"])
@pytest.mark.parametrize("time_first", [False, True])
def test_all_states_are_those_of_the_cell(function: str, time_first: bool) -> None:
    Wx, R, b, states = inputs(function, 5, 40, 3, 48, F32)
    if time_first:
        Wx = Wx.transpose(0, 1).contiguous().transpose(0, 1)
    first = list(states[:, :, 0].unbind(0))
    _, last, every = getattr(fastiter.torch, function)(Wx, R, b, first, return_all_states=True)
    for leaves in ((Wx, R), (Wx.detach().requires_grad_(), R.detach().requires_grad_())):
        found, end = flashrnn(*leaves, b, states, function)
        assert found.equal(torch.stack(every))
        assert found.stride() == torch.stack(every).stride() or time_first
        assert (found.stride(2) > found.stride(1)) == time_first
        assert end[:, :, 0].equal(torch.stack(last))


LAYOUTS = [
    {"input_shape": "TBGHD", "output_shape": "STBHD"},
    {"input_shape": "TBHDG", "output_shape": "SBHTD", "recurrent_shape": "HPGD", "bias_shape": "HDG"},
    {"output_shape": "TSBHD", "recurrent_shape": "HGDP", "bias_shape": "HGD"},
    {"input_shape": "DHGTB", "output_shape": "DHTBS", "recurrent_shape": "PDHG", "bias_shape": "DHG"},
]


def laid_out(x: Any, default: str, letters: str) -> Any:
    return x.permute([default.index(letter) for letter in letters]).contiguous()


@functions
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(function: str, layout: dict[str, str]) -> None:
    given = inputs(function, 3, 5, 2, 6, F64)
    defaults = ("BTGHD", "GHDP", "GHD", "SBTHD")
    fields = ("input_shape", "recurrent_shape", "bias_shape", "output_shape")
    letters = [layout.get(field, default) for field, default in zip(fields, defaults, strict=True)]
    config = FlashRNNConfig(function=function, **layout)
    moved = [laid_out(x, default, own) for x, default, own in zip(given, defaults, letters, strict=True)]
    expected = flashrnn(*given, function=function)
    cotangents = random_like(expected)
    plain = pull(lambda *x: flashrnn(*x, function=function), given, cotangents)
    turned = [laid_out(c, "SBTHD", letters[3]) for c in cotangents]
    found = pull(lambda *x: flashrnn(*x, config=config), moved, turned)
    back = [*[letters[3]] * 2, *letters]
    for x, y, own, default in zip(found, plain, back, ["SBTHD"] * 2 + list(defaults), strict=True):
        # Another memory layout changes the order of the sums of a gradient.
        assert laid_out(x, own, default).sub(y).abs().max() <= tolerance("float64", 15, 6) * y.abs().max()


def test_initial_values() -> None:
    Wx, R, b, _ = inputs("slstm", 2, 3, 2, 4, F64)
    values = [0.1, 0.2, 1.5, -0.5]
    states = torch.tensor(values, dtype=F64).view(4, 1, 1, 1, 1).expand(4, 2, 1, 2, 4)
    found = flashrnn(Wx, R, b, config=FlashRNNConfig(function="slstm", initial_val=values))
    assert found[0].equal(flashrnn(Wx, R, b, states, "slstm")[0])
    Wx, R, b, _ = inputs("lstm", 2, 3, 2, 4, F64)
    ones = torch.ones(2, 2, 1, 2, 4, dtype=F64)
    assert flashrnn(Wx, R, b, config=FlashRNNConfig(initial_val=1))[1].equal(flashrnn(Wx, R, b, ones)[1])


def test_a_config_with_a_dtype_converts() -> None:
    given = inputs("gru", 2, 3, 2, 4, F64)
    config = FlashRNNConfig(function="gru", dtype="float32", dtype_w="float32", dtype_a="float32")
    mixed = [given[0].float(), *given[1:]]
    every, last = flashrnn(*mixed, config=config)
    assert every.dtype == last.dtype == F32
    assert every.equal(flashrnn(*(x.float() for x in given), function="gru")[0])
    exact = FlashRNNConfig(function="gru", dtype="float32", enable_automatic_mixed_precision=False)
    with pytest.raises(TypeError, match=r"flashrnn: R must have dtype torch.float32 like Wx, got torch.float64"):
        flashrnn(*mixed, config=exact)


class Clip(torch.autograd.Function):
    """Clips h to plus and minus `state`, and the gradient that arrives at it to plus and minus `bound`."""

    @staticmethod
    def forward(ctx: Any, h: Any, bound: float) -> Any:
        ctx.bound = bound
        return h.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.clamp(-ctx.bound, ctx.bound), None


@functions
@pytest.mark.parametrize(
    ("options", "bound", "state"),
    [
        ({"gradient_recurrent_clipval": 0.05}, 0.05, 9.0),
        ({"forward_clipval": 0.3}, 9e9, 0.3),
        ({"gradient_recurrent_cut": True}, 0.0, 9.0),
    ],
)
def test_clips_and_cuts(function: str, options: dict[str, Any], bound: float, state: float) -> None:
    if function == "gru" and "gradient_recurrent_cut" in options:
        return
    given = inputs(function, 2, 4, 2, 5, F64)

    def stepwise(Wx: Any, R: Any, b: Any, states: Any) -> Any:
        every = []
        for t in range(Wx.shape[1]):
            # The bound applies to the gradient that a step passes to the one before, not to what the loss adds there.
            h = Clip.apply(states[:1], bound)
            _, states = loop(Wx[:, t : t + 1], R, b, torch.cat([h, states[1:]]), function)
            states = torch.cat([states[:1].clamp(-state, state), states[1:]])
            every.append(states)
        return torch.cat(every, 2), states

    cotangents = random_like(stepwise(*given))
    config = FlashRNNConfig(function=function, **options)
    found = pull(lambda *x: flashrnn(*x, config=config), given, cotangents)
    assert_close(found, pull(stepwise, given, cotangents), 8, 5, least=1.0)  # gradients of clipped values


@pytest.mark.parametrize("dtype", [F32, F64, torch.bfloat16])
@pytest.mark.parametrize("function", ["lstm", "elman", "slstm"])
def test_a_cut_passes_nothing(function: str, dtype: Any) -> None:
    """A cut passes neither a NaN nor the least positive number."""
    Wx, R, b, _ = inputs(function, 2, 5, 2, 5, F64)
    given = [x.to(dtype).requires_grad_() for x in (Wx, R, b)]
    h = flashrnn(*given, config=FlashRNNConfig(function=function, gradient_recurrent_cut=True), dtype=None)[0][0]
    for value in (float("nan"), 1.0):
        cotangent = torch.zeros_like(h)
        cotangent[:, 3] = value
        (gradient,) = torch.autograd.grad(h, given[0], cotangent, retain_graph=True)
        if function == "elman":
            assert gradient[:, 3].isnan().all() == (value != value)
            assert (gradient[:, [0, 1, 2, 4]] == 0).all()
        else:  # c continues
            assert not gradient[:, 3].eq(0).any()
            assert gradient[:, 4].eq(0).all()


@functions
def test_no_steps_and_no_rows(function: str) -> None:
    Wx, R, b, states = inputs(function, 2, 3, 2, 4, F32)
    every, last = flashrnn(Wx[:, :0], R, b, states, function)
    assert every.shape == (len(states), 2, 0, 2, 4)
    assert last.equal(states)
    assert flashrnn(Wx[:0], R, b, states[:, :0], function)[0].shape == (len(states), 0, 3, 2, 4)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, in tracing
@functions
def test_compiles_into_one_graph(function: str) -> None:
    given = inputs(function, 2, 3, 2, 4, F32)
    compiled = torch.compile(lambda *x: flashrnn(*x, function=function), backend="aot_eager", fullgraph=True)
    cotangents = random_like(flashrnn(*given, function=function))
    expected = pull(lambda *x: flashrnn(*x, function=function), given, cotangents)
    for x, y in zip(pull(compiled, given, cotangents), expected, strict=True):
        torch.testing.assert_close(x, y)


# --- refusals --------------------------------------------------------------------------------------------------------

BACKEND = fastiter.BackendError
REFUSED_OPTIONS = [
    ({"backend": "triton"}, ValueError, "backend must be one of .*, got 'triton'"),
    ({"backend": 3}, TypeError, "backend must be one of .*, got int"),
    ({"function": "rnn"}, ValueError, "function must be one of 'lstm', .*, got 'rnn'"),
    ({"gradient_recurrent_cut": True, "function": "gru"}, ValueError, "gradient_recurrent_cut must be False .*True"),
    ({"gradient_recurrent_cut": 1}, TypeError, "gradient_recurrent_cut must be a bool, got int"),
    ({"gradient_recurrent_clipval": -1.0}, ValueError, "gradient_recurrent_clipval must be None or .*, got -1.0"),
    ({"forward_clipval": "1"}, ValueError, "forward_clipval must be None or .*, got '1'"),
    ({"constants": {"a": 1.0}}, ValueError, "constants must be None or empty, .*, got {'a': 1.0}"),
    ({"simple_agg": False}, ValueError, "simple_agg must be True for the function lstm, got False"),
    ({"num_states": 4}, ValueError, "num_states must be 2 for the function lstm, got 4"),
    ({"num_gates_t": 3}, ValueError, "num_gates_t must be 4 for the function lstm, got 3"),
    ({"hidden_dim": 9, "num_heads": 2}, ValueError, r"hidden_dim must be num_heads \* head_dim = 2 \* 4, got 9"),
    ({"head_dim": 1.0}, TypeError, "head_dim must be an int, got float"),
    ({"input_shape": "BTGH"}, ValueError, "input_shape must have the letters of 'BTGHD' in some order, got 'BTGH'"),
    ({"output_shape": None}, TypeError, "output_shape must be a str, got NoneType"),
    ({"dtype": "int8"}, ValueError, "dtype must be one of 'float32', 'float64', 'bfloat16', 'float16', got 'int8'"),
    (
        {"dtype": "float32", "dtype_r": "bfloat16"},
        ValueError,
        "dtype_r must be None or dtype = 'float32', .*'bfloat16'",
    ),
    ({"dtype_s": "float32"}, ValueError, "dtype_s must be None or dtype = None, .*, got 'float32'"),
    (
        {"dtype": "float32", "dtype_s": "bfloat16"},
        ValueError,
        "dtype_s must be None or dtype = 'float32', .*'bfloat16'",
    ),
    ({"dtype_acc": "float16"}, ValueError, "dtype_acc must be 'float32', got 'float16'"),
    ({"dtype": "bfloat16", "dtype_a": "bfloat16"}, ValueError, "dtype_a must be 'float32', got 'bfloat16'"),
    ({"trainable_r": False}, ValueError, "trainable_r must be True, .*, got False"),
    ({"trainable_b": [True, False]}, ValueError, r"trainable_b must be True, .*, got \[True, False\]"),
    ({"trainable_r": []}, ValueError, r"trainable_r must be True, .*, got \[\]"),
    ({"trainable_r": np.array([True, False])}, TypeError, "trainable_r must be a bool, or .*, got numpy.ndarray"),
    ({"trainable_b": "no"}, TypeError, "trainable_b must be a bool, or a list or tuple of bool, got str"),
    ({"trainable_b": [True, 1]}, TypeError, "trainable_b must be a bool, or a list or tuple of bool, got list"),
    ({"num_states": True, "function": "elman"}, TypeError, "num_states must be None or of type int, got bool"),
    ({"simple_agg": 1}, TypeError, "simple_agg must be None or of type bool, got int"),
    ({"num_heads": True}, TypeError, "num_heads must be an int, got bool"),
    ({"num_heads": 0}, ValueError, "num_heads must be at least 1, or -1 for that of Wx, got 0"),
    ({"hidden_dim": 1, "num_heads": 2}, ValueError, r"hidden_dim must be num_heads \* head_dim = 2 \* 0, got 1"),
    ({"batch_size": -1}, ValueError, "batch_size must be at least 1, got -1"),
    ({"forward_clipval": 10**400}, ValueError, "forward_clipval must be what a float can hold, got an int with .*"),
    ({"initial_val": [0, 10**5000]}, ValueError, "initial_val must be what a float can hold, got an int with .*"),
    ({"initial_val": [1.0]}, ValueError, "initial_val must have 2 numbers, one for each state, got 1"),
    ({"initial_val": "0"}, TypeError, "initial_val must be a number or one for each state, got str"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED_OPTIONS)
def test_options_are_refused_by_name(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^flashrnn: {message}$"):
        FlashRNNConfig(**options)


def test_arguments_are_refused_by_name() -> None:
    Wx, R, b, states = inputs("lstm", 2, 3, 2, 4, F32)
    config = FlashRNNConfig(function="lstm")
    more = "vanilla_fwbw, cpu or"
    wrong = [
        ((Wx[0], R, b), {}, ValueError, r"Wx must have shape (B, T, G, H, D) = (B, T, 4, H, D), got (3, 4, 2, 4)"),
        ((Wx, R[1:], b), {}, ValueError, r"R must have shape (G, H, D, P) = (4, 2, 4, 4), got (3, 2, 4, 4)"),
        ((Wx, R, b[:1]), {}, ValueError, r"b must have shape (G, H, D) = (4, 2, 4), got (1, 2, 4)"),
        ((Wx, R, b, states[:1]), {}, ValueError, "states must have shape (S, B, T, H, D) = (2, 2, 1, 2, 4), got"),
        ((Wx, R, None), {}, TypeError, "b must be a torch.Tensor, got NoneType"),
        (
            (Wx.half(), R, b),
            {},
            TypeError,
            "Wx must have dtype float32, float64 or bfloat16, as float16 cannot hold what",
        ),
        (
            (Wx, R, b),
            {"config": FlashRNNConfig(dtype="float16")},
            TypeError,
            "dtype must be float32, float64 or bfloat16, ",
        ),
        *(
            ((Wx, R, b), {"backend": name}, BACKEND, f"backend must be vanilla, {more} None on cpu, got '{name}'")
            for name in ("cuda", "cuda_fused", "triton_fused")
        ),
        ((Wx, R.double(), b), {}, TypeError, "R must have dtype torch.float32 like Wx, got torch.float64"),
        ((Wx, R, b), {"dtype": "float64"}, TypeError, "dtype must be that of Wx, torch.float32, got 'float64'"),
        ((Wx, R, b), {"config": {}}, TypeError, "config must be a FlashRNNConfig, got dict"),
        ((Wx, R, b), {"config": config, "function": "gru"}, ValueError, "function must be 'lstm' like that of config"),
        ((Wx, R, b), {"config": config, "backend": "cpu"}, ValueError, "backend must be None like that of config, got"),
        ((Wx, R, b), {"config": FlashRNNConfig(num_heads=3)}, ValueError, "Wx must have num_heads = 3 H, got 2"),
        ((Wx, R, b), {"config": FlashRNNConfig(hidden_dim=9)}, ValueError, "Wx must have hidden_dim = 9, got 8"),
    ]
    for arguments, more, error, message in wrong:
        with pytest.raises(error, match="^" + re.escape(f"flashrnn: {message}")):
            flashrnn(*arguments, **more)


CHANGED_OPTIONS: list[tuple[str, Any, str]] = [
    ("function", "gru", "simple_agg must be False for the function gru, got True"),
    (
        "backend",
        "tpu",
        "backend must be one of 'vanilla', 'vanilla_fwbw', 'cpu', 'cuda', 'cuda_fused', 'triton_fused', got 'tpu'",
    ),
    ("dtype_g", "float16", "dtype_g must be None or dtype = None, which is that of all tensors, got 'float16'"),
    ("constants", {"a": 1.0}, "constants must be None or empty, as the cells have none, got {'a': 1.0}"),
    ("forward_clipval", -1.0, "forward_clipval must be None or a positive number, got -1.0"),
    ("initial_val", [0.0], "initial_val must have 2 numbers, one for each state, got 1"),
    ("trainable_r", False, "trainable_r must be True, as requires_grad says what has gradients, got False"),
]


@pytest.mark.parametrize(("name", "value", "message"), CHANGED_OPTIONS)
def test_an_option_changed_later_is_refused_by_name(name: str, value: object, message: str) -> None:
    config = FlashRNNConfig()
    setattr(config, name, value)
    with pytest.raises(ValueError, match=f"^flashrnn: {re.escape(message)}$"):
        flashrnn(*inputs("lstm", 2, 3, 2, 4, F32)[:3], config=config)


def test_an_option_changed_later_takes_effect() -> None:
    Wx, R, b, _ = inputs("lstm", 2, 3, 2, 4, F32)
    config = FlashRNNConfig()
    config.forward_clipval = 0.25
    clipped = flashrnn(Wx, R, b, config=FlashRNNConfig(forward_clipval=0.25))[0]
    assert flashrnn(Wx, R, b, config=config)[0].equal(clipped)


def test_counts_follow_from_the_function_and_widths_from_each_other() -> None:
    for function, (gates_r, gates_w, gates_t, count) in COUNTS.items():
        config = FlashRNNConfig(function=function, num_states=count, hidden_dim=12, num_heads=3)
        assert (config.num_gates_r, config.num_gates_w, config.num_gates_t) == (gates_r, gates_w, gates_t)
        assert (config.head_dim, config.simple_agg) == (4, function != "gru")
    for backend, dtype in itertools.product((None, "cpu", "vanilla", "vanilla_fwbw"), (None, "float32")):
        Wx, R, b, _ = inputs("elman", 1, 2, 1, 3, F32)
        assert flashrnn(Wx, R, b, function="elman", backend=backend, dtype=dtype)[0].shape == (1, 1, 2, 1, 3)
