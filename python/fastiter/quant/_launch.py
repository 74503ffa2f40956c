"""One call of the rounding kernels, for arrays and for tensors."""

from __future__ import annotations

from typing import Any, NoReturn, TypeAlias

import numpy.typing as npt

from .. import _core
from ._block_formats import block_of
from ._formats import Format, Int
from ._modes import ELEMENTS
from ._plan import int_plan, plan_of
from ._scale import Scale

#: Contiguous numbers (an array, or the address of a tensor's data), and the name of their dtype
Place: TypeAlias = tuple[Any, str]


def launch(
    fmt: Format,
    scales: Scale,
    x: Place,
    y: Place,
    n: int,
    lines: int,
    *,
    codes: bool,
    nan: float,
    counting: bool,
    seed: int,
    shared: Any = 0,
    exact: bool = False,
) -> tuple[int, int, int]:
    """Round ``lines`` lines of n numbers; return how many were NaN, overflowed and underflowed.

    shared receives the scales of blocks. exact: fixed point with scales of 2^k is computed in doubles, which hold the
    product of any float32 and a power of two.
    """
    name, uniform = x[1], None if scales.scale is None else scales.uniform
    if isinstance(fmt, Int) and uniform is not None:
        plan, scaling = int_plan(fmt, name, codes, *uniform), ()
    else:
        plan = plan_of(fmt, "float64" if exact else name, codes)
        in_float = name != "float64" and not isinstance(fmt, Int) and not exact
        scaling = () if scales.scale is None or block_of(fmt) else scales.fields(plan.in_double, in_float)
    described = plan.format(nan, counting, codes, 1.0 if uniform is None else uniform[0], shared)
    found: tuple[int, int, int] = _core.quant.quantize(
        described, scaling, plan.in_double, seed, x[0], ELEMENTS[name], y[0], ELEMENTS[y[1]], lines, n
    )
    return found


def count_from_zero_point(codes: npt.NDArray[Any], fmt: Format, scales: Scale) -> None:
    """Add the zero point to integer codes with one scale: the kernel returns them relative to it."""
    if isinstance(fmt, Int) and scales.uniform is not None and scales.uniform[1]:
        codes += codes.dtype.type(scales.uniform[1])


def refuse_nans(function: str, fmt: Format) -> NoReturn:
    """Refuse NaNs that the format cannot represent."""
    raise ValueError(f"{function}: x contains NaN, which {fmt} cannot represent; pass nan=<value> to replace it")


def room_for_scales(shape: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Return the shape of the scales of blocks along the last axis."""
    n = shape[-1] if shape else 1
    return (*shape[:-1], -(-n // block))
