"""Arguments of the bindings, which Python has checked, and CuPy's arrays on their way to tensors."""

from __future__ import annotations

import numpy as np
import pytest

from fastiter import _core
from fastiter._backend import _replaced
from fastiter._solution import Solution
from fastiter.quant import Fixed, Table


@pytest.mark.parametrize("x", ["x", 1.0, [1.0]])
def test_an_argument_that_is_not_an_array_raises(x: object) -> None:
    with pytest.raises(TypeError, match=rf"^fastiter: expected an array, got {type(x).__name__}$"):
        _core.dense.column_sums_f32(x, 1, 1, np.zeros(1, np.float32))


def test_arguments_without_arrays_are_passed_on_themselves() -> None:
    formats = (Fixed(8, 4), Table((0.0, 1.0)))
    found = _replaced((["array", 2], *formats), lambda x: isinstance(x, str) and x == "array", str.upper)
    assert found[0] == ["ARRAY", 2] and all(a is b for a, b in zip(found[1:], formats, strict=True))


def test_arrays_in_a_solution_are_replaced() -> None:
    solution = Solution(value=1, converged=True, steps=3, residual=0.5, method="sor", reason="converged")
    found = _replaced(solution, lambda x: type(x) is int and x == 1, str)
    assert found.value == "1" and found.steps == 3 and solution.value == 1
