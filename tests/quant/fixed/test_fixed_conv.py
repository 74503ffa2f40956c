"""fixed_conv2d against the specification, and against torch where nothing is rounded."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.quant import Fixed, FixedArray, fixed_conv2d, fixed_matmul
from tests.quant.fixed.fixed_cases import fixed, modes, random_format
from tests.support.cases import assert_same_bits

X, W = Fixed(8, 4), Fixed(6, 2)
ACC = Fixed(12, 7, rounding="RND_CONV", overflow="SAT")


def both(x: FixedArray, w: FixedArray, acc: Any, product: Any = None, **more: Any) -> FixedArray:
    result = fixed_conv2d(x, w, acc, product, **more)
    expected = fixed_conv2d(x, w, acc, product, backend="reference", **more)
    assert result.fmt == expected.fmt
    assert_same_bits(result.codes, expected.codes)
    return result


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"stride": 2},
        {"stride": (1, 3), "padding": (2, 0)},
        {"padding": 1, "dilation": (2, 1)},
        {"groups": 2},
        {"groups": 4, "padding": (0, 1), "stride": (2, 1)},
    ],
    ids=str,
)
def test_windows(how: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x, w = fixed(rng, (2, 4, 7, 6), X), fixed(rng, (8, 4 // how.get("groups", 1), 3, 2), W)
    both(x, w, ACC, **how)
    both(x, w, ACC, bias=fixed(rng, (8,), Fixed(9, 6)), **how)
    both(x, w, ACC, "fixed<8,5,RND,SAT>", bias=fixed(rng, (), Fixed(9, 6)), **how)


def test_modes_and_formats() -> None:
    rng = np.random.default_rng(1)
    for rounding, overflow, n in modes(9, True):
        acc = Fixed(9, 5, True, rounding, overflow, n)
        both(fixed(rng, (1, 2, 4, 4), X), fixed(rng, (3, 2, 2, 2), W), acc)
    for _ in range(60):
        fx, fw = (random_format(rng, (1, 20), (0, 10)) for _ in range(2))
        acc = random_format(rng, (1, 64), (0, 20))
        both(fixed(rng, (2, 2, 4, 3), fx), fixed(rng, (3, 2, 2, 2), fw), acc, padding=1)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (0, 2, 5, 5), (2, 2, 3, 3)])
def test_small_and_empty(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    for O, R, S in itertools.product((0, 1, 3), (1, shape[2]), (1, shape[3])):
        y = both(fixed(rng, shape, X), fixed(rng, (O, shape[1], R, S), W), ACC)
        assert y.shape == (shape[0], O, shape[2] - R + 1, shape[3] - S + 1)
    no_channels = both(fixed(rng, (2, 0, 3, 3), X), fixed(rng, (2, 0, 2, 2), W), ACC, bias=fixed(rng, (2,), ACC))
    assert no_channels.shape == (2, 2, 2, 2)


def test_any_layout_of_x() -> None:
    rng = np.random.default_rng(3)
    x, w = fixed(rng, (2, 3, 9, 11), X), fixed(rng, (4, 3, 3, 3), W)
    expected = fixed_conv2d(x, w, ACC, padding=1).codes
    channels_last = np.ascontiguousarray(x.codes.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    turned = np.ascontiguousarray(x.codes[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]
    for codes in (channels_last, turned, np.repeat(x.codes, 2, 3)[..., ::2]):
        assert_same_bits(fixed_conv2d(FixedArray.from_codes(codes, X), w, ACC, padding=1).codes, expected)
        inner = FixedArray.from_codes(codes[:, :, 1:-1], X)
        same = FixedArray.from_codes(np.ascontiguousarray(x.codes[:, :, 1:-1]), X)
        assert_same_bits(fixed_conv2d(inner, w, ACC).codes, fixed_conv2d(same, w, ACC).codes)


def test_one_by_one_is_a_matrix_product() -> None:
    rng = np.random.default_rng(4)
    x, w = fixed(rng, (3, 40, 8, 9), X), fixed(rng, (20, 40, 1, 1), W)
    y = fixed_conv2d(x, w, ACC)
    flat = fixed_matmul(w.reshape(20, 40), x.reshape(3, 40, 72), ACC)
    assert_same_bits(y.codes, flat.codes.reshape(3, 20, 8, 9))


def test_threads_and_size() -> None:
    rng = np.random.default_rng(5)
    x, w = fixed(rng, (4, 16, 20, 22), X), fixed(rng, (24, 16, 3, 3), W)
    for acc in (ACC, Fixed(24, 16, overflow="SAT"), Fixed(30, 24, overflow="WRAP_SM")):
        results = []
        for threads in (1, 2, 3):
            fastiter.set_num_threads(threads)
            results.append(fixed_conv2d(x, w, acc, padding=1).codes)
        assert_same_bits(results[1], results[0])
        assert_same_bits(results[2], results[0])


def test_torch_computes_the_same_where_nothing_is_rounded() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    for how in ({"padding": 1}, {"stride": (2, 1), "dilation": 2, "padding": (3, 2)}, {"groups": 4}):
        x, w = fixed(rng, (2, 8, 9, 10), X), fixed(rng, (12, 8 // how.get("groups", 1), 3, 3), W)
        values = (torch.from_numpy(z.codes.astype(np.float64)) for z in (x, w))
        expected = torch.nn.functional.conv2d(*values, **how).numpy()
        y = fixed_conv2d(x, w, Fixed(32, 24), **how)
        assert (y.codes == expected).all()
