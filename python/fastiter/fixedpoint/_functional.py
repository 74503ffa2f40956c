"""Fixed points of maps on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .._array_like import as_array, as_arrays
from .._call.iterate import Callback, Limits, iterate
from .._check import check_choice, check_flag, type_name
from ._methods import METHODS
from ._problem import Layout, Problem, Stopping
from ._result import FixedPointSolution
from ._solve import Run
from ._space import NumPySpace, Space

Array = npt.NDArray[Any]
#: The structure of x
X = TypeVar("X", bound=Array | Sequence[Array] | Mapping[Any, Array])

Method = Literal[
    "picard",
    "anderson",
    "broyden",
    "newton_krylov",
    "halpern",
    "krasnoselskii_mann",
    "squarem",
    "aitken",
    "chebyshev",
]


def fixed_point(
    f: Callable[..., Any],
    x0: X | FixedPointSolution[X],
    *,
    method: Method = "anderson",
    norm: Literal["l2", "inf", "rms", "span"] | Callable[[Any], Any] = "l2",
    batched: bool = True,
    args: tuple[Any, ...] = (),
    compact: bool = True,
    jvp: Callable[..., Any] | None = None,
    patience: int = 100,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
    **options: Any,
) -> FixedPointSolution[X]:
    """x = f(x) for each sample of a batch, from evaluations of f only.

    Parameters
    ----------
    f : callable
        ``f(x, *args)`` returns an array of the shape and dtype of x; for a tuple, list or dict of arrays the same
        structure. It must not change x, which is read-only. If samples end at different steps, it receives only the
        rows that have not ended.
    x0 : array, tuple, list or dict of arrays, or FixedPointSolution
        The first x, (B, ...) float32, float64, complex64 or complex128, all of one dtype; a number, or a list or tuple
        without arrays, is one array-like. If it is a solution, the iteration continues from its value, and also from
        its history if it comes from the same method with the same options.
    method : str
        The name of the iteration, one of those in Notes.
    norm : {"l2", "inf", "rms", "span"} or callable
        ``"span"`` is the largest minus the smallest element, for maps whose fixed points are unique up to a constant. A
        callable receives a state, f(x) - x or f(x), and returns one number for each sample.
    batched : bool
        Whether axis 0 is a batch of samples, each with its own history and stopping test. If False, x0 is one problem.
    args : tuple of arrays
        Arrays of B rows that are passed to f, without the rows of samples that have ended.
    compact : bool
        If False, f always receives all B rows, for functions that cannot take fewer.
    jvp : callable, optional
        ``jvp(x, v, *args)`` returns f'(x) v, for ``"newton_krylov"``; by default a difference of two values of f.
    patience : int
        A sample has stagnated after this many steps without progress, a new smallest residual or ratio of residual to
        ``||f(x)||``, if its residual is at the level of rounding errors; otherwise only after twice the steps that it
        took to get there, too, and after ten times as many as ``patience`` if it rises and falls slowly.
    rtol : float, optional
        Relative tolerance: by default 1e-5 in 32 bits and 1e-8 in 64.
    atol : float
        Absolute tolerance: a sample has converged when ``||f(x) - x|| <= rtol ||f(x)|| + atol``.
    max_steps : int
        The maximum number of steps.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each evaluation; the solver ends if it returns True.
    throw : bool
        Whether to raise :class:`fastiter.ConvergenceError` if a sample has not converged.
    **options : object
        Options of the method, listed in Notes.

    Returns
    -------
    FixedPointSolution
        x with the state of convergence, the steps and the evaluations of each sample.

    Raises
    ------
    TypeError
        If an argument, or what f returns, has a wrong type or dtype.
    ValueError
        If it has a wrong shape or value.
    ConvergenceError
        If a sample does not converge and ``throw`` is True.

    Warns
    -----
    ConvergenceWarning
        If a sample does not converge; its value is its iterate with the smallest residual.

    See Also
    --------
    FixedPointSolution : The result.
    fastiter.relax.sor : For a linear system with a known matrix.

    Notes
    -----
    ==================  ==========================================================================================
    picard              ``damping=1.0``: x <- x + damping (f(x) - x)
    anderson            ``m=10`` differences, at most 32 or n, ``damping=1.0``, ``ridge`` relative to the squares of the
                        differences (the spacing of numbers by default), ``kind=2`` (1: type I), ``restart`` every so
                        many steps, ``history_dtype``: "float32" for x in 64 bits or "bfloat16" for 32, half the memory
    broyden             ``m=100`` updates, ``damping=1.0``; a step that lets the residual grow ``growth_limit=100``
                        times is halved up to ``halvings=4`` times
    newton_krylov       ``inner=20`` steps of GMRES to ``inner_rtol=0.1``, ``growth_limit=1.0``, ``halvings=8``
    halpern             no option: anchored at x0, ||f(x) - x|| <= 2 ||x0 - x*|| / (steps + 1) for non-expansive f
    krasnoselskii_mann  ``relaxation=0.5``, or a function of the step
    squarem             ``largest=1.0``: the bound of the step length at first, ``factor=4.0`` times larger if reached,
                        and smaller if an extrapolation fails or has ``growth_limit=1e4`` times the residual of x
    aitken              ``relaxation=1.0`` at first, ``componentwise=False``, ``largest=100.0`` in absolute value
    chebyshev           ``bounds=(low, high)`` of the spectrum of an affine f, estimated by ``estimates=20`` evaluations
    ==================  ==========================================================================================

    ``anderson``, ``broyden``, ``newton_krylov``, ``squarem`` and ``aitken`` extrapolate. In place of a step to an x
    where f is not finite, they take a plain one, x <- f(x) or its damped form. The option ``domain`` saves that
    evaluation: ``domain(x, *args)`` returns a bool for each sample, whether f may be evaluated at x.

    If a sample still meets NaN, grows or stagnates above the level of rounding errors, these methods, except
    ``newton_krylov``, return to its best iterate and discard its history: up to six times to the same iterate, with
    shorter steps each time. ``chebyshev`` goes on by x <- f(x) from there.

    If ``||f(x)||`` falls below ``rtol`` times its first value, x = 0 is tried once: a fixed point that is 0 would
    otherwise meet a relative tolerance only by underflow.

    References
    ----------
    .. [1] D. G. Anderson, "Iterative procedures for nonlinear integral equations", Journal of the ACM 12, 1965.
    .. [2] H. F. Walker and P. Ni, "Anderson acceleration for fixed-point iterations", SIAM Journal on Numerical
       Analysis 49, 2011.
    .. [3] C. G. Broyden, "A class of methods for solving nonlinear simultaneous equations", Mathematics of
       Computation 19, 1965.
    .. [4] F. Lieder, "On the convergence rate of the Halpern-iteration", Optimization Letters 15, 2021.
    .. [5] R. Varadhan and C. Roland, "Simple and globally convergent methods for accelerating the convergence of any
       EM algorithm", Scandinavian Journal of Statistics 35, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import fixed_point
    >>> rng = np.random.default_rng(0)
    >>> W, b = 0.9 * np.linalg.qr(rng.normal(size=(50, 50)))[0], rng.normal(size=(8, 50))
    >>> found = fixed_point(lambda x, b: np.tanh(x @ W + b), np.zeros((8, 50)), args=(b,))
    >>> bool(found.converged.all()), bool(np.allclose(np.tanh(found.value @ W + b), found.value, atol=1e-7))
    (True, True)
    """
    function = "fixed_point"
    limits = Limits(rtol, atol, max_steps, callback, throw)
    stopping = Stopping(limits, norm, patience).checked(function)
    start = x0 if type(x0) is np.ndarray else _with_arrays(function, x0)
    return run(function, f, start, NumPySpace(), stopping, method, options, batched, args, compact, jvp)


def _with_arrays(function: str, x0: Any) -> Any:
    """Return x0 with array-likes converted to arrays: a list or tuple without arrays is one array."""
    if isinstance(x0, dict):
        return dict(zip(x0, as_arrays(function, [f"x0[{key!r}]" for key in x0], list(x0.values())), strict=True))
    if type(x0) in (list, tuple) and any(hasattr(part, "dtype") for part in x0):
        return type(x0)(as_arrays(function, [f"x0[{i}]" for i in range(len(x0))], x0))
    empty = type(x0) in (list, tuple) and not x0
    return x0 if empty or isinstance(x0, FixedPointSolution) else as_array(function, "x0", x0)


def run(
    function: str,
    f: Callable[..., Any],
    x0: Any,
    space: Space,
    stopping: Stopping,
    method: str,
    options: dict[str, Any],
    batched: bool = True,
    args: tuple[Any, ...] = (),
    compact: bool = True,
    jvp: Callable[..., Any] | None = None,
    judged: str = "||f(x) - x||",
) -> FixedPointSolution[Any]:
    """Return the fixed points of a map on the arrays of a space; ``stopping`` has been checked.

    If x0 is a solution with the method's options and sizes, the method continues from its history.
    """
    check_choice(function, "method", method, tuple(METHODS))
    check_flag(function, "batched", batched)
    check_flag(function, "compact", compact)
    for name, argument in (("f", f), ("jvp", jvp)):
        if not callable(argument) and (name == "f" or argument is not None):
            raise TypeError(f"{function}: {name} must be callable, got {type_name(argument)}")
    if jvp is not None and method != "newton_krylov":
        raise ValueError(f"{function}: jvp must be None for method {method!r}, got a function")
    if not isinstance(args, tuple):
        raise TypeError(f"{function}: args must be a tuple of arrays, got {type_name(args)}")
    start, memory = (x0.value, x0._memory) if isinstance(x0, FixedPointSolution) else (x0, None)
    layout = Layout(function, space, start, batched)
    problem = Problem(function, f, space, layout, args if batched else (), args, compact, jvp, judged)
    if problem.args:
        problem.check_rows()
    x = layout.pack(start)
    chosen = METHODS[method].of(function, options)
    begun: Any = chosen.begun(space, *x.shape)
    if memory is not None and memory[0] == chosen and memory[1:] == (x.shape, space.noun, space.dtype_name):
        begun = begun.resumed(memory[0])
    record = Run(problem, stopping, begun, x)
    return iterate(record.checks(x), stopping.limits, record).solution()
