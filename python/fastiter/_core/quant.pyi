"""Number formats, and products in them. A stub."""

from typing import overload

from . import Address

class Kind:
    fixed: int
    wide_fixed: int
    small_float: int
    wide_float: int
    mx: int
    nvfp4: int
    block_integer: int
    posit: int
    table: int
    logarithmic: int
    powers: int

class Rounding:
    down: int
    zero: int
    half_up: int
    half_zero: int
    half_down: int
    half_away: int
    even: int
    up: int
    away: int
    stochastic: int

class Overflow:
    saturate: int
    zero: int
    wrap: int
    wrap_some: int
    sign_magnitude: int
    sign_magnitude_one: int
    sign_magnitude_some: int

class Element:
    f32: int
    f64: int
    f16: int
    bf16: int
    i8: int
    u8: int
    i16: int
    u16: int
    i32: int
    u32: int
    i64: int
    u64: int

class FixedPath:
    choose: int
    pairs: int
    fused16: int
    fused32: int
    lines32: int
    lines64: int
    wide: int

class FloatSums:
    any: int
    exact_in_double: int
    nearest_in_float: int

kind: Kind
rounding: Rounding
overflow: Overflow
element: Element
fixed_path: FixedPath
float_sums: FloatSums

class Index3:
    def __init__(self, size: tuple[int, int, int], stride: tuple[int, int, int], /) -> None: ...

class FixedCodes:
    @overload
    def __init__(self, data: Address, bytes: int, is_signed: bool, width: int, item: Index3, k: Index3, /) -> None: ...
    @overload
    def __init__(self, data: Address, bytes: int, is_signed: bool, width: int, /) -> None: ...

class FixedTarget:
    def __init__(
        self,
        width: int,
        is_signed: bool,
        rounding: int,
        overflow: int,
        symmetric: bool,
        saturated_bits: int,
        shift: int,
        /,
    ) -> None: ...

class FixedStart:
    def __init__(self, codes: Address, m: int, n: int, /) -> None: ...

class FixedOutput:
    def __init__(self, data: Address, bytes: int, m: Index3, n: Index3, /) -> None: ...

class FixedBatch:
    def __init__(self, count: int, a: Address, b: Address, out: Address, /) -> None: ...

def fixed_matmul(
    a: FixedCodes,
    b: FixedCodes,
    acc: FixedTarget,
    product: FixedTarget | None,
    every: int,
    start: FixedStart | None,
    out: FixedOutput,
    batch: FixedBatch,
    only: int,
    /,
) -> int: ...
def fixed_convert(source: FixedCodes, out: Address, out_bytes: int, n: int, target: FixedTarget, /) -> None: ...

class Strided:
    def __init__(self, data: Address, row: int, column: int, /) -> None: ...

class FloatAccumulator:
    def __init__(
        self,
        rounding: int,
        mantissa: int,
        min_exponent: int,
        largest: float,
        over: float,
        under: float,
        infinite: float,
        has_minus_zero: bool,
        /,
    ) -> None: ...

def matmul(
    M: int,
    N: int,
    K: int,
    in_double: bool,
    a: Strided,
    b: Strided,
    c: Strided,
    acc: FloatAccumulator,
    every: int,
    sums: int,
    /,
) -> None: ...

class Format:
    in_double: bool
    def __init__(self, plan: object, codes: bool, /) -> None: ...

class Scales:
    @overload
    def __init__(self, scale: float, zero_point: float, in_float: bool, /) -> None: ...
    @overload
    def __init__(
        self, scales: Address, zero_points: Address | None, run: int, count: int, in_float: bool, /
    ) -> None: ...

def quantize(
    format: Format,
    scales: Scales | None,
    nan: float,
    count: bool,
    seed: int,
    block_scales: Address,
    x: Address,
    x_type: int,
    y: Address,
    y_type: int,
    lines: int,
    n: int,
    /,
) -> tuple[int, int, int]: ...
def pack_codes(
    codes: Address, type: int, bits: int, packed: Address, lines: int, n: int, unpack: bool, is_signed: bool, /
) -> None: ...
def gradient(
    in_double: bool,
    limits: tuple[float, float] | None,
    clip: bool,
    dy: Address,
    x: Address,
    y: Address,
    dx: Address,
    n: int,
    sum: bool,
    /,
) -> float: ...
def random_words(seed: int, first: int, n: int, words: Address, /) -> None: ...
