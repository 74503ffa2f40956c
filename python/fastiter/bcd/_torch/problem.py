"""Problems on tensors: problems on arrays in the same memory, and the tensors that their solutions depend on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import BackendError
from ..._check import type_name
from ..._torch.graph_break import graph_break
from ..._torch.ops import FLOATS, check_dense, check_tensors, refuse_tangents, refuse_transforms
from .. import _problem
from .matrix import DEVICES, Pattern, array_of, read_matrix


class Problem:
    """A convex problem on tensors."""

    #: The class of the problem on arrays
    _twin: type[_problem.Problem]
    _arrays: _problem.Problem
    #: The tensors that a solution depends on, by name; for A, its values
    _tensors: dict[str, Tensor]
    _pattern: Pattern
    _labels: Tensor | None = None
    #: All tensors by name, and their versions when the problem was created
    _versions: list[tuple[str, Tensor, int]]

    def _read(self, A: Any, others: dict[str, Any], **more: Any) -> None:
        """Check the arguments, and create the problem on arrays from them."""
        graph_break(self._reading, A, others, more)

    def _reading(self, A: Any, others: dict[str, Any], more: dict[str, Any]) -> None:
        function = self._twin._function()
        refuse_transforms(function, "because the number of steps depends on the values")
        matrix = read_matrix(function, "A", A)
        self._pattern = matrix.pattern
        self._tensors = {"A": matrix.values} | {name: x for name, x in others.items() if isinstance(x, Tensor)}
        check_tensors(function, tuple(self._tensors), tuple(self._tensors.values()), FLOATS, DEVICES)
        refuse_tangents(function, self._tensors.values())
        for name, x in others.items():
            _check_kind(function, name, x, self._pattern.shape[1])
        arrays = {name: array_of(x) if isinstance(x, Tensor) else x for name, x in others.items()}
        if "y" in more:
            self._labels = _labels(function, more["y"])
            more = more | {"y": array_of(self._labels)}
        named = self._tensors if self._labels is None else self._tensors | {"y": self._labels}
        self._versions = [(name, x, x._version) for name, x in named.items() if not x.is_inference()]
        make: Any = self._twin
        self._arrays = make(matrix.array(function), **arrays, **more)
        self._classes = self._arrays._classes
        if self._loss == "logistic" and self._labels is not None:
            self._labels = self._labels > 0

    def _check_unchanged(self, function: str) -> None:
        """Refuse tensors that have been modified in place, of which the problem on arrays has copies and sums."""
        for name, x, version in self._versions:
            if x._version != version:
                raise ValueError(
                    f"{function}: {name} must not change after the problem was made, got changes; make it again"
                )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state from a copy or a file, whose tensors start with new versions."""
        self.__dict__.update(state)
        self._versions = [(name, x, x._version) for name, x, _ in self._versions]

    @property
    def _loss(self) -> str:
        return self._twin._loss

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x."""
        return self._arrays.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x, that of the data."""
        return self._tensors["A"].dtype

    def __repr__(self) -> str:
        """Return one line, without the tensors."""
        return repr(self._arrays)


def _check_kind(function: str, name: str, x: Any, m: int) -> None:
    """Refuse anything but tensors for vectors, and numbers or tensors for penalties and bounds."""
    if isinstance(x, Tensor) or (x is None and name in ("weights", "lower", "upper")):
        return
    if name in ("b", "weights"):
        raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type_name(x)}")
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        raise TypeError(f"{function}: {name} must be a number or a tensor of shape ({m},), got {type_name(x)}")


def _labels(function: str, y: Any) -> Tensor:
    if not isinstance(y, Tensor):
        raise TypeError(f"{function}: y must be a torch.Tensor, got {type_name(y)}")
    check_dense(function, "y", y)
    if not y.is_cpu:
        raise BackendError(f"{function}: y must be on the CPU, as it has no GPU kernels yet; got device {y.device}")
    return y.detach()


_MATRIX = """
    A : Tensor (n, m), or (crow, col, values, (n, m))
        The data, float32 or float64 on the CPU: dense, CSR or CSC, or the parts of a CSR matrix, whose gradient can be
        differentiated again. Its columns belong to the unknowns. A dense tensor whose columns are contiguous in memory,
        as in ``B.mT``, is used without a copy. A problem whose tensors have changed in place has to be made again.
    """
_SYMMETRIC = """
    A : Tensor (m, m), or (crow, col, values, (m, m))
        The symmetric matrix, float32 or float64 on the CPU: dense, CSR or CSC, or the parts of a CSR matrix.
    """


def _tensors(parts: dict[str, str], matrix: str = _MATRIX) -> dict[str, str]:
    """Return the descriptions of parameters for tensors."""
    return {name: text.replace("array", "tensor") for name, text in parts.items()} | {"A": matrix}


@_problem.described(_tensors(_problem.TARGETS))
class LeastSquares(Problem):
    """||A x - b||^2 / 2 + sum_j l1_j |x_j| + l2_j x_j^2 / 2 with lower <= x <= upper.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        As for :class:`fastiter.bcd.LeastSquares`.
    BackendError
        For tensors that are not on the CPU.
    RuntimeError
        Under a transform of torch.func, or for tensors with tangents of forward-mode differentiation.

    See Also
    --------
    bcd : Solves it, differentiably.
    fastiter.bcd.LeastSquares : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.bcd import LeastSquares, bcd
    >>> A, b = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), torch.tensor([3.0, 1.0, 1.0])
    >>> bcd(LeastSquares(A, b, l1=1.0)).value
    tensor([2.0000, 0.2500])
    """

    _twin = _problem.LeastSquares

    def __init__(
        self, A: Any, b: Any, *, l1: Any = 0.0, l2: Any = 0.0, lower: Any = None, upper: Any = None, weights: Any = None
    ) -> None:
        self._read(A, {"b": b, "weights": weights, "l1": l1, "l2": l2, "lower": lower, "upper": upper})


@_problem.described(_tensors(_problem.TARGETS))
class Logistic(Problem):
    """The sum of log(1 + exp(z_i)) - y_i z_i, z = A x, + sum_j l1_j |x_j| + l2_j x_j^2 / 2 with lower <= x <= upper.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        As for :class:`fastiter.bcd.Logistic`.
    BackendError, RuntimeError
        As for :class:`LeastSquares`.

    See Also
    --------
    bcd : Solves it, differentiably.
    fastiter.bcd.Logistic : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.bcd import Logistic, bcd
    >>> bcd(Logistic(torch.ones(4, 1), torch.tensor([1, 1, 1, 0]))).value
    tensor([1.0986])
    """

    _twin = _problem.Logistic

    def __init__(
        self, A: Any, y: Any, *, l1: Any = 0.0, l2: Any = 0.0, lower: Any = None, upper: Any = None, weights: Any = None
    ) -> None:
        self._read(A, {"weights": weights, "l1": l1, "l2": l2, "lower": lower, "upper": upper}, y=y)


@_problem.described(_tensors(_problem.CLASSES))
class Softmax(Problem):
    """The sum of log(sum_k exp z_ik) - z_iy, z = A x, + sum l1_j |x_jk| + l2_j x_jk^2 / 2; x is (m, classes).

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        As for :class:`fastiter.bcd.Softmax`.
    BackendError, RuntimeError
        As for :class:`LeastSquares`.

    See Also
    --------
    bcd : Solves it, differentiably.
    fastiter.bcd.Softmax : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.bcd import Softmax, bcd
    >>> problem = Softmax(torch.ones(4, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 2]), 3, l2=1e-6)
    >>> bcd(problem, max_steps=10_000).value.softmax(dim=1).round(decimals=3)
    tensor([[0.2500, 0.5000, 0.2500]], dtype=torch.float64)
    """

    _twin = _problem.Softmax

    def __init__(
        self,
        A: Any,
        y: Any,
        classes: int | None = None,
        *,
        l1: Any = 0.0,
        l2: Any = 0.0,
        lower: Any = None,
        upper: Any = None,
        weights: Any = None,
    ) -> None:
        own = {"weights": weights, "l1": l1, "l2": l2, "lower": lower, "upper": upper}
        self._read(A, own, y=y, classes=classes)


@_problem.described(_tensors(_problem.SYMMETRIC, _SYMMETRIC))
class Quadratic(Problem):
    """x' A x / 2 - b' x + sum_j l1_j |x_j| + l2_j x_j^2 / 2 with lower <= x <= upper; A is positive semidefinite.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        As for :class:`fastiter.bcd.Quadratic`.
    BackendError, RuntimeError
        As for :class:`LeastSquares`.

    See Also
    --------
    bcd : Solves it, differentiably.
    fastiter.bcd.Quadratic : The same on arrays.

    Notes
    -----
    The gradient with respect to A is symmetric: it is the gradient for symmetric perturbations.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.bcd import Quadratic, bcd
    >>> A, b = torch.tensor([[2.0, -1.0], [-1.0, 2.0]]), torch.tensor([1.0, -3.0])
    >>> bcd(Quadratic(A, b, lower=0)).value
    tensor([0.5000, 0.0000])
    """

    _twin = _problem.Quadratic

    def __init__(self, A: Any, b: Any, *, l1: Any = 0.0, l2: Any = 0.0, lower: Any = None, upper: Any = None) -> None:
        self._read(A, {"b": b, "l1": l1, "l2": l2, "lower": lower, "upper": upper})
