"""A layer in one call has the bits of the layer op by op."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils.checkpoint import checkpoint  # noqa: E402

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from fastiter.rnn._torch import ops  # noqa: E402
from fastiter.rnn._torch.nn import layer  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.nn.cases_nn import F32, F64, make, make_states, one_thread, randn  # noqa: E402, F401
from tests.support.cases import assert_same_bits  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

BF16, EPS = torch.bfloat16, 2.0**-8
NAMES = {"forward_tensors": 2, "backward_tensors": 1}  # the position of the layer, which is None for a recurrence alone
KINDS = ("lstm", "gru", "tanh", "relu", "sLSTM")
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def calls(monkeypatch):
    """Record whether each one-call function handled its call; with calls["off"] none does."""
    answers = {name: [] for name in NAMES} | {"off": False}

    def counted(name, function):
        def call(*args):
            answer = None if answers["off"] else function(*args)
            if args[NAMES[name]] is not None:
                answers[name].append(answer is not None)
            return answer

        return call

    for name in NAMES:
        monkeypatch.setattr(fastiter._core.rnn, name, counted(name, getattr(fastiter._core.rnn, name)))
    return answers


def results(module, x, states, chosen, cotangents, **cut):
    """Return all outputs, without gradients and with those of the chosen inputs."""
    x = x.detach().clone()
    states = [s.detach().clone() for s in states or []]
    leaves = {"x": x} | {f"hx {i}": s for i, s in enumerate(states)} | dict(module.named_parameters())
    for name, leaf in leaves.items():
        leaf.requires_grad_(chosen(name))
    hx = None if not states else states[0] if len(states) == 1 else tuple(states)
    with torch.no_grad():
        y, last = module(x, hx, **cut)
    alone = [y, *(last if isinstance(last, tuple) else (last,))]
    y, last = module(x, hx, **cut)
    outputs = [y, *(last if isinstance(last, tuple) else (last,))]
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    given = [(v, c(v)) for v, c in zip(outputs, cotangents, strict=False) if c is not None]
    gradients = torch.autograd.grad([v for v, _ in given], list(wanted.values()), [c for _, c in given])
    found = {f"alone {i}": v for i, v in enumerate(alone)} | {f"y {i}": v.detach() for i, v in enumerate(outputs)}
    return found | {f"d {name}": g for name, g in zip(wanted, gradients, strict=True)}


def dense(v):
    return randn(*v.shape, seed=5).to(v.dtype)


def strided(v):
    """Return the dense cotangent with a doubled first stride."""
    return dense(v).repeat_interleave(2, 0)[::2]


def expanded(v):
    return torch.ones((), dtype=v.dtype).expand(v.shape)


COTANGENTS = {
    "output": [dense],
    "strided": [strided],
    "expanded": [expanded],
    "last": [None, *[dense] * 4],
    "everything": [dense] * 5,
}


OPTIONS = ({}, {"num_layers": 2, "bidirectional": True}, {"bias": False}, {"num_heads": 2})
SIZES = ((1, 1, 1, 2), (5, 3, 7, 10), (4, 70, 9, 34))  # T, B, I, H


@pairs
@pytest.mark.parametrize("cotangents", COTANGENTS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
@every_kind
def test_floats_have_the_same_bits(calls, kind, dtype, cotangents):
    """Every option with each size, and of these each with initial states and without."""
    first = list(COTANGENTS).index(cotangents)
    for (i, options), (j, (T, B, I, H)) in itertools.product(enumerate(OPTIONS), enumerate(SIZES, first)):
        with_hx = (i + j) % 2
        module, x = make(ours, kind, I, H, dtype=dtype, **options), randn(T, B, I, dtype=dtype)
        states = make_states(module, B, dtype) if with_hx else None
        found, answers = [], []
        for off in (False, True):
            calls["off"] = off
            found.append(results(module, x, states, lambda name: True, COTANGENTS[cotangents]))
            answers.append({name: [calls[name].pop() for _ in range(len(calls[name]))] for name in NAMES})
        assert all(all(answers[0][name]) for name in NAMES)
        assert not any(itertools.chain(*answers[1].values()))
        assert found[0].keys() == found[1].keys()
        for key, value in found[0].items():
            assert value.equal(found[1][key]), key
            assert value.shape == found[1][key].shape, key
            assert key.startswith("d ") or not value._is_view(), key  # otherwise autograd refuses y.detach_()


LENGTHS = ([5, 0, 3], [2, 4, 4, 1])  # T is the maximum


@pytest.mark.parametrize("cotangents", COTANGENTS)
@every_kind
def test_ragged_rows_have_the_same_bits(calls, kind, cotangents):
    """Rows of different lengths also take one call, and their padding gets gradients of 0."""
    first = list(COTANGENTS).index(cotangents)
    for (i, options), (j, lengths) in itertools.product(enumerate(OPTIONS), enumerate(LENGTHS, first)):
        with_hx = (i + j) % 2
        T, B, I, H = max(lengths), len(lengths), 7, 10
        module, x = make(ours, kind, I, H, dtype=F32, **options), randn(T, B, I, dtype=F32)
        states = make_states(module, B, F32) if with_hx else None
        found = []
        for off in (False, True):
            calls["off"] = off
            found.append(results(module, x, states, lambda name: True, COTANGENTS[cotangents], lengths=lengths))
            answers = {name: [calls[name].pop() for _ in range(len(calls[name]))] for name in NAMES}
            assert all(answer is not off for name in NAMES for answer in answers[name])
        for key, value in found[0].items():
            assert value.equal(found[1][key]), key
        for row, length in enumerate(lengths):
            assert not found[0]["y 0"][length:, row].any() and not found[0]["d x"][length:, row].any()


def flags(*shape):
    return randn(*shape, seed=3) > 0.5


CUTS = {
    "reset": lambda T, B: ((T, B, 7), B, {"reset": flags(T, B)}),
    "reset of ragged rows": lambda T, B: ((T, B, 7), B, {"reset": flags(T, B), "lengths": [T, *[T // 2] * (B - 1)]}),
    "bounds": lambda T, B: ((T, 7), 3, {"cu_seqlens": [0, T // 2, T // 2, T]}),
    "reset of bounds": lambda T, B: ((T, 7), 2, {"cu_seqlens": [0, T // 3, T], "reset": flags(T)}),
}


@pytest.mark.parametrize("cut", CUTS)
@every_kind
def test_cut_rows_have_the_same_bits(calls, kind, cut):
    """Reset flags and concatenated sequences also take one call, from a single step on, with every cotangent."""
    for (i, options), (T, B) in itertools.product(enumerate(OPTIONS), ((1, 1), (5, 3))):
        shape, rows, division = CUTS[cut](T, B)
        module, x = make(ours, kind, 7, 10, dtype=F32, **options), randn(*shape, dtype=F32)
        states = make_states(module, rows, F32) if i % 2 else None
        name = list(COTANGENTS)[(i + T) % len(COTANGENTS)]
        found = []
        for off in (False, True):
            calls["off"] = off
            found.append(results(module, x, states, lambda name: True, COTANGENTS[name], **division))
            answers = {name: [calls[name].pop() for _ in range(len(calls[name]))] for name in NAMES}
            assert all(answer is not off for name in NAMES for answer in answers[name]), name
        assert found[0].keys() == found[1].keys()
        for key, value in found[0].items():
            assert value.equal(found[1][key]), (name, key)
            assert value.shape == found[1][key].shape, (name, key)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradients_of_some_inputs(calls, kind):
    """Each requested gradient equals the same one among all."""
    module, x = make(ours, kind, 5, 6, dtype=F64), randn(4, 3, 5)
    states = make_states(module, 3)
    every = results(module, x, states, lambda name: True, [dense] * 3)
    names = [key.removeprefix("d ") for key in every if key.startswith("d ")]
    for count in (1, 2, len(names) - 1):
        for some in itertools.combinations(names, count):
            found = results(module, x, states, lambda name, some=some: name in some, [dense] * 3)
            assert {key for key in found if key.startswith("d ")} == {f"d {name}" for name in some}
            assert all(value.equal(every[key]) for key, value in found.items())
    assert all(calls["backward_tensors"])


# T, B, I, H. If the processor multiplies tiles, x of an even width is multiplied together with h from 8 rows on; sums
# over more than 768 inputs are split.
BF16_SIZES = [
    (5, 4, 5, 7),
    (1, 1, 2, 2),
    (6, 7, 6, 8),
    (6, 8, 6, 8),
    (5, 21, 34, 18),
    (4, 16, 130, 66),
    (3, 40, 64, 128),
    (3, 3, 1602, 6),
    (3, 9, 1601, 33),
]


@pytest.mark.parametrize("size", BF16_SIZES, ids=str)
@every_kind
def test_bfloat16_is_as_exact(calls, kind, size):
    """Equal bits, and errors against float64 within the roundings of stored values."""
    T, B, I, H = size
    module = make(ours, kind, I, H, dtype=BF16, num_layers=2)
    master = make(ours, kind, I, H, dtype=F64, num_layers=2)
    master.load_state_dict({key: value.double() for key, value in module.state_dict().items()})
    x, states = randn(T, B, I, dtype=BF16), make_states(module, B, BF16)
    found = results(module, x, states, lambda name: True, COTANGENTS["everything"])
    assert all(calls["forward_tensors"]) and all(calls["backward_tensors"])
    calls["off"] = True
    longer = results(module, x, states, lambda name: True, COTANGENTS["everything"])
    exact = results(master, x.double(), [s.double() for s in states], lambda name: True, COTANGENTS["everything"])
    assert found.keys() == exact.keys()
    for key, value in exact.items():
        assert found[key].equal(longer[key]), key
        if kind in ("relu", "sLSTM") and key.startswith("d "):
            continue  # a rounding selects one of two slopes
        error = ((found[key].double() - value) / value.abs().max().clamp_min(1e-6)).abs()
        assert error.max() <= 4 * EPS, key


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "sLSTM"])
def test_bfloat16_rows_are_independent(name):
    """A row has equal bits alone, among few or many, and packed, although the products of few or packed rows differ."""
    B, I, H = 19, 34, 66
    module, x = make(ours, name, I, H, dtype=BF16), randn(6, B, I, dtype=BF16)
    with torch.no_grad():
        y, _ = module(x)
        for rows in (slice(0, 1), slice(3, 8), slice(5, 19)):
            assert module(x[:, rows])[0].equal(y[:, rows])
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, [6] * B)
        assert module(packed)[0].data.view_as(y).equal(y)
        assert module(x, lengths=torch.full((B,), 6))[0].equal(y)


@pytest.mark.parametrize(("B", "I", "H"), [(4, 770, 40), (9, 34, 66), (16, 64, 64), (9, 33, 7)])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "sLSTM"])
def test_bfloat16_continues_bit_for_bit(name, B, I, H):
    """Continues bit for bit from carried states, whose parts other than h are float32."""
    module, x = make(ours, name, I, H, dtype=BF16, num_layers=2), randn(7, B, I, dtype=BF16)
    states = make_states(module, B, BF16)
    states = [states[0], *[s.float() for s in states[1:]]]
    with torch.no_grad():
        whole, last = module(x, states[0] if len(states) == 1 else tuple(states))
        for cuts in ((3, 4), (1,) * 7):
            hx, pieces = states[0] if len(states) == 1 else tuple(states), []
            for piece in x.split(cuts):
                y, hx = module(piece, hx)
                pieces.append(y)
            assert torch.cat(pieces).equal(whole)
            for found, expected in zip(*((s,) if len(states) == 1 else s for s in (hx, last)), strict=True):
                assert found.equal(expected)
        hx = states[0] if len(states) == 1 else tuple(states)
        for t in range(7):
            y, hx = module.step(x[t], hx)
            assert y.equal(whole[t])


@pytest.mark.parametrize("cotangents", ["output", "expanded"])
def test_within_a_checkpoint_of_torch(cotangents):
    """A checkpoint unpacks each saved tensor once, for one call and for op by op."""
    module, x = make(ours, "lstm", 5, 6, dtype=F64, num_layers=2), randn(4, 3, 5)
    found = []
    for run in (module, lambda x: checkpoint(module, x, use_reentrant=False)):
        leaf = x.clone().requires_grad_()
        y = run(leaf)[0]
        found.append(torch.autograd.grad(y, [leaf, *module.parameters()], COTANGENTS[cotangents][0](y)))
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


# ---- Gradients that are no contiguous lines, such as that of a sum ---------------------------------------------------

FLOWS: dict[str, Callable[[Any], Any]] = {
    "one number": lambda y: torch.full((1,), 0.7, dtype=y.dtype).expand(y.shape),
    "one for each step": lambda y: torch.randn(y.shape[0], *[1] * (y.dim() - 1), dtype=y.dtype).expand(y.shape),
    "units apart": lambda y: torch.randn(*y.shape, 2, dtype=y.dtype)[..., 0],
    "units outermost": lambda y: torch.randn(y.shape[-1], *y.shape[:-1], dtype=y.dtype).movedim(0, -1),
}
every_flow = pytest.mark.parametrize("flow", FLOWS)


def refused(*_: Any) -> Any:
    raise AssertionError("the separate ops run")


@pairs
@every_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=["f32", "f64", "bf16"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_layers(kind: str, dtype: Any, flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "_longer_gradients", refused)
    for time, batch, width in ((1, 1, 5), (1, 1, 64), (7, 3, 20)):
        torch.manual_seed(0)
        module = getattr(ours, kind)(6, width, dtype=dtype)
        x = torch.randn(time, batch, 6, dtype=dtype).requires_grad_()
        y, last = module(x)
        outputs = [y, *(last if isinstance(last, tuple) else (last,))]
        flows = [FLOWS[flow](out) for out in outputs]
        leaves = [x, *module.parameters()]
        found = torch.autograd.grad(outputs, leaves, flows, retain_graph=True)
        wanted = torch.autograd.grad(outputs, leaves, [g.clone(memory_format=torch.contiguous_format) for g in flows])
        for g, e in zip(found, wanted, strict=True):
            assert_same_bits(g.float().numpy(), e.float().numpy())


@every_flow
def test_functions(flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "BACKWARD", refused)
    for time, batch, heads, width in ((1, 1, 1, 8), (5, 3, 2, 20)):
        torch.manual_seed(0)
        wx, r = torch.randn(batch, time, 3, heads, width), torch.randn(3, heads, width, width) / width
        b, state = torch.randn(3, heads, width), torch.randn(batch, heads, width)
        leaves = [x.requires_grad_() for x in (wx, r, b, state)]
        h, last = fastiter.torch.gru(wx, r, b, state)
        outputs = [h, *last] if isinstance(last, tuple) else [h, last]
        flows = [FLOWS[flow](out) for out in outputs]
        found = torch.autograd.grad(outputs, leaves, flows, retain_graph=True)
        wanted = torch.autograd.grad(outputs, leaves, [g.contiguous() for g in flows])
        for g, e in zip(found, wanted, strict=True):
            assert_same_bits(g.numpy(), e.numpy())
