"""Blocks of coordinates: partitions, and bounds of their curvature."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .._check import check_choice, count, integers, type_name
from ._problem import Problem

Array = npt.NDArray[Any]
Partition = Literal["order", "sort", "average", "variable"]
PARTITIONS = ("order", "sort", "average", "variable")


class Blocks:
    """The partition of coordinates into blocks.

    Parameters
    ----------
    size : int
        The number of coordinates of each block; the last one may have fewer.
    partition : {"order", "sort", "average", "variable"}
        "order": consecutive coordinates. "sort": by decreasing curvature L_i. "average": the largest L_i, the smallest,
        the second largest and so on, so that blocks are similar. "variable": no partition; greedy rules take the
        coordinates with the largest scores in each step.

    Raises
    ------
    TypeError, ValueError
        If size is no int or below 1, or the partition is none of the listed ones.

    See Also
    --------
    bcd : Takes them as ``blocks``.
    LeastSquares : A problem.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import Blocks, LeastSquares, bcd
    >>> problem = LeastSquares(np.diag([1.0, 2.0, 3.0]), np.ones(3))
    >>> bcd(problem, blocks=Blocks(2, "variable"), rule="gs", update="matrix", check_every=1).steps
    2
    """

    def __init__(self, size: int = 1, partition: Partition = "order") -> None:
        self.size = count("Blocks", "size", size, 1)
        check_choice("Blocks", "partition", partition, PARTITIONS)
        self.partition = partition

    def __repr__(self) -> str:
        return f"Blocks({self.size}, {self.partition!r})"


class BlockArrays(NamedTuple):
    """The blocks for the kernels.

    ``start`` (number + 1) indexes ``member``; both are None for variable blocks of ``size`` coordinates. ``bounds``:
    L_b of each block; ``sums``: upper bounds of the row sums of |H|, for the rule "gsl".
    """

    start: Array | None
    member: Array | None
    bounds: Array | None
    sums: Array | None
    number: int
    size: int


class Partitioned:
    """The blocks of a problem: `start` (count + 1) indexes `member`; both are None for variable blocks."""

    def __init__(self, function: str, problem: Problem, blocks: Any) -> None:
        m = len(problem._curvature)
        self.problem, self.variable = problem, 0
        if isinstance(blocks, (int, np.integer)) and not isinstance(blocks, bool):
            blocks = Blocks(count(function, "blocks", blocks, 1))
        if isinstance(blocks, Blocks):
            if blocks.partition == "variable":
                self.start = self.member = None
                self.variable = min(blocks.size, max(m, 1))
                return
            size = min(blocks.size, max(m, 1))
            self.member = _order(problem._curvature, blocks.partition).astype(np.int32)
            self.start = np.append(np.arange(0, m, size), m)
        elif isinstance(blocks, (list, tuple)):
            lists = [integers(function, "blocks", block) for block in blocks]
            joined = np.concatenate([np.zeros(0, np.int64), *(block.ravel() for block in lists)])
            if not np.array_equal(np.sort(joined), np.arange(m)):
                expected = f"lists that have each coordinate from 0 to {m - 1} once"
                raise ValueError(f"{function}: blocks must be {expected}, got {len(lists)} that do not")
            lists = [block for block in lists if block.size]
            self.member = joined.astype(np.int32)
            self.start = np.cumsum([0, *(block.size for block in lists)])
        else:
            raise TypeError(f"{function}: blocks must be an int, Blocks or lists of integers, got {type_name(blocks)}")

    @property
    def count(self) -> int:
        return 0 if self.start is None else len(self.start) - 1

    def bounds(self) -> Array:
        """Return L_b, the largest eigenvalue of each H_b, a block of the upper bound's matrix."""
        assert self.start is not None and self.member is not None
        curvature = self.problem._curvature
        if len(self.member) == self.count:
            return curvature[self.member]
        return np.array([self._bound(self.member[a:b]) for a, b in zip(self.start, self.start[1:], strict=False)])

    def _bound(self, block: Array) -> float:
        problem = self.problem
        trace = float(problem._curvature[block].sum())
        if len(block) == 1:
            return trace
        classes = problem._classes
        columns = problem._data.columns(block // classes)
        if problem._loss == "quadratic":
            H = columns[block]
        elif problem._weights is not None:
            H = columns.T @ (problem._weights[:, None] * columns)
        else:
            H = columns.T @ columns
        if problem._loss == "logistic":
            H = H / 4
        elif problem._loss == "softmax":
            same = (block % classes)[:, None] == block % classes
            H = H * (same - 1 / classes) / 2
        H = H + np.diag(problem._separable[1][block])
        return min(trace, max(float(np.linalg.eigvalsh(H)[-1]) * (1 + 1e-12 * len(block)), 1e-300))

    def sums(self) -> Array:
        """Return upper bounds of the sums of magnitudes of each row of H."""
        problem = self.problem
        if problem._loss == "quadratic":
            data = problem._data
            whole: Any = data.dense if data.sparse is None else data.sparse
            own = np.asarray(abs(whole).sum(axis=1), np.float64).ravel()
        else:
            factor = {"squares": 1.0, "logistic": 0.25, "softmax": 1.0}[problem._loss]
            own = factor * problem._data.magnitude_sums(problem._weights)
        bounds = np.repeat(own, problem._classes) + problem._separable[1]
        return np.where(bounds > 0, bounds, 1.0)


def _order(curvature: Array, partition: str) -> Array:
    m = len(curvature)
    if partition == "order":
        return np.arange(m)
    falling = np.argsort(-curvature, kind="stable")
    if partition == "sort":
        return falling
    mixed = np.empty(m, np.int64)
    mixed[::2], mixed[1::2] = falling[: (m + 1) // 2], falling[(m + 1) // 2 :][::-1]
    return mixed
