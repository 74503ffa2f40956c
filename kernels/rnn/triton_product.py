"""Products of the recurrence with r, for triton_recurrence.py; a program holds r or reads some terms at a time.

``r`` is padded with zeros to matrices of D x D, transposed for the forward pass. Sums are float32.
"""

import triton
import triton.language as tl


@triton.jit
def matrix(r, gate, n, heads, D: tl.constexpr):
    """R_g of a head, padded with zeros (forward: R_g^T)."""
    at = tl.arange(0, D)
    return tl.load(r + (gate * heads + n) * (D * D) + (at[:, None] * D + at[None, :]))


@triton.jit
def product(x, w, sum):
    """sum + x w; x is first rounded to the dtype of w."""
    return tl.dot(x.to(w.dtype), w, sum, input_precision="ieee")


@triton.jit
def products(h, w0, w1, w2, w3, zero, GATES: tl.constexpr):
    """R_g h' of all gates."""
    p0 = product(h, w0, zero)
    p1, p2, p3 = p0, p0, p0
    if GATES > 1:
        p1, p2 = product(h, w1, zero), product(h, w2, zero)
    if GATES > 3:
        p3 = product(h, w3, zero)
    return p0, p1, p2, p3


# ---- For an r too large for a program: vectors are passed through memory, ``room``; a product reads some terms at a
# time, up to the width, as the others are 0. As the compiler does not know the number of iterations, it does not unroll
# the loop, whose operands would not fit in registers.


@triton.jit
def leave(room, x, gate, ROWS: tl.constexpr, D: tl.constexpr):
    """Store the vectors of a gate in memory."""
    at = (gate * ROWS + tl.arange(0, ROWS))[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(room + at, x.to(room.dtype.element_ty))


@triton.jit
def _left(room, gate, k, ROWS: tl.constexpr, TERMS: tl.constexpr, D: tl.constexpr):
    return tl.load(room + (gate * ROWS + tl.arange(0, ROWS))[:, None] * D + (k + tl.arange(0, TERMS))[None, :])


@triton.jit
def _terms(r, gate, n, heads, k, TERMS: tl.constexpr, D: tl.constexpr):
    """Some rows of R_g."""
    at = (k + tl.arange(0, TERMS))[:, None] * D + tl.arange(0, D)[None, :]
    return tl.load(r + (gate * heads + n) * (D * D) + at)


@triton.jit
def _product_by_terms(room, r, gate, n, heads, width, sum, ROWS: tl.constexpr, TERMS: tl.constexpr, D: tl.constexpr):
    for k in tl.range(0, width, TERMS, disable_licm=True):
        sum = product(_left(room, 0, k, ROWS, TERMS, D), _terms(r, gate, n, heads, k, TERMS, D), sum)
    return sum


@triton.jit
def products_by_terms(
    room, r, n, heads, width, zero, GATES: tl.constexpr, ROWS: tl.constexpr, TERMS: tl.constexpr, D: tl.constexpr
):
    """R_g h' of all gates for the h stored in memory, one gate after the other, which needs the fewest registers."""
    p0 = _product_by_terms(room, r, 0, n, heads, width, zero, ROWS, TERMS, D)
    p1, p2, p3 = p0, p0, p0
    if GATES > 1:
        p1 = _product_by_terms(room, r, 1, n, heads, width, zero, ROWS, TERMS, D)
        p2 = _product_by_terms(room, r, 2, n, heads, width, zero, ROWS, TERMS, D)
    if GATES > 3:
        p3 = _product_by_terms(room, r, 3, n, heads, width, zero, ROWS, TERMS, D)
    return p0, p1, p2, p3


@triton.jit
def back_by_terms(
    room, r, n, heads, width, sum, GATES: tl.constexpr, ROWS: tl.constexpr, TERMS: tl.constexpr, D: tl.constexpr
):
    """sum + R_g^T dp_g over all gates, whose dp are stored in memory."""
    for gate in tl.range(GATES, disable_licm=True):
        for k in tl.range(0, width, TERMS, disable_licm=True):
            dp = _left(room, gate, k, ROWS, TERMS, D)
            sum = product(dp, _terms(r, gate, n, heads, k, TERMS, D), sum)
    return sum
