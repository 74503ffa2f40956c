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
    kept: tuple[Address, Address, Address],
    /,
) -> None: ...
def hopfield_gradient(
    bits: int,
    shape: HopfieldSizes,
    arrays: HopfieldArrays,
    kept: tuple[Address, Address, Address, Address],
    most: int,
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
