"""The family example. A stub."""

from . import Address

def softsign(x: Address, y: Address, n: int, /) -> None: ...
