"""tests/support/guarded.py for linear attention and mLSTM: every array is placed between two inaccessible pages.

python -m tests.ssm.guarded_attention [numpy | torch]: run by test_isa.py for every instruction set.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastiter
from tests.ssm.attention_calls import attention_inputs
from tests.ssm.calls import some_bounds, some_lengths, some_resets
from tests.ssm.mlstm_calls import mlstm_inputs
from tests.support.guarded import copies, guarded

#: NaN with low bits that would be an exponent beyond the largest, if they were taken for a number
NAN = {np.float32: np.uint32(0x7FC0008C).view(np.float32), np.float64: np.uint64(0x7FF8000000000480).view(np.float64)}
SIZES = [(1, 1, 1, 1), (49, 2, 3, 5), (60, 2, 17, 33), (7, 4, 64, 65)]  # steps, heads, K, V


def every_case(dtype: Any) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(function, arguments, whether the end of each array is aligned with the end of its pages)"""
    for (time, heads, keys, values), decay, at_end in itertools.product(SIZES, ("none", "vector"), (False, True)):
        size, shared = (2, time, heads, keys, values), 2 if heads == 4 else 1
        inputs = attention_inputs(size, dtype, decay, shared=shared, bonus=True)
        if inputs.log_decay is not None:
            inputs.log_decay[1, time // 2, 0] = NAN[dtype]
        cut = {"lengths": some_lengths(2, time), "reset": some_resets(2, time)}
        yield "linear_attention", guarded_copies({**inputs.arguments(), **cut}, at_end), at_end
        one = mlstm_inputs((1, time, heads, keys, values), dtype, shared=shared, sequences=3)
        yield "mlstm", guarded_copies({**one, "cu_seqlens": some_bounds(3, time)}, at_end), at_end


def guarded_copies(given: dict[str, Any], at_end: bool) -> dict[str, Any]:
    return {n: copies(x, at_end) if isinstance(x, (np.ndarray, tuple)) else x for n, x in given.items()}


def with_numpy(dtype: Any) -> None:
    from fastiter.ssm import _attention, _mlstm

    for name, given, at_end in every_case(dtype):
        for module in (_attention, _mlstm):
            module.empty = lambda shape, dtype, at_end=at_end: guarded(shape, dtype, at_end)  # type: ignore[attr-defined]
        getattr(fastiter.ssm, name)(**given)


def with_torch(dtype: Any) -> None:
    import torch

    import fastiter.torch
    from fastiter.ssm._torch import ops, ops_attention, ops_mlstm

    def tensor(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(tensor(part) for part in x)
        if not isinstance(x, np.ndarray):
            return x
        return torch.from_numpy(x).requires_grad_(x.dtype != bool)

    for name, given, at_end in every_case(dtype):

        def empty(x: Any, shape: Any, strides: Any = None, dtype: Any = dtype, at_end: bool = at_end) -> Any:
            numbers = {torch.float32: np.float32, torch.float64: np.float64}.get(dtype, dtype)
            return torch.from_numpy(guarded(tuple(shape), numbers, at_end))

        for module in (ops, ops_attention, ops_mlstm):
            module.empty = empty  # type: ignore[attr-defined]
        h, last = getattr(fastiter.torch.ssm, name)(**{n: tensor(x) for n, x in given.items()})
        outputs = [h, *last] if isinstance(last, tuple) else [h, last]
        torch.autograd.backward(outputs, [torch.from_numpy(copies(y.detach().numpy(), at_end)) for y in outputs])


def main(library: str) -> None:
    for dtype in (np.float32, np.float64):
        {"numpy": with_numpy, "torch": with_torch}[library](dtype)


if __name__ == "__main__":
    main(sys.argv[1])
    print("done")
