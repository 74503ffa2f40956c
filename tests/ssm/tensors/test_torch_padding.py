"""Steps past the lengths of their rows have gradients of exactly zero, whatever they and their cotangents hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import conv1d, logsigmoid, silu, softplus  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter.ssm import reference, reference_conv  # noqa: E402
from fastiter.ssm._torch import attention, causal_conv, functional, low_rank, mlstm  # noqa: E402
from tests.support.memory import fill_new_tensors  # noqa: E402

ssm = fastiter.torch.ssm
LENGTHS = [7, 0, 3]
B, T, N, K, V = len(LENGTHS), 7, 1, 3, 2
D = 2  # channels
Given = dict[str, Any]


# ---- each recurrence as a loop over the valid steps of one row ------------------------------------------------------


def scan_row(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, delta_bias: Any, state: Any) -> Any:
    every, outputs = state[0], []
    for t in range(u.shape[1]):
        d = softplus(delta[:, t] + delta_bias)
        every = torch.exp(d[:, None] * A) * every + (d * u[:, t])[:, None] * B[:, t]
        y = every @ C[:, t]
        outputs.append(((2 * y.real if A.is_complex() else y) + D * u[:, t]) * silu(z[:, t]))
    return torch.stack(outputs, 1), every


def complex_row(u: Any, delta: Any, A: Any, B: Any, C: Any, *rest: Any) -> Any:
    B, C = (torch.complex(x[:, ::2], x[:, 1::2]) for x in (B, C))
    return scan_row(u, delta, A, B, C, *rest)


def conv_row(x: Any, weight: Any, bias: Any, state: Any) -> Any:
    whole = torch.cat([state[0] if state else x.new_zeros(D, K - 1), x], 1)
    out = silu(conv1d(whole, weight[:, None], bias, groups=D))
    return (out, whole[:, x.shape[1] :]) if state else (out,)


def attention_row(q: Any, k: Any, v: Any, decay: Any, state: Any) -> Any:
    S, outputs = state[0], []
    for t in range(q.shape[0]):
        S = decay[t].exp()[..., None] * S + k[t, :, :, None] * v[t, :, None]
        outputs.append((S * q[t, :, :, None]).sum(1))
    return torch.stack(outputs), S


def low_rank_row(q: Any, k: Any, v: Any, decay: Any, a: Any, b: Any, state: Any) -> Any:
    S, outputs = state[0], []
    for t in range(q.shape[0]):
        read = (S * a[t, :, :, None]).sum(1)
        S = decay[t].exp()[..., None] * S + b[t, :, :, None] * read[:, None] + k[t, :, :, None] * v[t, :, None]
        outputs.append((S * q[t, :, :, None]).sum(1))
    return torch.stack(outputs), S


def mlstm_row(q: Any, k: Any, v: Any, i: Any, f: Any, state: Any) -> Any:
    (C, n, m), outputs = state, []
    for t in range(q.shape[0]):
        kept = logsigmoid(f[t]) + m
        m = torch.maximum(kept, i[t])
        forget, enter = (kept - m).exp(), (i[t] - m).exp()
        C = forget[:, None, None] * C + enter[:, None, None] * k[t, :, :, None] * v[t, :, None]
        n = forget[:, None] * n + enter[:, None] * k[t]
        divisor = torch.maximum((n * q[t]).sum(1).abs(), (-m).exp()) + 1e-6
        outputs.append((C * q[t, :, :, None]).sum(1) / divisor[:, None])
    return torch.stack(outputs), C, n, m


def ssd_row(x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, dt_bias: Any, state: Any) -> Any:
    every, outputs = state[0], []
    for t in range(x.shape[0]):
        d = softplus(dt[t] + dt_bias)
        every = (d * A).exp()[:, None, None] * every + (d[:, None] * x[t])[..., None] * B[t, 0]
        outputs.append((every @ C[t, 0] + D[:, None] * x[t]) * silu(z[t]))
    return torch.stack(outputs), every


class Law(NamedTuple):
    """A function, the same as a loop over one row, the shapes of its arguments, and the time axis of the signals.

    Signals and states have B rows; the other arguments are the same for all rows.
    """

    run: Callable[..., Any]
    loop: Callable[..., Any]
    signals: dict[str, tuple[int, ...]]
    weights: dict[str, tuple[int, ...]]
    states: tuple[tuple[int, ...], ...]
    time: int


def _heads(*names: str) -> dict[str, tuple[int, ...]]:
    widths = {"v": (V,), "x": (V,), "z": (V,), "i": (), "f": (), "dt": ()}
    return {name: (B, T, N, *widths.get(name, (K,))) for name in names}


def _run_numbered(state: Any, **given: Any) -> Any:
    past = np.arange(T) >= np.array(LENGTHS)[:, None]
    return (ssm.causal_conv1d(**given, seq_idx=torch.from_numpy(np.where(past, -1, 0)), activation="silu"),)


def _run_ssm(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    def run(state: Any, **given: Any) -> Any:
        first = state if function is ssm.mlstm else state[0]
        found = function(**given, state=first, **options, lengths=LENGTHS)
        return (found[0], *found[1]) if function is ssm.mlstm else found

    return run


CONV: Any = (conv_row, {"x": (B, D, T)}, {"weight": (D, K), "bias": (D,)})
CHANNELS: dict[str, tuple[int, ...]] = dict.fromkeys(("u", "delta", "z"), (B, D, T))
SCAN = _run_ssm(ssm.selective_scan, delta_softplus=True, return_last_state=True)
RATES = {"A": (D, K), "D": (D,), "delta_bias": (D,)}
LAWS = {
    "selective_scan": Law(SCAN, scan_row, CHANNELS | dict.fromkeys("BC", (B, K, T)), RATES, ((B, D, K),), 2),
    "complex scan": Law(SCAN, complex_row, CHANNELS | dict.fromkeys("BC", (B, K, 2 * T)), RATES, ((B, D, K),), 2),
    "causal_conv1d": Law(
        _run_ssm(ssm.causal_conv1d, activation="silu", return_last_state=True), *CONV, ((B, D, K - 1),), 2
    ),
    "numbered conv": Law(_run_numbered, *CONV, (), 2),
    "linear_attention": Law(
        _run_ssm(ssm.linear_attention), attention_row, _heads("q", "k", "v", "log_decay"), {}, ((B, N, K, V),), 1
    ),
    "dplr_delta_rule": Law(
        _run_ssm(ssm.dplr_delta_rule, scale=1.0),
        low_rank_row,
        _heads("q", "k", "v", "log_decay", "a", "b"),
        {},
        ((B, N, K, V),),
        1,
    ),
    "mlstm": Law(
        _run_ssm(ssm.mlstm, scale=1.0),
        mlstm_row,
        _heads("q", "k", "v", "i", "f"),
        {},
        ((B, N, K, V), (B, N, K), (B, N)),
        1,
    ),
    "ssd": Law(
        _run_ssm(ssm.ssd, dt_softplus=True),
        ssd_row,
        {**_heads("x", "dt", "z"), "B": (B, T, 1, K), "C": (B, T, 1, K)},
        {"A": (N,), "D": (N,), "dt_bias": (N,)},
        ((B, N, V, K),),
        1,
    ),
}
ORDERS = {"z": 7, "delta_bias": 8, "dt_bias": 8, "D": 6}  # positions of the optional arguments in the loops


def _inputs(name: str) -> tuple[Given, list[Any]]:
    """Random arguments in float64, and the initial states."""
    law, rng = LAWS[name], np.random.default_rng(0)
    given = {n: torch.from_numpy(rng.standard_normal(shape)) for n, shape in (law.signals | law.weights).items()}
    states = [torch.from_numpy(rng.standard_normal(shape)) for shape in law.states]
    for n in ("A", "log_decay"):
        if n in given:
            given[n] = -given[n].abs()
    if name == "complex scan":
        given["A"] = torch.complex(given["A"], given["D"][:, None].expand_as(given["A"]).clone())
        states = [torch.complex(states[0], states[0].flip(0))]
    for x in (*given.values(), *states):
        x.requires_grad_()
    return given, states


def _past(x: Any, axis: int) -> Any:
    """Whether each number of a signal is past the length of its row."""
    steps = torch.arange(x.shape[axis]) >= torch.tensor(LENGTHS)[:, None] * (x.shape[axis] // T)
    shape = [1] * x.dim()
    shape[0], shape[axis] = B, x.shape[axis]
    return steps.reshape(shape).expand_as(x)


def _spoiled(law: Law, given: Given) -> Given:
    """Leaves with NaN past the lengths."""
    found = {}
    for n, x in given.items():
        y = x.detach()
        found[n] = (y.masked_fill(_past(y, law.time), torch.nan) if n in law.signals else y.clone()).requires_grad_()
    return found


def _exact(law: Law, given: Given, states: list[Any], cotangents: list[Any]) -> list[Any]:
    """The gradients of the loops over the valid steps alone."""
    order = sorted(given, key=lambda n: ORDERS.get(n, list(given).index(n) if n != "A" else 1.5))
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        if not length:
            for w, y in zip(cotangents[1:], states, strict=True):
                total = total + (w[row].conj() * y[row]).real.sum()
            continue
        axis = law.time - 1
        cut = [
            given[n][row].narrow(axis, 0, length * (given[n].shape[law.time] // T)) if n in law.signals else given[n]
            for n in order
        ]
        out, *last = law.loop(*cut, [s[row] for s in states])
        total = total + (cotangents[0][row].narrow(axis, 0, length) * out).sum()
        for w, y in zip(cotangents[1:], last, strict=True):
            total = total + (w[row].conj() * y).real.sum()
    return list(torch.autograd.grad(total, [*given.values(), *states]))


def _check(law: Law, names: list[str], found: list[Any], exact: list[Any]) -> None:
    for n, x, e in zip(names, found, exact, strict=True):
        if n in law.signals:
            past = _past(x, law.time)
            assert not x[past].any(), f"{n} past the lengths"  # NaN is not zero either
        torch.testing.assert_close(x, e, rtol=1e-9, atol=1e-9, msg=lambda m, n=n: f"{n}: {m}")


def _cotangents(outputs: Any) -> list[Any]:
    rng = np.random.default_rng(1)
    return [torch.from_numpy(rng.standard_normal(y.shape)).to(y.dtype) for y in outputs]


CALLS = [(name, kernels) for name in LAWS for kernels in ("cpu", "triton") if "complex" not in name or kernels == "cpu"]


@pytest.mark.parametrize(("name", "kernels"), CALLS)
def test_gradients_of_kernels(name: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    law, (given, states) = LAWS[name], _inputs(name)
    if kernels == "triton":
        _route_to_triton(monkeypatch)
    spoiled = _spoiled(law, given)
    outputs = law.run(state=states, **spoiled)
    cotangents = _cotangents(outputs)
    exact = _exact(law, given, states, cotangents)
    past = _past(outputs[0], law.time)
    assert not outputs[0][past].any()
    cotangents[0].masked_fill_(past, torch.nan)
    found = torch.autograd.grad(outputs, [*spoiled.values(), *states], cotangents)
    _check(law, [*given, *["state"] * len(states)], list(found), exact)


@pytest.mark.parametrize("name", ["selective_scan", "complex scan", "causal_conv1d"])
def test_gradients_of_references(name: str) -> None:
    law, (given, states) = LAWS[name], _inputs(name)
    outputs = law.run(state=states, **given)
    cotangents = _cotangents(outputs)
    exact = _exact(law, given, states, cotangents)
    cotangents[0].masked_fill_(_past(cotangents[0], law.time), torch.nan)
    arrays = {n: x.detach().numpy() for n, x in _spoiled(law, given).items()}
    dout, dlast = (w.numpy() for w in cotangents)
    how: dict[str, Any] = {"cut": reference.Cut(lengths=np.array(LENGTHS)), "dout": dout, "dlast": dlast}
    first = states[0].detach().numpy()
    if name == "causal_conv1d":
        gradients: Any = reference_conv.backward(**arrays, state=first, activation=True, **how)
    else:
        for n in "BC":
            x = arrays[n]
            arrays[n] = (reference.paired(x) if name == "complex scan" else x)[:, None]
        gradients = reference.backward(**arrays, delta_softplus=True, state=first, **how)
    found = [torch.from_numpy(np.array(getattr(gradients, n))) for n in given]
    for n, x in enumerate(found):
        if x.dim() == 4:  # for B and C, which have a group axis
            x = x[:, 0]
            found[n] = torch.view_as_real(x.resolve_conj()).flatten(-2) if x.is_complex() else x
    found.append(torch.from_numpy(gradients[-1]))
    _check(law, [*given, "state"], found, exact)


def _route_to_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Route CPU tensors to Triton's kernels, interpreted."""
    pytest.importorskip("triton")
    from fastiter.ssm._torch._gpu import triton_attention, triton_conv, triton_low_rank, triton_mlstm, triton_selective

    routes = (
        (functional.selective, triton_selective),
        (causal_conv.conv, triton_conv),
        (attention.attention, triton_attention),
        (low_rank.low_rank, triton_low_rank),
        (mlstm.mlstm_op, triton_mlstm),
    )
    for function, triton in routes:
        monkeypatch.setattr(function, "forward", triton.forward)
        monkeypatch.setattr(function, "backward", triton.backward)
    fill_new_tensors(monkeypatch)
