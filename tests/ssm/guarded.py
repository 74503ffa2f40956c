"""tests/support/guarded.py for selective scans: every array is placed between two inaccessible pages.

python -m tests.ssm.guarded [numpy | torch]: run by test_isa.py for every instruction set.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastiter
from tests.ssm.calls import ScanInputs, scan_inputs, some_bounds, some_lengths, some_resets
from tests.support.guarded import copies, guarded

SIZES = [(1, 1, 1), (3, 19, 2), (16, 33, 16), (17, 65, 5), (37, 40, 17)]  # channels, steps, states


def every_case(dtype: Any) -> Iterator[tuple[ScanInputs, dict[str, Any], bool]]:
    choices = itertools.product(SIZES, ("", "BC"), (False, True), (False, True))
    for (channels, time, states), fixed, at_end, is_complex in choices:
        inputs = scan_inputs(2, channels, time, states, dtype, fixed=fixed, is_complex=is_complex)
        yield guarded_copies(inputs, at_end), {"lengths": some_lengths(2, time)}, at_end
        reset = copies(some_resets(2, time), at_end)
        backwards = inputs._replace(u=inputs.u[:, ::-1, ::-1], z=None)
        yield guarded_copies(backwards, at_end), {"reset": reset}, at_end
        packed = scan_inputs(1, channels, time, states, dtype, fixed=fixed, sequences=3, is_complex=is_complex)
        yield guarded_copies(packed, at_end), {"cu_seqlens": some_bounds(3, time)}, at_end


def guarded_copies(inputs: ScanInputs, at_end: bool) -> ScanInputs:
    return ScanInputs(*(None if x is None else copies(x, at_end) for x in inputs))


def with_numpy(dtype: Any) -> None:
    from fastiter.ssm import _functional

    for inputs, cut, at_end in every_case(dtype):
        _functional.empty = lambda shape, dtype, at_end=at_end: guarded(shape, dtype, at_end)  # type: ignore[assignment]
        fastiter.ssm.selective_scan(**inputs.arguments(), delta_softplus=True, **cut)
        step = {name: None if x is None else copies(x[..., 0], at_end) for name, x in steps_of(inputs)}
        state = copies(inputs.state[: len(inputs.u)], at_end)  # type: ignore[index]
        if inputs.B.ndim == 4 and inputs.A.dtype == dtype:
            fastiter.ssm.selective_state_update(state, **step, A=inputs.A, D=inputs.D, dt_softplus=True)  # type: ignore[arg-type]


def steps_of(inputs: ScanInputs) -> list[tuple[str, Any]]:
    """The arguments of one step that have a time axis, under the names of selective_state_update."""
    return [("x", inputs.u), ("dt", inputs.delta), ("B", inputs.B), ("C", inputs.C), ("z", inputs.z)]


def with_torch(dtype: Any) -> None:
    import torch

    import fastiter.torch
    from fastiter.ssm._torch import ops

    for inputs, cut, at_end in every_case(dtype):
        if min(inputs.u.strides) < 0:
            continue

        def empty(x: Any, shape: Any, strides: Any = None, dtype: Any = None, at_end: bool = at_end) -> Any:
            numbers = str(x.dtype if dtype is None else dtype).removeprefix("torch.")
            return torch.from_numpy(guarded(tuple(shape), numbers, at_end))

        ops.empty = empty  # type: ignore[assignment]
        given = {name: torch.from_numpy(x).requires_grad_() for name, x in inputs.arguments().items()}
        if "reset" in cut:
            cut["reset"] = torch.from_numpy(cut["reset"])
        outputs = fastiter.torch.ssm.selective_scan(**given, delta_softplus=True, return_last_state=True, **cut)
        torch.autograd.backward(outputs, [torch.from_numpy(copies(y.detach().numpy(), at_end)) for y in outputs])


def with_mixers() -> None:
    """One step of whole mixers, which write only to their states and to new tensors."""
    import torch

    from fastiter import _core
    from tests.ssm.mixer_step_calls import MIXERS, mixer_step

    for kind, dtype, at_end in itertools.product(MIXERS, ("float32", "bfloat16"), (False, True)):

        def between_pages(x: Any, at_end: bool = at_end) -> Any:
            if not isinstance(x, torch.Tensor):
                return tuple(map(between_pages, x)) if isinstance(x, tuple) else x
            bits = x.view(torch.int16 if x.dtype == torch.bfloat16 else torch.int32).numpy()
            return torch.from_numpy(copies(bits, at_end)).view(x.dtype)

        for rows, size in itertools.product((1, 3, 8), ((1, 1, 1, 1, 1), (19, 37, 5, 3, 4), (16, 32, 16, 2, 4))):
            step = mixer_step(kind, rows, size, dtype, dtype)
            given = [between_pages(x) for x in step[:5]]
            assert getattr(_core.ssm, f"{kind}_step")(*given, *step.sizes) is not None


def main(library: str) -> None:
    for dtype in (np.float32, np.float64):
        {"numpy": with_numpy, "torch": with_torch}[library](dtype)
    if library == "torch":
        with_mixers()


if __name__ == "__main__":
    main(sys.argv[1])
    print("done")
