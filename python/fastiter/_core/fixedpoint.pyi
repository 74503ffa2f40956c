"""Steps of fixed-point methods. A stub."""

from . import Address

def anderson(
    bits: int,
    sizes: tuple[int, int, int],
    vectors: tuple[Address, Address, Address, Address],
    history: tuple[Address, Address, Address, Address, Address, Address],
    restart: Address,
    beta: float,
    ridge: float,
    type_one: bool,
    /,
) -> None: ...
