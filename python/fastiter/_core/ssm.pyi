"""State-space models. A stub."""

from typing import Any

from . import Address, Sequence, Strided

#: Steps between two saved states
tile: int

# sequences, T, lengths, starts, reset (B, T) or (T,)
Sequences = tuple[object, ...]
# sequences, D, G, N, softplus, whether the states are complex
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

# The output, or None: the arguments need the path in Python
def state_update_tensors(state: object, inputs: tuple[object, ...], softplus: bool, /) -> Any: ...

#: Steps between two saved states of linear attention
attention_tile: int

# sequences, heads, value heads that share a key, K, V, scale, whether the decay is a logarithm
AttentionShape = tuple[object, ...]

# i, f (B, T, N), eps, and n and m: the first, the last, and those before every tile; None without gates
Gates = tuple[object, ...] | None

# inputs: q, k, v, decay, bonus, first
def attention_forward(
    shape: AttentionShape, inputs: Sequence, gates: Gates, o: Strided, last: Address, states: Address, /
) -> None: ...

# inputs: q, k, v, decay, bonus; gradients: dq, dk, dv, ddecay, dbonus, dfirst; of_gates: the gradient of the last n,
# whether the normaliser has one, and the gradients of i, f, the first n, and m
def attention_backward(
    shape: AttentionShape,
    inputs: Sequence,
    gates: Gates,
    states: Address,
    d_o: Strided,
    dlast: Address,
    gradients: Sequence,
    of_gates: tuple[object, ...] | None,
    /,
) -> None: ...

# inputs: q, k, v, decay, a, b, beta, first
def low_rank_forward(
    shape: AttentionShape, inputs: Sequence, o: Strided, last: Address, states: Address, w: Strided, /
) -> None: ...

# inputs: q, k, v, decay, a, b, beta; gradients: dq, dk, dv, ddecay, da, db, dbeta, dfirst
def low_rank_backward(
    shape: AttentionShape,
    inputs: Sequence,
    states: Address,
    w: Strided,
    d_o: Strided,
    dlast: Address,
    gradients: Sequence,
    /,
) -> None: ...

# sequences, D, W, silu, seq_idx (B, T)
ConvShape = tuple[object, ...]

def conv_forward(
    shape: ConvShape, x: Strided, out: Strided, weight: Address, bias: Address, first: Strided, last: Strided, /
) -> None: ...

# inputs: x, weight, bias, first; gradients: dx, dweight, dbias, dfirst
def conv_backward(
    shape: ConvShape, inputs: Sequence, d_out: Strided, dlast: Strided, gradients: Sequence, /
) -> None: ...
def conv_update(
    x: Strided,
    state: Strided,
    weight: Strided,
    bias: Strided,
    silu: bool,
    positions: Address,
    rows: Address,
    out: Strided,
    /,
) -> None: ...

# The output, or None: the arguments need the path in Python
def conv_update_tensors(x: object, state: object, weight: object, bias: object, silu: bool, /) -> Any: ...

# A step of a whole mixer, or None: the arguments need the path in Python. layers: in_proj, conv1d and out_proj, each a
# weight and a bias; weights of Mamba: x_proj, dt_proj, its bias, A_log, D; of Mamba-2: dt_bias, A_log, D, the norm's;
# sizes: groups of B and C, numbers in a group of the norm, its eps
def mamba_step(
    x: object, layers: tuple[object, ...], weights: tuple[object, ...], conv_state: object, state: object, /
) -> Any: ...
def mamba2_step(
    x: object,
    layers: tuple[object, ...],
    weights: tuple[object, ...],
    conv_state: object,
    state: object,
    sizes: tuple[int, int, float],
    /,
) -> Any: ...

#: Steps between two saved states of RWKV-4's attention
wkv_tile: int

# inputs: w, bonus, k, v; first and last: the numerator, the denominator and m
def wkv_forward(inputs: Sequence, first: Sequence, out: Strided, last: Sequence, states: Address, /) -> None: ...

# gradients: dw, dbonus, dk, dv
def wkv_backward(
    inputs: Sequence,
    first: Sequence,
    states: Address,
    d_out: Strided,
    dlast: Sequence,
    gradients: Sequence,
    dfirst: Sequence,
    /,
) -> None: ...
