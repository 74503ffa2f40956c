"""The delta rule. A stub."""

from typing import Any

from . import Address, Strided

# rows, T, M, N, K, V, starts, lengths, reset, chunk, period
DeltaShape = tuple[Any, ...]

def forward(
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
def backward(
    shape: DeltaShape,
    q: Strided,
    k: Strided,
    beta: Address,
    decay: Address,
    e: Address,
    states: Address,
    d_o: Strided,
    dlast: Address,
    dq: Strided,
    dk: Strided,
    dv: Strided,
    dbeta: Address,
    ddecay: Address,
    dh0: Address,
    /,
) -> None: ...
