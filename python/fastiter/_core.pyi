from typing import Any

import numpy.typing as npt

from ._core_tensors import RnnStream_f32 as RnnStream_f32
from ._core_tensors import RnnStream_f64 as RnnStream_f64
from ._core_tensors import rnn_bwd_tensors as rnn_bwd_tensors
from ._core_tensors import rnn_fits_tensors as rnn_fits_tensors
from ._core_tensors import rnn_fwd_tensors as rnn_fwd_tensors
from ._core_tensors import rnn_layer_bwd_tensors as rnn_layer_bwd_tensors
from ._core_tensors import rnn_layer_fwd_tensors as rnn_layer_fwd_tensors
from ._core_tensors import use_tensors as use_tensors

version: str

Address = int | npt.NDArray[Any]
Steps = tuple[()] | tuple[Address, int, int, int, int] | npt.NDArray[Any]
# cell, B, T, N, D, reverse, lengths, offsets, packed rows; starts, reset and its stride, clip_state, clip_grad
Shape = (
    tuple[int, int, int, int, int, bool, Address, Address, int]
    | tuple[int, int, int, int, int, bool, Address, Address, int, Address, Address, int, float, float]
)
# rows, T, M, N, K, V, starts, lengths, reset with its strides, chunk, period
Reset = tuple[()] | tuple[Address, int, int]
DeltaShape = tuple[int, int, int, int, int, int, Address, Address, Reset, int, int]
Addresses = tuple[Address, ...]
ParaSteps = tuple[()] | tuple[int, int, int, int] | npt.NDArray[Any]
ParaShape = tuple[int, int, int, int, bool, Address]

class Buffer:
    def __init__(self, bytes: int, /) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def release_idle_blocks() -> None: ...
def idle_bytes() -> int: ...
def isa_chosen() -> str: ...
def isa_built() -> str: ...
def isa_available() -> str: ...
def thread_count() -> int: ...
def set_thread_count(threads: int, /) -> None: ...
def thread_pool() -> str: ...
def rnn_fwd_f32(
    shape: Shape,
    wx: Steps,
    r: Address,
    b: Address,
    first: Addresses,
    last: Addresses,
    states: tuple[Steps, ...],
    saved: Steps,
    kept: tuple[Address, ...],
    /,
) -> None: ...
def rnn_bwd_f32(
    shape: Shape,
    r: Address,
    first: Addresses,
    states: tuple[Steps, ...],
    saved: Steps,
    dstates: tuple[Steps, ...],
    dlast: Addresses,
    dwx: Steps,
    dfirst: Addresses,
    db: Address,
    dr: Address,
    kept: tuple[Address, ...],
    wx: Steps,
    b: Address,
    /,
) -> None: ...
def delta_fwd_f32(
    shape: DeltaShape,
    q: Steps,
    k: Steps,
    v: Steps,
    beta: Address,
    decay: Address,
    h0: Address,
    o: Steps,
    last: Address,
    e: Address,
    states: Address,
    /,
) -> None: ...
def delta_bwd_f32(
    shape: DeltaShape,
    q: Steps,
    k: Steps,
    beta: Address,
    decay: Address,
    e: Address,
    states: Address,
    d_o: Steps,
    dlast: Address,
    dq: Address,
    dk: Address,
    dv: Address,
    dbeta: Address,
    ddecay: Address,
    dh0: Address,
    /,
) -> None: ...
def gemm_f32(
    M: int,
    N: int,
    K: int,
    a: Address,
    a_m: int,
    a_k: int,
    b: Address,
    b_k: int,
    b_n: int,
    bias: Address,
    c: Address,
    /,
) -> None: ...
def column_sums_f32(x: Address, M: int, N: int, out: Address, /) -> None: ...
def function_f32(function: int, x: Address, out: Address, n: int, /) -> None: ...
def read_stream_f32(x: Address, n: int, /) -> float: ...
def para_fwd_f32(
    shape: ParaShape,
    wx: ParaSteps,
    a: Address,
    p: Address,
    first: Addresses,
    last: Addresses,
    states: tuple[ParaSteps, ...],
    newton: tuple[()] | tuple[int, int, float, float],
    steps: Address,
    /,
) -> None: ...
def para_bwd_f32(
    shape: ParaShape,
    wx: ParaSteps,
    a: Address,
    p: Address,
    first: Addresses,
    states: tuple[ParaSteps, ...],
    dh: ParaSteps,
    dlast: Addresses,
    dwx: ParaSteps,
    da: Address,
    dp: Address,
    dfirst: Addresses,
    /,
) -> None: ...

para_fwd_f64 = para_fwd_f32
para_bwd_f64 = para_bwd_f32

rnn_fwd_f64 = rnn_fwd_f32
rnn_bwd_f64 = rnn_bwd_f32
rnn_fwd_bf16 = rnn_fwd_f32
rnn_bwd_bf16 = rnn_bwd_f32
delta_fwd_f64 = delta_fwd_f32
delta_bwd_f64 = delta_bwd_f32
gemm_f64 = gemm_f32
gemm_bf16 = gemm_f32
column_sums_f64 = column_sums_f32
column_sums_bf16 = column_sums_f32
function_f64 = function_f32
read_stream_f64 = read_stream_f32

Lines = tuple[()] | tuple[Address, int, int]
ScanShape = tuple[int, int, int, bool, bool, Address, Address, Lines]

def linear_scan_fwd_f32(shape: ScanShape, a: Lines, x: Lines, first: Address, h: Lines, last: Address, /) -> None: ...
def linear_scan_bwd_f32(
    shape: ScanShape,
    a: Lines,
    h: Lines,
    dh: Lines,
    first: Address,
    dlast: Address,
    dx: Lines,
    da: Lines,
    da_sum: Lines,
    dfirst: Address,
    /,
) -> None: ...
def block_scan_fwd_f32(
    shape: ScanShape, K: int, A: Lines, x: Lines, first: Address, h: Lines, last: Address, /
) -> None: ...
def block_scan_bwd_f32(
    shape: ScanShape,
    K: int,
    A: Lines,
    h: Lines,
    dh: Lines,
    first: Address,
    dlast: Address,
    dx: Lines,
    dA: Lines,
    dA_sum: Lines,
    dfirst: Address,
    /,
) -> None: ...

linear_scan_fwd_f64 = linear_scan_fwd_f32
linear_scan_bwd_f64 = linear_scan_bwd_f32
linear_scan_fwd_bf16 = linear_scan_fwd_f32
linear_scan_bwd_bf16 = linear_scan_bwd_f32
block_scan_fwd_f64 = block_scan_fwd_f32
block_scan_bwd_f64 = block_scan_bwd_f32

Index3 = tuple[tuple[int, int, int], tuple[int, int, int]]
FixedCodes = tuple[Address, int, bool, int, Index3, Index3]
FixedTarget = tuple[int, bool, int, int, int, int]

def fixed_matmul(
    a: FixedCodes,
    b: FixedCodes,
    acc: FixedTarget,
    product: FixedTarget | tuple[()],
    every: int,
    start: tuple[Address, int, int] | tuple[()],
    out: tuple[Address, int, Index3, Index3],
    batch: tuple[int, Address, Address, Address],
    only: int,
    /,
) -> int: ...
def fixed_convert(
    source: tuple[Address, int, bool, int], out: tuple[Address, int], n: int, target: FixedTarget, /
) -> None: ...
def quant_matmul(
    M: int,
    N: int,
    K: int,
    in_double: bool,
    a: tuple[Address, int, int],
    b: tuple[Address, int, int],
    c: tuple[Address, int],
    acc: tuple[int, int, int, float, float, float, float, bool],
    every: int,
    sums: int,
    /,
) -> None: ...
def quantize(
    format: tuple[Any, ...],
    scaling: tuple[Any, ...],
    in_double: bool,
    seed: int,
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
def quantize_gradient(
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

class RelaxMatrix:
    def sweep(
        self,
        x: Address,
        b: Address,
        d: Address,
        k: int,
        omega: Address,
        momentum: Address,
        count: int,
        kind: int,
        /,
    ) -> None: ...
    def residual(self, x: Address, b: Address, r: Address, k: int, norms: Address, /) -> None: ...

def relax_rows(
    numbers: int,
    n: int,
    start: Address,
    column: Address,
    value: Address,
    order: Address,
    clusters: Address,
    colours: Address,
    part: int,
    batch: int,
    /,
) -> RelaxMatrix: ...
def relax_slices(
    numbers: int,
    n: int,
    start: Address,
    column: Address,
    value: Address,
    order: Address,
    colours: Address,
    part: int,
    /,
) -> RelaxMatrix: ...
def relax_blocks(
    numbers: int,
    n: int,
    size: int,
    rows: int,
    start: Address,
    column: Address,
    value: Address,
    order: Address,
    clusters: Address,
    colours: Address,
    batch: int,
    /,
) -> RelaxMatrix: ...
def relax_dense(numbers: int, n: int, value: Address, order: Address, /) -> RelaxMatrix: ...
def relax_projections(
    numbers: int, n: int, columns: int, start: Address, column: Address, value: Address, order: Address, batch: int, /
) -> RelaxMatrix: ...
def relax_stencil(
    numbers: int,
    n0: int,
    n1: int,
    n2: int,
    coefficients: Address,
    is_constant: bool,
    given: Address,
    red_black: bool,
    projections: bool,
    order: Address,
    clusters: Address,
    colours: Address,
    /,
) -> RelaxMatrix: ...
def relax_subdomains(
    numbers: int,
    start: Address,
    column: Address,
    value: Address,
    count: int,
    first: Address,
    row: Address,
    first_inverse: Address,
    inverse: Address,
    x: Address,
    y: Address,
    b: Address,
    k: int,
    keep: float,
    omega: float,
    backward: bool,
    /,
) -> None: ...
def relax_fingerprint(x: Address, bytes: int, /) -> int: ...
def relax_check(
    numbers: int, n: int, columns: int, entries: int, start: Address, column: Address, value: Address, /
) -> tuple[int, int]: ...
def relax_colour(n: int, start: Address, column: Address, colour: Address, /) -> int: ...
def relax_colour_disjoint(n: int, columns: int, start: Address, column: Address, colour: Address, /) -> int: ...
def relax_red_black(n: int, start: Address, column: Address, colour: Address, /) -> int: ...
def relax_colour_clusters(n: int, start: Address, column: Address, size: int, colour: Address, /) -> int: ...
def relax_check_colours(n: int, start: Address, column: Address, colour: Address, /) -> int: ...

class Tsallis:
    def __init__(
        self,
        arms: int,
        estimate: Address,
        total: Address,
        rounds: Address,
        chance: Address,
        pending: Address,
        generator: Address,
        /,
    ) -> None: ...
    def probabilities(self, bin: int, out: Address, /) -> None: ...
    def predict(self, bin: int, /) -> int: ...
    def update(self, loss: float, /) -> None: ...

class Chebyshev:
    def __init__(
        self,
        arms: int,
        terms: int,
        lebesgue: float,
        gram: Address,
        moment: Address,
        square: Address,
        theta: Address,
        misfit: Address,
        feature: Address,
        numbers: Address,
        rounds: Address,
        pending: Address,
        generator: Address,
        /,
    ) -> None: ...
    def probabilities(self, x: float, out: Address, /) -> None: ...
    def predict(self, x: float, /) -> int: ...
    def update(self, loss: float, /) -> None: ...
