"""Valid calls of the number formats."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from fastiter import quant
from tests.public.pick import Pick, subset
from tests.public.table import calls
from tests.quant.cases import KINDS
from tests.quant.cases import TEXTS as CANONICAL
from tests.scan.calls import REAL

TEXTS = tuple(KINDS)
#: Formats that accept a scale, including "amax"
SCALED = ("int8", "e4m3fn", "e5m2", "bf16<RNA>", "posit<16,1>")
ONE_BY_ONE = tuple(text for text in TEXTS if not quant.parse(text).block)
#: Fields of a format of each kind, in the order of the constructor
FIELDS: dict[str, dict[str, Any]] = {
    type(fmt).__name__: {field.name: getattr(fmt, field.name) for field in fields(fmt)}  # type: ignore[arg-type]
    for fmt in CANONICAL.values()
}


def floats(pick: Pick, *shape: int) -> Any:
    return pick.normal(*shape, dtype=pick.one_of((*REAL, np.float16)))


def matrix(pick: Pick) -> Any:
    return floats(pick, pick.integer(0, 4), pick.one_of((0, 1, 5, 16, 33)))


def rounding(pick: Pick) -> dict[str, Any]:
    """Return x, a format and a scale that matches both."""
    x = matrix(pick)
    if pick.flag() or not x.size:
        return {"x": x, "fmt": pick.one_of(TEXTS)}
    some = np.full((len(x), 1), 0.5, x.dtype)
    scale = pick.one_of(({"scale": 0.5}, {"scale": some}, {"scale": "amax"}, {"scale": "amax", "scale_axis": 0}))
    return {"x": x, "fmt": pick.one_of(SCALED), **scale}


@calls("fastiter.quant.quantize")
def quantize(pick: Pick) -> dict[str, Any]:
    return {**rounding(pick), **subset(pick, {"axis": 0, "rng": 3, "nan": pick.one_of(("keep", 0.5)), "counts": True})}


@calls("fastiter.quant.encode")
def encode(pick: Pick) -> dict[str, Any]:
    return {**rounding(pick), **subset(pick, {"axis": 0, "rng": 3, "nan": 0.5})}


@calls("fastiter.quant.measure_error")
def measure_error(pick: Pick) -> dict[str, Any]:
    return {**rounding(pick), **subset(pick, {"axis": 0, "rng": 3})}


@calls("fastiter.quant.decode")
def decode(pick: Pick) -> dict[str, Any]:
    fmt = pick.one_of(TEXTS)
    codes = quant.encode(pick.normal(pick.integer(0, 3), 32), fmt)
    options = {"dtype": np.float32, **({"scale": 0.5} if fmt in SCALED else {})}
    return {"codes": codes, "fmt": fmt, **subset(pick, options)}


@calls("fastiter.quant.pack")
def pack(pick: Pick) -> dict[str, Any]:
    fmt = pick.one_of(ONE_BY_ONE)
    return {"codes": quant.encode(pick.normal(2, pick.integer(0, 9)), fmt), "fmt": fmt}


@calls("fastiter.quant.unpack")
def unpack(pick: Pick) -> dict[str, Any]:
    fmt, n = pick.one_of(ONE_BY_ONE), pick.integer(0, 9)
    return {"packed": quant.pack(quant.encode(pick.normal(2, n), fmt), fmt), "fmt": fmt, "n": n}


@calls("fastiter.quant.calibrate")
def calibrate(pick: Pick) -> dict[str, Any]:
    x, fmt = floats(pick, 4, 6), pick.one_of(("int8", "uint4", "e4m3fn", "fixed<8,4,RND,SAT>"))
    axes = {} if fmt.startswith("fixed") else {"axis": pick.one_of((0, 1, (0, 1)))}
    return {"x": x, "fmt": fmt, **subset(pick, {"method": pick.one_of(("percentile", "mse")), **axes})}


@calls("fastiter.quant.quant_matmul", terms=40)
def quant_matmul(pick: Pick) -> dict[str, Any]:
    M, K, N, dtype = pick.integer(0, 4), pick.integer(0, 9), pick.integer(0, 4), pick.one_of(REAL)
    given = {"a": pick.normal(M, K, dtype=dtype), "b": pick.normal(K, N, dtype=dtype), "fmt_a": "e4m3fn"}
    accumulator = pick.one_of(("float32", "float64", "float<5,10>", "fixed<24,12,RND,SAT>"))
    return {**given, "fmt_b": pick.one_of(("e4m3fn", "int8")), "accumulator": accumulator}


def fixed(pick: Pick, *shape: int) -> quant.FixedArray:
    return quant.FixedArray(pick.normal(*shape), pick.one_of(("fixed<8,4,RND,SAT>", "ufixed<12,5>", "fixed<30,2>")))


@calls(
    "fastiter.quant.FixedArray",
    at=".astype",
    also=("astype",),
    run=lambda x, fmt, to: quant.FixedArray(x, fmt).astype(to),
)
def fixed_array(pick: Pick) -> dict[str, Any]:
    formats = ("fixed<8,4,RND,SAT>", "ufixed<12,5>", "fixed<30,2>")
    return {"x": pick.normal(2, pick.integer(0, 5)), "fmt": pick.one_of(formats), "to": pick.one_of(formats)}


@calls("fastiter.quant.FixedArray", at=".from_codes", also=("from_codes",), run=quant.FixedArray.from_codes)
def from_codes(pick: Pick) -> dict[str, Any]:
    return {"codes": pick.generator().integers(-8, 8, pick.integer(0, 5)), "fmt": "fixed<4,2>"}


ACCUMULATORS = ("fixed<24,12,RND,SAT>", "fixed<8,4,TRN,WRAP>")


@calls("fastiter.quant.fixed_matmul")
def fixed_matmul(pick: Pick) -> dict[str, Any]:
    M, K, N = pick.integer(0, 4), pick.integer(0, 6), pick.integer(0, 4)
    options = {"product": "fixed<12,6>", "bias": fixed(pick, N)}
    given = {"a": fixed(pick, M, K), "b": fixed(pick, K, N), "accumulator": pick.one_of(ACCUMULATORS)}
    return {**given, **subset(pick, options)}


@calls("fastiter.quant.fixed_conv2d")
def fixed_conv2d(pick: Pick) -> dict[str, Any]:
    B, C, O, S = pick.integer(0, 2), pick.integer(1, 2), pick.integer(1, 2), pick.integer(3, 5)
    options = {"product": "fixed<12,6>", "bias": fixed(pick, O), "stride": (2, 1), "padding": 1}
    given = {"x": fixed(pick, B, C, S, S), "w": fixed(pick, O, C, 2, 3), "accumulator": pick.one_of(ACCUMULATORS)}
    return {**given, **subset(pick, options)}


@calls("fastiter.quant.parse")
def parse(pick: Pick) -> dict[str, Any]:
    return {"text": pick.one_of(TEXTS)}


@calls("fastiter.quant.range_of")
def range_of(pick: Pick) -> dict[str, Any]:
    return {"fmt": pick.one_of(TEXTS)}


@calls("fastiter.quant.formats")
def formats(pick: Pick) -> dict[str, Any]:
    return {}


def enter_format(kind: str) -> None:
    @calls(f"fastiter.quant.{kind}")
    def make(pick: Pick) -> dict[str, Any]:
        return dict(FIELDS[kind])


for each in FIELDS:
    enter_format(each)
