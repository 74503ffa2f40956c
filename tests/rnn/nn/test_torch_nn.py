"""fastiter.torch.nn against torch.nn: the same seed, input and states give the same results and gradients."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

import fastiter  # noqa: E402
from fastiter.rnn._torch.nn import layer as rnn_layer  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.nn.cases_nn import (  # noqa: E402, F401
    F32,
    F64,
    KINDS,
    LAYOUTS,
    B,
    I,
    SLSTMLoop,
    T,
    all_names,
    assert_equal_parameters,
    assert_same,
    kinds,
    make,
    make_input,
    make_states,
    no_onednn_projection,
    one_thread,
    pair,
    randn,
    run,
)
from tests.support.pairs import pairs  # noqa: E402

pytestmark = no_onednn_projection


# --- the same numbers ------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_torch(kind, layout):
    """Every three of layers, directions, bias and states, and of these and the dtype every pair."""
    place, wrap = list(LAYOUTS).index(layout), LAYOUTS[layout]
    for layers, bidirectional, bias in itertools.product((1, 2), (False, True), (True, False)):
        with_hx, dtype = (layers + bidirectional + bias + place) % 2, (F32, F64)[(layers + bias + place) % 2]
        options = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias, "dtype": dtype}
        theirs, mine = pair(kind, batch_first=layout == "batch", **options)
        assert_equal_parameters(mine, theirs)
        x = make_input(layout, dtype)
        states = make_states(theirs, None if layout == "unbatched" else B, dtype) if with_hx else None
        assert_same(run(mine, x, states, wrap), run(theirs, x, states, wrap))


@pairs
@kinds
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("steps", "batch", "features", "hidden"), [(1, 1, 1, 4), (1, 3, 5, 7), (9, 1, 3, 17), (3, 13, 2, 33)]
)
def test_sizes(kind, dtype, steps, batch, features, hidden):
    theirs, mine = pair(kind, features, hidden, bidirectional=True, dtype=dtype)
    x = randn(steps, batch, features, dtype=dtype)
    states = make_states(theirs, batch, dtype)
    assert_same(run(mine, x, states), run(theirs, x, states), factor=1000)


@kinds
@pytest.mark.parametrize(
    "lengths", [[4, 4, 2, 2, 1], [3, 3, 3], [6], [1, 1], [1, 5, 5, 1, 3], [2, 1, 1, 1, 1, 1, 1, 1, 9]], ids=str
)
def test_packed_lengths(kind, lengths):
    theirs, mine = pair(kind, bidirectional=True, num_layers=2, dtype=F64)
    x = randn(max(lengths), len(lengths), I)
    states = make_states(theirs, len(lengths))

    def wrap(x):
        return pack_padded_sequence(x, lengths, enforce_sorted=False)

    assert_same(run(mine, x, states, wrap), run(theirs, x, states, wrap))


@pairs
@kinds
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5}])
def test_empty_batch(kind, batch_first, options):
    theirs, mine = pair(kind, batch_first=batch_first, dtype=F64, **options)
    x = make_input("batch" if batch_first else "time", batch=0)
    for states in (None, make_states(theirs, 0)):
        assert_same(run(mine, x, states), run(theirs, x, states))


@kinds
@pytest.mark.parametrize(
    ("shape", "batch_first"), [((0, 3, I), False), ((3, 0, I), True), ((0, 0, I), False), ((0, I), True)]
)
def test_no_steps(kind, shape, batch_first):
    for module in pair(kind, batch_first=batch_first):
        with pytest.raises(RuntimeError):
            module(torch.zeros(shape))


INPUT_VIEWS = {
    "strided features": ((T, B, 2 * I), lambda x: x[..., ::2]),
    "features first": ((I, T, B), lambda x: x.permute(1, 2, 0)),
    "batch-major": ((B, T, I), lambda x: x.transpose(0, 1)),
    "every second step": ((2 * T, B, I), lambda x: x[::2]),
    "backwards": ((T, B, I), lambda x: x.flip(0)),
    "one row for all": ((T, 1, I), lambda x: x.expand(T, B, I)),
    "one step for all": ((1, B, I), lambda x: x.expand(T, B, I)),
    "one number for all": ((1, 1, 1), lambda x: x.expand(T, B, I)),
}


@kinds
@pytest.mark.parametrize("view", INPUT_VIEWS)
def test_views_as_input(kind, view):
    """Each view with batch_first and without it, in some of the cells."""
    batch_first = bool((list(KINDS).index(kind) + list(INPUT_VIEWS).index(view)) % 2)
    theirs, mine = pair(kind, batch_first=batch_first, bidirectional=True, dtype=F64)
    shape, wrap = INPUT_VIEWS[view]
    x = randn(*shape)
    states = [s[:, :1].clone() for s in make_states(theirs, B)]
    batch = T if batch_first else B  # the view is (T, B, I): T rows if batch_first

    def expand(s):
        return s.expand(2, batch, s.shape[-1])

    assert_same(run(mine, x, states, wrap, expand), run(theirs, x, states, wrap, expand))


@kinds
def test_transposed_states(kind):
    theirs, mine = pair(kind, num_layers=2, dtype=F64)
    states = [s.permute(2, 1, 0).contiguous() for s in make_states(theirs, B)]

    def wrap_state(s):
        return s.permute(2, 1, 0)

    x = make_input("time")
    assert_same(run(mine, x, states, wrap_state=wrap_state), run(theirs, x, states, wrap_state=wrap_state))


@kinds
@pytest.mark.parametrize("layout", ["time", "batch", "unbatched"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_memory_layout_of_results(kind, layout, bidirectional):
    """Results have torch.nn's strides, so code that calls .view() on them keeps working."""
    theirs, mine = pair(kind, batch_first=layout == "batch", bidirectional=bidirectional)
    x = make_input(layout, F32)
    (a, a_last), (b, b_last) = mine(x), theirs(x)
    assert a.stride() == b.stride()
    for s, t in zip(a_last, b_last, strict=True):
        assert s.stride() == t.stride()


@kinds
@pytest.mark.parametrize("wanted", ["input", "hx", "weight_hh_l0", "bias_ih_l0", "nothing"])
def test_gradients_of_some(kind, wanted):
    theirs, mine = pair(kind, dtype=F64)
    results = []
    for module in (mine, theirs):
        for name, p in module.named_parameters():
            p.requires_grad_(name == wanted)
        x = make_input("time").requires_grad_(wanted == "input")
        hx = [s.requires_grad_(wanted == "hx") for s in make_states(module, B)]
        output, _ = module(x, hx[0] if len(hx) == 1 else tuple(hx))
        assert output.requires_grad == (wanted != "nothing")
        if wanted != "nothing":
            output.square().sum().backward()
        leaves = {"input": x, "hx": hx[0], **dict(module.named_parameters())}
        results.append({k: v.grad for k, v in leaves.items()} | {"output": output.detach()})
    assert_same(*results)


@kinds
def test_backward_twice(kind):
    _, mine = pair(kind, dtype=F64)
    output, _ = mine(make_input("time"))
    loss = output.square().sum()
    first = torch.autograd.grad(loss, list(mine.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(mine.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pairs
@kinds
@pytest.mark.parametrize("where", ["input", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0"])
@pytest.mark.parametrize("layout", ["time", "packed"])
def test_nan_spreads_as_in_torch(kind, where, layout):
    """A diverged run shows NaN in every gradient in which torch's layer would."""
    theirs, mine = pair(kind, dtype=F64)
    x = make_input(layout, F64)
    if where == "input":
        x[1, 0] = float("nan")
    for module in (theirs, mine):
        with torch.no_grad():
            if where != "input":
                getattr(module, where)[0] = float("nan")
    found, expected = (run(module, x, None, LAYOUTS[layout]) for module in (mine, theirs))
    assert any(value.isnan().any() for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh", "relu", "sLSTM"])
@pytest.mark.parametrize("layout", ["time", "batch", "packed"])
def test_changes_in_place(kind, layout):
    """Output and final states may be changed in place, the latter detached too."""
    mine = make(ours, kind, batch_first=layout == "batch", dtype=F64)
    x = LAYOUTS[layout](make_input(layout))
    weights = list(mine.parameters())

    def loss(change):
        output, last = mine(x)
        output = output.data if isinstance(output, PackedSequence) else output
        change(output, *(last if isinstance(last, tuple) else (last,)))
        return output.square().sum()

    expected = torch.autograd.grad(loss(lambda output, *last: None), weights)
    for change in (torch.Tensor.zero_, torch.Tensor.detach_):
        actual = torch.autograd.grad(loss(lambda output, *last: [change(s) for s in last]), weights)  # noqa: B023
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    actual = torch.autograd.grad(loss(lambda output, *last: output.neg_()), weights)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("kind", [*KINDS, "sLSTM"])
def test_gradients_do_not_share_memory(kind):
    mine = make(ours, kind, bidirectional=True)
    mine(make_input("time", F32))[0].sum().backward()
    grads = [p.grad for p in mine.parameters()]
    before = [g.clone() for g in grads]
    for k, g in enumerate(grads):
        g.mul_(2)
        assert all(torch.equal(g, b) for g, b in zip(grads[k + 1 :], before[k + 1 :], strict=True))


@pytest.mark.parametrize("kind", [*KINDS, "sLSTM"])
@pytest.mark.parametrize("wanted", range(4))
def test_gradient_from_one_result(kind, wanted):
    """A loss on a final state alone, or on the output alone."""
    theirs = SLSTMLoop(make(ours, kind, dtype=F64)) if kind == "sLSTM" else make(torch.nn, kind, dtype=F64)
    results = []
    for module in (make(ours, kind, dtype=F64), theirs):
        output, last = module(make_input("time"))
        values = [*last] if isinstance(last, tuple) else [last]
        loss = [output, *values][wanted % (1 + len(values))].square().sum()
        grads = torch.autograd.grad(loss, list(module.parameters()))
        results.append(dict(enumerate(grads)))
    assert_same(*results)


@kinds
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(kind, mode):
    theirs, mine = pair(kind, bidirectional=True, dtype=F64)
    x = make_input("time")
    states = make_states(theirs, B)
    hx = states[0] if len(states) == 1 else tuple(states)
    with mode():
        a, b = mine(x, hx), theirs(x, hx)
    assert_same({"output": a[0], "h": a[1][0]}, {"output": b[0], "h": b[1][0]})
    assert torch.equal(states[0], make_states(theirs, B)[0])


@pytest.mark.parametrize("kind", [*KINDS, "sLSTM"])
def test_results_do_not_depend_on_threads(kind):
    """Equal bits, at a size where two threads share the work."""
    mine = make(ours, kind, 40, 96, bidirectional=True)
    x, states = randn(20, 24, 40, dtype=F32), make_states(mine, 24, F32)
    one = run(mine, x, states)
    fastiter.set_num_threads(2)
    two = run(mine, x, states)
    assert [k for k in one if not torch.equal(one[k], two[k])] == []


@kinds
def test_training_steps(kind):
    """Five steps of SGD with momentum on the same data end at the same parameters."""
    modules = pair(kind, num_layers=2, bidirectional=True, dropout=0.25, dtype=F64)
    x, losses = make_input("time"), []
    for module in modules:
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            loss = (module(x)[0] - 0.1).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert_same(*({k: v.detach() for k, v in m.named_parameters()} for m in modules))


# --- dropout ---------------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_draws_the_same_masks(kind, layout):
    for p, training in ((0.0, True), (0.5, True), (1.0, True), (0.5, False)):
        options = {"num_layers": 3, "bidirectional": True, "dropout": p, "batch_first": layout == "batch", "dtype": F64}
        results = []
        for module in pair(kind, **options):
            module.train(training)
            torch.manual_seed(11)
            results.append(run(module, make_input(layout), wrap=LAYOUTS[layout]))
        assert_same(*results)


def test_dropout_of_one_layer_warns_and_does_nothing():
    with pytest.warns(UserWarning, match="num_layers"):
        mine = make(ours, "lstm", dropout=0.5)
    x = make_input("time", F32)
    assert torch.equal(mine(x)[0], mine.eval()(x)[0])


# --- packed batches --------------------------------------------------------------------------------------------------


@all_names
def test_packed_passes_on_valid_steps_alone(name, monkeypatch):
    """No product or recurrence, forward or backward, receives more than the 9 valid steps of 3 rows of up to 6."""
    rows = []

    def spy(module, function, lines):
        original = getattr(module, function)

        def counting(*args):
            rows.append(len(lines(*args)))
            return original(*args)

        monkeypatch.setattr(module, function, counting)

    spy(rnn_layer, "linear_fwd", lambda call: call.x)
    spy(rnn_layer, "linear_bwd", lambda call: call.dy)
    spy(rnn_layer.ops, "rnn_fwd_saved", lambda *args: args[1])
    spy(rnn_layer.ops, "rnn_bwd", lambda *args: args[3][0])
    module = make(ours, name, num_layers=2, bidirectional=True)
    output, _ = module(pack_padded_sequence(randn(6, 3, I, dtype=F32), [6, 2, 1]))
    output.data.sum().backward()
    assert rows == [9] * 16


@all_names
def test_packed_refuses_broken_batches(name):
    packed = pack_padded_sequence(randn(6, 3, I, dtype=F32), [6, 2, 1])
    data, sizes = packed.data, packed.batch_sizes
    assert sizes.tolist() == [3, 2, 1, 1, 1, 1]
    for lines, counts in (
        (data[:-1], sizes),
        (torch.cat([data, data[:1]]), sizes),
        (data, sizes.flip(0)),
        (data, torch.tensor([3, 2, 1, 2, 1])),
        (data, torch.tensor([9, 0])),
        (data, torch.tensor([10, -1])),
    ):
        with pytest.raises(RuntimeError, match=f"{name}: a PackedSequence must have"):
            make(ours, name)(PackedSequence(lines, counts))
