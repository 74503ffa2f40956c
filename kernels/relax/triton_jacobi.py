"""Jacobi's sweeps on stencils: y = (1 - omega) x + omega (b - the terms of the neighbours) / the first coefficient."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _term(c, x, q: tl.constexpr, at, step, points, inside, IS_CONSTANT: tl.constexpr):
    """Coefficient q times x at distance `step`, 0 outside of the grid."""
    factor = tl.load(c + q) if IS_CONSTANT else tl.load(c + q * points + at, mask=inside, other=0.0)
    return factor * tl.load(x + at + step, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["n0", "n1", "n2"])
def jacobi_fwd_kernel(
    x,  # (n0, n1, n2)
    b,
    y,
    coefficients,  # (7) or (7, n0, n1, n2): the point itself, then its neighbours along axes 0, 1 and 2
    inverse,  # (n0, n1, n2): 1 / the first one, 0 where x is given; not read if coefficients are constant
    fixed,  # (n0, n1, n2): where x is given; read if coefficients are constant and there is a mask
    omega,
    n0,
    n1,
    n2,
    IS_CONSTANT: tl.constexpr,
    HAS_MASK: tl.constexpr,
    IS_3D: tl.constexpr,
    TILE: tl.constexpr,
):
    """One sweep, with a program for every TILE points of a line. Grid: n0 x n1 x tiles of n2 on axis 0, the longest."""
    tiles = tl.cdiv(n2, TILE)
    line = tl.program_id(0).to(tl.int64) // tiles
    i = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    is_point = i < n2
    at = line * n2 + i
    area, points = n1.to(tl.int64) * n2, n0.to(tl.int64) * n1 * n2
    inner = line % n1 * n2 + i  # the index in a plane
    factor = tl.load(omega).to(x.dtype.element_ty)
    s = tl.load(b + at, mask=is_point, other=0.0)
    s -= _term(coefficients, x, 1, at, -area, points, is_point & (at >= area), IS_CONSTANT)
    s -= _term(coefficients, x, 2, at, area, points, is_point & (at + area < points), IS_CONSTANT)
    if IS_3D:
        s -= _term(coefficients, x, 3, at, -n2, points, is_point & (inner >= n2), IS_CONSTANT)
        s -= _term(coefficients, x, 4, at, n2, points, is_point & (inner + n2 < area), IS_CONSTANT)
    s -= _term(coefficients, x, 5, at, -1, points, is_point & (i > 0), IS_CONSTANT)
    s -= _term(coefficients, x, 6, at, 1, points, is_point & (i + 1 < n2), IS_CONSTANT)
    now = tl.load(x + at, mask=is_point, other=0.0)
    if IS_CONSTANT:
        new = (1 - factor) * now + factor / tl.load(coefficients) * s
        if HAS_MASK:
            new = tl.where(tl.load(fixed + at, mask=is_point, other=0) != 0, now, new)
    else:
        scale = tl.load(inverse + at, mask=is_point, other=0.0)
        new = tl.where(scale != 0, (1 - factor) * now + factor * (scale * s), now)
    tl.store(y + at, new, mask=is_point)
