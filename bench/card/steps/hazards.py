"""The step `hazards`, which no emulation shows: limits, graph captures, streams, torch's flags, and recompilation."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import fastiter.torch
from bench.card.device import Place, bound, drawn, error
from bench.card.steps.correctness import heads, inputs, path_of, with_gradients
from bench.card.worker import Item
from bench.harness.record import Record


def widths_in_turn(place: Place, widths: tuple[int, ...]) -> Record:
    """Kernels that differ only in their shared memory: a smaller one must not lower the limit of a larger one."""
    for width in widths:
        tensors = [x.to(place.device) for x in inputs("lstm", torch.bfloat16, width, 16, 2)]
        place.run(partial(with_gradients, "lstm", *tensors))
    return {"widths": list(widths)}


def promised(place: Place, cell: str, width: int) -> Record:
    """A shape for which the tuner has a fused launch runs with that launch."""
    from fastiter import tune
    from fastiter.rnn._torch._gpu import launch_plan

    device = launch_plan.card(torch.empty(0, device=place.device))
    shape = {"cell": cell, "heads": heads(width), "width": width, "batch": 16, "dtype": "bfloat16"}
    plans = [tune.rnn_plan(device, **shape, backward=backward).variant for backward in (False, True)]  # type: ignore[arg-type]
    paths = path_of(cell, torch.bfloat16, width, 16, place.device)
    if any(plan == "fused" and path == "stepwise" for plan, path in zip(plans, paths, strict=True)):
        raise RuntimeError(f"the tuner promises {plans} and {paths} runs")
    return {"path": paths}


def delta(place: Place, dtype: torch.dtype) -> Record:
    """delta_scan and its gradients compile and agree with the CPU."""

    def both(device: str) -> list[Tensor]:
        q, k, v = (drawn(1, 17, 2, 16, seed=seed, dtype=dtype) for seed in range(3))
        leaves = [q, torch.nn.functional.normalize(k, dim=-1), v, drawn(1, 17, 2, seed=4, dtype=dtype).sigmoid()]
        leaves = [x.to(device).requires_grad_() for x in leaves]
        o = fastiter.torch.delta_scan(*leaves)[0]
        return [o, *torch.autograd.grad(o.square().sum(), leaves)]

    errors = [error(x, y) for x, y in zip(place.run(lambda: both(place.device)), both("cpu"), strict=True)]
    if max(errors) > bound(dtype, 17 * 16, 16):
        raise ArithmeticError(f"o, dq, dk, dv, dbeta are off by {errors}")
    return {"off": errors}


def torch_flag(place: Place) -> Record:
    """torch's newer switch for TF32 is read without an error."""
    wx, r, _ = (x.to(place.device) for x in inputs("lstm", torch.float32, 16, 2, 3))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        place.run(lambda: fastiter.torch.lstm(wx, r))
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    return {"fp32_precision": "tf32"}


def deterministic(place: Place) -> Record:
    """With deterministic algorithms requested, nothing warns."""
    tensors = [x.to(place.device) for x in inputs("lstm", torch.bfloat16, 16, 2, 3)]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            place.run(partial(with_gradients, "lstm", *tensors))
    finally:
        torch.use_deterministic_algorithms(False)
    return {"warnings": 0}


def without_torch() -> Record:
    """NVRTC compiles in a process that has not loaded torch, which would have loaded its libraries."""
    code = (
        "from fastiter import _nvrtc; "
        "print(len(_nvrtc.compile_source('extern \"C\" __global__ void f() {}', 'f', 'sm_80')), *_nvrtc.version())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return {"nvrtc": ".".join(done.stdout.split()[1:])}


def compiled_anew(kind: str) -> Record:
    """Seconds of first calls as B and T change, and how many kernels the cache gains."""
    from fastiter import _nvrtc

    seconds: list[tuple[int, int, float]] = []
    folder = Path(_nvrtc.cache_folder())
    before = len(list(folder.glob("*.cubin")))
    for batch, length in ((2, 1024), (2, 2048), (2, 1000), (2, 17), (2, 1), (1, 64), (3, 64), (64, 64)):
        if kind == "linear_scan":
            a, x = torch.rand(batch, length, 64, device="cuda"), torch.randn(batch, length, 64, device="cuda")
            call: Callable[[], object] = partial(fastiter.torch.linear_scan, a, x)
        else:
            wx, r, _ = (each.cuda() for each in inputs("lstm", torch.bfloat16, 256, batch, length))
            call = partial(fastiter.torch.lstm, wx, r)
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append((batch, length, round(time.perf_counter() - started, 2)))
    return {"B, T, seconds": seconds, "cubins": len(list(folder.glob("*.cubin"))) - before}


def captured(width: int) -> Record:
    """A head of several blocks, a cluster or a cooperative launch, replays from a graph."""
    wx, r, _ = (x.cuda() for x in inputs("lstm", torch.bfloat16, width, 16, 64))
    fastiter.torch.lstm(wx, r)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = fastiter.torch.lstm(wx, r)[0]
    for factor in (1.0, 0.5):
        wx.mul_(factor)
        graph.replay()
        if not torch.equal(result, fastiter.torch.lstm(wx, r)[0]):
            raise ArithmeticError("a replay differs from the call")
    return {"replays": 2}


def by_steps() -> Record:
    """The launch of one step at a time, mostly by a graph, equals the fused launch up to the rounding of products."""
    from fastiter.rnn._torch._gpu import kernels as gpu
    from fastiter.rnn._torch.ops import RnnForward

    wx, r, _ = (x.cuda() for x in inputs("lstm", torch.float32, 64, 16, 256))
    call = RnnForward("lstm", wx, r, None, [], False, None, None, True, True, None, None, None, None, 0)
    fused, paths = gpu.forward(call)[0], gpu.forward(call, backend="stepwise")[0]
    again = gpu.forward(call, backend="stepwise")[0]
    off = (fused - paths).abs().max().item()
    if not off < 1e-4 or not torch.equal(paths, again):
        raise ArithmeticError(f"steps differ by {off:.1e} from the fused launch, or between calls")
    return {"off": off}


def on_streams(count: int, width: int) -> Record:
    """Heads of several blocks on several concurrent streams finish, and agree."""
    wx, r, _ = (x.cuda() for x in inputs("lstm", torch.bfloat16, width, 16, 256))
    expected, results = fastiter.torch.lstm(wx, r)[0], []
    torch.cuda.synchronize()
    for stream in [torch.cuda.Stream() for _ in range(count)]:
        with torch.cuda.stream(stream):
            results += [fastiter.torch.lstm(wx, r)[0] for _ in range(4)]
    torch.cuda.synchronize()
    if not all(torch.equal(x, expected) for x in results):
        raise ArithmeticError("calls on several streams differ")
    return {"streams": count}


def host_time(place: Place) -> Record:
    """Host time in microseconds of a call with one step."""
    wx, r, _ = (x.to(place.device) for x in inputs("lstm", torch.bfloat16, 64, 16, 1))
    calls: dict[str, Callable[[], object]] = {
        "lstm": partial(fastiter.torch.lstm, wx, r),
        "quantize": partial(fastiter.torch.quant.quantize, r, "e4m3fn"),
        "linear_scan": partial(fastiter.torch.linear_scan, wx[:, :, 0, 0].float(), wx[:, :, 1, 0].float()),
    }
    seconds = {}
    for name, call in calls.items():
        for _ in range(3):
            call()
        place.wait()
        started = time.perf_counter()
        for _ in range(100):
            call()
        place.wait()
        seconds[name] = round(1e4 * (time.perf_counter() - started), 1)
    return {"us": seconds}


def items(dry: bool) -> list[Item]:
    place = Place(dry)
    listed = [
        Item("TF32 by torch's newer switch", partial(torch_flag, place)),
        Item("NVRTC without torch", without_torch),
        Item("lstm 192: the launch that is promised", partial(promised, place, "lstm", 192), 2),
        Item("delta_scan torch.float32", partial(delta, place, torch.float32), 12),
    ]
    if dry:
        return listed
    for cell, width in (("lstm", 176), ("slstm", 160), ("slstm", 192), ("gru", 176), ("gru", 208), ("gru", 224)):
        listed.append(Item(f"{cell} {width}: the launch that is promised", partial(promised, place, cell, width), 6))
    return [
        *listed,
        Item("delta_scan torch.float64", partial(delta, place, torch.float64), 12),
        Item("widths 128, 112, 128", partial(widths_in_turn, place, (128, 112, 128)), 2),
        Item("widths 768, 512, 768", partial(widths_in_turn, place, (768, 512, 768)), 2),
        Item("deterministic algorithms", partial(deterministic, place), 2),
        Item("a graph with several blocks a head", partial(captured, 768), 2),
        Item("a graph with clusters", partial(captured, 256), 2),
        Item("four streams with several blocks a head", partial(on_streams, 4, 768), 2),
        Item("four streams with clusters", partial(on_streams, 4, 256), 2),
        Item("steps by a graph", by_steps, 2),
        Item("compiled anew: linear_scan", partial(compiled_anew, "linear_scan"), 6, 60),
        Item("compiled anew: lstm", partial(compiled_anew, "lstm"), 15, 90),
        Item("host time", partial(host_time, place)),
    ]
