"""The division of the rows of a matrix into parts."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...._backend import BackendError
from ...._check import check_choice, count
from .entries import Entries, check_columns, read_entries

METHODS = ("contiguous", "pymetis")


def partition(A: Any, parts: int, *, method: Literal["contiguous", "pymetis"] = "contiguous") -> Tensor:
    """Return the part that owns each row of A, for :class:`RowMatrix`.

    Parameters
    ----------
    A : (n, n)
        A sparse tensor, its parts ``(crow, col, values)``, or a sparse matrix of SciPy; float32 or float64.
    parts : int
        The number of parts; some are empty if it exceeds n.
    method : {"contiguous", "pymetis"}
        "contiguous": consecutive rows, in parts whose sizes differ by at most one. "pymetis": METIS partitions the
        graph of A + A^T so that the parts have about the same number of rows and few entries link them; it requires the
        package pymetis.

    Returns
    -------
    Tensor (n,)
        The part of each row, int64.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    BackendError
        If pymetis is not installed.

    See Also
    --------
    RowMatrix : Takes it as ``owner``.

    References
    ----------
    Karypis and Kumar, A Fast and High Quality Multilevel Scheme for Partitioning Irregular Graphs, SIAM J. Sci. Comput.
    20, 1998.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.distributed import partition
    >>> partition(torch.eye(5).to_sparse(), 2)
    tensor([0, 0, 0, 1, 1])
    """
    function = "partition"
    entries = read_entries(function, A)
    check_columns(function, entries, entries.rows)
    parts = count(function, "parts", parts, 1)
    check_choice(function, "method", method, METHODS)
    if method == "contiguous":
        return torch.from_numpy(np.repeat(np.arange(parts), np.diff(even(entries.rows, parts))))
    if importlib.util.find_spec("pymetis") is None:
        remedy = "pip install fastiter-kernels[metis]"
        raise BackendError(f"{function}: method 'pymetis' needs the package pymetis, which is not installed ({remedy})")
    return _by_metis(entries, parts)


def even(n: int, parts: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the offsets (parts + 1,) of parts of consecutive rows; the first parts may have one more row."""
    return np.minimum(np.arange(parts + 1) * (n // parts) + np.minimum(np.arange(parts + 1), n % parts), n)


def _by_metis(A: Entries, parts: int) -> Tensor:
    pymetis = importlib.import_module("pymetis")
    n = A.rows
    row = np.repeat(np.arange(n), np.diff(A.start))
    links = row != A.column
    ends = np.concatenate([row[links] * n + A.column[links], A.column[links] * n + row[links]])
    row, column = np.divmod(np.unique(ends), max(n, 1))
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row, minlength=n))])
    if parts == 1 or n == 0:  # METIS supports neither
        return torch.zeros(n, dtype=torch.int64)
    _, owner = pymetis.part_graph(parts, xadj=start.tolist(), adjncy=column.tolist())
    return torch.tensor(owner, dtype=torch.int64)
