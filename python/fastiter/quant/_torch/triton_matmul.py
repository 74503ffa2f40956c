"""Products with a rounded accumulator on a GPU, by Triton kernels on floats or on fixed-point integers.

With a floating-point accumulator only float64 inputs synchronize, to check that float32 can hold them. With a
fixed-point accumulator the host always needs the integers' width and binary point from the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import BackendError
from ..._torch import launch
from ..._torch.ops import contiguous
from .. import Fixed, Float
from .._matmul import _check_float
from .._operands import span
from .matmul import QuantLinear, check_bits, check_finite, check_float32, check_together
from .ops import read
from .triton_forward import gpu_plan, numbers_of

#: Tile of outputs per program
ROWS, COLUMNS = 16, 64
#: The kernel's constant POINT: position of the products' last place relative to the accumulator's
_BELOW, _ABOVE, _FAR = range(3)
#: Spare bits in an integer, so that the sum of a product and a code does not overflow
_SPARE = 2
#: A place outside the range of all doubles
_NOWHERE = 1 << 20
#: Compute capabilities with half as many operations on doubles as on floats per clock; others have 1/32 or 1/64
_FAST_DOUBLES = ((7, 0), (8, 0), (9, 0), (10, 0))
#: Bits of float32, and the exponent of its smallest normal number
_BITS, _LEAST = 24, -126


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the factors (K, M) and (K, N); a bias becomes the first product, 1 * bias."""
    wide = torch.promote_types(x.dtype, torch.float32)
    a, w = (t.detach().to(wide).t() for t in (x.flatten(0, -2), weight))
    if bias is not None:
        a = torch.cat([a.new_ones(1, a.shape[1]), a])
        w = torch.cat([bias.detach().to(wide)[None], w])
    return contiguous(a), contiguous(w)


# ---- fixed point ----------------------------------------------------------------------------------------------------


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the bits, significands and exponents of doubles: |x| = significand 2^exponent."""
    bits = x.view(torch.int64)
    field = (bits >> 52) & 0x7FF
    significand = (bits & ((1 << 52) - 1)) + (field.clamp(max=1) << 52)
    return bits, significand, field.clamp(min=1) - 1075


def _place(x: Tensor) -> Tensor:
    """Return the position of the leading bit of integers below 2^53."""
    return (x.to(torch.float64).view(torch.int64) >> 52) - 1023


def _measured(x: Tensor) -> Tensor:
    """Return whether all doubles are finite, and the places of their lowest and highest bit; 0 has no bits."""
    if not x.numel():
        return torch.tensor([1, _NOWHERE, -_NOWHERE], device=x.device)
    _, significand, exponent = _parts(x)
    some = significand != 0
    last = torch.where(some, exponent + _place(significand & -significand), _NOWHERE).amin()
    first = torch.where(some, exponent + _place(significand), -_NOWHERE).amax()
    return torch.stack([exponent.amax() < 2047 - 1075, last, first])


def _integers(name: str, measured: list[int]) -> tuple[int, int]:
    """Return the integers' width in bits, checked, and the place of their last bit."""
    finite, last, first = measured
    check_finite(name, bool(finite))
    return (2, 0) if first < last else (check_bits(name, first - last + 2), last)


def _codes(x: Tensor, last: int, kind: torch.dtype) -> Tensor:
    """Return doubles as integers: x / 2^last."""
    bits, significand, exponent = _parts(x)
    up = exponent - last
    codes = (significand << up.clamp(0, 63)) >> (-up).clamp(0, 63)
    return torch.where(bits < 0, -codes, codes).to(kind)


def _fixed(a: Tensor, w: Tensor, y: Tensor, acc: Fixed, every: int) -> None:
    a, w = a.double(), w.double()
    (x_bits, x_last), (w_bits, w_last) = map(_integers, ("x", "weight"), _all_measured(a, w))
    check_together(x_bits, w_bits)
    of_sums = x_bits + w_bits - 2 + (every - 1).bit_length()  # sums are less than 2^of_sums
    if of_sums > 64 - _SPARE:
        got = f"{x_bits} and {w_bits} bits with accumulate_every={every}"
        raise BackendError(f"linear: sums of accumulate_every products must have at most 64 bits on a GPU, got {got}")
    bits = 32 if max(of_sums, acc.width) <= 32 - _SPARE else 64
    dropped = -x_last - w_last - acc.fraction
    kind = torch.int32 if bits == 32 else torch.int64
    _launch(
        "quant_matmul_fixed_fwd_kernel",
        (_codes(a, x_last, kind), _codes(w, w_last, kind), y),
        acc,
        (every, min(abs(dropped), bits - 1), acc.width, acc.saturated_bits),
        POINT=_BELOW if dropped > 0 else _ABOVE if of_sums - dropped <= bits - _SPARE else _FAR,
        OVERFLOW=gpu_plan(acc, "float64", False, False).overflow,
        SIGNED=acc.signed,
        SYMMETRIC=acc.overflow == "SAT_SYM",
    )


def _all_measured(*factors: Tensor) -> list[list[int]]:
    """Return :func:`_measured` of each factor, with one synchronization for all."""
    measurements: list[list[int]] = torch.stack([_measured(x) for x in factors]).tolist()
    return measurements


# ---- floating point -------------------------------------------------------------------------------------------------


def _in_float32(name: str, x: Tensor) -> Tensor:
    if x.dtype == torch.float32:
        return x
    narrow = x.float()
    check_float32(name, bool(((narrow == x) | x.isnan()).all()))
    return narrow


def _prefers_float32(x: Tensor) -> bool:
    """Return whether the GPU computes doubles so slowly that several floats in place of each are faster."""
    if not x.is_cuda:  # interpreted, as in tests
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(x.device) not in _FAST_DOUBLES


def _fits_float32(acc: Float) -> bool:
    """Return whether sums in float32 without an error can be rounded to the format, if the factors allow such sums.

    Rounded to odd, they need two bits more than the format, or they are rounded to float32 itself. A directed rounding
    can leave the range that bounds on the factors imply.
    """
    if not span(acc).in_float32:
        return False
    is_own = acc.min_exponent == _LEAST
    rounds = acc.mantissa <= _BITS - 3 or (acc.rounding == "RNE" and _is_whole(acc))
    is_bounded = acc.rounding in ("RNE", "RNA") or acc.max_exponent < -_LEAST - 2
    return rounds and is_bounded and (is_own or _scales(acc))


def _is_whole(acc: Float) -> bool:
    """Return whether the format has all numbers of float32 up to 2^126."""
    return acc.mantissa == _BITS - 1 and acc.min_exponent == _LEAST and acc.max_exponent >= -_LEAST


def _scales(acc: Float) -> bool:
    """Return whether float32 has the powers of two by which numbers are scaled to integers and back."""
    return acc.mantissa - acc.min_exponent <= -_LEAST


def _holds(a: Tensor, w: Tensor) -> Tensor:
    """Return whether float32 holds all sums of products of float32 numbers without an error, on the device.

    Every bit of a product must have a place, and no sum or intermediate result may overflow: an accumulator that is
    rounded to the nearest number stays below four times the sum of the magnitudes of its products.
    """
    (finite, last, first), (w_finite, w_last, w_first) = _measured(a.double()), _measured(w.double())
    growth = (4 * len(a)).bit_length()
    holds = (finite & w_finite).bool() & (last + w_last >= _LEAST - _BITS + 1)
    split = torch.maximum(first, w_first) <= -_LEAST - _BITS // 2
    return holds & split & (first + w_first + 2 + growth <= -_LEAST)


def _float(a: Tensor, w: Tensor, y: Tensor, acc: Float, every: int) -> None:
    a, w = _in_float32("x", a), _in_float32("weight", w)
    narrow = _holds(a, w) if _prefers_float32(a) and _fits_float32(acc) else None
    for is_narrow in (False,) if narrow is None else (True, False):  # the flag on the device picks one of two
        _launch(
            "quant_matmul_float_fwd_kernel",
            (a, w, y),
            acc,
            (every, acc.mantissa, acc.min_exponent),
            narrow=narrow,
            NARROW=is_narrow,
            SATURATES=acc.overflow == "SAT",
            MINUS=acc.specials != "fnuz",
            INFINITY_DIFFERS=acc.rounding in ("RZ", "RD", "RU"),
            BARE=acc.mantissa == 0,
            OWN=not _scales(acc),
            WHOLE=_is_whole(acc),
        )


# ---- both -----------------------------------------------------------------------------------------------------------


def _launch(
    kernel: str, tensors: tuple[Tensor, Tensor, Tensor], acc: Fixed | Float, whole: tuple[int, ...], **constants: Any
) -> None:
    """Launch a kernel on x (K, M), w (K, N) and y (M, N), with integer arguments, the first of them ``every``."""
    x, _, y = tensors
    programs = -(-y.shape[0] // ROWS) * -(-y.shape[1] // COLUMNS)
    if programs == 0:
        return
    numbers = numbers_of(acc, "float64", False, False, None, y.device).numbers
    run = getattr(launch.triton_kernels("linear", "quant/triton_matmul"), kernel)
    with launch.on(y):
        run[(programs,)](
            *(*tensors, numbers, *y.shape, x.shape[0], *whole),
            ROUNDING=gpu_plan(acc, "float64", False, False).rounding,
            GROUPED=whole[0] > 1,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            **constants,
            enable_fp_fusion=False,
        )


def linear(call: QuantLinear) -> Tensor:
    """Return x weight^T + bias with a rounded accumulator, as :func:`fastiter.torch.quant.linear` defines it."""
    x, weight, bias, accumulate, every = call
    acc: Any = read(accumulate)
    if isinstance(acc, Fixed) and acc.width > 64 - _SPARE:
        raise BackendError(
            f"linear: accumulator must have at most {64 - _SPARE} bits on a GPU, got {acc} with {acc.width}"
        )
    if isinstance(acc, Float):
        _check_float(acc)
    a, w = _transposed(x, weight, bias)
    y = a.new_empty((a.shape[1], w.shape[1]), dtype=torch.float32 if span(acc).in_float32 else torch.float64)
    (_fixed if isinstance(acc, Fixed) else _float)(a, w, y, acc, min(every, max(a.shape[0], 1)))
    return y.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])
