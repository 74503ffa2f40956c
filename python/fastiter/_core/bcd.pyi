"""Block coordinate descent. A stub."""

from . import Address

class Matrix:
    def products(self, w: Address, sums: Address, /) -> None: ...
    def products_of(self, w: Address, columns: Address, count: int, sums: Address, /) -> None: ...

class Solver:
    def run(self, sequence: Address, count: int, /) -> int: ...
    def state(self, g: Address, slopes: Address, coordinates: int, fresh: bool, /) -> float: ...
    def derivative(self, out: Address, /) -> None: ...
    def last_change(self) -> int: ...

#: start, row or column, value
Compressed = tuple[Address, Address, Address]

def matrix(bits: int, n: int, m: int, columns: Compressed, rows: Compressed, /) -> Matrix: ...
def solver(
    matrix: Matrix,
    kinds: tuple[int, int, bool, int, int],
    data: tuple[Address, Address],
    separable: tuple[Address, Address, Address, Address, Address],
    blocks: tuple[Address, Address, Address, Address],
    count: int,
    x: Address,
    /,
) -> Solver: ...
