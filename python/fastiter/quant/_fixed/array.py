"""Arrays of fixed-point numbers: integer codes with a format, and HLS's rules for the result of each operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import refuse_mask, type_name
from .._check import FormatLike, check_floats, check_format
from .._formats.fixed import Fixed
from .._quantize import encode
from . import growth
from .comparison import Comparable
from .growth import Grown, Shape, code_dtype, convert, grown, magnitude, places_of, shifted, wrapped
from .kernels import as_matrices, assigned_fraction, matmul_codes, product_shape

Array = npt.NDArray[Any]
_Growth = Callable[[Shape, Shape], Grown]


class FixedArray(Comparable):
    """value = code 2^-(width - integer): an array of fixed-point numbers with the arithmetic of ``ap_fixed``.

    The operators + - * / & | ^ and unary - return the format that HLS gives their result, which holds it exactly,
    except that a quotient is truncated toward zero. Only an assignment rounds, then handles overflow, by the modes of
    the destination's format. Shifts keep the format. ``a[i] = x``, ``a += b`` and :meth:`astype` are assignments. A
    Python int takes the narrowest format that holds it; a float has no such format and must be assigned to one first.
    Comparisons are exact, by value, with any real numbers: other FixedArrays, ints, floats, Fractions, and arrays of
    them.

    Parameters
    ----------
    x : FixedArray, ndarray or number
        Numbers to assign to the format.
    fmt : Fixed or str
        Any fixed-point format without stochastic rounding, including HLS's spellings such as ``"ap_fixed<16,6>"``.

    Raises
    ------
    TypeError, ValueError
        For a wrong type; for a wrong value, such as a result of more than 64 bits, which no code has.
    ZeroDivisionError
        For division by zero.

    See Also
    --------
    fixed_matmul, fixed_conv2d : Products with a chosen accumulator.

    Examples
    --------
    >>> from fastiter.quant import Fixed, FixedArray
    >>> a = FixedArray([1.25, -3.5], Fixed(8, 4))
    >>> b = FixedArray([0.75, 0.5], Fixed(6, 2))
    >>> print((a * b).fmt, (a * b).to_float())
    fixed<14,6> [ 0.9375 -1.75  ]
    >>> (a * b + a).astype("fixed<6,4,RND,SAT>").to_float()
    array([ 2.25, -5.25])
    >>> a > 0.5, -3.5 in a
    (array([ True, False]), True)
    """

    __slots__ = ("codes", "fmt")
    __array_ufunc__ = None  # NumPy arrays defer mixed operators to this class, which refuses them

    codes: Array
    fmt: Fixed

    def __init__(self, x: Any, fmt: FormatLike) -> None:
        self.fmt = check_fixed("FixedArray", "fmt", fmt)
        self.codes = _assigned("FixedArray", x, self.fmt)

    @classmethod
    def from_codes(cls, codes: npt.ArrayLike, fmt: FormatLike) -> FixedArray:
        """Return the array with these codes, which must be valid in the format.

        Parameters
        ----------
        codes : array_like of integers
            Any shape.
        fmt : Fixed or str
            The format.

        Returns
        -------
        FixedArray

        Raises
        ------
        TypeError, ValueError
            If codes are no integers, or out of the range of fmt; if fmt is no Fixed.

        Examples
        --------
        >>> from fastiter.quant import FixedArray
        >>> FixedArray.from_codes([3, -4], "fixed<4,2>").to_float()
        array([ 0.75, -1.  ])
        """
        checked = check_fixed("from_codes", "fmt", fmt)
        refuse_mask("from_codes", "codes", codes)
        array = np.asarray(codes)
        if array.dtype.kind not in "iu":
            raise TypeError(f"from_codes: codes must be integers, got dtype {array.dtype}")
        if array.size:
            lowest, highest = int(array.min()), int(array.max())
            if lowest < checked.min_code or highest > checked.max_code:
                worst = lowest if lowest < checked.min_code else highest
                limits = f"from {checked.min_code} to {checked.max_code}"
                raise ValueError(f"from_codes: codes must be {limits} for {checked}, got {worst}")
        return from_valid_codes(array.astype(code_dtype(checked.width, checked.signed), copy=False), checked)

    # ---- conversion -------------------------------------------------------------------------------------------------

    def astype(self, fmt: FormatLike) -> FixedArray:
        """Return the numbers assigned to another format: rounded, then passed through its overflow mode.

        Parameters
        ----------
        fmt : Fixed or str
            The format of the result.

        Returns
        -------
        FixedArray
            The numbers in the new format.

        Raises
        ------
        TypeError, ValueError
            If fmt is no Fixed.
        """
        checked = check_fixed("astype", "fmt", fmt)
        return from_valid_codes(_assigned("astype", self, checked), checked)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("FixedArray: copy must be None or True, as codes are no floats, got False")
        return self.to_float() if dtype is None else self.to_float().astype(dtype)

    def __float__(self) -> float:
        return float(self.to_float())

    def __repr__(self) -> str:
        values = np.array2string(self.to_float(), prefix="FixedArray(", separator=", ")
        return f"FixedArray({values}, {str(self.fmt)!r})"

    # ---- shape and parts --------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return self.codes.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.codes.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.codes.size

    @property
    def T(self) -> FixedArray:
        """The array with its axes in reverse, a view."""
        return from_valid_codes(self.codes.T, self.fmt)

    def reshape(self, *shape: Any) -> FixedArray:
        """Return the same numbers in another shape.

        Parameters
        ----------
        *shape : int or tuple of int
            As for ndarray.reshape.

        Returns
        -------
        FixedArray
            A view if NumPy makes one.
        """
        return from_valid_codes(self.codes.reshape(*shape), self.fmt)

    def transpose(self, *axes: Any) -> FixedArray:
        """Return a view with its axes in another order.

        Parameters
        ----------
        *axes : int or tuple of int
            As for ndarray.transpose.

        Returns
        -------
        FixedArray
            The view.
        """
        return from_valid_codes(self.codes.transpose(*axes), self.fmt)

    def copy(self) -> FixedArray:
        """Return a copy.

        Returns
        -------
        FixedArray
            The same numbers in new memory.
        """
        return from_valid_codes(self.codes.copy(), self.fmt)

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[FixedArray]:
        if not self.ndim:
            raise TypeError("FixedArray: an array must have an axis to be iterated over, got a single number")
        return (self[i] for i in range(len(self)))

    def __contains__(self, x: object) -> bool:
        return bool(np.any(self == x))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"FixedArray: an array must have one element to be true or false (use any or all of a comparison), "
                f"got {self.size}"
            )
        return bool(self.codes.item())

    def __getitem__(self, index: Any) -> FixedArray:
        return from_valid_codes(np.asarray(self.codes[index]), self.fmt)

    def __setitem__(self, index: Any, x: Any) -> None:
        if not self.codes.flags.writeable:
            raise ValueError("FixedArray: the codes must be writable to assign to them, got a read-only array")
        self.codes[index] = _assigned("FixedArray", x, self.fmt)

    # ---- operators --------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> FixedArray:
        return _aligned(self, other, "a + b", growth.sum_format, np.add)

    def __radd__(self, other: Any) -> FixedArray:
        return _aligned(other, self, "a + b", growth.sum_format, np.add)

    def __sub__(self, other: Any) -> FixedArray:
        return _aligned(self, other, "a - b", growth.difference_format, np.subtract)

    def __rsub__(self, other: Any) -> FixedArray:
        return _aligned(other, self, "a - b", growth.difference_format, np.subtract)

    def __and__(self, other: Any) -> FixedArray:
        return _aligned(self, other, "a & b", growth.bits_format, np.bitwise_and)

    def __rand__(self, other: Any) -> FixedArray:
        return _aligned(other, self, "a & b", growth.bits_format, np.bitwise_and)

    def __or__(self, other: Any) -> FixedArray:
        return _aligned(self, other, "a | b", growth.bits_format, np.bitwise_or)

    def __ror__(self, other: Any) -> FixedArray:
        return _aligned(other, self, "a | b", growth.bits_format, np.bitwise_or)

    def __xor__(self, other: Any) -> FixedArray:
        return _aligned(self, other, "a ^ b", growth.bits_format, np.bitwise_xor)

    def __rxor__(self, other: Any) -> FixedArray:
        return _aligned(other, self, "a ^ b", growth.bits_format, np.bitwise_xor)

    def __mul__(self, other: Any) -> FixedArray:
        return _product(self, other)

    def __rmul__(self, other: Any) -> FixedArray:
        return _product(other, self)

    def __truediv__(self, other: Any) -> FixedArray:
        return _quotient(self, other)

    def __rtruediv__(self, other: Any) -> FixedArray:
        return _quotient(other, self)

    def __neg__(self) -> FixedArray:
        fmt = grown("FixedArray", "-a", growth.negative_format(self.fmt))
        return _result(np.negative, (self.codes,), (0,), fmt)

    def __pos__(self) -> FixedArray:
        return self.copy()

    def __lshift__(self, places: int) -> FixedArray:
        return from_valid_codes(shifted(self.codes, self.fmt, places_of("a << n", places)), self.fmt)

    def __rshift__(self, places: int) -> FixedArray:
        return from_valid_codes(shifted(self.codes, self.fmt, -places_of("a >> n", places)), self.fmt)

    def __matmul__(self, other: Any) -> FixedArray:
        if not isinstance(other, FixedArray):
            return NotImplemented
        shape = product_shape("FixedArray", self.shape, other.shape)
        fmt = grown("FixedArray", "a @ b", growth.dot_format(self.fmt, other.fmt, self.shape[-1]))
        x, y = as_matrices(self.codes, other.codes)
        codes, _ = matmul_codes(x, self.fmt, y, other.fmt, (fmt, None), None)
        return from_valid_codes(codes.reshape(shape), fmt)

    def _assign(self, result: Any) -> FixedArray:
        if result is NotImplemented:
            return result  # type: ignore[no-any-return]
        self[...] = result
        return self

    def __iadd__(self, other: Any) -> FixedArray:
        return self._assign(self.__add__(other))

    def __isub__(self, other: Any) -> FixedArray:
        return self._assign(self.__sub__(other))

    def __imul__(self, other: Any) -> FixedArray:
        return self._assign(self.__mul__(other))

    def __itruediv__(self, other: Any) -> FixedArray:
        return self._assign(self.__truediv__(other))


# ---- implementation of the operators --------------------------------------------------------------------------------


def check_fixed(function: str, name: str, fmt: FormatLike) -> Fixed:
    """Check that ``fmt`` is fixed point, or the text of such a format, without stochastic rounding."""
    checked = check_format(function, fmt, name)
    if not isinstance(checked, Fixed):
        raise TypeError(f"{function}: {name} must be a Fixed or its text, got {type_name(checked)}")
    if checked.stochastic:
        raise ValueError(f"{function}: {name} must round without random numbers, got {checked}")
    return checked


def from_valid_codes(codes: Array, fmt: Fixed) -> FixedArray:
    """Return an array that holds these codes."""
    from_valid_codes = FixedArray.__new__(FixedArray)
    from_valid_codes.codes, from_valid_codes.fmt = codes, fmt
    return from_valid_codes


def _of_int(x: int) -> FixedArray:
    """Return an integer in the narrowest format that holds it."""
    signed = x < 0
    width = max(1, (~x if signed else x).bit_length() + signed)
    if width > 64:
        raise ValueError(f"FixedArray: an int must have at most 64 bits, got {x}")
    return from_valid_codes(np.array(x, code_dtype(width, signed)), Fixed(width, width, signed))


def _operand(x: object) -> FixedArray | None:
    if isinstance(x, FixedArray):
        return x
    if isinstance(x, (int, np.integer)) and not isinstance(x, bool):
        return _of_int(int(x))
    return None


def _assigned(function: str, x: Any, fmt: Fixed) -> Array:
    """Return the codes of ``x`` assigned to ``fmt``, in new memory."""
    operand = _operand(x)
    if operand is not None:
        return convert(operand.codes, operand.fmt, fmt)
    if isinstance(x, Fraction):
        return assigned_fraction(x, fmt)
    refuse_mask(function, "x", x)
    array = np.asarray(x)
    if array.dtype.kind in "iu":
        width = 8 * array.dtype.itemsize
        return convert(array, Fixed(width, width, array.dtype.kind == "i"), fmt)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise TypeError(f"{function}: x must be a FixedArray or real numbers, got dtype {array.dtype}")
    check_floats(function, "x", array)
    if np.isnan(array).any():
        raise ValueError(f"{function}: x must have no NaN, which {fmt} cannot represent, got one")
    codes = encode(array, fmt)
    assert isinstance(codes, np.ndarray)  # for the type checker: only formats with blocks return more
    return codes


def _result(op: Callable[..., Array], codes: tuple[Array, ...], left: tuple[int, ...], fmt: Fixed) -> FixedArray:
    """Return op(codes << left), computed modulo 2^bits of the result's type, which holds the exact result."""
    dtype = code_dtype(fmt.width, fmt.signed)
    with np.errstate(over="ignore"):  # NumPy warns where a single number wraps
        moved = [c.astype(dtype) << dtype.type(n) if n else c.astype(dtype) for c, n in zip(codes, left, strict=True)]
        return from_valid_codes(wrapped(np.asarray(op(*moved)), fmt), fmt)


def _aligned(x: object, y: object, what: str, grow: _Growth, op: Callable[..., Array]) -> FixedArray:
    a, b = _operand(x), _operand(y)
    if a is None or b is None:
        return NotImplemented  # type: ignore[no-any-return]
    fmt = grown("FixedArray", what, grow(a.fmt, b.fmt))
    fraction = max(a.fmt.fraction, b.fmt.fraction)
    return _result(op, (a.codes, b.codes), (fraction - a.fmt.fraction, fraction - b.fmt.fraction), fmt)


def _product(x: object, y: object) -> FixedArray:
    a, b = _operand(x), _operand(y)
    if a is None or b is None:
        return NotImplemented  # type: ignore[no-any-return]
    return _result(
        np.multiply, (a.codes, b.codes), (0, 0), grown("FixedArray", "a * b", growth.product_format(a.fmt, b.fmt))
    )


def _quotient(x: object, y: object) -> FixedArray:
    a, b = _operand(x), _operand(y)
    if a is None or b is None:
        return NotImplemented  # type: ignore[no-any-return]
    fmt = grown("FixedArray", "a / b", growth.quotient_format(a.fmt, b.fmt))
    if not np.all(b.codes):
        raise ZeroDivisionError("FixedArray: b in a / b must be other than zero, got 0")
    with np.errstate(over="ignore"):
        whole = (magnitude(a.codes) << np.uint64(max(b.fmt.fraction, 0))) // magnitude(b.codes)
        signed = np.asarray(np.where((a.codes < 0) != (b.codes < 0), -whole, whole))
    return from_valid_codes(signed.astype(code_dtype(fmt.width, fmt.signed)), fmt)
