"""The cache of fastiter.relax.compat between calls, and its handling of x and b."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._check import check_array, refuse_mask, type_name
from .._sweeps import vectors
from .._sweeps.matrix import VECTORS, Batch, Csr, check_pattern, read_csr, refuse, square

Array = npt.NDArray[Any]
T = TypeVar("T")

#: The most recent matrices: A itself, the fingerprint of its values, and the objects computed from them
SAVED: list[tuple[Any, Any, dict[Any, Any]]] = []
_MAX_SAVED = 16
#: Threads may share a matrix, so one thread at a time looks up and fills the cache.
_LOCK = threading.RLock()


class CachedMatrix:
    """A matrix in one call, with the objects computed from it in this and earlier calls with the same values."""

    def __init__(self, function: str, A: Any) -> None:
        if isinstance(A, Batch):
            raise TypeError(f"{function}: A must be a sparse matrix or a NumPy array, got {type_name(A)}")
        if isinstance(A, (list, tuple)):
            refuse(function, A)
        square(function, A)
        self.function, self.A, self._cache = function, A, _cache_of(A)

    def get(self, key: Any, make: Callable[[], T]) -> T:
        """Return the object cached under this key, computing it if it is missing."""
        with _LOCK:
            if key not in self._cache:
                self._cache[key] = make()
            result: T = self._cache[key]
            if len(self._cache) > _MAX_SAVED:
                del self._cache[next(iter(self._cache))]
            return result

    def csr(self) -> Csr:
        """Return A in compressed rows."""
        return self.get("csr", lambda: read_csr(self.function, self.wide()))

    def wide(self) -> Any:
        """Return A in a dtype of the kernels: for BSR, tobsr() leaves the blocks of a row in any order."""
        if not isinstance(self.A, np.ndarray):
            check_pattern(self.function, "A", self.A)
        return wide(self.A.sorted_indices() if getattr(self.A, "format", "") == "bsr" else self.A)


def _cache_of(A: Any) -> dict[Any, Any]:
    values = fingerprint(A)
    with _LOCK:
        for k, (of, had, built) in enumerate(SAVED):
            if of() is A:
                del SAVED[k]
                if had == values:
                    SAVED.append((of, had, built))
                    return built
                break
        SAVED.append((weakref.ref(A, _forget), values, {}))
        del SAVED[:-_MAX_SAVED]
        return SAVED[-1][2]


def _forget(dead: Any, lock: Any = _LOCK, saved: Any = SAVED) -> None:
    """Forget a matrix; the defaults outlive the module's globals, because matrices may do so when Python exits."""
    with lock:
        saved[:] = [entry for entry in saved if entry[0] is not dead]


def fingerprint(A: Any) -> tuple[Any, ...]:
    """Return a key that changes with any entry of A."""
    result: list[Any] = []
    for name in ("data",) if isinstance(A, np.ndarray) else ("data", "indices", "indptr"):
        x = A if isinstance(A, np.ndarray) else getattr(A, name, None)
        if not isinstance(x, np.ndarray) or x.dtype == object:
            return (object(),)  # an unknown format: never equal
        memory = np.ascontiguousarray(x)
        result += [x.shape, x.dtype, _core.relax.fingerprint(memory, memory.nbytes)]
    return tuple(result)


def wide(A: Any) -> Any:
    """Return ``A``, converted to complex128 if it is complex64, for which there are no kernels."""
    return A.astype(np.complex128) if getattr(A, "dtype", None) == np.complex64 else A


def in_place(function: str, x: Array, b: Array, relax: Callable[[Array, Array], None]) -> None:
    """Check that x can be updated from b, and call ``relax`` on contiguous arrays."""
    if not isinstance(x, np.ndarray) or not isinstance(b, np.ndarray):
        raise TypeError(f"{function}: x and b must be NumPy arrays, got {type_name(x)} and {type_name(b)}")
    if type(x) is not np.ndarray or type(b) is not np.ndarray:
        refuse_mask(function, "x", x)
        refuse_mask(function, "b", b)
    if x.dtype.kind not in "fc":
        raise TypeError(
            f"{function}: x must have dtype float32, float64, complex64 or complex128 (x.astype(float) does), as it is "
            f"updated in place, got {x.dtype}"
        )
    if x.dtype != b.dtype:
        raise TypeError(f"{function}: b must have dtype {x.dtype} like x, got {b.dtype}")
    if x.ndim and b.ndim and b.size == len(b) and x.size == len(x):
        b = b.reshape(b.shape[0], *x.shape[1:])
    own = np.require(wide(x), requirements=("C", "A"))  # contiguous and aligned
    own_b = np.require(wide(b), requirements=("C", "A"))
    vectors.check_writable(function, x, b)
    relax(own, own_b)
    if own is not x:
        x[...] = own


def check_dtype(function: str, x: Array, dtype: np.dtype[Any]) -> None:
    """Refuse an x and b that sweeps over an A of this dtype do not take."""
    if x.dtype.name not in VECTORS[dtype.name]:
        check_array(function, "b", x, VECTORS[dtype.name])


def check_shapes(function: str, n: int, x: Array, b: Array) -> None:
    """Refuse an x or b whose shape does not match an A of n rows, or each other."""
    if x.ndim not in (1, 2) or x.shape[0] != n or b.shape != x.shape:
        expected = f"shape ({n},) or ({n}, k) to go with A"
        raise ValueError(f"{function}: x and b must have {expected}, got {x.shape} and {b.shape}")


def check_sweep(function: str, sweep: str) -> list[bool]:
    """Return whether each half of a sweep goes backward."""
    halves = {"forward": [False], "backward": [True], "symmetric": [False, True]}
    if not isinstance(sweep, str):
        raise TypeError(f"{function}: sweep must be a str, got {type_name(sweep)}")
    if sweep not in halves:
        raise ValueError(f"{function}: sweep must be 'forward', 'backward' or 'symmetric', got {sweep!r}")
    return halves[sweep]


def whole_numbers(function: str, name: str, x: object, end: int) -> Array:
    """Return ``x`` as integers (m,) from 0 to ``end`` - 1."""
    try:
        result = np.asarray(x)
    except ValueError:
        raise TypeError(f"{function}: {name} must be a list of ints, got a ragged sequence") from None
    if result.ndim != 1 or (result.dtype.kind not in "iu" and result.size):
        raise TypeError(f"{function}: {name} must be a list of ints, got {_described(x, result)}")
    if result.size and not (result.min() >= 0 and result.max() < end):
        raise ValueError(f"{function}: {name} must be from 0 to {end - 1}, got {result.min()} to {result.max()}")
    return np.ascontiguousarray(result, np.int64)


def _described(x: object, result: Array) -> str:
    return f"{type_name(x)} of dtype {result.dtype} and shape {result.shape}"
