from typing import Any

from ._core_quant import fixed_convert as fixed_convert
from ._core_quant import fixed_matmul as fixed_matmul
from ._core_quant import fixed_path as fixed_path
from ._core_quant import float_sums as float_sums
from ._core_quant import pack_codes as pack_codes
from ._core_quant import quant_element as quant_element
from ._core_quant import quant_kind as quant_kind
from ._core_quant import quant_matmul as quant_matmul
from ._core_quant import quant_overflow as quant_overflow
from ._core_quant import quant_rounding as quant_rounding
from ._core_quant import quantize as quantize
from ._core_quant import quantize_gradient as quantize_gradient
from ._core_quant import random_words as random_words
from ._core_tensors import RnnStream_f32 as RnnStream_f32
from ._core_tensors import RnnStream_f64 as RnnStream_f64
from ._core_tensors import rnn_bwd_tensors as rnn_bwd_tensors
from ._core_tensors import rnn_fits_tensors as rnn_fits_tensors
from ._core_tensors import rnn_fwd_tensors as rnn_fwd_tensors
from ._core_tensors import rnn_layer_bwd_tensors as rnn_layer_bwd_tensors
from ._core_tensors import rnn_layer_fwd_tensors as rnn_layer_fwd_tensors
from ._core_tensors import use_tensors as use_tensors

version: str

#: An ndarray or a torch tensor (without its type, as stubs need no torch), an address, or None
Address = Any
#: The same, with strides that the kernels follow
Strided = Any
Sequence = tuple[Any, ...] | list[Any]
# cell, B, T, N, D, reverse, lengths, offsets, packed rows; starts, reset, clip_state, clip_grad
Shape = tuple[Any, ...]
# rows, T, M, N, K, V, starts, lengths, reset, chunk, period
DeltaShape = tuple[Any, ...]
# cell, B, T, D, reverse, lengths
ParaShape = tuple[int, int, int, int, bool, Address]
Addresses = Sequence

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
def rnn_fwd(
    shape: Shape,
    wx: Strided,
    r: Address,
    b: Address,
    first: Sequence,
    last: Sequence,
    states: Sequence,
    saved: Strided,
    every: int,
    checkpoints: Sequence,
    /,
) -> None: ...
def rnn_bwd(
    shape: Shape,
    r: Address,
    first: Sequence,
    states: Sequence,
    saved: Strided,
    dstates: Sequence,
    dlast: Sequence,
    dwx: Strided,
    dfirst: Sequence,
    db: Address,
    dr: Address,
    every: int,
    checkpoints: Sequence,
    wx: Strided,
    b: Address,
    /,
) -> None: ...
def delta_fwd(
    shape: DeltaShape,
    q: Strided,
    k: Strided,
    v: Strided,
    beta: Address,
    decay: Address,
    h0: Address,
    o: Strided,
    last: Address,
    e: Address,
    states: Address,
    /,
) -> None: ...
def delta_bwd(
    shape: DeltaShape,
    q: Strided,
    k: Strided,
    beta: Address,
    decay: Address,
    e: Address,
    states: Address,
    d_o: Strided,
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
def para_fwd(
    shape: ParaShape,
    wx: Strided,
    a: Address,
    p: Address,
    first: Address,
    last: Address,
    states: Sequence,
    newton: tuple[()] | tuple[int, int, float, float],
    steps: Address,
    /,
) -> None: ...
def para_bwd(
    shape: ParaShape,
    wx: Strided,
    a: Address,
    p: Address,
    first: Address,
    states: Sequence,
    dh: Strided,
    dlast: Address,
    dwx: Strided,
    da: Address,
    dp: Address,
    dfirst: Address,
    /,
) -> None: ...

gemm_f64 = gemm_f32
gemm_bf16 = gemm_f32
column_sums_f64 = column_sums_f32
column_sums_bf16 = column_sums_f32
function_f64 = function_f32
read_stream_f64 = read_stream_f32

# sequences, T, numbers of a step, reverse, lengths, starts, reset
ScanShape = tuple[int, int, int, bool, Address, Address, Address]

def linear_scan_fwd(shape: ScanShape, a: Strided, x: Strided, first: Address, h: Strided, last: Address, /) -> None: ...
def linear_scan_bwd(
    shape: ScanShape,
    a: Strided,
    h: Strided,
    dh: Strided,
    first: Address,
    dlast: Address,
    dx: Strided,
    da: Strided,
    da_sum: Strided,
    dfirst: Address,
    /,
) -> None: ...
def block_scan_fwd(
    shape: ScanShape, K: int, A: Strided, x: Strided, first: Address, h: Strided, last: Address, /
) -> None: ...
def block_scan_bwd(
    shape: ScanShape,
    K: int,
    A: Strided,
    h: Strided,
    dh: Strided,
    first: Address,
    dlast: Address,
    dx: Strided,
    dA: Strided,
    dA_sum: Strided,
    dfirst: Address,
    /,
) -> None: ...

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
