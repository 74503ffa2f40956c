"""Linear systems A x = b by relaxation on tensors, with gradients; arrays have :mod:`fastiter.relax`."""

from __future__ import annotations

from .._public import publish
from ..relax._torch.chebyshev import Chebyshev
from ..relax._torch.flexible import flexible_cg
from ..relax._torch.more_solvers import block_jacobi, chebyshev, kaczmarz, ssor_cg
from ..relax._torch.relaxation import Relaxation
from ..relax._torch.solvers import gauss_seidel, jacobi, sor, ssor
from ..relax._torch.sweeps import sweeps

__all__ = [
    "Chebyshev",
    "Relaxation",
    "block_jacobi",
    "chebyshev",
    "flexible_cg",
    "gauss_seidel",
    "jacobi",
    "kaczmarz",
    "sor",
    "ssor",
    "ssor_cg",
    "sweeps",
]

publish(globals())
