"""Sweeps of fastiter.relax.compat in place: over all rows, or lists of rows or blocks, with a real or complex omega."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..._check import type_name
from .._sweeps import vectors
from ._cache import CachedMatrix, check_dtype, check_shapes, check_sweep, in_place, whole_numbers
from ._rows import relaxation_of, with_rows_left_out
from ._schwarz import Lists, in_blocks, is_inverse, points, relax_lists

Array = npt.NDArray[Any]
Factor = float | complex
Sweep = Literal["forward", "backward", "symmetric"]


def sweep_over(
    cached: CachedMatrix, x: Array, b: Array, iterations: int, sweep: str, *, method: str, **options: Any
) -> None:
    """Sweep over all rows or blocks by a method of :class:`fastiter.relax.Relaxation`."""
    halves, factor = check_sweep(cached.function, sweep), factor_of(cached, options.get("omega", 1.0))
    count = vectors.count(cached.function, "iterations", iterations)
    if isinstance(factor, complex):
        return _complex_sweep(cached, x, b, count, sweep, factor, method=method, **options)
    options |= {"symmetric": sweep == "symmetric", **({"omega": factor} if "omega" in options else {})}
    result = cached.get((method, *options.items()), lambda: relaxation_of(cached, method, options))
    if result is None:
        blocks = all_blocks(cached, options["block_size"], None)
        if method == "block_jacobi":
            return in_turn(cached, x, b, count, factor, (blocks, 1))
        return one_by_one(cached, x, b, blocks, count, sweep)
    relaxation, left_out = result

    def relax(x: Array, b: Array) -> None:
        check_shapes(cached.function, cached.A.shape[0], x, b)
        check_dtype(cached.function, x, relaxation._system.dtype)
        if len(left_out):
            with_rows_left_out(relaxation, left_out, x, b, count, backward=halves[0])
        else:
            relaxation._sweep(x, count, b, halves[0], factor)

    in_place(cached.function, x, b, relax)


def _complex_sweep(
    cached: CachedMatrix, x: Array, b: Array, count: int, sweep: str, factor: complex, *, method: str, **options: Any
) -> None:
    """Sweep with a complex omega: for Jacobi by x + omega (swept - x), for SOR as lists of rows with omega / a_ii."""
    if method == "kaczmarz":
        real_factor_of(cached, factor)
    if method == "sor":
        rows = points(cached, np.arange(cached.A.shape[0]))
        scaled = replace(rows, inverse=rows.inverse * factor)
        return one_by_one(cached, x, b, scaled, count, sweep)

    def relax(x: Array, b: Array) -> None:
        for _ in range(count):
            swept = x.copy()
            sweep_over(cached, swept, b, 1, sweep, method=method, **{**options, "omega": 1.0})
            x += factor * (swept - x)

    return in_place(cached.function, x, b, relax)


def wanted_inverse(cached: CachedMatrix, size: int, Dinv: Array | None) -> Array | None:
    """Return ``Dinv`` unless it holds the inverses of the diagonal blocks."""
    return None if Dinv is None or is_inverse(cached, size, Dinv) else Dinv


def one_by_one(cached: CachedMatrix, x: Array, b: Array, lists: Lists, iterations: int, sweep: str) -> None:
    """Relax the listed rows or blocks one after the other, in the directions that ``sweep`` names."""
    halves = check_sweep(cached.function, sweep) * vectors.count(cached.function, "iterations", iterations)

    def relax(x: Array, b: Array) -> None:
        for backward in halves:
            relax_lists(cached.function, lists, x, b, backward=backward)

    in_place(cached.function, x, b, relax)


def in_turn(
    cached: CachedMatrix, x: Array, b: Array, iterations: int, omega: Factor, *parts: tuple[Lists, int]
) -> None:
    """Apply Jacobi to each set of lists in turn, the given number of times; repeat all of this ``iterations`` times."""
    count, factor = vectors.count(cached.function, "iterations", iterations), factor_of(cached, omega)

    def relax(x: Array, b: Array) -> None:
        for lists in [lists for lists, times in parts for _ in range(times)] * count:
            if isinstance(factor, complex):
                swept = x.copy()
                relax_lists(cached.function, lists, swept, b, jacobi=True)
                x += factor * (swept - x)
            else:
                relax_lists(cached.function, lists, x, b, factor, jacobi=True)

    in_place(cached.function, x, b, relax)


def factor_of(cached: CachedMatrix, omega: Factor) -> Factor:
    """Return omega, checked: a positive number, or for a complex A any finite complex one."""
    if not isinstance(omega, (complex, np.complexfloating)) or omega.imag == 0:
        real: Any = omega.real if isinstance(omega, (complex, np.complexfloating)) else omega
        return vectors.positive(cached.function, "omega", real, zero=False)
    if cached.A.dtype.kind != "c":
        raise TypeError(f"{cached.function}: omega must be a real number if A is real, got {type_name(omega)}")
    if not np.isfinite(omega):
        raise ValueError(f"{cached.function}: omega must be finite, got {omega}")
    return complex(omega)


def real_factor_of(cached: CachedMatrix, omega: Factor) -> float:
    """Return omega, checked: a positive number."""
    factor = factor_of(cached, omega)
    if isinstance(factor, complex):
        raise TypeError(f"{cached.function}: omega must be a real number, got {type_name(omega)}")
    return factor


def listed(cached: CachedMatrix, name: str, rows: Any) -> Lists:
    """Return the listed C or F points: rows, or for a BSR matrix block rows."""
    size = _block_size_of(cached)
    result = whole_numbers(cached.function, name, rows, cached.A.shape[0] // size)
    return points(cached, (result[:, None] * size + np.arange(size)).ravel())


def _block_size_of(cached: CachedMatrix) -> int:
    if getattr(cached.A, "format", "") != "bsr":
        return 1
    rows, columns = cached.A.blocksize
    if rows != columns:
        raise ValueError(f"{cached.function}: A must have square blocks, got blocks of shape {(rows, columns)}")
    return int(rows)


def with_block_size(function: str, A: Any, size: int) -> tuple[CachedMatrix, int]:
    """Return A with its cached objects, and the block size, checked."""
    cached, result = CachedMatrix(function, A), vectors.count(function, "blocksize", size, 1)
    if result > 64:
        raise ValueError(f"{function}: blocksize must be at most 64, got {result}")
    return cached, result


def listed_blocks(cached: CachedMatrix, name: str, blocks: Any, size: int, Dinv: Array | None) -> Lists:
    """Return the listed blocks, with their inverses."""
    return in_blocks(cached, size, whole_numbers(cached.function, name, blocks, -(-cached.A.shape[0] // size)), Dinv)


def all_blocks(cached: CachedMatrix, size: int, Dinv: Array | None) -> Lists:
    """Return all blocks, with their inverses."""
    return in_blocks(cached, size, np.arange(-(-cached.A.shape[0] // size)), Dinv)
