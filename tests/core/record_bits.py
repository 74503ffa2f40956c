"""The bits that public functions return on fixed inputs, recorded before code moves and compared after it.

    python tests/core/record_bits.py before.json              on every instruction set of this build that runs here
    python tests/core/record_bits.py after.json before.json   and report the results that differ, on those in both

Only public names are called, so that the same file runs before and after. Each instruction set and number of threads
runs in a separate process, whose results are hashed by name.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Case = tuple[str, Callable[[], Any]]
REAL = (np.float32, np.float64)
CELLS = {"lstm": 4, "gru": 3, "elman": 1, "slstm": 4}
FORMATS = (
    *("fixed<16,6,RND,SAT>", "fixed<8,3,TRN,WRAP>", "ufixed<12,4,RND_CONV,SAT>", "e4m3", "e5m2", "float<4,2>"),
    *("int8", "uint4", "posit<8,1>", "mxfp8_e4m3", "mxfp4_e2m1", "nvfp4"),
)


def generator(*key: int) -> np.random.Generator:
    return np.random.default_rng([20261128, *key])


# ---- Functions on arrays --------------------------------------------------------------------------------------------


def recurrences() -> Iterator[Case]:
    import fastiter

    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "lengths": {"lengths": np.array([17, 0, 9])},
        "reverse": {"reverse": True},
        "states": {"return_all_states": True},
    }
    for (cell, gates), dtype, (name, more), (N, D) in itertools.product(
        CELLS.items(), REAL, options.items(), ((1, 5), (2, 64), (1, 130))
    ):
        rng = generator(gates, N, D)
        wx = rng.standard_normal((3, 17, gates, N, D)).astype(dtype)
        r = (rng.standard_normal((gates, N, D, D)) / np.sqrt(D)).astype(dtype)
        yield (
            f"{cell} {np.dtype(dtype)} {N}x{D} {name}",
            lambda c=cell, a=(wx, r), m=more: getattr(fastiter, c)(*a, **m),
        )


def scans() -> Iterator[Case]:
    import fastiter

    for dtype, D, reverse in itertools.product((*REAL, np.complex64, np.complex128), (1, 24, 200), (False, True)):
        rng = generator(D)
        a, x = (rng.uniform(-1, 1, (3, 100, D)).astype(dtype) for _ in range(2))
        name = f"linear_scan {np.dtype(dtype)} {D} {reverse}"
        yield name, lambda a=a, x=x, r=reverse: fastiter.linear_scan(a, x, reverse=r)
    gates = {"paragru": 3, "paralstm": 3, "paraslstm": 4}
    for cell, dtype, method in itertools.product(gates, REAL, ("sequential", "newton")):
        rng = generator(9)
        wx, weights = rng.standard_normal((2, 40, gates[cell], 24)), rng.uniform(-1, 1, (gates[cell], 24))
        given = [wx, weights, *([rng.uniform(-1, 1, (2, 24))] if cell == "paralstm" else [])]
        call = functools.partial(getattr(fastiter, cell), *(y.astype(dtype) for y in given), method=method)
        yield f"{cell} {np.dtype(dtype)} {method}", call
    for dtype, K in itertools.product(REAL, (1, 2, 3, 8)):
        rng = generator(K)
        a = (rng.uniform(-1, 1, (2, 60, 5, K, K)) / K).astype(dtype)
        x = rng.uniform(-1, 1, (2, 60, 5, K)).astype(dtype)
        yield f"block_scan {np.dtype(dtype)} {K}", lambda a=a, x=x: fastiter.block_scan(a, x)
    for dtype, method in itertools.product(REAL, ("sequential", "chunk")):
        rng = generator(7)
        q, k, v = (rng.standard_normal((2, 70, 2, 32)).astype(dtype) / 6 for _ in range(3))
        beta = rng.uniform(0, 1, (2, 70, 2)).astype(dtype)
        call = functools.partial(fastiter.delta_scan, q, k, v, beta, method=method)
        yield f"delta_scan {np.dtype(dtype)} {method}", call
    for dtype, (D, T, N) in itertools.product(REAL, ((5, 33, 3), (40, 70, 16))):
        rng = generator(D, N)
        u, delta, z = (rng.standard_normal((2, D, T)).astype(dtype) for _ in range(3))
        B, C = (rng.standard_normal((2, N, T)).astype(dtype) for _ in range(2))
        A = -rng.uniform(0, 9, (D, N)).astype(dtype)
        call = functools.partial(fastiter.ssm.selective_scan, u, delta, A, B, C, z=z, delta_softplus=True)
        yield f"selective_scan {np.dtype(dtype)} {D} {N}", call
    for dtype, (D, W) in itertools.product(REAL, ((5, 7), (40, 4))):
        rng = generator(D, W)
        x, weight = rng.standard_normal((2, D, 90)).astype(dtype), rng.standard_normal((D, W)).astype(dtype)
        call = functools.partial(fastiter.ssm.causal_conv1d, x, weight, activation="silu")
        yield f"causal_conv1d {np.dtype(dtype)} {D} {W}", call


def attentions() -> Iterator[Case]:
    from fastiter import ssm

    for dtype, (T, K) in itertools.product(REAL, ((9, 5), (150, 32))):
        rng = generator(T, K)
        q, k, v, a, b = (rng.standard_normal((2, T, 2, K)).astype(dtype) / K for _ in range(5))
        i, f, dt = (rng.standard_normal((2, T, 2)).astype(dtype) for _ in range(3))
        rates = -rng.uniform(0, 2, 2).astype(dtype)
        given: dict[str, tuple[Any, ...]] = {
            "linear_attention": (q, k, v, -abs(f)),
            "dplr_delta_rule": (q, k, v, a, b, -abs(f)),
            "mlstm": (q, k, v, i, f),
            "ssd": (v, abs(dt), rates, k, q),
        }
        for function, arguments in given.items():
            call = functools.partial(getattr(ssm, function), *arguments)
            yield f"{function} {np.dtype(dtype)} {T} {K}", call


def numbers() -> Iterator[Case]:
    from fastiter import quant

    for text, dtype in itertools.product(FORMATS, REAL):
        x = (generator(3).standard_normal((6, 64)) * 3).astype(dtype)
        yield f"quantize {text} {np.dtype(dtype)}", lambda x=x, f=text: quant.quantize(x, f)
        yield f"encode {text} {np.dtype(dtype)}", lambda x=x, f=text: quant.decode(quant.encode(x, f), f)
    a, b = (quant.FixedArray(generator(i).uniform(-4, 4, (24, 24)), "fixed<12,4,RND,SAT>") for i in range(2))
    yield "fixed_matmul", lambda: np.asarray(quant.fixed_matmul(a, b, "fixed<16,8,TRN,WRAP>").codes)
    x, y = (generator(i).standard_normal((24, 40)).astype(np.float32) for i in (1, 2))
    for accumulator in ("float32", "float<5,10>", "fixed<24,12,RND,SAT>"):
        call = functools.partial(quant.quant_matmul, x, y.T, "e4m3", "e5m2", accumulator)
        yield f"quant_matmul {accumulator}", call
    yield "fixed add, multiply", lambda: (np.asarray((a + b).codes), np.asarray((a * b).codes))


def relaxations() -> Iterator[Case]:
    import scipy.sparse as sp

    from fastiter import ConvergenceWarning, relax

    def solve(function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        with warnings.catch_warnings():  # 25 sweeps need not converge
            warnings.simplefilter("ignore", ConvergenceWarning)
            return function(*arguments, max_steps=25, **more).value

    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(24, 24))
    grid = (sp.kron(sp.eye_array(24), line) + sp.kron(line, sp.eye_array(24))).tocsr()
    for method, dtype in itertools.product(("jacobi", "gauss_seidel", "sor", "ssor", "kaczmarz"), REAL):
        A, b = grid.astype(dtype), generator(5).standard_normal(576).astype(dtype)
        more = {"omega": 1.3} if method in ("sor", "ssor") else {}

        yield f"{method} {np.dtype(dtype)}", functools.partial(solve, getattr(relax, method), A, b, **more)
    prepared = relax.Relaxation(grid, "ssor", order="color")  # with omega "auto", which the first solution estimates
    yield "Relaxation ssor color", functools.partial(solve, prepared.solve, generator(6).standard_normal(576))


ON_ARRAYS = (recurrences, scans, attentions, numbers, relaxations)


# ---- Tensors and their gradients ------------------------------------------------------------------------------------


def tensors() -> Iterator[Case]:
    import torch

    import fastiter.torch.nn

    for name, dtype, size in itertools.product(
        ("LSTM", "GRU", "RNN", "sLSTM"), (torch.float32, torch.float64, torch.bfloat16), (6, 96)
    ):
        torch.manual_seed(size)
        layer = getattr(fastiter.torch.nn, name)(size, size).to(dtype)
        x = torch.randn(20, 3, size).to(dtype).requires_grad_()

        def gradients(layer: Any = layer, x: Any = x) -> Any:
            output = layer(x)[0]
            made = torch.autograd.grad(output.float().square().sum(), [x, *layer.parameters()])
            return [y.detach().float().numpy() for y in (output, *made)]

        yield f"{name} {dtype} {size} gradients", gradients
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(1)
        a, x = (torch.rand(2, 50, 40, dtype=dtype).requires_grad_() for _ in range(2))

        def of_scan(a: Any = a, x: Any = x) -> Any:
            h = fastiter.torch.linear_scan(a, x)[0]
            return [y.detach().numpy() for y in (h, *torch.autograd.grad(h.square().sum(), [a, x]))]

        yield f"linear_scan {dtype} gradients", of_scan


# ---- Hashes ---------------------------------------------------------------------------------------------------------


def bytes_of(result: Any) -> Iterator[bytes]:
    """Return the bytes of all arrays of a result in order, nested tuples flattened."""
    if isinstance(result, (tuple, list)):
        for part in result:
            yield from bytes_of(part)
    elif result is not None:
        array = np.ascontiguousarray(result)
        yield f"{array.dtype} {array.shape}".encode() + array.tobytes()


def record(threads: int) -> dict[str, str]:
    import fastiter

    fastiter.set_num_threads(threads)
    cases = (case for family in (*ON_ARRAYS, tensors) for case in family())
    return {name: hashlib.sha256(b"".join(bytes_of(call()))).hexdigest() for name, call in cases}


def in_process(isa: str, threads: int) -> dict[str, str]:
    command = [sys.executable, __file__, "--one", str(threads)]
    done = subprocess.run(command, env={**os.environ, "FASTITER_ISA": isa}, check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return {f"{isa} {name}": digest for name, digest in found.items()}


def main(out: Path, before: Path | None) -> int:
    import fastiter

    found: dict[str, str] = {}
    wrong = []
    available = fastiter._core.isa_available().split()
    for isa in available:
        one, two = in_process(isa, 1), in_process(isa, 2)
        wrong += [f"{name}: 1 thread and 2 differ" for name in one if one[name] != two[name]]
        found |= one
    out.write_text(json.dumps(found, indent=0) + "\n")
    if before is not None:
        recorded = json.loads(before.read_text())
        expected = {name: bits for name, bits in recorded.items() if name.split()[0] in available}
        wrong += [f"{name}: not as before" for name in expected if name in found and found[name] != expected[name]]
        wrong += [f"{name}: missing" for name in expected if name not in found]
    print("\n".join(wrong) if wrong else f"{len(found)} results" + (", all as before" if before else ""))
    return bool(wrong)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(record(int(sys.argv[2]))))
    else:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
