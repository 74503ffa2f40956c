"""Wrong arguments of the recurrent cells, for arrays and tensors alike, and the words in each message."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support.cases import GATES, STATES, Array, rnn_inputs

CELLS = tuple(GATES)
#: Functions whose wrong arguments are in separate files, error_cases_<stem>.py
ELSEWHERE = ("block_scan", "delta_scan", "linear_scan")
B, T, N, D = 3, 4, 2, 5
TYPE = (TypeError,)
VALUE = (ValueError,)
EITHER = (TypeError, ValueError)


class Wrong(NamedTuple):
    """Arguments to replace, and the error: its class, the argument it names, a pattern of the received value."""

    label: str
    changes: dict[str, Any]
    errors: tuple[type[Exception], ...]
    argument: str
    got: str


Convert = Callable[[Array], Any]


def valid(cell: str, convert: Convert) -> dict[str, Any]:
    wx, r, b, state = rnn_inputs(cell, B, T, N, D, np.float32)
    return {"wx": convert(wx), "r": convert(r), "b": convert(b), "state": tuple(convert(s) for s in state)}


def assert_refused(function: str, call: Callable[[], Any], wrong: Wrong) -> None:
    """Assert that the message is one sentence: function, argument, expected, received."""
    with pytest.raises((TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError)) as raised:
        call()
    assert raised.type in wrong.errors, f"{raised.type.__name__}: {raised.value}"
    message = str(raised.value)
    pattern = rf"{function}: ({wrong.argument}) must .+[,;] got .*{wrong.got}.*"
    assert re.fullmatch(pattern, message), f"{message!r} is not {pattern!r}"
    assert not re.search(r"\n|[.!?] [A-Z]", message), message


def assert_all_refused(function: str, cases: Iterable[tuple[Wrong, Callable[[], Any]]]) -> None:
    """Try every case, then report all failures at once."""
    problems = []
    for wrong, call in cases:
        try:
            assert_refused(function, call, wrong)
        except (AssertionError, pytest.fail.Exception) as problem:
            problems.append(f"{wrong.label}: {problem}")
    assert not problems, "\n".join(problems)


def assert_arrays_refused(call: Callable[..., Any], right: dict[str, Any], cases: Iterable[Wrong]) -> None:
    """Assert that both backends refuse each changed argument and leave ``out`` untouched."""

    def refused(arguments: dict[str, Any]) -> None:
        out = arguments["out"]
        before = out.tobytes() if isinstance(out, np.ndarray) else None
        try:
            call(**arguments)
        finally:
            written = before is not None and out.tobytes() != before
            assert not written, "out was written"

    assert_all_refused(
        call.__name__,
        (
            (wrong, lambda backend=backend, wrong=wrong: refused({"backend": backend, **right, **wrong.changes}))
            for wrong in cases
            for backend in (None, "reference")
        ),
    )


def assert_tensors_refused(
    call: Callable[..., Any], right: dict[str, Any], cases: Iterable[Wrong], differentiated: str
) -> None:
    """Assert that each changed argument is refused, without gradients and with `differentiated` requiring one."""

    def refused(arguments: dict[str, Any], grad: bool) -> None:
        x = arguments[differentiated]
        if grad and hasattr(x, "is_floating_point") and x.is_floating_point():
            arguments[differentiated] = x.detach().requires_grad_()
        call(**arguments)

    assert_all_refused(
        call.__name__,
        (
            (wrong, lambda grad=grad, wrong=wrong: refused({**right, **wrong.changes}, grad))
            for wrong in cases
            for grad in (False, True)
        ),
    )


#: (name in messages, array, function that replaces it)
Argument = tuple[str, Any, Callable[[Any], dict[str, Any]]]


def other_types(arrays: Iterable[Argument], optional: Collection[str]) -> Iterator[Wrong]:
    for name, x, put in arrays:
        is_array = isinstance(x, np.ndarray)  # functions on arrays take lists of numbers, and numbers as 0-d arrays
        for label, y in (("list", ["wx", "r"] if is_array else x.tolist()), ("str", "wx"), ("dict", {})):
            yield Wrong(f"{name} is a {label}", put(y), TYPE, name, label)
        for label, y in (("float", 1.0), ("int", 0)):
            yield Wrong(f"{name} is a {label}", put(y), *((VALUE, name, r"\(\)") if is_array else (TYPE, name, label)))
        if name not in optional:
            yield Wrong(f"{name} is None", put(None), TYPE, name, "NoneType")


def other_dtypes(
    arrays: Iterable[Argument], cast: Callable[[Any, str], Any], names: list[str], second: str
) -> Iterator[Wrong]:
    """Wrong dtypes; the first array sets the dtype, and `second` is the first to be compared with it."""
    for i, (name, x, put) in enumerate(arrays):
        for dtype in names:
            yield Wrong(f"{name} is {dtype}", put(cast(x, dtype)), TYPE, name, re.escape(dtype))
        named, got = (name, "float64") if i else (second, "float32")
        yield Wrong(f"{name} is float64 among float32", put(cast(x, "float64")), TYPE, named, got)


def _arrays(given: dict[str, Any], cell: str) -> Iterator[Argument]:
    for name in ("wx", "r", "b"):
        yield name, given[name], lambda y, name=name: {name: y}
    state = given["state"]
    for k, part in enumerate(STATES[cell]):
        yield f"state {part}", state[k], lambda y, k=k: {"state": (*state[:k], y, *state[k + 1 :])}


def wrong_types(given: dict[str, Any], cell: str) -> Iterator[Wrong]:
    return other_types(_arrays(given, cell), optional=["b"])


def wrong_dtypes(
    given: dict[str, Any], cell: str, cast: Callable[[Any, str], Any], names: list[str]
) -> Iterator[Wrong]:
    return other_dtypes(_arrays(given, cell), cast, names, "r")


def resized(x: Any, axis: int, by: int) -> Any:
    index = np.arange(x.shape[axis] + by) % x.shape[axis]
    return x[(slice(None),) * axis + (index,)]


def wrong_shapes(given: dict[str, Any], cell: str) -> Iterator[Wrong]:
    def shape(y: Any) -> str:
        return re.escape(str(tuple(y.shape)))

    for name, x, put in _arrays(given, cell):
        for label, y in (("a rank too low", x[0]), ("a rank too high", x[None]), ("a scalar", x.reshape(-1)[0])):
            yield Wrong(f"{name} has {label}", put(y), VALUE, name, shape(y))
        for axis, by in ((a, k) for a in range(len(x.shape)) for k in (-1, 1)):
            y = resized(x, axis, by)
            if name == "wx" and axis == 1:
                continue  # any number of steps is valid
            # A wx with another B, N or D is valid by itself: the message names the argument that does not match it.
            named = {0: "state h", 3: "r", 4: "r"}.get(axis, "wx") if name == "wx" else name
            got = shape(y) if named == name else r"\(.+\)"
            yield Wrong(f"{name} has {by:+} in axis {axis}", put(y), VALUE, named, got)
    for axis in (3, 4):
        empty = resized(given["wx"], axis, -given["wx"].shape[axis])
        yield Wrong(f"wx is empty in axis {axis}", {"wx": empty}, VALUE, "wx", shape(empty))


def wrong_states(given: dict[str, Any], cell: str) -> Iterator[Wrong]:
    state = given["state"]
    alone = [("(ndarray|Tensor)", state[0])] if len(state) > 1 else []  # a single part may be passed without its tuple
    for label, y in (*alone, ("dict", dict(enumerate(state))), ("str", "hc"), ("int", 0)):
        yield Wrong(f"state is a {label}", {"state": y}, TYPE, "state", label)
    yield Wrong("state is a generator", {"state": (s for s in state)}, TYPE, "state", "generator")
    for label, y in (("empty", ()), ("short", state[:-1]), ("long", (*state, state[0]))):
        yield Wrong(f"state is {label}", {"state": y}, VALUE, "state", str(len(y)))


def wrong_lengths(make: Callable[[list[Any]], Any]) -> Iterator[Wrong]:
    def case(label: str, lengths: Any, errors: tuple[type[Exception], ...], got: str) -> Wrong:
        return Wrong(f"lengths {label}", {"lengths": lengths}, errors, "lengths", got)

    yield case("negative", [4, -1, 2], VALUE, "-1")
    yield case("very negative", make([4, -(2**62), 2]), VALUE, str(-(2**62)))
    yield case("longer than T", [5, 0, 2], VALUE, "5")
    yield case("much longer than T", make([1, 2**62, 1]), VALUE, str(2**62))
    yield case("beyond 64 bits", [2**70, 1, 1], EITHER, "")
    for label, y, shape in (
        ("too few", [4, 2], (2,)),
        ("too many", [4, 2, 1, 1], (4,)),
        ("none", [], (0,)),
        ("in a column", [[4], [2], [1]], (3, 1)),
        ("a number", 3, ()),
    ):
        yield case(label, y, VALUE, re.escape(str(shape)))
        if y != []:  # an empty array of floats has a float dtype
            yield case(f"{label}, an array", make(y), VALUE, re.escape(str(shape)))
    yield case("float", [4.0, 1.0, 2.0], TYPE, "float")
    yield case("a float array", make([4.0, 1.0, 2.0]), TYPE, "float")
    yield case("nan", [float("nan")] * 3, TYPE, "float")
    yield case("bool", make([True, False, True]), TYPE, "bool")
    yield case("complex", make([1j, 1j, 1j]), TYPE, "complex")
    yield case("text", "abc", TYPE, "")
    yield case("texts", ["1", "2", "3"], TYPE, "")
    yield case("nothing inside", [None] * 3, TYPE, "")
    yield case("ragged", [[1], [2, 3], [1]], EITHER, "")
    yield case("a dict", {0: 1, 1: 2, 2: 3}, TYPE, "")


def wrong_flags() -> Iterator[Wrong]:
    for name in ("reverse", "return_all_states"):
        for y in (0, 1, None, "yes", 1.0, [True]):
            yield Wrong(f"{name} is {y!r}", {name: y}, TYPE, name, type(y).__name__)
        # NumPy calls its own type "bool" too: "must be a bool, got bool" would not help.
        yield Wrong(f"{name} is NumPy's", {name: np.bool_(True)}, TYPE, name, "numpy")


def wrong_activations() -> Iterator[Wrong]:
    for y in ("sigmoid", "", "Tanh", "tanh ", None, 3, b"tanh", ["tanh"], np.array(["tanh", "relu"])):
        errors = VALUE if isinstance(y, str) else EITHER
        yield Wrong(f"activation is {y!r}", {"activation": y}, errors, "activation", "")


def in_torch(cases: Iterable[Wrong]) -> Iterator[Wrong]:
    """Allow shapes in torch's notation: torch.Size([2, 3])."""
    for wrong in cases:
        got = wrong.got.replace(r"\(", r"(\(|torch\.Size\(\[)", 1) if wrong.got.startswith(r"\(") else wrong.got
        yield wrong._replace(got=got.replace(r",\)", r",?\]?\)"))


def assert_named(cases: Iterable[tuple[Callable[[], Any], type[Exception], str]]) -> None:
    """Assert that each call raises an error of the class, in one line that begins with the names given.

    These are the function and the argument: ``"solve: atol"``. All failures are reported at once.
    """
    problems = []
    for call, error, names in cases:
        try:
            call()
            problems.append(f"{names}: nothing was raised")
        except Exception as raised:
            text, begins = str(raised), re.escape(names) + (r"(?!\w)" if names[-1].isalnum() else "")
            if not isinstance(raised, error) or not re.match(begins, text) or "\n" in text:
                problems.append(f"{error.__name__}, {names}: {type(raised).__name__}: {text}")
    assert not problems, "\n".join(problems)
