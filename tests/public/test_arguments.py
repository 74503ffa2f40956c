"""Every public function with arguments in any layout, and with wrong ones, against the specification.

The table of :mod:`tests.public.every` is compared with the ``__all__`` of each module, so that no function is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastiter import BackendError, ConvergenceError
from tests.public.every import NOT_CALLED, TABLE
from tests.public.mutations import contiguous, laid_out, with_one_changed
from tests.public.pick import Pick
from tests.public.results import assert_equal, called, parts
from tests.public.table import Entry, public_names


def test_the_table_has_every_public_name() -> None:
    public = {name for name, _ in public_names()}
    entered = {name for name in public if any(key == name or key.startswith(f"{name}.") for key in TABLE)}
    assert public - entered == NOT_CALLED, "neither in the table nor among those that users do not call"


@given(st.data())
@pytest.mark.parametrize("name", TABLE)
def test_layouts_and_the_specification(name: str, data: st.DataObject) -> None:
    """A call of any layout equals that of contiguous copies bit for bit, and the specification to rounding."""
    entry = TABLE[name]
    pick = Pick(lambda low, high: data.draw(st.integers(low, high)))
    arguments = {
        key: laid_out(pick, x, key in entry.written, entry.has_reference) for key, x in entry.make(pick).items()
    }
    before, plain, specified = contiguous(arguments), contiguous(arguments), contiguous(arguments)
    found = parts(called(entry, arguments))
    assert_equal(found, parts(called(entry, plain)), 0)
    if entry.has_reference:
        assert_equal(found, parts(called(entry, specified, backend="reference")), entry.terms)
    for key, x in arguments.items():
        assert_equal(parts(x), parts((plain if key in entry.written else before)[key]), 0)


@given(st.data())
@pytest.mark.parametrize("name", [name for name, entry in TABLE.items() if entry.parameters])
def test_wrong_arguments(name: str, data: st.DataObject) -> None:
    """A call returns the same as for contiguous copies, or says in one sentence which argument is wrong."""
    entry = TABLE[name]
    pick = Pick(lambda low, high: data.draw(st.integers(low, high)))
    key, arguments = with_one_changed(pick, entry.make(pick))
    before, plain = contiguous(arguments), contiguous(arguments)
    try:
        found = parts(called(entry, arguments))
    except ConvergenceError:
        assert arguments["throw"] is True
        return
    except (TypeError, ValueError, BackendError) as error:
        assert_names_an_argument(entry, arguments, str(error))
        assert_equal(parts(arguments), parts(before), 0)
        return
    if arguments.get("rng", 0) is not None:  # it draws other numbers each time
        assert_equal(found, parts(called(entry, plain)), 0)
        # Numbers at the limits of a dtype may overflow in only one of the two.
        is_edge = isinstance(arguments[key], np.ndarray) and arguments[key].dtype.kind in "fc"
        if entry.has_reference and not is_edge:
            assert_equal(found, parts(called(entry, contiguous(before), backend="reference")), entry.terms)
    for each, x in arguments.items():
        if each not in entry.written:
            assert_equal(parts(x), parts(before[each]), 0)


#: Names of arguments in the functions that a program calls with the table's arguments
OTHERS = ("A",)


def assert_names_an_argument(entry: Entry, given: Iterable[str], message: str) -> None:
    """Assert that a message is one line that begins with the function and names one of its arguments."""
    function, colon, rest = message.partition(": ")
    assert colon and function in entry.names, message
    assert "\n" not in message, message
    assert re.search(rf"\b({'|'.join((*given, *entry.parameters, *OTHERS))})\b", rest), message
