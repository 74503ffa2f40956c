"""softsign on NumPy arrays against the specification."""

from __future__ import annotations

import numpy as np
import pytest

import fastiter
from fastiter.example import softsign


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 7, 16, 33, 200001])
def test_sizes(n: int, dtype: type) -> None:
    x = np.random.default_rng(n).standard_normal(n).astype(dtype)
    for threads in (1, 2):
        fastiter.set_num_threads(threads)
        np.testing.assert_array_equal(softsign(x), softsign(x, backend="reference"))


def test_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^softsign: x must be a NumPy array of float32 or float64, got list$"):
        softsign([1.0])
