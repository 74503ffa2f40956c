"""tests/support/guarded.py for delta_scan: every array is placed between two inaccessible pages.

python -m tests.delta.guarded [numpy | torch]: run by test_isa.py for every instruction set.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.delta.calls import DeltaInputs, delta_inputs, run, some_bounds, some_resets
from tests.rnn.calls import some_lengths
from tests.support.guarded import copies, guarded

SIZES = list(itertools.product((None, 2), (1, 7, 16, 33), (1, 3, 17, 64, 65)))


def every_case(dtype: Any) -> Iterator[tuple[DeltaInputs, dict[str, Any], bool]]:
    for (M, K, V), at_end, method in itertools.product(SIZES, (False, True), ("sequential", "chunk")):
        B, T = 2, 19
        how: dict[str, Any] = {"method": method, "chunk": 8}
        inputs = DeltaInputs(*copies(tuple(delta_inputs(B, T, 2, K, V, dtype, M=M)), at_end))
        yield inputs, {**how, "lengths": some_lengths(B, T), "reset": copies(some_resets(B, T), at_end)}, at_end
        backwards = inputs._replace(q=inputs.q[::-1, ::-1], k=inputs.k[::-1, ::-1], v=inputs.v[::-1, ::-1])
        yield backwards, how, at_end
        packed = DeltaInputs(*copies(tuple(delta_inputs(1, T, 2, K, V, dtype, M=M, rows=3)), at_end))
        yield packed, {**how, "cu_seqlens": some_bounds(3, T)}, at_end


def with_numpy(dtype: Any) -> None:
    from fastiter import delta

    for inputs, how, at_end in every_case(dtype):
        delta.empty = lambda shape, dtype, at_end=at_end: guarded(shape, dtype, at_end)  # type: ignore[assignment]
        run(inputs, **how)


def with_torch(kind: Any) -> None:
    import torch

    import fastiter.torch
    from fastiter.delta._torch import ops

    for inputs, how, at_end in every_case(kind):
        if min(inputs.q.strides) < 0:
            continue

        def empty(x: Any, shape: Any, at_end: bool = at_end, dtype: Any = None) -> Any:
            assert dtype in (None, x.dtype)
            return torch.from_numpy(guarded(tuple(shape), kind, at_end))

        ops.empty = empty  # type: ignore[assignment]
        given = [torch.from_numpy(x).requires_grad_() for x in inputs.arrays().values()]
        if "reset" in how:
            how["reset"] = torch.from_numpy(how["reset"])
        outputs = fastiter.torch.delta_scan(*given[:5], decay=given[5], **how)
        torch.autograd.backward(outputs, [torch.from_numpy(copies(y.detach().numpy(), at_end)) for y in outputs])


def main(library: str) -> None:
    for dtype in (np.float32, np.float64):
        {"numpy": with_numpy, "torch": with_torch}[library](dtype)


if __name__ == "__main__":
    main(sys.argv[1])
    print("done")
