"""Relaxation of linear systems. A stub."""

from . import Address

class Matrix:
    def sweep(
        self,
        x: Address,
        b: Address,
        d: Address,
        k: int,
        omega: Address,
        momentum: Address,
        count: int,
        kind: int,
        /,
    ) -> None: ...
    def sweep_colours(
        self, x: Address, b: Address, k: int, omega: float, first: int, last: int, backward: bool, /
    ) -> None: ...
    def residual(self, x: Address, b: Address, r: Address, k: int, norms: Address, /) -> None: ...

def csr(
    numbers: int,
    n: int,
    start: Address,
    column: Address,
    value: Address,
    order: Address,
    clusters: Address,
    colours: Address,
    part: int,
    batch: int,
    /,
) -> Matrix: ...
def sell(
    numbers: int,
    n: int,
    start: Address,
    column: Address,
    value: Address,
    order: Address,
    colours: Address,
    part: int,
    /,
) -> Matrix: ...
def bsr(
    numbers: int,
    n: int,
    size: int,
    rows: int,
    start: Address,
    column: Address,
    value: Address,
    order: Address,
    clusters: Address,
    colours: Address,
    batch: int,
    /,
) -> Matrix: ...
def dense(numbers: int, n: int, value: Address, order: Address, /) -> Matrix: ...
def kaczmarz(
    numbers: int, n: int, columns: int, start: Address, column: Address, value: Address, order: Address, batch: int, /
) -> Matrix: ...
def stencil(
    numbers: int,
    n0: int,
    n1: int,
    n2: int,
    coefficients: Address,
    is_constant: bool,
    mask: Address,
    red_black: bool,
    projections: bool,
    order: Address,
    clusters: Address,
    colours: Address,
    /,
) -> Matrix: ...
def schwarz(
    numbers: int,
    start: Address,
    column: Address,
    value: Address,
    count: int,
    first: Address,
    row: Address,
    first_inverse: Address,
    inverse: Address,
    x: Address,
    y: Address,
    b: Address,
    k: int,
    keep: float,
    omega: float,
    backward: bool,
    /,
) -> None: ...
def fingerprint(x: Address, bytes: int, /) -> int: ...
def tridiagonal(n: int, diagonal: Address, off: Address, first: Address, /) -> bool: ...
def check(
    numbers: int, n: int, columns: int, entries: int, start: Address, column: Address, value: Address, /
) -> tuple[int, int]: ...
def colour(n: int, start: Address, column: Address, colour: Address, /) -> int: ...
def colour_disjoint(n: int, columns: int, start: Address, column: Address, colour: Address, /) -> int: ...
def red_black(n: int, start: Address, column: Address, colour: Address, /) -> int: ...
def colour_clusters(n: int, start: Address, column: Address, size: int, colour: Address, /) -> int: ...
def check_colours(n: int, start: Address, column: Address, colour: Address, /) -> int: ...

class Tsallis:
    def __init__(
        self,
        arms: int,
        estimate: Address,
        total: Address,
        rounds: Address,
        chance: Address,
        pending: Address,
        generator: Address,
        /,
    ) -> None: ...
    def probabilities(self, bin: int, out: Address, /) -> None: ...
    def predict(self, bin: int, /) -> int: ...
    def update(self, loss: float, /) -> None: ...

class Chebyshev:
    def __init__(
        self,
        arms: int,
        terms: int,
        lebesgue: float,
        gram: Address,
        moment: Address,
        square: Address,
        theta: Address,
        misfit: Address,
        feature: Address,
        numbers: Address,
        rounds: Address,
        pending: Address,
        generator: Address,
        /,
    ) -> None: ...
    def probabilities(self, x: float, out: Address, /) -> None: ...
    def predict(self, x: float, /) -> int: ...
    def update(self, loss: float, /) -> None: ...
