"""The numbers by which the kernels know roundings, overflow modes and dtypes."""

from __future__ import annotations

from ... import _core

kind, overflow = _core.quant.kind, _core.quant.overflow
_rounding, _element = _core.quant.rounding, _core.quant.element

#: The names used by fixed point, by floats, and by other formats
ROUNDINGS = {
    "TRN": _rounding.down,
    "TRN_ZERO": _rounding.zero,
    "RND": _rounding.half_up,
    "RND_ZERO": _rounding.half_zero,
    "RND_MIN_INF": _rounding.half_down,
    "RND_INF": _rounding.half_away,
    "RND_CONV": _rounding.even,
    "RD": _rounding.down,
    "RZ": _rounding.zero,
    "RNA": _rounding.half_away,
    "RNE": _rounding.even,
    "RU": _rounding.up,
    "RA": _rounding.away,
    "NEAREST": _rounding.even,
    "STOCHASTIC": _rounding.stochastic,
}
ELEMENTS = {
    "float32": _element.f32,
    "float64": _element.f64,
    "float16": _element.f16,
    "bfloat16": _element.bf16,
    "int8": _element.i8,
    "uint8": _element.u8,
    "int16": _element.i16,
    "uint16": _element.u16,
    "int32": _element.i32,
    "uint32": _element.u32,
    "int64": _element.i64,
    "uint64": _element.u64,
}
