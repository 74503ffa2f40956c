"""ParaGRU, ParaLSTM, LinearRNN, DeltaNet: equal to their step-by-step equations, in every layout, cut at any step."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402

from tests.scan.cases_nn import (  # noqa: E402, F401
    F32,
    F64,
    LAYERS,
    LENGTHS,
    B,
    H,
    I,
    Loop,
    T,
    as_parts,
    as_state,
    assert_close,
    layers,
    make,
    make_input,
    make_state,
    one_thread,
    randn,
    run,
)


@layers
@pytest.mark.parametrize("with_state", [False, True])
def test_equals_the_loop(kind, with_state):
    layer = make(kind)
    parts = make_state(layer, B) if with_state else None
    assert_close(run(layer, make_input(), parts), run(Loop(layer), make_input(), parts))


@layers
def test_float32(kind):
    single, double = make(kind).float(), make(kind).float().double()  # with equal values
    parts = [part.to(torch.complex64 if part.is_complex() else F32) for part in make_state(double, B)]
    wide = [part.to(torch.complex128 if part.is_complex() else F64) for part in parts]
    actual, expected = run(single, make_input(F32), parts), run(double, make_input(F32).double(), wide)
    assert_close(actual, {key: value.to(actual[key].dtype) for key, value in expected.items()})


class Turned(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, state):
        y, state = self.layer(x.transpose(0, 1).contiguous(), state)
        return y.transpose(0, 1), state


@layers
def test_batch_first(kind):
    layer = make(kind)
    parts = make_state(layer, B)
    assert_close(run(Turned(make(kind, batch_first=True)), make_input(), parts), run(layer, make_input(), parts))


@layers
def test_unbatched(kind):
    layer = make(kind)
    x, parts = make_input(), make_state(layer, B)
    y, last = layer(x, as_state(parts))
    for row in range(B):
        for turned in (layer, make(kind, batch_first=True)):
            single, state = turned(x[:, row], as_state([part[row] for part in parts]))
            assert single.shape == (T, H)
            expected = {"y": y[:, row]} | {str(i): part[row] for i, part in enumerate(as_parts(last))}
            assert_close({"y": single} | {str(i): part for i, part in enumerate(as_parts(state))}, expected)


def rows_one_by_one(layer, x, parts):
    """Return outputs and states of rows that end after LENGTHS steps, each run alone; later outputs are 0."""
    outputs, states = [], []
    for row, length in enumerate(LENGTHS):
        y, state = layer(x[:length, row : row + 1], as_state([part[row : row + 1] for part in parts]))
        outputs.append(torch.cat([y, y.new_zeros(T - length, 1, H)]))
        states.append(as_parts(state))
    return torch.cat(outputs, 1), as_state([torch.cat(part) for part in zip(*states, strict=True)])


class RowByRow(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, state):
        return rows_one_by_one(self.layer, x, as_parts(state))


class Packed(RowByRow):
    def forward(self, x, state):
        packed = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
        output, state = self.layer(packed, state)
        assert torch.equal(output.batch_sizes, packed.batch_sizes)
        assert torch.equal(output.sorted_indices, packed.sorted_indices)
        return pad_packed_sequence(output)[0], state


@layers
def test_ragged_rows(kind):
    layer = make(kind)
    x, parts = make_input(), make_state(layer, B)
    expected = run(RowByRow(layer), x, parts)
    assert_close(run(layer, x, parts, lengths=torch.tensor(LENGTHS)), expected)
    assert_close(run(layer, x, parts, lengths=LENGTHS), expected)
    assert_close(run(Packed(layer), x, parts), expected)
    turned = make(kind, batch_first=True)  # ignored for a PackedSequence
    assert_close(run(Packed(turned), x, parts), expected)
    y, _ = turned(x.transpose(0, 1), as_state(parts), LENGTHS)
    assert_close({"y": y.transpose(0, 1)}, {"y": expected["result 0"]})


@layers
def test_sorted_packed_rows(kind):
    layer = make(kind)
    x = make_input()
    packed = pack_padded_sequence(x, sorted(LENGTHS, reverse=True))
    output, _ = layer(packed)
    assert isinstance(output, PackedSequence) and output.sorted_indices is None and output.unsorted_indices is None
    y, _ = layer(x, None, sorted(LENGTHS, reverse=True))
    assert_close({"y": pad_packed_sequence(output)[0]}, {"y": y})


@layers
def test_padding_is_not_read(kind):
    layer = make(kind)
    x, parts = make_input(), make_state(layer, B)
    spoilt = x.clone()
    for row, length in enumerate(LENGTHS):
        spoilt[length:, row] = float("nan") if row % 2 else float("inf")
    expected = run(layer, x, parts, lengths=LENGTHS)
    actual = run(layer, spoilt, parts, lengths=LENGTHS)
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


@layers
def test_nan_stays_in_its_row(kind):
    layer = make(kind)
    x = make_input()
    y, _ = layer(x)
    spoilt = x.clone()
    spoilt[3, 1] = float("nan")
    actual, last = layer(spoilt)
    others = [0, 2, 3]
    assert torch.equal(actual[:, others], y[:, others]) and torch.equal(actual[:3], y[:3])
    assert actual[3:, 1].isnan().all()
    assert as_parts(last)[0][1].isnan().any() and not any(part[others].isnan().any() for part in as_parts(last))


@layers
def test_cut_anywhere(kind):
    layer = make(kind)
    x, parts = make_input(), make_state(layer, B)
    y, last = layer(x, as_state(parts))
    for cut in range(T + 1):
        first, state = layer(x[:cut], as_state(parts))
        second, state = layer(x[cut:], state)
        expected = {"y": y} | dict(enumerate(as_parts(last)))
        assert_close({"y": torch.cat([first, second])} | dict(enumerate(as_parts(state))), expected)


@layers
def test_step(kind):
    layer, turned = make(kind), make(kind, batch_first=True)
    x = make_input()
    y, last = layer(x)
    state = batch_first = single = None
    for t in range(T):
        out, state = layer.step(x[t], state)
        other, batch_first = turned.step(x[t], batch_first)
        alone, single = layer.step(x[t, 0], single)
        assert out.shape == (B, H) and alone.shape == (H,)
        assert_close({"y": out, "b": other, "1": alone}, {"y": y[t], "b": y[t], "1": y[t, 0]})
    assert_close(dict(enumerate(as_parts(state))), dict(enumerate(as_parts(last))))
    assert_close(dict(enumerate(as_parts(single))), dict(enumerate([part[0] for part in as_parts(last)])))


@pytest.mark.parametrize("kind", ["gru", "gru heads", "lstm", "lstm heads"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streaming_to_the_bit(kind, dtype):
    layer = make(kind, 40, 36, dtype=dtype)
    x = randn(50, 3, 40, dtype=dtype)
    y, last = layer(x)
    state = None
    for t in range(50):
        out, state = layer.step(x[t], state)
        assert torch.equal(out, y[t])
    assert all(torch.equal(a, b) for a, b in zip(as_parts(state), as_parts(last), strict=True))


@layers
@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_empty(kind, steps, batch):
    layer = make(kind)
    x = torch.zeros(steps, batch, I, dtype=torch.float64, requires_grad=True)
    parts = make_state(layer, batch)
    y, last = layer(x, as_state(parts))
    assert y.shape == (steps, batch, H)
    if steps == 0:
        assert all(torch.equal(a, b) for a, b in zip(as_parts(last), parts, strict=True))
    (y.sum() + sum(part.real.sum() for part in as_parts(last))).backward()
    assert x.grad.shape == x.shape
    z, _ = layer(x, as_state(parts), [steps] * batch)
    assert z.shape == y.shape


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "gru newton"])
def test_gradcheck(kind):
    layer = make(kind, 4, 4)
    names = [name for name, _ in layer.named_parameters()]
    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    x = randn(3, 2, 4).requires_grad_()
    parts = [part.requires_grad_() for part in make_state(layer, 2)]

    def call(x, *rest):
        values = dict(zip(names, rest, strict=False))
        y, last = torch.func.functional_call(layer, values, (x, as_state(list(rest[len(names) :])), [2, 3]))
        return y, *as_parts(last)

    assert torch.autograd.gradcheck(call, (x, *weights, *parts), fast_mode=True)


@pytest.mark.parametrize("kind", ["signed", "positive", "complex", "lru", "fixed"])
def test_linear_rnn_twice(kind):
    layer = make(kind, 3, 4)
    x = randn(3, 2, 3).requires_grad_()
    parts = [part.requires_grad_() for part in make_state(layer, 2)]
    assert torch.autograd.gradgradcheck(lambda x, h: layer(x, h), (x, *parts), fast_mode=True)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_others_refuse_a_second_derivative(kind):
    layer = make(kind)
    x = make_input().requires_grad_()
    (dx,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=rf"^para{kind}: .* cannot be differentiated twice"):
        dx.square().sum().backward()


def test_newton_equals_the_loop():
    for name in ("ParaGRU", "ParaLSTM"):
        x = randn(200, 3, I)
        y, last = make(name)(x)
        z, end = make(name, method="newton")(x)
        assert_close({"y": z} | dict(enumerate(as_parts(end))), {"y": y} | dict(enumerate(as_parts(last))), factor=10)
