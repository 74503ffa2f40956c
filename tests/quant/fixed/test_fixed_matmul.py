"""fixed_matmul against the specification, and every path against the unconditional one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.quant import Fixed, FixedArray, fixed_matmul
from fastiter.quant._fixed.kernels import PATHS
from tests.quant.fixed.fixed_cases import OVERFLOWS, ROUNDINGS, codes, fixed, modes, random_format, run_path
from tests.support.cases import Array, assert_same_bits

FAST = [name for name in PATHS if name not in ("choose", "wide")]
every_rounding = pytest.mark.parametrize("rounding", ROUNDINGS)
every_overflow = pytest.mark.parametrize("overflow", OVERFLOWS)


def same(actual: FixedArray, expected: FixedArray) -> None:
    assert actual.fmt == expected.fmt
    assert_same_bits(actual.codes, expected.codes)


def both(a: FixedArray, b: FixedArray, acc: Any, product: Any = None, **more: Any) -> FixedArray:
    """Return the kernels' product, checked against the specification."""
    result = fixed_matmul(a, b, acc, product, **more)
    same(result, fixed_matmul(a, b, acc, product, backend="reference", **more))
    return result


# --- the specification -----------------------------------------------------------------------------------------------


@every_overflow
@every_rounding
def test_every_mode(rounding: str, overflow: str) -> None:
    rng = np.random.default_rng(0)
    for fa, fb, width, fraction in (
        (Fixed(8, 4), Fixed(8, 2), 14, 6),
        (Fixed(8, 4), Fixed(8, 2), 10, 6),
        (Fixed(6, 4), Fixed(7, 2, signed=False), 9, 9),
        (Fixed(12, 4, signed=False), Fixed(10, 5), 20, 5),
        (Fixed(20, 10), Fixed(25, 10), 40, 12),
        (Fixed(40, 10), Fixed(40, 10), 60, 12),
    ):
        for signed in (True, False):
            for r, o, n in modes(width, signed):
                if (r, o) == (rounding, overflow):
                    acc = Fixed(width, width - fraction, signed, r, o, n)
                    both(fixed(rng, (2, 7), fa), fixed(rng, (7, 3), fb), acc)


def test_random_formats() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        widths = [(1, 8), (1, 16), (1, 64)][rng.integers(3)]
        fa, fb = (random_format(rng, widths, (-5, 20)) for _ in range(2))
        exact = fa.fraction + fb.fraction
        acc = random_format(rng, (1, 64), (exact - 20, exact + 5))
        product = random_format(rng, (1, 64), (exact - 10, exact + 3)) if rng.integers(3) == 0 else None
        bias = fixed(rng, (1, 4), random_format(rng, (1, 20), (-5, 5))) if rng.integers(3) == 0 else None
        both(fixed(rng, (3, 6), fa), fixed(rng, (6, 4), fb), acc, product, bias=bias)


def test_points_far_away() -> None:
    """The accumulator's last bit may be far above or below every product."""
    rng = np.random.default_rng(2)
    for fraction in (-300, -140, -100, -64, -40, 60, 120, 300):
        for rounding, overflow in (("TRN", "WRAP"), ("RND_INF", "SAT"), ("RND", "SAT"), ("TRN_ZERO", "SAT_ZERO")):
            for width in (8, 16, 31, 64):
                acc = Fixed(width, width - fraction, rounding=rounding, overflow=overflow)
                for bits in (8, 16, 33, 64):
                    a, b = fixed(rng, (2, 5), Fixed(bits, 4)), fixed(rng, (5, 2), Fixed(bits, bits, signed=False))
                    both(a, b, acc)


def test_order_of_the_terms() -> None:
    """7 + 7 - 7 saturates at 7 after the first addition, 7 - 7 + 7 does not."""
    fmt, acc = Fixed(4, 4), Fixed(4, 4, overflow="SAT")
    one = FixedArray.from_codes([[1], [1], [1]], fmt)
    for terms, expected in (([7, 7, -7], 0), ([7, -7, 7], 7), ([-7, 7, 7], 7)):
        assert both(FixedArray.from_codes([terms], fmt), one, acc).codes.tolist() == [[expected]]


# --- the paths -------------------------------------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (7, 3, 129), (13, 37, 65), (6, 130, 31), (150, 9, 5), (2, 2, 300)]


@pytest.mark.parametrize("path", [*FAST, "choose"])
def test_paths_agree(path: str) -> None:
    rng = np.random.default_rng([3, PATHS[path]])
    taken = 0
    for i in range(240):
        widths = [(1, 8), (5, 12), (1, 16), (10, 31)][i % 4]
        fa, fb = (random_format(rng, widths, (0, 8)) for _ in range(2))
        exact = fa.fraction + fb.fraction
        acc = random_format(rng, [(8, 16), (4, 32), (1, 64)][i % 3], (exact - 9, exact + 1))
        if path == "pairs":
            acc = Fixed(acc.width, acc.width - exact - i % 2, acc.signed, acc.rounding, "WRAP")
        product = random_format(rng, (4, 40), (exact - 6, exact)) if path.startswith("lines") and i % 3 == 0 else None
        M, K, N = SHAPES[i % len(SHAPES)]
        a, b = fixed(rng, (M, K), fa), fixed(rng, (K, N), fb)
        bias = fixed(rng, (M, N), acc) if i % 5 == 0 else None
        every = int(rng.integers(1, 7)) if path.startswith("lines") and i % 4 == 0 else 1
        expected, _ = run_path(a, b, acc, product, bias=bias, every=every, path="wide")
        actual, paths = run_path(a, b, acc, product, bias=bias, every=every, path=path)
        assert_same_bits(actual, expected)
        taken += path in paths or path == "choose"
    assert taken > 20, f"{path} was taken {taken} times"


@pytest.mark.parametrize("path", ["fused16", "fused32", "lines32", "lines64"])
@every_overflow
def test_paths_in_every_mode(path: str, overflow: str) -> None:
    rng = np.random.default_rng(4)
    taken = set()
    factors = (Fixed(7, 3), Fixed(7, 2)), (Fixed(8, 4), Fixed(6, 2, signed=False)), (Fixed(5, 1, signed=False),) * 2
    for i, (width, shift) in enumerate(((11, 3), (13, 0), (6, 4), (12, -1), (9, 17), (8, 1))):
        fa, fb = factors[i % len(factors)]
        for signed in (True, False):
            for r, o, n in modes(width, signed):
                if o != overflow:
                    continue
                acc = Fixed(width, width - fa.fraction - fb.fraction + shift, signed, r, o, n)
                a, b = fixed(rng, (5, 11), fa), fixed(rng, (11, 37), fb)
                expected, _ = run_path(a, b, acc, path="wide")
                actual, paths = run_path(a, b, acc, path=path)
                assert_same_bits(actual, expected)
                taken |= paths
    assert path in taken or (path.startswith("fused") and overflow == "WRAP_SM")


CHOSEN = [
    ("int8, 32 bits that cannot overflow", Fixed(8, 4), Fixed(8, 2), Fixed(32, 22, overflow="SAT"), {"pairs"}),
    ("wrapping sums of exact products", Fixed(8, 4), Fixed(8, 2), Fixed(14, 4), {"pairs"}),
    ("48 bits, exact", Fixed(8, 4), Fixed(8, 2), Fixed(48, 30, overflow="SAT"), {"pairs"}),
    ("TRN, WRAP", Fixed(8, 4), Fixed(8, 2), Fixed(14, 8), {"fused16"}),
    ("RND, SAT", Fixed(8, 4), Fixed(8, 2), Fixed(14, 8, rounding="RND", overflow="SAT"), {"fused16"}),
    ("RND_CONV, SAT", Fixed(8, 4), Fixed(8, 2), Fixed(14, 8, rounding="RND_CONV", overflow="SAT"), {"fused16"}),
    ("TRN, SAT, 24 bits", Fixed(14, 4), Fixed(12, 2), Fixed(24, 18, overflow="SAT"), {"fused32"}),
    ("WRAP_SM", Fixed(8, 4), Fixed(8, 2), Fixed(10, 4, overflow="WRAP_SM"), {"lines32"}),
    ("48 bits, SAT", Fixed(20, 4), Fixed(20, 2), Fixed(48, 36, overflow="SAT", rounding="RND_CONV"), {"lines64"}),
    ("64 bits, SAT", Fixed(40, 4), Fixed(40, 2), Fixed(64, 36, overflow="SAT", rounding="RND_CONV"), {"wide"}),
]


@pytest.mark.parametrize(("label", "fa", "fb", "acc", "expected"), CHOSEN, ids=[case[0] for case in CHOSEN])
def test_which_path_is_chosen(label: str, fa: Fixed, fb: Fixed, acc: Fixed, expected: set[str]) -> None:
    rng = np.random.default_rng(5)
    a, b = fixed(rng, (33, 40), fa), fixed(rng, (40, 150), fb)
    actual, paths = run_path(a, b, acc)
    assert paths == expected
    assert_same_bits(actual, run_path(a, b, acc, path="wide")[0])


@pytest.mark.parametrize(
    ("signed", "overflow"),
    [(signed, o) for signed in (True, False) for o in OVERFLOWS if o != "WRAP" and (signed or o != "WRAP_SM")],
)
def test_rows_that_cannot_overflow(signed: bool, overflow: str) -> None:
    """Small rows are proved safe by their sum of magnitudes; the bound is tight: tested at it and one above."""
    rng = np.random.default_rng(6)
    fa, fb = Fixed(8, 8, signed), Fixed(8, 8, signed)
    acc = Fixed(16, 16, signed, overflow=overflow)
    a, b = codes(rng, (64, 200), fa), codes(rng, (200, 130), fb)
    a[::2] //= 64
    whole, paths = run_path(FixedArray.from_codes(a, fa), FixedArray.from_codes(b, fb), acc)
    assert "pairs" in paths and len(paths) == 2
    assert_same_bits(whole, run_path(FixedArray.from_codes(a, fa), FixedArray.from_codes(b, fb), acc, path="wide")[0])
    most = acc.max_code
    a, b = np.zeros((16, 300), a.dtype), np.ones((300, 16), a.dtype)
    for row, total in enumerate((most, most + 1, most - 1)):
        full, rest = divmod(total, fa.max_code)
        a[row, :full], a[row, full] = fa.max_code, rest
    out, _ = run_path(FixedArray.from_codes(a, fa), FixedArray.from_codes(b, fb), acc)
    assert_same_bits(out, run_path(FixedArray.from_codes(a, fa), FixedArray.from_codes(b, fb), acc, path="wide")[0])


def test_the_lowest_codes_of_all() -> None:
    """(-2^15)^2, and the sum of two, overflow the lanes of 16-bit products."""
    for wa, wb in ((8, 8), (16, 16), (12, 16), (32, 32), (31, 33)):
        fa, fb = Fixed(wa, wa), Fixed(wb, wb)
        a = FixedArray.from_codes(np.full((3, 9), fa.min_code), fa)
        b = FixedArray.from_codes(np.full((9, 5), fb.min_code), fb)
        roundings, widths = ("TRN", "RND", "RND_MIN_INF", "RND_CONV"), (8, 15, 16, 17, 31, 32, 33, 63, 64)
        drops = (0, 1, wa + wb - 17, wa + wb - 16, wa + wb - 2, wa + wb - 1, wa + wb)
        for (i, rounding), (j, width), (k, drop) in itertools.product(*map(enumerate, (roundings, widths, drops))):
            overflow = ("SAT", "WRAP", "SAT_SYM")[(i + j + k) % 3]
            acc = Fixed(width, width + drop, rounding=rounding, overflow=overflow)
            expected, _ = run_path(a, b, acc, path="wide")
            for path in ("choose", *FAST):
                assert_same_bits(run_path(a, b, acc, path=path)[0], expected)


# --- shapes, memory, threads -----------------------------------------------------------------------------------------

ACC = Fixed(12, 6, rounding="RND", overflow="SAT")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        *(((0, 3), (3, 2)), ((2, 0), (0, 3)), ((2, 3), (3, 0)), ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2))),
        *(
            ((2, 4, 3), (3, 5)),
            ((2, 4, 3), (2, 3, 5)),
            ((2, 1, 4, 3), (3, 3, 2)),
            ((5, 1, 3), (3, 1)),
            ((0, 2, 3), (3, 2)),
        ),
        *(((1, 3), (2, 2, 3, 2)), ((2, 2, 2, 1, 3), (3, 2)), ((2, 3), (4, 3, 1))),
    ],
)
def test_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(7)
    x, y = fixed(rng, a, Fixed(8, 4)), fixed(rng, b, Fixed(8, 2))
    expected = np.matmul(np.zeros(a), np.zeros(b)).shape
    assert both(x, y, ACC).shape == expected
    bias = fixed(rng, b[-1:] if len(b) > 1 else (), Fixed(10, 8))
    assert both(x, y, ACC, bias=bias).shape == expected


@pytest.mark.parametrize("layout", ["transposed", "steps", "reversed", "broadcast", "batch of steps", "swapped bytes"])
def test_layouts(layout: str) -> None:
    rng = np.random.default_rng(8)
    x, y = codes(rng, (6, 40, 70), Fixed(8, 4)), codes(rng, (6, 70, 90), Fixed(12, 6))
    views: dict[str, Any] = {
        "transposed": lambda z: np.ascontiguousarray(z.swapaxes(1, 2)).swapaxes(1, 2),
        "steps": lambda z: np.repeat(np.repeat(z, 2, 1), 3, 2)[:, ::2, ::3],
        "reversed": lambda z: np.ascontiguousarray(z[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
        "broadcast": lambda z: np.broadcast_to(z[:1], z.shape),
        "batch of steps": lambda z: np.ascontiguousarray(z.transpose(1, 0, 2)).transpose(1, 0, 2),
        "swapped bytes": lambda z: z.astype(z.dtype.newbyteorder()),
    }
    for acc in (ACC, Fixed(30, 20, overflow="SAT"), Fixed(40, 30, overflow="WRAP_SM")):
        made = [FixedArray.from_codes(views[layout](z), f) for z, f in ((x, Fixed(8, 4)), (y, Fixed(12, 6)))]
        plain = [
            FixedArray.from_codes(np.ascontiguousarray(z.codes.astype(w.dtype)), z.fmt)
            for z, w in zip(made, (x, y), strict=True)
        ]
        same(fixed_matmul(*made, acc), fixed_matmul(*plain, acc))
        same(fixed_matmul(made[0], made[1][2], acc), fixed_matmul(plain[0], plain[1][2], acc))


def test_orders_of_magnitude_in_both_directions() -> None:
    """Products with few columns and many rows are computed transposed."""
    rng = np.random.default_rng(9)
    a, b = fixed(rng, (300, 21), Fixed(8, 4)), fixed(rng, (21, 3), Fixed(8, 2))
    bias = fixed(rng, (3,), Fixed(8, 4))
    result = fixed_matmul(a, b, ACC, bias=bias)
    for rows in (slice(0, 1), slice(1, 20), slice(20, 300)):
        same(fixed_matmul(a[rows], b, ACC, bias=bias), result[rows])


@pytest.mark.parametrize("shape", [(256, 64, 512), (5, 100, 3000), (700, 300, 40), (3000, 700, 20)])
def test_threads(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(10)
    M, K, N = shape
    for fa, fb, acc in (
        (Fixed(8, 4), Fixed(8, 2), ACC),
        (Fixed(8, 4), Fixed(8, 2), Fixed(20, 10, overflow="SAT_SYM")),
        (Fixed(16, 4), Fixed(16, 2), Fixed(34, 20, rounding="TRN_ZERO", overflow="WRAP_SM")),
    ):
        a, b = fixed(rng, (M, K), fa), fixed(rng, (K, N), fb)
        results = []
        for threads in (1, 2, 3):
            fastiter.set_num_threads(threads)
            results.append(fixed_matmul(a, b, acc).codes)
        assert_same_bits(results[1], results[0])
        assert_same_bits(results[2], results[0])
        rows = rng.integers(0, M, 3)
        assert_same_bits(run_path(a[rows], b[:, :7], acc, path="wide")[0], np.ascontiguousarray(results[0][rows, :7]))


def test_long_sums_in_chunks_and_wide_accumulators() -> None:
    """More rows than are packed at a time; sums that 32-bit lanes hold only in parts."""
    rng = np.random.default_rng(11)
    a, b = fixed(rng, (70, 70000), Fixed(8, 4)), fixed(rng, (70000, 20), Fixed(8, 2))
    exact = a.codes.astype(np.float64) @ b.codes.astype(np.float64)
    out, paths = run_path(a, b, Fixed(48, 38, overflow="SAT"))
    assert paths == {"pairs"}
    assert (out == exact).all()
    wrapped, _ = run_path(a, b, Fixed(10, 0))
    assert_same_bits(wrapped, ((exact.astype(np.int64) + 512) % 1024 - 512).astype(np.int16))


def test_exact_products() -> None:
    rng = np.random.default_rng(12)
    for K in (0, 1, 2, 3, 64):
        a, b = fixed(rng, (3, K), Fixed(8, 4)), fixed(rng, (K, 4), Fixed(10, 2, signed=False))
        c = a @ b
        assert c.fmt == Fixed(18 + max(K - 1, 0).bit_length(), 6 + max(K - 1, 0).bit_length())
        assert (c.codes == a.codes.astype(int) @ b.codes.astype(int)).all()
    with pytest.raises(ValueError, match="at most 64 bits"):
        fixed(rng, (2, 3), Fixed(32, 4)) @ fixed(rng, (3, 2), Fixed(31, 4))


def padded(z: Array, rows: int, columns: int) -> Array:
    return np.pad(z, ((0, rows), (0, columns)))


def test_zeros_change_nothing() -> None:
    rng = np.random.default_rng(13)
    a, b = codes(rng, (9, 14), Fixed(8, 4)), codes(rng, (14, 11), Fixed(8, 2))
    for overflow in OVERFLOWS:
        acc = Fixed(10, 4, rounding="RND_CONV", overflow=overflow)
        small = run_path(FixedArray.from_codes(a, Fixed(8, 4)), FixedArray.from_codes(b, Fixed(8, 2)), acc)[0]
        x, y = padded(a, 2, 3), padded(b, 3, 5)
        large = run_path(FixedArray.from_codes(x, Fixed(8, 4)), FixedArray.from_codes(y, Fixed(8, 2)), acc)[0]
        assert_same_bits(large, padded(small, 2, 5))
