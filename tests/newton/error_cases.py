"""Wrong arguments of the diagonal cells, for arrays and tensors alike, and the words in each message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.newton.calls import STATES, para_inputs
from tests.support.error_cases import TYPE, VALUE, Argument, Convert, Wrong, other_dtypes, other_types, resized

B, T, D = 3, 4, 5


def valid(cell: str, convert: Convert) -> dict[str, Any]:
    wx, a, p, state = para_inputs(cell, B, T, D, np.float32)
    arguments = {"wx": convert(wx), "a": convert(a)}
    if len(p):
        arguments["p"] = convert(p)
    parts = tuple(convert(s) for s in state)
    return {**arguments, "state": parts[0] if len(parts) == 1 else parts}


def _arrays(given: dict[str, Any], cell: str) -> Iterator[Argument]:
    names = ["wx", "a", *(["p"] if "p" in given else []), *(["state"] if cell == "paragru" else [])]
    for name in names:
        yield name, given[name], lambda y, name=name: {name: y}
    state = () if cell == "paragru" else given["state"]
    for k, part in enumerate(STATES[cell] if state else ()):
        yield f"state {part}", state[k], lambda y, k=k: {"state": (*state[:k], y, *state[k + 1 :])}


def wrong_types(given: dict[str, Any], cell: str) -> Iterator[Wrong]:
    return other_types(_arrays(given, cell), optional=["state"])


def wrong_dtypes(
    given: dict[str, Any], cell: str, cast: Callable[[Any, str], Any], names: list[str]
) -> Iterator[Wrong]:
    return other_dtypes(_arrays(given, cell), cast, names, "a")


def wrong_shapes(given: dict[str, Any], cell: str) -> Iterator[Wrong]:
    first_state = "state" if cell == "paragru" else "state h"

    def shape(y: Any) -> str:
        return re.escape(str(tuple(y.shape)))

    for name, x, put in _arrays(given, cell):
        for label, y in (("a rank too low", x[0]), ("a rank too high", x[None])):
            yield Wrong(f"{name} has {label}", put(y), VALUE, name, shape(y))
        for axis, by in ((a, k) for a in range(len(x.shape)) for k in (-1, 1)):
            if name == "wx" and axis == 1:
                continue  # any number of steps is valid
            y = resized(x, axis, by)
            # A wx of another B or D is valid by itself: the message names the argument that does not match it.
            named = {0: first_state, 3: "a"}.get(axis, "wx") if name == "wx" else name
            got = shape(y) if named == name else r"\(.+\)"
            yield Wrong(f"{name} has {by:+} in axis {axis}", put(y), VALUE, named, got)


def wrong_states(given: dict[str, Any]) -> Iterator[Wrong]:
    if not isinstance(given["state"], tuple):
        h = given["state"]
        for label, y in (("empty", ()), ("long", (h, h))):
            yield Wrong(f"state is {label}", {"state": y}, VALUE, "state", str(len(y)))
        yield Wrong("state holds a list", {"state": (["h", "h"],)}, TYPE, "state", "list")
        return
    state = given["state"]
    for label, y in (("(ndarray|Tensor)", state[0]), ("dict", dict(enumerate(state))), ("str", "hc"), ("int", 0)):
        yield Wrong(f"state is a {label}", {"state": y}, TYPE, "state", label)
    for label, y in (("empty", ()), ("short", state[:-1]), ("long", (*state, state[0]))):
        yield Wrong(f"state is {label}", {"state": y}, VALUE, "state", str(len(y)))


def wrong_flags() -> Iterator[Wrong]:
    for name in ("reverse", "return_info"):
        for y in (0, 1, None, "yes", 1.0, [True]):
            yield Wrong(f"{name} is {y!r}", {name: y}, TYPE, name, type(y).__name__)
        yield Wrong(f"{name} is NumPy's", {name: np.bool_(True)}, TYPE, name, "numpy")


def wrong_options() -> Iterator[Wrong]:
    """Wrong options of Newton's method, which are checked for every method."""
    for y in ("Newton", "", "quasi", "auto "):
        yield Wrong(f"method is {y!r}", {"method": y}, VALUE, "method", re.escape(repr(y)))
    for y in (None, 1, b"newton", ["newton"]):
        yield Wrong(f"method is {y!r}", {"method": y}, TYPE, "method", type(y).__name__)
    for name in ("window", "max_steps"):
        for y in (0, -1, 2**31, 2**70, np.int64(0)):
            yield Wrong(f"{name} is {y!r}", {name: y}, VALUE, name, re.escape(str(y)))
        for y in (1.0, "8", True, [1], np.float32(2), np.bool_(True), 1j):
            yield Wrong(f"{name} is {y!r}", {name: y}, TYPE, name, type(y).__name__)
    for name in ("rtol", "atol"):
        for y in (-1e-9, float("nan"), float("inf"), -1):
            yield Wrong(f"{name} is {y!r}", {name: y}, VALUE, name, re.escape(str(y)))
        for y in ("1e-3", True, [1e-3], 1j, np.bool_(False)):
            yield Wrong(f"{name} is {y!r}", {name: y}, TYPE, name, type(y).__name__)
