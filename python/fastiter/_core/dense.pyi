"""The matrix product and sums of columns. A stub."""

from . import Address

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

gemm_f64 = gemm_f32
gemm_bf16 = gemm_f32
column_sums_f64 = column_sums_f32
column_sums_bf16 = column_sums_f32
