"""Calls with every array between two inaccessible guard pages: an access out of bounds ends the process.

python -m tests.support.guarded [numpy | quant | torch]: run by test_isa.py for every instruction set.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import mmap
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastiter import _core
from fastiter.quant import encode, pack, quantize, unpack
from fastiter.rnn._cells import CELLS
from tests.newton import calls as newton_calls
from tests.newton.calls import PARA_CELLS, ParaInputs, para_inputs
from tests.quant.cases import KINDS
from tests.rnn.calls import options, run, some_lengths
from tests.support.cases import RNN_CELLS, Array, RnnInputs, rnn_inputs

PAGE = mmap.PAGESIZE
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(shape: Any, dtype: Any, at_end: bool) -> Array:
    """An uninitialised array that ends where its last page ends, or begins where its first page begins."""
    count, dtype = int(np.prod(shape)), np.dtype(dtype)
    size = count * dtype.itemsize
    pages = max(1, -(-size // PAGE))
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (address, address + (pages + 1) * PAGE):
        if _mprotect(guard, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE + (pages * PAGE - size if at_end else 0)
    return np.frombuffer(memory, dtype, count, offset).reshape(shape)


def copies(arrays: Any, at_end: bool) -> Any:
    if isinstance(arrays, tuple):
        return tuple(copies(a, at_end) for a in arrays)
    y = guarded(arrays.shape, arrays.dtype, at_end)
    y[...] = arrays
    return y


def layouts(inputs: RnnInputs, at_end: bool) -> list[RnnInputs]:
    inputs = RnnInputs(*copies(tuple(inputs), at_end))
    time_major = copies(np.ascontiguousarray(inputs.wx.swapaxes(0, 1)), at_end).swapaxes(0, 1)
    return [inputs, inputs._replace(wx=time_major), inputs._replace(wx=inputs.wx[::-1, ::-1])]


def guarded_tensor(x: Any, shape: Any, dtype: Any = None, **_: Any) -> Any:
    """Guarded replacement of Tensor.new_empty, bfloat16 included."""
    import torch

    wanted = dtype or x.dtype
    stored = torch.int16 if wanted == torch.bfloat16 else wanted
    return torch.from_numpy(guarded(tuple(shape), torch.empty(0, dtype=stored).numpy().dtype, True)).view(wanted)


SIZES = list(itertools.product((1, 5, 7), (3,), (2,), (1, 5, 16, 17, 33, 65)))


def every_case(dtype: Any) -> Iterator[tuple[str, str, RnnInputs, dict[str, Any], bool]]:
    """Every cell, size and end, in two of the layouts for a size; whether rows are whole or cut is drawn."""
    draw = random.Random(0)
    every = itertools.product(RNN_CELLS, SIZES, (False, True))
    for k, ((cell, activation), (B, T, N, D), at_end) in enumerate(every):
        inputs = layouts(rnn_inputs(cell, B, T, N, D, dtype), at_end)[(k + k // 12 + k // 36) % 3]  # others for each B
        lengths = draw.choice((None, some_lengths(B, T)))
        yield cell, activation, inputs, {"reverse": bool((B + D) % 2), "lengths": lengths}, at_end


def every_para_case(dtype: Any) -> Iterator[tuple[str, ParaInputs, dict[str, Any], bool]]:
    """Cases of 19 steps: two blocks of 8 steps and a partial one; whether rows are whole or cut is drawn."""
    draw, sizes = random.Random(0), itertools.product((1, 5), (19,), (1, 16, 17, 65))
    for cell, (B, T, D), at_end in itertools.product(PARA_CELLS, sizes, (False, True)):
        inputs = ParaInputs(*copies(tuple(para_inputs(cell, B, T, D, dtype)), at_end))
        time_major = copies(np.ascontiguousarray(inputs.wx.swapaxes(0, 1)), at_end).swapaxes(0, 1)
        for wx in (inputs.wx, time_major, inputs.wx[::-1, ::-1]):
            how = {"reverse": bool((B + D) % 2), "lengths": draw.choice((None, some_lengths(B, T)))}
            yield cell, inputs._replace(wx=wx), how, at_end


def with_numpy(dtype: Any) -> None:
    empty = np.empty

    def call(at_end: bool, function: Any, *arguments: Any, **how: Any) -> None:
        np.empty = lambda shape, dtype=float, at_end=at_end: guarded(shape, dtype, at_end)  # type: ignore[assignment]
        try:
            function(*arguments, **how)
        finally:
            np.empty = empty

    for cell, activation, inputs, how, at_end in every_case(dtype):
        call(at_end, run, cell, activation, inputs, **how)
    for para, given, how, at_end in every_para_case(dtype):
        for method in ("sequential", "newton"):
            call(at_end, newton_calls.run, para, given, method=method, **how)
    with_streams(dtype)


def with_streams(dtype: Any) -> None:
    """Run single steps of each cell, the LSTM with a projection to 3."""
    stream = _core.rnn.Stream_f32 if dtype == np.float32 else _core.rnn.Stream_f64
    cells = {name: CELLS[name] for name in ("elman_tanh", "lstm", "gru", "slstm")}
    for (name, cell), B, inputs, D, at_end in itertools.product(
        cells.items(), (1, 7), (1, 17), (1, 16, 17, 65), (False, True)
    ):
        P = 3 if name == "lstm" else 0
        lines = cell.gates * D
        shapes = [(lines, inputs), (lines, D), (lines,), (lines,), (P, D), (B, lines), (B, inputs), (B, P or D)]
        w_ih, r, b_x, b_h, w_hr, to_first, x, y = (copies(np.ones(shape, dtype), at_end) for shape in shapes)
        first = tuple(
            copies(np.ones((1, B, (P or D) if k == 0 else D), dtype), at_end) for k in range(len(cell.states))
        )
        layer = (inputs, D, P, *(a.ctypes.data for a in (w_ih, r, b_x, b_h, w_hr, to_first)))
        steps = stream(cell.code, B, 1, 0.5, [layer], first, [])
        steps.step_at(x, y)
        steps.step_at(x, y)
        steps.states(first)


def with_torch(dtype: Any) -> None:
    import torch

    import fastiter.torch
    from fastiter._torch import linear

    made = []

    def new_empty(x: Any, shape: Any, **options: Any) -> Any:
        assert options.get("dtype") in (None, x.dtype)
        made.append(shape)
        return torch.from_numpy(guarded(tuple(shape), dtype, at_end=True))

    def new_empty_strided(x: Any, shape: Any, strides: Any, **options: Any) -> Any:
        return new_empty(x, (int(np.prod(shape)),), **options).as_strided(tuple(shape), tuple(strides))

    def backward(outputs: list[Any]) -> None:
        torch.autograd.backward(outputs, [torch.from_numpy(copies(y.detach().numpy(), True)) for y in outputs])

    torch.Tensor.new_empty = new_empty  # type: ignore[assignment, method-assign]
    torch.Tensor.new_empty_strided = new_empty_strided  # type: ignore[assignment, method-assign]
    draw = random.Random(1)
    for cell, activation, inputs, how, _ in every_case(dtype):
        if min(inputs.wx.strides) < 0:
            continue
        wx, r, b = (torch.from_numpy(x).requires_grad_() for x in inputs[:3])
        state = [torch.from_numpy(x).requires_grad_() for x in inputs.state]
        how |= options(activation, return_all_states=True)
        how["checkpoint"] = draw.choice((2, None))
        h, last, states = getattr(fastiter.torch, cell)(wx, r, b, state, **how)
        backward([h, *last, *states[1:]])
    for para, arrays, how, _ in every_para_case(dtype):
        if min(arrays.wx.strides) > 0:
            given = [torch.from_numpy(x).requires_grad_() for x in (arrays.wx, *arrays.weights(), *arrays.state)]
            state = tuple(given[-len(arrays.state) :])
            h, last = getattr(fastiter.torch, para)(*given[: -len(state)], state, **how)
            backward([h, *last])
    for M, N, K, at_end in itertools.product((1, 5, 13), (1, 15, 17, 65), (1, 2, 33, 400), (False, True)):
        shapes = ((M, K), (N, K), (N,))
        x, weight, bias = (torch.from_numpy(copies(np.ones(s, dtype), at_end)).requires_grad_() for s in shapes)
        backward([linear.linear(x, weight, bias)])
    assert made, "the outputs come from elsewhere"


#: Numbers at the limits of formats, and those that are not finite
EDGES = (np.nan, np.inf, -np.inf, -0.0, 1e-40, -3e38, 7.96875, -8.03125, 0.03125, 448.0, 464.0, 6.0)


def numbers(rng: np.random.Generator, n: int, dtype: Any) -> Array:
    """Return 2 n numbers of all sizes that formats have, one in eight of them an edge."""
    with np.errstate(over="ignore", under="ignore"):
        x = (rng.standard_normal((2, n)) * np.exp2(rng.integers(-20, 20, (2, n)))).astype(dtype)
        return np.where(rng.random((2, n)) < 0.125, rng.choice(np.array(EDGES), (2, n)).astype(dtype), x)


def with_quant(dtype: Any) -> None:
    """Print a hash of all results, which are the same on every instruction set."""
    rng, found = np.random.default_rng(0), hashlib.sha256()
    for text, n, at_end in itertools.product(KINDS, (1, 7, 16, 31, 64, 65, 1025), (False, True)):
        for fmt in (text, STOCHASTIC.get(text, text)):
            x, y = copies(numbers(rng, n, dtype), at_end), guarded((2, n), dtype, at_end)
            quantize(copies(np.where(np.isnan(x), dtype(0.5), x), at_end), fmt, out=y, rng=1)
            _, counts = quantize(x, fmt, out=x, counts=True, rng=1, nan=0.0)
            found.update(y.tobytes() + x.tobytes() + repr(counts).encode())
        np.empty, empty = lambda shape, dtype=float, at_end=at_end: guarded(shape, dtype, at_end), np.empty  # type: ignore[assignment]
        try:
            codes = encode(copies(np.nan_to_num(numbers(rng, n, dtype)), at_end), text)
            if not isinstance(codes, tuple):
                found.update(codes.tobytes() + unpack(copies(pack(codes, text), at_end), text, n).tobytes())
        finally:
            np.empty = empty
    for n, at_end in itertools.product((1, 7, 16, 31, 65, 4097), (False, True)):
        dy, x, y = (copies(rng.standard_normal(n).astype(dtype), at_end) for _ in range(3))
        for limits, clip, total in itertools.product((None, (-1.0, 1.0)), (False, True), (False, True)):
            _core.quant.gradient(dtype == np.float64, limits, clip, dy, x, y, guarded(n, dtype, at_end), n, total)
    print(found.hexdigest())


STOCHASTIC = {
    "fixed<8,4,TRN,WRAP>": "fixed<8,4,STOCHASTIC,SAT>",
    "e4m3fn": "e4m3fn<STOCHASTIC>",
    "mxfp4_e2m1<16,RCEIL>": "mx<e2m1<STOCHASTIC>,16>",
}


def main(library: str) -> None:
    for dtype in (np.float32, np.float64):
        {"numpy": with_numpy, "quant": with_quant, "torch": with_torch}[library](dtype)


if __name__ == "__main__":
    main(sys.argv[1])
    print("done")
