"""The methods of a relaxation, and checks of their options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from .._omega.adaptive import Adaptive
from .._omega.auto import Choice
from .._sweeps import vectors

Method = Literal["jacobi", "block_jacobi", "gauss_seidel", "block_gauss_seidel", "sor", "ssor", "kaczmarz"]
#: The sweep of each method, and whether it goes forward and backward
METHODS = {
    "jacobi": ("jacobi", False),
    "block_jacobi": ("jacobi", False),
    "gauss_seidel": ("sor", False),
    "block_gauss_seidel": ("sor", False),
    "sor": ("sor", False),
    "ssor": ("sor", True),
    "kaczmarz": ("kaczmarz", False),
}
_WITHOUT_OMEGA = ("gauss_seidel", "block_gauss_seidel")


def adaptive_of(method: str, symmetric: bool, choose: Callable[[], Choice]) -> Adaptive:
    """Return the object that adapts omega during a solution, from a first choice."""
    sweep = METHODS[method][0]
    return Adaptive("ssor" if sweep == "sor" and symmetric else sweep, choose)


def checked_block_size(function: str, method: str, size: object) -> int:
    """Return a block size from 1 to 64."""
    if method == "kaczmarz":
        raise ValueError(f"{function}: block_size must be None for kaczmarz, got {size}")
    result = vectors.count(function, "block_size", size, 1)
    if result > 64:
        raise ValueError(f"{function}: block_size must be at most 64, got {result}")
    return result


def own_block_size(function: str, size: Any) -> int:
    """Return the block size of a BSR matrix, whose blocks have this shape; None: A has no blocks."""
    if size is None or size[0] != size[1]:
        raise ValueError(f"{function}: block_size must be an int if A has no square blocks of its own, got None")
    return checked_block_size(function, "", int(size[0]))


def check_omega(function: str, method: str, omega: object) -> None:
    """Refuse an omega with which the method cannot converge, and any omega for a method that has none."""
    if isinstance(omega, str):
        if omega != "auto":
            raise ValueError(f"{function}: omega must be a number or 'auto', got {omega!r}")
        if method in _WITHOUT_OMEGA:
            raise ValueError(f"{function}: omega must be 1 for {method} (see sor), got 'auto'")
        return
    value = vectors.positive(function, "omega", omega, zero=False)
    if method in _WITHOUT_OMEGA and value != 1:
        raise ValueError(f"{function}: omega must be 1 for {method} (see sor), got {omega}")
    if METHODS[method][0] != "jacobi" and value >= 2:
        raise ValueError(f"{function}: omega must be in (0, 2), where {method} can converge, got {omega}")
