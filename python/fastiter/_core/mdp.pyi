"""Bellman operators of decision processes. A stub."""

from typing import Any

from . import Address

#: row, entry, next, weight, reward; and, if pairs share rows, pair and the number of these rows
Arrays = tuple[Any, ...]

class Judgement:
    """When steps are judged, their overhead in steps, the multiple that may be left, and the least rate."""

    first: int
    overhead: float
    needed: float
    rate: float
    def __init__(self, first: int, overhead: float, needed: float, rate: float) -> None: ...

class Options:
    """Those of a solve, the same for all models."""

    discount: float
    atol: float
    sup: bool
    max_steps: int
    patience: int
    policy_sweeps: int
    omega: float
    exact: bool
    order: int
    longest: int
    is_many: bool
    judgement: Judgement

class Model:
    def backup(
        self, v: Address, w: Address, action: Address, count: int, discount: float, reward: Address, /
    ) -> tuple[float, float]: ...
    def sweep(self, v: Address, order: Address, count: int, discount: float, omega: float, exact: bool, /) -> float: ...
    def action_values(self, v: Address, q: Address, discount: float, /) -> None: ...
    def chain(self, action: Address, /) -> Model: ...
    def entries(self) -> int: ...
    def permuted(self, order: Address, /) -> Model: ...
    def prioritized(self, start: Address, before: Address, discount: float, tolerance: float, /) -> Prioritized: ...
    def transposed(self) -> Model: ...

class Accuracy:
    inexact: float
    doubt: float
    base: float
    def __init__(
        self, is_double: bool, discount: float, low: float, high: float, reward: float, longest: int, /
    ) -> None: ...
    def bounds(self, low: float, high: float, size: float, /) -> tuple[float, float, float, float]: ...
    def symmetric(self, error: float, /) -> float: ...
    def sweep_error(self, before: float, size: float, /) -> float: ...
    def reachable(self) -> float: ...

class Prioritized:
    def run(self, v: Address, enough: int, limit: int, /) -> tuple[int, int]: ...

class Elimination:
    def solve(self, chain: Model, discount: float, reward: Address | None, v: Address, limit: int, /) -> bool: ...
    def operations(self) -> int: ...

class Loops:
    def run(self) -> bool: ...
    def checks(self) -> int: ...
    def copy(self, numbers: Address, counts: Address, history: Address, /) -> None: ...

def loops(
    models: list[Model],
    v: Address,
    w: Address,
    action: Address,
    order: Address | None,
    extremes: Address,
    kinds: Address,
    options: Options,
    /,
) -> Loops: ...
def model(bits: int, states: int, arrays: Arrays, /) -> Model: ...
def is_rounding(width: float, floor: float, unimproved: int, /) -> bool: ...
def steps_left(judgement: Judgement | None, history: Address, count: int, atol: float, /) -> float: ...
def next_judgement(judgement: Judgement, history: Address, count: int, atol: float, /) -> int: ...
def is_banded(bits: int, states: int, arrays: Arrays, width: int, /) -> bool: ...
def corrections(
    bits: int, states: int, arrays: Arrays, discount: float, base: Address, limit: float, reward: Address, /
) -> float: ...
def check(
    bits: int, states: int, arrays: Arrays, rows: int, pairs: int, entries: int, tolerance: float, /
) -> tuple[int, int, float, float, float]: ...
def predecessors(bits: int, states: int, arrays: Arrays, start: Address, before: Address, /) -> int: ...
def robust(
    bits: int,
    states: int,
    arrays: Arrays,
    vectors: tuple[Address, Address, Address],
    discount: float,
    set: int,
    shape: tuple[Address, Address, Address],
    best: bool,
    anywhere: bool,
    /,
) -> tuple[float, float]: ...
def shared(
    bits: int,
    states: int,
    arrays: Arrays,
    vectors: tuple[Address, Address, Address],
    discount: float,
    radius: Address,
    /,
) -> tuple[float, float]: ...
def absorbing(bits: int, states: int, arrays: Arrays, idle: bool, out: Address, /) -> None: ...
def order_from(states: int, start: Address, before: Address, goals: Address, out: Address, /) -> int: ...
def project(n: int, k: int, p: Address, x: Address, m: int, z: Address, out: Address, /) -> None: ...
def visits(
    bits: int,
    states: int,
    arrays: Arrays,
    discount: float,
    horizon: int,
    vectors: tuple[Address, Address],
    out: tuple[Address, Address],
    /,
) -> None: ...
def visit_gradients(
    bits: int,
    states: int,
    arrays: Arrays,
    discount: float,
    horizon: int,
    vectors: tuple[Address, Address, Address],
    out: tuple[Address, Address, Address],
    /,
) -> None: ...
