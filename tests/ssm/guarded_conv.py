"""tests/support/guarded.py for causal convolutions: every array is placed between two inaccessible pages.

python -m tests.ssm.guarded_conv [numpy | torch]: run by test_isa.py for every instruction set.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastiter
from tests.ssm.calls import some_bounds, some_lengths
from tests.ssm.conv_calls import ConvInputs, conv_inputs, some_labels
from tests.support.cases import Array
from tests.support.guarded import copies, guarded

SIZES = [(1, 3, 4), (5, 16, 1), (16, 33, 3), (19, 37, 4), (37, 130, 2), (3, 70, 9)]  # channels, steps, taps


def every_case(dtype: Any) -> Iterator[tuple[ConvInputs, dict[str, Any], bool]]:
    for size, order, at_end in itertools.product(SIZES, ("time", "channels"), (False, True)):
        inputs = guarded_copies(conv_inputs(2, *size, dtype, order=order), at_end)
        yield inputs, {}, at_end
        yield inputs, {"lengths": some_lengths(2, size[1])}, at_end
        yield inputs._replace(state=None), {"seq_idx": some_labels(2, size[1])}, at_end
        packed = conv_inputs(1, *size, dtype, order=order, sequences=3)
        yield guarded_copies(packed, at_end), {"cu_seqlens": some_bounds(3, size[1])}, at_end


def guarded_copies(inputs: ConvInputs, at_end: bool) -> ConvInputs:
    return ConvInputs(in_order(inputs.x, at_end), *(None if y is None else copies(y, at_end) for y in inputs[1:]))


def in_order(x: Array, at_end: bool) -> Array:
    """A guarded copy with the same contiguous axis as x, time or channels."""
    swapped = x.transpose(0, 2, 1)
    return copies(swapped, at_end).transpose(0, 2, 1) if swapped.flags.c_contiguous else copies(x, at_end)


def with_numpy(dtype: Any) -> None:
    from fastiter.ssm import _causal_conv, _functional

    for inputs, cut, at_end in every_case(dtype):
        for module in (_causal_conv, _functional):
            module.empty = lambda shape, dtype, at_end=at_end: guarded(shape, dtype, at_end)  # type: ignore[assignment]
        keeps = "seq_idx" not in cut
        fastiter.ssm.causal_conv1d(**inputs.arguments(), activation="silu", return_last_state=keeps, **cut)
        if inputs.state is None or len(inputs.state) != len(inputs.x):
            continue
        for seen in (None, [3, 1]):
            state = copies(inputs.state, at_end)
            fastiter.ssm.causal_conv1d_update(inputs.x, state, *inputs[1:3], "silu", seen)


def with_torch(dtype: Any) -> None:
    import torch

    import fastiter.torch
    from fastiter.ssm._torch import ops

    for inputs, cut, at_end in every_case(dtype):

        def empty(x: Any, shape: Any, strides: Any = None, at_end: bool = at_end) -> Any:
            batch, channels, time = shape
            if strides is None:
                return torch.from_numpy(guarded(tuple(shape), dtype, at_end))
            return torch.from_numpy(guarded((batch, time, channels), dtype, at_end)).transpose(1, 2)

        ops.empty = empty  # type: ignore[assignment]
        given = {name: torch.from_numpy(y).requires_grad_() for name, y in inputs.arguments().items()}
        cut = {name: torch.as_tensor(y) for name, y in cut.items()}
        out = fastiter.torch.ssm.causal_conv1d(**given, activation="silu", **cut)
        torch.autograd.backward(out, torch.from_numpy(in_order(inputs.x, at_end)))


def main(library: str) -> None:
    for dtype in (np.float32, np.float64):
        {"numpy": with_numpy, "torch": with_torch}[library](dtype)


if __name__ == "__main__":
    main(sys.argv[1])
    print("done")
