"""A matrix prepared once for relaxation on tensors: on the CPU by fastiter.relax, on a GPU by CUDA kernels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ... import relax
from ..._backend import BackendError
from ..._call.iterate import Callback, Limits
from ..._check import check_flag, type_name
from ..._solution import judged
from ..._torch.ops import contiguous
from .._docs import SOLVER
from .._solvers.iteration import View
from .._solvers.methods import METHODS, Method
from .._solvers.result import LinearSolution
from .._sweeps import vectors
from .._sweeps.matrix import read_csr, without_zeros
from .._sweeps.order import Arrangement, Order, arrange_disjoint
from .._sweeps.prepare import BACKWARD, FORWARD, JACOBI, SYMMETRIC
from .._sweeps.prepare import OfBlocks as HostBlocks
from .._sweeps.stencil import Stencil
from .cuda import OfBlocks, OfRows, OfStencil, _Matrix
from .cuda_kaczmarz import OfProjections
from .layouts import block_rows_of, slices_of
from .ops_cuda import check_order, iterate, run_of, tensors_of, view_of
from .tensors import DTYPES, Sparse, check_finite, limits_on_tensors, matrix_of, on_tensors, overlap

BACKENDS = ("cpu", "cuda")
_GPUS = ("cuda",)  # tests replace it by ("cpu",)


class Relaxation:
    """x_i <- (1 - omega) x_i + omega (b_i - sum over j != i of a_ij x_j) / a_ii on tensors, prepared for one A.

    Parameters
    ----------
    A : Tensor (n, n) or (batch, n, n), or Stencil
        A sparse tensor (n, n) of any layout, a CSR tensor (batch, n, n) whose matrices have one pattern, or a
        :class:`fastiter.relax.Stencil`; float32, float64 or complex128. It is copied, and laid out on the CPU even if
        it is on a GPU.
    method : str
        As for :class:`fastiter.relax.Relaxation`; a GPU supports all methods.
    omega : float or "auto", optional
        The relaxation factor, in (0, 2) except for Jacobi. ``"auto"`` is estimated on the CPU.
    order : str or (n,) array of int
        As for :class:`fastiter.relax.Relaxation`. On a GPU "color" or "red-black"; Jacobi needs no order. "kaczmarz"
        also supports the order "color", the only one on a GPU, in which equations of one colour have no unknowns in
        common.
    block_size : int, optional
        Number of consecutive rows to relax together; by default single rows.
    symmetric : bool
        Make each sweep one forward and one backward.
    backend : {"cpu", "cuda"}, optional
        ``"cpu"``; ``"cuda"``: CUDA kernels. None: the CPU or CUDA, according to the device of A. A Stencil runs on the
        CPU if it is None, otherwise on the device of the first tensors that are passed; complex coefficients are not
        supported on a GPU.

    Raises
    ------
    BackendError
        If there is no GPU kernel for the request.
    TypeError, ValueError
        As for :class:`fastiter.relax.Relaxation`.

    See Also
    --------
    sor, sweeps : With gradients.
    Chebyshev : Accelerates its sweeps.
    fastiter.relax.Relaxation : The same on arrays.

    Notes
    -----
    x and b are dense tensors on the device of A with its dtype, or float64 if A is float32; their shape is (n,) or
    (n, k), (batch, n) for a batch, and that of the grid for a Stencil. Colours are the same as on the CPU, and results
    differ only by rounding. Gradients: see :func:`fastiter.torch.relax.sweeps` and :func:`fastiter.torch.relax.sor`.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from fastiter.relax import Stencil
    >>> from fastiter.torch.relax import Relaxation
    >>> laplacian = Stencil((63, 63), np.array([4.0, -1, -1, -1, -1]))
    >>> sor = Relaxation(laplacian, "sor", omega=1.906455, order="red-black")
    >>> sor.solve(torch.ones(63, 63, dtype=torch.float64)).steps
    257
    """

    def __init__(
        self,
        A: Tensor | Stencil,
        method: Method = "sor",
        *,
        omega: float | Literal["auto"] | None = None,
        order: Order = "natural",
        block_size: int | None = None,
        symmetric: bool = False,
        backend: Literal["cpu", "cuda"] | None = None,
    ) -> None:
        options: dict[str, Any] = {"omega": omega, "block_size": block_size, "symmetric": symmetric}
        self._build("Relaxation", A, method, order, backend, **options)

    @classmethod
    def _of(
        cls, function: str, A: Any, method: Any, order: Any = "natural", backend: Any = None, **options: Any
    ) -> Relaxation:
        """Return a Relaxation whose error messages name the calling function."""
        built = cls.__new__(cls)
        built._build(function, A, method, order, backend, **options)
        return built

    def _build(self, function: str, A: Any, method: Any, order: Any, backend: Any, **options: Any) -> None:
        self._device = None if isinstance(A, Stencil) else A.device if isinstance(A, Tensor) else None
        matrix = A if isinstance(A, Stencil) else matrix_of(function, A)
        self._backend = _backend(function, backend, self._device)
        if self._backend != "cpu":
            _check_gpu(function, A, method, order)
        together = None
        if method == "kaczmarz" and isinstance(order, str) and order == "color" and isinstance(matrix, Sparse):
            matrix = Sparse.of_rows(without_zeros(read_csr(function, matrix)))
            together = arrange_disjoint(read_csr(function, matrix))
            order = together.order  # the same sweep on the CPU, in sequence
        host = relax.Relaxation._of(function, matrix, method, order=order, **options)
        self.method, self.symmetric = method, host.symmetric
        self.shape, self.colors = host.shape, together.number_of_colours if together else host.colors
        self._chooser = host
        self._grid = A.grid if isinstance(A, Stencil) else None
        batch = host._system.batch
        self._fixed = (batch, self.shape[0]) if batch else self._grid  # the shape of b if only one is allowed
        self._dtype_name = host.dtype.name
        self._stencil = A if isinstance(A, Stencil) else None
        self._host = host if self._backend == "cpu" else None
        self._matrix = None if self._host or self._stencil else _on_device(function, host, self._device, together)
        self._omegas: dict[torch.device, Tensor] = {}

    def __repr__(self) -> str:
        """Return one line, as of :class:`fastiter.relax.Relaxation`, with the backend."""
        return f"{repr(self._chooser)[:-1]}, backend={self._backend!r})"

    @property
    def omega(self) -> float:
        """The relaxation factor of :meth:`sweep`; with ``"auto"`` estimated on the CPU when it is first needed."""
        return self._chooser.omega

    def sweep(self, x: Tensor, b: Tensor, sweeps: int = 1, *, backward: bool = False) -> None:
        """Sweep x in place, without a synchronization.

        Parameters
        ----------
        x, b : Tensor (n,), (n, k), (batch, n) or (*grid)
            The iterate and the right-hand side.
        sweeps : int
            The number of sweeps.
        backward : bool
            Whether to relax from the last colour to the first.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described; if x shares memory with b, or its elements share memory.
        """
        function = "Relaxation.sweep"
        times = vectors.count(function, "sweeps", sweeps)
        check_flag(function, "backward", backward)
        self._check(function, b, x, "x")
        if x.requires_grad:
            raise ValueError(
                f"{function}: x must not require a gradient, got one that does (see fastiter.torch.relax.sweeps)"
            )
        x, b = x.detach(), b.detach()
        if overlap(x, b):
            raise ValueError(f"{function}: x must not share memory with b, got overlapping tensors")
        if self._host is not None:
            own = contiguous(x)
            self._host.sweep(own.numpy(), contiguous(b).numpy(), times, backward=backward)
            result = own
        else:
            matrix = self._on(b.device)
            turn = BACKWARD if backward else FORWARD
            own, own_b = self._inside(x), self._inside(b)
            result = matrix.outside(matrix.sweep(own, own_b, self._omega_on(b.device), times, self._kind_of(turn)))
        if result.data_ptr() != x.data_ptr():
            x.copy_(result.reshape(x.shape))

    def residual(self, x: Tensor, b: Tensor) -> Tensor:
        """Return b - A x.

        Parameters
        ----------
        x, b : Tensor (n,), (n, k), (batch, n) or (*grid)
            The iterate and the right-hand side.

        Returns
        -------
        Tensor
            The residual, shaped like b.

        Raises
        ------
        TypeError, ValueError
            If x or b is not as described.
        """
        self._check("Relaxation.residual", b, x, "x")
        x, b = x.detach(), b.detach()
        if self._host is not None:
            return torch.from_numpy(self._host.residual(contiguous(x).numpy(), contiguous(b).numpy()))
        matrix = self._on(b.device)
        own = matrix.remainder(self._inside(x), self._inside(b))
        return matrix.outside(own).reshape(b.shape)

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
        """Sweep until ||b - A x|| <= rtol ||b|| + atol, from x0 or 0, as :meth:`fastiter.relax.Relaxation.solve`.

        On a GPU the host synchronizes once per check of the residual, so a larger ``check_every`` amortizes this cost
        over more sweeps. ``value`` is on the device of b; the other results, one for each column, are tensors on the
        CPU.

        Parameters
        ----------
        b : (n,), (n, k), (batch, n) or (*grid)
            The right-hand side, or several, on the device of A, in its dtype, or float64 where A is float32.
        x0 : tensor like b, optional
            The initial guess; zeros by default. It is not changed.
        %(limits)s one sweep; for the symmetric methods one forward and one backward

        %(result)s
        """
        limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
        return judged("Relaxation.solve", self._solve("Relaxation.solve", b, x0, limits), throw)

    def _solve(self, function: str, b: Tensor, x0: Tensor | None, limits: Limits) -> LinearSolution[Tensor]:
        start = self._start(function, b, x0)
        b = b.detach()
        if self._host is not None:
            arrays = contiguous(b).numpy(), contiguous(start).numpy()
            return on_tensors(self._host._solve(function, *arrays, limits_on_tensors(limits)))
        limits = limits.checked(function)
        matrix, own_b = self._on(b.device), self._own_rhs(function, b)
        if x0 is not None:
            check_finite(function, "x0", start)
        adaptive = self._chooser._adaptive()
        omega = adaptive.omega if adaptive else self.omega
        factor = torch.full((1,), omega, dtype=torch.float64, device=b.device)
        run = run_of(matrix, own_b, factor, self._kind_of(FORWARD), self.method, adaptive, omega)
        return iterate(matrix, self._inside(start), own_b, limits, run, self._view(b, start))

    # The methods below are shared with accelerators.

    def _start(self, function: str, b: Tensor, x0: Tensor | None) -> Tensor:
        """Check the vectors of a solve; return a copy of x0, or 0."""
        self._check(function, b, x0, "x0")
        return b.new_zeros(self._shape_of_x(b)) if x0 is None else x0.detach().clone()

    def _own_rhs(self, function: str, b: Tensor) -> Tensor:
        """Return b in the layout of the kernels, 0 at points without an equation; refuse infinities and NaN."""
        own = self._on(b.device).without_fixed(self._inside(b))
        if not bool(own.isfinite().all()):
            check_finite(function, "b", self._outside(own, b))
        return own

    def _view(self, b: Tensor, x: Tensor) -> View:
        single = b.dim() == 1 or self._grid is not None
        return view_of(self._on(b.device), single, lambda own: self._outside(own, x))

    def _inside(self, x: Tensor) -> Tensor:
        """Return vectors in the layout of the kernels."""
        return self._on(x.device).inside(x.reshape(-1) if self._grid is not None else x)

    def _outside(self, x: Tensor, like: Tensor) -> Tensor:
        """Undo :meth:`_inside`, and return the vector in the shape of ``like``."""
        return contiguous(self._on(x.device).outside(x)).reshape(like.shape)

    def _kind_of(self, turn: int) -> int:
        """Return the kernels' constant for a sweep in this direction."""
        return JACOBI if METHODS[self.method][0] == "jacobi" else SYMMETRIC if self.symmetric else turn

    def _omega_on(self, device: torch.device) -> Tensor:
        """Return omega as a tensor on the device."""
        if device not in self._omegas:
            self._omegas[device] = torch.full((1,), self.omega, dtype=torch.float64, device=device)
        return self._omegas[device]

    def _on(self, device: torch.device) -> _Matrix:
        """Return the matrix in the layout of the kernels."""
        if self._matrix is None:
            assert self._stencil is not None  # all other matrices are laid out by __init__
            self._device = device
            self._matrix = OfStencil(self._stencil, device)
        return self._matrix

    def _check(self, function: str, b: Any, x: Any, x_name: str) -> None:
        kinds = (
            [self._dtype_name, "float64"]
            if self._dtype_name == "float32" and self._grid is None
            else [self._dtype_name]
        )
        for name, t in ((x_name, x), ("b", b)) if x is not None else (("b", b),):
            if not isinstance(t, Tensor) or t.layout != torch.strided:
                raise TypeError(f"{function}: {name} must be a dense torch.Tensor, got {type_name(t)}")
            if DTYPES.get(t.dtype) not in kinds or t.dtype != b.dtype:
                raise TypeError(f"{function}: {name} must have dtype {' or '.join(kinds)} to go with A, got {t.dtype}")
            if self._device is not None and t.device != self._device:
                raise BackendError(f"{function}: {name} must be on device {self._device} like A, got {t.device}")
            if t.device != b.device or t.device.type not in (("cpu",) if self._backend == "cpu" else _GPUS):
                expected = f"{'the CPU' if self._backend == 'cpu' else 'one GPU'} for backend {self._backend!r}"
                raise BackendError(f"{function}: {name} must be on {expected}, got {t.device}")
        fixed = self._fixed
        if not (tuple(b.shape) == fixed if fixed else b.dim() in (1, 2) and b.shape[0] == self.shape[0]):
            expected = f"{fixed}" if fixed else f"({self.shape[0]},) or ({self.shape[0]}, k)"
            raise ValueError(f"{function}: b must have shape {expected} to go with A, got {tuple(b.shape)}")
        shape = self._shape_of_x(b)
        if x is not None and tuple(x.shape) != shape:
            like = "like b" if shape == tuple(b.shape) else "to go with A and b"
            raise ValueError(f"{function}: {x_name} must have shape {shape} {like}, got {tuple(x.shape)}")

    def _shape_of_x(self, b: Tensor) -> tuple[int, ...]:
        return tuple(b.shape) if self._fixed else (self.shape[1], *b.shape[1:])


def _backend(function: str, named: object, device: torch.device | None) -> str:
    if named is not None and named not in BACKENDS:
        raise ValueError(f"{function}: backend must be None, 'cpu' or 'cuda', got {named!r}")
    if device is None:
        return str(named or "cpu")
    if device.type not in ("cpu", *_GPUS):
        raise BackendError(f"{function}: A must be on the CPU or a CUDA device, got device {device}")
    is_gpu = device.type in _GPUS
    if named is not None and is_gpu == (named == "cpu"):
        raise BackendError(f"{function}: backend must go with the device of A, {device}, got {named!r}")
    return str(named or ("cuda" if is_gpu else "cpu"))


def _check_gpu(function: str, A: object, method: object, order: object) -> None:
    """Refuse arguments without GPU kernels; other errors are raised by the preparation on the CPU."""
    if method == "kaczmarz" and not (isinstance(order, str) and order == "color"):
        raise BackendError(f"{function}: order must be 'color' for kaczmarz on a GPU, got {order!r}")
    is_jacobi = isinstance(method, str) and METHODS.get(method, ("",))[0] == "jacobi"
    if isinstance(A, Stencil) and A.dtype.kind == "c":
        raise BackendError(f"{function}: A must have real coefficients on a GPU if it is a Stencil, got {A.dtype}")
    if method in METHODS:
        check_order(function, order, is_jacobi)


def _on_device(
    function: str, host: relax.Relaxation, device: torch.device | None, together: Arrangement | None
) -> _Matrix:
    assert device is not None  # a tensor's
    system: Any = host._system
    if together is not None:
        return OfProjections(system.A, together, device, system.scale)
    if isinstance(system, HostBlocks):
        if system.A.value.ndim == 4:
            raise BackendError(f"{function}: A must be one matrix on a GPU if there is a block_size, got a batch")
        return OfBlocks(block_rows_of(system.A, system.arrangement), device)
    layout = slices_of(system.A.start, system.A.column, system.arrangement, jacobi=system.jacobi)
    return OfRows(layout, tensors_of(layout, device), torch.from_numpy(system.A.value).to(device))
