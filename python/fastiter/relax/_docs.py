"""Parts of the docstrings of solvers and sweeps."""

from __future__ import annotations

from .._docs import documented

SOLVER = documented(
    {
        "A": """
            A : (n, n) sparse matrix, NumPy array, Batch or Stencil
                A sparse matrix (scipy.sparse, any format), a NumPy array, a :class:`Batch` of matrices with one
                pattern, or a :class:`Stencil`; float32, float64 or complex128. CuPy's matrices are solved on their GPU.
            """,
        "vectors": """
            b : (n,), (n, k), (batch, n) or (*grid)
                The right-hand side, or several, in the dtype of A, or float64 where A is float32.
            x0 : array like b, optional
                The initial guess; zeros by default. It is not changed.
            """,
        "omega": """
            omega : float or "auto"
                The relaxation factor, in (0, 2). ``"auto"``, the default, begins with 1, and tries an estimate of the
                best factor where the trial costs at most a tenth of the steps that 1 still needs; if it does not pay
                off, x and omega are restored.
            """,
        "fixed_omega": """
            omega : float or "auto"
                The relaxation factor, .... With ``"auto"`` it is estimated.
            """,
        "order": """
            order : str or (n,) array of int
                ``"natural"``; ``"red-black"``, ``"color"`` or ``"cluster"``, whose rows run in parallel; or a
                permutation of the rows: see :class:`Relaxation`.
            """,
        "block_size": """
            block_size : int, optional
                Relax that many consecutive rows together, at most 64. By default single rows.
            """,
        "own_block_size": """
            block_size : int, optional
                The number of consecutive rows in a block, at most 64; by default that of a BSR matrix.
            """,
        "symmetric": """
            symmetric : bool
                Make each step one sweep forward and one backward.
            """,
        "limits": """
            rtol, atol : float
                The solution has converged when ``||b - A x|| <= rtol ||b|| + atol``; by default rtol is 1e-5 for
                float32 vectors, else 1e-8.
            max_steps : int
                The maximum number of steps; a step is ....
            callback : callable, optional
                Called with a :class:`fastiter.Progress` at each check after which it would continue, the first one
                before the first step. If it returns True, the solution ends with the reason "callback".
            throw : bool
                Raise a ConvergenceError, instead of a warning, if the solution does not converge.
            check_every : int
                The number of steps between two checks of the residual, which costs a product with A.
            """,
        "result": """
            Returns
            -------
            LinearSolution
                x as ``value``, and ``converged``, ``steps``, ``residual``, ``reason`` and others.

            Raises
            ------
            TypeError, ValueError
                If an argument is not as described; messages about infinities and NaN in A, b or x0 name their
                positions.
            ConvergenceError
                If ``throw`` is True and the solution does not converge.

            Warns
            -----
            ConvergenceWarning
                If ``throw`` is False and the solution does not converge.
            """,
    }
)

TENSOR_SOLVER = documented(
    {
        "A": """
            A : (n, n)
                A sparse tensor (CSR, CSC, BSR, BSC or COO), or its parts ``(crow, col, values)`` as in
                torch.sparse_csr_tensor: integers (n + 1,) and (entries,), and the values (entries,). float32, float64
                or complex128. With the parts the call can be compiled by torch.compile.
            """,
        "vectors": """
            b : (n,) or (n, k)
                The right-hand side, in the dtype of A and on the device of its values.
            x0 : Tensor (n,) or (n, k), optional
                Initial guess, 0 by default, in the shape of b. The solution does not depend on it, so it has no
                gradient.
            """,
        "omega": """
            omega : float or "auto"
                The relaxation factor, in (0, 2). ``"auto"``, the default, tries an estimate for A, and again for A^H.
            """,
        "fixed_omega": """
            omega : float or "auto"
                The relaxation factor, .... With ``"auto"`` it is estimated for A, and again for A^H.
            """,
        "order": """
            order : {"natural", "red-black", "color", "cluster"}
                As for :class:`fastiter.relax.Relaxation`. On a GPU "color" or "red-black".
            """,
        "limits": """
            rtol, atol : float
                The solution has converged when ``||b - A x|| <= rtol ||b|| + atol``; by default, rtol is 1e-5 for
                float32 and 1e-8 otherwise.
            max_steps : int
                The maximum number of steps; a step is ....
            callback : callable, optional
                Called with a :class:`fastiter.Progress` at each check after which it would continue; if it returns
                True, the solution ends with the reason "callback". Not under torch.compile.
            throw : bool
                Raise if it does not converge, instead of a warning. Under torch.compile there is neither.
            check_every : int
                The number of steps between two checks of the residual; on a GPU the host synchronizes once per check.
            """,
        "result": """
            Returns
            -------
            LinearSolution
                Its value is x, differentiable in the values of A and in b to any order (for second derivatives pass the
                parts, as torch cannot differentiate its sparse tensors twice). Its steps, residual, converged and
                reason are those of the forward solve.

            Raises
            ------
            TypeError, ValueError
                If an argument is not as described.
            ConvergenceError
                If ``throw`` is True and it does not converge; also in the backward pass, if A^H l = g does not
                converge, as the gradient would be wrong.

            Warns
            -----
            ConvergenceWarning
                If ``throw`` is False and it does not converge.
            """,
    }
)

SWEEPS = documented(
    {
        "A": """
            A : (n, n) sparse matrix or NumPy array
                float32, float64, complex64 or complex128.
            """,
        "rectangular": """
            A : (n, m) sparse matrix or NumPy array
                float32, float64, complex64 or complex128.
            """,
        "vectors": """
            x : (n,), (n, 1) or (n, k)
                The vectors that are relaxed in place, in a floating-point dtype.
            b : array like x
                The right-hand sides; infinities and NaN propagate to x.
            """,
        "iterations": """
            iterations : int
                The number of sweeps.
            """,
        "sweep": """
            sweep : {"forward", "backward", "symmetric"}
                The direction; "symmetric" is forward, then backward.
            """,
        "omega": """
            omega : float, or complex for a complex A
                The relaxation factor.
            """,
        "Dinv": """
            Dinv : (blocks, blocksize, blocksize), optional
                The inverses of the diagonal blocks; computed if None.
            """,
        "blocksize": """
            blocksize : int
                The number of rows in a block, at most 64.
            """,
        "points": """
            Cpts, Fpts : (m,) array of int
                The C and F points: ....
            """,
        "counts": """
            f_iterations, c_iterations : int
                The number of sweeps over the F points and over the C points in each iteration.
            """,
        "indices": """
            indices : (m,) array of int
                The rows that are relaxed; for a BSR matrix in Jacobi's method block rows.
            """,
        "raises": """
            Raises
            ------
            TypeError, ValueError
                If an argument is not as described.
            """,
    }
)
