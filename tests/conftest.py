"""Settings and fixtures of all tests."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # read by OpenMP when torch is imported; inherited by subprocesses
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads yield the core to the other workers

import fastiter


def pytest_configure(config: pytest.Config) -> None:
    """Interpret Triton kernels on the CPU; under ``-m gpu`` ask for a card and for deterministic products."""
    if config.option.markexpr != "gpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
        return
    # Read by cuBLAS and torch at the first product; without it torch warns in deterministic mode: an error here.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if not config.option.collectonly and not has_card():
        raise pytest.UsageError("-m gpu needs a CUDA device, and torch finds none")


def pytest_collection_finish() -> None:
    """Exempt all tests from garbage collection: the scan that a test of memory asks for would take a second longer."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Collect all garbage again: for objects that the last collection leaves out, Triton's module reports leaks."""
    gc.unfreeze()


def has_card() -> bool:
    """Return whether torch is installed and finds a CUDA device."""
    return importlib.util.find_spec("torch") is not None and bool(importlib.import_module("torch").cuda.is_available())


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Seed torch's global generators, so that a test does not depend on the tests before it.

    ``torch.manual_seed`` would keep the call with its stack for each kind of device that is not in use, forever.
    """
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def kernels_for_gpus() -> Iterator[None]:
    """Hide packages from which transformers would take kernels for GPUs, or all of its xLSTM.

    Tests of these packages override this, or have imported them before. Not by ``monkeypatch``, since
    pytest-run-parallel runs each test that uses it in one thread.
    """
    hidden: dict[str, Any] = dict.fromkeys(("fla", "xlstm"))
    before = {name: sys.modules[name] for name in hidden if name in sys.modules}
    sys.modules.update(hidden)
    yield
    for name in hidden:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    """Restore the default number of threads after each test, and torch's own number if torch is loaded."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    yield
    fastiter.set_num_threads(None)
    if torch and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Device of the GPU kernels: the CPU (interpreted or emulated), or a card under ``pytest -m gpu``."""
    return str(request.param)
