"""Masked arrays are refused wherever arrays are accepted: masked numbers would be treated like all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import quant, relax

X = np.ones((3, 4))


def masked(x: Any) -> Any:
    return np.ma.masked_array(x, mask=np.zeros(np.shape(x), bool))


M, A = masked(X), 4.0 * np.eye(3)
CALLS: dict[str, Callable[[], Any]] = {
    "quantize": lambda: quant.quantize(M, "int8"),
    "quantize, out": lambda: quant.quantize(X, "int8", out=masked(X.copy())),
    "quantize, scale": lambda: quant.quantize(X, "int8", scale=masked(np.ones((3, 1)))),
    "quantize, zero_point": lambda: quant.quantize(X, "uint8", scale=1.0, zero_point=masked(np.ones((1, 1), int))),
    "encode": lambda: quant.encode(M, "e4m3fn"),
    "decode": lambda: quant.decode(masked(np.zeros(3, np.uint8)), "e4m3fn"),
    "decode, scales": lambda: quant.decode(
        quant.BlockCodes(np.zeros(32, np.uint8), masked(np.zeros(1, np.uint8))), "mxfp4_e2m1"
    ),
    "pack": lambda: quant.pack(masked(np.zeros(3, np.uint8)), "e2m1"),
    "unpack": lambda: quant.unpack(masked(np.zeros(2, np.uint8)), "e2m1", 3),
    "measure_error": lambda: quant.measure_error(M, "int8"),
    "calibrate": lambda: quant.calibrate(M, "int8"),
    "FixedArray": lambda: quant.FixedArray(M, "fixed<8,4>"),
    "from_codes": lambda: quant.FixedArray.from_codes(masked([1, 2]), "fixed<8,4>"),
    "a == b": lambda: quant.FixedArray([1.0], "fixed<8,4>") == masked([1.0]),
    "quant_matmul": lambda: quant.quant_matmul(masked(A), A, "int8", "int8"),
    "lstm": lambda: fastiter.lstm(masked(np.ones((1, 2, 4, 1, 8))), np.ones((4, 1, 8, 8))),
    "linear_scan": lambda: fastiter.linear_scan(masked([0.5]), np.ones((1, 3, 1))),
    "relax, A": lambda: relax.jacobi(masked(A), np.ones(3)),
    "relax, b": lambda: relax.jacobi(A, masked(np.ones(3))),
    "relax, x": lambda: relax.Relaxation(A, "jacobi").sweep(masked(np.ones(3)), np.ones(3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_mask_is_refused(name: str) -> None:
    message = r"must be without a mask \(x.filled\(value\) is\), got a masked array"
    with pytest.raises(TypeError, match=message) as raised:
        CALLS[name]()
    assert "\n" not in str(raised.value)


def test_other_subclasses_are_arrays() -> None:
    class Named(np.ndarray):
        pass

    x = np.linspace(-1, 1, 12).reshape(3, 4)
    np.testing.assert_array_equal(
        quant.quantize(x.view(Named), "int4", scale=0.1), quant.quantize(x, "int4", scale=0.1)
    )
