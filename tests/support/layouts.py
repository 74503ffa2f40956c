"""Arrays with equal values in different memory layouts, and outputs that are views of NaN-filled memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.cases import Array, nans


def unaligned(x: Array) -> Array:
    y = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y


def _field(x: Array) -> Array:
    """Return the elements with a stride of five or nine bytes."""
    y = np.empty(x.shape, np.dtype([("byte", "u1"), ("x", x.dtype)]))
    y["x"] = x
    return y["x"]


def swapped(x: Array, i: int, j: int) -> Array:
    return np.ascontiguousarray(x.swapaxes(i, j)).swapaxes(i, j)


def _read_only(x: Array) -> Array:
    y = x.copy()
    y.setflags(write=False)
    return y


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "first two axes swapped in memory": lambda x: swapped(x, 0, 1),
    "last two axes swapped in memory": lambda x: swapped(x, -1, -2),
    "first and last swapped in memory": lambda x: swapped(x, 0, -1),
    "first axis expanded": lambda x: np.broadcast_to(x[:1], x.shape),
    "second axis expanded": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "last axis expanded": lambda x: np.broadcast_to(x[..., :1], x.shape),
    "all backwards": lambda x: x[(slice(None, None, -1),) * x.ndim],
    "first two backwards": lambda x: x[::-1, ::-1],
    "last backwards": lambda x: x[..., ::-1],
    "every second unit": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "every second of the second axis": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "every third row backwards": lambda x: np.repeat(x, 3, 0)[::-3],
    "inside of a larger array": lambda x: np.pad(x, 1)[(slice(1, -1),) * x.ndim],
    "read-only": _read_only,
    "Fortran order": np.asfortranarray,
    "unaligned": unaligned,
    "field of a structure": _field,
}


def _same(y: Array) -> tuple[Array, Array]:
    return y, y


def _part(y: Array, *index: Any) -> tuple[Array, Array]:
    return y[index], y


# out= as a view, and the NaN-filled memory behind it
OUTS: dict[str, Callable[[tuple[int, ...], Any], tuple[Array, Array]]] = {
    "C order": lambda s, t: _same(nans(s, t)),
    "time-major": lambda s, t: (lambda y: (y.swapaxes(0, 1), y))(nans((s[1], s[0], *s[2:]), t)),
    "Fortran order": lambda s, t: (lambda y: (y.T, y))(nans(s[::-1], t)),
    "every second unit": lambda s, t: _part(nans((*s[:-1], 2 * s[-1]), t), ..., slice(None, None, 2)),
    "every second step": lambda s, t: _part(nans((s[0], 2 * s[1], *s[2:]), t), slice(None), slice(1, None, 2)),
    "backwards": lambda s, t: _part(nans(s, t), *(slice(None, None, -1),) * len(s)),
    "rows backwards": lambda s, t: _part(nans(s, t), slice(None, None, -1)),
    "inside": lambda s, t: _part(nans(tuple(n + 2 for n in s), t), *(slice(1, -1),) * len(s)),
    "unaligned": lambda s, t: _same(unaligned(nans(s, t))),
}
