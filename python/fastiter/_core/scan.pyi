"""The scans. A stub."""

from . import Address, Strided

# sequences, T, numbers of a step, reverse, lengths, starts, reset
ScanShape = tuple[int, int, int, bool, Address, Address, Address]

def linear_forward(shape: ScanShape, a: Strided, x: Strided, first: Address, h: Strided, last: Address, /) -> None: ...
def linear_forward_twice(
    shape: ScanShape, a: Strided, x: Strided, first: Address, h: Strided, last: Address, copy: Strided, /
) -> None: ...
def linear_backward(
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
def block_forward(
    shape: ScanShape, K: int, A: Strided, x: Strided, first: Address, h: Strided, last: Address, /
) -> None: ...
def block_backward(
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
