"""Specification of fixed-point arithmetic, against numbers by hand and the algebra of docs/quant/fixed_theory.md."""

from __future__ import annotations

import itertools
import operator
from fractions import Fraction

import numpy as np
import pytest

from fastiter.quant import Fixed
from fastiter.quant._fixed import growth
from fastiter.quant._fixed.growth import Grown
from fastiter.quant.reference.formats import fixed_code
from fastiter.reference import fixed as reference
from tests.quant.fixed.fixed_cases import INVARIANT, OVERFLOWS, ROUNDINGS, codes, random_format
from tests.support.cases import Array

A, B = Fixed(8, 4), Fixed(8, 2)


def test_growth() -> None:
    u = Fixed(8, 4, signed=False)
    assert reference.sum_format(A, B) == (11, 5, True)
    assert reference.sum_format(A, u) == (10, 6, True)  # the unsigned one needs a bit for the sign
    assert reference.sum_format(u, u) == (9, 5, False)
    assert reference.difference_format(u, u) == (9, 5, True)
    assert reference.product_format(A, u) == (16, 8, True)
    assert reference.quotient_format(A, B) == (15, 11, True)
    assert reference.quotient_format(A, Fixed(4, 6)) == (9, 3, True)
    assert reference.negative_format(u) == (9, 5, True)
    assert reference.bits_format(A, u) == (9, 5, True)


@pytest.mark.parametrize("operator", ["sum", "difference", "product", "quotient", "bits"])
def test_the_library_has_the_same_rules_of_growth(operator: str) -> None:
    """The specification computes places of bits, the library computes widths; some of these formats share no place."""
    shapes = [Grown(w, i, signed) for w in (1, 2, 3, 7) for i in range(-3, w + 4) for signed in (False, True)]
    name = f"{operator}_format"
    for a, b in itertools.product(shapes, shapes):
        assert getattr(growth, name)(a, b) == getattr(reference, name)(a, b), (a, b)


def test_the_library_grows_alike_for_other_operators() -> None:
    rng = np.random.default_rng(5)
    for _ in range(500):
        a, b = (random_format(rng, (1, 64), (-40, 80)) for _ in range(2))
        assert growth.negative_format(a) == reference.negative_format(a)
        for terms in (0, 1, 2, 3, 4, 5, 1023, 1024, 1025):
            assert growth.dot_format(a, b, terms) == reference.dot_format(a, b, terms)


def test_operators_by_hand() -> None:
    assert reference.add(24, A, -32, B) == 24 * 4 - 32  # 1.5 + -0.5 in steps of 1/64
    assert reference.multiply(-128, A, -128, B) == 16384
    assert reference.divide(24, A, -32, B) == -((24 << 6) // 32)  # 1.5 / -0.5 = -3
    assert reference.divide(-7, Fixed(4, 4), 2, Fixed(4, 4)) == -3
    assert reference.divide(-16, Fixed(5, 2), -1, Fixed(5, 2)) == 128
    assert reference.negative(-128, A) == 128
    assert reference.shift(0b0101, Fixed(4, 4), 1) == -6
    assert reference.shift(-5, Fixed(4, 4), -1) == -3
    assert reference.bitwise(operator.or_, -1, Fixed(4, 4), 1, Fixed(5, 4)) == -1
    assert reference.bitwise(operator.xor, 15, Fixed(4, 4, signed=False), -1, Fixed(4, 4)) == ~15


@pytest.mark.parametrize(
    ("acc", "expected"),
    [
        ("TRN", -4),
        ("TRN_ZERO", -2),
        ("RND", -2),
        ("RND_ZERO", -2),
        ("RND_MIN_INF", -4),
        ("RND_INF", -4),
        ("RND_CONV", -4),
    ],
)
def test_a_dot_product_by_hand(acc: str, expected: int) -> None:
    """-1.5 - 1 - 0.5 step by step into whole numbers."""
    fmt = Fixed(4, 4, rounding=acc)
    one = Fixed(4, 3)
    assert reference.dot([-3, -2, -1], one, [2, 2, 2], one, fmt) == expected


def test_groups_are_assigned_together() -> None:
    whole = Fixed(8, 8)
    half = Fixed(4, 3)
    one = ([1] * 5, half, [2] * 5, half)  # five times a half
    assert [reference.dot(*one, whole, every=k) for k in (1, 2, 3, 5, 9)] == [0, 2, 2, 2, 2]
    assert reference.dot(*one, Fixed(8, 8, rounding="RND"), every=1) == 5
    assert reference.dot(*one, whole, product=Fixed(8, 8, rounding="RND")) == 5


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_roundings_that_do_not_depend_on_the_accumulator(rounding: str) -> None:
    """Q(acc + p) = acc + Q(p) for acc on the grid: holds for three of the seven roundings only."""
    fmt = Fixed(10, 10, rounding=rounding)
    same = all(
        fixed_code(acc + Fraction(p, 8), fmt) == acc + fixed_code(Fraction(p, 8), fmt)
        for acc, p in itertools.product(range(-9, 10), range(-40, 41))
    )
    assert same == (rounding in INVARIANT)


@pytest.mark.parametrize("rounding", INVARIANT)
def test_wrapping_once_is_wrapping_every_time(rounding: str) -> None:
    rng = np.random.default_rng(1)
    acc = Fixed(6, 3, rounding=rounding, overflow="WRAP")
    for _ in range(50):
        a, b = codes(rng, 9, A).tolist(), codes(rng, 9, B).tolist()
        wide = Fixed(30, 27, rounding=rounding)
        once = fixed_code(reference.value_of(reference.dot(a, A, b, B, wide), wide), acc)
        assert reference.dot(a, A, b, B, acc) == once


@pytest.mark.parametrize("overflow", [o for o in OVERFLOWS if o != "WRAP"])
def test_other_modes_must_be_applied_every_time(overflow: str) -> None:
    rng = np.random.default_rng(2)
    acc = Fixed(6, 3, rounding="RND", overflow=overflow)
    wide = Fixed(30, 27, rounding="RND")
    differ = 0
    for _ in range(50):
        a, b = codes(rng, 9, A).tolist(), codes(rng, 9, B).tolist()
        once = fixed_code(reference.value_of(reference.dot(a, A, b, B, wide), wide), acc)
        differ += reference.dot(a, A, b, B, acc) != once
    assert differ > 5


def unfolded(x: Array, window: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """Return the patches (B P Q, C R S) of x (B, C, H, W)."""
    (R, S), lines = window, []
    P = (x.shape[2] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (x.shape[3] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    for n, p, q in itertools.product(range(x.shape[0]), range(P), range(Q)):
        rows = [p * stride[0] + r * dilation[0] for r in range(R)]
        columns = [q * stride[1] + s * dilation[1] for s in range(S)]
        lines.append(x[n][:, rows][:, :, columns].ravel())
    return np.array(lines)


def test_a_convolution_is_a_product_of_windows() -> None:
    rng = np.random.default_rng(3)
    acc = Fixed(8, 5, rounding="RND_CONV", overflow="SAT")
    for stride, padding, dilation, groups in (((1, 1), (0, 0), (1, 1), 1), ((2, 1), (1, 2), (1, 2), 2)):
        x, w = codes(rng, (2, 4, 6, 7), A), codes(rng, (6, 4 // groups, 3, 2), B)
        start = codes(rng, (6,), acc)
        y = reference.conv2d(x, A, w, B, acc, None, start, stride, padding, dilation, groups)
        padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
        for g in range(groups):
            some = slice(g * 6 // groups, (g + 1) * 6 // groups)
            part = padded[:, g * 4 // groups : (g + 1) * 4 // groups]
            rows = unfolded(part, (3, 2), stride, dilation)
            first = np.broadcast_to(start[some], (len(rows), 6 // groups))
            expected = reference.matmul(rows, A, w[some].reshape(6 // groups, -1).T, B, acc, None, first)
            got = y[:, some].transpose(0, 2, 3, 1).reshape(len(rows), -1)
            assert (got == expected).all()


def test_random_formats_represent_the_results_of_operators() -> None:
    """exact_code raises an error if a format does not hold its result."""
    rng = np.random.default_rng(4)
    for _ in range(300):
        fa, fb = (random_format(rng, (1, 20), (-5, 25)) for _ in range(2))
        for a, b in zip(codes(rng, 8, fa).tolist(), codes(rng, 8, fb).tolist(), strict=True):
            assert reference.value_of(reference.add(a, fa, b, fb), reference.sum_format(fa, fb)) == (
                reference.value_of(a, fa) + reference.value_of(b, fb)
            )
            reference.subtract(a, fa, b, fb)
            reference.multiply(a, fa, b, fb)
            reference.negative(a, fa)
            if b:
                least, most = reference.limits(reference.quotient_format(fa, fb))
                assert least <= reference.divide(a, fa, b, fb) <= most
