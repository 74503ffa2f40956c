"""tests/support/guarded.py for linear_scan and block_scan: every array is placed between two inaccessible pages.

python -m tests.scan.guarded [numpy | torch]: run by test_isa.py for every instruction set.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastiter
from tests.scan.calls import BROADCASTS, ScanInputs, resets, scan_inputs, some_lengths
from tests.support.guarded import copies, guarded, guarded_tensor

SIZES = [("linear", (D,)) for D in (1, 3, 16, 17, 33, 64, 65, 130)]
SIZES += [
    ("block", sizes) for sizes in ((1, 2), (9, 2), (5, 3), (1, 4), (5, 4), (3, 5), (3, 8), (2, 13), (1, 16), (3, 16))
]
Case = tuple[str, ScanInputs, dict[str, Any], bool]


def every_case(dtype: Any) -> Iterator[Case]:
    """Every size, end, number of steps and kind of factors, each in one direction: with the steps in both."""
    for (kind, sizes), at_end, (B, T) in itertools.product(SIZES, (False, True), ((5, 3), (2, 19))):
        for k, broadcast in enumerate(BROADCASTS):
            reverse = k % 2 == (T > 9)
            inputs = ScanInputs(*copies(tuple(scan_inputs(kind, B, T, sizes, dtype, broadcast)), at_end))
            both = {"reset": copies(resets(B, T), at_end), "lengths": some_lengths(B, T)}
            yield kind, inputs, {"reverse": reverse, **both}, at_end
            yield kind, inputs._replace(a=inputs.a[::-1, ::-1], x=inputs.x[::-1, ::-1]), {"reverse": reverse}, at_end
            packed = ScanInputs(*copies((inputs.a[:1], inputs.x[:1], inputs.state), at_end))
            bounds = [0, *[T // 2] * (B - 1), T]
            yield kind, packed, {"reverse": reverse, "cu_seqlens": bounds}, at_end


def with_numpy(dtype: Any) -> None:
    empty = np.empty
    for kind, inputs, how, at_end in every_case(dtype):
        np.empty = lambda shape, dtype=float, at_end=at_end: guarded(shape, dtype, at_end)  # type: ignore[assignment]
        try:
            getattr(fastiter, f"{kind}_scan")(*inputs, **how)
        finally:
            np.empty = empty


def with_torch(dtype: Any) -> None:
    import torch

    import fastiter.torch

    def tensor(x: Any, at_end: bool, stored: Any) -> Any:
        y = torch.from_numpy(x)
        if stored == torch.bfloat16:
            y = torch.from_numpy(copies(y.bfloat16().view(torch.int16).numpy(), at_end)).view(stored)
        return y.requires_grad_()

    torch.Tensor.new_empty = guarded_tensor  # type: ignore[assignment, method-assign]
    for kind, inputs, how, at_end in every_case(dtype):
        if min(inputs.x.strides) < 0:
            continue
        if "reset" in how:
            how["reset"] = torch.from_numpy(how["reset"])
        for stored in (None, torch.bfloat16) if kind == "linear" and dtype == np.float32 else (None,):
            given = [
                tensor(inputs.a, at_end, stored),
                tensor(inputs.x, at_end, stored),
                tensor(inputs.state, at_end, None),
            ]
            outputs = getattr(fastiter.torch, f"{kind}_scan")(*given, **how)
            cotangents = (tensor(copies(y.detach().float().numpy(), at_end), at_end, y.dtype) for y in outputs)
            if dtype != np.float32:
                cotangents = (torch.from_numpy(copies(y.detach().numpy(), at_end)) for y in outputs)
            torch.autograd.backward(outputs, [y.detach() for y in cotangents])


def main(library: str) -> None:
    for dtype in (np.float32, np.float64, np.complex64):
        {"numpy": with_numpy, "torch": with_torch}[library](dtype)


if __name__ == "__main__":
    main(sys.argv[1])
    print("done")
