"""The steps of part 2: each family against its peers, one record per contest; the contests are in bench/cuda.

In a dry run the contests of bench/cuda use the CPU's own kernels, and the others use interpreted Triton.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastiter.torch
from bench import cuda
from bench.card.device import Place, drawn
from bench.card.flashrnn_build import only_built
from bench.card.worker import Item
from bench.harness.record import Record

#: Head sizes, those with a goal first, so that an exhausted budget leaves out the others
WIDTHS = (64, 768, 128, 256, 192, 16, 32, 384, 512)
TIMES = (8192, 512, 2048)


def sizes(dry: bool) -> cuda.Sizes:
    return cuda.SMALL if dry else replace(cuda.Sizes("cuda"), rounds=5)


def rnn(dry: bool) -> list[Item]:
    its = sizes(dry)
    pairs = [("lstm", its.widths[0])] if dry else [(cell, width) for width in WIDTHS for cell in ("lstm", "slstm")]
    return [Item(f"{cell} {width}", partial(cuda.recurrent, its, cell, width, only_built)) for cell, width in pairs]


def memory(dry: bool) -> list[Item]:
    its = sizes(dry)

    def measured(name: str) -> Record:
        return list(cuda.memory(its, [name]))[1]

    names = ["linear_scan", "quantize int8"] if dry else cuda.works_of_memory(its)
    return [Item(name, partial(measured, name), 40) for name in names]


def products(dry: bool) -> list[Item]:
    its = sizes(dry)

    def measured(accumulator: tuple[str, int]) -> Record:
        theirs, ours = cuda.products(its, [accumulator])
        return {**ours, "torch_ms": theirs["ms"]}

    chosen = cuda.ACCUMULATORS[:1] if dry else cuda.ACCUMULATORS
    return [Item(f"{name}, every {every}", partial(measured, (name, every)), 40) for name, every in chosen]


def newton(dry: bool) -> list[Item]:
    its = sizes(dry)
    every = [(*size, length, cell) for size in its.para for length in TIMES for cell in ("paragru", "paralstm")]
    every = [(*its.para[0], its.times[0], "paragru")] if dry else every
    return [
        Item(f"{cell}, B {batch}, D {units}, T {length}", partial(cuda.diagonal, its, cell, batch, units, length), 90)
        for batch, units, length, cell in every
    ]


# ---- families whose peers are in flash-linear-attention --------------------------------------------------------------


def fla(path: str, name: str) -> Callable[..., Any] | None:
    """Return a function of flash-linear-attention, None if it is not installed."""
    if importlib.util.find_spec("fla") is None:
        return None
    function: Callable[..., Any] = getattr(importlib.import_module(f"fla.ops.{path}"), name)
    return function


def contest(dry: bool, calls: dict[str, Callable[..., Tensor] | None], inputs: list[Tensor]) -> Record:
    """Time forward, and forward with all gradients, in bfloat16 or, if the name says so, in float32."""
    place = Place(dry)
    times: dict[str, dict[str, float]] = {}
    for name, call in calls.items():
        if call is None:
            continue
        dtype = torch.float32 if dry or name.endswith("float32") else torch.bfloat16
        leaves = [x.to(place.device, dtype).requires_grad_() for x in inputs]
        forward = place.milliseconds(partial(cuda.without_gradients, call, tuple(leaves)))
        both = place.milliseconds(partial(gradients, call, leaves))
        times[name] = {"forward": forward, "forward+backward": both}
    return {"ms": times, "shape": list(inputs[0].shape)}


def gradients(call: Callable[..., Tensor], leaves: list[Tensor]) -> object:
    return torch.autograd.grad(call(*leaves).float().sum(), leaves)


def first(function: Callable[..., Any] | None) -> Callable[..., Tensor] | None:
    """Return only the function's first result."""
    if function is None:
        return None
    return lambda *inputs: function(*inputs)[0]


def shape(dry: bool) -> tuple[int, int, int, int]:
    """Return B, T, N, D."""
    return (1, 5, 1, 16) if dry else (8, 2048, 16, 128)


def delta_rule(dry: bool) -> Record:
    q, k, v = (drawn(*shape(dry), seed=seed) for seed in range(3))
    inputs = [q, torch.nn.functional.normalize(k, dim=-1), v, drawn(*shape(dry)[:3], seed=3).sigmoid()]
    ours = first(fastiter.torch.delta_scan)
    theirs = {} if dry else {"fla chunk_delta_rule": first(fla("delta_rule", "chunk_delta_rule"))}
    return contest(dry, {"fastiter": ours, "fastiter, float32": ours, **theirs}, inputs)


def linear_attention(dry: bool) -> Record:
    q, k, v, decay = (drawn(*shape(dry), seed=seed) for seed in range(4))
    inputs = [q, k, v, torch.nn.functional.logsigmoid(decay)]
    ours = first(fastiter.torch.ssm.linear_attention)
    theirs = {} if dry else {"fla chunk_gla": first(fla("gla", "chunk_gla"))}
    return contest(dry, {"fastiter": ours, "fastiter, float32": ours, **theirs}, inputs)


def selective_scan(dry: bool) -> Record:
    """A selective scan of Mamba's size. It has no peer, as no wheel contains Mamba's own kernels."""
    batch, length, channels = (1, 5, 8) if dry else (8, 2048, 1536)
    u, delta = drawn(batch, channels, length, seed=0), drawn(batch, channels, length, seed=1).sigmoid()
    a, b, c = -drawn(channels, 16, seed=2).exp(), drawn(batch, 16, length, seed=3), drawn(batch, 16, length, seed=4)
    ours: Callable[..., Any] = fastiter.torch.ssm.selective_scan
    return contest(dry, {"fastiter, float32": ours}, [u, delta, a, b, c])


def chunked(dry: bool) -> list[Item]:
    works = [delta_rule] if dry else [delta_rule, linear_attention, selective_scan]
    return [Item(work.__name__, partial(work, dry)) for work in works]
