"""Linear systems A x = b by relaxation: sweeps, solvers that stop at the true residual, and acceleration methods."""

from __future__ import annotations

from .._public import publish
from . import compat
from ._matrix import Batch
from ._relaxation import Relaxation
from ._result import LinearSolution
from .accelerate import Anderson, Chebyshev, chebyshev
from .eisenstat import ssor_cg
from .flexible import flexible_cg
from .sequence import SequenceSolution, solve_sequence
from .solvers import block_jacobi, gauss_seidel, jacobi, kaczmarz, sor, ssor
from .stencil import Stencil
from .tuners import ChebCB, ContextualTsallisINF, TsallisINF

__all__ = [
    "Anderson",
    "Batch",
    "ChebCB",
    "Chebyshev",
    "ContextualTsallisINF",
    "LinearSolution",
    "Relaxation",
    "SequenceSolution",
    "Stencil",
    "TsallisINF",
    "block_jacobi",
    "chebyshev",
    "compat",
    "flexible_cg",
    "gauss_seidel",
    "jacobi",
    "kaczmarz",
    "solve_sequence",
    "sor",
    "ssor",
    "ssor_cg",
]

publish(globals())
