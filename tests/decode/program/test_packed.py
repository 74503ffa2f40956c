"""Packed weights: the same numbers as fastiter.quant's, and products within the rounding of float32 sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import quant
from fastiter.decode._pack import KINDS, PackedMatrix, pack, pack_codes, pack_rows
from tests.support.error_cases import EITHER, TYPE, VALUE, Wrong, assert_all_refused

Array = Any
SHAPES = [(1, 1), (5, 3), (16, 8), (17, 48), (33, 50), (40, 96), (47, 129)]
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 11)
NF4 = quant.Table(quant.parse("nf4").values)


def numbers_of(fmt: str) -> Any:
    return np.float64 if fmt == "f64" else np.float32


def weights(shape: tuple[int, int], fmt: str, seed: int = 0) -> Array:
    """Return normal numbers, the rows of very different magnitude."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 1, (shape[0], 1))
    return x.astype(numbers_of(fmt))


def decoded(w: Array, packed: PackedMatrix) -> Array:
    """Return the numbers to which fastiter.quant rounds w, with scales computed from its groups."""
    fmt = packed.format
    if fmt in ("f32", "f64"):
        return w
    if fmt in ("bf16", "mxfp4", "mxfp8"):
        return quant.quantize(w, fmt)
    if fmt == "nvfp4":
        return quant.quantize(w, fmt, scale="amax")
    assert np.frexp(packed.scale)[0] == 0.5  # a power of two
    N, K = w.shape
    padded = np.pad(w, ((0, 0), (0, -K % packed.group)))
    amax = np.abs(padded).reshape(N, -1, packed.group).max(-1).astype(np.float64)
    scale = (amax / {"int8": 127, "int4": 7, "nf4": 1}[fmt] / packed.scale).astype(np.float16)
    scale = scale.astype(np.float64) * packed.scale
    rounding = NF4 if fmt == "nf4" else fmt
    return quant.decode(quant.encode(padded, rounding, scale=scale), rounding, scale=scale)[:, :K]


def assert_products(packed: PackedMatrix, x: Array) -> None:
    """Compare with float64: a float32 sum of K products has at most K / 16 + 24 roundings in a row."""
    y, w = packed.product(x), packed.unpack().astype(np.float64)
    assert y.dtype == x.dtype and y.shape == (*x.shape[:-1], packed.N)
    bound = np.abs(x).astype(np.float64) @ np.abs(w).T * (packed.K / 16 + 24) * np.finfo(x.dtype).eps
    assert (np.abs(y - x.astype(np.float64) @ w.T) <= bound + np.finfo(x.dtype).tiny).all()


@pytest.mark.parametrize("fmt", KINDS)
def test_products_of_every_remainder(fmt: str) -> None:
    for shape in SHAPES:
        packed = pack(weights(shape, fmt), fmt)
        for rows in ROWS:
            x = np.random.default_rng(rows).standard_normal((rows, shape[1])).astype(numbers_of(fmt))
            assert_products(packed, x)


@pytest.mark.parametrize("fmt", KINDS)
def test_unpacking_gives_the_numbers_of_quant(fmt: str) -> None:
    for shape in SHAPES:
        w = weights(shape, fmt)
        packed = pack(w, fmt)
        expected = decoded(w, packed)
        np.testing.assert_array_equal(packed.unpack().view(np.uint32), expected.view(np.uint32), strict=True)
        some = packed.unpack(shape[0] // 3, shape[0] // 2)
        np.testing.assert_array_equal(some, expected[shape[0] // 3 :][: shape[0] // 2])


@pytest.mark.parametrize("fmt", [fmt for fmt in KINDS if KINDS[fmt].scales is not None])
def test_every_code_and_scale_has_its_number(fmt: str) -> None:
    kind = KINDS[fmt]
    low, high = quant.parse(kind.element)._code_range()
    codes = np.arange(low, high + 1).astype(kind.codes)
    if fmt == "mxfp8":
        codes = codes[(codes & 0x7F) != 0x7F]  # NaN
    if kind.scales is np.float16:
        scales = np.arange(1, 0x7C00, 97, dtype=np.uint16).view(np.float16)
    else:
        scales = np.arange({"mxfp4": 253, "mxfp8": 247, "nvfp4": 127}[fmt], dtype=np.uint8)
    each = np.tile(codes, (len(scales), 1))
    shared = np.tile(scales[:, None], (1, -(-len(codes) // kind.group)))
    packed = pack_codes(each, shared, fmt)
    if kind.scales is np.float16:
        expected = quant.decode(each, NF4 if fmt == "nf4" else kind.element, scale=scales[:, None])
    else:
        expected = quant.decode(quant.BlockCodes(each, shared), kind.element)
    np.testing.assert_array_equal(packed.unpack().view(np.uint32), expected.view(np.uint32))
    assert_products(packed, np.full((1, len(codes)), 2.0**-40, np.float32))


@pytest.mark.parametrize("fmt", KINDS)
def test_a_row_has_the_same_bits_alone_and_on_any_number_of_threads(fmt: str) -> None:
    packed = pack(weights((200, 300), fmt), fmt)
    x = np.random.default_rng(1).standard_normal((8, 300)).astype(numbers_of(fmt))
    fastiter.set_num_threads(1)
    expected = packed.product(x)
    for row in range(8):
        np.testing.assert_array_equal(packed.product(x[row]), expected[row])
        np.testing.assert_array_equal(packed.product(x[: row + 1]), expected[: row + 1])
    fastiter.set_num_threads(2)
    np.testing.assert_array_equal(packed.product(x), expected)
    np.testing.assert_array_equal(packed.unpack(), pack(weights((200, 300), fmt), fmt).unpack())


@pytest.mark.parametrize("fmt", KINDS)
def test_any_layout_of_the_inputs(fmt: str) -> None:
    w, x = weights((20, 40), fmt), np.random.default_rng(2).standard_normal((3, 5, 40)).astype(numbers_of(fmt))
    packed = pack(w, fmt)
    for other in (np.asfortranarray(w), np.repeat(w, 2, 1)[:, ::2], w[::-1].copy()[::-1]):
        np.testing.assert_array_equal(pack(other, fmt).unpack(), packed.unpack())
    expected = packed.product(np.ascontiguousarray(x.swapaxes(0, 1)))
    np.testing.assert_array_equal(packed.product(x.swapaxes(0, 1)), expected)
    np.testing.assert_array_equal(packed.product(np.repeat(x, 2, -1)[..., ::2]), packed.product(x))
    wide = np.concatenate([x, np.full_like(x, np.nan)], -1)  # numbers behind a row are not read
    np.testing.assert_array_equal(packed.product(wide[0, :, :40]), packed.product(x[0]))
    assert packed.product(x[:0]).shape == (0, 5, 20)


@pytest.mark.parametrize("fmt", [fmt for fmt in KINDS if fmt != "f64"])
def test_weights_in_other_dtypes(fmt: str) -> None:
    w = weights((20, 40), fmt)
    dtypes = [np.float16, pytest.importorskip("ml_dtypes").bfloat16]
    for short in (w.astype(dtype) for dtype in dtypes):
        np.testing.assert_array_equal(pack(short, fmt).unpack(), pack(short.astype(np.float32), fmt).unpack())
    assert pack(w.astype(np.float64), fmt).unpack().dtype == np.float32


@pytest.mark.parametrize("fmt", KINDS)
def test_blocks_of_rows_give_the_same_matrix(fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w = weights((50, 40), fmt)
    expected, asked = pack(w, fmt).unpack(), []

    def rows(first: int, last: int) -> Array:
        asked.append(last - first)
        return w[first:last]

    monkeypatch.setattr("fastiter.decode._pack._BLOCK", 7 * 40)
    np.testing.assert_array_equal(pack_rows(rows, *w.shape, fmt).unpack(), expected)
    assert max(asked) == 7


@pytest.mark.parametrize("fmt", KINDS)
@pytest.mark.parametrize("factor", [1e-40, 1e-30, 1e-8, 1e8, 1e35])
def test_tiny_and_huge_weights(fmt: str, factor: float) -> None:
    w = (np.random.default_rng(3).uniform(-4, 4, (20, 64)) * factor).astype(numbers_of(fmt))
    w[3] = 0
    w[4, :32] = 0
    packed = pack(w, fmt)
    error = np.abs(packed.unpack().astype(np.float64) - w).max() / np.abs(w).max()
    bits = {"int8": 7.9, "int4": 3.7, "nf4": 2.7, "mxfp4": 2, "nvfp4": 2.4, "mxfp8": 3, "bf16": 8}.get(fmt, 24)
    assert error <= (2.0**-bits if factor > 1e-38 else 1)
    assert (packed.unpack()[3] == 0).all() and (packed.unpack()[4, :32] == 0).all()
    assert_products(packed, np.ones((2, 64), numbers_of(fmt)))


@pytest.mark.parametrize("fmt", KINDS)
def test_nan_and_infinity_of_the_inputs(fmt: str) -> None:
    packed = pack(np.ones((18, 33), numbers_of(fmt)), fmt)
    x = np.ones((3, 33), numbers_of(fmt))
    x[0, 32], x[1, 7] = np.nan, -np.inf
    y = packed.product(x)
    assert np.isnan(y[0]).all() and (y[1] == -np.inf).all() and np.isfinite(y[2]).all()


@pytest.mark.parametrize("fmt", ["int8", "int4", "nf4"])
def test_groups_of_any_size(fmt: str) -> None:
    w = weights((20, 100), fmt)
    for group in (8, 64, 104, 128):
        packed = pack(w, fmt, group)
        assert packed.group == group
        np.testing.assert_array_equal(packed.unpack(), decoded(w, packed))
        assert_products(packed, np.ones((2, 100), np.float32))


def test_bytes_per_weight() -> None:
    per_weight = {fmt: pack(np.ones((32, 64), numbers_of(fmt)), fmt).nbytes / (32 * 64) for fmt in KINDS}
    floats = {"f32": 4, "f64": 8, "bf16": 2}
    codes = {"int8": 8.5 / 8, "int4": 4.5 / 8, "nf4": 4.5 / 8, "mxfp4": 4.25 / 8, "mxfp8": 8.25 / 8, "nvfp4": 4.5 / 8}
    assert per_weight == floats | codes


W = np.ones((4, 16), np.float32)
CODES, SCALES = np.ones((4, 32), np.int8), np.ones((4, 1), np.float16)
BYTES, POWERS = np.ones((4, 32), np.uint8), np.ones((4, 1), np.uint8)
PACK = [
    Wrong("no array", {"weight": None}, TYPE, "weight", "None"),
    Wrong("integers", {"weight": np.ones((4, 16), int)}, TYPE, "weight", "int64"),
    Wrong("one axis", {"weight": W[0]}, VALUE, "weight", r"\(16,\)"),
    Wrong("NaN", {"weight": np.where(np.arange(16) == 3, np.nan, W)}, VALUE, "weight", "nan in rows 0 to 3"),
    Wrong("infinite", {"weight": np.full((4, 16), np.inf)}, VALUE, "weight", "inf"),
    Wrong("infinite float16", {"weight": np.full((4, 16), np.inf, np.float16)}, VALUE, "weight", "inf"),
    Wrong("beyond float32", {"weight": W.astype(float) * 1e39}, VALUE, "weight", "e[+]39"),
    Wrong("beyond bfloat16", {"weight": W * np.float32(3.4e38), "fmt": "bf16"}, VALUE, "weight", "3.4"),
    Wrong("no format", {"fmt": "int3"}, VALUE, "fmt", "'int3'"),
    Wrong("no text", {"fmt": quant.parse("int8")}, TYPE, "fmt", "Int"),
    Wrong("a group of text", {"group": "32"}, TYPE, "group", "str"),
    Wrong("an empty group", {"group": 0}, VALUE, "group", "0"),
    Wrong("a part of a line", {"group": 12}, VALUE, "group", "12"),
    Wrong("a group of floats", {"fmt": "f32", "group": 32}, VALUE, "group", "32"),
    Wrong("a group of MX", {"fmt": "mxfp4", "group": 64}, VALUE, "group", "64"),
]
PACK_CODES = [
    Wrong("codes of another dtype", {"codes": BYTES}, TYPE, "codes", "uint8"),
    Wrong("codes in a list", {"codes": [[1]]}, TYPE, "codes", "list"),
    Wrong("codes on one axis", {"codes": CODES[0]}, VALUE, "codes", r"\(32,\)"),
    Wrong("codes of 5 bits", {"codes": CODES * 8}, VALUE, "codes", "8"),
    Wrong("no scales", {"scales": None}, TYPE, "scales", "None"),
    Wrong("scales in float32", {"scales": SCALES.astype(np.float32)}, TYPE, "scales", "float32"),
    Wrong("too few scales", {"scales": SCALES[1:]}, VALUE, "scales", r"\(3, 1\)"),
    Wrong("an infinite scale", {"scales": SCALES * np.float16(np.inf)}, VALUE, "scales", "inf"),
    Wrong("NaN of mxfp4", {"fmt": "mxfp4", "codes": BYTES, "scales": POWERS * 255}, VALUE, "scales", "255"),
    Wrong("NaN of mxfp8", {"fmt": "mxfp8", "codes": BYTES * 255, "scales": POWERS}, VALUE, "codes", "NaN"),
    Wrong(
        "NaN of nvfp4",
        {"fmt": "nvfp4", "codes": BYTES, "scales": np.full((4, 2), 127, np.uint8)},
        VALUE,
        "scales",
        "127",
    ),
    Wrong("a scale of zero", {"scale": 0.0}, VALUE, "scale", "0"),
    Wrong("a scale beyond float32", {"scale": 1e39}, VALUE, "scale", "1e[+]39"),
]


def test_wrong_weights() -> None:
    cases = [(wrong, {"weight": W, "fmt": "int4", **wrong.changes}) for wrong in PACK]
    assert_all_refused("pack", [(wrong, lambda given=given: pack(**given)) for wrong, given in cases])


def test_wrong_codes() -> None:
    cases = [(wrong, {"codes": CODES, "scales": SCALES, "fmt": "int4", **wrong.changes}) for wrong in PACK_CODES]
    assert_all_refused("pack_codes", [(wrong, lambda given=given: pack_codes(**given)) for wrong, given in cases])


def test_wrong_inputs_of_a_product() -> None:
    packed = pack(W, "int4")
    cases = [
        Wrong("float64", {"x": W.astype(float)}, TYPE, "x", "float64"),
        Wrong("another length", {"x": W[:, 1:]}, VALUE, "x", r"\(4, 15\)"),
        Wrong("a number", {"x": np.float32(1)}, EITHER, "x", "float32"),
    ]
    assert_all_refused("product", [(wrong, lambda x=wrong.changes["x"]: packed.product(x)) for wrong in cases])
    rows = [Wrong("rows beyond", {"first": 5}, VALUE, "first", "5"), Wrong("too many", {"rows": 5}, VALUE, "rows", "5")]
    assert_all_refused("unpack", [(wrong, lambda given=wrong.changes: packed.unpack(**given)) for wrong in rows])
