"""quant_matmul: shapes, strides, outputs, threads."""

from __future__ import annotations

import numpy as np
import pytest

import fastiter
from fastiter.quant import quant_matmul
from tests.quant.cases import assert_equal
from tests.quant.products.matmul_cases import both, operand
from tests.support.cases import assert_same_bits

ACCUMULATORS = ("float32", "fp16", "fixed<12,8,RND,SAT>")


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
        *(((1, 3), (2, 2, 3, 2)), ((2, 2, 0), (0, 3)), ((3, 2, 0), (3, 0, 2)), ((0,), (0,))),
    ],
)
@pytest.mark.parametrize("accumulate", ACCUMULATORS)
def test_shapes(a: tuple[int, ...], b: tuple[int, ...], accumulate: str) -> None:
    rng = np.random.default_rng(14)
    x, y = operand(rng, a, "e4m3fn"), operand(rng, b, "e4m3fn")
    result = both(x, y, "e4m3fn", "e4m3fn", accumulate)
    assert result.shape == np.matmul(x, y).shape
    out = np.full(result.shape, np.nan, result.dtype)
    assert quant_matmul(x, y, "e4m3fn", "e4m3fn", accumulate, out=out) is out
    assert_same_bits(out, result)


@pytest.mark.parametrize("accumulate", ACCUMULATORS)
@pytest.mark.parametrize("formats", [("e4m3fn", "e4m3fn"), ("mxfp8_e4m3<8>", "mxfp8_e4m3<8>")])
def test_layouts(formats: tuple[str, str], accumulate: str) -> None:
    if accumulate.startswith("fixed") and formats[0].startswith("mx"):
        formats = "nvfp4<8>", "nvfp4<8>"
    rng = np.random.default_rng(15)
    x, y = operand(rng, (3, 9, 40), "e4m3fn"), operand(rng, (3, 40, 21), "e4m3fn")
    expected = quant_matmul(x, y, *formats, accumulate)
    views = {
        "transposed": lambda z: np.ascontiguousarray(z.swapaxes(1, 2)).swapaxes(1, 2),
        "steps": lambda z: np.repeat(np.repeat(z, 2, 1), 3, 2)[:, ::2, ::3],
        "reversed": lambda z: np.ascontiguousarray(z[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
        "batch inside": lambda z: np.ascontiguousarray(z.transpose(1, 2, 0)).transpose(2, 0, 1),
        "odd address": lambda z: np.frombuffer(b"1" + z.tobytes(), np.uint8)[1:].view(z.dtype).reshape(z.shape),
    }
    for name, view in views.items():
        for a, b in ((view(x), y), (x, view(y)), (view(x), view(y))):
            assert_equal(quant_matmul(a, b, *formats, accumulate), expected, expected, name)  # type: ignore[arg-type]
    same_b = np.broadcast_to(y[1], y.shape)
    assert_same_bits(quant_matmul(x, same_b, *formats, accumulate), quant_matmul(x, y[1], *formats, accumulate))
    x.flags.writeable = False
    out = np.full((3, 21, 9), np.nan, expected.dtype).swapaxes(1, 2)
    quant_matmul(x, y, *formats, accumulate, out=out)
    assert_same_bits(np.ascontiguousarray(out), expected)


@pytest.mark.parametrize("shape", [(90, 64, 200), (5, 100, 1500), (700, 40, 20), (64, 900, 64)])
def test_threads(shape: tuple[int, int, int]) -> None:
    M, K, N = shape
    rng = np.random.default_rng(16)
    a, b = operand(rng, (M, K), "e4m3fn"), operand(rng, (K, N), "e4m3fn")
    for formats, accumulate, every in (
        (("e4m3fn", "e4m3fn"), "float32", 1),
        (("fp32", "fp32"), "float32", 1),
        (("e4m3fn", "e4m3fn"), "fp16", 1),
        (("e4m3fn", "e4m3fn"), "bf16", 8),
        (("fp32", "e4m3fn"), "fp32", 1),
        (("e4m3fn", "e4m3fn"), "fixed<14,8,RND,SAT>", 1),
    ):
        results = []
        for threads in (1, 2, 3):
            fastiter.set_num_threads(threads)
            results.append(quant_matmul(a, b, *formats, accumulate, every))
        assert_same_bits(results[1], results[0])
        assert_same_bits(results[2], results[0])
        for m, n in ((0, 0), (M - 1, N - 1)):
            one = quant_matmul(a[m : m + 1], b[:, n : n + 1], *formats, accumulate, every)
            assert_same_bits(one, np.ascontiguousarray(results[0][m : m + 1, n : n + 1]))
