"""Linear systems A x = b by relaxation: sweeps, solvers that stop at the true residual, and acceleration methods."""

from __future__ import annotations

from .._public import publish
from . import compat
from ._solvers.accelerate import Anderson, Chebyshev, chebyshev
from ._solvers.eisenstat import ssor_cg
from ._solvers.flexible import flexible_cg
from ._solvers.functions import block_jacobi, gauss_seidel, jacobi, kaczmarz, sor, ssor
from ._solvers.relaxation import Relaxation
from ._solvers.result import LinearSolution
from ._sweeps.matrix import Batch
from ._sweeps.stencil import Stencil
from ._tuners.bandits import ChebCB, ContextualTsallisINF, TsallisINF
from ._tuners.sequence import SequenceSolution, solve_sequence

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
