"""Chebyshev's acceleration of symmetric sweeps on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import relax
from ..._call.iterate import Callback, Limits
from ..._check import type_name
from ..._solution import judged
from ..._torch.ops import contiguous
from .._docs import SOLVER
from .._solvers.accelerate import Recurrence, bounds_of, checked_bounds
from .._solvers.iteration import Run
from .._solvers.methods import METHODS
from .._solvers.result import LinearSolution
from .._sweeps.prepare import FORWARD, JACOBI
from .cuda import _Matrix
from .ops_cuda import iterate
from .relaxation import Relaxation
from .spectrum import power
from .tensors import DTYPES, check_finite, limits_on_tensors, on_tensors


class Chebyshev:
    """x <- x + d, d <- momentum d + omega (sweep(x) - x): acceleration of any symmetric sweep.

    Parameters
    ----------
    relaxation : Relaxation
        A relaxation with a symmetric sweep: Jacobi, SSOR, or ``symmetric=True``; on the CPU or a GPU.
    bounds : (float, float), optional
        The smallest and largest eigenvalue of M^-1 A, which is I minus the sweep's iteration matrix. By default they
        are estimated as in :class:`fastiter.relax.Chebyshev`, on the device, at the first solve.

    Raises
    ------
    TypeError
        If relaxation is no Relaxation on tensors, or bounds no pair.
    ValueError
        If the method of the relaxation has no symmetric sweep, or bounds are not low <= high.

    See Also
    --------
    Relaxation : The sweeps that it accelerates.
    fastiter.relax.Chebyshev : The same on arrays.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from fastiter.relax import Stencil
    >>> from fastiter.torch.relax import Chebyshev, Relaxation
    >>> laplacian = Stencil((31, 31), np.array([4.0, -1, -1, -1, -1]))
    >>> jacobi, b = Relaxation(laplacian, "jacobi"), torch.ones(31, 31, dtype=torch.float64)
    >>> Chebyshev(jacobi).solve(b).steps < jacobi.solve(b).steps / 7
    True
    """

    def __init__(self, relaxation: Relaxation, bounds: tuple[float, float] | None = None) -> None:
        if not isinstance(relaxation, Relaxation):
            raise TypeError(
                f"Chebyshev: relaxation must be a fastiter.torch.relax.Relaxation, got {type_name(relaxation)}"
            )
        self._is_jacobi = METHODS[relaxation.method][0] == "jacobi"
        if not self._is_jacobi and not relaxation.symmetric:
            raise ValueError(f"Chebyshev: relaxation must have a symmetric sweep, got method {relaxation.method}")
        self.relaxation, self._adapts = relaxation, bounds is None
        self._host: relax.Chebyshev | None = None
        self.bounds = None if bounds is None else checked_bounds("Chebyshev", bounds)

    def __repr__(self) -> str:
        """Return one line."""
        bounds = None if self.bounds is None else tuple(float(f"{bound:.4g}") for bound in self.bounds)
        return f"Chebyshev({self.relaxation!r}, bounds={bounds})"

    @SOLVER
    def solve(
        self,
        b: Tensor,
        x0: Tensor | None = None,
        *,
        rtol: float | None = None,
        atol: float = 0.0,
        max_steps: int = 10_000,
        callback: Callback | None = None,
        throw: bool = False,
        check_every: int = 1,
    ) -> LinearSolution[Tensor]:
        """Solve A x = b by accelerated sweeps, like :meth:`Relaxation.solve`.

        Parameters
        ----------
        b, x0 : Tensor
            As for :meth:`Relaxation.solve`.
        %(limits)s one sweep

        %(result)s
        """
        limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
        return judged("Chebyshev.solve", self._solve("Chebyshev.solve", b, x0, limits), throw)

    def _solve(self, function: str, b: Tensor, x0: Tensor | None, limits: Limits) -> LinearSolution[Tensor]:
        relaxation = self.relaxation
        start = relaxation._start(function, b, x0)
        b = b.detach()
        if relaxation._host is not None:
            if self._host is None:
                self._host = relax.Chebyshev(relaxation._host, self.bounds)
            host, self.bounds = self._host, self._host.bounds
            arrays = contiguous(b).numpy(), contiguous(start).numpy()
            return on_tensors(host._solve(function, *arrays, limits_on_tensors(limits)))
        limits = limits.checked(function)
        matrix, own_b = relaxation._on(b.device), relaxation._own_rhs(function, b)
        if x0 is not None:
            check_finite(function, "x0", start)
        if self.bounds is None:
            self.bounds = self._estimated(matrix, b.device)
        x = relaxation._inside(start)
        recurrence, d = Recurrence(*self.bounds, adapts=self._adapts), torch.zeros_like(x)

        def step(x: Tensor, count: int) -> Tensor:
            for _ in range(count):
                omega, momentum = recurrence.next()
                swept = self._sweep(matrix, x, own_b)
                d.mul_(momentum).add_(swept.sub_(x), alpha=omega)
                x.add_(d)
            return x

        run = Run(step, "chebyshev", lambda: relaxation.omega, recurrence.observe)
        return iterate(matrix, x, own_b, limits, run, relaxation._view(b, start))

    def _sweep(self, matrix: _Matrix, x: Tensor, b: Tensor) -> Tensor:
        turn = JACOBI if self._is_jacobi else self.relaxation._kind_of(FORWARD)
        return matrix.sweep(x if self._is_jacobi else x.clone(), b, self.relaxation._omega_on(x.device), 1, turn)

    def _estimated(self, matrix: _Matrix, device: torch.device) -> tuple[float, float]:
        dtype = next(dtype for dtype, name in DTYPES.items() if name == self.relaxation._dtype_name)
        start = matrix.random(dtype, device)
        zero = matrix.no_rhs(start)
        rho = power(lambda x: self._sweep(matrix, x, zero), start - self._sweep(matrix, start, zero))
        return bounds_of("Chebyshev", rho, self._is_jacobi)
