"""One call of the rounding kernels, for arrays and for tensors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NoReturn, TypeAlias

import numpy.typing as npt

from .. import _core
from ._formats.base import Format
from ._formats.modes import ELEMENTS
from ._formats.plan import Plan
from ._scale import Scale

#: Contiguous numbers (an array, or the address of a tensor's data), and the name of their dtype
Place: TypeAlias = tuple[Any, str]


@lru_cache(maxsize=512)
def plan_of(fmt: Format, dtype: str, codes: bool) -> Plan:
    """Return the plan for a format and the dtype of the numbers; ``codes`` asks for codes instead of values."""
    return fmt._plan(dtype, codes)


@lru_cache(maxsize=512)
def _kernel_format(fmt: Format, dtype: str, codes: bool) -> _core.quant.Format:
    """Return the plan as the kernels read it."""
    return _core.quant.Format(plan_of(fmt, dtype, codes), codes)


def launch(
    fmt: Format,
    scale: Scale,
    x: Place,
    y: Place,
    n: int,
    lines: int,
    *,
    codes: bool,
    nan: float,
    counting: bool,
    seed: int,
    block_scales: Any = 0,
    exact: bool = False,
) -> tuple[int, int, int]:
    """Round ``lines`` lines of n numbers; return how many were NaN, overflowed and underflowed.

    block_scales receives the scales of blocks. exact: fixed point with scales of 2^k is computed in doubles, which hold
    the product of any float32 and a power of two.
    """
    name = x[1]
    described = _kernel_format(fmt, "float64" if exact else name, codes)
    scales = None
    if scale.scale is not None:
        in_float = name != "float64" and not fmt._is_affine and not exact
        scales = scale.for_kernel(described.in_double, in_float)
    counts: tuple[int, int, int] = _core.quant.quantize(
        *(described, scales, nan, counting, seed, block_scales),
        *(x[0], ELEMENTS[name], y[0], ELEMENTS[y[1]], lines, n),
    )
    return counts


def count_from_zero_point(codes: npt.NDArray[Any], fmt: Format, scale: Scale) -> None:
    """Add the zero point to integer codes with one scale: the kernel returns them relative to it."""
    if fmt._is_affine and scale.uniform is not None and scale.uniform[1]:
        codes += codes.dtype.type(scale.uniform[1])


def refuse_nans(function: str, fmt: Format) -> NoReturn:
    """Refuse NaNs that the format cannot represent."""
    raise ValueError(f"{function}: x contains NaN, which {fmt} cannot represent; pass nan=<value> to replace it")


def block_scales_shape(shape: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Return the shape of the scales of blocks along the last axis."""
    n = shape[-1] if shape else 1
    return (*shape[:-1], -(-n // block))
