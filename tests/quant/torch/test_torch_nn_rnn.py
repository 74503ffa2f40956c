"""QuantLSTM and QuantGRU: equal to torch's without formats; the roundings with them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch import onnx, quant  # noqa: E402

I, H, T, B = 5, 4, 6, 3
#: A format so fine that no digits are lost: the loop runs and gives torch's results
FINE = ours.QuantPlan(output="fixed<50,4,RND,SAT>", state="fixed<50,4,RND,SAT>")
COARSE = ours.QuantPlan(
    weight=ours.FixedQuantizer(6, axis=0),
    bias="fixed<8,3,RND,SAT>",
    input=ours.FormatQuantizer("int4<RND>", 1.0),  # a scale of each input would differ between parts of a sequence
    output="fixed<7,1,RND,SAT>",
    state="fixed<7,3,RND,SAT>",
    gradient="e5m2<STOCHASTIC>",
)
SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {},
    "no bias, batch first": {"bias": False, "batch_first": True},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
}
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_kind = pytest.mark.parametrize("kind", ["LSTM", "GRU"])


def numbers(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(kind: str, shape: str, plan: Any) -> tuple[Any, Any]:
    """Return a layer and torch's, with the same weights."""
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(I, H, dtype=torch.float64, **SHAPES[shape])
    mine = getattr(ours, f"Quant{kind}")(I, H, dtype=torch.float64, plan=plan, **SHAPES[shape])
    mine.load_state_dict(theirs.state_dict(), strict=False)
    return mine, theirs


def states(kind: str, shape: str) -> Any:
    rows = SHAPES[shape].get("num_layers", 1) * (2 if "bidirectional" in SHAPES[shape] else 1)
    h, c = (numbers(rows, B, H, seed=k).tanh() for k in (1, 2))
    return (h, c) if kind == "LSTM" else h


def outcome(layer: Any, x: Any, hx: Any) -> list[Any]:
    """Return the output, the final states and the gradients."""
    given = [t.clone().requires_grad_() for t in (x, *(hx if isinstance(hx, tuple) else [hx]))]
    y, last = layer(given[0], tuple(given[1:]) if len(given) > 2 else given[1])
    outputs = [y, *(last if isinstance(last, tuple) else [last])]
    loss = sum((out * torch.arange(out.numel()).view_as(out).cos()).sum() for out in outputs)
    weights = [p for name, p in layer.named_parameters() if "quantizer" not in name]
    return [*outputs, *torch.autograd.grad(loss, [*given, *weights])]


@pytest.mark.parametrize("plan", [ours.QuantPlan(), FINE], ids=["compiled", "loop"])
@every_shape
@every_kind
def test_without_loss_a_layer_is_torchs(kind: str, shape: str, plan: Any) -> None:
    mine, theirs = pair(kind, shape, plan)
    for a, b in zip(
        outcome(mine, numbers(T, B, I) if "batch" not in shape else numbers(B, T, I), states(kind, shape)),
        outcome(theirs, numbers(T, B, I) if "batch" not in shape else numbers(B, T, I), states(kind, shape)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    single = numbers(T, I)
    for a, b in zip(mine(single), theirs(single), strict=True):
        for p, q in zip(a if isinstance(a, tuple) else [a], b if isinstance(b, tuple) else [b], strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


def test_an_lstm_by_hand() -> None:
    layer, _ = pair("LSTM", "one layer", COARSE)
    x = numbers(2, B, I) * 3
    y, (h_n, c_n) = layer(x)
    weights = [getattr(layer, f"weight_{k}_l0") for k in ("ih", "hh")]
    points = [getattr(layer, f"weight_{k}_l0_quantizer").point.detach().view(-1, 1) for k in ("ih", "hh")]
    w, r = (quant.round_fixed(a, 6, p) for a, p in zip(weights, points, strict=True))
    biases = sum(quant.quantize(getattr(layer, f"bias_{k}_l0"), COARSE.bias) for k in ("ih", "hh"))
    h = c = torch.zeros(B, H, dtype=torch.float64)
    for t in range(2):
        i, f, g, o = (COARSE.input(x[t]) @ w.t() + h @ r.t() + biases).chunk(4, -1)
        c = quant.quantize(f.sigmoid() * c + i.sigmoid() * g.tanh(), COARSE.state)
        h = quant.quantize(o.sigmoid() * c.tanh(), COARSE.output)
        torch.testing.assert_close(y[t], h, rtol=0, atol=0)
    assert torch.equal(h_n[0], h) and torch.equal(c_n[0], c)


def test_gradients_of_gates_are_rounded() -> None:
    plan = ours.QuantPlan(gradient="pow2<-20,3>")
    for kind in ("LSTM", "GRU"):
        layer, _ = pair(kind, "no bias, batch first", plan)
        y, _ = layer(numbers(1, 1, I))  # one step of one row: the weights' gradient is the gates' times x
        y.backward(numbers(1, 1, H, seed=3))
        gates = layer.weight_ih_l0.grad / numbers(1, 1, I)[0]
        magnitude = gates.abs().log2()
        torch.testing.assert_close(magnitude, magnitude.round(), rtol=0, atol=1e-9)


@every_shape
@every_kind
def test_layers_can_be_copied_and_saved(kind: str, shape: str) -> None:
    layer, _ = pair(kind, shape, COARSE)
    x = numbers(T, B, I) if "batch" not in shape else numbers(B, T, I)
    layer(x)
    expected = outcome(copy.deepcopy(layer), x, states(kind, shape))
    for a, b in zip(outcome(pickle.loads(pickle.dumps(layer)), x, states(kind, shape)), expected, strict=True):
        assert torch.equal(a, b)
    loaded = getattr(ours, f"Quant{kind}")(I, H, dtype=torch.float64, plan=COARSE, **SHAPES[shape])
    loaded.load_state_dict(layer.state_dict())
    assert torch.equal(loaded.eval()(x)[0], layer.eval()(x)[0])


@every_kind
def test_streaming_is_the_whole(kind: str) -> None:
    layer, _ = pair(kind, "one layer", COARSE)
    x = numbers(T, B, I)
    whole, last = layer(x)
    first, state = layer(x[:2])
    second, state = layer(x[2:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    for a, b in zip(state, last, strict=True):
        assert torch.equal(a, b)


@every_kind
def test_models(kind: str) -> None:
    for source in (getattr(torch.nn, kind), getattr(ours, kind)):
        layer = source(I, H, num_layers=2)
        rounded = ours.quantize_model(torch.nn.ModuleDict({"rnn": layer}), COARSE)["rnn"]
        assert type(rounded) is getattr(ours, f"Quant{kind}")
        x = numbers(T, B, I).float()
        exact, y = layer(x)[0], rounded(x)[0]
        assert torch.equal(y * 64, (y * 64).round())
        assert 0 < (exact - y).abs().max() < 0.5
        rows = {row.part: row for row in ours.summary(rounded, x)}
        gates = 4 if kind == "LSTM" else 3
        assert rows["weight_ih_l0"].bit_operations == T * B * gates * H * I * 6 * 4
        assert rows["weight_hh_l1"].bit_operations == T * B * gates * H * H * 6 * 7
        assert rows["output_l0"].format == "fixed<7,1,RND,SAT>"
    with pytest.raises(ValueError, match="'' must be an LSTM or GRU of one head without proj_size"):
        ours.quantize_model(getattr(ours, kind)(I, H, num_heads=2), COARSE)


def plain(kind: str, dtype: Any, **options: Any) -> tuple[Any, Any]:
    """Return a layer whose plan rounds nothing, and LSTM or GRU, with the same weights."""
    torch.manual_seed(0)
    mine = getattr(ours, f"Quant{kind}")(I, H, dtype=dtype, **options)
    theirs = getattr(ours, kind)(I, H, dtype=dtype, **options)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs


@every_shape
@every_kind
def test_bfloat16_is_that_of_the_layer(kind: str, shape: str) -> None:
    mine, theirs = plain(kind, torch.bfloat16, **SHAPES[shape])
    given = states(kind, shape)
    hx = given.bfloat16() if kind == "GRU" else tuple(s.bfloat16() for s in given)
    x = numbers(*((B, T, I) if "batch" in shape else (T, B, I))).bfloat16()
    if kind == "LSTM":  # as in torch, c passes from call to call in bfloat16
        assert theirs(x, hx)[1][1].dtype == torch.bfloat16
    for a, b in zip(outcome(mine, x, hx), outcome(theirs, x, hx), strict=True):
        assert a.dtype == b.dtype == torch.bfloat16
        assert a.equal(b)
    assert mine(x)[0].equal(theirs(x)[0])


@pytest.mark.parametrize("incoming", [torch.float32, torch.bfloat16], ids=str)
@every_shape
@every_kind
def test_autocast_is_that_of_the_layer(kind: str, shape: str, incoming: Any) -> None:
    mine, theirs = plain(kind, torch.float32, **SHAPES[shape])
    given = states(kind, shape)
    hx = given.to(incoming) if kind == "GRU" else tuple(s.to(incoming) for s in given)
    x = numbers(*((B, T, I) if "batch" in shape else (T, B, I))).to(incoming)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = outcome(mine, x, hx), outcome(theirs, x, hx)
        without = mine(x)[0], theirs(x)[0]
    for a, b in zip([*found, without[0]], [*expected, without[1]], strict=True):
        assert a.dtype == b.dtype
        # The layer casts an input once for both directions, whose gradients are then added in bfloat16.
        bound = 2**-7 if "both" in shape else 0
        torch.testing.assert_close(a, b, rtol=bound, atol=bound / 2)


@pytest.mark.parametrize("plan", [ours.QuantPlan(), FINE], ids=["compiled", "loop"])
@every_kind
def test_mismatched_dtypes_and_devices(kind: str, plan: Any) -> None:
    layer, name, x = getattr(ours, f"Quant{kind}")(I, H, plan=plan), f"Quant{kind}", numbers(T, B, I).float()
    wrong = [x.double(), x.bfloat16(), x.half(), x.int(), x.to(torch.complex64), x.bool()]
    for y in wrong:
        got = str(y.dtype).removeprefix("torch.")
        with pytest.raises(ValueError, match=f"^{name}: input must be float32 like the parameters, got {got}$"):
            layer(y)
    for y in wrong[:3]:
        h = torch.zeros(1, B, H, dtype=y.dtype)
        got = str(y.dtype).removeprefix("torch.")
        with pytest.raises(TypeError, match=f"^{name}: hx must be float32 like the parameters, got {got}$"):
            layer(x, h if kind == "GRU" else (h.float(), h))
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="input must be float32 like"):
        layer(wrong[0])
    if plan is not FINE:  # its loop runs in torch
        with torch.autocast("cpu", dtype=torch.half), pytest.raises(TypeError, match=r"parameters must be .* float16"):
            layer(x)
    where = "must be on the CPU or a CUDA device, got meta"
    with pytest.raises(fastiter.BackendError, match=f"^{name}: input {where}$"):
        layer(x.to("meta"))
    with pytest.raises(fastiter.BackendError, match=f"^{name}: parameters {where}$"):
        getattr(ours, name)(I, H, device="meta", plan=plan)(x)
    with pytest.raises(TypeError, match=f"^{name}: parameters must be float32, .*, got float16$"):
        getattr(ours, name)(I, H, dtype=torch.half, plan=plan)(x.half())


@pytest.mark.parametrize("weight", [torch.zeros(4 * H, I + 1), torch.zeros(4 * H, I, dtype=torch.bfloat16)])
def test_mismatched_weights(weight: Any) -> None:
    layer = ours.QuantLSTM(I, H)
    with pytest.raises(ValueError, match=r"^QuantLSTM: weight_\w+_l0 must have shape .*, (float32|bfloat16), got"):
        torch.func.functional_call(layer, {"weight_ih_l0": weight}, (numbers(T, B, I).float(),))


@every_kind
def test_functions_that_would_bypass_the_rounding_are_refused(kind: str) -> None:
    layer = getattr(ours, f"Quant{kind}")(I, H, plan=COARSE)
    message = rf"must run the forward of torch.nn's .*, got a Quant{kind} with another one$"
    with pytest.raises(TypeError, match=f"^StreamingRNN: module {message}"):
        ours.StreamingRNN(layer)
    with pytest.raises(TypeError, match=f"^onnx.export: module {message}"):
        onnx.export(layer)


def test_dropout_is_between_layers() -> None:
    layer = ours.QuantLSTM(I, H, num_layers=2, dropout=0.9, plan=FINE)
    x = numbers(T, B, I).float()
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


@every_kind
def test_errors(kind: str) -> None:
    layer, name = getattr(ours, f"Quant{kind}")(I, H), f"Quant{kind}"
    rows = torch.nn.utils.rnn.pack_sequence([torch.rand(3, I)])
    with pytest.raises(TypeError, match=f"^{name}: input must be a Tensor, got "):
        layer(rows)
    with pytest.raises(ValueError, match=rf"^{name}: input must have 2 or 3 axes and 5 features along the last, got"):
        layer(torch.rand(3, B, I + 1))
    with pytest.raises(ValueError, match=f"^{name}: input must have at least one time step, got"):
        layer(torch.rand(0, B, I))
    count = 2 if kind == "LSTM" else 1
    with pytest.raises(ValueError, match=rf"^{name}: hx must be {count} Tensor of shape \(1, 3, 4\), got"):
        layer(torch.rand(2, B, I), (torch.rand(1, B, H + 1),) * 2 if kind == "LSTM" else torch.rand(1, B, H + 1))
    if kind == "LSTM":
        with pytest.raises(ValueError, match=r"^QuantLSTM: proj_size must be 0, got 2"):
            ours.QuantLSTM(I, H, proj_size=2)
