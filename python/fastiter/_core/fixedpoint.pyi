"""Steps of fixed-point methods. A stub."""

from collections.abc import Callable
from typing import Any

from . import Address

Four = tuple[Address, Address, Address, Address]
#: residual, scale, best, best_scale, track
State = tuple[Address, Address, Address, Address, Address]
#: rtol, atol, growth, patience, eps
Limits = tuple[float, float, float, int, float]

def anderson(
    bits: int,
    sizes: tuple[int, int, int],
    vectors: Four,
    history: tuple[Address, Address, Address, Address, Address, Address],
    restart: Address,
    beta: float,
    ridge: float,
    options: tuple[bool, bool],
    /,
) -> None: ...

#: bits, (rows, n), slot, best_x, state, results, limits, norm
Judging = tuple[int, tuple[int, int], Address, Address, State, tuple[Address, Address], Limits, int]
#: m, history, beta, ridge, options
Stepping = tuple[int, tuple[Address, ...], float, float, tuple[bool, bool]]

class History:
    steps: int

    def __init__(self, samples: int, /) -> None: ...
    def append(self, residual: Address, /) -> None: ...
    def copy_to(self, to: Address, /) -> None: ...

def anderson_loop(
    f: Callable[..., Any],
    x: Any,
    args: tuple[Any, ...],
    limit: int,
    judging: Judging,
    stepping: Stepping,
    history: History,
    /,
) -> tuple[Any, Any, int | None, int]: ...

#: stored, beta, bias
HopfieldArrays = tuple[Address, Address, Address]
HopfieldSizes = tuple[int, int, int, int, int]

def hopfield_update(
    bits: int,
    shape: HopfieldSizes,
    arrays: HopfieldArrays,
    state: Address,
    limits: tuple[bool, float, float, int],
    results: tuple[Address, Address, Address, Address],
    saved: tuple[Address, Address, Address],
    /,
) -> None: ...
def hopfield_gradient(
    bits: int,
    shape: HopfieldSizes,
    arrays: HopfieldArrays,
    saved: tuple[Address, Address, Address, Address],
    limit: int,
    gradients: tuple[Address, Address, Address],
    /,
) -> None: ...
def hopfield_adjoint(
    bits: int,
    shape: HopfieldSizes,
    arrays: HopfieldArrays,
    states: Address,
    gradient: Address,
    rtol: float,
    max_steps: int,
    results: tuple[Address, Address, Address],
    /,
) -> None: ...
def broyden(
    bits: int,
    sizes: tuple[int, int, int],
    vectors: Four,
    history: tuple[Address, Address, Address, Address, Address],
    restart: Address,
    beta: float,
    /,
) -> None: ...
def judge(rows: int, slot: Address, state: State, results: tuple[Address, Address], limits: Limits, /) -> int: ...
def measure(
    bits: int,
    sizes: tuple[int, int],
    vectors: Four,
    state: State,
    results: tuple[Address, Address],
    limits: Limits,
    norm: int,
    /,
) -> int: ...
def prox(kind: int, bits: int, shape: tuple[int, int, int], parameter: float, y: Address, out: Address, /) -> None: ...

#: cost, log_a, log_b, f, g
SinkhornArrays = tuple[Address, Address, Address, Address, Address]

def sinkhorn(
    bits: int,
    sizes: tuple[int, int, int],
    arrays: SinkhornArrays,
    limits: tuple[float, Address, int],
    results: tuple[Address, Address, Address],
    /,
) -> None: ...

TransportArrays = tuple[Address, Address, Address, Address, Address, Address, Address, Address]

def transport(bits: int, sizes: tuple[int, int, int, int], arrays: TransportArrays, /) -> None: ...
