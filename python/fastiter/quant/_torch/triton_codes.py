"""Codes on a GPU: decoding, and packing of codes of a few bits into bytes.

Codes are not checked: only the low bits of an invalid code are used; past the end of a table it selects the last entry.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..._backend import BackendError
from ..._torch import launch
from ..._torch.ops import contiguous
from .._check import check_format
from .._codes import all_values, check_packed, code_dtype, scale_kind, scale_values
from .._formats.base import TABLE_BITS, Format
from .._launch import block_scales_shape
from .ops import DTYPES, NAMES, Decode, read
from .triton_forward import BLOCK, Scales, as_signed, scales_of

_MODES = ("table", "fixed", "integer", "float", "posit")
_NO_SCALES, _INDICES, _FLOATS = range(3)


class _Constants(NamedTuple):
    """Arguments of the decoding kernel that depend on the format."""

    mode: int
    table: Tensor | None
    factor: Tensor | None
    numbers: tuple[int, int, int, int]
    flag: bool
    specials: int


@launch.constants_of
def _table(fmt: Format, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the values of all codes."""
    return torch.from_numpy(all_values(fmt, np.dtype(NAMES[dtype]))).to(device)


@launch.constants_of
def _scale_table(fmt: Format, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the values of all codes of a block's scale."""
    return torch.from_numpy(scale_values(fmt, np.dtype(NAMES[dtype]))).to(device)


@launch.constants_of
def _factor(places: int, device: torch.device) -> Tensor:
    return torch.tensor([math.ldexp(1.0, -places)], dtype=torch.float64, device="cpu").to(device)


def _constants(fmt: Format, dtype: torch.dtype, device: torch.device) -> _Constants:
    decoder = fmt._decoder()
    if decoder is None:
        raise BackendError(f"decode: codes of {fmt}, of more than {TABLE_BITS} bits, have no GPU kernel yet")
    return _Constants(
        mode=_MODES.index(decoder.mode),
        table=_table(fmt, dtype, device) if decoder.mode == "table" else None,
        factor=_factor(decoder.places, device) if decoder.mode == "fixed" else None,
        numbers=decoder.numbers,
        flag=decoder.flag or (decoder.to_odd and dtype == torch.float32),
        specials=decoder.specials,
    )


def _checked_scales(codes: Tensor, scales: Tensor, fmt: Format) -> Tensor:
    expected = block_scales_shape(tuple(codes.shape), fmt.block)
    if tuple(scales.shape) != expected:
        raise ValueError(f"decode: scales must have shape {expected} to go with codes, got {tuple(scales.shape)}")
    if scales.is_complex() or scales.dtype == torch.bool or scales.is_floating_point() != fmt._has_float_scales:
        raise TypeError(f"decode: scales must be {scale_kind(fmt)} for {fmt}, got dtype {scales.dtype}")
    return as_signed(contiguous(scales))


def decode(call: Decode) -> Tensor:
    """Return the numbers of codes, multiplied by their blocks' scales and by ``scale``."""
    codes, scales, fmt, scale, zero_point, dtype = call
    form = read(fmt)
    y = torch.empty_like(contiguous(codes), dtype=dtype)
    factors = scales_of("decode", y, form, scale, zero_point, powers=False)
    wide = torch.float64 if form.block and form._scales_in_double else dtype
    kind, table = _NO_SCALES, None
    if scales is not None:
        kind = _FLOATS if form._has_float_scales else _INDICES
        table = None if form._has_float_scales else _scale_table(form, wide, scales.device)
    shared = None if scales is None else _checked_scales(codes, scales, form)
    if codes.numel():
        constants = _constants(form, wide, codes.device)
        _decode(as_signed(contiguous(codes)), shared, table, kind, y, form, constants, factors)
    return y


def _decode(
    codes: Tensor,
    shared: Tensor | None,
    table: Tensor | None,
    kind: int,
    y: Tensor,
    fmt: Format,
    constants: _Constants,
    factors: Scales,
) -> None:
    kernels = launch.triton_kernels("decode", "quant/triton_codes")
    tl, n, size = kernels.tl, codes.shape[-1] if codes.dim() else 1, max(fmt.block, 1)
    with launch.on(codes):
        kernels.decode_fwd_kernel[(-(-codes.numel() // BLOCK),)](
            *(codes, y, constants.table, constants.factor, shared, table, factors.scale, factors.zero_point),
            *(codes.numel(), factors.run, factors.size, n, -(-n // size), size, fmt.bits),
            1 if constants.table is None else constants.table.numel(),
            *constants.numbers,
            MODE=constants.mode,
            SIGNED=fmt._has_signed_codes,
            FLAG0=constants.flag,
            SPECIALS=constants.specials,
            SCALES=kind,
            DOUBLES=fmt._scales_in_double,
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
    bits, n = form.bits, codes.shape[-1] if codes.dim() else 1
    contiguous_codes = as_signed(contiguous(codes.to(DTYPES[code_dtype(form).name])))
    packed = torch.empty((*codes.shape[:-1], -(-n * bits // 8)), dtype=torch.uint8, device=codes.device)
    if packed.numel():
        kernels = launch.triton_kernels("pack", "quant/triton_codes")
        with launch.on(codes):
            kernels.pack_fwd_kernel[(-(-packed.numel() // BLOCK),)](
                contiguous_codes, packed, packed.numel(), n, packed.shape[-1], BITS=bits, BLOCK=BLOCK
            )
    return packed


def unpack(packed: Tensor, fmt: Format | str, n: Any) -> Tensor:
    """Return the n codes of each row of bytes."""
    form = check_format("unpack", fmt)
    if packed.dtype != torch.uint8:
        raise TypeError(f"unpack: packed must be uint8, got dtype {packed.dtype}")
    bits = form.bits
    check_packed(tuple(packed.shape), bits, n)
    codes = torch.empty((*packed.shape[:-1], n), dtype=DTYPES[code_dtype(form).name], device=packed.device)
    if codes.numel():
        kernels = launch.triton_kernels("unpack", "quant/triton_codes")
        out = as_signed(codes)
        with launch.on(packed):
            kernels.unpack_fwd_kernel[(-(-codes.numel() // BLOCK),)](
                *(contiguous(packed), out, codes.numel(), n, packed.shape[-1]),
                BITS=bits,
                SIGNED=form._has_signed_codes,
                BLOCK=BLOCK,
            )
    return codes
