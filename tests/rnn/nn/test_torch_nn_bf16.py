"""fastiter.torch.nn's LSTM, GRU, RNN and sLSTM in bfloat16 and under autocast: torch.nn's accuracy and dtypes."""

from __future__ import annotations

import itertools
import math

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import PackedSequence  # noqa: E402

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
    make,
    make_input,
    make_states,
    no_onednn_projection,
    one_thread,
    randn,
)
from tests.support.pairs import pairs  # noqa: E402

pytestmark = no_onednn_projection

BF16, EPS = torch.bfloat16, 2.0**-8
every_kind = pytest.mark.parametrize("kind", [*KINDS, "sLSTM"])


def results(module, x, states=None, wrap=lambda x: x):
    """Return the outputs for wrap(x), and the gradients of a functional whose weights bfloat16 represents."""
    x = x.detach().clone().requires_grad_()
    first = [s.detach().clone().requires_grad_() for s in states or []]
    module.zero_grad()
    hx = None if not first else first[0] if len(first) == 1 else tuple(first)
    output, last = module(wrap(x), hx)
    output = output.data if isinstance(output, PackedSequence) else output
    values = [output, *(last if isinstance(last, tuple) else (last,))]
    weights = [randn(*v.shape, seed=20 + i).bfloat16() for i, v in enumerate(values)]
    sum((v.double() * w).sum() for v, w in zip(values, weights, strict=True)).backward()
    leaves = {"x": x} | {f"hx {i}": s for i, s in enumerate(first)}
    leaves |= {k.removeprefix("module."): p for k, p in module.named_parameters()}
    return {f"y {i}": v.detach() for i, v in enumerate(values)} | {f"d {k}": v.grad for k, v in leaves.items()}


def errors(actual, master):
    """Return the (largest, mean) error of each result, relative to its master's largest element."""
    assert actual.keys() == master.keys()
    found = {}
    for key, m in master.items():
        scale = max(m.abs().max().item(), 1e-6)
        e = (actual[key].double() - m).abs() / scale
        found[key] = (e.max().item(), e.mean().item())
    return found


def smooth(kind, found):
    """Drop gradient errors of cells in which a rounding selects one of two slopes: relu, and m of the sLSTM."""
    if kind not in ("relu", "sLSTM"):
        return found
    gradients = sorted(mean for key, (_, mean) in found.items() if key.startswith("d "))
    assert gradients[len(gradients) // 2] <= 16 * EPS  # one of 168 elements takes the other slope
    return {key: e for key, e in found.items() if not key.startswith("d ")}


def master_of(module, kind, *sizes, **options):
    """Return the same module in float64."""
    library = ours if kind == "sLSTM" else torch.nn
    master = make(library, kind, *sizes, dtype=F64, **options)
    master.load_state_dict({k: v.double() for k, v in module.state_dict().items()})
    return SLSTMLoop(master) if kind == "sLSTM" else master


def test_the_sum_of_the_biases_is_not_rounded():
    """1 + 2^-9 is not representable in bfloat16."""
    module = make(ours, "relu", 1, 1, dtype=BF16)
    values = {"weight_ih_l0": -1.0, "weight_hh_l0": 0.0, "bias_ih_l0": 1.0, "bias_hh_l0": 2.0**-9}
    module.load_state_dict({k: torch.full_like(module.state_dict()[k], v) for k, v in values.items()})
    y, _ = module(torch.ones(3, 2, 1, dtype=BF16))
    assert torch.equal(y, torch.full_like(y, 2.0**-9))


CASES = [
    ("time", {}),
    ("batch", {"num_layers": 2, "bidirectional": True}),
    ("unbatched", {"bias": False}),
    ("packed", {"bidirectional": True, "bias": False}),
    ("unsorted", {"num_layers": 2, "bidirectional": True}),
]


@pairs
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize(("layout", "options"), CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_as_exact_as_torch(kind, layout, options, with_hx):
    """Errors against float64: a rounding is EPS / 2; stored values are rounded at each of 6 steps in 2 layers."""
    options = {**options, "batch_first": layout == "batch"}
    mine, theirs = (make(library, kind, dtype=BF16, **options) for library in (ours, torch.nn))
    x = make_input(layout, BF16)
    states = make_states(theirs, None if layout == "unbatched" else B, BF16) if with_hx else None
    actual, torchs = (results(module, x, states, LAYOUTS[layout]) for module in (mine, theirs))
    wide = None if states is None else [s.double() for s in states]
    master = results(master_of(mine, kind, **options), x.double(), wide, LAYOUTS[layout])
    assert {k: (v.shape, v.dtype) for k, v in actual.items()} == {k: (v.shape, v.dtype) for k, v in torchs.items()}
    of_torch, bound = errors(torchs, master), EPS / 2 * (1 + math.sqrt(6 + H)) * options.get("num_layers", 1)
    for key, (largest, mean) in smooth(kind, errors(actual, master)).items():
        assert largest <= max(bound, 1.5 * of_torch[key][0]), key
        assert mean <= 2 * of_torch[key][1] + EPS / 4, key


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_many_steps_and_units(kind):
    """Errors do not grow along time: a state forgets, and sums are float32."""
    sizes, x = (33, 64), randn(60, 8, 33, dtype=BF16)
    modules = [make(library, kind, *sizes, dtype=BF16) for library in (ours, torch.nn)]
    master = results(master_of(modules[0], kind, *sizes), x.double())
    of_mine, of_torch = (errors(results(module, x), master) for module in modules)
    for key, (largest, mean) in of_mine.items():
        assert largest <= 4 * EPS, key
        assert mean <= 1.25 * of_torch[key][1] + EPS / 32, key


@pytest.mark.parametrize("heads", [1, 7])
def test_slstm_and_heads(heads):
    for kind in ("sLSTM",) if heads == 1 else ("sLSTM", "lstm", "gru"):
        options = {"num_layers": 2, "bidirectional": True, "num_heads": heads}
        mine = make(ours, kind, dtype=BF16, **options)
        x = randn(6, B, I, dtype=BF16)
        states = [s.bfloat16() if k == 0 or kind == "lstm" else s for k, s in enumerate(make_states(mine, B, F32))]
        actual = results(mine, x, states)
        of_float = make(ours, kind, dtype=F64, **options)
        of_float.load_state_dict({k: v.double() for k, v in mine.state_dict().items()})
        master = SLSTMLoop(of_float) if kind == "sLSTM" else of_float
        expected = results(master, x.double(), [s.double() for s in states])
        for key, (largest, mean) in smooth(kind, errors(actual, expected)).items():
            assert largest <= EPS * (1 + math.sqrt(6 + H)), key
            assert mean <= EPS, key


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_draws_the_masks_of_torch(kind):
    outputs = []
    for library in (ours, torch.nn):
        module = make(library, kind, num_layers=3, dropout=0.5, dtype=BF16)
        torch.manual_seed(11)
        outputs.append(module(make_input("time", BF16))[0].float())
    assert (outputs[0] - outputs[1]).abs().max() <= 8 * EPS * outputs[1].abs().max()


def test_dtypes_of_states():
    """c has the dtype in which it was given, bfloat16 by default, as in torch. The sLSTM's c, n, m are float32."""
    x, h, c = make_input("time", BF16), randn(1, B, H, dtype=BF16), randn(1, B, H, dtype=F32)
    for library in (torch.nn, ours):
        lstm = make(library, "lstm", dtype=BF16)
        assert [s.dtype for s in lstm(x)[1]] == [BF16, BF16]
        assert [s.dtype for s in lstm(x, (h, c.bfloat16()))[1]] == [BF16, BF16]
        assert [s.dtype for s in lstm(x, (h, c))[1]] == [BF16, F32]
    assert lstm(x, (h, c.bfloat16().float()))[0].equal(lstm(x, (h, c.bfloat16()))[0])
    slstm = make(ours, "sLSTM", dtype=BF16)
    assert [s.dtype for s in slstm(x)[1]] == [BF16, F32, F32, F32]
    with pytest.raises(TypeError, match=r"^LSTM: hx\[0\] \(h\) must be bfloat16 like the parameters, got float32$"):
        lstm(x, (h.float(), c))
    with pytest.raises(TypeError, match=r"^LSTM: hx\[1\] \(c\) must be bfloat16 like the parameters, got float64$"):
        lstm(x, (h, c.double()))


@every_kind
def test_a_sequence_in_parts(kind):
    """With c in float32, and without a projection, parts have the bits of the whole run; so do single steps."""
    mine, x = make(ours, kind, num_layers=2, dtype=BF16), make_input("time", BF16)
    zeros = [torch.zeros(2, B, s.shape[-1], dtype=BF16 if k == 0 else F32) for k, s in enumerate(make_states(mine, B))]
    state = zeros[0] if len(zeros) == 1 else tuple(zeros)
    whole, last = mine(x, state)
    first, state = mine(x[:2], state)
    second, state = mine.step(x[2], state)
    third, state = mine(x[3:], state)
    y = torch.cat([first, second[None], third])
    if kind == "lstm_proj":  # a given h meets W_hh, not W_hh W_hr
        assert (y - whole).float().abs().max() <= 4 * EPS * whole.float().abs().max()
    else:
        assert y.equal(whole)
        flat = [(a, b) for a, b in zip(state, last, strict=True)] if isinstance(last, tuple) else [(state, last)]
        assert all(a.equal(b) for a, b in flat)


@every_kind
def test_no_copy_of_weights_or_input_is_widened(kind, monkeypatch):
    """The products take bfloat16, as they do without a projection of h."""
    from fastiter._torch import linear
    from fastiter.rnn._torch.nn import layer

    seen = []
    for module, name in itertools.product((linear, layer), ("linear_fwd", "linear_bwd")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda call, f=original: seen.extend(x.dtype for x in call[:2]) or f(call))
    mine = make(ours, kind, bidirectional=True, dtype=BF16)
    packed = torch.nn.utils.rnn.pack_padded_sequence(make_input("time", BF16).requires_grad_(), [6, 4, 3, 1])
    mine(packed)[0].data.sum().backward()  # rows of equal lengths would take one call
    assert set(seen) == {BF16}


def test_float16_is_refused():
    why = "as float16 cannot hold what gates and their gradients range over, got float16"
    with pytest.raises(TypeError, match=f"^GRU: parameters must be float32, float64 or bfloat16, {why}$"):
        make(ours, "gru").half()(make_input("time").half())
    with torch.autocast("cpu", torch.float16):
        with pytest.raises(TypeError, match=f"^GRU: the dtype of torch.autocast must be bfloat16, {why}$"):
            make(ours, "gru")(make_input("time", F32))
        assert make(ours, "gru", dtype=F64)(make_input("time"))[0].dtype == F64  # not cast


# --- autocast --------------------------------------------------------------------------------------------------------


def flat(result):
    output, last = result
    output = output.data if isinstance(output, PackedSequence) else output
    return [output, *(last if isinstance(last, tuple) else (last,))]


@pytest.mark.parametrize("layout", ["time", "unsorted"])
@every_kind
def test_autocast_is_bfloat16_with_gradients_in_float32(kind, layout):
    mine = make(ours, kind, num_layers=2, bidirectional=True)
    half = make(ours, kind, num_layers=2, bidirectional=True).bfloat16()
    x, states = make_input("time", F32), make_states(mine, B, F32)
    rest = F32 if kind == "sLSTM" else BF16
    lower = [s.to(rest if k else BF16) for k, s in enumerate(states)]
    with torch.autocast("cpu", BF16):
        actual = results(mine, x, states, LAYOUTS[layout])
    expected = results(half, x.bfloat16(), lower, LAYOUTS[layout])
    assert all(actual[k].float().equal(expected[k].float()) for k in expected)
    assert {v.dtype for k, v in actual.items() if k.startswith("d ")} == {F32}


@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_autocast_returns_the_dtypes_of_torch(kind):
    modules = [make(library, kind) for library in (ours, torch.nn)]
    x, states = make_input("time", F32), make_states(modules[0], B, F32)
    hx, halves = ((s[0] if len(s) == 1 else tuple(s)) for s in (states, [s.bfloat16() for s in states]))
    for arguments in ((x,), (x, hx), (x.bfloat16(),), (x, halves)):
        with torch.autocast("cpu", BF16):
            mine, theirs = ([y.dtype for y in flat(module(*arguments))] for module in modules)
        assert mine == theirs


@every_kind
def test_autocast_that_is_off_changes_nothing(kind):
    mine, x = make(ours, kind), make_input("time", F32)
    expected, double = mine(x)[0], make(ours, kind, dtype=F64)
    with torch.autocast("cpu", BF16):
        assert double(x.double())[0].equal(double(x.double())[0])
        assert double(x.double())[0].dtype == F64
        with torch.autocast("cpu", enabled=False):
            assert mine(x)[0].equal(expected)
        assert mine(x)[0].float().equal(mine(x.bfloat16())[0].float())
        with pytest.raises(ValueError, match="input must be bfloat16 like the parameters, got float64"):
            mine(x.double())
    with torch.autocast("cpu", enabled=False):
        assert mine(x)[0].equal(expected)


@every_kind
def test_functional_call_and_vmap(kind):
    mine, x = make(ours, kind, dtype=BF16), randn(2, 6, B, I, dtype=BF16)
    weights = {k: torch.stack([p.detach(), 2 * p.detach()]) for k, p in mine.named_parameters()}

    def loss(w, x):
        return torch.func.functional_call(mine, w, (x,))[0].float().square().sum()

    gradients = torch.func.vmap(torch.func.grad(loss))(weights, x)
    for i in range(2):
        expected = torch.func.grad(loss)({k: w[i] for k, w in weights.items()}, x[i])
        assert all(gradients[k][i].equal(g) for k, g in expected.items())


def test_a_step_without_a_state_under_another_default_dtype():
    module, x = make(ours, "LSTM", dtype=BF16), randn(4, I, dtype=BF16)
    expected = module.step(x)
    torch.set_default_dtype(F64)
    try:
        y, (h, c) = module.step(x)
    finally:
        torch.set_default_dtype(F32)
    assert c.dtype == F32
    assert all(torch.equal(a, b) for a, b in zip((y, h, c), (expected[0], *expected[1]), strict=True))


@pytest.mark.parametrize("layout", ["time", "packed"])
@every_kind
def test_dtypes_of_results_under_autocast(kind, layout):
    """As docs/rnn/theory.md says, for any layout; torch's LSTM has float32 for packed float32, and c with proj_size."""
    module = make(ours, kind, dtype=F32)
    for x_dtype, hx_dtype in ((F32, None), (BF16, None), (F32, F32), (BF16, F32), (F32, BF16)):
        states = None if hx_dtype is None else make_states(module, B, hx_dtype)
        hx = None if states is None else states[0] if len(states) == 1 else tuple(states)
        with torch.autocast("cpu", dtype=BF16):
            output, last = module(LAYOUTS[layout](make_input("time", x_dtype)), hx)
        output = output.data if layout == "packed" else output
        last = last if isinstance(last, tuple) else (last,)
        first = (hx_dtype or x_dtype) if kind == "gru" else BF16
        rest = F32 if kind == "sLSTM" else BF16
        assert [output.dtype, *(s.dtype for s in last)] == [first, first, *[rest] * (len(last) - 1)]
