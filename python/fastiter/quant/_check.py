"""Checks that the functions of this family share: arrays, formats, seeds, the replacement of NaN."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .._array_like import as_array
from .._check import check_array, check_room, fits_float, refuse_mask, type_name
from ._formats.base import Format
from ._formats.text import dtype_name, read

Array: TypeAlias = npt.NDArray[Any]
#: A format, its text, or a dtype whose numbers form a format
FormatLike: TypeAlias = "Format | str | np.dtype[Any] | type[np.generic]"
#: A 64-bit seed, or a generator from which one is drawn
Rng: TypeAlias = "int | np.random.Generator | np.random.SeedSequence | np.random.BitGenerator | None"
FLOATS = ("float32", "float64", "float16", "bfloat16")


@lru_cache(maxsize=64)
def name_of(dtype: np.dtype[Any]) -> str:
    """Return a dtype's name, cached because NumPy builds it anew each time."""
    return dtype.name


def check_format(function: str, fmt: object, name: str = "fmt") -> Format:
    """Return the format, read if it is given as text or as a dtype; ``name`` is its name in messages."""
    if isinstance(fmt, Format):
        return fmt
    text = fmt if isinstance(fmt, str) else dtype_name(fmt)
    if text is None:
        raise TypeError(f"{function}: {name} must be a format, its text or a dtype, got {type_name(fmt)}")
    try:
        return read(text)  # type: ignore[no-any-return]
    except ValueError as error:
        about_text = str(error).removeprefix("text ")
        if about_text != str(error):
            raise ValueError(f"{function}: {name} {about_text}") from None
        raise ValueError(f"{function}: {name} must be a format, its text or a dtype, got {fmt!r} ({error})") from None


def is_format(x: object) -> bool:
    """Return whether ``x`` has the type of a format, a text or a dtype."""
    return isinstance(x, (Format, str)) or dtype_name(x) is not None


def check_floats(function: str, name: str, x: object) -> Array:
    """Check that ``x`` is an array of floats; bfloat16 comes from another package and is recognised by name."""
    if type(x) is np.ndarray and name_of(x.dtype) in FLOATS and x.dtype.isnative:
        return x
    x = as_array(function, name, x)
    if type(x) is not np.ndarray or name_of(x.dtype) not in FLOATS or not x.dtype.isnative:
        if isinstance(x, np.ndarray) and x.dtype.kind in "iub":
            refuse_mask(function, name, x)
            raise TypeError(f"{function}: {name} must be floats, as {name}.astype(float) is, got dtype {x.dtype}")
        if type_name(x).startswith("torch."):
            expected = "a NumPy array (fastiter.torch.quant takes tensors)"
            raise TypeError(f"{function}: {name} must be {expected}, got {type_name(x)}")
        check_array(function, name, x, FLOATS)
    assert isinstance(x, np.ndarray)  # for the type checker: check_array has checked it
    return x


def check_out(function: str, out: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return ``out``, which must be a writable array of this shape and dtype."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{function}: out must be a NumPy array of {dtype}, got {type_name(out)}")
    refuse_mask(function, "out", out)
    if out.dtype != dtype:
        raise TypeError(f"{function}: out must have dtype {dtype}, got {out.dtype}")
    check_room(function, out, shape)
    return out


def check_apart_or_same(function: str, out: Array, x: Array) -> None:
    """Check that ``out`` is ``x`` itself or shares no memory with it."""
    same = out.strides == x.strides and out.__array_interface__["data"] == x.__array_interface__["data"]
    if not same and np.may_share_memory(out, x):
        raise ValueError(f"{function}: out must be x itself or share no memory with it, got a part of it")


def check_seed(function: str, rng: object, needed: bool) -> int:
    """Return the 64-bit seed ``rng``, or one drawn from a generator, by default from one that the system seeds."""
    if rng is None or isinstance(rng, (np.random.Generator, np.random.SeedSequence, np.random.BitGenerator)):
        return int(np.random.default_rng(rng).integers(2**64, dtype=np.uint64)) if needed else 0
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)):
        raise TypeError(f"{function}: rng must be an int, a numpy.random.Generator or None, got {type_name(rng)}")
    if not 0 <= rng < 2**64:
        raise ValueError(f"{function}: rng must be from 0 to 2**64 - 1, got {rng}")
    return int(rng)


def check_nan(function: str, nan: object, can_keep: bool) -> tuple[bool, float]:
    """Return whether NaN is refused, and its replacement (NaN to keep it)."""
    words = ("raise", "keep") if can_keep else ("raise",)
    if isinstance(nan, str):
        if nan not in words:
            expected = " or ".join([*map(repr, words), "a number"])
            raise ValueError(f"{function}: nan must be {expected}, got {nan!r}")
        return nan == "raise", math.nan if can_keep else 0.0
    if isinstance(nan, bool) or not isinstance(nan, (int, float, np.integer, np.floating)):
        raise TypeError(f"{function}: nan must be a str or a number, got {type_name(nan)}")
    if not fits_float(nan):
        raise ValueError(f"{function}: nan must be a number that a float holds, got a larger one")
    value = float(nan)
    if math.isnan(value):
        known = ", ".join(map(repr, words))
        raise ValueError(f"{function}: nan must be {known} or a replacement other than NaN, got nan")
    return False, value
