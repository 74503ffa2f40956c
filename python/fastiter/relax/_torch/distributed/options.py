"""Preconditioners with options, which a solver prepares for its matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...._check import check_choice, check_flag, count, type_name
from ..._solvers.methods import check_omega
from .coloured import ColouredSsor
from .local import LOCAL
from .matrix import RowMatrix
from .schwarz import Schwarz


@dataclass(frozen=True)
class AdditiveSchwarz:
    """z = sum over parts of R_S^T A_S^-1 R_S r, for the rows S of each part with its overlap: a preconditioner.

    The systems of all parts are solved in parallel. Each part is extended by an overlap of rows of other parts: their
    entries are fetched once, their residuals in each step.

    Parameters
    ----------
    overlap : int
        The maximum distance of the overlap's rows from the part, in the graph of A + A^T. 0 is block Jacobi, without
        messages.
    restricted : bool
        Each part corrects its own rows only, which saves one round of messages. The result is not symmetric: use it
        with the method "flexible_cg" or "richardson", preferably with exact local solutions.
    local : {"ssor", "exact"}
        The solver for A_S z_S = r_S. "ssor": one symmetric sweep from 0; the preconditioner is then symmetric and
        positive definite if A is. "exact": SciPy's sparse LU factorisation, for parts that are small enough.
    omega : float or "auto"
        The relaxation factor of "ssor", in (0, 2); "auto" estimates it for each part.
    coarse : bool
        Add Z E^+ Z^T r with E = Z^T A Z, where column p of Z is 1 in the rows of part p, so that the number of steps
        grows less with the number of parts. It takes one round of messages.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    solve : Takes it as ``preconditioner``.
    ColouredSSOR : Sweeps over all parts.

    References
    ----------
    Dryja and Widlund, Towards a Unified Theory of Domain Decomposition Algorithms for Elliptic Problems, 1990. Cai and
    Sarkis, A Restricted Additive Schwarz Preconditioner for General Sparse Linear Systems, SIAM J. Sci. Comput. 21,
    1999.

    Examples
    --------
    >>> from fastiter.torch import distributed
    >>> def solution(A, b):  # on each rank: its rows of b
    ...     return distributed.solve(A, b, preconditioner=distributed.AdditiveSchwarz(overlap=4))
    >>> distributed.AdditiveSchwarz(restricted=True).is_symmetric
    False
    """

    overlap: int = 2
    restricted: bool = False
    local: Literal["ssor", "exact"] = "ssor"
    omega: float | Literal["auto"] = "auto"
    coarse: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        function = "AdditiveSchwarz"
        count(function, "overlap", self.overlap, 0)
        check_flag(function, "restricted", self.restricted)
        check_flag(function, "coarse", self.coarse)
        check_choice(function, "local", self.local, tuple(LOCAL))
        check_omega(function, "ssor", self.omega)
        if self.local == "exact" and self.omega != "auto":
            raise ValueError(f"{function}: omega must be 'auto' if local is 'exact', got {self.omega}")

    @property
    def is_symmetric(self) -> bool:
        """Whether it is symmetric if A is."""
        return not self.restricted

    def _prepared(self, A: RowMatrix) -> Schwarz:
        """Prepare the preconditioner for a matrix; every rank calls it."""
        omega = None if isinstance(self.omega, str) else float(self.omega)
        return Schwarz(A, self.overlap, self.restricted, self.local, omega, self.coarse)


@dataclass(frozen=True)
class ColouredSSOR:
    """One sweep of SOR forward and one backward over all rows, by the colours of the parts: a preconditioner.

    Each part gets the smallest colour of no earlier part that is linked to it. Parts of one colour are relaxed at the
    same time, each in the order of its rows; so there should be several parts on each rank. The order does not depend
    on the ranks, and a sweep has the bits of one process that relaxes the rows in this order.

    Parameters
    ----------
    omega : float
        The relaxation factor, in (0, 2).

    Raises
    ------
    TypeError, ValueError
        If omega is not as described.

    See Also
    --------
    solve : Takes it as ``preconditioner``, and "sor" as a method.
    fastiter.relax.ssor : For one process.

    Examples
    --------
    >>> from fastiter.torch import distributed
    >>> distributed.ColouredSSOR(omega=1.5)
    ColouredSSOR(omega=1.5)
    """

    omega: float = 1.0

    def __post_init__(self) -> None:
        """Check omega."""
        if isinstance(self.omega, str):
            raise TypeError(f"ColouredSSOR: omega must be a number, got {type_name(self.omega)}")
        check_omega("ColouredSSOR", "ssor", self.omega)

    @property
    def is_symmetric(self) -> bool:
        """Whether it is symmetric where A is: True."""
        return True

    def _prepared(self, A: RowMatrix) -> ColouredSsor:
        """Prepare the preconditioner for a matrix; every rank calls it."""
        return ColouredSsor(A, float(self.omega))
