"""Limits the libraries that the solvers call to one thread: the problems are small, and waiting threads spin."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

try:
    from threadpoolctl import threadpool_limits  # comes with scikit-learn
except ImportError:
    threadpool_limits = None


@pytest.fixture(autouse=True, scope="package")
def one_thread_of_blas() -> Iterator[None]:
    """Limit the products of NumPy and SciPy; the kernels' own threads are as in other tests."""
    if threadpool_limits is None:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(autouse=True)
def one_thread_of_torch() -> None:
    """Restore the number after each test, like every other number of threads."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
