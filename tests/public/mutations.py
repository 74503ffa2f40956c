"""Arguments in other memory layouts, and arguments that are wrong or unusual."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.sparse as sp

from fastiter.quant import FixedArray
from tests.public.pick import Pick
from tests.support.cases import Array
from tests.support.layouts import LAYOUTS


def _backwards(x: Array) -> Array:
    every = (slice(None, None, -1),) * x.ndim
    return np.array(x[every], order="C")[every]


#: Layouts with the same values, for arrays of any number of axes, and of at least two
ONE_AXIS = (_backwards, *(LAYOUTS[name] for name in ("read-only", "unaligned", "every second unit")))
SAME = ("first two axes swapped in memory", "last two axes swapped in memory", "first and last swapped in memory")
TWO_AXES = (*ONE_AXIS, *(LAYOUTS[name] for name in (*SAME, "Fortran order", "inside of a larger array")))
#: Layouts in which elements share memory, so that values change
EXPANDED = tuple(LAYOUTS[f"{which} axis expanded"] for which in ("first", "second", "last"))
#: Arguments that determine the amount of work: a large number is valid, but takes long
AMOUNTS = {"iterations", "f_iterations", "c_iterations", "max_steps", "sweeps", "n", "state_len"}
AMOUNTS |= {"S", "A", "b", "capacity", "m", "horizon", "N", "max_iter"}


# ---- Layouts --------------------------------------------------------------------------------------------------------


def laid_out(pick: Pick, x: Any, is_written: bool = False, may_expand: bool = False) -> Any:
    """Return arrays in some memory layout, also inside tuples; arrays that are written stay writable."""
    if isinstance(x, tuple) and not hasattr(x, "_fields"):
        return tuple(laid_out(pick, part, may_expand=may_expand) for part in x)
    if not isinstance(x, np.ndarray) or x.ndim == 0 or x.size == 0 or x.dtype.kind not in "fciub":
        return x
    known = TWO_AXES if x.ndim > 1 else ONE_AXIS
    if may_expand and x.ndim > 1 and x.dtype.kind in "fc":
        known += EXPANDED
    made = pick.one_of(known)(x)
    return np.array(x) if is_written and not made.flags.writeable else made


def contiguous(x: Any) -> Any:
    """Return copies of all arrays that are contiguous and own their memory."""
    if isinstance(x, np.ndarray):
        return np.array(x, order="C")
    if isinstance(x, (tuple, list)):
        parts = [contiguous(part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return copy.deepcopy(x)


# ---- Wrong values ---------------------------------------------------------------------------------------------------

DTYPES = ("float16", "float32", "float64", "longdouble", "int8", "int64", "uint8", "bool", "complex64", "complex128")
DTYPES += (">f8", ">f4", "object", "U5", "M8[s]")
STRANGE = (None, 3, -1, 0.5, math.nan, True, "abc", b"abc", (), [], {}, list, Ellipsis, np.float64(1), 1j, range(3))


def _cast(pick: Pick, x: Array) -> Any:
    dtype = pick.one_of(DTYPES)
    real = x.real if x.dtype.kind == "c" and not dtype.startswith("complex") else x
    with np.errstate(all="ignore"):
        return real.astype(dtype)


def _one_element(pick: Pick, x: Array) -> Any:
    """Change one element to a number at the edge of the dtype."""
    if not x.size or x.dtype.kind not in "fciu":
        return x
    x = np.array(x)
    edges = (math.nan, math.inf, -math.inf, -0.0, 1e-40, 3e38, -1.0, 2.0)
    if x.dtype.kind in "iu":
        info = np.iinfo(x.dtype)
        edges = tuple(max(info.min, min(info.max, value)) for value in (-1, info.max, info.min, 2**31, 7, 100))
    with np.errstate(all="ignore"):
        x.flat[pick.integer(0, x.size - 1)] = pick.one_of(edges)
    return x


def _longer(pick: Pick, x: Array) -> Any:
    """Change the size of an axis by one, or to 0."""
    if not x.ndim:
        return x[None]
    axis = pick.integer(0, x.ndim - 1)
    size = pick.one_of((0, max(x.shape[axis] - 1, 0), x.shape[axis] + 1))
    return np.resize(x, (*x.shape[:axis], size, *x.shape[axis + 1 :])) if x.size else x[None]


def _axes(pick: Pick, x: Array) -> Any:
    """Add, remove, join or exchange axes."""
    changes: list[Callable[[], Any]] = [lambda: x[None], lambda: x[..., None], lambda: x.reshape(-1), lambda: x.T]
    if x.ndim and x.size:
        changes += [lambda: x[0], lambda: x[..., 0]]
    return pick.one_of(changes)()


def _masked(pick: Pick, x: Array) -> Any:
    return np.ma.masked_array(x, mask=np.zeros(x.shape, bool))


def _as_list(pick: Pick, x: Array) -> Any:
    return x.tolist()


ARRAY_CHANGES = (_cast, _one_element, _one_element, _longer, _longer, _axes, _masked, _as_list)
BIG = (2**31, 2**63 - 1, 2**63, 2**70)


def _integer(pick: Pick, name: str, x: int) -> Any:
    others = (-1, 0, 1, x + 1, 1.0, 1.5, math.nan, True, "1", None, np.int64(x), np.array(x), [x], Fraction(x))
    return pick.one_of((*others, *(() if name in AMOUNTS else BIG)))


def _float(pick: Pick, x: float) -> Any:
    edges = (0.0, -1.0, 2.0, 1e-320, 1e300, math.nan, math.inf, -math.inf, 10**400, "1.0", None, True, 1j)
    return pick.one_of((*edges, Fraction(1, 2), np.float32(x), np.array(x), [x]))


def _text(pick: Pick, x: str) -> Any:
    cut = pick.integer(0, len(x))
    return pick.one_of((x.upper(), x + "x", x[:cut], x[:cut] + "<" + x[cut:], "", x.encode(), 1, None, [x], np.str_(x)))


def _tuple(pick: Pick, name: str, x: Any) -> Any:
    if not x:
        return pick.one_of(STRANGE)
    at = pick.integer(0, len(x) - 1)
    changes = (x[:-1], (*x, x[-1]), list(x), x[at], (*x[:at], changed(pick, name, x[at]), *x[at + 1 :]))
    return pick.one_of(changes)


def _sparse(pick: Pick, A: Any) -> Any:
    """Return a matrix of another shape, dtype or format, or with invalid arrays."""
    kind = pick.one_of(("format", "dtype", "rows", "column", "pointer", "value", "data", "dense"))
    if kind == "format":
        return A.asformat(pick.one_of(("csc", "coo", "bsr", "lil", "dok", "dia")))
    if kind == "dtype":
        real = A.real if A.dtype.kind == "c" else A
        return real.astype(
            pick.one_of(("float32", "float64", "complex64", "complex128", "int64", "bool", "longdouble"))
        )
    if kind == "dense":
        return A.toarray()
    A = sp.csr_array(A, copy=True)
    if kind == "rows":
        return A[: max(A.shape[0] - 1, 1)]
    if kind == "data":
        A.data = A.data[:-1]
    elif kind == "pointer":
        A.indptr[pick.integer(0, len(A.indptr) - 1)] = pick.one_of((-1, 0, 1, 2**31 - 1, len(A.data) + 1))
    elif len(A.data) and kind == "column":
        A.indices[pick.integer(0, len(A.data) - 1)] = pick.one_of((-1, 0, A.shape[1], 2**31 - 1))
    elif len(A.data):
        with np.errstate(all="ignore"):
            A.data[pick.integer(0, len(A.data) - 1)] = pick.one_of((math.nan, math.inf, 0.0, 1e300, 1e-300))
    return A


def changed(pick: Pick, name: str, x: Any) -> Any:
    """Return another value for the argument ``name``, wrong in most cases."""
    if pick.integer(0, 5) == 5:
        return pick.one_of(STRANGE)
    if isinstance(x, np.ndarray):
        return pick.one_of(ARRAY_CHANGES)(pick, x)
    if isinstance(x, FixedArray):
        return pick.one_of((x.to_float(), x.codes, x[None], x.reshape(-1)))
    if sp.issparse(x):
        return _sparse(pick, x)
    if isinstance(x, bool):
        return pick.one_of((not x, 0, 1, None, "yes", np.bool_(x)))
    if isinstance(x, int):
        return _integer(pick, name, x)
    if isinstance(x, float):
        return _float(pick, x)
    if isinstance(x, str):
        return _text(pick, x)
    if isinstance(x, tuple):
        return _tuple(pick, name, x)
    if isinstance(x, list):
        found = _tuple(pick, name, tuple(x))
        return list(found) if isinstance(found, tuple) else found
    return pick.one_of(STRANGE)


def with_one_changed(pick: Pick, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of an argument, and all arguments with this one changed."""
    name = pick.one_of(tuple(arguments))
    return name, {**arguments, name: changed(pick, name, arguments[name])}
