"""Array operations for the methods, so that the same code runs on NumPy arrays and on tensors."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .._check import check_array, empty, type_name

DTYPES = ("float32", "float64", "complex64", "complex128")
#: The norms of the kernel, by its numbers
NORMS = ("l2", "inf", "rms", "span")

#: The dtypes with their names, the dtypes of their real parts, and the spacing of those
_KINDS = {np.dtype(name): (name, real := np.empty(0, name).real.dtype, float(np.finfo(real).eps)) for name in DTYPES}

Rows = npt.NDArray[np.intp]
Numbers = npt.NDArray[np.float64]


class Space(Protocol):
    """Arrays of one dtype on one device. Buffers are real, contiguous and (rows, n); rows are NumPy integer arrays."""

    #: 32 or 64 if the compiled kernels support the buffers, otherwise 0
    bits: int
    #: The relative spacing of floating-point numbers
    eps: float
    #: Whether compiled code can call f
    has_loop: bool
    #: The name of its arrays in messages
    noun: str
    dtype_name: str

    def check_leaf(self, function: str, name: str, x: Any) -> None:
        """Check that ``x`` is an array of this space's library; the first array sets dtype and device."""

    def protected(self, x: Any) -> Any:
        """Return a buffer as passed to the user's function: read-only, if the library supports that."""

    def version(self, x: Any) -> int:
        """Return a number that changes when a buffer is modified in place, if the library has such a number."""

    def is_like_first(self, x: Any) -> bool:
        """Return whether ``x`` is an array, or a number of its library, with the dtype and device of the first."""

    def describe(self, x: Any) -> str:
        """Return type, dtype and device for messages."""

    def buffer(self, x: Any) -> Any:
        """Return numbers (rows, n) as a buffer: complex numbers become pairs."""

    def unbuffered(self, x: Any) -> Any:
        """Return a buffer of pairs as complex numbers, the inverse of :meth:`buffer`."""

    def copy(self, x: Any) -> Any:
        """Return a copy of a buffer, or of a NumPy array."""

    def empty(self, *shape: int) -> Any: ...
    def zeros(self, *shape: int) -> Any: ...
    def join(self, parts: list[Any]) -> Any:
        """Return buffers side by side."""

    def normal(self, n: int) -> Any:
        """Return n numbers ~ N(0, 1), the same in each call."""

    def take(self, x: Any, rows: Rows) -> Any:
        """Return a copy of some rows."""

    def put(self, x: Any, rows: Rows, values: Any) -> None: ...
    def dot(self, a: Any, b: Any) -> Any:
        """Return the inner products of rows, (rows, 1)."""

    def column(self, numbers: Numbers) -> Any:
        """Return a NumPy array as a column (rows, 1)."""

    def host(self, x: Any) -> Numbers:
        """Return an array as a NumPy array of float64."""

    #: Returns a NumPy array as an array of this library on the CPU.
    numbers: Any
    #: numpy.where or torch.where
    where: Any

    def norms(self, x: Any, f: Any, norm: str) -> tuple[Numbers, Numbers]:
        """Return norms of f - x and of f, one for each row."""


class NumPySpace:
    """Arrays of NumPy."""

    noun = "a NumPy array"
    has_loop = True
    numbers: Any = staticmethod(np.asarray)
    where: Any = staticmethod(np.where)
    dtype: Any = None
    bits, eps, dtype_name = 0, 0.0, ""

    def check_leaf(self, function: str, name: str, x: Any) -> None:
        if type(x) is not np.ndarray or x.dtype not in _KINDS:
            check_array(function, name, x, DTYPES)
        if self.dtype is None:
            self.dtype = x.dtype
            self.dtype_name, self.real, self.eps = _KINDS[x.dtype]
            self.bits = 8 * self.real.itemsize

    def protected(self, x: Any) -> Any:
        view = x.view()
        view.flags.writeable = False
        return view

    def version(self, x: Any) -> int:
        return 0  # a write to a read-only array has raised an error

    def is_like_first(self, x: Any) -> bool:
        return isinstance(x, (np.ndarray, np.generic)) and (x.dtype is self.dtype or x.dtype == self.dtype)

    def describe(self, x: Any) -> str:
        return f"{x.dtype}" if isinstance(x, (np.ndarray, np.generic)) else type_name(x)

    def buffer(self, x: Any) -> Any:
        x = x if x.flags.c_contiguous and x.flags.aligned else np.ascontiguousarray(x)
        return x if self.dtype.kind == "f" else x.view(self.real)

    def unbuffered(self, x: Any) -> Any:
        return x.view(self.dtype)

    def copy(self, x: Any) -> Any:
        return np.array(x, order="C")

    def normal(self, n: int) -> Any:
        return np.random.default_rng(0).standard_normal(n).astype(self.real)

    def empty(self, *shape: int) -> Any:
        return empty(shape, self.real)

    def zeros(self, *shape: int) -> Any:
        return np.zeros(shape, self.real)

    def join(self, parts: list[Any]) -> Any:
        return np.concatenate(parts, axis=1)

    def take(self, x: Any, rows: Rows) -> Any:
        if type(x) is np.ndarray and x.flags.c_contiguous:
            return x.take(rows, axis=0)  # several times faster than x[rows] for short rows
        return x[rows]

    def put(self, x: Any, rows: Rows, values: Any) -> None:
        x[rows] = values

    def dot(self, a: Any, b: Any) -> Any:
        return np.einsum("ij,ij->i", a, b)[:, None]

    def column(self, numbers: Numbers) -> Any:
        return numbers.astype(self.real)[:, None]

    def host(self, x: Any) -> Numbers:
        return np.asarray(x, np.float64)

    def norms(self, x: Any, f: Any, norm: str) -> tuple[Numbers, Numbers]:
        def of(r: Any) -> Numbers:
            wide = r.astype(np.float64)
            if norm == "span":
                return np.asarray(np.ptp(wide, axis=1)) if r.shape[1] else np.zeros(len(r))
            if norm == "inf":
                return np.asarray(np.abs(wide).max(axis=1, initial=0))
            root = np.sqrt(np.square(wide).sum(axis=1))
            return np.asarray(root / max(r.shape[1], 1) ** 0.5 if norm == "rms" else root)

        return of(f - x), of(f)
