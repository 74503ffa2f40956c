"""A matrix prepared once, and sweeps over it: in place, until a residual is small, or as a preconditioner."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..._call.iterate import Callback, Limits
from ..._check import check_flag, type_name
from ..._solution import judged
from .._cupy import refuse_cupy
from .._docs import SOLVER
from .._omega import spectrum
from .._omega.adaptive import Adaptive
from .._omega.auto import Choice, choice_of, is_measured
from .._sweeps import vectors
from .._sweeps.order import Order
from .._sweeps.pieces import pieces
from .._sweeps.prepare import BACKWARD, FORWARD, JACOBI, SYMMETRIC, System, prepare
from .._sweeps.stencil import Stencil, prepare_stencil
from .iteration import Run, solve
from .methods import METHODS, Method, adaptive_of, check_omega, checked_block_size, own_block_size
from .result import LinearSolution

Array = npt.NDArray[Any]


class Relaxation:
    """x_i <- (1 - omega) x_i + omega (b_i - sum over j != i of a_ij x_j) / a_ii, prepared for one A.

    Parameters
    ----------
    A : (n, n) sparse matrix, NumPy array, Batch or Stencil
        A sparse matrix (scipy.sparse, any format; 32-bit or 64-bit indices), a NumPy array (n, n), a :class:`Batch` of
        matrices with one pattern, or a :class:`Stencil`; float32, float64 or complex128. It is copied, so later changes
        have no effect.
    method : str
        - ``"jacobi"``: all rows at once, from the x before the sweep; ``"block_jacobi"``
        - ``"gauss_seidel"``, ``"block_gauss_seidel"``: row after row, from the newest x, omega = 1
        - ``"sor"``: the same with an omega; ``"ssor"``: forward, then backward
        - ``"kaczmarz"``: x <- x + omega (b_i - a_i x) a_i^H / ||a_i||^2, row after row. A may be of any shape.
    omega : float or "auto", optional
        The relaxation factor, in (0, 2) except for Jacobi. ``"auto"``: from an estimate of the spectral radius, for all
        methods that have an omega, blocks, batches (one omega for all) and stencils. :meth:`solve` begins with 1, tries
        the estimate, and returns to 1 if the trial does not pay off, so that "auto" takes at most a tenth more steps
        than 1; SOR then adapts omega to the observed convergence factor. None, the default, is "auto" for "sor", and
        for "ssor" without blocks; else it is 1.
    order : str or (n,) array of int
        - ``"natural"``: from the first row to the last
        - ``"red-black"``: two colours, with no links between rows of one colour; ValueError if two do not suffice
        - ``"color"``: as many colours as first fit needs. Rows of one colour run in parallel, on all threads.
        - ``"cluster"``: clusters of consecutive rows, each in natural order; clusters of one colour run in parallel
        - a permutation of the rows

        With a block size it is the order of the blocks. Results do not depend on the number of threads, bit for bit. A
        stencil has two colours, and its rows are the points of its grid.
    block_size : int, optional
        Relax that many consecutive rows together, x_I <- (1 - omega) x_I + omega A_II^-1 (b_I - sum of A_IJ x_J). For
        methods ``block_...`` None takes the block size of a BSR matrix.
    symmetric : bool
        Each sweep is one forward and one backward, which ``"ssor"`` always does.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names the number of a row that is not finite, that has a zero on
        the diagonal, or whose block is singular.

    See Also
    --------
    sor, ssor, kaczmarz : The same for a single solution.
    Chebyshev, Anderson : Accelerate its sweeps.
    fastiter.torch.relax.Relaxation : On tensors, with gradients.

    Notes
    -----
    Vectors have the dtype of A, or float64 if A is float32; sums are always float64. b and x are (n,), or (n, k) for k
    right-hand sides at once, which cost little more than one; they are (batch, n) for a batch, and the grid or
    (*grid, k) for a stencil.

    References
    ----------
    Young, Iterative Solution of Large Linear Systems, 1971. Hageman and Young, Applied Iterative Methods, 1981.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import Relaxation
    >>> A = np.array([[4.0, -1.0], [-2.0, 8.0]])
    >>> sor = Relaxation(A, "sor", omega=1.1)
    >>> x = np.zeros(2)
    >>> sor.sweep(x, np.array([2.0, 12.0]), sweeps=20)
    >>> x
    array([0.9333333, 1.7333333])
    >>> sor.solve(np.array([2.0, 12.0])).steps
    9
    """

    def __init__(
        self,
        A: Any,
        method: Method = "sor",
        *,
        omega: float | Literal["auto"] | None = None,
        order: Order = "natural",
        block_size: int | None = None,
        symmetric: bool = False,
    ) -> None:
        refuse_cupy("Relaxation", A)
        self._build("Relaxation", A, method, omega, order, block_size, symmetric)

    def _build(
        self, function: str, A: Any, method: str, omega: Any, order: Any, block_size: int | None, symmetric: bool
    ) -> None:
        if not isinstance(method, str):
            raise TypeError(f"{function}: method must be a str, got {type_name(method)}")
        if method not in METHODS:
            raise ValueError(f"{function}: method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
        sweep, both = METHODS[method]
        if omega is not None:
            check_omega(function, method, omega)
        check_flag(function, "symmetric", symmetric)
        if symmetric and sweep == "jacobi":
            raise ValueError(
                f"{function}: symmetric must be False for {method}, whose sweeps have no direction, got True"
            )
        if block_size is not None:
            block_size = checked_block_size(function, method, block_size)
        elif method.startswith("block_"):
            block_size = own_block_size(function, getattr(A, "blocksize", None))
        self._function, self.method, self.symmetric = function, method, symmetric or both
        self._order = order if isinstance(order, str) else "given"
        if isinstance(A, Stencil):
            self._system: System = prepare_stencil(function, A, sweep, order, block_size)
        else:
            self._system = prepare(function, A, sweep, order, block_size)
        if omega is None:
            has_theory = method == "sor" or (method == "ssor" and block_size is None)
            omega = "auto" if has_theory else 1.0
        self._fixed_omega: float | None = None if isinstance(omega, str) else float(omega)
        self._estimate: Choice | None = None

    @classmethod
    def _of(
        cls,
        function: str,
        A: Any,
        method: str,
        *,
        omega: float | Literal["auto"] | None = None,
        order: Order = "natural",
        block_size: int | None = None,
        symmetric: bool = False,
    ) -> Relaxation:
        """Return a Relaxation whose error messages name the calling function."""
        built = cls.__new__(cls)
        built._build(function, A, method, omega, order, block_size, symmetric)
        return built

    @classmethod
    def _solved(cls, method: Method, A: Any, b: Any, x0: Any, limits: Limits, **options: Any) -> LinearSolution[Array]:
        """Return the solution by the function of a method's name."""
        relaxation = cls._of(method, A, method, **options)
        return solve(method, relaxation._system, relaxation._run, b, x0, limits)

    @property
    def omega(self) -> float:
        """The relaxation factor of :meth:`sweep`, estimated when it is first needed.

        With ``"auto"`` it is 1 unless the theory behind the estimate holds, as :meth:`sweep` has no trials.
        """
        if self._fixed_omega is not None:
            return self._fixed_omega
        choice = self._choice()
        return choice.omega if choice.is_sure else 1.0

    def _choice(self) -> Choice:
        """Return the estimate of "auto"."""
        if self._estimate is None:
            sweep = METHODS[self.method][0]
            self._estimate = choice_of(self._function, sweep, self.symmetric, self._system, self._homogeneous)
        return self._estimate

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of A."""
        return self._system.rows, self._system.columns

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of A."""
        return self._system.dtype

    @property
    def colors(self) -> int:
        """The number of colours of the order; 1 if rows are relaxed one after the other."""
        return self._system.colours

    def sweep(self, x: Array, b: Array, sweeps: int = 1, *, backward: bool = False) -> None:
        """Relax x in place, without computing the residual; infinities and NaN in b propagate to x.

        Ctrl-C stops after a whole number of sweeps, and x then has their result.

        Parameters
        ----------
        x, b : (n,), (n, k), (batch, n) or (*grid)
            As x0 and b of :meth:`solve`; x may have any layout, and is updated without a copy if it is contiguous.
        sweeps : int
            The number of sweeps.
        backward : bool
            Go from the last row to the first.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described, or x and b share memory.
        """
        function = self._name("sweep")
        times = vectors.count(function, "sweeps", sweeps)
        check_flag(function, "backward", backward)
        b, _ = vectors.check_vectors(function, self._system, b, x, "x", in_place=True)
        vectors.check_writable(function, x, b)
        own_x, own_b = vectors.inside(self._system, x), vectors.inside(self._system, b)
        try:
            self._sweep(own_x, times, own_b, backward)
        finally:
            if not np.may_share_memory(own_x, x):
                x[...] = vectors.outside(self._system, own_x)

    def _sweep(self, x: Array, times: int, b: Array, backward: bool = False, omega: float | None = None) -> Array:
        """Relax x, in the layout of the kernels, in place, and return it."""
        if x.size == 0 or times == 0:
            return x
        direction = SYMMETRIC if self.symmetric else BACKWARD if backward else FORWARD
        sweeps = JACOBI if METHODS[self.method][0] == "jacobi" else direction
        k, factor = x.shape[1] if x.ndim > 1 else 1, self.omega if omega is None else omega
        matrix, entries = self._system.of(x.dtype), k * self._system.entries * (2 if sweeps == SYMMETRIC else 1)
        for count in pieces(times, entries):
            matrix.sweep(x, b, 0, k, np.full(count, factor), 0, count, sweeps)
        return x

    def residual(self, x: Array, b: Array) -> Array:
        """Return b - A x.

        Parameters
        ----------
        x, b : (n,), (n, k), (batch, n) or (*grid)
            As x0 and b of :meth:`solve`.

        Returns
        -------
        ndarray
            The residual, shaped like b.

        Raises
        ------
        TypeError, ValueError
            If a vector is not as described.
        """
        b, own_start = vectors.check_vectors(self._name("residual"), self._system, b, x, "x")
        assert own_start is not None  # for the type checker, as x is not
        own_x, own_b = vectors.inside(self._system, own_start), vectors.inside(self._system, b)
        r = np.empty_like(own_b)
        vectors.residual(self._system.of(r.dtype), own_x, own_b, r)
        return vectors.outside(self._system, r)

    @SOLVER
    def solve(
        self,
        b: Array,
        x0: Array | None = None,
        *,
        rtol: float | None = None,
        atol: float = 0.0,
        max_steps: int = 10_000,
        callback: Callback | None = None,
        throw: bool = False,
        check_every: int = 1,
    ) -> LinearSolution[Array]:
        """Sweep until ||b - A x|| <= rtol ||b|| + atol, from x0 or 0.

        The residual is computed from A, b and x at each check. The solution ends early if the residual has grown by a
        factor of 1e10 or is not finite ("diverged"), or if it neither falls by a millionth in 200 steps nor grows
        ("stagnated").

        Parameters
        ----------
        %(vectors)s
        %(limits)s one sweep; for the symmetric methods one forward and one backward

        %(result)s
        """
        function = self._name("solve")
        limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
        return judged(function, self._solve(function, b, x0, limits), throw)

    def _name(self, method: str) -> str:
        """Return the name of a method in messages: that of the function that the user called."""
        return f"{self._function}.{method}" if self._function == "Relaxation" else self._function

    def _solve(self, function: str, b: object, x0: object, limits: Limits) -> LinearSolution[Array]:
        return solve(function, self._system, self._run, b, x0, limits)

    def _run(self, b: Array) -> Run:
        """Return the sweeps of a solution."""
        if (fixed := self._fixed_omega) is not None:
            return Run(partial(self._sweep, b=b, omega=fixed), self.method, lambda: fixed)
        adaptive, sweep = self._adaptive(), partial(self._sweep, b=b)
        if adaptive is None:
            return Run(sweep, self.method, lambda: self.omega)
        step = lambda x, count: sweep(x, count, omega=adaptive.omega)  # noqa: E731
        return Run(step, self.method, lambda: adaptive.omega, adaptive.observe)

    def _adaptive(self) -> Adaptive | None:
        """Return the object that chooses omega during a solution; None if omega stays fixed."""
        if self._fixed_omega is not None or is_measured(METHODS[self.method][0], self.symmetric, self._system):
            return None
        return adaptive_of(self.method, self.symmetric, self._choice)

    def _homogeneous(self, x: Array, omega: float | None = None) -> Array:
        """Return one sweep from x for b = 0, the iteration matrix times x; x is in the kernels' layout."""
        y = np.array(x)
        return self._sweep(y, 1, np.zeros((self.shape[0], *x.shape[1:]), x.dtype), omega=omega)

    def matvec(self, r: Array) -> Array:
        """Return M^-1 r, one sweep from 0.

        Together with rmatvec, shape and dtype it makes the relaxation a preconditioner M for SciPy's cg, gmres and
        others. For cg the sweep must be symmetric: ``"ssor"``, ``symmetric=True`` or Jacobi. A batch is one block
        diagonal matrix; its vectors (batch, n), and the grid of a stencil, are flattened. If A is float32, float64
        vectors stay float64; with a real A the real and imaginary parts are swept separately.

        Parameters
        ----------
        r : (n,) or (n, k)
            The vectors, of any dtype.

        Returns
        -------
        ndarray
            The result, shaped like r.

        Raises
        ------
        TypeError, ValueError
            If r does not have numbers; if it has another shape.
        """
        r, own = vectors.numbers_of("Relaxation.matvec", "r", r), self.dtype
        if r.dtype.kind == "c" and own.kind != "c":
            both: Array = self.matvec(r.real) + 1j * self.matvec(r.imag)
            return both
        r = np.ascontiguousarray(r, np.float64 if own == np.float32 and r.dtype != np.float32 else own)
        batch = self._system.batch
        rows = self.shape[0] * (batch or 1)
        if r.ndim not in (1, 2) or len(r) != rows:
            raise ValueError(f"Relaxation.matvec: r must have shape ({rows},) or ({rows}, k), got {r.shape}")
        if batch and r.ndim == 2:
            columns = [self.matvec(column) for column in r.T]
            return np.stack(columns, axis=1) if columns else r
        own_r = np.ascontiguousarray(r.reshape(batch, -1).T) if batch else r
        x = np.zeros((self.shape[1], *own_r.shape[1:]), r.dtype)
        self._sweep(x, 1, own_r)
        return np.ascontiguousarray(x.T).reshape(-1) if batch else x

    def rmatvec(self, r: Array) -> Array:
        """Return M^-H r, which is M^-1 r for a symmetric sweep over a Hermitian A.

        Parameters
        ----------
        r : (n,) or (n, k)
            As for :meth:`matvec`.

        Returns
        -------
        ndarray
            The result, shaped like r.

        Raises
        ------
        ValueError
            For any other sweep or A.
        """
        if not self.symmetric and METHODS[self.method][0] != "jacobi":
            raise ValueError(f"Relaxation.rmatvec: method must have a symmetric sweep, got {self.method!r}")
        if not spectrum.is_hermitian(self._system):
            raise ValueError("Relaxation.rmatvec: A must be Hermitian, got one that is not")
        return self.matvec(r)

    def as_preconditioner(self) -> Any:
        """Return M^-1 as a scipy.sparse.linalg.LinearOperator, for a batch or an A that is not square.

        Its shape is that of the inverse, and for a batch that of the block diagonal matrix: see :meth:`matvec`. For
        other matrices, the relaxation itself can be passed to SciPy.

        Returns
        -------
        scipy.sparse.linalg.LinearOperator
            M^-1.
        """
        from scipy.sparse.linalg import LinearOperator

        rows, columns = (n * (self._system.batch or 1) for n in self.shape)
        apply = self.matvec
        return LinearOperator((columns, rows), matvec=apply, matmat=apply, rmatvec=self.rmatvec, dtype=self.dtype)

    def __repr__(self) -> str:
        """Return one line: the method, its options, and the size of A."""
        omega = "" if self._estimate is None else f" ({self._estimate.omega:.4g})"
        omega = f"'auto'{omega}" if self._fixed_omega is None else f"{self._fixed_omega:.4g}"
        parts = [self.method, f"omega={omega}"]
        parts += ["symmetric"] if self.symmetric and self.method != "ssor" else []
        parts += [f"order={self._order!r}"] if self._order != "natural" else []
        parts += [f"{self.colors} colours"] if self.colors > 1 else []
        size = f"{self._system.batch} of " if self._system.batch else ""
        parts.append(f"A: {size}{self.shape[0]} x {self.shape[1]} {self.dtype}")
        return f"Relaxation({', '.join(parts)})"
