"""Rounding to number formats on a GPU: the plan of a format becomes the arguments of a Triton kernel.

Only two things synchronize with the device: the check for a NaN that is to be refused, and the first call of a format,
which copies its constants. A scale on the device is not checked, even if it is not positive.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import _core
from ..._torch import launch
from ..._torch.ops import contiguous
from .._formats.base import Format
from .._formats.plan import Blocks, Plan
from .._launch import plan_of, refuse_nans
from .._scale import check_scale
from .ops import NAMES, Encode, Quantize, as_array, empty_codes, read

#: Elements per program: elementwise; counters of 4 elements each with stochastic rounding; for formats with blocks
BLOCK, COUNTERS, TILE = 1024, 256, 2048
_KIND = _core.quant.kind
#: A kind and choices of kernels/quant/triton_modes.py; the CPU has one kind for integers and fixed point.
_INTEGER = 11
_ANY, _ONE, _ROWS, _COLUMNS = range(4)
_SIGNED = {torch.uint8: torch.int8, torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


class Numbers(NamedTuple):
    """A format's constants on the device: scalars, and a table if it has one."""

    numbers: Tensor
    thresholds: Tensor | None
    values: Tensor | None


class Scales(NamedTuple):
    """Scales and zero points: element i uses number (i // run) % size. powers: whether all are powers of two."""

    scale: Tensor | None = None
    zero_point: Tensor | None = None
    powers: Tensor | None = None
    run: int = 1
    size: int = 1

    def sharing(self, count: int) -> int:
        """Return how ``count`` elements share the scales: the kernels' constant SHARING."""
        if self.size == 1:
            return _ONE
        return _ROWS if self.run * self.size == count else _COLUMNS if self.run == 1 else _ANY


# ---- formats --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def gpu_plan(fmt: Format, name: str, codes: bool, scaled: bool) -> Plan:
    """Return the plan; if a scale may shift the binary point, it uses float64 unless float32 holds all results."""
    own, fixed = plan_of(fmt, name, codes), fmt._point
    if not scaled or fixed is None or name == "float64":
        return own
    fits = not own.in_double and fixed.width <= 24 and fixed.width == fixed.integer
    return own if fits else plan_of(fmt, "float64", codes)


def _list_of_numbers(fmt: Format, plan: Plan, nan: float) -> list[float]:
    """Return the numbers that the files of the kernels list."""
    fixed, small = plan.fixed, plan.small
    if fixed is None:
        ends = [small.largest, small.over, small.under, small.infinite, small.minus_infinite] if small else []
        return [nan, *ends, *((small.negative, small.smallest) if small else ())]
    if fmt._is_affine:
        return [nan, fixed.lowest, fixed.highest]
    if plan.block:
        return [nan, fixed.highest, fixed.to_code, fixed.from_code]
    half, low_bits = 2.0 ** (fixed.width - 1), 2.0 ** (fixed.width - fixed.saturated)
    saturated = (-half, half - low_bits) if fixed.is_signed else (2 * half - low_bits,) * 2
    factors = (fixed.to_code, fixed.from_code)
    return [nan, *factors, fixed.lowest, fixed.highest, fixed.low, fixed.high, 2 * half, low_bits, *saturated]


def numbers_of(fmt: Format, name: str, codes: bool, scaled: bool, nan: float | None, device: torch.device) -> Numbers:
    """Return the numbers that a kernel reads; ``nan`` is what replaces NaN."""
    return _numbers_of(fmt, name, codes, scaled, float(math.nan if nan is None else nan).hex(), device)


@launch.constants_of
def _numbers_of(fmt: Format, name: str, codes: bool, scaled: bool, nan: str, device: torch.device) -> Numbers:
    plan = gpu_plan(fmt, name, codes, scaled)
    kind = torch.float64 if plan.in_double else torch.float32
    listed = _list_of_numbers(fmt, plan, float.fromhex(nan))  # its digits, as -0.0 and 0.0 are equal keys
    numbers = torch.tensor(listed, dtype=torch.float64, device="cpu").to(kind).to(device)
    if not plan.table:
        return Numbers(numbers, None, None)
    table = plan.table.thresholds, plan.table.values
    return Numbers(numbers, *(torch.from_numpy(np.asarray(part)).to(device) for part in table))


def _wrapped(code: int) -> int:
    return code - 2**64 if code >= 2**63 else code


def _whole_numbers(plan: Plan) -> tuple[int, int, int, int, int]:
    """Return the kernel's integer arguments k0 .. k4."""
    fixed, small, table, posit, powers = plan.fixed, plan.small, plan.table, plan.posit, plan.powers
    if powers:
        return powers.terms, 0, 0, 0, 0
    if posit:
        return posit.n, posit.es, posit.max_exponent, 0, 0
    if table:
        return table.count, small.min_exponent if small else 0, 0, 0, 0
    if small:
        codes = _wrapped(small.nan_code), _wrapped(small.infinity_code)
        return small.mantissa, small.min_exponent, small.bits, *codes
    if fixed and plan.kind == _KIND.wide_fixed:
        return fixed.width, fixed.fraction, fixed.saturated, 0, 0
    return 0, 0, 0, 0, 0


def _flags(plan: Plan) -> tuple[bool, bool, bool, bool, bool]:
    """Return the kernel's constants FLAG0 .. FLAG4."""
    fixed, small, powers = plan.fixed, plan.small, plan.powers
    if fixed and plan.kind == _KIND.wide_fixed:
        return fixed.symmetric, plan.to_odd, False, False, False
    if fixed and plan.kind in (_KIND.fixed, _KIND.powers):
        return fixed.to_code < 1, bool(powers and powers.nearest), False, False, False
    if small:
        of_zero = small.has_zero, small.negative_zero
        return *of_zero, small.own_exponents, small.infinity_differs, small.mantissa == 0
    return (False,) * 5


def _is_signed(plan: Plan) -> bool:
    part = plan.fixed or plan.small
    return part is None or part.is_signed


def _is_short(plan: Plan) -> bool:
    """Return whether a power of two scales all numbers of a small float into the dtype's exponent range."""
    small = plan.small
    return bool(small and small.has_zero and small.min_exponent <= 0 and plan.kind != _KIND.wide_float)


def _steps(plan: Plan) -> int:
    """Return the number of halvings that find a number in the table."""
    return (plan.table.count - 1).bit_length() if plan.table else 0


# ---- scales ---------------------------------------------------------------------------------------------------------


def _known(x: Tensor | None, stand_in: Any) -> Any:
    """Return the values of a CPU tensor; for a GPU tensor, ``stand_in`` everywhere: only its shape is checked."""
    return None if x is None else as_array(x) if x.is_cpu else np.full(tuple(x.shape), stand_in)


def _laid_out(x: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, int]:
    """Return the parameters flattened, and the number of consecutive elements that share one."""
    finer = [axis for axis, size in enumerate(x.shape) if size > 1]
    last = finer[-1]
    run = math.prod(shape[last + 1 :]) * (shape[last] // x.shape[last])
    for axis in range(last) if len(finer) > 1 else ():
        x = x.repeat_interleave(shape[axis] // x.shape[axis], axis)
    return x.reshape(-1), run


def scales_of(
    function: str, x: Tensor, fmt: Format, scale: Tensor | None, zero_point: Tensor | None, powers: bool = True
) -> Scales:
    """Return the scales and zero points on the device of x; values are checked only if they are on the CPU."""
    check_scale(function, tuple(x.shape), NAMES[x.dtype], fmt, _known(scale, 1.0), _known(zero_point, _any_zero(fmt)))
    wide = torch.promote_types(x.dtype, torch.float32)
    zero = None if zero_point is None else zero_point.to(x.device, torch.int64, non_blocking=True)
    if scale is None:
        return Scales(None, zero)
    factor = scale.detach().to(x.device, wide, non_blocking=True)
    if factor.numel() == 1:
        return Scales(factor, zero)
    if zero is not None:
        zero, _ = _laid_out(zero.expand(factor.shape), tuple(x.shape))
    bits = factor.view(torch.int64 if wide == torch.float64 else torch.int32)
    places = 52 if wide == torch.float64 else 23
    fixed = powers and fmt._point is not None
    are = ((bits & ((1 << places) - 1)) == 0).logical_and_(bits >= 1 << places).all() if fixed else None
    factor, run = _laid_out(factor, tuple(x.shape))
    return Scales(factor, zero, are, max(run, 1), factor.numel())


def _any_zero(fmt: Format) -> int:
    """Return a valid zero point of the format."""
    return int(max(fmt._range().lowest, 0)) if fmt._is_affine else 0


# ---- rounding -------------------------------------------------------------------------------------------------------


def as_signed(codes: Tensor) -> Tensor:
    """Return codes viewed as signed integers of the same width, as the kernels require."""
    return codes.view(_SIGNED.get(codes.dtype, codes.dtype))


def seed_on(x: Tensor, seed: Tensor | None) -> Tensor | None:
    """Return the seed on the device of x."""
    if seed is None or seed.device == x.device:
        return seed
    return torch.full((1,), int(seed), dtype=torch.int64, device=x.device)


class _Call(NamedTuple):
    """The options of one call that rounds or encodes contiguous numbers."""

    function: str
    fmt: Format
    scales: Scales
    seed: Tensor | None
    nan: float | None
    codes: bool
    missing: Tensor | None  #: becomes 1 if there is a NaN


def _elementwise(x: Tensor, y: Tensor, call: _Call) -> None:
    function, fmt, scales, seed, nan, codes, missing = call
    name, scaled = NAMES[x.dtype], scales.scale is not None
    plan = gpu_plan(fmt, name, codes, scaled)
    known = numbers_of(fmt, name, codes, scaled, nan, x.device)
    kernels = launch.triton_kernels(function, "quant/triton_elementwise")
    tl = kernels.tl
    size = 4 * COUNTERS if fmt.stochastic else BLOCK
    with launch.on(x):
        kernels.quantize_fwd_kernel[(-(-x.numel() // size),)](
            *(x, y, scales.scale, scales.zero_point, scales.powers, seed if fmt.stochastic else None, missing),
            *(*known, x.numel(), scales.run, scales.size, *_whole_numbers(plan)),
            KIND=_INTEGER if fmt._is_affine else plan.kind,
            ROUNDING=plan.rounding,
            OVERFLOW=plan.overflow,
            T=tl.float64 if plan.in_double else tl.float32,
            CODES=codes,
            REPLACES=nan is not None,
            SIGNED=_is_signed(plan),
            **{f"FLAG{k}": bool(flag) for k, flag in enumerate(_flags(plan))},
            STEPS=_steps(plan),
            SHORT=_is_short(plan),
            HAS_SCALE=scaled,
            HAS_ZERO_POINT=scales.zero_point is not None,
            SHARING=scales.sharing(x.numel()),
            INDEX=tl.int32 if x.numel() < 2**31 else tl.int64,
            BLOCK=COUNTERS if fmt.stochastic else BLOCK,
            enable_fp_fusion=False,
        )


def _carry(block: Blocks, in_double: bool) -> int:
    """Return the addend that carries into the exponent for significands that need a block scale one power higher."""
    kind, places = (np.float64, 52) if in_double else (np.float32, 23)
    one = 1 << places
    bits = int(np.array(block.carry_from, kind).view(f"i{np.dtype(kind).itemsize}"))
    start = one if block.carry_from >= 2 else bits & (one - 1)
    return one - 1 - (start - (not block.beyond))


def _blocks(x: Tensor, y: Tensor, shared: Tensor | None, call: _Call) -> None:
    function, fmt, scales, seed, nan, codes, _ = call
    g = scales.scale
    if g is None and fmt._scale_rule.accepts == "one":
        g = torch.ones((), dtype=torch.float32, device=x.device)
    plan = gpu_plan(fmt, NAMES[x.dtype], codes, False)
    assert plan.block is not None
    known = numbers_of(fmt, NAMES[x.dtype], codes, False, nan, x.device)
    kernels = launch.triton_kernels(function, "quant/triton_blocks")
    size, n = fmt.block, x.shape[-1] if x.dim() else 1
    wide = 1 << (size - 1).bit_length()
    rows = max(TILE // wide, 1)
    per_line = -(-n // size)
    blocks = x.numel() // n * per_line
    with launch.on(x):
        kernels.quantize_blocks_fwd_kernel[(-(-blocks // rows),)](
            *(x, y, shared, g, seed if fmt.stochastic else None, *known, blocks, n, per_line, size),
            *(_carry(plan.block, plan.in_double), plan.block.max_exponent, *_whole_numbers(plan)),
            KIND=plan.kind,
            ROUNDING=plan.rounding,
            T=kernels.tl.float64 if plan.in_double else kernels.tl.float32,
            CODES=codes,
            REPLACES=nan is not None,
            MINUS=bool(plan.small and plan.small.negative_zero),
            STEPS=_steps(plan),
            SHORT=_is_short(plan),
            DENSE=n % size == 0 and wide == size,
            ROWS=rows,
            WIDE=wide,
            enable_fp_fusion=False,
        )


def run(quantize: Quantize, codes: bool) -> tuple[Tensor, Tensor | None]:
    """Return x rounded, or its codes with the codes of the block scales; blocks are moved to the last axis."""
    x, text, scale, zero_point, axis, seed, function, refuse_nan, nan = quantize
    fmt = read(text)
    if fmt.stochastic and seed is None:
        raise ValueError(f"{function}: rng must be a seed or a generator for stochastic rounding, got None")
    block = fmt.block
    scales = scales_of(function, x, fmt, scale, zero_point)
    lines = contiguous(x.detach().movedim(axis, -1) if block and x.dim() > 1 else x.detach())
    y, shared = empty_codes(lines, fmt) if codes else (torch.empty_like(lines), None)
    if not lines.numel():
        return y, shared
    missing = torch.zeros(1, dtype=torch.int32, device=x.device) if refuse_nan and not fmt.has_nan else None
    call = _Call(function, fmt, scales, seed_on(x, seed), nan, codes, missing)
    if block:  # the scales of blocks have a NaN, so nothing is refused
        _blocks(lines, as_signed(y), shared, call)
    else:
        _elementwise(lines, as_signed(y), call)
    if missing is not None and bool(missing):
        refuse_nans(function, fmt)
    return y, shared


def quantize(call: Quantize) -> Tensor:
    """Return x rounded."""
    y, _ = run(call, False)
    return y.movedim(-1, call.axis).contiguous() if read(call.fmt).block and call.x.dim() > 1 else y


def encode(call: Encode) -> list[Tensor]:
    """Return the codes, and the block scales' codes if the format has blocks."""
    codes, shared = run(call.quantize, True)
    return [codes] if shared is None else [codes, shared]
