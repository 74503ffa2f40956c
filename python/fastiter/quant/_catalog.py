"""The list of all number formats."""

from __future__ import annotations

from typing import NamedTuple

from ._codes import code_bits
from ._formats import Format
from ._range import range_of
from ._text import aliases_of, read


class FormatRow(NamedTuple):
    """One number format.

    Attributes
    ----------
    name : str
        The text that :func:`parse` reads; with brackets, a parametrised kind of format, whose fields must be given.
    bits : int or None
        The bits of a code; None for a kind.
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
    bits: int | None
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


#: Notes on the formats with a name, in the order of the list
_NAMED = {
    "fp64": "",
    "fp32": "",
    "tf32": "8 bits of exponent and 10 of mantissa, as in tensor cores",
    "bf16": "",
    "fp16": "",
    "e5m2": "OCP's E5M2; beyond the largest number infinity, e5m2<RNE,SAT> saturates",
    "e4m3fn": "OCP's E4M3: no infinity, saturates",
    "e4m3": "with infinities, as in IEEE 754; OCP's E4M3 is e4m3fn",
    "e3m4": "with infinities",
    "e5m2fnuz": "no infinity, no -0",
    "e4m3fnuz": "no infinity, no -0",
    "e4m3b11fnuz": "e4m3fnuz with bias 11",
    "e3m2": "OCP's FP6 E3M2: all codes are numbers",
    "e2m3": "OCP's FP6 E2M3: all codes are numbers",
    "e2m1": "OCP's FP4: all codes are numbers",
    "e8m0": "powers of two, unsigned: OCP's scales",
    "mxfp8_e4m3": "blocks of 32 with a power of two",
    "mxfp8_e5m2": "blocks of 32 with a power of two",
    "mxfp6_e3m2": "blocks of 32 with a power of two",
    "mxfp6_e2m3": "blocks of 32 with a power of two",
    "mxfp4_e2m1": "blocks of 32 with a power of two",
    "mxint8": "blocks of 32 with a power of two",
    "nvfp4": "blocks of 16 with a scale in e4m3fn, and a scale of the tensor",
    "nf4": "QLoRA's table of 16 numbers; blocks of 64 with their largest magnitude as scale",
    "int8": "with a scale; any width from 1 to 32, as in int4",
    "uint8": "with a scale and a zero point; any width from 1 to 32, as in uint4",
}
#: Kinds of formats whose fields must be given: an example, and notes
_KINDS = {
    "fixed<width,integer,rounding,overflow>": ("fixed<16,6>", "HLS's ap_fixed, which is read too; ufixed is unsigned"),
    "float<exponent,mantissa,specials,...>": ("float<5,4>", "any small float; ufloat is unsigned"),
    "mx<element,block,rule>": ("mx<e3m4<RNE,SAT>>", "any small float in blocks with a power of two"),
    "bfp<width,block,rounding>": ("bfp<6>", "block floating point: integers with one exponent a block"),
    "posit<n,es>": ("posit<16,1>", "NaN stands for NaR; standard posits have es = 2"),
    "table<v0 v1 ...,block>": ("table<-1.0 0.0 1.0>", "any 2 to 256 numbers"),
    "pow2<lowest,highest>": ("pow2<-7,0>", "0 and powers of two; upow2 is unsigned"),
    "khot<terms,width,integer>": ("khot<2,8,1>", "sums of a few powers of two; ukhot is unsigned"),
    "log2<lowest,highest,fraction>": ("log2<-8,0,2>", "0 and 2^(c / 2^fraction); ulog2 is unsigned"),
}


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
    named = (_row(name, notes) for name, notes in _NAMED.items())
    kinds = (FormatRow(name, None, None, None, notes, read(text)) for name, (text, notes) in _KINDS.items())
    return FormatTable((*named, *kinds))


def _row(name: str, notes: str) -> FormatRow:
    fmt = read(name)
    others = sorted(aliases_of(name), key=len)
    also = f"also {', '.join(others)}" if others else ""
    _, highest, smallest = range_of(fmt)
    return FormatRow(name, code_bits(fmt), highest, smallest, "; ".join(filter(None, (notes, also))), fmt)
