"""Codes on a GPU: decoding, and packing of codes of a few bits into bytes.

Codes are not checked: only the low bits of an invalid code are used; past the end of a table it selects the last entry.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..._backend import BackendError
from ..._torch import launch
from ..._torch.ops import contiguous
from .._block_formats import MX, NVFP4, BlockFloat, block_of
from .._check import check_format
from .._codes import _all_values, check_packed, code_bits, code_dtype, is_signed, multiplies_doubles, scale_kind
from .._formats import Fixed, Float, Format, Int
from .._launch import room_for_scales
from .._other_formats import Posit, SumOfPowers, Table
from .._plan import plan_of
from .ops import DTYPES, NAMES, Decode, read
from .triton_forward import BLOCK, Scales, as_signed, scales_of

_TABLE, _FIXED, _INTEGER, _FLOAT, _POSIT = range(5)
_NO_SCALES, _INDICES, _FLOATS = range(3)
#: Maximum number of bits of a code that is decoded with a lookup table
_LOOKED_UP = 16


class _How(NamedTuple):
    """Arguments of the decoding kernel that depend on the format."""

    mode: int
    table: Tensor | None = None
    factor: Tensor | None = None
    entries: int = 1
    numbers: tuple[int, int, int, int] = (0, 0, 0, 0)
    flag: bool = False
    specials: int = 0


@lru_cache(maxsize=256)
def _on_device(fmt: Format, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(_all_values(fmt, np.dtype(NAMES[dtype]))).to(device)


@lru_cache(maxsize=256)
def _powers(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the table of power-of-two block scales, indexed by their 8-bit codes; 255 is NaN."""
    with np.errstate(under="ignore"):
        values = np.where(np.arange(256) == 255, np.nan, np.ldexp(1.0, np.arange(256) - 127))
    return torch.from_numpy(values).to(dtype).to(device)


@lru_cache(maxsize=256)
def _factor(places: int, device: torch.device) -> Tensor:
    return torch.tensor([math.ldexp(1.0, -places)], dtype=torch.float64, device="cpu").to(device)


def _how(fmt: Format, dtype: torch.dtype, device: torch.device) -> _How:
    fmt = fmt.fixed if isinstance(fmt, SumOfPowers) else fmt
    fmt = fmt.element if isinstance(fmt, (MX, NVFP4)) else fmt
    if isinstance(fmt, Fixed):
        to_odd = fmt.width > 53 and dtype == torch.float32
        return _How(_FIXED, factor=_factor(fmt.fraction, device), flag=to_odd)
    if isinstance(fmt, BlockFloat):
        return _How(_FIXED, factor=_factor(fmt.width - 2, device))
    if isinstance(fmt, Int):
        return _How(_INTEGER)
    if code_bits(fmt) <= _LOOKED_UP:
        table = _on_device(fmt, dtype, device)
        return _How(_TABLE, table, entries=table.numel())
    if isinstance(fmt, Float):
        special = 1 << (fmt.bits - 1) if fmt.bits < 64 else -(2**63)
        numbers = (fmt.exponent, fmt.mantissa, int(fmt.bias or 0), special)
        specials = ("none", "ieee", "fn", "fnuz").index(fmt.specials)
        return _How(_FLOAT, numbers=numbers, flag=fmt.subnormals, specials=specials)
    if isinstance(fmt, Posit):
        return _How(_POSIT, numbers=(fmt.n, fmt.es, 0, 0))
    raise BackendError(f"decode: codes of {fmt}, of more than {_LOOKED_UP} bits, have no GPU kernel yet")


def _shared(fmt: Format, scales: Tensor, dtype: torch.dtype) -> tuple[int, Tensor | None]:
    """Return the kind of block scales (table indices or floats), and their lookup table."""
    if isinstance(fmt, Table):
        return _FLOATS, None
    if isinstance(fmt, NVFP4):
        return _INDICES, _on_device(Float(4, 3, "fn"), dtype, scales.device)
    return _INDICES, _powers(dtype, scales.device)


def _checked_scales(codes: Tensor, scales: Tensor, fmt: Format) -> Tensor:
    expected = room_for_scales(tuple(codes.shape), block_of(fmt))
    if tuple(scales.shape) != expected:
        raise ValueError(f"decode: scales must have shape {expected} to go with codes, got {tuple(scales.shape)}")
    if scales.is_complex() or scales.dtype == torch.bool or scales.is_floating_point() != isinstance(fmt, Table):
        raise TypeError(f"decode: scales must be {scale_kind(fmt)} for {fmt}, got dtype {scales.dtype}")
    return as_signed(contiguous(scales))


def decode(call: Decode) -> Tensor:
    """Return the numbers of codes, multiplied by their blocks' scales and by ``scale``."""
    codes, scales, fmt, scale, zero_point, dtype = call
    form = read(fmt)
    y = torch.empty_like(contiguous(codes), dtype=dtype)
    factors = scales_of("decode", y, form, scale, zero_point, powers=False)
    wide = torch.float64 if multiplies_doubles(form) else dtype
    kind, table = (_NO_SCALES, None) if scales is None else _shared(form, scales, wide)
    shared = None if scales is None else _checked_scales(codes, scales, form)
    if codes.numel():
        how = _how(form, wide, codes.device)
        _decode(as_signed(contiguous(codes)), shared, table, kind, y, form, how, factors)
    return y


def _decode(
    codes: Tensor,
    shared: Tensor | None,
    table: Tensor | None,
    kind: int,
    y: Tensor,
    fmt: Format,
    how: _How,
    factors: Scales,
) -> None:
    kernels = launch.triton_kernels("decode", "quant/triton_codes")
    tl, n, size = kernels.tl, codes.shape[-1] if codes.dim() else 1, max(block_of(fmt), 1)
    with launch.on(codes):
        kernels.decode_fwd_kernel[(-(-codes.numel() // BLOCK),)](
            *(codes, y, how.table, how.factor, shared, table, factors.scale, factors.zero_point),
            *(codes.numel(), factors.run, factors.size, n, -(-n // size), size, code_bits(fmt), how.entries),
            *how.numbers,
            MODE=how.mode,
            SIGNED=is_signed(fmt),
            FLAG0=how.flag,
            SPECIALS=how.specials,
            SCALES=kind,
            DOUBLES=multiplies_doubles(fmt) or (isinstance(fmt, Int) and plan_of(fmt, NAMES[y.dtype], False).in_double),
            HAS_SCALE=factors.scale is not None,
            HAS_ZERO_POINT=factors.zero_point is not None,
            SHARING=factors.sharing(codes.numel()),
            INDEX=tl.int32 if codes.numel() < 2**31 else tl.int64,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )


# ---- packing --------------------------------------------------------------------------------------------------------


def pack(codes: Tensor, fmt: Format | str) -> Tensor:
    """Pack the codes along the last axis into bytes, with only as many bits per code as the format has."""
    form = check_format("pack", fmt)
    bits, n = code_bits(form), codes.shape[-1] if codes.dim() else 1
    given = as_signed(contiguous(codes.to(DTYPES[code_dtype(form).name])))
    packed = torch.empty((*codes.shape[:-1], -(-n * bits // 8)), dtype=torch.uint8, device=codes.device)
    if packed.numel():
        kernels = launch.triton_kernels("pack", "quant/triton_codes")
        with launch.on(codes):
            kernels.pack_fwd_kernel[(-(-packed.numel() // BLOCK),)](
                given, packed, packed.numel(), n, packed.shape[-1], BITS=bits, BLOCK=BLOCK
            )
    return packed


def unpack(packed: Tensor, fmt: Format | str, n: Any) -> Tensor:
    """Return the n codes of each row of bytes."""
    form = check_format("unpack", fmt)
    if packed.dtype != torch.uint8:
        raise TypeError(f"unpack: packed must be uint8, got dtype {packed.dtype}")
    bits = code_bits(form)
    check_packed(tuple(packed.shape), bits, n)
    codes = torch.empty((*packed.shape[:-1], n), dtype=DTYPES[code_dtype(form).name], device=packed.device)
    if codes.numel():
        kernels = launch.triton_kernels("unpack", "quant/triton_codes")
        out = as_signed(codes)
        with launch.on(packed):
            kernels.unpack_fwd_kernel[(-(-codes.numel() // BLOCK),)](
                *(contiguous(packed), out, codes.numel(), n, packed.shape[-1]),
                BITS=bits,
                SIGNED=is_signed(form),
                BLOCK=BLOCK,
            )
    return codes
