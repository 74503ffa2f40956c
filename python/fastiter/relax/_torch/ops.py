"""The private ops of relaxation on tensors: solve, sweeps with all their iterates, and the gradient of sweeps.

A is given by its values, crow (n + 1) and col (entries), as in torch's sparse CSR tensors. With M = D / omega + L in
the order of the sweep (D / omega for Jacobi), a sweep is M x+ = (M - A) x + b, and its gradient, for the cotangent g
of x+,

    l = M^-H g;   db = l;   dx = g - A^H l;   dA = -l (x+)^H below the diagonal, -l x^H above,
    l ((1 / omega - 1) x - x+ / omega)^H on it;   domega = Re sum conj(l) d (x+ - x) / omega^2

M^-H g is a backward sweep of A^H from 0, so the gradient uses the same kernels as the sweeps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..._call.iterate import Callback, Limits
from ..._torch.op import Op
from ..._torch.ops import contiguous
from .._solvers.relaxation import Relaxation
from .._solvers.result import LinearSolution
from .._sweeps.order import Arrangement
from .tensors import limits_on_tensors, on_tensors

#: Value of omega that stands for omega="auto" in _relax_solve
AUTO = 0.0
REASONS = ("converged", "max_steps", "diverged", "stagnated", "callback", "nan")


class Solve(NamedTuple):
    """A call of the op that returns x, the residual, tolerance, steps and reason of each column, and the omega used.

    A reason is an index in REASONS.
    """

    values: Tensor
    crow: Tensor
    col: Tensor
    b: Tensor
    x0: Tensor | None
    method: str
    omega: float
    order: str
    rtol: float
    atol: float
    max_steps: int
    check_every: int

    def limits(self, callback: Callback | None) -> Limits:
        """Return the limits that determine when the solution ends."""
        return Limits(self.rtol, self.atol, self.max_steps, callback, check_every=self.check_every)


class Sweeps(NamedTuple):
    """A call of the op that returns all iterates, (half sweeps + 1, *x.shape)."""

    values: Tensor
    crow: Tensor
    col: Tensor
    x: Tensor
    b: Tensor
    omega: Tensor
    k: int
    method: str
    order: str


class SweepsBackward(NamedTuple):
    """A call of the op that returns the gradients of x, b, values and omega."""

    values: Tensor
    crow: Tensor
    col: Tensor
    omega: Tensor
    iterates: Tensor
    g: Tensor
    method: str
    order: str


class _Csr:
    """The part of SciPy's sparse matrix interface that :class:`Relaxation` needs."""

    format = "csr"
    keeps_zeros = True  # colours must not change if a learned value passes through 0

    def __init__(self, values: Tensor, crow: Tensor, col: Tensor, columns: int | None = None) -> None:
        self.indptr, self.indices, self.data = crow.numpy(), col.numpy(), contiguous(values.detach()).numpy()
        rows = len(self.indptr) - 1
        self.shape = (rows, rows if columns is None else columns)
        self.dtype = self.data.dtype

    def tocsr(self) -> _Csr:
        """Return self."""
        return self


def _relaxation(function: str, matrix: _Csr, method: str, omega: float, order: str) -> Relaxation:
    factor: dict[str, Any] = {} if method == "gauss_seidel" else {"omega": "auto" if omega == AUTO else omega}
    return Relaxation._of(function, matrix, method, order=order, **factor)  # type: ignore[arg-type]


def _array(x: Tensor) -> Any:
    return contiguous(x.detach()).numpy()


def _columns(x: Tensor) -> int:
    return 1 if x.dim() == 1 else x.shape[1]


def solve(call: Solve, callback: Callback | None = None) -> list[Tensor]:
    values, crow, col, b, x0, method, omega = call[:7]
    relaxation = _relaxation(method, _Csr(values, crow, col), method, omega, call.order)
    arrays = _array(b), None if x0 is None else _array(x0)
    limits = limits_on_tensors(call.limits(callback))
    return results_of(on_tensors(relaxation._solve(method, *arrays, limits)))


def results_of(result: LinearSolution[Tensor]) -> list[Tensor]:
    """Return the results of the op; all but x are on the CPU, and have one number for each column."""
    reasons = [result.reason] if isinstance(result.reason, str) else result.reason
    codes = torch.tensor([REASONS.index(reason) for reason in reasons], dtype=torch.int64, device="cpu")
    numbers = [
        torch.as_tensor(x, dtype=dtype, device="cpu").reshape(-1)
        for x, dtype in (
            (result.residual, torch.float64),
            (result.tolerance, torch.float64),
            (result.steps, torch.int64),
        )
    ]
    omega = torch.tensor([result.omega], dtype=torch.float64, device="cpu")
    return [result.value, *numbers, codes, omega]


def _solve_fake(call: Solve) -> list[Tensor]:
    k = _columns(call.b)
    x = torch.empty_like(call.b, memory_format=torch.contiguous_format)
    steps, codes = (torch.empty(k, dtype=torch.int64, device="cpu") for _ in range(2))  # always on the CPU
    residual, tolerance, omega = (torch.empty(n, dtype=torch.float64, device="cpu") for n in (k, k, 1))
    return [x, residual, tolerance, steps, codes, omega]


def _halves(method: str) -> tuple[bool, ...]:
    """Return, for each half sweep, whether it goes backward."""
    return (False, True) if method == "ssor" else (False,)


def _sweeps(call: Sweeps) -> Tensor:
    values, crow, col, x, b, omega, k, method, order = call
    single = "jacobi" if method == "jacobi" else "sor"
    relaxation = _relaxation("sweeps", _Csr(values, crow, col), single, float(omega), order)
    halves = _halves(method)
    iterates = np.empty((k * len(halves) + 1, *x.shape), _array(x).dtype)
    iterates[0] = _array(x)
    own_b = _array(b)
    for t in range(1, len(iterates)):
        iterates[t] = iterates[t - 1]
        relaxation.sweep(iterates[t], own_b, backward=halves[(t - 1) % len(halves)])
    return torch.from_numpy(iterates)


def _sweeps_fake(call: Sweeps) -> Tensor:
    return call.x.new_empty((call.k * len(_halves(call.method)) + 1, *call.x.shape))


def transposed(values: Tensor, crow: Tensor, col: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, crow and col of A^H."""
    place = torch.argsort(col, stable=True)
    counts = torch.bincount(col, minlength=crow.shape[0] - 1)
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    moved = place.to(values.device, non_blocking=True)
    return values.conj()[moved].resolve_conj(), start, rows(crow, col)[place]


def gradient_of_values(l: Tensor, x: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    """Return -l x^H on the pattern of A, the sum over the columns of x."""
    row, column = (index.to(l.device, non_blocking=True) for index in (rows(crow, col), col))
    product = l[row] * x[column].conj()
    return -(product if product.dim() == 1 else product.sum(dim=1))


def rows(crow: Tensor, col: Tensor) -> Tensor:
    """Return the row of each entry."""
    return torch.repeat_interleave(
        torch.arange(crow.shape[0] - 1, device=crow.device), crow.diff(), output_size=col.shape[0]
    )


def _sweeps_bwd(call: SweepsBackward) -> list[Tensor]:
    values, crow, col, omega, iterates, g, method, order = call
    single, factor = "jacobi" if method == "jacobi" else "sor", float(omega)
    adjoint = _relaxation("sweeps", _Csr(*transposed(values, crow, col)), single, factor, order)
    row, place = rows(crow, col), _places(adjoint, crow.shape[0] - 1)
    shape, many = g.shape, (g.shape[0], _columns(g))
    db, dvalues, domega = g.new_zeros(many), torch.zeros_like(values.detach()), 0.0
    is_diagonal, now = row == col, _array(g).copy()
    d = values.new_zeros(shape[0]).index_add_(0, row[is_diagonal], values.detach()[is_diagonal])
    halves = _halves(method)
    for t in range(len(iterates) - 1, 0, -1):
        backward = halves[(t - 1) % len(halves)]
        l_array = np.zeros_like(now)
        adjoint.sweep(l_array, now, backward=not backward)
        now = adjoint.residual(l_array, now)
        l, new, old = (
            torch.from_numpy(l_array).reshape(many),
            iterates[t].reshape(many),
            iterates[t - 1].reshape(many),
        )
        db += l
        is_new = (place[col] > place[row]) if backward else (place[col] < place[row])
        if method == "jacobi":
            is_new = torch.zeros_like(is_diagonal)
        read = torch.where(is_new[:, None], new[col], old[col])
        read[is_diagonal] = (new / factor - (1 / factor - 1) * old)[col[is_diagonal]]
        dvalues -= (l[row] * read.conj()).sum(dim=1)
        domega += float(((l.conj() * d[:, None] * (new - old)).real / factor**2).sum())
    return [torch.from_numpy(now), db.reshape(shape), dvalues, torch.full_like(omega.detach(), domega)]


def _places(relaxation: Relaxation, n: int) -> Tensor:
    """Return each row's position in the order."""
    arrangement = getattr(relaxation._system, "arrangement", Arrangement())
    place = torch.arange(n, device="cpu")
    if not isinstance(arrangement.order, int):
        place[torch.from_numpy(arrangement.order.astype(np.int64))] = torch.arange(n, device="cpu")
    return place


def _sweeps_bwd_fake(call: SweepsBackward) -> list[Tensor]:
    g, omega = call.g, call.omega
    domega = g.new_empty(omega.shape, dtype=omega.dtype)
    return [g.new_empty(g.shape), g.new_empty(g.shape), torch.empty_like(call.values), domega]


relax_solve = Op("_relax_solve", Solve, solve, _solve_fake)
relax_sweeps = Op("_relax_sweeps", Sweeps, _sweeps, _sweeps_fake)
relax_sweeps_bwd = Op("_relax_sweeps_bwd", SweepsBackward, _sweeps_bwd, _sweeps_bwd_fake)
