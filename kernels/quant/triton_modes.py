"""Codes of format kinds, rounding and overflow modes, as in csrc/quant/cpu/kernels.hpp, and of the launchers' options.

A test compares them with the compiled module.
"""

from __future__ import annotations

import triton.language as tl

#: Kinds of formats. INTEGER is a separate kind here; the CPU computes integers as fixed point.
FIXED, WIDE_FIXED, SMALL_FLOAT, WIDE_FLOAT, MX, NVFP4 = (tl.constexpr(k) for k in range(6))
BLOCK_INTEGER, POSIT, TABLE, LOGARITHMIC, POWERS, INTEGER = (tl.constexpr(k) for k in range(6, 12))
#: Roundings
DOWN, ZERO, HALF_UP, HALF_ZERO, HALF_DOWN = (tl.constexpr(k) for k in range(5))
HALF_AWAY, EVEN, UP, AWAY, STOCHASTIC = (tl.constexpr(k) for k in range(5, 10))
#: Overflow modes; TO_ZERO is the mode "zero"
SATURATE, TO_ZERO, WRAP, WRAP_SOME = (tl.constexpr(k) for k in range(4))
SIGN_MAGNITUDE, SIGN_MAGNITUDE_ONE, SIGN_MAGNITUDE_SOME = (tl.constexpr(k) for k in range(4, 7))
#: Sharing of scales: general, one for all, one per row (as many as runs), one per column (runs of 1)
ANY, ONE, ROWS, COLUMNS = (tl.constexpr(k) for k in range(4))
#: Output for the gradient of the scale: none, a sum for each program, a product for each element
NOTHING, ONE_SUM, PRODUCTS = (tl.constexpr(k) for k in range(3))
#: Last place of products: below the accumulator's; at or above it; or so far above that integers may overflow
BELOW, ABOVE, FAR = (tl.constexpr(k) for k in range(3))
