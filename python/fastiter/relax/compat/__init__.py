"""The functions of pyamg.relaxation.relaxation with the same arguments: changing one import suffices.

``from fastiter.relax import compat as relaxation``. Each updates x in place, `iterations` times. As in PyAMG, rows
with a zero on the diagonal are skipped, singular diagonal blocks have a pseudo-inverse, and a complex A may have a
complex omega. The differences: blocks may have any size up to 64, whether or not it divides n; x and b may be
(n, k); omega has an effect where PyAMG 5.4 ignores it, in symmetric SOR and in SOR on a BSR matrix. complex64 is
computed in complex128 and rounded. Data computed from A is cached between calls as long as the values of A are
unchanged.
"""

from __future__ import annotations

from ..._public import publish
from ._all_rows import (
    gauss_seidel,
    gauss_seidel_ne,
    gauss_seidel_nr,
    jacobi,
    jacobi_ne,
    polynomial,
    sor,
)
from ._indexed import (
    block_gauss_seidel,
    block_jacobi,
    cf_block_jacobi,
    cf_jacobi,
    fc_block_jacobi,
    fc_jacobi,
    gauss_seidel_indexed,
    jacobi_indexed,
)
from ._schwarz import schwarz, schwarz_parameters

__all__ = [
    "block_gauss_seidel",
    "block_jacobi",
    "cf_block_jacobi",
    "cf_jacobi",
    "fc_block_jacobi",
    "fc_jacobi",
    "gauss_seidel",
    "gauss_seidel_indexed",
    "gauss_seidel_ne",
    "gauss_seidel_nr",
    "jacobi",
    "jacobi_indexed",
    "jacobi_ne",
    "polynomial",
    "schwarz",
    "schwarz_parameters",
    "sor",
]

publish(globals())


def __dir__() -> list[str]:
    return __all__
