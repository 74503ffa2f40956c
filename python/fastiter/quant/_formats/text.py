"""Formats as text, name<field,...>. The modules that define the formats register the names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..._suggest import did_you_mean


class Spelled(Protocol):
    """An object with a text form: the word that it begins with, and the fields between its brackets."""

    def _spelling(self) -> tuple[str, tuple[str, ...]]: ...


class Head(NamedTuple):
    """An initial word: the class, the fields that it implies, and the names of the fields between the brackets."""

    kind: type[Any]
    fields: dict[str, Any]
    names: tuple[str, ...]


class Row(NamedTuple):
    """A row of the table of formats: a name, or the form of a parametrised kind, a format's text, and notes."""

    name: str
    text: str
    notes: str


_HEADS: dict[str, Head] = {}
#: Aliases of initial words: the names of dtypes, and short ones
_ALIASES: dict[str, str] = {}
#: The rows of the table of formats by class
ROWS: dict[type[Any], list[Row]] = {}


def register(
    head: str, kind: type[Any], fields: dict[str, Any], names: tuple[str, ...], aliases: tuple[str, ...] = ()
) -> None:
    """Register an initial word and its aliases for :func:`parse`."""
    _HEADS[head] = Head(kind, fields, names)
    _ALIASES.update(dict.fromkeys(aliases, head))


def list_format(kind: type[Any], name: str, notes: str, example: str | None = None) -> None:
    """Add a row to the table of formats; with an example, the name is the form of a parametrised kind."""
    ROWS.setdefault(kind, []).append(Row(name, example or name, notes))


def aliases_of(head: str) -> tuple[str, ...]:
    """Return the aliases of an initial word."""
    return tuple(alias for alias, of in _ALIASES.items() if of == head)


def write(fmt: Spelled) -> str:
    """Write a format with only the fields that differ from the defaults of its kind."""
    head, names = fmt._spelling()
    words = [_word(getattr(fmt, name)) for name in names]
    for count in range(len(words)):
        text = _joined(head, words[:count])
        try:
            if read(text) == fmt:
                return text
        except (TypeError, ValueError):  # a field without a default is missing
            continue
    return _joined(head, words)


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(_word(part) for part in value)
    return repr(value) if isinstance(value, float) else str(value)


def _joined(head: str, words: list[str]) -> str:
    return f"{head}<{','.join(words)}>" if words else head


def parse(text: str) -> Any:
    """Return the format that ``text`` names; ``parse(str(fmt)) == fmt``.

    ``"e4m3"`` is the format with infinities, whose largest number is 240; OCP's E4M3, with 448 and no infinity, is
    ``"e4m3fn"`` or ``"fp8"``.

    Parameters
    ----------
    text : str
        A name, or ``name<field,...>``, in upper or lower case; :func:`formats` lists the names, and :ref:`quant` has
        the grammar. Names of dtypes are accepted too (``"float8_e4m3fn"``, ``"bfloat16"``), and HLS's own spellings of
        fixed point: ``ap_fixed<8,4,AP_RND,AP_SAT>``, ``ap_int<8>``, ``ac_fixed<8,4,true,AC_RND>``, ``ac_int<8,false>``,
        and hls4ml's ``int<8>``, with the rounding of its own IntegerPrecisionType, down.

    Returns
    -------
    Format
        An instance of the format's class, such as :class:`Fixed` or :class:`MX`.

    Raises
    ------
    TypeError, ValueError
        For anything but a str; for a text that names no format, and for fields that the format refuses.

    See Also
    --------
    formats : All formats with a name.

    Examples
    --------
    >>> from fastiter.quant import parse
    >>> parse("fixed<8,4,RND_CONV,SAT>").max_code, parse("e4m3fn").max_value
    (127, Fraction(448, 1))
    >>> [str(parse(text)) for text in ("ap_uint<4>", "ac_int<4,false>")]  # truncated toward zero and down; both wrap
    ['ufixed<4,4,TRN_ZERO>', 'ufixed<4,4>']
    >>> [str(parse(text)) for text in ("fp8", "float8_e5m2", "MXFP4", "half")]
    ['e4m3fn', 'e5m2', 'mxfp4_e2m1', 'fp16']
    """
    if not isinstance(text, str):
        raise TypeError(f"parse: text must be a str, got {type(text).__name__}")
    try:
        return read(text)
    except ValueError as error:
        if str(error).startswith("text "):
            raise ValueError(f"parse: {error}") from None
        raise ValueError(f"parse: text must be a format with fields that go together, got {text!r} ({error})") from None


def dtype_name(dtype: object) -> str | None:
    """Return the name of a dtype of NumPy, ml_dtypes or torch; None for anything else."""
    if isinstance(dtype, np.dtype):
        return dtype.name
    if isinstance(dtype, type) and issubclass(dtype, np.generic):
        try:
            return np.dtype(dtype).name
        except TypeError:  # abstract types such as np.generic, which have no size
            return None
    return str(dtype) if f"{type(dtype).__module__}.{type(dtype).__name__}" == "torch.dtype" else None


@lru_cache(maxsize=1024)
def read(text: str) -> Any:
    """Return the format that ``text`` names; messages do not begin with the name of a function."""
    match = re.fullmatch(r"\s*(?:torch\.)?([A-Za-z]\w*)\s*(?:<(.*)>)?\s*", text, re.DOTALL)
    if match is None:
        raise ValueError(f"text must be a name, or name<field,...>, got {text!r}")
    head, inside = match[1].lower(), match[2]
    head = _ALIASES.get(head, head)
    words = [] if inside is None else list(_split(inside))
    family = re.fullmatch(r"(u?int)([0-9]+)", head)
    if family:
        head, words = family[1], [family[2], *words]
    else:
        head, words = _without_vendor(head, words, text)
    if head not in _HEADS:
        raise ValueError(f"text must be the name of a format, or name<field,...>, got {text!r}{_suggestion(head)}")
    kind, fields, names = _HEADS[head]
    return _build(kind, text, fields, names, words)


def _suggestion(head: str) -> str:
    """Return the names that are closest to an unknown word."""
    question = did_you_mean(head, [*_HEADS, *_ALIASES, "int8", "int4", "uint8"])
    return f"{question or ';'} fastiter.quant.formats() lists all"


#: The types of the HLS vendors' libraries; hls4ml writes its integers without a prefix.
_VENDOR_HEADS = {"ap_": ("ap_fixed", "ap_ufixed", "ap_int", "ap_uint"), "ac_": ("ac_fixed", "ac_int")}


def _without_vendor(head: str, words: list[str], text: str) -> tuple[str, list[str]]:
    """Return the word and the fields of an HLS type as those of ``fixed`` or ``ufixed``; leave all others unchanged.

    An integer type is fixed point without fraction bits, which wraps. ``ap_int`` and ``ap_uint`` truncate toward zero,
    ``ac_int`` and hls4ml's own types down, as fixed point does.
    """
    vendor = head[:3]
    if vendor in _VENDOR_HEADS and head not in _VENDOR_HEADS[vendor]:
        names = ", ".join(_VENDOR_HEADS[vendor])
        raise ValueError(f"text that begins with {vendor} must begin with one of {names}, got {text!r}")
    name = head[3:] if vendor in _VENDOR_HEADS else head
    if name not in ("fixed", "ufixed", "int", "uint"):
        return head, words
    signed = not name.startswith("u")
    whole = name.endswith("int")
    if vendor == "ac_":
        signed, words = _signed_of_ac(words, 1 if whole else 2, text)
    if whole:
        if len(words) != 1:
            raise ValueError(f"text must have one field for {head}, the width, got {text!r}")
        words = [words[0], words[0], *(["TRN_ZERO"] if vendor == "ap_" else [])]
    prefix = "AC_" if vendor == "ac_" else "AP_"
    return "fixed" if signed else "ufixed", [word.upper().removeprefix(prefix) for word in words]


def _signed_of_ac(words: list[str], at: int, text: str) -> tuple[bool, list[str]]:
    """Return whether an ``ac_`` type is signed, by its field with index ``at``, and the other fields."""
    if len(words) <= at:
        return True, words
    if words[at].lower() not in ("true", "false"):
        raise ValueError(f"text must have true or false for the sign of an ac_ type, got {text!r}")
    return words[at].lower() == "true", words[:at] + words[at + 1 :]


def _split(inside: str) -> Iterator[str]:
    """Split at the commas that are not inside brackets."""
    depth, start = 0, 0
    for i, letter in enumerate(inside):
        depth += (letter == "<") - (letter == ">")
        if letter == "," and depth == 0:
            yield inside[start:i].strip()
            start = i + 1
    yield inside[start:].strip()


def _build(kind: type[Any], text: str, fields: dict[str, Any], names: tuple[str, ...], words: list[str]) -> Any:
    if len(words) > len(names):
        raise ValueError(f"text must have at most {len(names)} fields ({', '.join(names)}), got {text!r}")
    values = {name: _value(name, word) for name, word in zip(names, words, strict=False)}
    try:
        return kind(**fields, **values)
    except TypeError as error:
        if "missing" in str(error):
            raise ValueError(f"text must have the fields {', '.join(names)}, got {text!r}") from None
        raise ValueError(str(error)) from None


def _value(name: str, word: str) -> Any:
    if re.fullmatch(r"[+-]?[0-9]+", word) and name != "values":
        return int(word)
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if name == "element":
        return read(word)
    if name == "values":
        return tuple(_number(part) for part in word.split())
    return word


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"values must be finite numbers, got {word!r}")
    return value
