"""The diagonal cells. A stub."""

from . import Address, Sequence, Strided

# cell, B, T, D, reverse, lengths, lines, starts
ParaShape = tuple[int, int, int, int, bool, Address, Address, Address]

def forward(
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
def backward(
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
