"""Rounding of arrays, one element or block at a time: the specification of `fastiter.quant.quantize`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from . import formats

Array = npt.NDArray[Any]
#: A number of the format before rounding to the dtype, its code, and whether it was out of range
Element = tuple[Any, int, bool]


def quantize(
    x: Array,
    fmt: Any,
    scale: Array | None,
    zero_point: Array | None,
    seed: int,
    nan: float,
    codes: np.dtype[Any] | None,
) -> tuple[Array, Array | None, tuple[int, int, int]]:
    """Return numbers or codes, the scales of blocks along the last axis (with codes), and the counts.

    nan replaces NaN; scale and zero_point have an element for each of x.
    """
    dtype = x.dtype.name
    compute: type[Any] = np.float64 if dtype == "float64" or _needs_doubles(fmt) else np.float32
    numbers = [float(v) for v in x.ravel()]
    counts = [sum(map(math.isnan, numbers)), 0, 0]
    numbers = [nan if math.isnan(v) else v for v in numbers]
    scaled = list(numbers)
    factors = [None] * len(numbers) if scale is None else [compute(s) for s in scale.ravel()]
    zeros = [0] * len(numbers) if zero_point is None else [int(z) for z in zero_point.ravel()]
    block = getattr(fmt, "block", 0)
    out = np.empty(x.size, codes or x.dtype)
    if block:
        g = compute(1) if not numbers or factors[0] is None else factors[0]
        elements, scales = _blocks(numbers, x.shape, fmt, compute, g, seed, codes is not None)
    else:
        elements, scales = [], []
        for i, (v, factor, zero) in enumerate(zip(numbers, factors, zeros, strict=True)):
            with np.errstate(all="ignore"):
                scaled[i] = v if factor is None else float(compute(v) / factor)
            elements.append(_element(scaled[i], fmt, dtype, zero, _random(fmt, i, seed)))
    for i, (value, code, outside) in enumerate(elements):
        counts[1] += outside
        counts[2] += value == 0 and scaled[i] != 0 and not outside
        if codes is not None:
            out[i] = np.array(code % (1 << (8 * codes.itemsize)), f"u{codes.itemsize}").astype(codes)
            continue
        with np.errstate(all="ignore"):
            if factors[i] is not None and not block:
                value = float(compute(_exactly(value, compute)) * factors[i])
        out[i] = _rounded(value, dtype)
    per_line = -(-x.shape[-1] // block) if block and x.ndim else 1
    kind = np.uint8 if not hasattr(fmt, "values") else np.float64 if dtype == "float64" else np.float32
    shared = np.array(scales, kind).reshape((*x.shape[:-1], per_line)) if block and codes is not None else None
    return out.reshape(x.shape), shared, (counts[0], counts[1], counts[2])


def _needs_doubles(fmt: Any) -> bool:
    """Return whether scaling is in float64: for integers wider than float32's mantissa."""
    return type(fmt).__name__ == "Int" and fmt.width > 24


def _random(fmt: Any, index: int, seed: int) -> int:
    return formats.random_bits(index, seed) if getattr(fmt, "rounding", None) == "STOCHASTIC" else 0


def _exactly(value: Any, compute: type[Any]) -> float:
    return float(value) if not isinstance(value, Fraction) else formats.nearest_float(value, compute.__name__)


def _rounded(value: Any, dtype: str) -> float:
    if isinstance(value, Fraction):
        return formats.nearest_float(value, dtype)
    if value == 0 or not math.isfinite(value):
        return float(value)
    return formats.nearest_float(Fraction(float(value)), dtype)


# ---- formats of single numbers --------------------------------------------------------------------------------------


def _element(x: float, fmt: Any, dtype: str, zero: int, random: int) -> Element:
    name = type(fmt).__name__
    if math.isnan(x) and name != "Posit":
        return math.nan, _nan_code(fmt), False
    element: Element = _ELEMENTS[name](x, fmt, dtype, zero, random)
    return element


def _nan_code(fmt: Any) -> int:
    if type(fmt).__name__ != "Float":
        return 0
    ones = (1 << (fmt.exponent + fmt.mantissa)) - 1
    infinity = ones - ((1 << fmt.mantissa) - 1)
    codes: dict[str, int] = {
        "ieee": infinity + (1 << fmt.mantissa) // 2,
        "fn": ones,
        "fnuz": 1 << (fmt.bits - 1),
        "none": 0,
    }
    return codes[fmt.specials]


def _fixed(x: float, fmt: Any, dtype: str, zero: int, random: int) -> Element:
    v = formats.exact(x) * Fraction(2) ** (fmt.width - fmt.integer)
    rounded = formats.whole(v, fmt.rounding, random)
    code = formats.overflowed(rounded, math.floor(v), fmt)
    symmetric = fmt.overflow == "SAT_SYM" and fmt.signed
    outside = not (-fmt.max_code if symmetric else fmt.min_code) <= rounded <= fmt.max_code
    return (formats.fixed_value(code, fmt) if rounded else Fraction(0)), code, outside


def _int(x: float, fmt: Any, dtype: str, zero: int, random: int) -> Element:
    wanted = formats.whole(formats.exact(x), fmt.rounding, random) + zero
    code = min(max(wanted, fmt.min_code), fmt.max_code)
    return Fraction(code - zero), code, code != wanted


def _float(x: float, fmt: Any, dtype: str, zero: int, random: int) -> Element:
    y = formats.float_value(x, fmt, random)
    unlimited = abs(Fraction(x)) if math.isfinite(x) else formats.BEYOND
    if math.isfinite(x):
        unlimited = abs(
            formats.significand(Fraction(x), fmt.mantissa, fmt.min_exponent, fmt.rounding, random, fmt.subnormals)
        )
    return y, float_code(y, fmt), unlimited > fmt.max_value or (not fmt.signed and x < 0)


def float_code(y: float, fmt: Any) -> int:
    """The code of a number that `Float` represents."""
    if math.isnan(y):
        return _nan_code(fmt)
    sign: int = int(math.copysign(1, y) < 0) << (fmt.bits - 1)
    if math.isinf(y):
        return sign | ((1 << int(fmt.exponent)) - 1) << int(fmt.mantissa)
    if y == 0:
        return sign
    v, low = abs(Fraction(y)), fmt.min_exponent
    e = formats.exponent_of(v)
    if e < low:
        return sign | int(v / Fraction(2) ** (low - fmt.mantissa))
    fraction = int((v / Fraction(2) ** e - 1) * (1 << fmt.mantissa))
    return sign | int(e - low + fmt.subnormals) << int(fmt.mantissa) | fraction


def _posit(x: float, fmt: Any, dtype: str, zero: int, random: int) -> Element:
    code = formats.posit_code(x, fmt.n, fmt.es, fmt.rounding, random)
    outside = not math.isnan(x) and abs(formats.exact(x)) > Fraction(2) ** fmt.max_exponent
    return formats.posit_value(code, fmt.n, fmt.es), code, outside


def _power(x: float, fmt: Any, dtype: str, zero: int, random: int) -> Element:
    largest = Fraction(2) ** fmt.highest
    v = formats.exact(x)
    y = formats.significand(v, 0, fmt.lowest, fmt.rounding, random, True) if v else v
    outside = abs(y) > largest or (not fmt.signed and x < 0)
    y = max(-largest if fmt.signed else Fraction(0), min(y, largest))
    body = 0 if y == 0 else formats.exponent_of(y) - fmt.lowest + 1
    return y, body | (int(y < 0) << (fmt.bits - 1)), outside


def _sum_of_powers(x: float, fmt: Any, dtype: str, zero: int, random: int) -> Element:
    _, code, outside = _fixed(x, fmt.fixed, dtype, zero, random)
    code = formats.powers_code(code, fmt.terms, fmt.method == "NEAREST")
    return formats.fixed_value(code, fmt.fixed), code, outside


def _logarithm(x: float, fmt: Any, dtype: str, zero: int, random: int) -> Element:
    outside = not fmt.signed and x < 0
    if x == 0 or outside:
        return Fraction(0), 0, outside
    lowest, highest = fmt.lowest << fmt.fraction, fmt.highest << fmt.fraction
    step = formats.log_step(abs(Fraction(x)), fmt.fraction) if math.isfinite(x) else highest + 1
    if step < lowest:
        return Fraction(0), 0, False
    y = formats.log_value(min(step, highest), fmt.fraction, "float64" if dtype == "float64" else "float32")
    sign = int(x < 0) << (fmt.bits - 1)
    return math.copysign(y, x), min(step, highest) - lowest + 1 | sign, step > highest


def _table(x: float, fmt: Any, dtype: str, zero: int, random: int) -> Element:
    with np.errstate(over="ignore", under="ignore"):
        values_in_float = [float(np.float32(value)) for value in fmt.values]
    # Blocks store their values in the dtype; stochastic rounding elsewhere is between the exact values.
    in_float = dtype != "float64" and (fmt.rounding != "STOCHASTIC" or fmt.block or values_in_float == list(fmt.values))
    compute: type[Any] = np.float32 if in_float else np.float64
    values = values_in_float if in_float else list(fmt.values)
    v = formats.exact(x)
    outside = not values[0] <= x <= values[-1]
    if fmt.rounding == "STOCHASTIC":
        inside = min(max(x, values[0]), values[-1])
        index = max(i for i, value in enumerate(values) if value <= inside)
        if index + 1 < len(values):
            gap = compute(values[index + 1]) - compute(values[index])
            part = Fraction(float((compute(inside) - compute(values[index])) / gap))
            index += formats.whole(part, "STOCHASTIC", random)
    else:
        index = formats.table_index(v, list(fmt.values))
    return values[index], index, outside


_ELEMENTS = {
    "Fixed": _fixed,
    "Int": _int,
    "Float": _float,
    "Posit": _posit,
    "PowerOfTwo": _power,
    "Table": _table,
    "SumOfPowers": _sum_of_powers,
    "Logarithmic": _logarithm,
}


# ---- blocks ---------------------------------------------------------------------------------------------------------


def _blocks(
    numbers: list[float], shape: tuple[int, ...], fmt: Any, compute: type[Any], g: Any, seed: int, codes: bool
) -> tuple[list[Element], list[Any]]:
    elements: list[Element] = []
    scales: list[Any] = []
    for begin, end in _ranges(len(numbers), shape[-1] if shape else 1, fmt.block):
        part = numbers[begin:end]
        random = [_random(fmt, i, seed) for i in range(begin, end)]
        part_elements, scale = _BLOCKS[type(fmt).__name__](part, fmt, compute, g, random)
        elements += part_elements
        scales.append(scale)
    return elements, scales


def _ranges(size: int, line: int, block: int) -> Iterator[tuple[int, int]]:
    for first in range(0, size, line) if line else ():
        for begin in range(first, first + line, block):
            yield begin, min(begin + block, first + line)


def _all_nan(part: list[float]) -> list[Element]:
    """A block whose scale is NaN; its infinities count as out of range."""
    return [(math.nan, 0, math.isinf(x)) for x in part]


def scale_exponent(largest: Fraction, fmt: Any) -> int:
    """k of an MX block: by its rule, from -127 to 127."""
    if largest == 0:
        return -127
    element = fmt.element
    top = formats.exponent_of(element.max_value)
    if fmt.rule == "EVEN":
        largest = formats.significand(largest, element.mantissa, -100000, "RNE", 0, True)
    k = formats.exponent_of(largest) - top
    if fmt.rule == "CEIL" and largest != Fraction(2) ** (k + top):
        k += 1
    if fmt.rule == "RCEIL" and element.max_value * Fraction(2) ** k < largest:
        k += 1
    return min(max(k, -127), 127)


def _mx(part: list[float], fmt: Any, compute: type[Any], g: Any, random: list[int]) -> tuple[list[Element], int]:
    if not all(map(math.isfinite, part)):
        return _all_nan(part), 255
    k = scale_exponent(max(abs(formats.exact(x)) for x in part), fmt)
    elements = []
    for x, r in zip(part, random, strict=True):
        y, code, outside = _saturated(formats.exact(x) / Fraction(2) ** k, x, fmt.element, r)
        elements.append((Fraction(y) * Fraction(2) ** k if y else y, code, outside))
    return elements, k + 127


def _saturated(v: Fraction, sign: float, fmt: Any, random: int) -> Element:
    """An element of a block: it saturates, whatever the overflow mode of its format."""
    y = formats.significand(v, fmt.mantissa, fmt.min_exponent, fmt.rounding, random, True)
    outside = abs(y) > fmt.max_value
    value = math.copysign(float(min(abs(y), fmt.max_value)), sign)
    if value == 0 and fmt.specials == "fnuz":
        value = 0.0
    return value, float_code(value, fmt), outside


def _nvfp4(part: list[float], fmt: Any, compute: type[Any], g: Any, random: list[int]) -> tuple[list[Element], int]:
    if any(map(math.isnan, part)):
        return _all_nan(part), 127
    with np.errstate(all="ignore"):
        wanted = compute(max(map(abs, part))) / compute(6) / g
    wanted = min(max(wanted, compute(2.0**-9)), compute(448))
    scale = formats.significand(Fraction(float(wanted)), 3, -6, "RNE", 0, True)
    s = compute(float(scale))
    elements = []
    for x, r in zip(part, random, strict=True):
        with np.errstate(all="ignore"):
            v = float(compute(x) / (s * g))
            y, code, outside = _saturated(formats.exact(v), x, fmt.element, r)
            elements.append((float(compute(y) * s * g), code, outside))
    e = max(formats.exponent_of(scale), -6)
    field = int(scale / Fraction(2) ** (e - 3))
    return elements, field if e == -6 and field < 8 else ((e + 7) << 3) + field - 8


def _block_float(
    part: list[float], fmt: Any, compute: type[Any], g: Any, random: list[int]
) -> tuple[list[Element], int]:
    if not all(map(math.isfinite, part)):
        return _all_nan(part), 255
    largest = max(abs(formats.exact(x)) for x in part)
    k = min(max(formats.exponent_of(largest), -127), 127) if largest else -127
    step, bound = Fraction(2) ** (k - (fmt.width - 2)), fmt.max_code
    elements: list[Element] = []
    for x, r in zip(part, random, strict=True):
        wanted = formats.whole(formats.exact(x) / step, fmt.rounding, r)
        code = min(max(wanted, -bound), bound)
        elements.append((code * step, code, code != wanted))
    return elements, k + 127


def _block_table(
    part: list[float], fmt: Any, compute: type[Any], g: Any, random: list[int]
) -> tuple[list[Element], Any]:
    if not all(map(math.isfinite, part)):
        return _all_nan(part), math.nan
    scale = compute(max(map(abs, part)))
    elements = []
    for x, r in zip(part, random, strict=True):
        with np.errstate(all="ignore"):
            v = float(compute(x) / (scale if scale > 0 else compute(1)))
            y, index, _ = _table(v, fmt, compute.__name__, 0, r)
            elements.append((float(compute(y) * scale) + 0.0, index, False))
    return elements, scale


_BLOCKS = {"MX": _mx, "NVFP4": _nvfp4, "BlockFloat": _block_float, "Table": _block_table}
