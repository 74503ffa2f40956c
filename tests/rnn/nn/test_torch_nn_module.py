"""fastiter.torch.nn as modules: checkpoints, copies, compilation; heads; sLSTM, which torch lacks, against a loop."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils import parametrizations  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.nn.cases_nn import (  # noqa: E402, F401
    F32,
    F64,
    KINDS,
    LAYOUTS,
    B,
    H,
    I,
    SLSTMLoop,
    assert_equal_parameters,
    assert_same,
    kinds,
    make,
    make_input,
    make_states,
    no_onednn_projection,
    one_thread,
    pair,
    run,
)
from tests.support.pairs import pairs  # noqa: E402

pytestmark = no_onednn_projection


# --- torch's module machinery ----------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}])
def test_checkpoints_both_ways(kind, options):
    theirs, mine = pair(kind, dtype=F64, **options)
    x = make_input("time")
    for source, target in ((theirs, mine), (mine, theirs)):
        with torch.no_grad():
            for p in source.parameters():
                p.add_(0.1)
        result = target.load_state_dict(pickle.loads(pickle.dumps(source.state_dict())))
        assert not result.missing_keys and not result.unexpected_keys
        assert_equal_parameters(mine, theirs)
        assert_same(run(mine, x), run(theirs, x))


@kinds
def test_is_a_torch_module(kind):
    theirs, mine = pair(kind, num_layers=2, batch_first=True, dropout=0.5)
    assert isinstance(mine, type(theirs)) and isinstance(mine, torch.nn.RNNBase)
    assert repr(mine) == repr(theirs)
    assert [[p.shape for p in layer] for layer in mine.all_weights] == [
        [p.shape for p in layer] for layer in theirs.all_weights
    ]
    mine.flatten_parameters()
    mine.reset_parameters()
    assert "num_heads=2" in repr(ours.GRU(4, 6, num_heads=2))
    assert "num_heads" not in repr(ours.sLSTM(4, 6))


@pytest.mark.parametrize(
    ("kind", "heads"),
    [(kind, heads) for kind in [*KINDS, "sLSTM"] for heads in (1, 7) if heads == 1 or kind != "lstm_proj"],
)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(kind, heads, duplicate):
    mine = make(ours, kind, bidirectional=True, dtype=F64, num_heads=heads)
    other = duplicate(mine)
    assert type(other) is type(mine) and other.num_heads == heads
    assert_equal_parameters(other, mine)
    assert_same(run(other, make_input("time")), run(mine, make_input("time")))


@kinds
def test_torch_module_turned_into_ours(kind):
    theirs, mine = pair(kind, dtype=F64)
    expected = run(theirs, make_input("time"))
    theirs.__class__ = type(mine)
    assert_same(run(theirs, make_input("time")), expected)


@pytest.mark.parametrize("kind", [*KINDS, "sLSTM"])
def test_conversions(kind):
    mine = make(ours, kind)
    x = make_input("time")
    single = mine(x.float())[0]
    assert mine.double()(x)[0].dtype == F64
    assert mine.to(F32)(x.float())[0].equal(single)
    assert mine.half().weight_hh_l0.dtype == torch.float16
    assert make(ours, kind, device="meta").weight_ih_l0.device.type == "meta"
    assert make(ours, kind, device="meta").to_empty(device="cpu")(x.float())[0].shape == single.shape


@pytest.mark.parametrize("kind", KINDS)
def test_functional_call(kind):
    theirs, mine = pair(kind, dtype=F64)
    x = make_input("time")
    outputs = []
    for module in (mine, theirs):
        weights = {k: (2 * p.detach()).requires_grad_() for k, p in module.named_parameters()}
        output, _ = torch.func.functional_call(module, weights, (x,))
        grads = torch.autograd.grad(output.square().sum(), list(weights.values()))
        outputs.append({"output": output.detach(), **dict(zip(weights, grads, strict=True))})
    assert_same(*outputs)


@kinds
def test_replaced_parameter(kind):
    theirs, mine = pair(kind, dtype=F64)
    for module in (mine, theirs):
        module.weight_hh_l0 = torch.nn.Parameter(module.weight_hh_l0.detach() * 2)
        module.weight_ih_l0.data = module.weight_ih_l0.data * 0.5
    x = make_input("time")
    assert_same(run(mine, x), run(theirs, x))


@kinds
@pytest.mark.parametrize("weight", ["weight_ih_l0", "weight_hh_l0"])
def test_weight_norm(kind, weight):
    modules = pair(kind, bidirectional=True, dtype=F64)
    for module in modules:
        parametrizations.weight_norm(module, weight)
        parametrizations.weight_norm(module, weight + "_reverse")
    theirs, mine = modules
    assert f"parametrizations.{weight}.original0" in mine.state_dict()
    assert_same(run(mine, make_input("time")), run(theirs, make_input("time")))


class Model(torch.nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent
        self.head = torch.nn.Linear(recurrent.hidden_size if not recurrent.proj_size else recurrent.proj_size, 3)

    def forward(self, x, hx):
        output, _ = self.recurrent(x.sin(), hx)
        return self.head(output).square().mean()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, in tracing
def test_compiled_in_one_graph():
    """A graph of all cells."""
    kinds = [*KINDS, "sLSTM"]
    models = [Model(make(ours, kind, num_layers=2 if kind == "gru" else 1, batch_first=True)).eval() for kind in kinds]
    x, given, weights = make_input("batch", F32), [], []
    for model in models:
        states = make_states(model.recurrent, B, F32)
        given.append(states[0] if len(states) == 1 else tuple(states))
        weights += model.parameters()

    def total(x, given):
        return sum(model(x, hx) for model, hx in zip(models, given, strict=True))

    expected = torch.autograd.grad(total(x, given), weights)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
        actual = torch.autograd.grad(compiled(x, given), weights)
    assert_same(dict(enumerate(actual)), dict(enumerate(expected)))


# --- heads -----------------------------------------------------------------------------------------------------------


def dense(weight, heads):
    """Return weight_hh (G * H, D) as a block-diagonal (G * H, H)."""
    D = weight.shape[1]
    blocks = weight.view(-1, heads, D, D)
    return torch.cat([torch.block_diag(*gate) for gate in blocks])


@pairs
@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh", "relu"])
@pytest.mark.parametrize("heads", [1, 2, 3, 6])
@pytest.mark.parametrize("layout", ["time", "unsorted"])
def test_heads_are_diagonal_blocks(kind, heads, layout):
    options = {"num_layers": 2, "bidirectional": True, "dtype": F64}
    mine = make(ours, kind, I, 6, num_heads=heads, **options)
    theirs = make(torch.nn, kind, I, 6, **options)
    assert mine.weight_hh_l1_reverse.shape == (theirs.weight_hh_l0.shape[0], 6 // heads)
    assert max(p.abs().max() for p in mine.parameters()) <= 6**-0.5

    class Dense(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.sparse = copy.deepcopy(mine)

        def forward(self, *args):
            weights = dict(self.sparse.named_parameters())
            weights |= {k: dense(w, heads) for k, w in weights.items() if "weight_hh" in k}
            return torch.func.functional_call(theirs, weights, args)

    x, states = make_input(layout), make_states(mine, B)
    expected = {k.replace("sparse.", ""): v for k, v in run(Dense(), x, states, LAYOUTS[layout]).items()}
    assert_same(run(mine, x, states, LAYOUTS[layout]), expected)


@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_heads_are_separate_layers(kind):
    """Head n is a torch.nn layer whose hidden units are the slice n."""
    heads, D = 3, 2
    mine = make(ours, kind, I, heads * D, num_heads=heads, dtype=F64)
    x = make_input("time")
    slices = []
    for n in range(heads):
        layer = make(torch.nn, kind, I, D, dtype=F64)
        state = {k: p.view(-1, heads, D, *p.shape[1:])[:, n].flatten(0, 1) for k, p in mine.state_dict().items()}
        layer.load_state_dict(state)
        slices.append(layer(x)[0])
    assert_same({"output": mine(x)[0].detach()}, {"output": torch.cat(slices, -1).detach()})


def test_heads_checkpoint_does_not_fit_a_dense_layer():
    with pytest.raises(RuntimeError, match="size mismatch"):
        ours.LSTM(4, 6).load_state_dict(ours.LSTM(4, 6, num_heads=2).state_dict())


# --- sLSTM -----------------------------------------------------------------------------------------------------------


def run_loop(module, *args, **options):
    return {k.replace("module.", ""): v for k, v in run(SLSTMLoop(module), *args, **options).items()}


@pairs
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("layers", "bidirectional", "heads"), [(1, False, 1), (2, False, 2), (1, True, 3), (2, True, 6)]
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_hx", [False, True])
def test_slstm_equals_loop(dtype, layers, bidirectional, heads, bias, with_hx):
    mine = make(ours, "sLSTM", I, 6, layers, bias=bias, bidirectional=bidirectional, num_heads=heads, dtype=dtype)
    assert mine.weight_hh_l0.shape == (24, 6 // heads)
    x, states = make_input("time", dtype), make_states(mine, B, dtype) if with_hx else None
    assert_same(run(mine, x, states), run_loop(mine, x, states))


def test_slstm_layouts():
    mine = make(ours, "sLSTM", I, 6, bidirectional=True, num_layers=2, num_heads=2, dtype=F64)
    x, states = make_input("time"), make_states(mine, B)
    loop = SLSTMLoop(mine)
    single, last = mine(x[:, 1], tuple(s[:, 1] for s in states))
    packed, packed_last = mine(LAYOUTS["unsorted"](x), tuple(states))
    padded, lengths = pad_packed_sequence(packed)
    for row, length in enumerate(lengths.tolist()):
        y, s = loop(x[:length, row : row + 1], tuple(s[:, row : row + 1] for s in states))
        actual = {"y": padded[:length, row : row + 1]} | {
            str(i): p[:, row : row + 1] for i, p in enumerate(packed_last)
        }
        expected = {"y": y} | {str(i): p for i, p in enumerate(s)}
        assert_same(actual, expected)
        if row == 1:  # the one of full length
            assert_same(
                {"y": single} | {str(i): p for i, p in enumerate(last)}, {k: v.squeeze(1) for k, v in expected.items()}
            )
    mine.batch_first = True
    y, _ = mine(x.transpose(0, 1), tuple(states))
    assert_same({"y": y.transpose(0, 1)}, {"y": loop(x, states)[0]})


@pytest.mark.parametrize("kind", ["lstm", "lstm_proj", "gru", "tanh", "relu", "sLSTM"])
def test_final_states_continue_the_sequence(kind):
    mine = make(ours, kind, num_layers=2, dtype=F64)
    x = make_input("time")
    whole, last = mine(x)
    first, state = mine(x[:2])
    second, again = mine(x[2:], state)
    flat = [*last] if isinstance(last, tuple) else [last]
    flat_again = [*again] if isinstance(again, tuple) else [again]
    assert_same(dict(enumerate([torch.cat([first, second]), *flat_again])), dict(enumerate([whole, *flat])), factor=20)


@pytest.mark.parametrize("kind", [*KINDS, "sLSTM"])
def test_batch_sizes_changed_before_the_backward_pass(kind):
    module, lengths = make(ours, kind, num_layers=2, bidirectional=True), [6, 4, 4, 1]
    x = pack_padded_sequence(torch.randn(6, 4, I), lengths)
    sizes, gradients = x.batch_sizes.clone(), []
    for changed in (False, True):
        module.zero_grad()
        output, _ = module(x)
        assert output.batch_sizes is x.batch_sizes
        if changed:
            x.batch_sizes.fill_(1)
        output.data.square().sum().backward()
        gradients.append([p.grad for p in module.parameters()])
    x.batch_sizes.copy_(sizes)
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
