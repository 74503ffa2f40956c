"""The step `families`: chunked and selective recurrences, convolutions and formats against the packages for them.

A package that is missing, cannot be imported or fails is noted in the record, and the others are measured. In a dry run
our kernels are interpreted, and no other package runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastiter.torch
from bench import cuda
from bench.card.calls import heads_of
from bench.card.device import Place, error
from bench.card.worker import Item, is_alive
from bench.harness.record import Record
from fastiter.torch import ssm

Function = Callable[..., Any]
Shapes = tuple[tuple[int, ...], ...]


class Peer(NamedTuple):
    """A function of a package, and how it is called with the tensors of a contest."""

    package: str
    module: str
    function: str
    call: Callable[..., Tensor]


class Contest(NamedTuple):
    """Our function, its peers, what prepares the arguments from normal numbers, and the shapes of these."""

    name: str
    ours: Function
    peers: tuple[Peer, ...]
    prepare: Callable[..., list[Tensor]]
    small: Shapes
    large: Shapes
    dtype: torch.dtype = torch.bfloat16
    has_gradients: bool = True


def measured(place: Place, contest: Contest) -> Iterator[Record]:
    """Yield the times of ours, and after each peer its own, and by how much its result differs from ours."""
    generator = torch.Generator(place.device).manual_seed(0)
    shapes = contest.small if place.dry else contest.large
    normal = [torch.randn(shape, generator=generator, device=place.device) for shape in shapes]
    dtype = torch.float32 if place.dry else contest.dtype
    inputs = [x.detach().to(dtype) for x in contest.prepare(*normal)]
    record: Record = {"shape": list(inputs[0].shape), "ms": {}, "differs": {}, "left_out": {}}
    record["ms"]["fastiter"] = times(place, contest, contest.ours, inputs)
    yield record
    if dtype != torch.float32:
        record["ms"]["fastiter, float32"] = times(place, contest, contest.ours, [x.float() for x in inputs])
        yield record
    expected = first(place.run(partial(cuda.without_gradients, contest.ours, tuple(inputs))))
    for peer in contest.peers:
        try:
            call = partial(peer.call, getattr(importlib.import_module(peer.module), peer.function))
            result = first(cuda.without_gradients(call, tuple(inputs)))
            record["differs"][peer.package] = error(result, expected.cpu())
            record["ms"][peer.package] = times(place, contest, call, inputs)
        except Exception as why:
            if not is_alive():
                raise
            record["left_out"][peer.package] = f"{type(why).__name__}: {why}"[:300]
        yield record


def times(place: Place, contest: Contest, call: Function, inputs: list[Tensor]) -> dict[str, float]:
    found = {"forward": place.milliseconds(partial(cuda.without_gradients, call, tuple(inputs)))}
    if contest.has_gradients:
        leaves = [x.detach().requires_grad_() for x in inputs]
        found["forward+backward"] = place.milliseconds(partial(gradients, call, leaves))
    return found


def first(result: Any) -> Tensor:
    """Return the only result, or the first of several."""
    found: Tensor = result if isinstance(result, Tensor) else result[0]
    return found


def gradients(call: Function, leaves: list[Tensor]) -> object:
    return torch.autograd.grad(first(call(*leaves)).float().sum(), leaves)


# ---- preparation of arguments ----------------------------------------------------------------------------------------


def decayed(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> list[Tensor]:
    return [q, k, v, torch.nn.functional.logsigmoid(decay)]


def ruled(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *decay: Tensor) -> list[Tensor]:
    """Arguments of delta rules, whose keys have norm 1; a logarithm of the decay is last."""
    unit = [torch.nn.functional.normalize(x, dim=-1) for x in (q, k)]
    return [*unit, v, beta.sigmoid(), *(torch.nn.functional.logsigmoid(x + 4) for x in decay)]


def selected(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> list[Tensor]:
    return [u, delta.sigmoid(), -A.exp(), B, C]


def as_given(*tensors: Tensor) -> list[Tensor]:
    return list(tensors)


def gated(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor) -> Any:
    return fastiter.torch.delta_scan(q, k, v, beta, decay=log_decay.exp())


def kimi(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor) -> Any:
    return importlib.import_module("fastiter.torch.compat.fla").chunk_kda(q, k, v, log_decay, beta, scale=1.0)


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
    return ssm.causal_conv1d(x, weight, bias, activation="silu")


def by_heads(function: Function, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """Return the result of a function whose tensors have the heads before the steps."""
    turned = [x.transpose(1, 2).contiguous() for x in (q, k, v, i, f)]
    return first(function(*turned)).transpose(1, 2)


def microscaled(kind: Any, x: Tensor) -> Tensor:
    found: Tensor = kind.to_mx(x, torch.float8_e4m3fn, block_size=32).dequantize(x.dtype)
    return found


def fla(module: str, function: str, call: Callable[..., Tensor]) -> Peer:
    return Peer("flash-linear-attention", f"fla.ops.{module}", function, call)


HEADS, SMALL = (8, 2048, 16, 128, 3), (1, 5, 1, 16, 3)
CHANNELS = ((8, 1536, 2048), (8, 1536, 2048), (1536, 16), (8, 16, 2048), (8, 16, 2048))
FEW_CHANNELS = ((1, 8, 5), (1, 8, 5), (8, 4), (1, 4, 5), (1, 4, 5))
GROUPS = ((8, 2048, 16, 128), (8, 2048, 16), (16,), *((8, 2048, 1, 128),) * 2)
FEW_GROUPS = ((1, 5, 2, 16), (1, 5, 2), (2,), *((1, 5, 1, 16),) * 2)

CONTESTS = (
    Contest(
        "linear attention, a decay a head",
        ssm.linear_attention,
        (fla("simple_gla", "chunk_simple_gla", lambda f, q, k, v, g: f(q, k, v, g, scale=1.0)[0]),),
        decayed,
        heads_of(*SMALL, 1),
        heads_of(*HEADS, 1),
    ),
    Contest(
        "gated delta rule",
        gated,
        (
            fla(
                "gated_delta_rule",
                "chunk_gated_delta_rule",
                lambda f, q, k, v, beta, g: f(q, k, v, g, beta, scale=1.0)[0],
            ),
        ),
        ruled,
        heads_of(*SMALL, 2),
        heads_of(*HEADS, 2),
    ),
    Contest(
        "selective scan",
        ssm.selective_scan,
        (Peer("mamba_ssm", "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn", lambda f, *x: f(*x)),),
        selected,
        FEW_CHANNELS,
        CHANNELS,
        torch.float32,
    ),
    Contest(
        "ssd",
        ssm.ssd,
        (
            Peer(
                "mamba_ssm",
                "mamba_ssm.ops.triton.ssd_combined",
                "mamba_chunk_scan_combined",
                lambda f, *x: f(*x, chunk_size=256),
            ),
        ),
        selected,
        FEW_GROUPS,
        GROUPS,
    ),
    Contest(
        "linear attention, a decay a key",
        ssm.linear_attention,
        (fla("gla", "chunk_gla", lambda f, q, k, v, g: f(q, k, v, g, scale=1.0)[0]),),
        decayed,
        ((1, 5, 1, 16),) * 4,
        ((8, 2048, 16, 128),) * 4,
    ),
    Contest(
        "Kimi's delta rule",
        kimi,
        (fla("kda", "chunk_kda", lambda f, q, k, v, beta, g: f(q, k, v, g, beta, scale=1.0)[0]),),
        lambda q, k, v, beta, decay: ruled(q, k, v, beta[..., 0], decay),
        ((1, 5, 1, 16),) * 5,
        ((8, 2048, 16, 128),) * 5,
    ),
    Contest(
        "mLSTM",
        ssm.mlstm,
        (Peer("xlstm", "mlstm_kernels.torch.chunkwise", "mlstm_chunkwise__xl_chunk", by_heads),),
        as_given,
        heads_of(*SMALL, 2),
        heads_of(*HEADS, 2),
    ),
    Contest(
        "causal convolution",
        convolved,
        (Peer("causal-conv1d", "causal_conv1d", "causal_conv1d_fn", lambda f, *x: f(*x, activation="silu")),),
        as_given,
        ((1, 8, 5), (8, 4), (8,)),
        ((8, 1536, 2048), (1536, 4), (1536,)),
    ),
    Contest(
        "delta rule",
        fastiter.torch.delta_scan,
        (fla("delta_rule", "chunk_delta_rule", lambda f, q, k, v, beta: f(q, k, v, beta, scale=1.0)[0]),),
        ruled,
        heads_of(*SMALL, 1),
        heads_of(*HEADS, 1),
    ),
    Contest(
        "mxfp8",
        partial(fastiter.torch.quant.quantize, fmt="mxfp8_e4m3"),
        (Peer("torchao", "torchao.prototype.mx_formats.mx_tensor", "MXTensor", microscaled),),
        as_given,
        ((8, 64),),
        ((8192, 8192),),
        torch.bfloat16,
        False,
    ),
)


def items(dry: bool) -> list[Item]:
    place = Place(dry)
    chosen = [each._replace(peers=()) for each in CONTESTS[:1]] if dry else CONTESTS
    # Triton's autotuner compiles and times some ten variants of each of the packages' kernels.
    return [Item(each.name, partial(measured, place, each), 18, 60) for each in chosen]
