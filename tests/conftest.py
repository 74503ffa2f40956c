"""What holds for every test."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # OpenMP reads it when torch is imported, and subprocesses have it too
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait leave the core to the other workers

import fastiter


def pytest_configure(config: pytest.Config) -> None:
    """Interpret Triton's kernels on the CPU, unless the tests for a card were asked for, which need one."""
    if config.option.markexpr != "gpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
    elif not config.option.collectonly and not has_card():
        raise pytest.UsageError("-m gpu needs a CUDA device, and torch finds none")


def has_card() -> bool:
    """Say whether torch is there and sees a card."""
    return importlib.util.find_spec("torch") is not None and bool(importlib.import_module("torch").cuda.is_available())


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """What a test draws from torch's own generator does not depend on the tests before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    """A test may set the number of threads: the next one starts from the default."""
    yield
    fastiter.set_num_threads(None)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where a GPU kernel runs: interpreted or emulated on the CPU, and on a card under ``pytest -m gpu``."""
    return str(request.param)
