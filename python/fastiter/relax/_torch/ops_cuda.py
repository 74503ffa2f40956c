"""The CUDA implementations of the relaxation ops of ops.py, with the kernels of kernels/relax/sweeps.cu.

The pattern of A stays on the CPU, where it is coloured and laid out once: the last few plans are cached, and looked up
by comparing whole patterns. Values are gathered into that layout on the device, so sweeps and their backward pass do
not synchronize.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..._backend import BackendError
from ..._call.iterate import Callback, Limits
from ..._torch.ops import contiguous
from .._omega.adaptive import Adaptive
from .._solvers.iteration import Iteration, Run, View
from .._solvers.methods import adaptive_of
from .._solvers.result import LinearSolution
from .._sweeps import vectors
from .._sweeps.matrix import read_csr
from .._sweeps.order import Arrangement, arrange
from .cuda import BACKWARD, FORWARD, JACOBI, SYMMETRIC, OfRows, _Matrix, norm_of, norms_of
from .layouts import Slices, slices_of
from .ops import (
    AUTO,
    Solve,
    Sweeps,
    SweepsBackward,
    _Csr,
    _halves,
    relax_solve,
    relax_sweeps,
    relax_sweeps_bwd,
    results_of,
    rows,
)
from .spectrum import auto_choice
from .tensors import check_finite

COLOURED = ("red-black", "color")


def check_order(function: str, order: object, jacobi: bool) -> None:
    """Refuse orders other than colourings, as their rows depend on each other."""
    if not jacobi and not (isinstance(order, str) and order in COLOURED):
        raise BackendError(
            f"{function}: order must be 'color' or 'red-black' on a GPU, as elsewhere rows wait for each other, "
            f"got {order!r}"
        )


def tensors_of(layout: Slices, device: torch.device) -> dict[str, Tensor]:
    """Return the arrays of a layout on a device."""
    names = ("slice_row", "slice_entry", "column", "entry", "diagonal", "colours")
    result = {name: torch.from_numpy(getattr(layout, name)) for name in names}
    if layout.order is not None:
        result |= {"order": torch.from_numpy(layout.order), "place": torch.from_numpy(np.argsort(layout.order))}
    return {name: x.to(device) for name, x in result.items()}


@dataclass
class Plan:
    """A sparsity pattern laid out for one order, and the index arrays of the backward pass."""

    crow: Tensor
    col: Tensor
    order: str
    layout: Slices
    devices: dict[torch.device, dict[str, Tensor]] = field(default_factory=dict)

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """Return the layout's arrays and the entries' rows and columns on a device."""
        if device not in self.devices:
            row = rows(self.crow, self.col)
            order = np.arange(self.layout.n) if self.layout.order is None else self.layout.order
            place = torch.from_numpy(np.argsort(order))
            more = {
                "row": row,
                "col": self.col,
                "is_diagonal": row == self.col,
                "is_before": place[self.col] < place[row],
            }
            self.devices[device] = tensors_of(self.layout, device) | {name: x.to(device) for name, x in more.items()}
        return self.devices[device]

    @cached_property
    def adjoint(self) -> tuple[Plan, Tensor]:
        """The plan of A^H, and the index in A of each of its values."""
        by_column = torch.argsort(self.col, stable=True)
        counts = torch.bincount(self.col, minlength=self.layout.n)
        start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return _plan("sweeps", start, rows(self.crow, self.col)[by_column], self.order), by_column


_MAX_PLANS = 8
_plans: list[Plan] = []


def plan_of(function: str, crow: Tensor, col: Tensor, method: str, order: str) -> Plan:
    """Return the plan of a pattern, from the cache if it is one of the last few."""
    check_order(function, order, method == "jacobi")
    options = "jacobi" if method == "jacobi" else order
    for plan in _plans:
        if plan.order == options and torch.equal(plan.crow, crow) and torch.equal(plan.col, col):
            return plan
    plan = _plan(function, crow, col, options)
    _plans.insert(0, plan)
    del _plans[_MAX_PLANS:]
    return plan


def _plan(function: str, crow: Tensor, col: Tensor, order: str) -> Plan:
    checked = read_csr(function, _Csr(torch.ones(col.shape, dtype=torch.float32, device=col.device), crow, col))
    jacobi = order == "jacobi"
    options = Arrangement() if jacobi else arrange(function, checked, order)
    return Plan(crow, col, order, slices_of(crow.numpy(), col.numpy(), options, jacobi=jacobi))


def _matrix(plan: Plan, values: Tensor) -> OfRows:
    return OfRows(plan.layout, plan.on(values.device), values)


def _check_values(function: str, matrix: OfRows, values: Tensor, plan: Plan) -> None:
    """Refuse values that the CPU refuses; synchronizes."""
    at = plan.on(values.device)
    wrong, zero = ~values.detach().isfinite(), matrix.outside(matrix.diagonal) == 0
    if not bool(wrong.any() | zero.any()):
        return
    if bool(wrong.any()):
        row = int(at["row"][wrong].min())
        raise ValueError(f"{function}: A must be finite, got a value in row {row} that is not")
    row = int(torch.nonzero(zero)[0, 0])
    raise ValueError(f"{function}: A must have no zero on the diagonal, got 0 in row {row}")


def as_omega(function: str, method: str, omega: Tensor | float, device: torch.device) -> Tensor:
    """Return omega as a tensor on the device; one that is already on a GPU is not checked."""
    if isinstance(omega, Tensor) and omega.is_cuda:
        return omega.detach().to(torch.float64).reshape(1)
    value = vectors.positive(function, "omega", float(omega), zero=False)
    if method != "jacobi" and value >= 2:
        raise ValueError(f"{function}: omega must be in (0, 2), where {method} can converge, got {value}")
    return torch.full((1,), value, dtype=torch.float64, device=device)


def view_of(matrix: _Matrix, single: bool, outside: Callable[[Tensor], Tensor]) -> View:
    """Return the user's view of vectors in the layout of a matrix; ``outside`` returns x in the user's layout."""
    return View(single, outside, torch.clone, matrix.as_columns, torch.from_numpy)


def iterate(matrix: _Matrix, x: Tensor, b: Tensor, limits: Limits, run: Run, view: View) -> LinearSolution[Tensor]:
    """Iterate from x until every column has converged or failed; synchronizes once per check."""
    norms = run.residual or (lambda x: norms_of(matrix, x, b))
    target = limits.relative(b.dtype) * norm_of(matrix.as_columns(b)) + limits.atol
    return Iteration(run, x, norms, target, limits, view).solution()


def run_of(
    matrix: _Matrix, b: Tensor, omega: Tensor, kind: int, method: str, adaptive: Adaptive | None, number: float
) -> Run:
    """Return the sweeps with an omega, also given as a number; ``adaptive`` picks the next omega from the residuals."""
    if adaptive is None:
        return Run(lambda x, count: matrix.sweep(x, b, omega, count, kind), method, lambda: number)
    chosen: Adaptive = adaptive
    factor = [torch.full_like(omega, chosen.omega)]

    def observe(done: int, ratio: float) -> int:
        verdict = chosen.observe(done, ratio)
        factor[0] = torch.full_like(omega, chosen.omega)
        return verdict

    return Run(lambda x, count: matrix.sweep(x, b, factor[0], count, kind), method, lambda: chosen.omega, observe)


def kind_of(method: str) -> int:
    """Return the kernels' constant for the sweep of a method."""
    return JACOBI if method == "jacobi" else SYMMETRIC if method == "ssor" else FORWARD


def solve(call: Solve, callback: Callback | None = None) -> list[Tensor]:
    """Implement fastiter::_relax_solve; all results but x are on the CPU."""
    values, crow, col, b, x0, method, omega = call[:7]
    plan = plan_of(method, crow, col, method, call.order)
    matrix, adaptive = _matrix(plan, values), None
    _check_values(method, matrix, values, plan)
    check_finite(method, "b", b)
    if x0 is not None:
        check_finite(method, "x0", x0)
    if omega == AUTO and values.numel():
        adaptive = adaptive_of(method, method == "ssor", lambda: auto_choice(matrix, values.dtype, method))
    number = 1.0 if method == "gauss_seidel" else omega or 1.0
    factor = as_omega(method, method, number, values.device)
    own, own_b = (contiguous(matrix.inside(x)) for x in (torch.zeros_like(b) if x0 is None else x0.clone(), b.detach()))
    run = run_of(matrix, own_b, factor, kind_of(method), method, adaptive, number)
    view = view_of(matrix, False, lambda x: contiguous(matrix.outside(x)))
    return results_of(iterate(matrix, own, own_b, call.limits(callback), run, view))


def sweeps(call: Sweeps) -> Tensor:
    """Implement fastiter::_relax_sweeps."""
    values, crow, col, x, b, omega, k, method, order = call
    plan = plan_of("sweeps", crow, col, method, order)
    matrix, factor = _matrix(plan, values), as_omega("sweeps", method, omega, values.device)
    halves = _halves(method)
    iterates = x.new_empty((k * len(halves) + 1, *x.shape))
    iterates[0] = x.detach()
    own, own_b = matrix.inside(x.detach().clone()), matrix.inside(b.detach())
    for t in range(1, len(iterates)):
        kind = JACOBI if method == "jacobi" else BACKWARD if halves[(t - 1) % len(halves)] else FORWARD
        own = matrix.sweep(own, own_b, factor, 1, kind)
        iterates[t] = matrix.outside(own)
    return iterates


def sweeps_bwd(call: SweepsBackward) -> list[Tensor]:
    """Implement fastiter::_relax_sweeps_bwd, as derived in ops.py."""
    values, crow, col, omega, iterates, g, method, order = call
    plan = plan_of("sweeps", crow, col, method, order)
    at, (adjoint_plan, by_column) = plan.on(values.device), plan.adjoint
    if "by_column" not in at:
        at["by_column"] = by_column.to(values.device)
    matrix = _matrix(adjoint_plan, values.detach().conj()[at["by_column"]].resolve_conj())
    factor = as_omega("sweeps", method, omega, values.device)
    jacobi, halves = method == "jacobi", _halves(method)
    row, col, is_diagonal, is_before = at["row"], at["col"], at["is_diagonal"][:, None], at["is_before"][:, None]
    d = matrix.outside(matrix.diagonal).conj()[:, None]
    shape, now = g.shape, matrix.inside(g.clone())
    many = (shape[0], 1 if g.dim() == 1 else shape[1])
    db, domega = g.new_zeros(many), torch.zeros((), dtype=torch.float64, device=g.device)
    dvalues = torch.zeros_like(values.detach())
    for t in range(len(iterates) - 1, 0, -1):
        backward = halves[(t - 1) % len(halves)]
        kind = JACOBI if jacobi else FORWARD if backward else BACKWARD
        own_l = matrix.sweep(torch.zeros_like(now), now, factor, 1, kind)
        now = matrix.remainder(own_l, now)
        l, new, old = matrix.outside(own_l).reshape(many), iterates[t].reshape(many), iterates[t - 1].reshape(many)
        db += l
        on_diagonal = (new / factor - (1 / factor - 1) * old).to(new.dtype)
        is_new = torch.zeros_like(is_before) if jacobi else ~is_before if backward else is_before
        read = torch.where(is_diagonal, on_diagonal[col], torch.where(is_new, new[col], old[col]))
        dvalues -= (l[row] * read.conj()).sum(dim=1)
        domega += (l.conj() * d * (new - old)).real.to(torch.float64).sum()
    gradient = (domega / factor.square()).to(omega.dtype).reshape(omega.shape)
    return [matrix.outside(now).reshape(shape), db.reshape(shape), dvalues, gradient]


relax_solve.on_cuda(solve)
relax_sweeps.on_cuda(sweeps)
relax_sweeps_bwd.on_cuda(sweeps_bwd)
