"""A benchmark of half a minute: a call of each family against what torch, SciPy and other installed packages offer.

Both results are compared before any time is taken. The tables of the documentation come from `python -m bench` in a
checkout, which has more sizes and more peers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np

import fastiter

_SECONDS = 1.0  # for a pair of calls, which alternate
_RTOL = 1e-8  # tolerance of iterations in float64
_FLOAT32 = 1e3 * float(np.finfo(np.float32).eps)  # for sums of up to thousands of products in float32
_Call = Callable[[], Any]


class Pair(NamedTuple):
    """A call of a family, its alternative, and how wrong both results may be."""

    family: str
    work: str
    ours: _Call
    other: str
    theirs: _Call
    error: Callable[[Any, Any], float]
    bound: float


class Group(NamedTuple):
    """Pairs whose alternatives are in the same packages."""

    family: str
    packages: tuple[str, ...]
    pairs: Callable[[], Iterator[Pair]]


def _missing(packages: tuple[str, ...]) -> list[str]:
    missing = []
    for package in packages:
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    return missing


def seconds(pair: Pair) -> tuple[float, float]:
    """Return the minimum time of each call; the calls alternate, so that both see the same load."""
    fastest = [float("inf")] * 2
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


def _difference(ours: Any, theirs: Any) -> float:
    """Return the largest difference of arrays or tensors, relative to the largest value."""
    expected = np.asarray(theirs, np.float64)
    return float(abs(np.asarray(ours, np.float64) - expected).max() / abs(expected).max())


# ---- torch ----------------------------------------------------------------------------------------------------------


def _layers() -> Iterator[Pair]:
    import torch

    from .torch import nn

    x = torch.randn(128, 8, 128)
    for name in ("LSTM", "GRU"):
        theirs = getattr(torch.nn, name)(128, 256)
        ours = getattr(nn, name)(128, 256)
        ours.load_state_dict(theirs.state_dict())

        def train(layer: Any) -> Any:
            layer.zero_grad()
            h = layer(x)[0]
            h.sum().backward()
            return torch.cat([h.detach().flatten(), layer.weight_hh_l0.grad.flatten()])

        work = f"{name}(128, 256) on (128, 8), training"
        calls = (lambda f=train, m=ours: f(m), "torch.nn", lambda f=train, m=theirs: f(m))
        yield Pair("rnn", work, *calls, _difference, _FLOAT32)


def _convolutions() -> Iterator[Pair]:
    import torch
    from torch.nn import functional

    from .torch.ssm import causal_conv1d

    x, weight = torch.randn(8, 512, 512), torch.randn(512, 4)

    def theirs() -> Any:
        return functional.silu(functional.conv1d(functional.pad(x, (3, 0)), weight[:, None], groups=512))

    yield Pair(
        "ssm",
        "causal_conv1d (8, 512, 512), silu",
        lambda: causal_conv1d(x, weight, activation="silu"),
        "torch conv1d",
        theirs,
        _difference,
        _FLOAT32,
    )


def _formats() -> Iterator[Pair]:
    import torch

    from .torch.quant import quantize

    x = torch.randn(1 << 18)

    def fixed() -> Any:
        return torch.fake_quantize_per_tensor_affine(x, 1 / 16, 0, -128, 127)

    def cast() -> Any:
        return x.to(torch.float8_e4m3fn).float()

    for fmt, other, theirs in (
        ("fixed<8,4,RND_CONV,SAT>", "fake_quantize", fixed),
        ("e4m3fn", "torch.float8", cast),
    ):
        yield Pair("quant", fmt, lambda f=fmt: quantize(x, f), other, theirs, _difference, 0.0)  # type: ignore[misc]


# ---- SciPy and what builds on it ------------------------------------------------------------------------------------


def _filters() -> Iterator[Pair]:
    from scipy import signal

    x = np.random.default_rng(0).standard_normal((8, 512, 256), np.float32)
    a = np.full_like(x, 0.9)
    feedback = np.array([1, -0.9], np.float32)
    yield Pair(
        "scan",
        "h[t] = .9 h[t-1] + x[t], (8, 512, 256)",
        lambda: fastiter.linear_scan(a, x)[0],
        "SciPy lfilter",
        lambda: signal.lfilter(np.ones(1, np.float32), feedback, x, axis=1),
        _difference,
        _FLOAT32,
    )


def _sweep(other: str, prepare: Callable[[Any], Callable[[Any, Any], Any]]) -> Pair:
    """Return a sweep over Poisson's equation on 400 x 400 points; the other library prepares a call of x and b."""
    import scipy.sparse as sp

    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(400, 400))
    one = sp.eye_array(400)
    a = (sp.kron(line, one) + sp.kron(one, line)).tocsr()
    b = np.ones(a.shape[0])
    ours, theirs = fastiter.relax.Relaxation(a, "gauss_seidel").sweep, prepare(a)

    def swept(sweep: Callable[[Any, Any], Any]) -> Any:
        x = np.zeros_like(b)
        sweep(x, b)
        return x

    work, bound = "a Gauss-Seidel sweep, 160,000 unknowns", 1e3 * float(np.finfo(np.float64).eps)
    return Pair("relax", work, lambda: swept(ours), other, lambda: swept(theirs), _difference, bound)


def _triangles() -> Iterator[Pair]:
    import scipy.sparse as sp
    from scipy.sparse.linalg import spsolve_triangular

    def prepare(a: Any) -> Callable[[Any, Any], Any]:
        lower, upper = sp.tril(a).tocsr(), sp.triu(a, 1).tocsr()

        def sweep(x: Any, b: Any) -> None:
            x[:] = spsolve_triangular(lower, b - upper @ x)

        return sweep

    yield _sweep("SciPy", prepare)


def _smoothers() -> Iterator[Pair]:
    from pyamg.relaxation.relaxation import gauss_seidel

    yield _sweep("PyAMG", lambda a: lambda x, b: gauss_seidel(a, x, b))


def _points() -> Iterator[Pair]:
    from scipy import optimize

    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((256, 256)) / 40
    x = rng.standard_normal(256)

    def f(z: Any) -> Any:
        return np.tanh(z @ matrix + x)

    def residual(*values: Any) -> float:
        return max(float(np.linalg.norm(f(z) - z) / np.linalg.norm(z)) for z in values)

    yield Pair(
        "fixedpoint",
        "z = tanh(z M + x), 256 numbers, to 1e-8",
        lambda: fastiter.fixedpoint.fixed_point(f, np.zeros(256), rtol=_RTOL, batched=False).value,
        "SciPy anderson",
        lambda: optimize.anderson(
            lambda z: f(z) - z, np.zeros(256), f_tol=_RTOL * np.linalg.norm(f(x)), tol_norm=np.linalg.norm
        ),
        residual,
        2 * _RTOL,
    )


def _regressions() -> Iterator[Pair]:
    from sklearn import linear_model

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 2000))
    y = x[:, :20].sum(1) + rng.standard_normal(1000)

    def objective(model: Any) -> float:
        residual = y - x @ model.coef_ - model.intercept_
        return float(residual @ residual / 2000 + 0.1 * abs(model.coef_).sum())

    def gap(ours: Any, theirs: Any) -> float:
        return abs(objective(ours) - objective(theirs)) / objective(theirs)

    yield Pair(
        "bcd",
        "Lasso(.1), 1000 x 2000",
        lambda: fastiter.bcd.Lasso(0.1).fit(x, y),
        "scikit-learn",
        lambda: linear_model.Lasso(0.1).fit(x, y),
        gap,
        1e-4,  # scikit-learn's tolerance
    )


def _decisions() -> Iterator[Pair]:
    import scipy.sparse as sp
    from quantecon.markov import DiscreteDP

    problem = fastiter.mdp.examples.garnet(2000, 10, 5)
    weight, target, entry = problem.transitions
    matrix = sp.csr_matrix((weight, target, entry), shape=(problem.rows, problem.S))
    matrix.sum_duplicates()
    states, actions = np.divmod(np.arange(problem.rows), 10)
    theirs = DiscreteDP(problem.rewards, matrix, problem.gamma, states, actions)
    yield Pair(
        "mdp",
        "2000 states, 10 actions, values to 1e-6",
        lambda: problem.solve(atol=1e-6).value,
        "QuantEcon",
        lambda: theirs.solve(method="modified_policy_iteration", epsilon=1e-6).v,
        lambda ours, other: float(abs(ours - other).max()),
        2e-6,
    )


GROUPS = (
    Group("rnn", ("torch",), _layers),
    Group("ssm", ("torch",), _convolutions),
    Group("quant", ("torch",), _formats),
    Group("scan", ("scipy",), _filters),
    Group("relax", ("scipy",), _triangles),
    Group("relax", ("pyamg", "scipy"), _smoothers),
    Group("fixedpoint", ("scipy",), _points),
    Group("bcd", ("scikit-learn",), _regressions),
    Group("mdp", ("quantecon", "scipy"), _decisions),
)
#: Families without a counterpart in these packages
ALONE = ("delta", "newton", "decode")


def measured(pair: Pair) -> str | None:
    """Print a pair's row; return a sentence if the results are not right, and then take no time."""
    error = pair.error(pair.ours(), pair.theirs())
    start = f"{pair.family:11}{pair.work:42}"
    if not error <= pair.bound:
        print(f"{start}not timed: the results differ", flush=True)
        return f"{pair.work} against {pair.other}: an error of {error:.1e}, more than {pair.bound:.1e}"
    ours, theirs = seconds(pair)
    print(
        f"{start}{1e3 * ours:10.3f}  {pair.other:15}{1e3 * theirs:10.3f}  {verdict(theirs / ours)}",
        flush=True,
    )
    return None


def main() -> None:
    """Print a line for each pair as soon as it is measured, and what was left out."""
    fastiter.show_config()
    missing = {group: _missing(group.packages) for group in GROUPS}
    used = dict.fromkeys(package for group in GROUPS if not missing[group] for package in group.packages)
    print("\ncompared with " + (", ".join(f"{package} {version(package)}" for package in used) or "nothing"))
    print(f"\n{'family':11}{'call':42}{'ms':>10}  {'against':15}{'ms':>10}  verdict")
    pairs = (pair for group in GROUPS if not missing[group] for pair in group.pairs())
    wrong = [sentence for sentence in map(measured, pairs) if sentence is not None]
    for group, packages in missing.items():
        if packages:
            print(f"left out: {group.family} against {group.packages[0]}, for want of {' and '.join(packages)}")
    print(f"left out: {', '.join(ALONE)}, which these packages do not have; see `python -m bench` in a checkout")
    if wrong:
        sys.exit("fastiter bench: " + "; ".join(wrong) + ". Please report it.")
