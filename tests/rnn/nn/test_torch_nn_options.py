"""clip_state, clip_grad, checkpoint, reset, lengths and cu_seqlens of fastiter.torch.nn's LSTM, GRU, RNN and sLSTM."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch import onnx  # noqa: E402
from tests.rnn.nn.cases_nn import (  # noqa: E402, F401
    F32,
    F64,
    KINDS,
    LAYOUTS,
    B,
    I,
    T,
    all_names,
    assert_same,
    make,
    make_input,
    make_states,
    no_onednn_projection,
    one_thread,
    randn,
)
from tests.rnn.torch_calls import Leaves, loop  # noqa: E402

pytestmark = no_onednn_projection

every_kind = pytest.mark.parametrize("kind", [*KINDS, "sLSTM"])
CELLS = {"lstm": "lstm", "lstm_proj": "lstm", "gru": "gru", "tanh": "elmantanh", "relu": "elmanrelu", "sLSTM": "slstm"}
BOTH = {"num_layers": 2, "bidirectional": True, "dtype": F64}


def flat(last):
    return list(last) if isinstance(last, tuple) else [last]


def unflat(states):
    return states[0] if len(states) == 1 else tuple(states)


def results(call, x, states, module):
    """Return the outputs of call(x, states), and all gradients of a random linear functional of them."""
    x = x.detach().clone().requires_grad_()
    first = [s.detach().clone().requires_grad_() for s in states]
    module.zero_grad()
    output, last = call(x, first)
    values = [output, *last]
    sum((v * randn(*v.shape, dtype=v.dtype, seed=20 + i)).sum() for i, v in enumerate(values)).backward()
    leaves = [x, *first, *module.parameters()]
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone() for leaf in leaves]
    return dict(enumerate([*(v.detach() for v in values), *gradients]))


def called(module, **how):
    def call(x, first):
        output, last = module(x, unflat(first) if first else None, **how)
        return output, flat(last)

    return call


def random_resets(steps, rows):
    """Return flags (T, B); some rows are reset at their first and last step."""
    reset = torch.rand(steps, rows, generator=torch.Generator().manual_seed(1)) < 0.3
    reset[0, 0] = reset[-1, -1] = True
    return reset


# --- clips, against a loop that torch differentiates -----------------------------------------------------------------


def looped(module, kind, **how):
    """Compute the layers as loops over time: x (T, B, I)."""
    heads, cell = module.num_heads, CELLS[kind]

    def call(x, first):
        lasts, weights, states = [], module.all_weights, {"lstm": 2, "slstm": 4}.get(cell, 1)
        zeros = x.new_zeros(len(weights), x.shape[1], module.hidden_size).requires_grad_()
        directions = 2 if module.bidirectional else 1
        for k in range(0, len(weights), directions):
            outputs = []
            for d in range(directions):
                w_ih, w_hh, b_ih, b_hh, *w_hr = weights[k + d]
                D = w_hh.shape[0] // {"lstm": 4, "slstm": 4, "gru": 3}.get(cell, 1) // heads
                r = (w_hh @ w_hr[0] if w_hr else w_hh).view(-1, heads, D, D)
                wx = torch.nn.functional.linear(x, w_ih, b_ih).view(*x.shape[:2], -1, heads, D).transpose(0, 1)
                start = tuple(s[k + d].view(-1, heads, D) for s in first or [zeros] * states)
                h, last, _ = loop(cell, Leaves(wx, r, b_hh.view(-1, heads, D), start), reverse=d == 1, **how)
                lasts.append([s.flatten(1) for s in last])
                outputs.append(h.flatten(2).transpose(0, 1))
                if w_hr:
                    outputs[-1], lasts[-1][0] = outputs[-1] @ w_hr[0].T, lasts[-1][0] @ w_hr[0].T
            x = torch.cat(outputs, -1)
        return x, [torch.stack(s) for s in zip(*lasts, strict=True)]

    return call


CLIPS = [{"clip_state": 0.2}, {"clip_grad": 0.1}, {"clip_state": 0.2, "clip_grad": 0.1}]


@pytest.mark.parametrize("clips", CLIPS, ids=str)
@every_kind
def test_clips(kind, clips):
    module, plain = make(ours, kind, **BOTH, **clips), make(ours, kind, **BOTH)
    # A loop over u for h = W_hr u cannot begin from an arbitrary h.
    x, states = make_input("time"), [] if kind == "lstm_proj" else make_states(module, B)
    actual = results(called(module), x, states, module)
    assert_same(actual, results(looped(module, kind, **clips), x, states, module))
    unclipped = results(called(plain), x, states, plain)
    assert not actual[len(actual) - 1].allclose(unclipped[len(actual) - 1])


# --- resets, lengths, cu_seqlens: every part is a separate sequence ---------------------------------------------------


def one_part(module, x, states, begins, ends):
    """Run (T, 1, I); the given states enter at the row's start, in the reverse direction at its end."""
    is_reverse = module.bidirectional & (torch.arange(states[0].shape[0]) % 2 == 1).view(-1, 1, 1)
    enters = torch.where(is_reverse, torch.tensor(ends), torch.tensor(begins))
    output, last = module(x, unflat([torch.where(enters, s, 0.0) for s in states]))
    return output, flat(last), is_reverse


def one_row(module, x, states, flags):
    """Run (T, 1, I) part by part."""
    if len(x) == 0:
        return x.new_zeros(0, 1, width_of(module)), states
    cuts = [0, *[t for t in range(1, len(x)) if flags[t]], len(x)]
    made = []
    for begin, end in itertools.pairwise(cuts):
        begins, ends = begin == 0 and not flags[0], end == len(x)
        made.append(one_part(module, x[begin:end], states, begins, ends))
    is_reverse = made[0][2]
    last = [torch.where(is_reverse, a, b) for a, b in zip(made[0][1], made[-1][1], strict=True)]
    return torch.cat([y for y, _, _ in made]), last


def width_of(module):
    return (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)


def row_by_row(module, reset, lengths):
    """Run every row of x (T, B, I) part by part."""

    def call(x, first):
        outputs, lasts = [], []
        for row, length in enumerate(lengths):
            y, last = one_row(module, x[:length, row : row + 1], [s[:, row : row + 1] for s in first], reset[:, row])
            outputs.append(torch.cat([y, x.new_zeros(len(x) - length, 1, y.shape[-1])]))
            lasts.append(last)
        return torch.cat(outputs, 1), [torch.cat(s, 1) for s in zip(*lasts, strict=True)]

    return call


@pytest.mark.parametrize("layout", ["time", "batch", "lengths", "unsorted"])
@every_kind
def test_resets(kind, layout):
    """A reset splits a row in both directions and all layers; resets behind a row's end have no effect."""
    module = make(ours, kind, batch_first=layout == "batch", **BOTH)
    reset, lengths = random_resets(T, B), [2, 6, 0 if layout == "lengths" else 1, 4]
    how = {"reset": reset.t() if layout == "batch" else reset}
    x, states = make_input("time"), make_states(module, B)
    if layout == "lengths":
        how["lengths"] = lengths
    call = called(module, **how)

    def in_layout(x, first):
        if layout == "unsorted":
            packed, last = call(pack_padded_sequence(x, lengths, enforce_sorted=False), first)
            return pad_packed_sequence(packed)[0], last
        output, last = call(x.transpose(0, 1) if layout == "batch" else x, first)
        return output.transpose(0, 1) if layout == "batch" else output, last

    plain = copy.copy(module)  # the same parameters
    plain.batch_first = False
    valid = lengths if layout in ("lengths", "unsorted") else [T] * B
    expected = results(row_by_row(plain, reset, valid), x, states, module)
    assert_same(results(in_layout, x, states, module), expected)


@every_kind
def test_lengths(kind):
    module = make(ours, kind, **BOTH)
    x, states, lengths = make_input("time"), make_states(module, B), torch.tensor([3, 0, 6, 1])
    expected = results(row_by_row(module, torch.zeros(T, B, dtype=bool), lengths.tolist()), x, states, module)
    assert_same(results(called(module, lengths=lengths), x, states, module), expected)
    behind = torch.arange(T).unsqueeze(1) >= lengths
    with_nan = results(called(module, lengths=lengths), x.masked_fill(behind.unsqueeze(2), torch.nan), states, module)
    assert_same(with_nan, expected)


@pytest.mark.parametrize("reset", [False, True])
@every_kind
def test_sequences_in_one_row(kind, reset):
    """cu_seqlens (S + 1,) with input (M, I); two sequences are empty."""
    module = make(ours, kind, **BOTH)
    bounds = [0, 0, 5, 6, 9, 9]
    flags = random_resets(9, 1)
    x, states = randn(9, I), make_states(module, 5)

    def each(x, first):
        made = []
        for i, (begin, end) in enumerate(itertools.pairwise(bounds)):
            own = flags[begin:end, 0] if reset else torch.zeros(end - begin, dtype=bool)
            made.append(one_row(module, x[begin:end, None], [s[:, i : i + 1] for s in first], own))
        lasts = zip(*[last for _, last in made], strict=True)
        return torch.cat([y for y, _ in made])[:, 0], [torch.cat(s, 1) for s in lasts]

    how = {"cu_seqlens": torch.tensor(bounds)} | ({"reset": flags[:, 0]} if reset else {})
    assert_same(results(called(module, **how), x, states, module), results(each, x, states, module))


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, torch.bfloat16])
@every_kind
def test_checkpoints_change_no_bit(kind, dtype):
    more = {"num_layers": 2, "bidirectional": True, "dtype": dtype, "clip_grad": 0.5}
    plain = make(ours, kind, **more)
    for every in (1, 4, 100):
        module = make(ours, kind, checkpoint=every, **more)
        for wrap, asked in (
            (lambda x: x, {"reset": random_resets(T, B)}),
            (lambda x: x, {"lengths": [2, 6, 0, 4]}),
            (lambda x: pack_padded_sequence(x, [2, 6, 1, 4], enforce_sorted=False), {"reset": random_resets(T, B)}),
        ):
            x, states = make_input("time", dtype), make_states(module, B, dtype)

            def bits(module, wrap=wrap, asked=asked, x=x, states=states):
                def call(x, first):
                    output, last = module(wrap(x), unflat(first), **asked)
                    return getattr(output, "data", output), flat(last)

                return results(call, x, states, module)

            assert_same(bits(module), bits(plain), factor=0)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "sLSTM"])
def test_checkpoints_save_memory(name):
    """Compare the bytes saved for the backward pass besides parameters, input and output."""

    def kept(every):
        module, sizes, x = make(ours, name, 3, 16, checkpoint=every), [], randn(128, 4, 3, dtype=F32)
        given = {p.data_ptr() for p in (x, *module.parameters())}

        def note(y):
            sizes.append(0 if y.data_ptr() in given else y.nbytes)
            return y

        with torch.autograd.graph.saved_tensors_hooks(note, lambda y: y):
            output, _ = module(x)
        return sum(sizes) - output.nbytes

    assert kept(32) * 8 <= kept(None)


# --- as modules ------------------------------------------------------------------------------------------------------

OPTIONS = {"clip_state": 0.5, "clip_grad": 2.0, "checkpoint": 2}


@all_names
def test_options_belong_to_the_module(name):
    module, plain = make(ours, name, **OPTIONS), make(ours, name)
    assert repr(module) == repr(plain)[:-1] + ", clip_state=0.5, clip_grad=2.0, checkpoint=2)"
    assert module.state_dict().keys() == plain.state_dict().keys()
    x = make_input("time", F32)
    expected = module(x)[0]
    for duplicate in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(duplicate) == repr(module)
        assert duplicate(x)[0].equal(expected)
    plain.clip_state = 0.5
    assert plain(x)[0].equal(expected)
    y, state = module.step(x[0])
    assert y.equal(expected[0])
    assert module.step(x[1], state)[0].equal(expected[1])


@all_names
def test_transforms(name):
    module = make(ours, name, bidirectional=True, **OPTIONS)
    x, flags = randn(2, T, B, I, dtype=F32), torch.stack([random_resets(T, B), random_resets(T, B).flip(0)])
    weights = {k: p.detach() for k, p in module.named_parameters()}

    def loss(w, x, flags):
        return torch.func.functional_call(module, w, (x,), {"reset": flags})[0].square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, x, flags)
    for i in range(2):
        module.zero_grad()
        module(x[i], reset=flags[i])[0].square().sum().backward()
        assert all(mapped[k][i].equal(p.grad) for k, p in module.named_parameters())


class Wrapped(torch.nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x, lengths, reset):
        with torch.autocast("cpu", torch.bfloat16):
            return self.recurrent(x, lengths=lengths, reset=reset)[0]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_in_one_graph_and_exported():
    model = Wrapped(make(ours, "sLSTM", bidirectional=True, **OPTIONS))
    x, lengths, reset = make_input("time", F32), torch.tensor([3, 0, 6, 1]), random_resets(T, B)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    found, expected = compiled(x, lengths, reset), model(x, lengths, reset)
    assert found.equal(expected) and found.dtype == torch.bfloat16
    gradients = [torch.autograd.grad(y.square().sum(), list(model.parameters())) for y in (found, expected)]
    assert all(a.equal(b) for a, b in zip(*gradients, strict=True))
    steps, rows = torch.export.Dim("T", min=1), torch.export.Dim("B", min=1)
    shapes = {"x": {0: steps, 1: rows}, "lengths": {0: rows}, "reset": {0: steps, 1: rows}}
    exported = torch.export.export(model, (x, lengths, reset), dynamic_shapes=shapes).module()
    for time, lengths in ((9, [9, 2, 5]), (2, [0, 2]), (1, [1])):
        batch = len(lengths)
        more = randn(time, batch, I, dtype=F32), torch.tensor(lengths), random_resets(time, batch)
        assert exported(*more).equal(model(*more))


# --- errors ----------------------------------------------------------------------------------------------------------


@all_names
def test_errors_of_options(name):
    for option, value, error, expected in (
        ("clip_state", "1", TypeError, "a number or None, got str"),
        ("clip_state", 0.0, ValueError, "positive, got 0.0"),
        ("clip_grad", -0.5, ValueError, "positive or 0, got -0.5"),
        ("checkpoint", 0, ValueError, "at least 1 step, got 0"),
        ("checkpoint", 1.5, TypeError, "a number of steps or None, got float"),
    ):
        with pytest.raises(error, match=f"^{name}: {option} must be {expected}$"):
            make(ours, name, **{option: value})
        module = make(ours, name)
        setattr(module, option, value)
        with pytest.raises(error, match=f"^{name}: {option} must be {expected}$"):
            module(make_input("time", F32))


FLAGS = torch.zeros(T, B, dtype=bool)
WRONG = [
    ("time", {"lengths": [1, 2]}, ValueError, r"lengths must have shape \(B,\) = \(4,\), got \(2,\)"),
    ("time", {"lengths": [1, 2, 3, 7]}, ValueError, "lengths must be from 0 to T = 6, got 7"),
    ("time", {"lengths": [1.0, 2, 3, 4]}, TypeError, "lengths must be integers, got dtype float64"),
    ("unbatched", {"lengths": [1]}, ValueError, "lengths must be None for unbatched input, got lengths"),
    ("packed", {"lengths": [1] * 4}, ValueError, "lengths must be None for a PackedSequence, got lengths"),
    ("packed", {"cu_seqlens": [0, 1]}, ValueError, "cu_seqlens must be None for a PackedSequence, got cu_seqlens"),
    ("unbatched", {"cu_seqlens": [0, 5]}, ValueError, "cu_seqlens must rise from 0 to T = 6, got 0 to 5"),
    ("unbatched", {"cu_seqlens": [0, 6], "lengths": [6]}, ValueError, "lengths must be None if cu_seqlens is given"),
    ("time", {"cu_seqlens": [0, 6]}, ValueError, r"input must have 2 dimensions \(M, I\) if cu_seqlens is given"),
    ("time", {"reset": [True]}, TypeError, "reset must be a torch.Tensor of bool, got list"),
    ("time", {"reset": FLAGS.int()}, TypeError, "reset must be a torch.Tensor of bool, got dtype torch.int32"),
    ("time", {"reset": FLAGS.t()}, ValueError, r"reset must have shape \(T, B\) = \(6, 4\) or \(T,\), got \(4, 6\)"),
    ("batch", {"reset": FLAGS}, ValueError, r"reset must have shape \(B, T\) = \(4, 6\) or \(T,\), got \(6, 4\)"),
    ("packed", {"reset": FLAGS[1:]}, ValueError, r"reset must have shape \(T, B\) = \(6, 4\) or \(T,\), got \(5, 4\)"),
]


@pytest.mark.parametrize(("layout", "asked", "error", "message"), WRONG)
def test_errors_of_forward(layout, asked, error, message):
    module = make(ours, "gru", batch_first=layout == "batch")
    with pytest.raises(error, match=f"^GRU: {message}"):
        module(LAYOUTS[layout](make_input(layout, F32)), **asked)


def test_incompatible_options():
    with pytest.raises(ValueError, match=r"^GRU: checkpoint must be None if cu_seqlens is given, as chunks of time"):
        make(ours, "gru", checkpoint=2)(make_input("unbatched", F32), cu_seqlens=[0, 6])
    clipped = make(ours, "lstm", clip_state=0.5)
    with pytest.raises(ValueError, match=r"^onnx.export: clip_state must be None, as .* clip the gates, got 0.5$"):
        onnx.export(clipped)
    for option in ("clip_state", "clip_grad"):
        with pytest.raises(ValueError, match=rf"of one head without proj_size, clip_state and .* {option}=0.5\)$"):
            ours.quantize_model(torch.nn.Sequential(make(ours, "lstm", **{option: 0.5})), ours.QuantPlan())
