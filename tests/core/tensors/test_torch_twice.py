"""Second derivatives of the recurrences, against loops of torch operations, which autograd differentiates."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.delta.calls import delta_inputs  # noqa: E402
from tests.delta.torch_calls import leaves as delta_leaves  # noqa: E402
from tests.delta.torch_calls import run as run_delta  # noqa: E402
from tests.rnn.calls import every_cell, options  # noqa: E402
from tests.rnn.nn.cases_nn import (  # noqa: E402
    KINDS,
    LAYOUTS,
    SLSTMLoop,
    kinds,
    make,
    make_input,
    make_states,
    no_onednn_projection,
    pair,
    randn,
)
from tests.rnn.torch_calls import Leaves, leaves, loop, run  # noqa: E402
from tests.support.cases import STATES, rnn_inputs  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

F64 = torch.float64
B, T, N, D = 3, 4, 2, 3
RESET = np.random.default_rng(1).random((B, T)) < 0.4
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reverse": {"reverse": True},
    "lengths": {"lengths": [2, 4, 0]},
    "lengths, reverse": {"lengths": [1, 3, 4], "reverse": True},
    "reset": {"reset": RESET},
    "clip_state": {"clip_state": 0.3, "lengths": [4, 3, 2]},
    "clip_grad": {"clip_grad": 0.2},
    "no gradient through h": {"clip_grad": 0.0, "reverse": True},
}


def draw(like: Any, seed: int) -> Any:
    return randn(*like.shape, dtype=like.dtype, seed=seed)


def second(outputs: Any, inputs: Any, seed: int = 0) -> list[Any]:
    """Gradients in inputs and cotangents of a random linear functional of the gradients of another one."""
    cotangents = [draw(y, seed + i).requires_grad_() for i, y in enumerate(outputs)]
    first = torch.autograd.grad(outputs, inputs, cotangents, create_graph=True)
    functional = sum((g * draw(g, 100 + seed + i)).sum() for i, g in enumerate(first))
    found = torch.autograd.grad(functional, [*inputs, *cotangents], allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, [*inputs, *cotangents], strict=True)]


def assert_close(actual: Any, expected: Any) -> None:
    """Assert equality within the rounding of sums of some hundred products of order-1 derivatives."""
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, float(e.detach().abs().max())) if e.numel() else 1.0
        torch.testing.assert_close(a, e, rtol=0, atol=1e4 * torch.finfo(e.dtype).eps * scale)


# --- the functions ---------------------------------------------------------------------------------------------------


def with_tensors(how: dict[str, Any]) -> dict[str, Any]:
    return how | {"reset": torch.from_numpy(how["reset"])} if "reset" in how else how


@pairs
@pytest.mark.parametrize("checkpoint", [None, 3])
@pytest.mark.parametrize("how", OPTIONS.values(), ids=OPTIONS)
@every_cell
def test_cells_are_those_of_a_loop(cell: str, activation: str, how: dict[str, Any], checkpoint: int | None) -> None:
    given = leaves(rnn_inputs(cell, B, T, N, D, np.float64))
    h, last, states = run(cell, activation, given, checkpoint=checkpoint, **with_tensors(how))
    actual = second([h, *last, *states[1:]], given.all())
    h, last, states = loop(cell + activation, given, **how)
    assert_close(actual, second([h, *last, *states[1:]], given.all()))


@every_cell
def test_cells_without_bias_and_state(cell: str, activation: str) -> None:
    wx, r, *_ = leaves(rnn_inputs(cell, B, T, N, D, np.float64))
    rest = torch.zeros(r.shape[:3], dtype=F64), tuple(torch.zeros(B, N, D, dtype=F64) for _ in STATES[cell])
    h, last = getattr(fastiter.torch, cell)(wx, r, **options(activation))
    expected = loop(cell + activation, Leaves(wx, r, *rest))
    assert_close(second([h, *last], [wx, r]), second([expected[0], *expected[1]], [wx, r]))


@pytest.mark.parametrize("reverse", [False, True])
@every_cell
def test_sequences_one_after_the_other(cell: str, activation: str, reverse: bool) -> None:
    """Packed sequences equal separate rows; one has no steps."""
    wx, r, b, state = leaves(rnn_inputs(cell, 1, 9, N, D, np.float64))
    first = [draw(s.expand(4, -1, -1), 50 + i).abs().requires_grad_() for i, s in enumerate(state)]
    reset = torch.rand(9, generator=torch.Generator().manual_seed(2)) < 0.4
    how = options(activation, reverse=reverse)
    bounds = [0, 3, 3, 4, 9]
    function = getattr(fastiter.torch, cell)
    h, last = function(wx, r, b, first, cu_seqlens=bounds, reset=reset, **how)
    parts = [
        function(wx[:, i:j], r, b, [s[k : k + 1] for s in first], reset=reset[i:j], **how)
        for k, (i, j) in enumerate(itertools.pairwise(bounds))
    ]
    apart = [torch.cat([p[0] for p in parts], 1), *(torch.cat(s) for s in zip(*(p[1] for p in parts), strict=True))]
    assert_close(second([h, *last], [wx, r, b, *first]), second(apart, [wx, r, b, *first]))


@pytest.mark.parametrize("cell", STATES)
def test_checks_of_torch(cell: str) -> None:
    given = leaves(rnn_inputs(cell, 2, 3, 1, 2, np.float64, seed=3))
    if cell == "slstm":  # away from the kinks, where difference quotients fail
        given = given._replace(state=tuple(s.detach().abs().add(1.5).requires_grad_() for s in given.state))

    def function(wx: Any, r: Any, b: Any, *state: Any) -> Any:
        h, last, states = getattr(fastiter.torch, cell)(wx, r, b, state, return_all_states=True)
        return h, *last, *states[1:]

    assert torch.autograd.gradcheck(function, given.all())
    assert torch.autograd.gradgradcheck(function, given.all())


@pytest.mark.parametrize("function", ["lstm", "slstm", "gru", "elman"])
def test_flashrnn(function: str) -> None:
    gates = {"lstm": (4, 4, 4, 2), "slstm": (4, 4, 4, 4), "gru": (3, 3, 4, 1), "elman": (1, 1, 1, 1)}[function]
    Wx, R, b = randn(2, 3, gates[0], 2, 2), randn(gates[1], 2, 2, 2, seed=1), randn(gates[2], 2, 2, seed=2)
    states = randn(gates[3], 2, 1, 2, 2, seed=3).abs() + 1.5
    given = [x.requires_grad_() for x in (Wx, R, b, states)]
    assert torch.autograd.gradgradcheck(lambda *x: fastiter.torch.flashrnn(*x, function), given, fast_mode=True)


DELTA: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"lengths": [4, 0, 2]},
    "reset": {"reset": RESET},
    "chunks": {"method": "chunk", "chunk": 2},
}


@pytest.mark.parametrize("how", DELTA.values(), ids=DELTA)
@pytest.mark.parametrize(("factors", "gated"), [(None, True), (2, True), (None, False)])
def test_delta_scan(factors: int | None, gated: bool, how: dict[str, Any]) -> None:
    given = delta_leaves(delta_inputs(B, T, 1, 2, 2, M=factors, gated=gated))
    assert torch.autograd.gradgradcheck(lambda *x: run_delta(x, **how), given, fast_mode=True)


def test_delta_scan_of_sequences_one_after_the_other_and_without_a_state() -> None:
    given = delta_leaves(delta_inputs(1, 7, 2, 3, 2, rows=3))
    reset = torch.tensor([False, True, False, False, True, False, False])
    how = {"cu_seqlens": [0, 2, 2, 7], "reset": reset.numpy()}
    assert torch.autograd.gradgradcheck(lambda *x: run_delta(x, **how), given, fast_mode=True)
    some = [given[0], given[2]]  # only of q and v, from only o
    assert torch.autograd.gradgradcheck(
        lambda q, v: run_delta([q, given[1].detach(), v, given[3].detach(), None])[0], some
    )


# --- the modules -----------------------------------------------------------------------------------------------------

MODULES = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True},
    "no bias": {"bias": False, "batch_first": True},
}


def flat(result: Any) -> list[Any]:
    output, last = result
    output = output.data if isinstance(output, torch.nn.utils.rnn.PackedSequence) else output
    return [output, *(last if isinstance(last, tuple) else (last,))]


@pairs
@no_onednn_projection
@pytest.mark.parametrize("layout", ["time", "packed"])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("how", MODULES.values(), ids=MODULES)
@kinds
def test_modules_are_torchs(kind: str, how: dict[str, Any], states: bool, layout: str) -> None:
    found = []
    for module in pair(kind, dtype=F64, **how):
        x = (make_input("time") / 2).requires_grad_()
        hx = [s.requires_grad_() for s in make_states(module, x.shape[1])] if states else []
        wrapped = x.transpose(0, 1) if how.get("batch_first") and layout == "time" else LAYOUTS[layout](x)
        outputs = flat(module(wrapped, *((tuple(hx) if len(hx) > 1 else hx[0],) if hx else ())))
        found.append(second(outputs, [x, *hx, *module.parameters()]))
    assert_close(*found)


def test_slstm_is_a_loop() -> None:
    module = make(ours, "sLSTM", num_layers=2, num_heads=1, dtype=F64)
    other = SLSTMLoop(module)
    x = make_input("time").requires_grad_()
    hx = [s.requires_grad_() for s in make_states(module, x.shape[1])]
    mine = second(flat(module(x, tuple(hx))), [x, *hx, *module.parameters()])
    assert_close(mine, second(flat(other(x, tuple(hx))), [x, *hx, *other.parameters()]))


@pytest.mark.parametrize("kind", ["lstm_proj", "gru", "sLSTM"])
@pytest.mark.parametrize("more", [{"checkpoint": 2}, {"clip_state": 0.3, "clip_grad": 0.5}])
def test_options_of_modules(kind: str, more: dict[str, Any]) -> None:
    """Modules with lengths and resets equal separate rows."""
    module = make(ours, kind, bidirectional=True, dtype=F64, **more)
    x, lengths = make_input("time").requires_grad_(), [6, 2, 4, 1]
    reset = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) < 0.3
    together = flat(module(x, lengths=lengths, reset=reset.t()))
    rows = [flat(module(x[:n, k : k + 1], reset=reset[k : k + 1, :n].t())) for k, n in enumerate(lengths)]
    pad = torch.nn.functional.pad
    apart = [torch.cat([pad(y[0], (0, 0, 0, 0, 0, 6 - len(y[0]))) for y in rows], 1)]
    apart += [torch.cat(s, 1) for s in zip(*(y[1:] for y in rows), strict=True)]
    given = [x, *module.parameters()]
    assert_close(second(together, given), second(apart, given))


def test_a_penalty_on_gradients_trains_as_with_torch() -> None:
    losses = []
    for module in pair("gru", dtype=F64):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(4):
            x = make_input("time").requires_grad_()
            loss = module(x)[0].square().sum()
            (dx,) = torch.autograd.grad(loss, x, create_graph=True)
            (loss + dx.square().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


@kinds
@no_onednn_projection
def test_third_derivatives(kind: str) -> None:
    found = []
    for module in pair(kind, dtype=F64):
        x = make_input("time", steps=3).requires_grad_()
        y = module(x)[0].pow(3).sum()
        for _ in range(2):
            (g,) = torch.autograd.grad(y, x, create_graph=True)
            y = g.pow(2).sum()
        found.append(torch.autograd.grad(y, [x, *module.parameters()], allow_unused=True))
    assert_close(*([g for g in some if g is not None] for some in found))
    assert [g is None for g in found[0]] == [g is None for g in found[1]] or kind == "relu"


def test_inputs_that_depend_on_each_other() -> None:
    """A state is computed from wx, and r from both: each partial derivative is counted once."""
    found = []
    for call in (lambda given: run("gru", "", given), lambda given: loop("gru", given)):
        z = randn(B, T, 3, N, D).requires_grad_()
        r = (z[0, 0, :, :1, :1, None].expand(3, N, D, 1) * randn(3, N, D, D)).tanh()
        h, last, _ = call(Leaves(z * 2, r, r[..., 0], (z[:, 0, 0].sin(),)))
        found.append(second([h, *last], [z]))
    assert_close(*found)


# --- transforms, batches, other requests -----------------------------------------------------------------------------


def transforms() -> dict[str, Callable[[Callable[[Any], Any], Any], Any]]:
    grad, vmap, jacrev = torch.func.grad, torch.func.vmap, torch.func.jacrev

    def penalty(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda x: grad(f)(x).square().sum()

    return {
        "grad of grad": lambda f, x: grad(penalty(f))(x),
        "thrice": lambda f, x: grad(penalty(penalty(f)))(x),
        "jacrev of jacrev": lambda f, x: jacrev(jacrev(f))(x),
        "vmap of grad of grad": lambda f, x: vmap(grad(penalty(f)))(torch.stack([x, x / 2])),
        "hessian": lambda f, x: torch.autograd.functional.hessian(f, x),
        "hessian in batches": lambda f, x: torch.autograd.functional.hessian(f, x, vectorize=True),
        "hvp": lambda f, x: torch.autograd.functional.hvp(f, x, x.cos())[1],
    }


@pytest.mark.parametrize("what", transforms())
@pytest.mark.parametrize("kind", ["lstm", "gru", "relu", "function", "delta"])
def test_transforms(kind: str, what: str) -> None:
    if kind == "delta":
        q, k, v, beta, h0, decay = (x.detach() for x in delta_leaves(delta_inputs(2, 3, 1, 2, 2)))
        x, step = k, lambda x: run_delta([q, x, v, beta, h0, decay], method="sequential")

        def plain(k: Any) -> Any:
            S, o = h0, []
            for t in range(3):
                S = decay[:, t, :, None, None] * S
                e = v[:, t] - (S * k[:, t, ..., None]).sum(-2)
                S = S + k[:, t, ..., None] * (beta[:, t, :, None] * e)[..., None, :]
                o.append((S * q[:, t, ..., None]).sum(-2))
            return torch.stack(o, 1), S

        calls = [step, plain]
    elif kind == "function":
        wx, r, b, state = leaves(rnn_inputs("slstm", 2, 2, 1, 2, np.float64))
        x = wx.detach()
        state = tuple(s.detach() for s in state)
        given = leaves(rnn_inputs("slstm", 2, 2, 1, 2, np.float64))._replace(r=r.detach(), b=b.detach(), state=state)
        calls = [
            lambda x: run("slstm", "", given._replace(wx=x))[0],
            lambda x: loop("slstm", given._replace(wx=x))[0],
        ]
    else:
        x = make_input("time", steps=2, batch=2, features=3)
        calls = [m.requires_grad_(False) for m in pair(kind, 3, 2, dtype=F64)[::-1]]

    def total(call: Any) -> Callable[[Any], Any]:
        def function(x: Any) -> Any:
            made = call(x)
            return (made[0] if isinstance(made, tuple) else made).sin().sum()

        return function

    mine, theirs = map(total, calls)
    found = transforms()[what](mine, x)
    if what.startswith("vmap"):  # torch.nn's own layers do not support it
        expected = torch.stack([transforms()["grad of grad"](theirs, y) for y in (x, x / 2)])
    else:
        expected = transforms()[what](theirs, x)
    assert_close([found], [expected])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it
def test_forward_mode_over_gradients_is_refused() -> None:
    module = make(ours, "gru", dtype=F64)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.hessian(lambda x: module(x)[0].sum())(make_input("time"))


@every_cell
def test_bfloat16(cell: str, activation: str) -> None:
    """As accurate as the formats allow: dwx, h and weights have 8 bits."""
    given = leaves(rnn_inputs(cell, B, T, N, D, np.float32))
    half = Leaves(
        *(x.detach().bfloat16().requires_grad_() for x in given[:3]),
        tuple((x.detach() if i else x.detach().bfloat16()).requires_grad_() for i, x in enumerate(given.state)),
    )
    results = []
    for some in (half, given):
        h, *_ = run(cell, activation, some)
        first = torch.autograd.grad(h.float().square().sum(), some.all(), create_graph=True)
        results.append(torch.autograd.grad(sum(g.float().square().sum() for g in first), some.all()))
    for a, e in zip(*results, strict=True):
        assert a.dtype in (torch.bfloat16, torch.float32)
        assert (a.float() - e).norm() <= 0.05 * e.norm()


def test_saved_tensor_hooks_and_checkpoints() -> None:
    from torch.utils.checkpoint import checkpoint

    module, found = make(ours, "lstm", dtype=F64), []
    for call in (module, lambda x: checkpoint(module, x, use_reentrant=False)):
        x = make_input("time").requires_grad_()
        with torch.autograd.graph.save_on_cpu():
            (dx,) = torch.autograd.grad(call(x)[0].square().sum(), x, create_graph=True)
            found.append(torch.autograd.grad(dx.square().sum(), [x, *module.parameters()]))
    assert_close(*found)


@pytest.mark.parametrize("all_states", [False, True])
@every_cell
def test_the_inputs_of_the_gates_are_not_saved(cell: str, activation: str, all_states: bool) -> None:
    """A second derivative reaches wx without its memory, which a layer may free after the call."""
    given = leaves(rnn_inputs(cell, B, T, N, D, np.float64))
    wx = given.wx * 1
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.data_ptr()) or x, lambda x: x):
        result = getattr(fastiter.torch, cell)(wx, *given[1:], **options(activation, return_all_states=all_states))
    assert wx.data_ptr() not in saved and given.r.data_ptr() in saved
    assert not {y.data_ptr() for y in (result[0], *result[1])} & set(saved)


def test_gradients_are_the_same_bits_with_a_graph() -> None:
    for kind in (*KINDS, "sLSTM"):
        module = make(ours, kind, dtype=F64)
        x = make_input("time").requires_grad_()
        first = [
            torch.autograd.grad(copy.deepcopy(module)(x)[0].sum(), x, create_graph=again)[0] for again in (False, True)
        ]
        assert torch.equal(*first)


@pytest.mark.parametrize("name", ["DeltaNet", "sLSTMBlock"])
def test_layers_on_these_functions(name: str) -> None:
    torch.manual_seed(0)
    layer = ours.DeltaNet(4, 4, dtype=F64) if name == "DeltaNet" else ours.sLSTMBlock(4, dtype=F64)
    x = randn(3, 2, 4).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], x, fast_mode=True)
