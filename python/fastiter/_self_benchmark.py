"""A benchmark of half a minute with the installed packages: a call of each family against an available alternative.

The tables of the documentation come from `python -m bench` in a checkout, which compares with the best peers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import fastiter

_SECONDS = 1.0  # for a pair of calls, which alternate
_Call = Callable[[], Any]


class Pair(NamedTuple):
    """A call of a family and its alternative."""

    family: str
    work: str
    ours: _Call
    other: str
    theirs: _Call


def seconds(pair: Pair) -> tuple[float, float]:
    """Return the minimum time of each call; the calls alternate, so that both see the same load."""
    fastest = [float("inf")] * 2
    pair.ours(), pair.theirs()  # warm up
    started, rounds = time.perf_counter(), 0
    while rounds < 1 or time.perf_counter() - started < _SECONDS:
        for i, call in enumerate((pair.ours, pair.theirs)):
            before = time.perf_counter()
            call()
            fastest[i] = min(fastest[i], time.perf_counter() - before)
        rounds += 1
    return fastest[0], fastest[1]


def verdict(ratio: float) -> str:
    if ratio >= 1.05:
        return f"{ratio:.1f} times as fast"
    return "the same" if ratio > 0.95 else f"slower, by {1 / ratio:.2f}: please report it with the lines above"


def _recurrences(rng: Any) -> Iterator[Pair]:
    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, np.float32)

    wx, r = normal(4, 128, 4, 1, 128), normal(4, 1, 128, 128) / 11
    a, x = rng.uniform(-1, 1, (8, 512, 256)).astype(np.float32), normal(8, 512, 256)
    q, k, v, beta = (
        normal(1, 256, 4, 32),
        normal(1, 256, 4, 32),
        normal(1, 256, 4, 32),
        np.ones((1, 256, 4), np.float32),
    )
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    u, minus, b = abs(normal(1, 128, 256)), -abs(normal(128, 16)), normal(1, 16, 256)
    cells, weights = normal(4, 512, 3, 64), normal(3, 64) / 4
    calls: tuple[tuple[str, str, Callable[..., Any], tuple[Any, ...]], ...] = (
        ("rnn", "lstm (4, 128, 128)", fastiter.lstm, (wx, r)),
        ("scan", "linear_scan (8, 512, 256)", fastiter.linear_scan, (a, x)),
        ("delta", "delta_scan (1, 256, 4, 32)", fastiter.delta_scan, (q, k, v, beta)),
        ("newton", "paragru (4, 512, 64)", fastiter.paragru, (cells, weights)),
        ("ssm", "selective_scan (1, 128, 256)", fastiter.ssm.selective_scan, (u, u, minus, b, b)),
    )
    for family, work, function, arguments in calls:

        def run(backend: str, function: Callable[..., Any] = function, arguments: Any = arguments) -> Any:
            return function(*arguments, backend=backend)

        yield Pair(family, work, lambda run=run: run("cpu"), "a loop in NumPy", lambda run=run: run("reference"))  # type: ignore[misc]


def _layers() -> Iterator[Pair]:
    import torch

    from .torch import nn

    x = torch.randn(128, 8, 128)
    for name in ("LSTM", "GRU"):
        theirs = getattr(torch.nn, name)(128, 256)
        ours = getattr(nn, name)(128, 256)
        ours.load_state_dict(theirs.state_dict())

        def train(layer: Any) -> None:
            layer(x)[0].sum().backward()

        work = f"{name}(128, 256) on (128, 8), training"
        yield Pair("rnn", work, lambda f=train, m=ours: f(m), "torch.nn", lambda f=train, m=theirs: f(m))  # type: ignore[misc]


def _formats(rng: Any) -> Iterator[Pair]:
    x = rng.standard_normal(1 << 18, np.float32)
    quantize = fastiter.quant.quantize

    def fixed() -> Any:
        return np.clip(np.rint(x * 16), -128, 127) / 16

    yield Pair("quant", "fixed<8,4,RND_CONV,SAT>", lambda: quantize(x, "fixed<8,4,RND_CONV,SAT>"), "NumPy", fixed)


def _systems() -> Iterator[Pair]:
    import scipy.sparse as sp

    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(400, 400))
    one = sp.eye_array(400)
    a = (sp.kron(line, one) + sp.kron(one, line)).tocsr()
    x, b = np.zeros(a.shape[0]), np.ones(a.shape[0])
    sweeps = fastiter.relax.Relaxation(a, "gauss_seidel", order="red-black")
    yield Pair(
        "relax", "a red-black sweep, 160,000 unknowns", lambda: sweeps.sweep(x, b), "A @ x of SciPy", lambda: a @ x
    )


def pairs() -> Iterator[Pair]:
    rng = np.random.default_rng(0)
    if find_spec("torch"):
        yield from _layers()
    yield from _recurrences(rng)
    yield from _formats(rng)
    if find_spec("scipy"):
        yield from _systems()


def main() -> None:
    """Print a line for each pair as soon as it is measured."""
    fastiter.show_config()
    print(f"\n{'family':8}{'call':40}{'ms':>10}  {'against':18}{'ms':>10}  verdict")
    for pair in pairs():
        ours, theirs = seconds(pair)
        row = f"{pair.family:8}{pair.work:40}{1e3 * ours:10.3f}  {pair.other:18}{1e3 * theirs:10.3f}"
        print(f"{row}  {verdict(theirs / ours)}")
        sys.stdout.flush()
