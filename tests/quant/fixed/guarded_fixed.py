"""Products of codes and of small floats with every array between two inaccessible guard pages.

python -m tests.quant.fixed.guarded_fixed: run by test_isa.py for every instruction set.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np

from fastiter.quant import Fixed, FixedArray, fixed_conv2d, quant_matmul
from fastiter.quant._fixed.kernels import PATHS
from tests.quant.fixed.fixed_cases import codes, run_path
from tests.support.cases import Array
from tests.support.guarded import copies, guarded

RNG = np.random.default_rng(0)
#: Formats of factors and accumulator, each with a different first exact path
FORMATS = (
    (Fixed(8, 4), Fixed(7, 2), Fixed(14, 4)),
    (Fixed(8, 4), Fixed(8, 2), Fixed(40, 20, overflow="SAT")),
    (Fixed(8, 4), Fixed(6, 2, signed=False), Fixed(14, 8, rounding="RND", overflow="SAT")),
    (Fixed(14, 4), Fixed(12, 2), Fixed(24, 18, rounding="RND_CONV", overflow="SAT")),
    (Fixed(8, 4), Fixed(20, 2), Fixed(10, 8, overflow="WRAP_SM")),
    (Fixed(20, 4), Fixed(20, 2), Fixed(48, 36, overflow="SAT_ZERO")),
    (Fixed(40, 4), Fixed(40, 2), Fixed(64, 36, overflow="SAT")),
)


def layouts(x: Array, at_end: bool) -> list[Array]:
    return [copies(x, at_end), copies(np.ascontiguousarray(x.T), at_end).T, copies(x[::-1, ::-1], at_end)[::-1, ::-1]]


def every_product(at_end: bool) -> None:
    every = itertools.product(FORMATS, (1, 5, 7), (1, 2, 17), (1, 16, 33, 130))
    for k, ((fa, fb, acc), M, K, N) in enumerate(every):
        x, y = (layouts(codes(RNG, *each), at_end)[k % 3] for each in (((M, K), fa), ((K, N), fb)))
        out, taken = run_path(FixedArray.from_codes(x, fa), FixedArray.from_codes(y, fb), acc)
        TAKEN.update(taken)
        FOUND.update(out.tobytes())
    fmt = Fixed(8, 4)
    x, w = (copies(codes(RNG, shape, fmt), at_end) for shape in ((2, 3, 9, 7), (5, 3, 3, 2)))
    found = fixed_conv2d(FixedArray.from_codes(x, fmt), FixedArray.from_codes(w, fmt), Fixed(14, 8, overflow="SAT"))
    FOUND.update(found.codes.tobytes())
    for k, (accumulate, M, K, N) in enumerate(itertools.product(ACCUMULATORS, (1, 5), (1, 400), (1, 17, 33))):
        a, b = (RNG.standard_normal(shape).astype(np.float32) for shape in ((M, K), (K, N)))
        operands = OPERANDS[:1] if accumulate.startswith("fixed") else OPERANDS
        for i, (x, y) in enumerate(zip(layouts(a, at_end), layouts(b, at_end), strict=True)):
            for left, right in operands[(i + k) % 3 :: 3]:  # each pair of operands in each layout with some size
                FOUND.update(np.asarray(quant_matmul(x, y, left, right, accumulate)).tobytes())


ACCUMULATORS = ("float32", "fp16", "bf16", "fp32", "fp16<RZ>", "fixed<12,8>")
#: Formats of the factors of other products: fixed and floating point, scaled blocks, and a table
OPERANDS = (
    ("e4m3fn", "fixed<9,5,RND,SAT>"),
    ("mxfp8_e4m3", "mxfp4_e2m1"),
    ("nvfp4", "int8"),
    ("posit<16,1>", "nf4"),
    ("bf16", "e5m2"),
)
TAKEN: set[str] = set()
#: A hash of all results, which are the same on every instruction set
FOUND = hashlib.sha256()


def main() -> None:
    empty = np.empty
    for at_end in (False, True):

        def inside(shape: Any, dtype: Any = float, at_end: bool = at_end) -> Array:
            return guarded(shape, dtype, at_end)

        np.empty = inside  # type: ignore[assignment]
        try:
            every_product(at_end)
        finally:
            np.empty = empty
    assert {*PATHS} - TAKEN == {"choose"}, TAKEN
    print(FOUND.hexdigest())


if __name__ == "__main__":
    main()
    print("done")
