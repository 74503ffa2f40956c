"""A call of every GPU kernel that the compile gate compiles, with random tensors: small ones, and those to be timed.

A call maps normal numbers to valid arguments by itself, so that its shapes describe it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import traceback
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastiter.relax
import fastiter.torch as ft
from bench.card.device import Place
from bench.card.worker import BROKEN, is_alive
from fastiter.torch import quant, relax, ssm
from tests.gpu.host.host import KERNELS, kernels_of

Shapes = tuple[tuple[int, ...], ...]


class Call(NamedTuple):
    """A function of tensors, the sources of the kernels that it launches, and the shapes of its arguments."""

    sources: tuple[str, ...]
    function: Callable[..., Any]
    small: Shapes
    large: Shapes
    dtype: torch.dtype = torch.float32
    has_gradients: bool = True
    backend: str = ""  #: the kernels of a recurrence or scan, if not those that the card would get
    rtol: float = 0.0  #: the tolerance of an iteration, relative to its result
    needs_card: bool = False  #: its small shapes would take minutes in emulation

    def inputs(self, device: str, shapes: Shapes) -> list[Tensor]:
        """Return normal numbers, drawn on the device in the order of the arguments."""
        generator = torch.Generator(device).manual_seed(0)
        return [torch.randn(shape, generator=generator, device=device).to(self.dtype) for shape in shapes]

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the results, and the gradients of the inputs."""
        with by(self.backend):
            return self._run([x.detach().requires_grad_(self.has_gradients) for x in inputs])

    def _run(self, leaves: list[Tensor]) -> list[Tensor]:
        results = tensors_of(self.function(*leaves))
        real = [x for x in results if x.requires_grad]
        wide = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in real]
        total = sum((x.square().sum() for x in wide), start=leaves[0].new_zeros(()))
        gradients = torch.autograd.grad(total, leaves, allow_unused=True) if real else ()
        return [*(x.detach() for x in results), *(x for x in gradients if x is not None)]


@contextlib.contextmanager
def by(backend: str) -> Iterator[None]:
    """Run recurrences and selective scans by other kernels than the card would get, if ``backend`` names them."""
    from fastiter.rnn._torch._gpu import kernels
    from fastiter.ssm._torch._gpu import selective_kernels

    modules: tuple[Any, ...] = (kernels, selective_kernels)
    before = [module.choose for module in modules]
    try:
        for module in modules:
            if backend:
                module.choose = lambda *_: backend
        yield
    finally:
        for module, choose in zip(modules, before, strict=True):
            module.choose = choose


def kernels_in(source: str) -> list[str]:
    """Return the names of the kernels of a source, which begin with `def` or KERNEL at the start of a line."""
    path = KERNELS / f"{source}.cu"
    if path.exists():
        return kernels_of(path.read_text())
    return re.findall(r"^def (\w+_kernel)\(", path.with_suffix(".py").read_text(), re.MULTILINE)


def tensors_of(result: Any) -> list[Tensor]:
    """Return the tensors in nested tuples."""
    if isinstance(result, Tensor):
        return [result]
    return [x for part in result for x in tensors_of(part)] if isinstance(result, tuple | list) else []


# ---- recurrences -----------------------------------------------------------------------------------------------------


def lstm(wx: Tensor, r: Tensor) -> Tensor:
    return ft.lstm(wx, r / math.sqrt(r.shape[-1]))[0]


def recurrence(width: int, batch: int, time: int, heads: int) -> Shapes:
    return (batch, time, 4, heads, width), (4, heads, width, width)


def newton(method: Any) -> Callable[..., Any]:
    """ParaGRU by a method; Newton's also counts its steps."""
    return lambda wx, a: ft.paragru(wx, 0.3 * a, method=method, return_info=method == "newton")[:2]


# ---- scans -----------------------------------------------------------------------------------------------------------


def linear_scan(a: Tensor, x: Tensor) -> Any:
    return ft.linear_scan(a.sigmoid(), x)


def block_scan(a: Tensor, x: Tensor) -> Any:
    return ft.block_scan(a / (4 * a.shape[-1]), x)


def delta_scan(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Any:
    """A delta rule, in float64 with chunks that select its kernels in emulation; a card selects them by the dtype."""
    k = torch.nn.functional.normalize(k, dim=-1)
    chunk = 16 if q.dtype == torch.float64 else 64
    return ft.delta_scan(q, k, v, beta.sigmoid(), decay=decay.sigmoid(), chunk=chunk)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Any:
    return ssm.linear_attention(q, k, v, torch.nn.functional.logsigmoid(decay), scale=q.shape[-1] ** -0.5)


def low_rank(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, decay: Tensor) -> Any:
    a = torch.nn.functional.normalize(a, dim=-1)
    return ssm.dplr_delta_rule(q, k, v, a, -a * b.sigmoid(), torch.nn.functional.logsigmoid(decay))


def mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Any:
    return ssm.mlstm(q, k, v, i, f + 3)[0]


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Any:
    return ssm.selective_scan(u, delta.sigmoid(), -A.exp(), B, C)


def selective_step(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Any:
    after = state.clone()
    return ssm.selective_state_update(after, x, dt.sigmoid(), -A.exp(), B, C), after


def conv_step(x: Tensor, state: Tensor, weight: Tensor) -> Any:
    after = state.clone()
    return ssm.causal_conv1d_update(x, after, weight), after


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Any:
    return ssm.ssd(x, dt.sigmoid(), -A.exp(), B, C)


def conv(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> Any:
    return ssm.causal_conv1d(x, weight, bias, state=state, activation="silu", return_last_state=True)


def heads_of(batch: int, time: int, heads: int, width: int, signals: int, gates: int) -> Shapes:
    """Return the shapes of signals of several heads, and of gates, one number for each head."""
    return ((batch, time, heads, width),) * signals + ((batch, time, heads),) * gates


# ---- quantised numbers -----------------------------------------------------------------------------------------------


def quantized(x: Tensor, scale: Tensor) -> Any:
    """A learned scale, and formats without and with blocks."""
    learned = quant.quantize(x, "int8", scale=scale.abs() + 0.1)
    return learned, *(quant.quantize(x, fmt) for fmt in ("fixed<8,4,RND,SAT>", "posit<16,1>", "nvfp4"))


def learned_point(x: Tensor, point: Tensor) -> Any:
    """A binary point that is learned."""
    return quant.round_fixed(x, 8, point + 4)


def codes(x: Tensor) -> Any:
    found = quant.encode(x, "fixed<6,3,RND,SAT>")
    packed = quant.pack(found, "fixed<6,3,RND,SAT>")
    back = quant.unpack(packed, "fixed<6,3,RND,SAT>", x.shape[-1])
    return packed, quant.decode(back, "fixed<6,3,RND,SAT>")


def products(accumulator: str) -> Callable[..., Any]:
    """A product of numbers with four bits after the point."""
    return lambda x, w: quant.linear(
        *(quant.quantize(y, "fixed<8,4,RND,SAT>") for y in (x, w)), accumulator=accumulator
    )


# ---- relaxation and decision processes -------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def laplacian(side: int, kind: str, device: str) -> Any:
    """Return the five-point Laplacian on a grid: a stencil, or sparse rows."""
    if kind == "stencil":
        return fastiter.relax.Stencil((side, side), np.array([4, -1, -1, -1, -1], np.float32))
    n, at = side * side, torch.arange(side * side)
    off = [(at, at, 4.0), *((at[:-k], at[k:], -1.0) for k in (1, side)), *((at[k:], at[:-k], -1.0) for k in (1, side))]
    rows, columns = (torch.cat([part[k] for part in off]) for k in (0, 1))  # type: ignore[misc]
    values = torch.cat([torch.full((len(part[0]),), part[2]) for part in off])
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, (n, n)).coalesce().to_sparse_csr().to(device)


@lru_cache(maxsize=8)
def relaxation(side: int, kind: str, method: str, device: str, is_card: bool, **how: Any) -> Any:
    """Return the prepared relaxation of the Laplacian; a stencil has no device, and needs a backend."""
    backend: Any = "cuda" if kind == "stencil" and is_card else None
    return relax.Relaxation(laplacian(side, kind, device), method, backend=backend, **how)


def relaxed(kind: str, method: str, **how: Any) -> Callable[..., Any]:
    """Two sweeps and the residual after them."""

    def call(b: Tensor) -> Any:
        from fastiter.relax._torch.relaxation import _GPUS  # in emulation the CPU is among them

        its = relaxation(math.isqrt(b.numel()), kind, method, str(b.device), b.device.type in _GPUS, **how)
        x, right = torch.zeros_like(b), b.detach()
        its.sweep(x, right, 2)
        return x, its.residual(x, right)

    return call


def solved(b: Tensor) -> Any:
    """A solution, which sums the norms of residuals."""
    matrix = laplacian(math.isqrt(b.numel()), "rows", str(b.device))
    return relax.gauss_seidel(matrix, b.detach(), order="color", max_steps=4, rtol=1e30).value


@lru_cache(maxsize=4)
def chain(states: int, device: str) -> tuple[Any, Tensor]:
    """Return the rows of a process with two actions, stay or move on to the next state, and their states."""
    at = torch.arange(states)
    col = torch.stack([at, (at + 1) % states], 1).flatten()
    rows = (torch.arange(2 * states + 1), col, torch.ones(2 * states))
    return tuple(x.to(device) for x in rows), at.repeat_interleave(2).to(device)


def values(reward: Tensor) -> Any:
    """Optimal values of a process with nonnegative rewards, within 0.01; the largest is about 10."""
    rows, states = chain(len(reward) // 2, str(reward.device))
    return ft.mdp.solve(rows, reward.detach().abs(), 0.9, states=states, atol=1e-2).value


# ---- the calls -------------------------------------------------------------------------------------------------------

HALF, DOUBLE = torch.bfloat16, torch.float64
FUSED = ("rnn/forward", "rnn/backward")
ATTENTION = ("ssm/triton_attention", "ssm/triton_attention_gradient", "ssm/triton_attention_keys")
CHUNKS = ("delta/triton_chunks", "delta/triton_chunks_gradient")
QUANTIZE = ("quant/triton_elementwise", "quant/triton_blocks", "quant/triton_gradient")
SELECTIVE = (
    ((1, 8, 9), (1, 8, 9), (8, 4), (1, 4, 9), (1, 4, 9)),
    ((8, 1536, 2048), (8, 1536, 2048), (1536, 16), (8, 16, 2048), (8, 16, 2048)),
)
GRID, BIG = ((9, 9),), ((4096, 4096),)
ROWS, MANY_ROWS = ((81,),), ((1 << 20,),)
PRODUCT = (((4, 20), (5, 20)), ((1024, 1024), (1024, 1024)))

#: By name, the most valuable first
CALLS: dict[str, Call] = {
    "lstm": Call(FUSED, lstm, recurrence(16, 2, 3, 2), recurrence(64, 16, 1024, 12), HALF),
    "lstm in clusters": Call(
        FUSED, lstm, recurrence(256, 2, 8, 1), recurrence(256, 16, 1024, 3), HALF, needs_card=True
    ),
    "lstm of several blocks a head": Call(
        FUSED, lstm, recurrence(768, 2, 8, 1), recurrence(768, 16, 1024, 1), HALF, needs_card=True
    ),
    "linear_scan": Call(("scan/triton_linear",), linear_scan, ((2, 9, 64),) * 2, ((8, 8192, 1024),) * 2),
    "linear_scan, few lanes": Call(("scan/triton_linear",), linear_scan, ((1, 70, 4),) * 2, ((1, 65536, 64),) * 2),
    "linear_attention": Call(
        (*ATTENTION, "ssm/triton_attention_levels"),
        linear_attention,
        ((1, 19, 1, 16),) * 4,
        ((8, 2048, 16, 128),) * 4,
        HALF,
    ),
    "linear_attention, a decay a head": Call(
        ATTENTION, linear_attention, heads_of(1, 35, 1, 16, 3, 1), heads_of(8, 2048, 16, 128, 3, 1), HALF
    ),
    "delta_scan": Call(CHUNKS, delta_scan, heads_of(1, 9, 1, 16, 3, 2), heads_of(8, 2048, 16, 128, 3, 2)),
    "delta_scan in bfloat16": Call(
        CHUNKS, delta_scan, heads_of(1, 70, 1, 16, 3, 2), heads_of(8, 2048, 16, 128, 3, 2), HALF, needs_card=True
    ),
    "selective_scan": Call(("ssm/selective", "ssm/selective_gradient"), selective_scan, *SELECTIVE),
    "selective_scan by Triton": Call(
        ("ssm/triton_selective", "ssm/triton_selective_gradient"), selective_scan, *SELECTIVE, backend="triton"
    ),
    "ssd": Call(
        ATTENTION,
        ssd,
        ((1, 9, 2, 16), (1, 9, 2), (2,), *((1, 9, 1, 16),) * 2),
        ((8, 2048, 16, 128), (8, 2048, 16), (16,), *((8, 2048, 1, 128),) * 2),
        HALF,
    ),
    "mlstm": Call(
        ("ssm/triton_mlstm", *ATTENTION),
        mlstm,
        heads_of(1, 19, 1, 16, 3, 2),
        heads_of(8, 2048, 16, 128, 3, 2),
        HALF,
    ),
    "dplr_delta_rule": Call(
        ("ssm/triton_low_rank", "ssm/triton_low_rank_chunks", "ssm/triton_attention_levels", *ATTENTION),
        low_rank,
        ((1, 9, 1, 16),) * 6,
        ((8, 2048, 16, 64),) * 6,
        HALF,
    ),
    "dplr_delta_rule in float32": Call(
        ("ssm/triton_low_rank", *ATTENTION), low_rank, ((1, 9, 1, 16),) * 6, ((8, 2048, 16, 64),) * 6
    ),
    "causal_conv1d": Call(
        ("ssm/triton_conv",),
        conv,
        ((1, 8, 9), (8, 4), (8,), (1, 8, 3)),
        ((8, 1536, 2048), (1536, 4), (1536,), (8, 1536, 3)),
        HALF,
    ),
    "paragru by Newton's method": Call(
        ("newton/newton",), newton("newton"), ((2, 9, 3, 8), (3, 8)), ((8, 8192, 3, 256), (3, 256))
    ),
    "paragru step by step": Call(
        ("newton/triton_newton",), newton("sequential"), ((2, 9, 3, 8), (3, 8)), ((8, 8192, 3, 256), (3, 256))
    ),
    "block_scan": Call(
        ("scan/triton_block",), block_scan, ((1, 70, 2, 4, 4), (1, 70, 2, 4)), ((8, 1024, 256, 4, 4), (8, 1024, 256, 4))
    ),
    "quantize": Call(QUANTIZE, quantized, ((8, 32), (1,)), ((8192, 8192), (1,))),
    "quantize, a learned point": Call(QUANTIZE[::2], learned_point, ((8, 32), ()), ((8192, 8192), ())),
    "encode, pack, unpack, decode": Call(
        ("quant/triton_elementwise", "quant/triton_codes"), codes, ((8, 32),), ((8192, 8192),), has_gradients=False
    ),
    "linear, bf16": Call(("quant/triton_matmul",), products("bf16"), *PRODUCT, has_gradients=False),
    "linear, fixed<16,8>": Call(
        ("quant/triton_matmul",), products("fixed<16,8,RND,SAT>"), *PRODUCT, has_gradients=False
    ),
    "selective_state_update": Call(
        ("ssm/triton_selective_step",),
        selective_step,
        ((2, 8, 4), (2, 8), (2, 8), (8, 4), (2, 4), (2, 4)),
        ((64, 1536, 16), (64, 1536), (64, 1536), (1536, 16), (64, 16), (64, 16)),
        has_gradients=False,
    ),
    "causal_conv1d_update": Call(
        ("ssm/triton_conv",),
        conv_step,
        ((2, 8), (2, 8, 3), (8, 4)),
        ((64, 1536), (64, 1536, 3), (1536, 4)),
        has_gradients=False,
    ),
    "sweeps of rows": Call(
        ("relax/sweeps",), relaxed("rows", "gauss_seidel", order="color"), ROWS, MANY_ROWS, has_gradients=False
    ),
    "sweeps of blocks": Call(
        ("relax/sweeps",),
        relaxed("rows", "gauss_seidel", order="color", block_size=3),
        ROWS,
        ((999**2,),),
        has_gradients=False,
    ),
    "sweeps of a stencil": Call(
        ("relax/stencil",), relaxed("stencil", "sor", order="red-black", omega=1.5), GRID, BIG, has_gradients=False
    ),
    "Kaczmarz": Call(
        ("relax/kaczmarz",), relaxed("rows", "kaczmarz", order="color"), ROWS, MANY_ROWS, has_gradients=False
    ),
    "gauss_seidel": Call(("relax/sweeps", "relax/norms"), solved, ROWS, MANY_ROWS, has_gradients=False),
    "values of a decision process": Call(
        ("mdp/triton_mdp",), values, ((34,),), ((1 << 20,),), has_gradients=False, rtol=1e-3
    ),
    "lstm step by step": Call(
        ("rnn/step",), lstm, recurrence(16, 2, 3, 2), recurrence(2048, 16, 256, 1), HALF, backend="stepwise"
    ),
    "lstm before compute capability 8.0": Call(
        ("rnn/triton_recurrence",), lstm, recurrence(16, 2, 3, 2), recurrence(64, 16, 1024, 12), backend="triton"
    ),
    "delta_scan in float64": Call(
        ("delta/triton_delta",),
        delta_scan,
        heads_of(1, 5, 1, 8, 3, 2),
        heads_of(2, 512, 4, 64, 3, 2),
        DOUBLE,
    ),
}


# ---- as a program, for compilers and tools ---------------------------------------------------------------------------


def main() -> None:
    """Run calls, with a line before and one after each; an exception ends its call only, unless the card is broken."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--calls", nargs="+", choices=CALLS, metavar="NAME", required=True)
    parser.add_argument("--sizes", choices=("small", "large"), nargs="+", default=["small"], help="default: small")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    place = Place(options.dry_run)
    for name in options.calls:
        call = CALLS[name]
        print(f"begin {name}", flush=True)
        try:
            for size in options.sizes:
                inputs = call.inputs(place.device, getattr(call, size))
                place.run(partial(call.run, inputs))
        except Exception as error:
            traceback.print_exc(limit=4)
            print(f"failed {type(error).__name__}: {error}", flush=True)
            if not is_alive():
                raise SystemExit(BROKEN) from None
        print(f"end {name}", flush=True)


if __name__ == "__main__":
    main()
