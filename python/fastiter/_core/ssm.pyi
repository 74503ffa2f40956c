"""State-space models. A stub."""

from . import Address, Sequence, Strided

#: Steps between two saved states
tile: int

# sequences, T, lengths, starts, reset (B, T) or (T,)
Sequences = tuple[object, ...]
# sequences, D, G, N, softplus
SelectiveShape = tuple[object, ...]

def selective_forward(
    shape: SelectiveShape,
    u: Strided,
    delta: Strided,
    z: Strided,
    out: Strided,
    A: Address,
    B: Strided,
    C: Strided,
    D: Address,
    delta_bias: Address,
    first: Address,
    last: Address,
    states: Address,
    /,
) -> None: ...

# inputs: u, delta, z, A, B, C, D, delta_bias, states; gradients: du, ddelta, dz, dA, dB, dC, dD, dbias, dfirst
def selective_backward(
    shape: SelectiveShape, inputs: Sequence, d_out: Strided, dlast: Address, gradients: Sequence, /
) -> None: ...

# inputs: x, dt, A, B, C, D, z, dt_bias
def state_update(inputs: Sequence, state: Strided, rows: Address, softplus: bool, out: Strided, /) -> None: ...
