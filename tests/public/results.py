"""Calls of the table, and the comparison of their results."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from fastiter import ConvergenceWarning, bcd, mdp
from fastiter.quant import FixedArray
from tests.public.table import Entry
from tests.support.cases import assert_close, assert_same_bits

#: Arrays of the sparse matrices
STORED = ("data", "indices", "indptr", "coords", "offsets", "rows")


def called(entry: Entry, arguments: Mapping[str, Any], **more: Any) -> Any:
    """Return the result of a call, and suppress its output."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return entry.run(**arguments, **more)


def parts(x: Any) -> Any:
    """Return a result as nested tuples of arrays; other objects are unchanged."""
    if isinstance(x, FixedArray):
        return (x.codes, str(x.fmt))
    if isinstance(x, mdp.MDP):
        return (x.row_starts, x.transitions, x.rewards, x.gamma)
    if isinstance(x, (bcd.LeastSquares, bcd.Logistic, bcd.Softmax, bcd.Quadratic)):
        return (x._b, *x._separable, x._curvature)
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
        known = np.where(finite, expected, 0)
        largest = max(
            float(np.abs(known).max(initial=0)), float(np.finfo(known.dtype).tiny)
        )  # below it, digits are lost
        assert_close(np.where(finite, actual, 0), known, terms**2, scale=largest)
    elif expected.dtype.kind in "fciub":
        assert_same_bits(actual, expected)
    else:
        np.testing.assert_array_equal(actual, expected)
