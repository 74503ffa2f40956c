"""The tasks and peers of matrix memories: linear attention, the delta rule with any decay, mLSTM and Mamba-2's scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from bench.harness.contest import Absent, Entrant, Work, leaves, torch_entrant
from bench.harness.peers import absent, load
from bench.ssm.cases import Inference
from fastiter.torch import compat, ssm

Shape = tuple[int, int, int, int, int]  # (B, T, H, K, V)
FULL: tuple[Shape, ...] = ((1, 2048, 8, 64, 64), (1, 2048, 4, 128, 128))
QUICK: tuple[Shape, ...] = ((1, 128, 2, 16, 16),)
NAIVE, NATIVE, CHUNKS = "fla naive", "mlstm_kernels native", "chunks of the models"
Function = Callable[..., Tensor]


class Form(NamedTuple):
    """A recurrence: our function, its inputs, peers by (name, variant), and the trusted loop of the gate."""

    ours: Function
    inputs: Callable[[Shape], dict[str, Tensor]]
    loop: Function
    peers: Callable[[], Mapping[tuple[str, str], Function | None]]


def signals(shape: Shape) -> dict[str, Tensor]:
    torch.manual_seed(0)
    B, T, H, K, V = shape
    return {"q": torch.randn(B, T, H, K), "k": torch.randn(B, T, H, K) / K**0.5, "v": torch.randn(B, T, H, V)}


def decayed(shape: Shape, *, of_keys: bool, gentle: float = 16.0) -> dict[str, Tensor]:
    """Logarithms of decays near 1, as in models."""
    tensors = signals(shape)
    B, T, H, K, _ = shape
    return {**tensors, "g": logsigmoid(torch.randn((B, T, H, K) if of_keys else (B, T, H))) / gentle}


def delta_inputs(shape: Shape, *, of_keys: bool) -> dict[str, Tensor]:
    tensors = decayed(shape, of_keys=of_keys)
    return {**tensors, "k": normalize(tensors["k"], dim=-1), "beta": torch.rand(shape[:3])}


def rwkv6_inputs(shape: Shape) -> dict[str, Tensor]:
    return {**decayed(shape, of_keys=True), "u": torch.randn(shape[2], shape[3])}


def rwkv7_inputs(shape: Shape) -> dict[str, Tensor]:
    """a and b as in the model: the negated normalised keys, and the normalised keys times gates in [0, 1)."""
    tensors = decayed(shape, of_keys=True)
    g, direction = tensors.pop("g"), normalize(tensors["k"], dim=-1)
    return {**tensors, "a": -direction, "b": direction * torch.rand(direction.shape), "g": g}


def mlstm_inputs(shape: Shape) -> dict[str, Tensor]:
    tensors = signals(shape)
    return {**tensors, "i": torch.randn(shape[:3]), "f": torch.randn(shape[:3]) + 3}


def ssd_inputs(shape: Shape) -> dict[str, Tensor]:
    """Mamba-2's arguments: K states, shared by all heads, and V channels per head."""
    torch.manual_seed(0)
    batch, T, H, K, V = shape
    B, C = torch.randn(2, batch, T, 1, K).unbind()
    return {"x": torch.randn(batch, T, H, V), "dt": torch.rand(batch, T, H), "A": -torch.rand(H), "B": B, "C": C}


# ---- Loops over the steps -------------------------------------------------------------------------------------------


def attention_loop(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """S = e^g S + k v^T, o = S^T q / sqrt(K)."""
    decays = g.exp()[..., None] if g.dim() == 4 else g.exp()[..., None, None]
    S = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1])
    outputs = []
    for qt, kt, vt, dt in zip(q.unbind(1), k.unbind(1), v.unbind(1), decays.unbind(1), strict=True):
        S = dt * S + kt[..., None] * vt[..., None, :]
        outputs.append((qt[..., None, :] @ S)[..., 0, :])
    return q.shape[-1] ** -0.5 * torch.stack(outputs, 1)


def delta_loop(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """R = e^g S, S = R + beta k (v - R^T k)^T, o = S^T q / sqrt(K)."""
    decays = g.exp()[..., None] if g.dim() == 4 else g.exp()[..., None, None]
    S = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1])
    outputs = []
    steps = zip(*(x.unbind(1) for x in (q, k, v, decays, beta)), strict=True)
    for qt, kt, vt, dt, bt in steps:
        S = dt * S
        error = bt[..., None] * (vt - (kt[..., None, :] @ S)[..., 0, :])
        S = S + kt[..., None] * error[..., None, :]
        outputs.append((qt[..., None, :] @ S)[..., 0, :])
    return q.shape[-1] ** -0.5 * torch.stack(outputs, 1)


def rwkv6_loop(q: Tensor, k: Tensor, v: Tensor, g: Tensor, u: Tensor) -> Tensor:
    """o = (S + diag(u) k v^T)^T q / sqrt(K), then S = e^g S + k v^T."""
    S = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1])
    outputs = []
    for qt, kt, vt, dt in zip(q.unbind(1), k.unbind(1), v.unbind(1), g.exp().unbind(1), strict=True):
        written = kt[..., None] * vt[..., None, :]
        outputs.append((qt[..., None, :] @ (S + u[..., None] * written))[..., 0, :])
        S = dt[..., None] * S + written
    return q.shape[-1] ** -0.5 * torch.stack(outputs, 1)


def rwkv7_loop(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """S = e^g S + b (S^T a)^T + k v^T, o = S^T q / sqrt(K)."""
    S = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1])
    outputs = []
    for qt, kt, vt, at, bt, dt in zip(*(x.unbind(1) for x in (q, k, v, a, b, g.exp())), strict=True):
        read = at[..., None, :] @ S
        S = dt[..., None] * S + bt[..., None] * read + kt[..., None] * vt[..., None, :]
        outputs.append((qt[..., None, :] @ S)[..., 0, :])
    return q.shape[-1] ** -0.5 * torch.stack(outputs, 1)


def mlstm_loop(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """C = F C + I k v^T, n = F n + I k, h = C^T q / max(|n q|, e^-m) with q / sqrt(K)."""
    q = q * q.shape[-1] ** -0.5
    C = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1])
    n, m = q.new_zeros(*q.shape[:1], *q.shape[2:]), q.new_zeros(*q.shape[:1], q.shape[2])
    outputs = []
    steps = zip(*(x.unbind(1) for x in (q, k, v, i, logsigmoid(f))), strict=True)
    for qt, kt, vt, it, lf in steps:
        before, m = m, torch.maximum(lf + m, it)
        forget, enter = torch.exp(lf + before - m), torch.exp(it - m)
        C = forget[..., None, None] * C + (enter[..., None] * kt)[..., None] * vt[..., None, :]
        n = forget[..., None] * n + enter[..., None] * kt
        divisor = torch.maximum((n * qt).sum(-1).abs(), torch.exp(-m)) + 1e-6
        outputs.append((qt[..., None, :] @ C)[..., 0, :] / divisor[..., None])
    return torch.stack(outputs, 1)


def ssd_loop(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """S = e^(d A) S + d x B^T, y = S C."""
    heads = x.shape[2]
    q, k = (y.expand(-1, -1, heads, -1) for y in (C, B))
    return attention_loop(q * q.shape[-1] ** 0.5, k, x * dt[..., None], dt * A)


def ssd_chunks(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int = 256) -> Tensor:
    """The same in chunks, as in the models: masked products of C B^T within chunks, and states between them."""
    time, heads = x.shape[1:3]
    missing = -time % chunk
    pad = torch.nn.functional.pad
    x, dt = pad(x * dt[..., None], (0, 0, 0, 0, 0, missing)), pad(dt * A, (0, 0, 0, missing))
    B, C = (pad(y, (0, 0, 0, 0, 0, missing)).expand(-1, -1, heads, -1) for y in (B, C))
    x, B, C = (y.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4) for y in (x, B, C))  # (B, H, chunks, C, .)
    total = dt.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2).cumsum(-1)
    mask = torch.ones(chunk, chunk, dtype=torch.bool).tril()
    within = (total[..., :, None] - total[..., None, :]).masked_fill(~mask, -torch.inf).exp()
    y = (within * (C @ B.transpose(-1, -2))) @ x
    states = ((total[..., -1:] - total).exp()[..., None] * B).transpose(-1, -2) @ x
    S, before = torch.zeros_like(states[:, :, 0]), []
    for n in range(states.shape[2]):
        before.append(S)
        S = total[:, :, n, -1].exp()[..., None, None] * S + states[:, :, n]
    y = y + total.exp()[..., None] * (C @ torch.stack(before, 2))
    return y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :time]


# ---- Forms ----------------------------------------------------------------------------------------------------------


def first(function: Callable[..., Any]) -> Function:
    """Return the function reduced to its first result."""

    def only(*inputs: Tensor) -> Tensor:
        result = function(*inputs)
        out: Tensor = result[0] if isinstance(result, tuple) else result
        return out

    return only


def heads_first(function: Callable[..., Any]) -> Function:
    """Wrap a function of (B, H, T, .) as one of (B, T, H, .)."""

    def call(*inputs: Tensor) -> Tensor:
        result = function(*(x.transpose(1, 2).contiguous() if x.dim() > 2 else x for x in inputs))
        out: Tensor = result[0] if isinstance(result, tuple) else result
        return out.transpose(1, 2)

    return call


def of_fla(*names: tuple[str, str]) -> Callable[[], dict[tuple[str, str], Function | None]]:
    """Functions of fla.ops by module and name."""

    def find() -> dict[tuple[str, str], Function | None]:
        if load("fla.ops") is None:
            return {(NAIVE, ""): None}
        functions = {name: first(getattr(import_module(f"fla.ops.{module}"), name)) for module, name in names}
        return {(NAIVE, name): function for name, function in functions.items()}

    return find


def beta_before_gate(function: Function) -> Function:
    return lambda q, k, v, g, beta: function(q, k, v, beta, g)


def of_delta() -> dict[tuple[str, str], Function | None]:
    functions = of_fla(
        ("gated_delta_rule.naive", "naive_recurrent_gated_delta_rule"),
        ("gated_delta_rule.naive", "naive_chunk_gated_delta_rule"),
    )()
    # The stepwise function takes beta before the decay, the chunked one after it.
    return {
        (name, variant): function if function is None or "chunk" in variant else beta_before_gate(function)
        for (name, variant), function in functions.items()
    }


def of_heads_first(*names: tuple[str, str]) -> Callable[[], dict[tuple[str, str], Function | None]]:
    """The same for functions with heads before time."""

    def find() -> dict[tuple[str, str], Function | None]:
        if load("fla.ops") is None:
            return {(NAIVE, ""): None}
        functions = {name: getattr(import_module(f"fla.ops.{module}"), name) for module, name in names}
        return {(NAIVE, name): heads_first(function) for name, function in functions.items()}

    return find


def of_mlstm() -> dict[tuple[str, str], Function | None]:
    if load("mlstm_kernels.torch.chunkwise") is None:
        return {(NATIVE, ""): None}
    registry = import_module("mlstm_kernels.torch.chunkwise").registry

    return {(NATIVE, name): heads_first(registry[name]) for name in ("native_autograd", "native_custbw")}


FORMS: dict[str, Form] = {
    "simple GLA": Form(
        first(compat.fla.chunk_simple_gla),
        lambda shape: decayed(shape, of_keys=False),
        attention_loop,
        of_fla(
            ("simple_gla.naive", "naive_recurrent_simple_gla"),
            ("simple_gla.naive", "naive_chunk_simple_gla"),
        ),
    ),
    "GLA": Form(
        first(compat.fla.chunk_gla),
        lambda shape: decayed(shape, of_keys=True),
        attention_loop,
        of_fla(("gla.naive", "naive_recurrent_gla")),
    ),
    "RWKV-6": Form(
        first(compat.fla.chunk_rwkv6),
        rwkv6_inputs,
        rwkv6_loop,
        of_heads_first(("rwkv6.recurrent_naive", "naive_recurrent_rwkv6")),
    ),
    "RWKV-7": Form(
        first(compat.fla.chunk_dplr_delta_rule),
        rwkv7_inputs,
        rwkv7_loop,
        of_heads_first(("generalized_delta_rule.dplr.naive", "dplr_recurrence")),
    ),
    "gated delta rule": Form(
        first(compat.fla.chunk_gated_delta_rule),
        lambda shape: delta_inputs(shape, of_keys=False),
        delta_loop,
        of_delta,
    ),
    "KDA": Form(
        first(compat.fla.chunk_kda),
        lambda shape: delta_inputs(shape, of_keys=True),
        delta_loop,
        of_fla(("kda.naive", "naive_recurrent_kda"), ("kda.naive", "naive_chunk_kda")),
    ),
    "mLSTM": Form(first(ssm.mlstm), mlstm_inputs, mlstm_loop, of_mlstm),
    "SSD": Form(first(ssm.ssd), ssd_inputs, ssd_loop, lambda: {(CHUNKS, ""): ssd_chunks}),
}


def inference(name: str, shape: Shape) -> Inference:
    form = FORMS[name]
    return Inference(f"{name} {shape}", form.ours, form.loop, tuple(form.inputs(shape).values()), shape[1])


def gradients(name: str, shape: Shape) -> Work:
    form = FORMS[name]
    cotangent = torch.randn(*shape[:3], shape[4])
    return Work(f"{name} {shape}", form.ours, form.loop, leaves(**form.inputs(shape)), cotangent, shape[1])


def entrants(name: str, make: Callable[[str, Function, str], Entrant]) -> Iterator[Entrant | Absent]:
    for (peer, variant), function in FORMS[name].peers().items():
        yield absent(peer, peer.partition(" ")[0]) if function is None else make(peer, function, variant)


def inference_entrants(name: str, task: Inference) -> list[Entrant | Absent]:
    def make(peer: str, function: Function, variant: str) -> Entrant:
        def call() -> Tensor:
            return function(*task.inputs)

        return Entrant(peer, call, lambda: {"out": call()}, variant)

    return list(entrants(name, make))


def gradient_entrants(name: str, work: Work) -> list[Entrant | Absent]:
    return list(entrants(name, lambda peer, function, variant: torch_entrant(peer, function, work, variant)))


def operations(name: str, shape: Shape) -> float:
    """Two multiply-adds per element of the state and step, three with a correction: the minimum of any algorithm."""
    B, T, H, K, V = shape
    return 2.0 * B * T * H * K * V * (3 if name in ("RWKV-7", "gated delta rule", "KDA") else 2)
