"""Bellman operators of decision processes. A stub."""

from . import Address

#: row, entry, next, weight, reward
Arrays = tuple[Address, Address, Address, Address, Address]

class Model:
    def backup(
        self, v: Address, w: Address, action: Address, count: int, discount: float, reward: Address, /
    ) -> tuple[float, float]: ...
    def sweep(self, v: Address, order: Address, count: int, discount: float, omega: float, exact: bool, /) -> float: ...
    def action_values(self, v: Address, q: Address, discount: float, /) -> None: ...
    def chain(self, action: Address, /) -> Model: ...
    def permuted(self, order: Address, /) -> Model: ...
    def transposed(self) -> Model: ...

class Prioritized:
    def run(self, v: Address, enough: int, most: int, /) -> tuple[int, int]: ...

class Several:
    def run(self) -> bool: ...
    def checks(self) -> int: ...
    def copy(self, numbers: Address, counts: Address, history: Address, /) -> None: ...

def several(
    bits: int,
    models: list[Model],
    vectors: tuple[Address, Address, Address, Address | None],
    numbers: Address,
    how: Address,
    rule: tuple[float, float, bool, int, int, int, float, bool, int, int],
    are_small: bool,
    /,
) -> Several: ...
def model(bits: int, states: int, arrays: Arrays, /) -> Model: ...
def prioritized(
    model: Model, bits: int, start: Address, before: Address, discount: float, tolerance: float, /
) -> Prioritized: ...
def check(
    bits: int, states: int, arrays: Arrays, rows: int, entries: int, tolerance: float, /
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
