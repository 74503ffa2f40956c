"""The private ops of rounding to number formats: their calls, and their CPU implementations, which call the kernels.

A format is passed as a string. A scale has one element, or as many axes as x, with sizes that divide those of x.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..._torch.op import Changed, Op
from ..._torch.ops import contiguous, empty
from .. import decode as decode_arrays
from .._codes import code_dtype
from .._formats.base import Format
from .._formats.text import parse
from .._launch import block_scales_shape, count_from_zero_point, launch, refuse_nans
from .._rounding import BlockCodes
from .._scale import UNSCALED, check_scale

_FLOATS = {torch.float32: "float32", torch.float64: "float64", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_SHORT = {torch.int8: "int8", torch.uint8: "uint8", torch.int16: "int16", torch.uint16: "uint16"}
_LONG = {torch.int32: "int32", torch.uint32: "uint32", torch.int64: "int64", torch.uint64: "uint64"}
NAMES = _FLOATS | _SHORT | _LONG
DTYPES = {name: dtype for dtype, name in NAMES.items()}
FLOATS = tuple(_FLOATS)


class Quantize(NamedTuple):
    """A call of the op that rounds numbers."""

    x: Tensor
    fmt: str
    scale: Tensor | None
    zero_point: Tensor | None
    axis: int
    seed: Tensor | None
    function: str
    refuse_nan: bool
    nan: float | None


class Encode(NamedTuple):
    """A call of the op that returns codes, and the block scales' codes if the format has blocks."""

    x: Tensor
    fmt: str
    scale: Tensor | None
    zero_point: Tensor | None
    axis: int
    seed: Tensor | None
    refuse_nan: bool
    nan: float | None

    @property
    def quantize(self) -> Quantize:
        """The call that rounds the same numbers."""
        return Quantize(*self[:6], "encode", *self[6:])


class Decode(NamedTuple):
    """A call of the op that returns the numbers of codes, multiplied by their blocks' scales and by ``scale``."""

    codes: Tensor
    scales: Tensor | None
    fmt: str
    scale: Tensor | None
    zero_point: Tensor | None
    dtype: torch.dtype


class Step(NamedTuple):
    """A call of the op that returns 2^-round(point) for the public function of this name."""

    point: Tensor
    function: str


class Seed(NamedTuple):
    """A call of the op that returns 2^32 seed + counter, then advances the counter.

    It is a single op because the compiler could swap the two steps.
    """

    counter: Changed
    seed: int
    advance: bool


@lru_cache(maxsize=512)
def read(text: str) -> Format:
    """Parse a format string."""
    fmt: Format = parse(text)
    return fmt


class _Rounded(NamedTuple):
    """Outputs of a kernel."""

    y: Tensor
    scales: Tensor | None


# ---- forward --------------------------------------------------------------------------------------------------------


def as_array(x: Tensor | None) -> Any:
    if x is None:
        return None
    return contiguous(x.detach().to(torch.float64) if x.is_floating_point() else x).numpy()


def are_powers(scale: Any) -> bool:
    return bool((np.frexp(scale)[0] == 0.5).all())


@lru_cache(maxsize=4096)
def absorbed_by(fmt: Format, scale: float) -> Format | None:
    """Return the format with a scale of 2^k absorbed in its binary point, or None if that is not possible."""
    mantissa, exponent = math.frexp(scale)
    if fmt._point is None or mantissa != 0.5 or abs(fmt._point.integer + exponent - 1) > 800:
        return None
    own: Any = fmt
    absorbed: Format = replace(own, integer=fmt._point.integer + exponent - 1)
    return absorbed


def empty_codes(lines: Tensor, fmt: Format) -> tuple[Tensor, Tensor | None]:
    """Allocate the codes, and the block scales' codes if the format has blocks."""
    codes = lines.new_empty(lines.shape, dtype=DTYPES[code_dtype(fmt).name])
    if not fmt.block:
        return codes, None
    kind = torch.promote_types(lines.dtype, torch.float32) if fmt._has_float_scales else torch.uint8
    return codes, lines.new_empty(block_scales_shape(lines.shape, fmt.block), dtype=kind)


def _run(call: Quantize, codes: bool) -> _Rounded:
    x, text, scale, zero_point, axis, seed, function, refuse_nan, nan = call
    fmt = read(text)
    name, block = NAMES[x.dtype], fmt.block
    if fmt.stochastic and seed is None:
        raise ValueError(f"{function}: rng must be a seed or a generator for stochastic rounding, got None")
    whole, scales, absorbed = fmt, UNSCALED, None
    if scale is not None and scale.numel() == 1 and zero_point is None:
        absorbed = absorbed_by(fmt, scale.item())
    if absorbed is not None:
        fmt = absorbed
    elif scale is not None or zero_point is not None:
        word = "step" if function == "lsq" else "scale"
        scales = check_scale(function, tuple(x.shape), name, fmt, as_array(scale), as_array(zero_point), word)
    lines = contiguous(x.movedim(axis, -1) if block and x.dim() > 1 else x)
    y, shared = empty_codes(lines, fmt) if codes else (empty(lines, lines.shape), None)
    n = lines.shape[-1] if block and lines.dim() else lines.numel()
    counts = launch(
        *(fmt, scales, (lines.data_ptr(), name), (y.data_ptr(), NAMES[y.dtype]), n, lines.numel() // n if n else 0),
        codes=codes,
        nan=math.nan if nan is None else nan,
        counting=nan is not None,
        seed=0 if seed is None else int(seed) & (2**64 - 1),
        block_scales=0 if shared is None else shared.data_ptr(),
        exact=scales.scale is not None and fmt._point is not None and are_powers(scales.scale),
    )
    if refuse_nan and counts[0] and not whole.has_nan:
        refuse_nans(function, whole)
    if codes:
        count_from_zero_point(y.numpy(), fmt, scales)
    return _Rounded(y, shared)


def _quantize(call: Quantize) -> Tensor:
    y = _run(call, False).y
    return y.movedim(-1, call.axis).contiguous() if read(call.fmt).block and call.x.dim() > 1 else y


def _quantize_fake(call: Quantize) -> Tensor:
    return call.x.new_empty(call.x.shape)


def _encode(call: Encode) -> list[Tensor]:
    result = _run(call.quantize, True)
    return [result.y] if result.scales is None else [result.y, result.scales]


def _encode_fake(call: Encode) -> list[Tensor]:
    x, form = call.x, read(call.fmt)
    lines = x.movedim(call.axis, -1) if form.block and x.dim() > 1 else x
    codes, scales = empty_codes(lines, form)
    return [codes] if scales is None else [codes, scales]


def _decode(call: Decode) -> Tensor:
    codes, scales, fmt, scale, zero_point, dtype = call
    array = codes.contiguous().numpy()
    encoded = array if scales is None else BlockCodes(array, scales.contiguous().numpy())
    factor, zero = as_array(scale), as_array(zero_point)
    decoded = decode_arrays(encoded, read(fmt), scale=factor, zero_point=zero, dtype=NAMES[dtype])
    return torch.from_numpy(np.ascontiguousarray(decoded))


def _decode_fake(call: Decode) -> Tensor:
    return call.codes.new_empty(call.codes.shape, dtype=call.dtype)


#: Largest magnitude of a binary point: steps and their reciprocals are then normal float32 numbers.
MAX_POINT = 126


def _step(call: Step) -> Tensor:
    point, function = call
    if point.dim() == 0:
        value = point.item()
        if abs(value) <= MAX_POINT:  # a scalar needs no array
            return torch.tensor(2.0 ** -round(value), dtype=torch.float64, device="cpu")
    points = np.rint(as_array(point))
    fine = np.abs(points) <= MAX_POINT
    if not fine.all():
        wrong = points[~fine].flat[0]
        raise ValueError(f"{function}: point must be from -{MAX_POINT} to {MAX_POINT}, got {wrong:g}")
    return torch.from_numpy(np.asarray(np.ldexp(1.0, -points.astype(np.int64))))


def _step_fake(call: Step) -> Tensor:
    return call.point.new_empty(call.point.shape, dtype=torch.float64)


def next_seed(call: Seed) -> Tensor:
    """Implement the op on every device."""
    counter, seed, advance = call
    next_value = counter + (seed << 32)
    if advance:
        counter.add_(1)
    return next_value


def _seed_fake(call: Seed) -> Tensor:
    return call.counter.new_empty(call.counter.shape)


quantize_op = Op("_quantize", Quantize, _quantize, _quantize_fake)
encode_op = Op("_quant_encode", Encode, _encode, _encode_fake)
decode_op = Op("_quant_decode", Decode, _decode, _decode_fake)
step_op = Op("_quant_step", Step, _step, _step_fake)
seed_op = Op("_quant_seed", Seed, next_seed, _seed_fake)
