"""The solver families' functions on tensors with arguments in any layout, and with wrong ones."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import fastiter.torch
from fastiter import BackendError, ConvergenceError
from tests.public.calls.tensors import TENSORS
from tests.public.mutations import contiguous, laid_out, with_one_changed
from tests.public.pick import Pick
from tests.public.results import assert_equal, called, parts


def test_the_table_has_every_name() -> None:
    names = {*fastiter.torch.fixedpoint.prox.__all__, *fastiter.torch.fixedpoint.__all__}
    assert names - {"prox"} <= set(TENSORS)


@given(st.data())
@pytest.mark.parametrize("name", TENSORS)
def test_layouts(name: str, data: st.DataObject) -> None:
    """A call of any layout equals that of contiguous copies bit for bit, and changes no argument."""
    entry = TENSORS[name]
    pick = Pick(lambda low, high: data.draw(st.integers(low, high)))
    arguments = {key: laid_out(pick, x) for key, x in entry.make(pick).items()}
    plain, before = contiguous(arguments), contiguous(arguments)
    assert_equal(parts(called(entry, arguments)), parts(called(entry, plain)), entry.terms)
    assert_equal(parts(arguments), parts(before), 0)


@given(st.data())
@pytest.mark.parametrize("name", TENSORS)
def test_wrong_arguments(name: str, data: st.DataObject) -> None:
    """A call returns the same as for contiguous copies, or says in one sentence which argument is wrong."""
    entry = TENSORS[name]
    pick = Pick(lambda low, high: data.draw(st.integers(low, high)))
    _, arguments = with_one_changed(pick, entry.make(pick))
    plain, before = contiguous(arguments), contiguous(arguments)
    try:
        found = parts(called(entry, arguments))
    except ConvergenceError:
        assert arguments["throw"] is True
        return
    except (TypeError, ValueError, BackendError) as error:
        assert_names_an_argument(entry.names, arguments, str(error))
        return
    if arguments.get("rng", 0) is not None:  # it draws other numbers each time
        assert_equal(found, parts(called(entry, plain)), entry.terms)
    assert_equal(parts(arguments), parts(before), 0)


def assert_names_an_argument(functions: tuple[str, ...], given: Iterable[str], message: str) -> None:
    """Assert that a message is one line that begins with the function and names one of its arguments."""
    function, colon, rest = message.partition(": ")
    assert colon and function in functions and "\n" not in message, message
    assert re.search(rf"\b({'|'.join(given)})\b", rest), message
