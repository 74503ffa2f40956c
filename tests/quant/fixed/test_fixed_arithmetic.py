"""FixedArray against the specification: operators, assignments, comparisons, parts."""

from __future__ import annotations

import copy
import itertools
import math
import operator
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.quant import Fixed, FixedArray
from fastiter.quant.reference.formats import fixed_code
from fastiter.reference import fixed as reference
from tests.quant.fixed.fixed_cases import OVERFLOWS, ROUNDINGS, codes, fixed, modes, random_format
from tests.support.cases import Array, assert_same_bits

OPERATORS: dict[str, tuple[Callable[[Any, Any], Any], Callable[..., int], Callable[..., reference.Grown]]] = {
    "add": (operator.add, reference.add, reference.sum_format),
    "sub": (operator.sub, reference.subtract, reference.difference_format),
    "mul": (operator.mul, reference.multiply, reference.product_format),
    "div": (operator.truediv, reference.divide, reference.quotient_format),
    "and": (operator.and_, lambda *x: reference.bitwise(operator.and_, *x), reference.bits_format),
    "or": (operator.or_, lambda *x: reference.bitwise(operator.or_, *x), reference.bits_format),
    "xor": (operator.xor, lambda *x: reference.bitwise(operator.xor, *x), reference.bits_format),
}
every_operator = pytest.mark.parametrize("name", OPERATORS)


def shape_of(fmt: Fixed) -> tuple[int, int, bool]:
    return fmt.width, fmt.integer, fmt.signed


def same_codes(actual: FixedArray, expected: Any) -> None:
    assert actual.codes.tolist() == np.asarray(expected, object).tolist()


@every_operator
def test_operators(name: str) -> None:
    op, expected, growth = OPERATORS[name]
    rng = np.random.default_rng(list(name.encode()))
    narrow = 0
    for _ in range(300):
        fa, fb = (random_format(rng, (1, 40), (-6, 40)) for _ in range(2))
        a, b = fixed(rng, 9, fa), fixed(rng, 9, fb)
        if name == "div":
            b = FixedArray.from_codes(np.where(b.codes == 0, b.codes.dtype.type(fb.max_code or -1), b.codes), fb)
        if growth(fa, fb).width > 64:
            with pytest.raises(ValueError, match="at most 64 bits"):
                op(a, b)
            continue
        narrow += 1
        result = op(a, b)
        assert shape_of(result.fmt) == growth(fa, fb)
        assert (result.fmt.rounding, result.fmt.overflow) == ("TRN", "WRAP")
        pairs = zip(a.codes.tolist(), b.codes.tolist(), strict=True)
        same_codes(result, [expected(x, fa, y, fb) for x, y in pairs])
    assert narrow > 100


@every_operator
def test_operators_on_the_widest_formats(name: str) -> None:
    op, expected, growth = OPERATORS[name]
    rng = np.random.default_rng(1)
    for signed in ((True, True), (True, False), (False, True), (False, False)):
        for width in range(25, 64):
            fa, fb = Fixed(width, width, signed[0]), Fixed(64 - width if name == "mul" else 60, 60, signed[1])
            if name == "div":
                fb = Fixed(20, 20 - (63 - width), signed[1])
            if not 63 <= growth(fa, fb).width <= 64:
                continue
            a, b = fixed(rng, 50, fa), fixed(rng, 50, fb)
            if name == "div":
                b = FixedArray.from_codes(np.where(b.codes == 0, 1, b.codes), fb)
            pairs = zip(a.codes.tolist(), b.codes.tolist(), strict=True)
            same_codes(op(a, b), [expected(x, fa, y, fb) for x, y in pairs])


def test_negative_and_shifts() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        fmt = random_format(rng, (1, 64), (-3, 70))
        a = fixed(rng, 9, fmt)
        if fmt.width < 64:
            assert shape_of((-a).fmt) == reference.negative_format(fmt)
            same_codes(-a, [reference.negative(x, fmt) for x in a.codes.tolist()])
        for n in (0, 1, 3, 7, 8, 31, 63, 64, 100):
            same_codes(a << n, [reference.shift(x, fmt, n) for x in a.codes.tolist()])
            same_codes(a >> n, [reference.shift(x, fmt, -n) for x in a.codes.tolist()])
            assert (a << n).fmt == (a >> -n).fmt == fmt
            same_codes(a >> -n, (a << n).codes)


def test_the_quotient_of_the_lowest_code_by_minus_one_is_exact() -> None:
    a, b = FixedArray.from_codes([-16], Fixed(5, 2)), FixedArray.from_codes([-1], Fixed(5, 2))
    assert (a / b).codes.tolist() == [128]


def test_division_by_zero() -> None:
    a = FixedArray.from_codes([1, 2], Fixed(5, 2))
    with pytest.raises(ZeroDivisionError, match="b in a / b must be other than zero, got 0"):
        a / FixedArray.from_codes([1, 0], Fixed(5, 2))


# --- assignment ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_code_into_every_mode(rounding: str, overflow: str) -> None:
    for signed_from, signed, shift, width in (
        *((True, True, 2, 4), (True, True, 3, 5), (False, True, 2, 3), (True, False, 2, 4), (False, False, 3, 4)),
        *((True, True, 0, 5), (True, True, -2, 6), (False, False, -3, 9), (True, True, 1, 1), (True, True, 12, 3)),
    ):
        source = Fixed(8, 4, signed_from)
        every = np.arange(source.min_code, source.max_code + 1)
        a = FixedArray.from_codes(every, source)
        for r, o, n in modes(width, signed):
            if (r, o) != (rounding, overflow):
                continue
            fmt = Fixed(width, width - 4 + shift, signed, r, o, n)
            same_codes(a.astype(fmt), [fixed_code(reference.value_of(x, source), fmt) for x in every.tolist()])


def test_random_assignments() -> None:
    rng = np.random.default_rng(3)
    for _ in range(400):
        source = random_format(rng, (1, 64), (-70, 70))
        fmt = random_format(rng, (1, 64), (source.fraction - 80, source.fraction + 80))
        if rng.integers(4):
            fmt = random_format(rng, (1, 64), (source.fraction - 12, source.fraction + 4))
        a = fixed(rng, 40, source)
        same_codes(a.astype(fmt), [fixed_code(reference.value_of(x, source), fmt) for x in a.codes.tolist()])


def test_many_codes_on_any_number_of_threads() -> None:
    rng = np.random.default_rng(4)
    source, fmt = Fixed(24, 12), Fixed(10, 4, rounding="RND_CONV", overflow="SAT")
    a = fixed(rng, (301, 333), source)
    results = []
    for threads in (1, 2, 5):
        fastiter.set_num_threads(threads)
        results.append(a.astype(fmt).codes)
    same_codes(FixedArray.from_codes(results[0][:2], fmt), a[:2].astype(fmt).codes)
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_assigning_numbers() -> None:
    fmt = Fixed(8, 4, rounding="RND", overflow="SAT")
    same_codes(FixedArray([0.03125, -1.5, 100.0], fmt), [1, -24, 127])
    same_codes(FixedArray(np.array([1, -20]), fmt), [16, -128])
    same_codes(FixedArray(np.array([200], np.uint8), fmt), [127])
    same_codes(FixedArray(3, fmt), 48)
    same_codes(FixedArray(Fraction(1, 3), fmt), 5)
    a = FixedArray(np.zeros((2, 3)), fmt)
    a[0] = 1
    a[1, 1:] = FixedArray([0.7, -9], Fixed(16, 8))
    assert a.to_float().tolist() == [[1, 1, 1], [0, 0.6875, -8]]
    a[:, 0] += 7
    assert a.to_float()[:, 0].tolist() == [7.9375, 7]
    b = a
    b *= FixedArray(0.5, Fixed(3, 1))
    b -= 1
    b /= 2
    assert b is a
    assert a.to_float().tolist() == [[1.5, -0.25, -0.25], [1.25, -0.3125, -2.5]]


def test_views_and_copies() -> None:
    fmt = Fixed(8, 4)
    memory = np.arange(12, dtype=np.int8)
    a = FixedArray.from_codes(memory, fmt).reshape(3, 4)
    assert (a.shape, a.ndim, a.size, len(a)) == ((3, 4), 2, 12, 3)
    a[1, 1] = 1
    assert memory[5] == 16
    assert a.T.shape == (4, 3)
    assert a.transpose(1, 0)[1, 1].to_float() == 1
    assert np.shares_memory(a[1:].codes, memory)
    b = (+a).copy()
    b[...] = 0
    assert memory[5] == 16
    memory.setflags(write=False)
    frozen = FixedArray.from_codes(memory, fmt)
    with pytest.raises(ValueError, match="must be writable"):
        frozen[0] = 1
    assert float(frozen[5]) == 1.0


def test_values() -> None:
    a = FixedArray.from_codes([[3, -4]], Fixed(4, 6))
    assert a.to_float().tolist() == [[12.0, -16.0]]
    assert a.to_fractions().tolist() == [[Fraction(12), Fraction(-16)]]
    assert np.asarray(a, np.float32).dtype == np.float32
    assert repr(a) == "FixedArray([[ 12., -16.]], 'fixed<4,6>')"
    assert FixedArray.from_codes(np.zeros((0, 2), int), Fixed(4, 6)).to_fractions().shape == (0, 2)


@pytest.mark.parametrize("strides", ["steps", "reversed", "transposed", "read-only", "swapped bytes"])
def test_any_layout(strides: str) -> None:
    rng = np.random.default_rng(5)
    fmt = Fixed(12, 5)
    x = codes(rng, (6, 8), fmt)
    y = {
        "steps": x[::2, 1::3],
        "reversed": x[::-1, ::-1],
        "transposed": x.T,
        "read-only": np.broadcast_to(x[:1], x.shape),
        "swapped bytes": x.astype(x.dtype.newbyteorder()),
    }[strides]
    a = FixedArray.from_codes(y, fmt)
    plain = FixedArray.from_codes(np.ascontiguousarray(y.astype(x.dtype)), fmt)
    for op in (
        lambda z: z + z,
        lambda z: z * 3,
        lambda z: z.astype("fixed<6,4,RND,SAT>"),
        lambda z: -z,
        lambda z: z >> 2,
    ):
        same_codes(op(a), op(plain).codes)


# --- comparison ------------------------------------------------------------------------------------------------------


def test_comparisons() -> None:
    rng = np.random.default_rng(6)
    wide = 0
    for _ in range(300):
        fa, fb = (random_format(rng, (1, 64), (-40, 40)) for _ in range(2))
        a, b = fixed(rng, 9, fa), fixed(rng, 9, fb)
        wide += fa.width + abs(fa.fraction - fb.fraction) > 64
        for op in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
            result = op(a, b)
            assert result.dtype == bool
            values = zip(a.to_fractions().tolist(), b.to_fractions().tolist(), strict=True)
            assert result.tolist() == [op(x, y) for x, y in values]
    assert wide > 50


def values_near(a: FixedArray, rng: np.random.Generator) -> np.ndarray:
    """Return the values rounded to float64, their neighbours, and unrelated numbers."""
    x = a.to_float()
    far = rng.choice([0.0, math.nan, math.inf, -math.inf, 5e-324, 1e300], x.shape)
    near = np.nextafter(x, rng.choice([-math.inf, math.inf], x.shape))
    return np.where(rng.random(x.shape) < 0.4, x, np.where(rng.random(x.shape) < 0.6, near, far))


def test_comparison_with_other_numbers() -> None:
    """Comparison with floats, Fractions, lists and arrays, on both sides, is exact, as for Fractions."""
    rng = np.random.default_rng(7)
    equal = 0
    for _ in range(200):
        a = fixed(rng, 9, random_format(rng, (1, 64), (-40, 40)))
        exact, x = a.to_fractions().tolist(), values_near(a, rng)
        with np.errstate(over="ignore"):
            arrays = (
                x,
                x.astype(np.float32),
                np.rint(np.clip(x, -99, 99)).astype(np.int16) if not np.isnan(x).any() else x,
            )
        fractions = [v + Fraction(int(rng.integers(-1, 2)), 3) for v in exact]
        for op in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
            for other in (*arrays, x.tolist(), tuple(x), fractions, np.array(fractions, object)):
                numbers = other.tolist() if isinstance(other, np.ndarray) else other
                wanted = [op(v, w) for v, w in zip(exact, numbers, strict=True)]
                assert op(a, other).tolist() == wanted
                equal += sum(wanted) if op is operator.eq else 0
                if not isinstance(other, (list, tuple)):
                    assert op(other, a).tolist() == [op(w, v) for v, w in zip(exact, numbers, strict=True)]
            for number in (x[0], float(x[1]), np.float32(0.5), exact[2], Fraction(1, 3), 2**70, -(2**64), np.int8(-3)):
                mine = [op(v, number if not isinstance(number, np.generic) else number.item()) for v in exact]
                assert op(a, number).tolist() == mine
    assert equal > 1000


def test_membership_truth_and_iteration() -> None:
    a = FixedArray([[0.5, 1.0], [0.0, -2.0]], "fixed<8,4>")
    assert 0.5 in a and -2 in a and Fraction(1) in a and 0.3 not in a and "x" not in a
    assert 0.5 in FixedArray(0.5, "fixed<8,4>") and (FixedArray(0.5, "fixed<8,4>") == 0.5) is np.True_
    assert bool(a[0, 0]) and not bool(a[1, 0]) and not bool(FixedArray([0.0], "fixed<8,4>"))
    for several in (a, a[0], FixedArray([], "fixed<8,4>")):
        with pytest.raises(
            ValueError, match=r"FixedArray: an array must have one element to be true or false .*, got [024]"
        ):
            bool(several)
    assert [row.to_float().tolist() for row in a] == [[0.5, 1.0], [0.0, -2.0]]
    with pytest.raises(
        TypeError, match="FixedArray: an array must have an axis to be iterated over, got a single number"
    ):
        iter(a[0, 0])
    assert (a == None) is False and (a != "x") is True  # noqa: E711


def test_comparison_with_integers() -> None:
    a = FixedArray([1.0, 1.5, -2.0], Fixed(8, 4))
    assert (a == 1).tolist() == [True, False, False]
    assert operator.gt(2, a).tolist() == [True, True, True]
    assert (a < -1).tolist() == [False, False, True]
    assert (a != "1") is True
    with pytest.raises(TypeError):
        hash(a)


def test_integers_have_the_narrowest_format() -> None:
    a = FixedArray([1.0], Fixed(8, 4))
    for n, fmt in (
        (0, (1, 1, False)),
        (1, (1, 1, False)),
        (-1, (1, 1, True)),
        (127, (7, 7, False)),
        (-128, (8, 8, True)),
    ):
        assert shape_of((a * n).fmt) == reference.product_format(Fixed(8, 4), Fixed(*fmt))
        assert (n * a).to_float().tolist() == [n]
    assert (3 - a).to_float().tolist() == [2]
    assert (6 / FixedArray([4.0], Fixed(8, 4))).to_float().tolist() == [1.0]  # with the number of bits of 6
    assert ((5 & a) | (4 ^ a)).to_float().tolist() == [5]


def zeros(shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, np.int8)


def test_broadcasting_and_empty_arrays() -> None:
    fmt = Fixed(8, 4)
    a, b = FixedArray.from_codes(zeros((3, 1)), fmt), FixedArray.from_codes(zeros((4,)), fmt)
    assert (a + b).shape == (a * b).shape == (a == b).shape == (3, 4)
    empty = FixedArray.from_codes(zeros((0, 4)), fmt)
    assert (empty - b).shape == empty.astype("fixed<4,2>").shape == (empty << 1).shape == (0, 4)
    assert FixedArray.from_codes(np.int8(3), fmt).astype("fixed<4,4>").shape == ()


def test_fractions_are_assigned_in_every_mode() -> None:
    """Ties, their neighbours, and numbers far out of range, also in formats of 64 bits."""
    rng = np.random.default_rng(11)
    for width, signed in itertools.product((1, 2, 5, 40, 63, 64), (False, True)):
        for rounding, overflow, bits in modes(width, signed):
            fraction = int(rng.integers(-70, 140))
            fmt = Fixed(width, width - fraction, signed, rounding, overflow, bits)
            last = Fraction(2) ** -fraction
            wholes = [0, fmt.min_code, fmt.max_code, *(int(n) * 5**k for n in rng.integers(-9, 10, 2) for k in (1, 60))]
            for whole, more in itertools.product(wholes, (0, Fraction(1, 2), Fraction(1, 3), Fraction(1, 1 << 90))):
                for x in ((whole + more) * last, (whole - more) * last):
                    assert int(FixedArray(x, fmt).codes) == fixed_code(x, fmt), (fmt, x)


def test_arrays_are_copied_and_pickled() -> None:
    a = FixedArray([[1.5, -2.0], [3.0, 0.25]], "ap_fixed<8,4,AP_RND,AP_SAT>")
    for b in (copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert (a == b).all() and b.fmt == a.fmt and repr(b) == repr(a)
    copied = copy.deepcopy(a)
    copied[0, 0] = 7.0
    assert a[0, 0] == 1.5
