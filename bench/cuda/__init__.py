"""Every family on a GPU, against its copy bandwidth, cuDNN's layers and loops: python -m bench --device cuda

memory   linear_scan, quantize and Jacobi sweeps: fraction of the device's copy bandwidth (goal 85%)
products quant.linear with accumulators in floating and fixed point against torch's matrix product in float32
rnn      LSTM and sLSTM with heads in bfloat16 against one cuDNN layer per head, and flashrnn if it is installed
newton   ParaGRU and ParaLSTM as T grows, many units and few: the sequential kernel, Newton's windows, Newton's method
         for any cell on the scans, and a loop over the steps; --figure FILE.svg draws where they cross

Times are measured on the device, between two events on its stream; each is the minimum of several rounds in which all
competitors take turns. Nothing is timed before its results agree with the CPU's.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastiter.relax
import fastiter.torch
from bench.cuda import figure, table
from bench.harness import gate, machine
from bench.harness.contest import Record

SECTIONS = ("memory", "products", "rnn", "newton")
Call = Callable[[], object]
FORMATS = ("fixed<8,4,RND,SAT>", "int8", "e4m3fn", "mxfp4_e2m1", "nvfp4", "posit<16,1>")
ACCUMULATORS = [("bf16", 1), ("fp32", 8), ("fixed<16,8,RND,SAT>", 1), ("fixed<16,8>", 8), ("fixed<40,20,RND,SAT>", 1)]


@dataclass(frozen=True)
class Sizes:
    """Problem sizes; small ones for the test of this file, which runs without a GPU."""

    device: str
    bytes: int = 1 << 30
    scan: tuple[int, int, int] = (8, 8192, 1024)
    grid: tuple[int, int] = (8192, 8192)
    product: tuple[int, int, int] = (4096, 4096, 4096)  # M, N, K
    rnn: tuple[int, int, int] = (16, 1024, 768)  # B, T, N D
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 768)
    para: tuple[tuple[int, int], ...] = ((8, 256), (1, 64))  # B, D
    times: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384)
    rounds: int = 10
    dtype: torch.dtype = torch.bfloat16


SMALL = Sizes("cpu", 1 << 12, (1, 9, 4), (5, 6), (3, 4, 5), (1, 2, 32), (16, 32), ((1, 4),), (3, 5), 1, torch.float32)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sections", type=lambda text: tuple(text.split(",")), default=SECTIONS)
    parser.add_argument("--figure", type=Path, help="draw the times of the section newton here, as SVG")


# ---- Timing ---------------------------------------------------------------------------------------------------------


def once(call: Call, device: str) -> float:
    """Seconds of one call: device time, or CPU time without a GPU."""
    if device == "cpu":
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return 1e-3 * float(begin.elapsed_time(end))


def seconds(calls: dict[str, Call], sizes: Sizes) -> dict[str, float]:
    """The minimum of several rounds of all calls in turn, after two warm-up rounds."""
    for call in calls.values():
        once(call, sizes.device)
    once(next(iter(calls.values())), sizes.device)
    rounds = [{name: once(call, sizes.device) for name, call in calls.items()} for _ in range(sizes.rounds)]
    return {name: min(one[name] for one in rounds) for name in calls}


def with_gradients(call: Callable[..., Tensor], *inputs: Tensor, weights: tuple[Tensor, ...] = ()) -> Call:
    """A call forward and backward: the gradients of its inputs and of its own weights."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    return lambda: torch.autograd.grad(call(*leaves).sum(), (*leaves, *weights))


def without_gradients(call: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
    """A call that saves nothing for gradients, although a layer's weights require them."""
    with torch.no_grad():
        return call(*inputs)


# ---- memory ---------------------------------------------------------------------------------------------------------


def agree(name: str, result: Tensor, expected: Tensor, length: int = 1) -> float:
    return gate.check(name, {"y": result.cpu()}, {"y": expected}, length)


def works_of_memory(sizes: Sizes) -> list[str]:
    """Return the names of the tasks that `memory` measures, besides a copy."""
    scans = ["linear_scan", "linear_scan forward+backward"]
    return [*(f"quantize {fmt}" for fmt in FORMATS), *scans, "10 Jacobi sweeps"]


def of_memory(name: str, sizes: Sizes) -> tuple[Call, int]:
    """Return the call of a task, whose results have been compared with the CPU's, and the bytes that it must move."""
    if name == "10 Jacobi sweeps":
        return jacobi(sizes)
    if name.startswith("quantize"):
        fmt = name.partition(" ")[2]
        x = torch.randn(sizes.bytes // 4, device=sizes.device)
        part = x[: 1 << 20]
        agree(fmt, fastiter.torch.quant.quantize(part, fmt), fastiter.torch.quant.quantize(part.cpu(), fmt))
        return lambda: fastiter.torch.quant.quantize(x, fmt), 2 * 4 * x.numel()
    a, b = torch.rand(sizes.scan, device=sizes.device), torch.randn(sizes.scan, device=sizes.device)
    result, expected = (
        fastiter.torch.linear_scan(*tensors)[0] for tensors in ((a[:1], b[:1]), (a[:1].cpu(), b[:1].cpu()))
    )
    agree("linear_scan", result, expected, sizes.scan[1])
    if name == "linear_scan":
        return lambda: fastiter.torch.linear_scan(a, b), 3 * 4 * a.numel()
    both = with_gradients(lambda a, b: fastiter.torch.linear_scan(a, b)[0], a, b)
    return both, 8 * 4 * a.numel()  # forward 3; backward reads a, h, dh, writes da, dx


def memory(sizes: Sizes, names: Sequence[str] | None = None) -> Iterator[Record]:
    """Measure some tasks, or all, in turn with a copy."""
    count = sizes.bytes // 4
    x, y = torch.randn(count, device=sizes.device), torch.empty(count, device=sizes.device)
    moved: dict[str, tuple[Call, int]] = {"copy": (lambda: y.copy_(x), 2 * 4 * count)}
    moved |= {name: of_memory(name, sizes) for name in (works_of_memory(sizes) if names is None else names)}
    times = seconds({name: call for name, (call, _) in moved.items()}, sizes)
    rates = {name: nbytes / times[name] for name, (_, nbytes) in moved.items()}
    for name in moved:
        yield {"work": name, "ms": 1e3 * times[name], "gbs": 1e-9 * rates[name], "share": rates[name] / rates["copy"]}


def jacobi(sizes: Sizes) -> tuple[Call, int]:
    """Ten sweeps on the five-point Laplacian, each of which reads x and b and writes x."""
    b = torch.randn(sizes.grid, device=sizes.device)
    laplacian = fastiter.relax.Stencil(sizes.grid, np.array([4, -1, -1, -1, -1], np.float32))
    expected = torch.zeros(sizes.grid)
    fastiter.torch.relax.Relaxation(laplacian, "jacobi", backend="cpu").sweep(expected, b.cpu(), 3)
    backend: Literal["cpu", "cuda"] = "cpu" if sizes.device == "cpu" else "cuda"
    relaxation, x = fastiter.torch.relax.Relaxation(laplacian, "jacobi", backend=backend), torch.zeros_like(b)
    relaxation.sweep(x, b, 3)
    agree("jacobi", x, expected, 3)
    return functools.partial(relaxation.sweep, x, b, 10), 10 * 3 * 4 * math.prod(sizes.grid)


# ---- products -------------------------------------------------------------------------------------------------------


def products(sizes: Sizes, accumulators: Sequence[tuple[str, int]] = tuple(ACCUMULATORS)) -> Iterator[Record]:
    """A step of an accumulator is a multiplication, an addition and a rounding, for which no card has a matrix unit."""
    rows, columns, depth = sizes.product
    rounded = functools.partial(fastiter.torch.quant.quantize, fmt="fixed<8,4,RND,SAT>")
    x, weight = (rounded(torch.randn(count, depth, device=sizes.device)) for count in (rows, columns))
    calls: dict[str, Call] = {"torch.nn.functional.linear": lambda: torch.nn.functional.linear(x, weight)}
    for accumulate, every in accumulators:
        call = functools.partial(fastiter.torch.quant.linear, accumulator=accumulate, accumulate_every=every)
        part = x[:64], weight[:64]
        agree(accumulate, call(*part), call(*(t.cpu() for t in part)))
        calls[f"{accumulate}, every {every}"] = functools.partial(call, x, weight)
    for name, elapsed in seconds(calls, sizes).items():
        yield {"work": name, "ms": 1e3 * elapsed, "steps": 1e-9 * rows * columns * depth / elapsed}


# ---- rnn ------------------------------------------------------------------------------------------------------------


def close(name: str, result: Tensor, exact: Tensor) -> float:
    """Return the error of h, whose values are at most 1; raise if it exceeds a few roundings of its storage type."""
    off, limit = (result.cpu().float() - exact).abs().max().item(), 4 * torch.finfo(result.dtype).eps
    if not off <= limit:
        raise gate.GateError(f"{name}: h is off by {off:.1e}, more than {limit:.1e}")
    return off


def recurrence(sizes: Sizes, width: int) -> dict[str, Tensor]:
    batch, time_, units = sizes.rnn
    heads = units // width
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(sizes.device, sizes.dtype)

    return {"wx": normal(batch, time_, 4, heads, width), "r": normal(4, heads, width, width) / width**0.5}


WITH_WX = ", W x included"


class Peer(NamedTuple):
    """A call, its inputs, and its own weights; gradients are with respect to both."""

    call: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    weights: tuple[Tensor, ...] = ()


def cudnn(sizes: Sizes, width: int, x: Tensor) -> Peer:
    """One cuDNN layer per head."""
    layers = [
        torch.nn.LSTM(width, width, batch_first=True, device=sizes.device, dtype=sizes.dtype)
        for _ in range(sizes.rnn[2] // width)
    ]

    def call(x: Tensor) -> Tensor:
        return torch.cat([layer(part)[0] for layer, part in zip(layers, x.chunk(len(layers), -1), strict=True)], -1)

    return Peer(call, (x,), tuple(weight for layer in layers for weight in layer.parameters()))


def ours_with_wx(x: Tensor, r: Tensor) -> Peer:
    """Our LSTM on W x, computed by one product per head as in cuDNN's layers."""
    gates, heads, width, _ = r.shape
    w = torch.randn(heads, width, gates * width, device=x.device, dtype=x.dtype) / width**0.5

    def call(x: Tensor, w: Tensor, r: Tensor) -> Tensor:
        parts = torch.einsum("btnd,nde->btne", x.unflatten(-1, (heads, width)), w)
        h: Tensor = fastiter.torch.lstm(parts.unflatten(-1, (gates, width)).transpose(2, 3), r)[0]
        return h

    return Peer(call, (x, w, r))


def flashrnn_calls(function: str, work: dict[str, Tensor]) -> dict[str, Callable[..., Tensor]]:
    if importlib.util.find_spec("flashrnn") is None or work["wx"].device.type == "cpu":
        return {}
    flashrnn = importlib.import_module("flashrnn").flashrnn
    bias = torch.zeros(work["r"].shape[:3], device=work["wx"].device, dtype=torch.bfloat16)

    def by(backend: str) -> Callable[..., Tensor]:
        return lambda wx, r: flashrnn(wx, r, bias, function=function, backend=backend, dtype="bfloat16")[0][0]

    return {f"flashrnn {backend}": by(backend) for backend in ("cuda_fused", "cuda")}


def recurrent(sizes: Sizes, function: str, width: int, flash: Callable[..., Any] = flashrnn_calls) -> Record:
    """Measure a cell with heads of one width; ``flash`` returns calls of flashrnn's kernels."""
    ours, work = getattr(fastiter.torch, function), recurrence(sizes, width)
    exact = ours(**{name: x.cpu().float() for name, x in work.items()})[0]
    worst = close(function, ours(**work)[0], exact)
    tensors = tuple(work.values())
    peers = {"fastiter": Peer(lambda wx, r: ours(wx, r)[0], tensors)}
    peers |= {name: Peer(call, tensors) for name, call in flash(function, work).items()}
    if function == "lstm":
        x = torch.randn_like(work["wx"][:, :, 0].flatten(2))
        peers |= {f"fastiter{WITH_WX}": ours_with_wx(x, work["r"]), f"torch.nn.LSTM{WITH_WX}": cudnn(sizes, width, x)}
    timed: dict[str, Call] = {}
    for name, (call, inputs, weights) in peers.items():
        timed[f"{name}|forward"] = functools.partial(without_gradients, call, inputs)
        timed[f"{name}|forward+backward"] = with_gradients(call, *inputs, weights=weights)
    times = seconds(timed, sizes)
    milliseconds: dict[str, dict[str, float]] = {name: {} for name in peers}
    for key, value in times.items():
        name, mode = key.split("|")
        milliseconds[name][mode] = 1e3 * value
    return {"cell": function, "width": width, "difference": worst, "ms": milliseconds}


def rnn(sizes: Sizes) -> Iterator[Record]:
    for function, width in itertools.product(("lstm", "slstm"), sizes.widths):
        yield recurrent(sizes, function, width)


# ---- newton ---------------------------------------------------------------------------------------------------------


def loop(wx: Tensor, a: Tensor) -> Tensor:
    """ParaGRU in plain Python, one step at a time."""
    h, states = torch.zeros_like(wx[:, 0, 0]), []
    for x in wx.unbind(1):
        z, r = torch.sigmoid(a[0] * h + x[:, 0]), torch.sigmoid(a[1] * h + x[:, 1])
        h = z * torch.tanh(a[2] * h * r + x[:, 2]) + (1 - z) * h
        states.append(h)
    return torch.stack(states, 1)


def by_newton(wx: Tensor, a: Tensor) -> Tensor:
    """ParaGRU for all steps at once: by Newton's method for any cell, on the scans."""

    def cell(h: Tensor, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        z, r = (torch.sigmoid(weights["a"][i] * h + x[..., i]) for i in (0, 1))
        return z * torch.tanh(weights["a"][2] * h * r + x[..., 2]) + (1 - z) * h

    value: Tensor = fastiter.torch.solve_recurrence(cell, wx.transpose(2, 3), {"a": a}, method="newton").value
    return value


def ways(cell: str) -> dict[str, Callable[..., Tensor]]:
    """The methods that compute h for all steps."""
    function = getattr(fastiter.torch, cell)
    functions: dict[str, Callable[..., Tensor]] = {
        method: lambda *x, method=method: function(*x, method=method)[0] for method in ("sequential", "newton")
    }
    return functions | {"newton on the scans": by_newton, "loop": loop} if cell == "paragru" else functions


def diagonal(sizes: Sizes, cell: str, batch: int, units: int, length: int) -> Record:
    """Measure every method for a diagonal cell, forward and backward."""
    peepholes = 2 if cell == "paralstm" else 0
    a = torch.rand(3 + peepholes, units, device=sizes.device) - 0.5
    weights = a.split([3, peepholes]) if peepholes else (a,)
    wx = torch.randn(batch, length, 3, units, device=sizes.device)
    calls, cpu = ways(cell), [x.cpu() for x in (wx, *weights)]
    expected = getattr(fastiter.torch, cell)(*cpu, method="sequential")[0]
    worst = max(agree(name, call(wx, *weights), expected, length) for name, call in calls.items())
    times = seconds({name: with_gradients(call, wx, *weights) for name, call in calls.items()}, sizes)
    ms = {name: 1e3 * value for name, value in times.items()}
    return {"cell": cell, "B": batch, "D": units, "T": length, "difference": worst, "ms": ms}


def newton(sizes: Sizes) -> Iterator[Record]:
    for (batch, units), cell in itertools.product(sizes.para, ("paragru", "paralstm")):
        for length in sizes.times:
            yield diagonal(sizes, cell, batch, units, length)


# # ---- The whole run
# --------------------------------------------------------------------------------------------------


def card() -> dict[str, Any]:
    """The GPU and software of the measurement."""
    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "multiprocessors": properties.multi_processor_count, "cuda": torch.version.cuda}


def measure(sizes: Sizes, sections: tuple[str, ...]) -> Record:
    by_name: dict[str, Callable[[Sizes], Iterator[Record]]] = {}
    by_name |= {"memory": memory, "products": products, "rnn": rnn, "newton": newton}
    results: Record = {"family": "cuda", "machine": machine.describe()}
    for name in sections:
        results[name] = []
        for record in by_name[name](sizes):
            results[name].append(record)
            print(table.line(name, record), flush=True)
    return results


def main(arguments: argparse.Namespace) -> Record:
    if not torch.cuda.is_available():
        raise SystemExit("bench: --device cuda needs a CUDA device, and torch finds none")
    results = {**measure(Sizes("cuda"), arguments.sections), "card": card()}
    if arguments.figure is not None:
        arguments.figure.write_text(figure.crossover(results))
    return results
