"""Linear systems A x = b by relaxation: sweeps, solvers that stop at the true residual, and what accelerates them."""

from __future__ import annotations

from . import compat
from ._matrix import Batch
from ._relaxation import Relaxation
from .accelerate import Anderson, Chebyshev, chebyshev
from .eisenstat import ssor_cg
from .solvers import block_jacobi, gauss_seidel, jacobi, kaczmarz, sor, ssor
from .stencil import Stencil

__all__ = [
    "Anderson",
    "Batch",
    "Chebyshev",
    "Relaxation",
    "Stencil",
    "block_jacobi",
    "chebyshev",
    "compat",
    "gauss_seidel",
    "jacobi",
    "kaczmarz",
    "sor",
    "ssor",
    "ssor_cg",
]
