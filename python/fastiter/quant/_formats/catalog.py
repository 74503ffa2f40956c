"""The list of all number formats."""

from __future__ import annotations

from typing import NamedTuple

from .base import Format
from .block_float import BlockFloat
from .fixed import Fixed
from .floating import Float
from .integer import Int
from .logarithmic import Logarithmic
from .mx import MX
from .nvfp4 import NVFP4
from .posit import Posit
from .power_of_two import PowerOfTwo
from .sum_of_powers import SumOfPowers
from .table import Table
from .text import ROWS, Row, aliases_of, read

#: All kinds of formats, in the order of the table
KINDS: tuple[type[Format], ...] = (
    *(Fixed, Float, MX, BlockFloat, NVFP4, Posit, Table, PowerOfTwo, SumOfPowers, Logarithmic, Int),
)


class FormatRow(NamedTuple):
    """One number format.

    Attributes
    ----------
    name : str
        The text that :func:`parse` reads; with brackets, a parametrised kind of format, whose fields must be given.
    bits : int, float or None
        The bits that a number takes: those of its code and its share of the scale of a block; None for a kind.
    largest, smallest : float or None
        The largest number, and the smallest positive one; None for a kind.
    notes : str
        Peculiarities and aliases.
    example : Format
        The format, or an example of the kind.

    See Also
    --------
    formats : The function that returns all of them.

    Examples
    --------
    >>> from fastiter.quant import formats
    >>> row = next(row for row in formats() if row.name == "e4m3fn")
    >>> row.bits, row.largest, row.smallest
    (8, 448.0, 0.001953125)
    """

    name: str
    bits: float | None
    largest: float | None
    smallest: float | None
    notes: str
    example: Format


class FormatTable(tuple[FormatRow, ...]):
    """The rows of :func:`formats`; ``repr`` and ``print`` show a table.

    Parameters
    ----------
    iterable : iterable of FormatRow
        The rows.

    See Also
    --------
    formats : The function that returns it.

    Examples
    --------
    >>> from fastiter.quant import FormatTable, formats
    >>> FormatTable(row for row in formats() if row.name.startswith("fp"))
    name  bits  largest       smallest      notes
    fp64  64    1.79769e+308  4.94066e-324  also double, float64
    fp32  32    3.40282e+38   1.4013e-45    also single, float32
    fp16  16    65504         5.96046e-08   also half, float16
    """

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the table, one line for each format."""
        lines = [("name", "bits", "largest", "smallest", "notes"), *map(_cells, self)]
        widths = [max(len(line[k]) for line in lines) for k in range(4)]
        padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=False)] + [line[4]] for line in lines)
        return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _cells(row: FormatRow) -> tuple[str, ...]:
    numbers = ("" if x is None else format(x, ".6g") for x in row[1:4])
    return (row.name, *numbers, row.notes)


def formats() -> FormatTable:
    """List all number formats: those with a name, then the kinds whose fields must be given.

    Returns
    -------
    FormatTable
        A tuple of :class:`~fastiter.quant.FormatRow` (name, bits, largest, smallest, notes, example), which prints as a
        table. The largest and the smallest number of a block format are taken over all scales; those of integers have
        scale 1.

    See Also
    --------
    fastiter.quant.parse : Reads a format from text.
    range_of : The range of any format.

    Examples
    --------
    >>> from fastiter.quant import formats
    >>> rows = {row.name: row for row in formats()}
    >>> rows["e4m3fn"].largest, rows["e4m3"].largest
    (448.0, 240.0)
    >>> rows["e4m3fn"].notes
    "OCP's E4M3: no infinity, saturates; also fp8, fp8_e4m3, fp8_e4m3fn, float8_e4m3fn"
    """
    rows = [row for kind in KINDS for row in ROWS.get(kind, ())]
    named = (_named(row) for row in rows if row.name == row.text)
    kinds = (FormatRow(row.name, None, None, None, row.notes, read(row.text)) for row in rows if row.name != row.text)
    return FormatTable((*named, *kinds))


def _named(row: Row) -> FormatRow:
    fmt: Format = read(row.name)
    others = sorted(aliases_of(row.name), key=len)
    also = f"also {', '.join(others)}" if others else ""
    _, highest, smallest = fmt._range()
    return FormatRow(row.name, fmt.storage_bits, highest, smallest, "; ".join(filter(None, (row.notes, also))), fmt)
