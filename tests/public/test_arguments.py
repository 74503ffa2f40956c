"""Every public function with arguments in any layout, and with wrong ones, against the specification.

The table of :mod:`tests.public.every` is compared with the ``__all__`` of each module, so that no function is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from fastiter import BackendError, ConvergenceError, ConvergenceWarning, mdp
from fastiter.quant import FixedArray
from tests.public.every import NOT_CALLED, TABLE
from tests.public.mutations import contiguous, laid_out, with_one_changed
from tests.public.pick import Pick
from tests.public.table import Entry, public_names
from tests.support.cases import assert_close, assert_same_bits


def test_the_table_has_every_public_name() -> None:
    public = {name for name, _ in public_names()}
    entered = {name for name in public if any(key == name or key.startswith(f"{name}.") for key in TABLE)}
    assert public - entered == NOT_CALLED, "neither in the table nor among those that users do not call"


# ---- Calls and what they leave --------------------------------------------------------------------------------------


#: Arrays of the sparse matrices
STORED = ("data", "indices", "indptr", "coords", "offsets", "rows")


def called(entry: Entry, arguments: Mapping[str, Any], **more: Any) -> Any:
    """Return the result, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return entry.run(**arguments, **more)


def parts(x: Any) -> Any:
    """Return a result as nested tuples of arrays; what has no arrays is left."""
    if isinstance(x, FixedArray):
        return (x.codes, str(x.fmt))
    if isinstance(x, mdp.MDP):
        return (x.row_starts, x.transitions, x.rewards, x.gamma)
    if sp.issparse(x):
        return (x.shape, *(parts(getattr(x, name)) for name in STORED if hasattr(x, name)))
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return tuple(parts(getattr(x, field.name)) for field in dataclasses.fields(x))
    if isinstance(x, (tuple, list)):
        return tuple(parts(part) for part in x)
    if isinstance(x, dict):
        return tuple((key, parts(value)) for key, value in x.items())
    return x


def assert_equal(actual: Any, expected: Any, terms: int) -> None:
    """Compare nested results: bit for bit, or up to the rounding of ``terms`` sums."""
    assert isinstance(actual, tuple) == isinstance(expected, tuple)
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_equal(a, e, terms)
    elif not isinstance(expected, np.ndarray):
        assert type(actual) is type(expected) and (actual == expected or (actual != actual and expected != expected))
    elif terms and expected.dtype.kind in "fc":
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(actual), finite)
        assert_close(np.where(finite, actual, 0), np.where(finite, expected, 0), terms**2)
    elif expected.dtype.kind in "fciub":
        assert_same_bits(actual, expected)
    else:
        np.testing.assert_array_equal(actual, expected)


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
    """A call returns what it returns for contiguous copies, or says in one sentence which argument is wrong."""
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
        assert_names_an_argument(entry, key, str(error))
        assert_equal(parts(arguments), parts(before), 0)
        return
    if arguments.get("rng", 0) is not None:  # which draws other numbers each time
        assert_equal(found, parts(called(entry, plain)), 0)
    for each, x in arguments.items():
        if each not in entry.written:
            assert_equal(parts(x), parts(before[each]), 0)


#: Arguments of the functions that a program calls with those of the table
OTHERS = ("A",)


def assert_names_an_argument(entry: Entry, key: str, message: str) -> None:
    """Assert that a message is one line that begins with the function and names one of its arguments."""
    function, colon, rest = message.partition(": ")
    assert colon and function in entry.names, message
    assert "\n" not in message, message
    assert re.search(rf"\b({'|'.join((key, *entry.parameters, *OTHERS))})\b", rest), message
