"""ParaGRU, ParaLSTM, LinearRNN, DeltaNet as modules: checkpoints, copies, dtypes, compilation, first values, errors."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils import parametrizations  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

import fastiter  # noqa: E402
from cases_nn_scan import (  # noqa: E402, F401
    F32,
    F64,
    LAYERS,
    LENGTHS,
    B,
    H,
    I,
    T,
    as_parts,
    as_state,
    assert_close,
    classes,
    layers,
    make,
    make_input,
    make_state,
    one_thread,
    randn,
    run,
)
from fastiter.torch import nn as ours  # noqa: E402

# ---- Checkpoints and copies -----------------------------------------------------------------------------------------

PARAMETERS = {
    "gru": {"weight_ih": (1, 3, 8, 6), "weight_hh": (3, 8), "bias": (3, 8)},
    "gru heads": {"weight_ih": (2, 3, 4, 3), "weight_hh": (3, 8)},
    "lstm": {"weight_ih": (1, 3, 8, 6), "weight_hh": (3, 8), "bias": (3, 8), "weight_ch": (2, 8)},
    "lru": {"gate": (16,), "in_proj.weight": (16, 6), "in_proj.bias": (16,), "out_proj.weight": (8, 16)}
    | {"out_proj.bias": (8,)},
    "positive": {
        "in_proj.weight": (8, 6),
        "gate_proj.weight": (8, 6),
        "gate_proj.bias": (8,),
        "out_proj.weight": (8, 8),
    },
    "delta plain": {"in_proj.weight": (24, 6), "beta_proj.weight": (1, 6), "beta_proj.bias": (1,), "norm.weight": (8,)}
    | {"out_proj.weight": (8, 8)},
    "delta gated": {"conv_weight": (24, 2), "in_proj.weight": (24, 6), "beta_proj.weight": (2, 6)}
    | {"beta_proj.bias": (2,), "decay_rate": (2,), "decay_proj.weight": (2, 6), "decay_proj.bias": (2,)}
    | {"gate_proj.weight": (8, 6), "norm.weight": (4,), "out_proj.weight": (8, 8)},
    "delta product": {"in_proj.weight": (48, 6), "conv_weight": (48, 1), "beta_proj.weight": (6, 6)}
    | {"beta_proj.bias": (6,), "norm.weight": (4,), "out_proj.weight": (8, 8)},
}


@pytest.mark.parametrize("kind", PARAMETERS)
def test_parameters(kind):
    layer = make(kind)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == PARAMETERS[kind]
    assert layer.state_dict().keys() == PARAMETERS[kind].keys()


@layers
def test_checkpoint(kind):
    source, target = make(kind), getattr(ours, LAYERS[kind][0])(I, H, dtype=F64, **LAYERS[kind][1])
    result = target.load_state_dict(pickle.loads(pickle.dumps(source.state_dict())))
    assert not result.missing_keys and not result.unexpected_keys
    assert_close(run(target, make_input()), run(source, make_input()), factor=0)


@layers
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies(kind, duplicate):
    layer = make(kind)
    other = duplicate(layer)
    assert repr(other) == repr(layer)
    assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in layer.parameters()}
    assert_close(run(other, make_input()), run(layer, make_input()), factor=0)


@layers
def test_dtypes_and_devices(kind):
    name, options = LAYERS[kind]
    layer = make(kind, dtype=F32)
    x = make_input(F32)
    y, _ = layer(x)
    assert y.dtype == F32 and layer.double()(x.double())[0].dtype == F64
    assert torch.equal(layer.to(F32)(x)[0], y)
    elsewhere = getattr(ours, name)(I, H, device="meta", **options)
    assert {p.device.type for p in elsewhere.parameters()} == {"meta"}
    here = elsewhere.to_empty(device="cpu")
    here.reset_parameters()
    assert here(x)[0].isfinite().all()


@layers
def test_parametrized(kind):
    layer = make(kind)
    inner = layer if hasattr(layer, "weight_ih") else layer.in_proj
    expected, _ = layer(make_input())
    parametrizations.weight_norm(inner, "weight_ih" if inner is layer else "weight", dim=0)
    actual, _ = layer(make_input())
    assert_close({"y": actual}, {"y": expected})
    with pytest.raises(ValueError, match=f"^{LAYERS[kind][0]}: input must have"):
        layer(make_input()[..., :3])


@layers
def test_functional_call(kind):
    layer = make(kind)
    doubled = {name: 2 * p.detach() for name, p in layer.named_parameters()}
    expected = copy.deepcopy(layer)
    expected.load_state_dict(doubled)
    assert torch.equal(torch.func.functional_call(layer, doubled, make_input())[0], expected(make_input())[0])


@layers
def test_autocast(kind):
    layer = make(kind, dtype=F32)
    x, parts = (
        make_input(F32),
        [part.to(torch.complex64 if part.is_complex() else F32) for part in make_state(make(kind), B)],
    )
    expected, last = layer(x, as_state(parts))
    with torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            y, state = layer(given, as_state(parts), LENGTHS)
            assert y.isfinite().all() and y.shape == expected.shape
            assert [part.dtype for part in as_parts(state)] == [part.dtype for part in as_parts(last)]
            y.float().sum().backward()
    valid = torch.arange(T).unsqueeze(1) < torch.tensor(LENGTHS)
    error = (y.float() - expected)[valid].abs().max()
    assert error < 0.1 * expected.abs().max()  # projections in bfloat16


@layers
@pytest.mark.parametrize("ragged", [False, True])
def test_compiled_in_one_graph(kind, ragged):
    layer = make(kind, dtype=F32)
    x, lengths = make_input(F32), torch.tensor(LENGTHS) if ragged else None

    def loss(call):
        layer.zero_grad()
        y, state = call(x, None, lengths)
        (y.square().sum() + sum(part.real.sum() for part in as_parts(state))).backward()
        return {"y": y.detach()} | {name: p.grad for name, p in layer.named_parameters()}

    expected = loss(layer)
    torch._dynamo.reset()
    assert_close(loss(torch.compile(layer, fullgraph=True, backend="aot_eager")), expected)


@layers
def test_exported_with_dynamic_sizes(kind):
    layer = make(kind, dtype=F32)
    state = tuple(part.to(torch.complex64 if part.is_complex() else F32) for part in make_state(make(kind), B))
    rows, steps = torch.export.Dim("rows", min=2, max=64), torch.export.Dim("steps", min=2, max=512)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, *state):
            return self.layer(x, as_state(state))

    program = torch.export.export(
        Model(), (make_input(F32), *state), dynamic_shapes=({0: steps, 1: rows}, tuple({0: rows} for _ in state))
    )
    x = randn(11, 3, I, dtype=F32)
    first = [part[:3] for part in state]
    y, last = program.module()(x, *first)
    z, end = layer(x, as_state(first))
    assert_close({"y": y} | dict(enumerate(as_parts(last))), {"y": z} | dict(enumerate(as_parts(end))))


# ---- First values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ParaGRU", "ParaLSTM"])
def test_para_starts_as_the_paper_says(name):
    torch.manual_seed(0)
    layer = getattr(ours, name)(600, 1000, num_heads=2)
    bound = (6 / (300 + 500)) ** 0.5
    assert bound * 0.99 < layer.weight_ih.max() <= bound and -bound <= layer.weight_ih.min() < -bound * 0.99
    for weight in [layer.weight_hh] + ([layer.weight_ch] if name == "ParaLSTM" else []):
        assert abs(weight.std().item() * 5000**0.5 / 2 - 1) < 0.1 and weight.mean().abs() < 0.003
    assert torch.equal(layer.bias[0], torch.linspace(0, -1, 1000)) and not layer.bias[1:].any()


@pytest.mark.parametrize("eigenvalues", ["signed", "positive", "complex"])
@pytest.mark.parametrize("input_dependent", [False, True])
def test_linear_rnn_starts_on_a_ring(eigenvalues, input_dependent):
    torch.manual_seed(0)
    layer = ours.LinearRNN(6, 4000, eigenvalues=eigenvalues, input_dependent=input_dependent)
    gate = layer.gate if layer.gate_proj is None else layer.gate_proj.bias
    a = layer._eigenvalues(gate.detach())
    square = a.abs().square()
    assert square.min() > 0.6399 and square.max() < 0.9981
    assert abs(square.mean() - (0.64 + 0.998) / 2) < 0.01
    if eigenvalues == "complex":
        assert a.angle().min() < -3.1 and a.angle().max() > 3.1
    else:
        assert (a < 0).float().mean() == (0 if eigenvalues == "positive" else pytest.approx(0.5, abs=0.05))
    scale = (1 - square).sqrt().repeat(layer.in_proj.weight.shape[0] // 4000)
    assert (layer.in_proj.weight.abs() <= (6**-0.5 * scale).unsqueeze(1) * 1.001).all()


def test_delta_net_first_decay():
    torch.manual_seed(0)
    layer = ours.DeltaNet(6, 400, num_heads=200, decay=True)
    time = torch.nn.functional.softplus(layer.decay_proj.bias)
    assert time.min() > 0.00099 and time.max() < 0.101 and time.median() < 0.02
    assert layer.decay_rate.min() >= 1 and layer.decay_rate.max() <= 16
    assert not layer.beta_proj.bias.any() and layer.conv_weight.abs().max() <= 0.5


def test_eigenvalues_reach_their_ends():
    x = 1e3 * torch.ones(1, 1, 1)
    for name, low in (("signed", -1), ("positive", 0)):
        layer = ours.LinearRNN(1, 1, eigenvalues=name)
        ends = [layer._eigenvalues(g).item() for g in (x, -x)]
        assert ends == [1, low]
        net = ours.DeltaNet(1, 1, eigenvalues=name)
        torch.nn.init.ones_(net.beta_proj.weight)
        assert [1 - net._beta(g, 1).item() for g in (-x, x)] == [1, low]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: ours.ParaGRU(6, 8), "ParaGRU(6, 8)"),
        (
            lambda: ours.ParaLSTM(6, 8, 2, False, True, method="newton"),
            "ParaLSTM(6, 8, num_heads=2, bias=False, batch_first=True, method='newton')",
        ),
        (lambda: ours.LinearRNN(6, 8), "LinearRNN(6, 8,"),
        (
            lambda: ours.LinearRNN(6, 8, False, True, eigenvalues="complex", input_dependent=False),
            "LinearRNN(6, 8, bias=False, batch_first=True, eigenvalues='complex', input_dependent=False,",
        ),
        (lambda: ours.DeltaNet(6, 8), "DeltaNet(6, 8, num_heads=1,"),
        (
            lambda: ours.DeltaNet(
                *(6, 8, 2, True), key_size=3, num_householder=2, eigenvalues="positive", decay=True, output_gate=True
            ),
            "DeltaNet(6, 8, num_heads=2, batch_first=True, key_size=3, num_householder=2, eigenvalues='positive', "
            "decay=True, output_gate=True,",
        ),
        (lambda: ours.DeltaNet(6, 8, conv_size=0), "DeltaNet(6, 8, num_heads=1, conv_size=0,"),
    ],
)
def test_repr(layer, expected):
    text = " ".join(repr(layer()).split()).replace("( ", "(")
    assert text.startswith(expected.removesuffix(",")), text


# ---- Errors ---------------------------------------------------------------------------------------------------------

x3 = torch.zeros(T, B, I)


def check(name, exception, words, call):
    with pytest.raises(exception) as error:
        call()
    message = str(error.value)
    assert message.startswith(f"{name}: ") and "\n" not in message, message
    assert all(word in message for word in words), message


@classes
def test_wrong_inputs(name):
    layer = make(name, dtype=F32)
    check(name, TypeError, ["input must be a Tensor or a PackedSequence", "list"], lambda: layer([x3]))
    check(name, TypeError, ["input must be float32", "float64"], lambda: layer(x3.double()))
    check(name, TypeError, ["input must be float32", "int64"], lambda: layer(x3.long()))
    check(name, ValueError, ["2 or 3 dimensions", "(6,)"], lambda: layer(x3[0, 0]))
    check(name, ValueError, ["2 or 3 dimensions", "(1, 7, 4, 6)"], lambda: layer(x3[None]))
    check(name, ValueError, ["1 or 2 dimensions", "(7, 4, 6)"], lambda: layer.step(x3))
    check(name, ValueError, ["input_size = 6", "got 5"], lambda: layer(x3[..., :5]))
    check(name, ValueError, ["input_size = 6", "got 5"], lambda: layer(pack_padded_sequence(x3[..., :5], [7, 3, 2, 1])))
    check(name, fastiter.BackendError, ["input must be on cpu", "meta"], lambda: layer(x3.to("meta")))
    check(
        name,
        TypeError,
        ["parameters must be float32 or float64", "bfloat16"],
        lambda: make(name, dtype=F32).bfloat16()(x3),
    )


@classes
def test_wrong_states(name):
    layer = make(name, dtype=F32)
    good = [part.to(F32) for part in make_state(layer, B)]
    label = "state" if len(good) == 1 else f"state {layer._parts()[0].name}"
    shape = tuple(good[0].shape)

    def state(first):
        return as_state([first, *good[1:]])

    check(name, TypeError, ["state must be a ", "str"], lambda: layer(x3, "state"))
    check(name, TypeError, ["state must be a ", "tuple of 5"], lambda: layer(x3, (good[0],) * 5))
    check(name, TypeError, [label, "float32", "float64"], lambda: layer(x3, state(good[0].double())))
    check(name, ValueError, [label, str(shape), str((3, *shape[1:]))], lambda: layer(x3, state(good[0][:3])))
    check(name, ValueError, [label, str(shape[1:]), str(shape)], lambda: layer(x3[:, 0], state(good[0])))
    check(name, fastiter.BackendError, [label, "cpu", "meta"], lambda: layer(x3, state(good[0].to("meta"))))
    layer(x3, list(good) if len(good) > 1 else good[0])


@classes
def test_wrong_lengths(name):
    layer = make(name, dtype=F32)
    packed = pack_padded_sequence(x3, [7, 3, 2, 1])
    check(name, ValueError, ["lengths must be None for a PackedSequence"], lambda: layer(packed, None, [1] * 4))
    check(name, ValueError, ["lengths must be None for unbatched input"], lambda: layer(x3[:, 0], None, [1]))
    check(name, ValueError, ["lengths must have shape (B,) = (4,)", "(3,)"], lambda: layer(x3, None, [1, 2, 3]))
    check(name, ValueError, ["lengths must be from 0 to T = 7", "8"], lambda: layer(x3, None, [1, 2, 3, 8]))
    check(name, TypeError, ["lengths must be integers", "float"], lambda: layer(x3, None, [1.0, 2, 3, 4]))


@classes
def test_wrong_options(name):
    kind = getattr(ours, name)
    check(name, TypeError, ["input_size must be an int", "float"], lambda: kind(5.0, 7))
    check(name, TypeError, ["hidden_size must be an int", "str"], lambda: kind(5, "7"))
    check(name, ValueError, ["hidden_size must be at least 1", "got 0"], lambda: kind(5, 0))
    check(name, TypeError, ["batch_first must be a bool", "int"], lambda: kind(5, 7, batch_first=1))
    if name == "LinearRNN":
        check(name, TypeError, ["bias must be a bool", "int"], lambda: kind(5, 7, bias=1))
        check(name, TypeError, ["input_dependent must be a bool"], lambda: kind(5, 7, input_dependent=None))
        check(
            name,
            ValueError,
            ["eigenvalues must be one of signed, positive, complex", "'real'"],
            lambda: kind(5, 7, eigenvalues="real"),
        )
        check(name, TypeError, ["eigenvalues must be one of", "list"], lambda: kind(5, 7, eigenvalues=[-1, 1]))
        return
    check(name, ValueError, ["num_heads must divide", "got 2"], lambda: kind(5, 7, 2))
    check(name, TypeError, ["num_heads must be an int", "bool"], lambda: kind(5, 7, True))
    if name == "DeltaNet":
        check(name, ValueError, ["num_householder must be at least 1", "0"], lambda: kind(5, 7, num_householder=0))
        check(name, ValueError, ["conv_size must be at least 0", "-1"], lambda: kind(5, 7, conv_size=-1))
        check(name, ValueError, ["key_size must be at least 1", "0"], lambda: kind(5, 7, key_size=0))
        check(
            name, ValueError, ["eigenvalues must be one of signed, positive"], lambda: kind(5, 7, eigenvalues="complex")
        )
        check(name, TypeError, ["decay must be a bool"], lambda: kind(5, 7, decay="yes"))
        check(name, TypeError, ["output_gate must be a bool"], lambda: kind(5, 7, output_gate=1))
    else:
        check(name, TypeError, ["bias must be a bool", "int"], lambda: kind(5, 7, bias=1))
        check(name, ValueError, ["num_heads must divide input_size = 5"], lambda: kind(5, 8, 2))
        check(name, ValueError, ["method must be one of auto, sequential, newton"], lambda: kind(5, 7, method="elk"))
