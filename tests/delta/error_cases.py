"""Wrong arguments of delta_scan, for arrays and tensors alike, and the words in each message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.delta.calls import delta_inputs
from tests.support.error_cases import TYPE, VALUE, Argument, B, Convert, D, N, T, Wrong, other_dtypes, other_types

K, V = 6, D
NAMES = ("q", "k", "v", "beta", "state", "decay")
FUNCTION = "delta_scan"


def valid(convert: Convert, M: int | None = None) -> dict[str, Any]:
    inputs = delta_inputs(B, T, N, K, V, np.float32, M=M)
    return {name: convert(x) for name, x in inputs.arrays().items()}


def packed(convert: Convert) -> dict[str, Any]:
    """Return arguments with two sequences packed into one row."""
    inputs = delta_inputs(1, T, N, K, V, np.float32, rows=2)
    return {name: convert(x) for name, x in inputs.arrays().items()}


def _shape(y: Any) -> str:
    return re.escape(str(tuple(y.shape)))


def _arrays(given: dict[str, Any]) -> Iterator[Argument]:
    for name in NAMES:
        yield name, given[name], lambda y, name=name: {name: y}


def wrong_types(given: dict[str, Any]) -> Iterator[Wrong]:
    return other_types(_arrays(given), optional=["state", "decay"])


def wrong_dtypes(given: dict[str, Any], cast: Callable[[Any, str], Any], names: list[str]) -> Iterator[Wrong]:
    return other_dtypes(_arrays(given), cast, names, "k")


def _resized(x: Any, axis: int, by: int) -> Any:
    index = np.arange(x.shape[axis] + by) % x.shape[axis]
    return x[(slice(None),) * axis + (index,)]


def wrong_shapes(given: dict[str, Any]) -> Iterator[Wrong]:
    for name in NAMES:
        x = given[name]
        for label, y in (("a rank too low", x[0]), ("a rank too high", x[None])):
            yield Wrong(f"{name} has {label}", {name: y}, VALUE, name, _shape(y))
        for axis, by in ((a, k) for a in range(len(x.shape)) for k in (-1, 1)):
            y = _resized(x, axis, by)
            # Another q or number of values is valid by itself: the message names the argument that does not match it.
            named = {"q": "k", "v": "state" if axis == len(x.shape) - 1 else "v"}.get(name, name)
            got = _shape(y) if named == name else r"\(.+\)"
            yield Wrong(f"{name} has {by:+} in axis {axis}", {name: y}, VALUE, named, got)


def empty_sizes(given: dict[str, Any], several: dict[str, Any]) -> Iterator[Wrong]:
    """Sizes with zero heads, keys or values; with an axis of factors, zero factors."""
    for axis in (2, 3):
        y = _resized(given["q"], axis, -given["q"].shape[axis])
        yield Wrong(f"q is empty in axis {axis}", {"q": y}, VALUE, "q", _shape(y))
    y = _resized(given["v"], 3, -V)
    yield Wrong("v has no values", {"v": y}, VALUE, "v", _shape(y))
    y = several["k"][:, :, :0]
    yield Wrong("k has no factors", {"k": y}, VALUE, "k", _shape(y))
    yield Wrong("k alone has factors", {"k": several["k"]}, VALUE, "v", _shape(given["v"]))


def wrong_methods() -> Iterator[Wrong]:
    for y in ("steps", "", "STEP", "auto "):
        yield Wrong(f"method is {y!r}", {"method": y}, VALUE, "method", re.escape(repr(y)))
    for y in (None, 3, b"sequential", ["sequential"], np.array(["sequential"])):
        yield Wrong(f"method is {y!r}", {"method": y}, TYPE, "method", type(y).__name__)
    for y in (0, -1, 257, 2**70):
        yield Wrong(f"chunk is {y!r}", {"chunk": y}, VALUE, "chunk", str(y))
    for y in (None, 64.0, "64", True, [64], np.float32(4), np.int64(64)):
        yield Wrong(f"chunk is {y!r}", {"chunk": y}, TYPE, "chunk", type(y).__name__)


def wrong_resets(make: Callable[[Any], Any]) -> Iterator[Wrong]:
    def case(label: str, y: Any, errors: Any, got: str) -> Wrong:
        return Wrong(f"reset {label}", {"reset": y}, errors, "reset", got)

    flags = np.zeros((B, T), bool)
    for label, y in (("is a list of ints", [0] * T), ("is a bool", True), ("is a number", 0), ("is text", "no")):
        yield case(label, y, TYPE, type(y).__name__)
    for dtype in (np.int64, np.uint8, np.float32):
        yield case(f"is {np.dtype(dtype)}", make(flags.astype(dtype)), TYPE, str(np.dtype(dtype)))
    for shape in ((B,), (T + 1,), (B, T + 1), (B + 1, T), (T, B), (B, T, 1), (1, T), ()):
        yield case(f"has shape {shape}", make(np.zeros(shape, bool)), VALUE, re.escape(str(shape)))


def wrong_bounds(make: Callable[[list[Any]], Any]) -> Iterator[Wrong]:
    """Wrong cu_seqlens for packed arrays of T steps with two states."""

    def case(label: str, y: Any, errors: Any, got: str) -> Wrong:
        return Wrong(f"cu_seqlens {label}", {"cu_seqlens": y}, errors, "cu_seqlens", got)

    yield case("begins late", [1, 2, T], VALUE, f"1 to {T}")
    yield case("begins before", make([-1, 2, T]), VALUE, f"-1 to {T}")
    yield case("ends early", [0, 2, T - 1], VALUE, f"0 to {T - 1}")
    yield case("ends late", make([0, 2, T + 1]), VALUE, f"0 to {T + 1}")
    yield case("steps back", [0, 3, 2, T], VALUE, "falling values")
    yield case("goes beyond", make([0, 2**62, T]), VALUE, "falling values")
    yield case("empty", [], VALUE, r"\(0,\)")
    yield case("a number", T, VALUE, r"\(\)")
    yield case("in a column", [[0], [T]], VALUE, r"\(2, 1\)")
    yield case("float", [0.0, 2.0, T], TYPE, "float")
    yield case("a float array", make([0.0, 2.0, T]), TYPE, "float")
    yield case("bool", make([False, True]), TYPE, "bool")
    yield case("text", "abc", TYPE, "")
    yield case("nothing inside", [None, None], TYPE, "")
    both = {"cu_seqlens": [0, 2, T], "lengths": [T]}
    yield Wrong("lengths as well", both, VALUE, "lengths", "both")
    yield Wrong("one state too few", {"cu_seqlens": [0, 1, 2, T]}, VALUE, "state", re.escape(str((2, N, K, V))))
    yield Wrong("one state too many", {"cu_seqlens": [0, T]}, VALUE, "state", re.escape(str((2, N, K, V))))
