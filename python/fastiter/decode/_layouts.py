"""Quantized weights of checkpoints as the codes and scales of packed matrices, without rounding.

A matrix W (N, K) has codes q and a scale for each group of inputs; integer formats may also have a zero point:
W = scale (q - zero). Integers are stored in words of 32 bits, the first in the lowest bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ._pack import KINDS, PackedMatrix, pack_codes

Array: TypeAlias = npt.NDArray[Any]
#: Outputs in the order in which AWQ stores them in a word
_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)
_WORD = 32
#: Inputs of which a group is a multiple
_STEP = KINDS["int4"].step
#: Smallest and largest code of packed integers
_LIMITS = {"int4": (-8, 7), "int8": (-128, 127)}


class Codes(NamedTuple):
    """The arguments of pack_codes for a matrix."""

    codes: Array
    scales: Array
    format: str
    group: int | None = None
    scale: float = 1.0

    def pack(self) -> PackedMatrix:
        """Return the packed matrix."""
        return pack_codes(*self)


def from_compressed_tensors(
    name: str, packed: Array, scales: Array, shape: tuple[int, int], bits: int, zero: Array | None = None
) -> Codes:
    """Return the codes of "pack-quantized" weights.

    Parameters
    ----------
    name : str
        The module, for errors.
    packed : ndarray, int32, (N, ceil(K bits / 32))
        ``weight_packed``: q + 2^(bits - 1).
    scales : ndarray of floats, (N, G)
        ``weight_scale``: a scale for each of G groups, which are equally long, or for the whole row.
    shape : tuple of int
        ``weight_shape``: N and K.
    bits : int
        ``num_bits`` of the quantization.
    zero : ndarray, int32, (ceil(N bits / 32), G), optional
        ``weight_zero_point``, in the same way.
    """
    _check_bits(name, bits)
    N, K = shape
    _check(name, "weight_packed", packed, (N, -(-K * bits // _WORD)))
    _check(name, "weight_scale", scales, (N, scales.shape[-1]))
    middle = 1 << (bits - 1)
    codes = _fields(packed, bits, K) - middle
    group = _group_of(name, K, scales.shape[1])
    if zero is not None:
        _check(name, "weight_zero_point", zero, (-(-N * bits // _WORD), scales.shape[1]))
        codes = codes - _spread(_fields(zero.T, bits, N).T - middle, group, K)
    return _integers(name, codes, scales, group)


def from_gptq(
    name: str, words: Array, zeros: Array, scales: Array, bits: int, order: Array | None = None, *, is_v2: bool = False
) -> Codes:
    """Return the codes of GPTQ's weights.

    Parameters
    ----------
    name : str
        The module, for errors.
    words : ndarray, int32, (K bits / 32, N)
        ``qweight``.
    zeros : ndarray, int32, (G, N bits / 32)
        ``qzeros``: zero points; less 1, as words were subtracted, unless ``is_v2``.
    scales : ndarray of floats, (G, N)
        ``scales``.
    bits : int
        ``bits`` of the quantization, 4 or 8.
    order : ndarray of int, (K,), optional
        ``g_idx``: the group of each input, which has to be that of its place.
    is_v2 : bool
        ``checkpoint_format`` is "gptq_v2".
    """
    _check_bits(name, bits)
    (G, N), K = scales.shape, words.shape[0] * _WORD // bits
    _check(name, "qweight", words, (K * bits // _WORD, N))
    _check(name, "qzeros", zeros, (G, -(-N * bits // _WORD)))
    group = _group_of(name, K, G)
    if order is not None and not np.array_equal(order, np.arange(K) // group):
        raise ValueError(f"load: {name}.g_idx must number groups in the order of inputs, got other groups (desc_act)")
    words_of_zeros = zeros.astype(np.uint32)
    if not is_v2:
        words_of_zeros = words_of_zeros + np.uint32(sum(1 << place for place in range(0, _WORD, bits)))
    zero = _fields(words_of_zeros, bits, N).T
    return _integers(name, _fields(words.T, bits, K) - _spread(zero, group, K), scales.T, group)


def from_awq(name: str, words: Array, zeros: Array, scales: Array) -> Codes:
    """Return the codes of AWQ's weights of 4 bits.

    Parameters
    ----------
    name : str
        The module, for errors.
    words : ndarray, int32, (K, N / 8)
        ``qweight``.
    zeros : ndarray, int32, (G, N / 8)
        ``qzeros``.
    scales : ndarray of floats, (G, N)
        ``scales``.
    """
    (G, N), K = scales.shape, words.shape[0]
    _check(name, "qweight", words, (K, N // 8))
    _check(name, "qzeros", zeros, (G, N // 8))
    group = _group_of(name, K, G)
    places = np.argsort(_AWQ)
    codes, zero = (_fields(x, 4, N).reshape(len(x), -1, 8)[..., places].reshape(len(x), N).T for x in (words, zeros))
    return _integers(name, codes - _spread(zero, group, K), scales.T, group)


def from_fp4(name: str, packed: Array, scales: Array, scale: float | None = None) -> Codes:
    """Return the codes of weights in MXFP4, or in NVFP4 with the scale of the tensor.

    Parameters
    ----------
    name : str
        The module, for errors.
    packed : ndarray, uint8, (N, K / 2)
        ``weight_packed``: two codes in E2M1 a byte, the first in the lower half.
    scales : ndarray, uint8, (N, K / 32) or (N, K / 16)
        ``weight_scale``: codes in E8M0, or in E4M3.
    scale : float, optional
        The number by which all weights are multiplied.
    """
    N, K = packed.shape[0], 2 * packed.shape[1]
    fmt, group = ("mxfp4", 32) if scale is None else ("nvfp4", 16)
    _check(name, "weight_scale", scales, (N, -(-K // group)))
    codes = np.stack((packed & 15, packed >> 4), -1).reshape(N, K)
    return Codes(codes, np.ascontiguousarray(scales), fmt, group, 1.0 if scale is None else float(np.float32(scale)))


def _check_bits(name: str, bits: int) -> None:
    if bits not in (4, 8):
        raise ValueError(f"load: {name} must have codes of 4 or 8 bits, got {bits}")


def _check(name: str, what: str, x: Array, shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        raise ValueError(f"load: {name}.{what} must have shape {shape}, got {x.shape}")


def _fields(words: Array, bits: int, count: int) -> Array:
    """Return the first ``count`` integers of 4 or 8 bits of each row of words (R, W), as int16."""
    fields = np.ascontiguousarray(words, np.dtype("<u4")).view(np.uint8)
    if bits == 4:
        fields = np.stack((fields & 15, fields >> 4), -1).reshape(len(words), -1)
    return fields[:, :count].astype(np.int16)


def _group_of(name: str, K: int, groups: int) -> int:
    if groups == 1:
        return -(-K // _STEP) * _STEP
    if groups < 1 or K % groups:
        raise ValueError(f"load: {name} must have equally long groups of its {K} inputs, got {groups} scales")
    return K // groups


def _spread(zero: Array, group: int, K: int) -> Array:
    """Return the zero point of each input from those of the groups (N, G)."""
    return np.repeat(zero, group, 1)[:, :K]


def _integers(name: str, codes: Array, scales: Array, group: int) -> Codes:
    """Return codes in the narrowest format that holds them, and scales in float16 times a power of two."""
    fits = (fmt for fmt, (low, high) in _LIMITS.items() if codes.min(initial=0) >= low and codes.max(initial=0) <= high)
    fmt = next(fits, None)
    if fmt is None:
        raise ValueError(f"load: {name} must have codes of 8 bits after its zero points are subtracted, got wider ones")
    exact = np.asarray(scales, np.float64)
    scale = float(2.0 ** max(np.frexp(np.abs(exact).max(initial=0))[1] - 15, -100))
    narrow = (exact / scale).astype(np.float16)
    if not np.array_equal(narrow * np.float64(scale), exact):
        raise ValueError(f"load: {name} must have scales that are numbers of float16 times a power of two, got others")
    return Codes(codes.astype(np.int8), np.ascontiguousarray(narrow), fmt, group, scale)
