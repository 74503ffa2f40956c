"""The functions of the family example on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import Backends, choose
from .._check import check_arrays, empty

Array = npt.NDArray[Any]


def softsign(x: Array, *, backend: str | None = None) -> Array:
    """y = x / (1 + |x|), elementwise.

    Parameters
    ----------
    x : ndarray of float32 or float64
    backend : {"cpu", "reference"}, optional
        The implementation; by default "cpu".

    Returns
    -------
    ndarray
        Of the shape and dtype of x.

    Raises
    ------
    TypeError
        If x is no array of these dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.example import softsign
    >>> softsign(np.array([-1.0, 0.0, 3.0]))
    array([-0.5 ,  0.  ,  0.75])
    """
    run = choose("softsign", _BACKENDS, backend)
    check_arrays("softsign", ("x",), (x,))
    return run(x)


def _cpu(x: Array) -> Array:
    y = empty(x.shape, x.dtype)
    _core.example.softsign(np.ascontiguousarray(x), y, x.size)
    return y


def _reference(x: Array) -> Array:
    from . import reference

    return reference.softsign(x)


_BACKENDS: Backends[Array] = {"cpu": _cpu, "reference": _reference}
