"""The matrix product and sums of columns. A stub."""

from typing import Any

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

def product_of_tensors(x: Any, weight: Any, bias: Any, /) -> Any: ...
def gradients_of_tensors(dy: Any, x: Any, weight: Any, need_x: bool, need_weight: bool, need_bias: bool, /) -> Any: ...
